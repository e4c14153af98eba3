import { context2d } from "./dom";

const KEPT = 240;

/** A line of the last values, from zero to the largest; its numbers in words belong beside it. */
export class Plot {
  private values: number[] = [];

  constructor(private readonly canvas: HTMLCanvasElement) {
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  add(value: number): void {
    this.values = [...this.values, value].slice(-KEPT);
    this.draw();
  }

  private draw(): void {
    const { canvas } = this;
    const density = window.devicePixelRatio;
    canvas.width = canvas.clientWidth * density;
    canvas.height = canvas.clientHeight * density;
    const context = context2d(canvas);
    const style = getComputedStyle(canvas);
    context.strokeStyle = context.fillStyle = style.color;
    context.lineWidth = 1.5 * density;
    this.line(context);
    context.stroke();
    context.lineTo(this.x(this.values.length - 1), canvas.height);
    context.lineTo(0, canvas.height);
    context.globalAlpha = 0.12;
    context.fill();
  }

  private line(context: CanvasRenderingContext2D): void {
    const top = 1.15 * Math.max(...this.values, Number.MIN_VALUE);
    context.beginPath();
    this.values.forEach((value, at) => {
      context.lineTo(this.x(at), this.canvas.height * (1 - value / top));
    });
  }

  private x(at: number): number {
    return (at * this.canvas.width) / (KEPT - 1);
  }
}
