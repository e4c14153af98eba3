import { context2d, element } from "./dom";
import { spoken } from "./legend";
import { type DrawnSegment, drawCrossHair, drawFrame, drawRegions } from "./overlay";
import type { Region } from "./protocol";

type Tool = "none" | "point" | "box" | "scribble";
type Place = [number, number];

export interface StageEvents {
  /** A tool was taken up, and the picture should stay as it is; or laid down, with nothing drawn. */
  tool(taken: boolean): void;
  drawn(regions: Region[]): void;
  /** For those who hear the page. */
  say(words: string): void;
}

const STEP = 8; // pixels of an arrow key, one with Shift
const RADIUS = 32; // a point's disc is this part of the shorter side
const ARROWS: Record<string, Place> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** The frame that is shown, and what is drawn on it by pointer or keyboard. */
export class Stage {
  regions: Region[] = [];
  private readonly frame = element("frame", HTMLDivElement);
  private readonly picture = element("picture", HTMLCanvasElement);
  private readonly drawing = element("drawing", HTMLCanvasElement);
  private readonly clearButton = element("clear", HTMLButtonElement);
  private segments: DrawnSegment[] = [];
  private number: number | null = null;
  private begun: Place[] = []; // of a box or scribble that has not ended
  private hair: Place | null = null;

  constructor(private readonly events: StageEvents) {
    this.drawing.addEventListener("pointerdown", (event) => this.pointerDown(event));
    this.drawing.addEventListener("pointermove", (event) => this.pointerMove(event));
    this.drawing.addEventListener("pointerup", (event) => this.pointerUp(event));
    this.drawing.addEventListener("pointercancel", () => this.giveUp());
    this.frame.addEventListener("keydown", (event) => this.keyDown(event));
    this.frame.addEventListener("blur", () => this.moveHair(null));
    this.clearButton.addEventListener("click", () => this.clear());
    element("tools", HTMLFieldSetElement).addEventListener("change", () => this.takeUp());
  }

  /** number: of the frame in its stream; null for an image. */
  show(bitmap: ImageBitmap, number: number | null, segments: DrawnSegment[]): void {
    this.number = number;
    this.segments = segments;
    drawFrame(this.picture, bitmap, segments);
    this.picture.ariaLabel = `Frame${number === null ? "" : ` ${number}`}: ${spoken(segments)}`;
    this.drawing.width = bitmap.width;
    this.drawing.height = bitmap.height;
    this.frame.dataset.filled = "";
    this.frame.style.setProperty("--aspect", String(bitmap.width / bitmap.height));
    this.redraw();
  }

  /** What was drawn is on the frame of its time, and goes once it was asked for. */
  clear(): void {
    this.begun = [];
    this.change([]);
  }

  layDownTool(): void {
    (document.querySelector("input[name=tool][value=none]") as HTMLInputElement).checked = true;
    this.drawing.dataset.tool = "none";
  }

  toPng(): Promise<Blob> {
    return new Promise((resolve, reject) => {
      this.picture.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture could not be written."))));
    });
  }

  private get tool(): Tool {
    return (document.querySelector("input[name=tool]:checked") as HTMLInputElement).value as Tool;
  }

  private takeUp(): void {
    this.drawing.dataset.tool = this.tool;
    this.begun = [];
    this.redraw();
    if (this.tool !== "none" || this.regions.length === 0) this.events.tool(this.tool !== "none");
  }

  private pointerDown(event: PointerEvent): void {
    if (this.tool === "none") return;
    this.drawing.setPointerCapture(event.pointerId);
    this.begun = [this.placeOf(event)];
    this.redraw();
  }

  private pointerMove(event: PointerEvent): void {
    if (this.begun.length === 0) return;
    this.extend(this.placeOf(event));
  }

  private pointerUp(event: PointerEvent): void {
    if (this.begun.length === 0) return;
    this.extend(this.placeOf(event));
    this.finish();
  }

  private keyDown(event: KeyboardEvent): void {
    const direction = ARROWS[event.key];
    if (direction) this.stepHair(direction, event.shiftKey ? 1 : STEP);
    else if (event.key === "Enter") this.place();
    else if (event.key === "Escape") this.giveUp();
    else if (event.key === "Backspace") this.change(this.regions.slice(0, -1));
    else return;
    event.preventDefault();
  }

  private stepHair([right, down]: Place, step: number): void {
    const { width, height } = this.picture;
    const [x, y] = this.hair ?? [Math.floor(width / 2), Math.floor(height / 2)];
    this.moveHair([clamp(x + right * step, width - 1), clamp(y + down * step, height - 1)]);
    if (this.begun.length > 0 && this.hair) this.extend(this.hair);
    this.events.say(`${this.hair?.join(", ")}${this.under()}`);
  }

  private moveHair(hair: Place | null): void {
    this.hair = hair;
    this.redraw();
  }

  /** The segment below the cross-hair. */
  private under(): string {
    if (this.hair === null) return "";
    const [x, y] = this.hair;
    const hit = this.segments.filter(({ mask }) => mask.inside[y * mask.width + x]);
    return hit.length > 0 ? `: ${spoken(hit)}` : "";
  }

  private place(): void {
    if (this.tool === "none" || this.hair === null) return;
    const begins = this.begun.length === 0;
    this.extend(this.hair);
    if (this.tool === "point" || !begins) this.finish();
    else this.events.say(`${this.tool} begun; move on, and end it with Enter.`);
  }

  private extend(place: Place): void {
    const [first] = this.begun;
    this.begun = this.tool === "scribble" || first === undefined ? [...this.begun, place] : [first, place];
    this.redraw();
  }

  private giveUp(): void {
    this.begun = [];
    this.redraw();
  }

  private finish(): void {
    const region = this.unfinished();
    this.begun = [];
    if (region) this.change([...this.regions, region]);
  }

  private change(regions: Region[]): void {
    this.regions = regions;
    this.clearButton.disabled = regions.length === 0;
    this.events.drawn(regions);
    this.redraw();
  }

  private unfinished(): Region | null {
    const [first, ...more] = this.begun;
    const last = more.at(-1) ?? first;
    if (first === undefined || last === undefined) return null;
    const frame = this.number === null ? {} : { frame: this.number };
    const radius = Math.max(1, Math.round(Math.min(this.picture.width, this.picture.height) / RADIUS));
    switch (this.tool) {
      case "box":
        return { kind: "box", corners: corners(first, last), ...frame };
      case "point":
        return { kind: "point", vertices: [last], radius, ...frame };
      default:
        return { kind: "scribble", vertices: thinned(this.begun), radius, ...frame };
    }
  }

  private placeOf(event: PointerEvent): Place {
    const { left, top, width, height } = this.drawing.getBoundingClientRect();
    const x = ((event.clientX - left) * this.drawing.width) / width;
    const y = ((event.clientY - top) * this.drawing.height) / height;
    return [clamp(Math.floor(x), this.drawing.width - 1), clamp(Math.floor(y), this.drawing.height - 1)];
  }

  private redraw(): void {
    const context = context2d(this.drawing);
    context.clearRect(0, 0, this.drawing.width, this.drawing.height);
    const unfinished = this.unfinished();
    drawRegions(context, unfinished ? [...this.regions, unfinished] : this.regions);
    if (this.hair) drawCrossHair(context, ...this.hair);
  }
}

/** The edges around both pixels. */
function corners([x, y]: Place, [u, v]: Place): [number, number, number, number] {
  return [Math.min(x, u), Math.min(y, v), Math.max(x, u) + 1, Math.max(y, v) + 1];
}

/** Of a long scribble as many places as a message takes. */
function thinned(places: Place[]): Place[] {
  const every = Math.ceil(places.length / 1000);
  return places.filter((_, at) => at % every === 0 || at === places.length - 1);
}

function clamp(value: number, most: number): number {
  return Math.max(0, Math.min(most, value));
}
