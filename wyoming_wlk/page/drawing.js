// Canvas pictures: the wave form of a source, and lines over time.

const BAR = 3; // pixels from one bar to the next
const CALM_MILLISECONDS = 1000; // between pictures for those who want little motion

/** Sizes the canvas for the screen's pixels; returns its context with lengths in CSS pixels, and its size. */
function prepare(canvas) {
  const ratio = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Loudness over the last seconds, newest at the right. */
export class Wave {
  #canvas;
  #peaks = [];
  #scheduled = false;
  #calm = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(canvas) {
    this.#canvas = canvas;
  }

  /** `peak` from 0 to 1. */
  push(peak) {
    this.#peaks.push(peak);
    if (this.#peaks.length > 2000) this.#peaks.splice(0, 1000);
    if (this.#scheduled) return;
    this.#scheduled = true;
    const draw = () => {
      this.#scheduled = false;
      this.#draw();
    };
    if (this.#calm.matches) setTimeout(draw, CALM_MILLISECONDS);
    else requestAnimationFrame(draw);
  }

  #draw() {
    const { context, width, height } = prepare(this.#canvas);
    context.fillStyle = getComputedStyle(this.#canvas).color;
    const count = Math.floor(width / BAR);
    this.#peaks.slice(-count).reverse().forEach((peak, index) => {
      const bar = Math.max(2, peak ** 0.6 * height); // ears hear loudness rather so than in proportion
      context.globalAlpha = 0.35 + 0.65 * (1 - index / count);
      context.fillRect(width - (index + 1) * BAR, (height - bar) / 2, BAR - 1, bar);
    });
    context.globalAlpha = 1;
  }
}

/** Lines of numbers, oldest first, from 0 to the largest; all lines have room for `count` numbers. */
export function drawLines(canvas, lines, count) {
  const { context, width, height } = prepare(canvas);
  const colour = getComputedStyle(canvas).color;
  const top = Math.max(...lines.flat().filter(Number.isFinite), 1e-9) * 1.1;
  const x = (index, line) => width - 4 - ((line.length - 1 - index) / (count - 1)) * width;
  const y = (value) => height - 1 - (value / top) * (height - 3);
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.strokeStyle = context.fillStyle = colour;
  const trace = (line) => {
    context.beginPath();
    line.forEach((value, index) => Number.isFinite(value) && context.lineTo(x(index, line), y(value)));
  };
  lines.forEach((line, number) => {
    context.globalAlpha = number ? 0.45 : 1;
    trace(line);
    context.stroke();
    if (number || !Number.isFinite(line.at(-1))) return;
    trace(line);
    context.lineTo(width - 4, height);
    context.lineTo(x(0, line), height);
    context.globalAlpha = 0.08;
    context.fill();
    context.globalAlpha = 1;
    context.beginPath();
    context.arc(width - 4, y(line.at(-1)), 2.5, 0, 2 * Math.PI);
    context.fill();
  });
  context.globalAlpha = 1;
}
