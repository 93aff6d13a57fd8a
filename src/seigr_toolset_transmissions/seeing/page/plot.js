// A plot of some figures over the last ten minutes, in SVG.

import { duration, element, put } from "./format.js";

const LONGEST = 600;
const WINDOWS = [[60, 15], [120, 30], [300, 60], [600, 120]]; // seconds shown, and between ticks
const LEFT = 58;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 20;
const HEIGHT = 150;

export class Plot {
  // `lines` are [place in a point, name, class]; `format` writes a value.
  constructor(figure, title, lines, format, least) {
    this.title = title;
    this.format = format;
    this.least = least;
    this.points = [];
    this.chosen = null; // the index of the point that is read
    const caption = element("figcaption");
    caption.append(element("h3", title));
    this.when = element("span", "", { class: "quiet" });
    this.lines = lines.map(([place, name, kind]) => {
      const key = element("span", null, { class: `key ${kind}` });
      const value = element("b");
      key.append(element("span", name), " ", value);
      caption.append(key);
      return { place, name, value, path: drawn("path", { class: `line ${kind}` }) };
    });
    caption.append(this.when);
    this.svg = drawn("svg", { role: "img", tabindex: "0", height: HEIGHT });
    this.area = drawn("path", { class: `area ${lines[0][2]}` });
    this.grid = drawn("g", { class: "grid" });
    this.cross = drawn("line", { class: "cross" });
    this.svg.append(this.grid, this.area, ...this.lines.map((line) => line.path), this.cross);
    this.spoken = element("p", "", { class: "hidden", "aria-live": "polite" });
    figure.append(caption, this.svg, this.spoken);
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => this.#choose(null));
    this.svg.addEventListener("blur", () => this.#choose(null));
    this.svg.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.draw(this.points)).observe(this.svg);
  }

  draw(points) {
    this.points = points;
    this.width = this.svg.clientWidth;
    if (!this.width) return;
    const end = points.length ? points[points.length - 1][0] : 0;
    const span = points.length ? end - points[0][0] : 0;
    const [shown, tick] = WINDOWS.find(([seconds]) => seconds >= span) ?? WINDOWS[WINDOWS.length - 1];
    const most = Math.max(
      this.least,
      ...points.flatMap((point) => this.lines.map(({ place }) => point[place] ?? 0)),
    );
    const [top, step] = rounded(most);
    this.x = (time) => LEFT + ((time - end + shown) / shown) * (this.width - LEFT - RIGHT);
    this.y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    this.#drawGrid(end, shown, tick, top, step);
    const pause = pauseOf(points);
    for (const { place, path } of this.lines) path.setAttribute("d", this.#path(place, pause, false));
    this.area.setAttribute("d", this.#path(this.lines[0].place, pause, true));
    this.#read();
  }

  #drawGrid(end, shown, tick, top, step) {
    const marks = [];
    for (let value = 0; value <= top * 1.001; value += step) {
      const y = this.y(value);
      marks.push(drawn("line", { x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }));
      marks.push(text(LEFT - 8, y + 4, "end", this.format(value)));
    }
    for (let back = 0; back <= shown; back += tick) {
      const label = back ? `−${back % 60 ? `${back} s` : `${back / 60} min`}` : "now";
      marks.push(text(this.x(end - back), HEIGHT - 4, back ? (back === shown ? "start" : "middle") : "end", label));
    }
    this.grid.replaceChildren(...marks);
  }

  // The line, or the area below it; a gap where nothing was measured.
  #path(place, pause, closed) {
    const parts = [];
    let last = null;
    const close = () => {
      if (closed && last !== null) parts.push(`V${this.y(0)}Z`);
      last = null;
    };
    for (const point of this.points) {
      const value = point[place];
      if (value === null || (last !== null && point[0] - last > pause)) close();
      if (value === null) continue;
      const at = `${this.x(point[0]).toFixed(1)},${this.y(value).toFixed(1)}`;
      if (last === null) {
        parts.push(closed ? `M${this.x(point[0]).toFixed(1)},${this.y(0)}L${at}` : `M${at}`);
      } else {
        parts.push(`L${at}`);
      }
      last = point[0];
    }
    close();
    return parts.join("");
  }

  // Shows the values of the chosen point, or else of the last one.
  #read() {
    const latest = this.points.length - 1;
    const index = this.chosen === null ? latest : Math.min(this.chosen, latest);
    const point = this.points[index];
    for (const { place, value } of this.lines) put(value, this.format(point?.[place] ?? null));
    const passed = point ? Math.round(this.points[latest][0] - point[0]) : 0;
    put(this.when, this.chosen === null ? "" : `${duration(passed)} ago`);
    this.cross.toggleAttribute("hidden", this.chosen === null || !point);
    if (this.chosen !== null && point) {
      const x = this.x(point[0]);
      for (const [name, value] of [["x1", x], ["x2", x], ["y1", TOP], ["y2", HEIGHT - BOTTOM]]) {
        this.cross.setAttribute(name, value);
      }
    }
    const values = this.lines.map(({ name, value }) => `${name} ${value.textContent}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title}: ${values}. Read it with the arrow keys.`);
    return `${values}, ${passed ? `${duration(passed)} ago` : "now"}`;
  }

  #choose(index) {
    if (this.chosen === index) return "";
    this.chosen = index;
    return this.#read();
  }

  #point(event) {
    if (!this.points.length) return;
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    let nearest = 0;
    this.points.forEach((point, index) => {
      if (Math.abs(this.x(point[0]) - x) < Math.abs(this.x(this.points[nearest][0]) - x)) nearest = index;
    });
    this.#choose(nearest);
  }

  #key(event) {
    const latest = this.points.length - 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -60, PageDown: 60 }[event.key];
    if (event.key === "Escape") this.#choose(null);
    if (step === undefined || latest < 0) return;
    event.preventDefault();
    const next = (this.chosen ?? latest) + step;
    put(this.spoken, this.#choose(Math.max(0, Math.min(latest, next))));
  }
}

// Adds a point, and drops those that are too old to be shown, or all if the clock was set back.
export function keep(points, point) {
  if (points.length && point[0] < points[points.length - 1][0]) points.length = 0;
  points.push(point);
  while (point[0] - points[0][0] > LONGEST) points.shift();
}

// How long it takes until a line breaks off: several times what is usual between two points.
function pauseOf(points) {
  const pauses = points.slice(1).map((point, index) => point[0] - points[index][0]);
  pauses.sort((one, other) => one - other);
  return Math.max(3, 4 * (pauses[Math.floor(pauses.length / 2)] ?? 0));
}

// A round number that is not below `most`, and the step from one line of the grid to the next.
function rounded(most) {
  const unit = 10 ** Math.floor(Math.log10(most));
  const top = unit * [1, 2, 3, 4, 6, 8, 10].find((factor) => factor * unit >= most * 0.9999);
  const parts = { 1: 2, 2: 2, 3: 3, 4: 2, 6: 3, 8: 2, 10: 2 }[Math.round(top / unit)];
  return [top, top / parts];
}

function drawn(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function text(x, y, anchor, label) {
  const made = drawn("text", { x, y, "text-anchor": anchor });
  made.textContent = label;
  return made;
}
