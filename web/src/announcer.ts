import { element } from "./dom";

const PATIENCE_MILLISECONDS = 3000; // until the next words that nobody asked for

/** What the page says in words: to those who read it and to those who hear it. */
export class Announcer {
  private readonly status = element("status", HTMLParagraphElement);
  private readonly alert = element("alert", HTMLParagraphElement);
  private found = "";
  private saidAt = 0;

  say(words: string): void {
    this.saidAt = performance.now();
    this.status.textContent = words;
  }

  /** What went wrong. "" = nothing any more. */
  warn(words: string): void {
    this.alert.textContent = words;
  }

  /** What is on the frame: said when it changes, and not with every frame. */
  sayFound(words: string): void {
    if (words === this.found || performance.now() - this.saidAt < PATIENCE_MILLISECONDS) return;
    this.found = words;
    this.say(words);
  }
}
