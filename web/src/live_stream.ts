import { StreamConnection } from "./connection";
import type { Answered, Asked, Failed, Result } from "./protocol";
import type { Picture, Source } from "./source";

export interface LiveEvents {
  result(result: Result, picture: Picture, roundTrip: number): void;
  answered(answered: Answered): void;
  failed(failed: Failed): void;
  opened(): void;
  /** A frame could not be had from its source. */
  broken(error: unknown): void;
  resumed(frame: number | null): void;
  retrying(seconds: number, why: string): void;
  ended(why: string): void;
}

/** A picture with the number it has in its stream. */
export interface Shown {
  picture: Picture;
  number: number;
}

interface Sent {
  picture: Picture;
  at: number;
}

const MOST_ON_THEIR_WAY = 2; // one at work, one to follow it
const SAVE_EVERY = 30; // results

/** A source's frames on their way to the server and back. A video waits for its masks; of a camera the newest frame goes
 * whenever one can. */
export class LiveStream {
  paused = false;
  private connection: StreamConnection | null = null;
  private readonly sent = new Map<number, Sent>();
  private first: Picture | null = null; // what a new stream begins with
  private next = 0;
  private grabbing = false;
  private results = 0;

  constructor(
    private readonly source: Source,
    private readonly token: () => string,
    private readonly events: LiveEvents,
  ) {}

  get isOpen(): boolean {
    return this.connection !== null;
  }

  /** A new stream begins with what is shown, which may have been drawn on. */
  ask(instruction: Asked, question: number, keepMemory: boolean, shown: Shown): void {
    this.connection?.ask(instruction, question, keepMemory);
    this.connection ??= this.begin(instruction, shown);
    this.play();
  }

  /** The source has another frame. */
  async offer(): Promise<void> {
    if (this.paused || this.connection === null) return;
    if (this.grabbing || this.sent.size >= MOST_ON_THEIR_WAY || !this.connection.isOpen) this.source.pause();
    else await this.send();
  }

  play(): void {
    this.paused = false;
    if (this.connection !== null) this.source.play();
  }

  pause(): void {
    this.paused = true;
    this.source.pause();
  }

  close(): void {
    this.connection?.close();
    this.connection = null;
    this.sent.clear();
  }

  private begin(instruction: Asked, shown: Shown): StreamConnection {
    this.first = shown.picture;
    this.next = shown.number;
    return new StreamConnection(instruction, this.token(), {
      opened: () => {
        this.events.opened();
        this.send().catch(this.events.broken);
      },
      result: (result) => this.take(result),
      answered: (answered) => this.events.answered(answered),
      failed: (failed) => this.failed(failed),
      resumed: (frame) => this.events.resumed(frame),
      retrying: (seconds, why) => {
        this.sent.clear();
        this.events.retrying(seconds, why);
      },
      ended: (why) => this.end(why),
    });
  }

  private async send(): Promise<void> {
    this.grabbing = true;
    const picture = this.first ?? (await this.source.grab());
    const image = new Uint8Array(await picture.image.arrayBuffer());
    this.grabbing = false;
    if (!this.connection?.isOpen) return;
    this.first = null;
    const number = this.next++;
    this.sent.set(number, { picture, at: performance.now() });
    this.connection.sendFrame(number, "jpeg", image);
  }

  private take(result: Result): void {
    const sent = this.sent.get(result.frame);
    this.forget(result.frame);
    if (sent) this.events.result(result, sent.picture, performance.now() - sent.at);
    if (++this.results % SAVE_EVERY === 1) this.connection?.save();
    if (!this.paused) this.source.play();
  }

  private failed(failed: Failed): void {
    if (failed.frame !== null) this.forget(failed.frame);
    this.events.failed(failed);
    if (!this.paused) this.source.play();
  }

  /** A frame, and those before it that gave way. */
  private forget(frame: number): void {
    for (const number of this.sent.keys()) if (number <= frame) this.sent.delete(number);
  }

  private end(why: string): void {
    this.source.pause();
    this.close();
    this.events.ended(why);
  }
}
