import type { Api } from "./api";
import { element } from "./dom";
import { Plot } from "./plot";

const MEMORY_MILLISECONDS = 2000;
const RATE_OVER = 20; // results

/** Latency and frame rate of a stream, memory of the server. */
export class Measurements {
  private readonly latency = new Plot(element("latency", HTMLCanvasElement));
  private readonly memory = new Plot(element("memory", HTMLCanvasElement));
  private readonly latencyNow = element("latency-now", HTMLSpanElement);
  private readonly memoryNow = element("memory-now", HTMLSpanElement);
  private arrivals: number[] = [];

  constructor(private readonly api: Api) {
    setInterval(() => this.readMemory(), MEMORY_MILLISECONDS);
  }

  /** Milliseconds. served: of them at the server. dropped: frames that gave way so far. */
  addResult(roundTrip: number, served: number, dropped: number): void {
    this.arrivals = [...this.arrivals, performance.now()].slice(-RATE_OVER);
    this.latency.add(roundTrip);
    const dropping = dropped > 0 ? `, ${dropped} frames dropped` : "";
    this.latencyNow.textContent = `${roundTrip.toFixed(0)} ms, ${served.toFixed(0)} ms of them at the server; ${this.rate()} frames/s${dropping}`;
  }

  private rate(): string {
    const [first = 0] = this.arrivals;
    const seconds = ((this.arrivals.at(-1) ?? 0) - first) / 1000;
    return seconds > 0 ? ((this.arrivals.length - 1) / seconds).toFixed(1) : "–";
  }

  /** While nothing can be read, the plot stands still: the page says elsewhere why. */
  private async readMemory(): Promise<void> {
    if (document.hidden) return;
    const bytes = await this.api.memoryBytes().catch(() => null);
    if (bytes === null) return;
    this.memory.add(bytes);
    this.memoryNow.textContent = `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  }
}
