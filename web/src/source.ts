import type { Api } from "./api";
import { context2d, make } from "./dom";
import type { Shown } from "./protocol";

/** A picture as it is shown, and as it is sent. */
export interface Picture {
  bitmap: ImageBitmap;
  image: Blob;
}

/** Where pictures come from: an image has one, a video or a camera hands one after the other to `onFrame`. */
export interface Source {
  readonly kind: "image" | "video" | "camera";
  readonly name: string;
  readonly file: File | null;
  /** The picture that is there now. */
  grab(): Promise<Picture>;
  /** Whether the next frames come: a video waits where they are not wanted, a camera goes on unseen. */
  play(): void;
  pause(): void;
  close(): void;
}

export interface FrameEvents {
  /** Another frame can be grabbed. */
  frame(): void;
  end(): void;
  broken(error: unknown): void;
}

const JPEG_QUALITY = 0.92;

/** file: of the user's. Throws Error, in words, for what this browser cannot show. */
export async function openFile(file: File, mostPixels: number, events: FrameEvents): Promise<Source> {
  if (!file.type.startsWith("video/")) return Still.open(file, mostPixels);
  const source = new Film(URL.createObjectURL(file), file, mostPixels, events);
  return source.ready(`This browser cannot play ${file.name}; segment the whole file on the server instead.`);
}

/** Throws Error where there is no camera, or its user does not want it to be used. */
export async function openCamera(mostPixels: number, events: FrameEvents): Promise<Source> {
  if (!navigator.mediaDevices) throw new Error("Browsers give a camera to pages from this machine or over HTTPS only.");
  const video = { facingMode: "environment", width: { ideal: 1280 } };
  const stream = await navigator.mediaDevices.getUserMedia({ video }).catch((error: DOMException) => {
    throw new Error(error.name === "NotFoundError" ? "There is no camera." : "The camera was not allowed.");
  });
  return new Film(stream, null, mostPixels, events).ready("The camera gives no pictures.");
}

/** shown: what the server was begun with. */
export async function openShown(api: Api, shown: Shown, mostPixels: number, events: FrameEvents): Promise<Source> {
  const { id } = await api.beginShown();
  const first = await api.nextShown(id);
  if (first === null) throw new Error(`${shown.name} has no frame.`);
  if (shown.kind === "image") return Still.open(new File([first], shown.name, { type: first.type }), mostPixels);
  return new ServersFilm(api, id, shown.name, shown.kind, await reducedBlob(first, mostPixels), mostPixels, events);
}

class Still implements Source {
  readonly kind = "image";

  private constructor(
    readonly file: File,
    private readonly picture: Picture,
  ) {}

  /** A JPEG or PNG within the limits goes as it is. */
  static async open(file: File, mostPixels: number): Promise<Still> {
    const bitmap = await createImageBitmap(file).catch(() => {
      throw new Error(`${file.name} is no video or image that this browser can read.`);
    });
    const fits = bitmap.width * bitmap.height <= mostPixels && /^image\/(jpeg|png)$/.test(file.type);
    return new Still(
      file,
      fits ? { bitmap, image: file } : await reduced(bitmap, bitmap.width, bitmap.height, mostPixels),
    );
  }

  get name(): string {
    return this.file.name;
  }

  async grab(): Promise<Picture> {
    return this.picture;
  }

  play(): void {}
  pause(): void {}
  close(): void {}
}

class Film implements Source {
  readonly kind: "video" | "camera";
  private readonly video = make("video", { muted: true, playsInline: true });

  constructor(
    private readonly media: string | MediaStream,
    readonly file: File | null,
    private readonly mostPixels: number,
    private readonly events: FrameEvents,
  ) {
    this.kind = typeof media === "string" ? "video" : "camera";
  }

  get name(): string {
    return this.file?.name ?? "The camera";
  }

  ready(complaint: string): Promise<Source> {
    return new Promise((resolve, reject) => {
      this.video.onerror = () => reject(new Error(complaint));
      this.video.onloadeddata = () => resolve(this);
      this.video.onended = () => this.events.end();
      if (typeof this.media === "string") this.video.src = this.media;
      else this.video.srcObject = this.media;
      this.watch();
      if (this.kind === "camera") this.play();
    });
  }

  grab(): Promise<Picture> {
    return reduced(this.video, this.video.videoWidth, this.video.videoHeight, this.mostPixels);
  }

  play(): void {
    this.video.play().catch((error: DOMException) => {
      if (error.name !== "AbortError") throw error; // a pause that came meanwhile
    });
  }

  pause(): void {
    if (this.kind === "video") this.video.pause();
  }

  close(): void {
    this.video.pause();
    if (typeof this.media === "string") URL.revokeObjectURL(this.media);
    else for (const track of this.media.getTracks()) track.stop();
    this.video.removeAttribute("src");
    this.video.srcObject = null;
  }

  private watch(): void {
    this.video.requestVideoFrameCallback(() => {
      this.events.frame();
      this.watch();
    });
  }
}

/** Frames that the server reads: a film's one after the other, each shown once; of a camera whatever is there. */
class ServersFilm implements Source {
  readonly file = null;
  private grabbed = true;
  private playing: boolean;
  private fetching = false;
  private closed = false;

  constructor(
    private readonly api: Api,
    private readonly id: string,
    readonly name: string,
    readonly kind: "video" | "camera",
    private picture: Picture,
    private readonly mostPixels: number,
    private readonly events: FrameEvents,
  ) {
    this.playing = kind === "camera";
    this.advance();
  }

  async grab(): Promise<Picture> {
    this.grabbed = true;
    return this.picture;
  }

  play(): void {
    this.playing = true;
    if (this.grabbed) this.advance();
    else this.events.frame();
  }

  pause(): void {
    this.playing = this.kind === "camera";
  }

  close(): void {
    this.closed = true;
  }

  private advance(): void {
    if (this.fetching || !this.playing || this.closed) return;
    this.fetching = true;
    this.fetch().catch((error) => {
      if (!this.closed) this.events.broken(error);
    });
  }

  private async fetch(): Promise<void> {
    const image = await this.api.nextShown(this.id);
    if (image !== null) this.picture = await reducedBlob(image, this.mostPixels);
    this.fetching = false;
    if (this.closed) return;
    if (image === null) return this.events.end();
    this.grabbed = false;
    this.events.frame();
    if (this.grabbed || this.kind === "camera") this.advance();
  }
}

async function reducedBlob(image: Blob, mostPixels: number): Promise<Picture> {
  const bitmap = await createImageBitmap(image);
  if (bitmap.width * bitmap.height <= mostPixels) return { bitmap, image };
  return reduced(bitmap, bitmap.width, bitmap.height, mostPixels);
}

async function reduced(image: CanvasImageSource, width: number, height: number, mostPixels: number): Promise<Picture> {
  const scale = Math.min(1, Math.sqrt(mostPixels / (width * height)));
  const canvas = new OffscreenCanvas(Math.floor(width * scale), Math.floor(height * scale));
  context2d(canvas).drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
  return { bitmap: await createImageBitmap(canvas), image: blob };
}
