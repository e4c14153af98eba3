export type Color = [number, number, number];

const GOLDEN_RATIO = 0.618033988749895;
const SHADES = [
  [0.75, 1],
  [0.95, 0.85],
  [0.55, 0.95],
] as const;

/** The colour of a segment's id, the same as in files (x2sam_rt/media/colors.py). */
export function colorOf(id: number): Color {
  const [saturation, brightness] = SHADES[id % SHADES.length] ?? SHADES[0];
  return fromHsv((id * GOLDEN_RATIO) % 1, saturation, brightness);
}

/** Black or white, whichever reads better. */
export function textColorOn([red, green, blue]: Color): Color {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? [0, 0, 0] : [255, 255, 255];
}

export function css([red, green, blue]: Color): string {
  return `rgb(${red} ${green} ${blue})`;
}

function fromHsv(hue: number, saturation: number, value: number): Color {
  const sector = Math.floor(hue * 6);
  const part = hue * 6 - sector;
  const low = value * (1 - saturation);
  const falling = value * (1 - saturation * part);
  const rising = value * (1 - saturation * (1 - part));
  const sectors = [
    [value, rising, low],
    [falling, value, low],
    [low, value, rising],
    [low, falling, value],
    [rising, low, value],
    [value, low, falling],
  ];
  const [red = 0, green = 0, blue = 0] = sectors[sector % 6] ?? [];
  return [Math.round(255 * red), Math.round(255 * green), Math.round(255 * blue)];
}
