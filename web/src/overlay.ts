import { colorOf, css, textColorOn } from "./color";
import { context2d } from "./dom";
import { decodeMask, isOutline, type Mask } from "./mask";
import type { FrameRecord, Region, SegmentRecord } from "./protocol";

const FILL = 0.45;

/** A segment with its mask unpacked. */
export interface DrawnSegment extends SegmentRecord {
  mask: Mask;
}

export function unpackSegments(record: FrameRecord): DrawnSegment[] {
  return record.segments.map((segment) => ({ ...segment, mask: decodeMask(segment.rle) }));
}

/** The frame with its masks, in the frame's own pixels. */
export function drawFrame(canvas: HTMLCanvasElement, bitmap: ImageBitmap, segments: DrawnSegment[]): void {
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = context2d(canvas);
  context.drawImage(bitmap, 0, 0);
  tint(context, segments);
  for (const segment of segments) drawLabel(context, segment);
}

function tint(context: CanvasRenderingContext2D, segments: DrawnSegment[]): void {
  const { width, height } = context.canvas;
  const pixels = context.getImageData(0, 0, width, height);
  for (const { id, mask } of segments) {
    const color = colorOf(id);
    for (let at = 0; at < mask.inside.length; at++) {
      if (!mask.inside[at]) continue;
      const share = isOutline(mask, at % width, Math.floor(at / width)) ? 1 : FILL;
      color.forEach((value, channel) => {
        const place = 4 * at + channel;
        pixels.data[place] = (pixels.data[place] ?? 0) * (1 - share) + value * share;
      });
    }
  }
  context.putImageData(pixels, 0, 0);
}

function drawLabel(context: CanvasRenderingContext2D, { id, label, bbox }: DrawnSegment): void {
  const size = fontSize(context);
  const [left = 0, top = 0] = bbox;
  const text = `${id} ${label}`;
  context.font = `600 ${size}px ${getComputedStyle(context.canvas).fontFamily}`;
  const width = context.measureText(text).width + size * 0.6;
  const x = Math.max(0, Math.min(left, context.canvas.width - width));
  const y = Math.max(0, top - size * 1.4);
  context.fillStyle = css(colorOf(id));
  context.fillRect(x, y, width, size * 1.4);
  context.fillStyle = css(textColorOn(colorOf(id)));
  context.fillText(text, x + size * 0.3, y + size * 1.05);
}

function fontSize(context: CanvasRenderingContext2D): number {
  return Math.max(9, context.canvas.height / 32);
}

/** What was drawn by hand, light on dark, so that it shows on anything. */
export function drawRegions(context: CanvasRenderingContext2D, regions: Region[]): void {
  const width = Math.max(1.5, context.canvas.height / 240);
  for (const [color, line] of [
    ["#000", width * 2.2],
    ["#fff", width],
  ] as const) {
    context.strokeStyle = context.fillStyle = color;
    context.lineWidth = line;
    for (const region of regions) drawRegion(context, region, line);
  }
}

function drawRegion(context: CanvasRenderingContext2D, region: Region, line: number): void {
  context.beginPath();
  if (region.kind === "box") {
    const [left, top, right, bottom] = region.corners;
    context.rect(left, top, right - left, bottom - top);
  } else if (region.kind === "scribble") {
    for (const [x, y] of region.vertices) context.lineTo(x, y);
  } else if (region.kind === "point") {
    for (const [x, y] of region.vertices) context.arc(x, y, 3 * line, 0, 2 * Math.PI);
  }
  context.stroke();
}

export function drawCrossHair(context: CanvasRenderingContext2D, x: number, y: number): void {
  const { width, height } = context.canvas;
  for (const [color, line] of [
    ["#000", 3],
    ["#fff", 1],
  ] as const) {
    context.strokeStyle = color;
    context.lineWidth = (line * height) / 400;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, height);
    context.moveTo(0, y);
    context.lineTo(width, y);
    context.stroke();
  }
}
