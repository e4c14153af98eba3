// Written by web/protocol.py from x2sam_rt/serve/messages.py and app.py; edit those.

export interface Stroke {
  kind: "point" | "scribble";
  frame?: number | null;
  wanted?: boolean;
  vertices: Array<[number, number]>;
  radius?: number;
}

export interface Box {
  kind: "box";
  frame?: number | null;
  wanted?: boolean;
  corners: [number, number, number, number];
}

export interface Rle {
  size: [number, number];
  counts: string;
}

export interface Drawn {
  kind: "mask";
  frame?: number | null;
  wanted?: boolean;
  rle: Rle;
}

export interface Options {
  threshold?: number | null;
  mask_threshold?: number;
  overlap?: number;
  restart_ids?: boolean;
  anchored?: boolean;
  together?: number | null;
  presence?: number | null;
}

export interface Asked {
  task?: string;
  phrases?: Array<string>;
  things?: Array<string>;
  stuff?: Array<string>;
  order?: Array<number>;
  regions?: Array<Stroke | Box | Drawn>;
  question?: string | null;
  explain?: boolean;
  generate?: boolean;
  answer?: string | null;
  max_new_tokens?: number;
  stop?: Array<string>;
  options?: Options;
}

export interface Open {
  type: "open";
  instruction?: Asked | null;
  drop?: "oldest" | "never";
  masks?: "rle" | "png";
  again?: string;
  media?: "image" | "video";
}

export interface Resume {
  type: "resume";
  size?: number | null;
  session?: string | null;
  frames?: Array<[number, number]>;
  drop?: "oldest" | "never";
  masks?: "rle" | "png";
}

export interface Part {
  type: "part";
}

export interface Frame {
  type: "frame";
  frame: number;
  format?: "jpeg" | "png" | "rgb";
  height?: number | null;
  width?: number | null;
}

export interface Ask {
  type: "ask";
  instruction: Asked;
  number?: number;
  keep_memory?: boolean;
  wait?: boolean;
}

export interface Save {
  type: "save";
}

export interface Close {
  type: "close";
}

export interface RunLengths {
  size: Array<number>;
  counts: string;
}

export interface SegmentRecord {
  id: number;
  label: string;
  label_id: number;
  score: number;
  is_thing: boolean;
  area: number;
  bbox: Array<number>;
  rle: RunLengths;
}

export interface SpanRecord {
  start: number;
  end: number;
  label_id: number;
}

export interface FrameRecord {
  frame: number;
  timestamp: number | null;
  size: Array<number>;
  segments: Array<SegmentRecord>;
  text: string;
  spans: Array<SpanRecord>;
}

export interface Opened {
  type: "opened";
  session: string;
}

export interface Result {
  type: "result";
  frame: number;
  record: FrameRecord;
  png_sizes: Array<number>;
  timings: Record<string, number>;
  dropped: Array<number>;
  dropped_in_all: number;
}

export interface Answered {
  type: "answered";
  frame: number;
  number: number;
  text: string;
  labels: Array<string>;
}

export interface Saved {
  type: "saved";
  frames: Array<[number, number]>;
  asks: number;
  wanted: boolean;
}

export interface Resumed {
  type: "resumed";
  frame: number | null;
}

export interface Draining {
  type: "draining";
  seconds: number;
}

export interface Failed {
  type: "error";
  code: string;
  message: string;
  frame: number | null;
  number: number | null;
  fatal: boolean;
}

export interface Closed {
  type: "closed";
  results: number;
  dropped: number;
}

export interface Problem {
  code: string;
  message: string;
}

export interface Shown {
  name: string;
  kind: "image" | "video" | "camera";
  phrases: Array<string>;
}

export interface Info {
  bundle: string;
  device: Array<string>;
  tasks: Array<string>;
  capacity: number;
  most_pixels: number;
  most_message: number;
  most_snapshot: number;
  most_upload: number;
  shown: Shown | null;
}

export interface ShownPass {
  id: string;
}

export interface ImageResult {
  record: FrameRecord;
  timings: Record<string, number>;
}

export interface VideoState {
  id: string;
  state: string;
  frames: number;
  total: number | null;
  error: Problem | null;
}

export type Region = Stroke | Box | Drawn;

export type FromClient = Open | Resume | Part | Frame | Ask | Save | Close;

export type FromServer = Opened | Result | Answered | Saved | Resumed | Draining | Failed | Closed;
