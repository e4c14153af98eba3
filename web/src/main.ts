import { Announcer } from "./announcer";
import { Api, ServerProblem } from "./api";
import { AskForm } from "./ask_form";
import { download, element } from "./dom";
import { showLegend, spoken } from "./legend";
import { LiveStream, type Shown } from "./live_stream";
import { Measurements } from "./measurements";
import { unpackSegments } from "./overlay";
import type { Asked, FrameRecord, Info, Shown as ServersOwn } from "./protocol";
import { ResultsLog } from "./results_log";
import { type FrameEvents, openCamera, openFile, openShown, type Picture, type Source } from "./source";
import { Stage } from "./stage";
import { TokenForm } from "./token_form";
import { WholeFile } from "./whole_file";

const LIVE_PIXELS = 640 * 480; // more would only make the way longer

/** Source → stream → stage: what is opened goes to the server in the words of the form, and comes back as masks. */
class Page {
  private readonly api = new Api();
  private readonly announcer = new Announcer();
  private readonly log = new ResultsLog();
  private readonly measurements = new Measurements(this.api);
  private readonly form = new AskForm(() => this.ask().catch(this.report));
  private readonly stage = new Stage({
    tool: (taken) => (taken ? this.holdForDrawing() : this.goOn()),
    drawn: (regions) => this.showDrawn(regions.length),
    say: (words) => this.announcer.say(words),
  });
  private readonly wholeFile: WholeFile;
  private readonly playButton = element("play", HTMLButtonElement);
  private info: Info | null = null;
  private source: Source | null = null;
  private stream: LiveStream | null = null;
  private shown: Shown | null = null;
  private questions = 0;
  private ended = false;

  constructor() {
    this.wholeFile = new WholeFile(
      this.api,
      () => this.askedOfFile(),
      (words) => this.announcer.say(words),
      this.report,
    );
    this.listen();
    new TokenForm(this.api, () => this.meetServer().catch(this.report));
    this.meetServer().catch(this.report);
  }

  private readonly report = (error: unknown): void => {
    if (!(error instanceof Error)) throw error;
    if (error instanceof ServerProblem && error.code === "unauthorized") TokenForm.show();
    this.announcer.warn(error.message);
  };

  private listen(): void {
    const file = element("file", HTMLInputElement);
    file.addEventListener("change", () => this.openFiles(file.files));
    element("camera", HTMLButtonElement).addEventListener("click", () => {
      this.open((pixels, events) => openCamera(pixels, events)).catch(this.report);
    });
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      this.openFiles(event.dataTransfer?.files ?? null);
    });
    this.playButton.addEventListener("click", () => this.playOrPause());
    element("save-results", HTMLButtonElement).addEventListener("click", () =>
      download("masks.jsonl", this.log.blob()),
    );
    element("save-picture", HTMLButtonElement).addEventListener("click", () => {
      this.stage.toPng().then((png) => download("frame.png", png), this.report);
    });
  }

  private async meetServer(): Promise<void> {
    const info = await this.api.info();
    TokenForm.hide();
    this.announcer.warn("");
    const known = this.info !== null;
    this.info = info;
    const devices = info.device.join(", ");
    element("server", HTMLParagraphElement).textContent =
      `bundle ${info.bundle.slice(0, 8)} on ${devices}; ${info.capacity} streams at once`;
    this.enableAsking();
    if (info.shown !== null && !known) await this.showServersOwn(info.shown);
  }

  private async showServersOwn(shown: ServersOwn): Promise<void> {
    await this.open((pixels, events) => openShown(this.api, shown, pixels, events));
    if (shown.phrases.length === 0) return;
    this.form.fill(shown.phrases.join("; "));
    await this.ask();
  }

  private openFiles(files: FileList | null): void {
    const file = files?.[0];
    if (file) this.open((pixels, events) => openFile(file, pixels, events)).catch(this.report);
  }

  private async open(opening: (mostPixels: number, events: FrameEvents) => Promise<Source>): Promise<void> {
    this.closeSource();
    this.announcer.warn("");
    const mostPixels = Math.min(this.info?.most_pixels ?? LIVE_PIXELS, LIVE_PIXELS);
    const source = await opening(mostPixels, {
      frame: () => this.frameIsThere().catch(this.report),
      end: () => this.sourceEnded(),
      broken: this.report,
    });
    this.source = source;
    this.stream = source.kind === "image" ? null : this.newStream(source);
    this.wholeFile.offer(source.kind === "video" ? source.file : null);
    await this.preview();
    this.enableAsking();
    this.announcer.say(`${source.name} is open. Say what to segment.`);
  }

  private closeSource(): void {
    this.stream?.close();
    this.source?.close();
    this.source = this.stream = this.shown = null;
    this.ended = false;
    this.log.clear();
    this.stage.clear();
    this.wholeFile.offer(null);
  }

  private newStream(source: Source): LiveStream {
    return new LiveStream(source, () => this.api.token, {
      opened: () => this.announcer.warn(""),
      broken: this.report,
      result: (result, picture, roundTrip) => {
        this.measurements.addResult(roundTrip, result.timings.served ?? 0, result.dropped_in_all);
        this.show(result.record, { picture, number: result.frame });
        if (this.ended) this.sayEnded(); // the last frames were on their way
      },
      answered: ({ text, labels }) => this.answered(text, labels),
      failed: ({ message }) => this.announcer.warn(message),
      resumed: (frame) => {
        const from = frame === null ? "from its beginning" : `from frame ${frame}`;
        this.announcer.warn(`The stream was interrupted, and goes on ${from}.`);
      },
      retrying: (seconds, why) => this.announcer.warn(`${why} Trying again in ${seconds} s.`),
      ended: (why) => {
        this.announcer.warn(`The stream has ended: ${why}`);
        this.showPlaying();
      },
    });
  }

  private async frameIsThere(): Promise<void> {
    if (this.stream?.isOpen) await this.stream.offer();
    else if (this.source?.kind === "camera" && !this.stream?.paused) await this.preview();
  }

  /** What is shown before anything was asked. */
  private async preview(): Promise<void> {
    if (this.source === null) return;
    const picture = await this.source.grab();
    if (this.stream?.isOpen) return;
    this.shown = { picture, number: this.shown?.number ?? 0 };
    this.stage.show(picture.bitmap, this.source.kind === "image" ? null : this.shown.number, []);
  }

  private async ask(): Promise<void> {
    if (this.source === null || this.shown === null) return;
    this.announcer.warn("");
    this.announcer.say("Asked; waiting for the answer.");
    if (this.stream === null) await this.askOfImage(this.shown.picture);
    else this.stream.ask(this.asked(), ++this.questions, this.form.keepMemory, this.shown);
    this.stage.layDownTool();
    this.stage.clear();
    this.showPlaying();
  }

  private asked(): Asked {
    return this.form.asked(this.source?.kind === "image" ? "image" : "video", this.stage.regions);
  }

  /** Frames of a file have its own numbers; those that were shown are the same for the first alone. */
  private askedOfFile(): Asked {
    if (this.stage.regions.some(({ frame }) => frame)) {
      throw new Error("For the whole file, draw on its first frame: open the file again, and draw before it plays.");
    }
    return this.form.asked("video", this.stage.regions);
  }

  private async askOfImage(picture: Picture): Promise<void> {
    const started = performance.now();
    const { record, timings } = await this.api.segmentImage(picture.image, this.asked());
    const roundTrip = performance.now() - started;
    this.measurements.addResult(
      roundTrip,
      Object.values(timings).reduce((sum, one) => sum + one, 0),
      0,
    );
    this.answered(record.text, []);
    this.show(record, { picture, number: 0 });
  }

  private show(record: FrameRecord, shown: Shown): void {
    this.shown = shown;
    this.log.add(record);
    const segments = unpackSegments(record);
    this.stage.show(shown.picture.bitmap, this.stream === null ? null : shown.number, segments);
    showLegend(element("legend", HTMLUListElement), segments, shown.picture.bitmap.width * shown.picture.bitmap.height);
    this.announcer.sayFound(spoken(segments));
    element("save-results", HTMLButtonElement).disabled = element("save-picture", HTMLButtonElement).disabled = false;
  }

  private answered(text: string, labels: string[]): void {
    element("answer", HTMLParagraphElement).textContent = text;
    if (labels.length > 0) this.announcer.say(`The answer holds: ${labels.join(", ")}.`);
  }

  private holdForDrawing(): void {
    this.form.mode = "drawn";
    this.stream?.pause();
    this.showPlaying();
    this.announcer.say("The picture waits for what you draw; then choose Segment.");
  }

  private showDrawn(count: number): void {
    element("drawn", HTMLParagraphElement).textContent =
      count === 0 ? "Nothing is drawn yet: choose Point, Box or Scribble below the picture." : `Drawn: ${count}.`;
    if (count > 0) this.announcer.say(`Drawn: ${count}.`);
  }

  private playOrPause(): void {
    if (this.stream?.paused) this.stream.play();
    else this.stream?.pause();
    this.showPlaying();
  }

  private goOn(): void {
    this.stream?.play();
    this.showPlaying();
  }

  private sourceEnded(): void {
    this.stream?.pause();
    this.showPlaying();
    this.ended = true;
    this.sayEnded();
  }

  private sayEnded(): void {
    this.announcer.say(`The video has ended; ${this.log.length} frames were segmented.`);
  }

  private showPlaying(): void {
    this.playButton.textContent = this.stream?.paused ? "Go on" : "Pause";
    this.playButton.disabled = !this.stream?.isOpen;
  }

  private enableAsking(): void {
    element("submit", HTMLButtonElement).disabled = this.info === null || this.source === null;
  }
}

new Page();
