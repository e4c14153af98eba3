import { colorOf, css } from "./color";
import { make } from "./dom";
import type { SegmentRecord } from "./protocol";

/** One row per segment: its colour, id, label, score and share of the frame. */
export function showLegend(list: HTMLUListElement, segments: SegmentRecord[], pixels: number): void {
  list.replaceChildren(...segments.map((segment) => row(segment, pixels)));
  if (segments.length === 0) list.append(make("li", { className: "none" }, "Nothing found"));
}

function row({ id, label, score, area }: SegmentRecord, pixels: number): HTMLLIElement {
  const swatch = make("span", { className: "swatch" });
  swatch.style.backgroundColor = css(colorOf(id));
  const share = `${((100 * area) / pixels).toFixed(1)} %`;
  return make(
    "li",
    {},
    swatch,
    make("span", { className: "id" }, String(id)),
    make("span", { className: "label" }, label),
    make("span", { className: "score", title: "Score" }, score.toFixed(2)),
    make("span", { className: "share", title: "Part of the frame" }, share),
  );
}

/** In words, for those who hear the page. */
export function spoken(segments: SegmentRecord[]): string {
  if (segments.length === 0) return "Nothing found.";
  return `${segments.map(({ id, label }) => `${label}, number ${id}`).join("; ")}.`;
}
