import type { RunLengths } from "./protocol";

/** A mask as bytes, row by row: 1 inside, 0 outside. */
export interface Mask {
  height: number;
  width: number;
  inside: Uint8Array;
}

/** COCO's run lengths, which go down the columns. */
export function decodeMask(rle: RunLengths): Mask {
  const [height = 0, width = 0] = rle.size;
  const inside = new Uint8Array(height * width);
  let at = 0;
  unpack(rle.counts).forEach((run, number) => {
    if (number % 2 === 1) for (let place = at; place < at + run; place++) inside[rowMajor(place, height, width)] = 1;
    at += run;
  });
  if (at !== height * width) throw new Error(`Run lengths that cover ${at} pixels; wanted ${height * width}.`);
  return { height, width, inside };
}

function rowMajor(place: number, height: number, width: number): number {
  return (place % height) * width + Math.floor(place / height);
}

/** COCO's packed text: 5 bits per character, lowest first, with a sign; from the third run on the difference to the one
 * before the last. */
function unpack(counts: string): number[] {
  const runs: number[] = [];
  let value = 0;
  let shift = 0;
  for (const character of counts) {
    const code = character.charCodeAt(0) - 48;
    value += (code & 31) * 2 ** shift;
    shift += 5;
    if (code & 32) continue;
    if (code & 16) value -= 2 ** shift;
    runs.push(runs.length > 2 ? value + (runs[runs.length - 2] ?? 0) : value);
    value = 0;
    shift = 0;
  }
  return runs;
}

/** Whether a pixel is inside, with a neighbour outside or beyond the border. */
export function isOutline({ height, width, inside }: Mask, x: number, y: number): boolean {
  const at = y * width + x;
  if (!inside[at]) return false;
  const atBorder = x === 0 || y === 0 || x === width - 1 || y === height - 1;
  return atBorder || !(inside[at - 1] && inside[at + 1] && inside[at - width] && inside[at + width]);
}
