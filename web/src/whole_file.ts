import type { Api } from "./api";
import { download, element } from "./dom";
import type { Asked, VideoState } from "./protocol";

const POLL_MILLISECONDS = 500;

/** A video file, uploaded and segmented frame by frame on the server. */
export class WholeFile {
  private readonly panel = element("whole", HTMLDivElement);
  private readonly startButton = element("whole-start", HTMLButtonElement);
  private readonly bar = element("whole-progress", HTMLProgressElement);
  private readonly cancelButton = element("whole-cancel", HTMLButtonElement);
  private readonly saveButton = element("whole-save", HTMLButtonElement);
  private file: File | null = null;
  private id: string | null = null;
  private cancelled = false;

  constructor(
    private readonly api: Api,
    asked: () => Asked,
    private readonly say: (words: string) => void,
    report: (error: unknown) => void,
  ) {
    this.startButton.addEventListener("click", () => this.run(asked).catch(report));
    this.cancelButton.addEventListener("click", () => {
      this.cancelled = true;
    });
    this.saveButton.addEventListener("click", () => this.save().catch(report));
  }

  /** null: what is shown is no video file. */
  offer(file: File | null): void {
    this.file = file;
    this.panel.hidden = file === null;
    this.saveButton.hidden = true;
  }

  private async run(asked: () => Asked): Promise<void> {
    if (this.file === null) return;
    this.busy(true);
    this.cancelled = false;
    try {
      this.say("Uploading…");
      let state = await this.api.uploadVideo(this.file, asked());
      this.id = state.id;
      while (state.state === "running") {
        this.show(state);
        await new Promise((resolve) => setTimeout(resolve, POLL_MILLISECONDS));
        state = await (this.cancelled ? this.api.cancelVideo(state.id) : this.api.videoState(state.id));
      }
      this.finish(state);
    } finally {
      this.busy(false);
    }
  }

  private busy(busy: boolean): void {
    this.startButton.disabled = busy;
    this.bar.hidden = this.cancelButton.hidden = !busy;
    this.bar.removeAttribute("value");
  }

  private show({ frames, total }: VideoState): void {
    this.say(`Segmenting the whole file: ${frames}${total === null ? "" : ` of ${total}`} frames.`);
    if (total === null) return;
    this.bar.max = total;
    this.bar.value = frames;
  }

  private finish({ state, frames, error }: VideoState): void {
    if (error !== null) throw new Error(error.message);
    this.saveButton.hidden = state !== "done";
    this.say(state === "done" ? `The whole file is segmented: ${frames} frames.` : "Cancelled.");
  }

  private async save(): Promise<void> {
    if (this.id !== null) download("masks.jsonl", await this.api.videoResult(this.id));
  }
}
