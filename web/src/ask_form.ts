import { element } from "./dom";
import type { Asked, Region } from "./protocol";

export type Mode = "phrase" | "categories" | "question" | "describe" | "drawn";

/** The words of the page. Whether they can be asked, the server says. */
export class AskForm {
  private readonly form = element("ask", HTMLFormElement);

  constructor(onAsk: () => void) {
    this.form.addEventListener("change", () => this.showMode());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      onAsk();
    });
    this.showMode();
  }

  get mode(): Mode {
    return new FormData(this.form).get("mode") as Mode;
  }

  set mode(mode: Mode) {
    this.radio(mode).checked = true;
    this.showMode();
  }

  get keepMemory(): boolean {
    return element("keep-memory", HTMLInputElement).checked;
  }

  /** media: an image has tasks of its own. regions: what is drawn. */
  asked(media: "image" | "video", regions: Region[]): Asked {
    const threshold = element("threshold", HTMLInputElement).value;
    return {
      ...this.words(media, regions),
      ...(threshold === "" ? {} : { options: { threshold: Number(threshold) } }),
    };
  }

  fill(phrase: string): void {
    element("phrase", HTMLInputElement).value = phrase;
  }

  private words(media: "image" | "video", regions: Region[]): Asked {
    switch (this.mode) {
      case "phrase":
        return { phrases: listed(text("phrase"), ";") };
      case "categories":
        return { task: text("grouping"), things: listed(text("things"), ","), stuff: listed(text("stuff"), ",") };
      case "question":
        return { task: "reasoning", question: text("question"), explain: element("explain", HTMLInputElement).checked };
      case "describe":
        return { task: "gcg" };
      case "drawn":
        return { task: drawnTask(media, regions), regions };
    }
  }

  private showMode(): void {
    for (const part of this.form.querySelectorAll<HTMLElement>("[data-mode]")) {
      part.hidden = part.dataset.mode !== this.mode;
    }
  }

  private radio(mode: Mode): HTMLInputElement {
    return this.form.querySelector(`input[value=${mode}]`) as HTMLInputElement;
  }
}

function drawnTask(media: "image" | "video", regions: Region[]): string {
  if (regions.length > 1 || element("alike", HTMLInputElement).checked) return "vgd";
  return media === "image" ? "interactive" : "object";
}

function text(id: string): string {
  const field = document.getElementById(id) as HTMLInputElement | HTMLSelectElement;
  return field.value.trim();
}

function listed(text: string, separator: string): string[] {
  return text
    .split(separator)
    .map((one) => one.trim())
    .filter((one) => one !== "");
}
