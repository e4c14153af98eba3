import type { FrameRecord } from "./protocol";

const MOST_CHARACTERS = 200_000_000;

/** The results of a source so far, as lines of JSON; when they are too many, the first go. */
export class ResultsLog {
  private lines: string[] = [];
  private characters = 0;
  forgotten = 0;

  get length(): number {
    return this.lines.length;
  }

  add(record: FrameRecord): void {
    const line = `${JSON.stringify(record)}\n`;
    this.lines.push(line);
    this.characters += line.length;
    while (this.characters > MOST_CHARACTERS) {
      this.characters -= this.lines.shift()?.length ?? 0;
      this.forgotten++;
    }
  }

  clear(): void {
    this.lines = [];
    this.characters = this.forgotten = 0;
  }

  blob(): Blob {
    return new Blob(this.lines, { type: "application/jsonl" });
  }
}
