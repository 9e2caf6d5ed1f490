// A plot: a frame with legend, switches, crosshair and tooltip around what a painter draws.
//
// A painter is a function of the plot that draws into `plot.svg` and returns how it is read:
//   nearest(x, y)  the index of the reading nearest to a place, in pixels; -1 if there is none
//   count          how many readings there are, in the order in which arrow keys visit them
//   reading(i)     { title, rows: [{ colour, name, value, note }], x, y, dots: [{ colour, x, y }] }
// Text reaches the page as text only, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 8;
const painters = {};
const chapters = new Map(); // element → { hidden: names, plots }

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function html(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Colours are eight; series beyond them are told apart by dashes too.
const colourClass = (n) => `s${n % COLOURS}${n >= COLOURS ? " dashed" : ""}`;

// Marks differ in shape as well as in colour.
function mark(n, x, y, r) {
  const at = (points) => `M${points.map(([dx, dy]) => `${x + dx * r},${y + dy * r}`).join("L")}Z`;
  const shapes = [
    () => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
    () => at([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]),
    () => at([[0, -1.2], [1.1, 0.8], [-1.1, 0.8]]),
    () => at([[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]]),
    () => at([[0, 1.2], [1.1, -0.8], [-1.1, -0.8]]),
  ];
  return shapes[n % shapes.length]();
}

const cross = (x, y, r) => `M${x - r},${y - r}L${x + r},${y + r}M${x - r},${y + r}L${x + r},${y - r}`;

const ruler = document.createElement("canvas").getContext("2d");
function textWidth(text, size = 12) {
  ruler.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
}

// Names often differ at their ends: what does not fit is left out in the middle.
function shortened(text, room, size = 12) {
  let kept = text.length;
  let shown = text;
  while (kept > 2 && textWidth(shown, size) > room) {
    kept -= 1;
    shown = `${text.slice(0, Math.ceil(kept / 2))}…${text.slice(text.length - Math.floor(kept / 2))}`;
  }
  return shown;
}

class Plot {
  constructor(figure) {
    this.figure = figure;
    this.spec = JSON.parse(figure.querySelector("script").textContent);
    this.names = (this.spec.series ?? this.spec.rows).map((s) => s.name);
    this.choice = 0;
    this.log = { x: this.spec.x.map((axis) => axis.scale === "log"), y: this.spec.y?.scale === "log" };
    const chapter = figure.closest(".chapter") ?? document.body;
    if (!chapters.has(chapter)) chapters.set(chapter, { hidden: new Set(), plots: [] });
    this.chapter = chapters.get(chapter);
    this.chapter.plots.push(this);
    this.build();
    this.width = 0;
    new ResizeObserver(() => this.stage.clientWidth !== this.width && this.draw()).observe(this.stage);
    this.draw();
  }

  get hidden() {
    return this.chapter.hidden;
  }

  build() {
    this.keys = this.spec.series ? this.legend() : [];
    const bar = html("div", { class: "toolbar" });
    if (this.keys.length) {
      const legend = html("div", { class: "legend", role: "group", "aria-label": "Series" }, ...this.keys);
      this.all = html("button", { type: "button", class: "key all", hidden: "" }, "show all");
      this.all.addEventListener("click", () => this.hide(() => false));
      legend.append(this.all);
      bar.append(legend);
    }
    bar.append(html("div", { class: "switches" }, ...this.switches()));
    this.tip = html("div", { class: "tip", hidden: "" });
    this.live = html("div", { class: "unseen", "aria-live": "polite" });
    const label = `${this.spec.label}. Arrow keys read the values.`;
    this.stage = html("div", { class: "stage", tabindex: "0", role: "img", "aria-label": label });
    this.note = html("p", { class: "note quiet", hidden: "" });
    this.stage.append(this.tip);
    this.figure.append(bar, this.stage, this.live, this.note);
    this.stage.addEventListener("pointermove", (e) => this.point(e));
    this.stage.addEventListener("pointerdown", (e) => this.point(e));
    this.stage.addEventListener("pointerleave", () => this.show(-1));
    this.stage.addEventListener("blur", () => this.show(-1));
    this.stage.addEventListener("keydown", (e) => this.key(e));
  }

  legend() {
    return this.spec.series.map(({ name, colour }) => {
      const swatch = svg("svg", { class: colourClass(colour), width: 18, height: 10, "aria-hidden": "true" });
      swatch.append(
        this.spec.points
          ? svg("path", { class: "mark", d: mark(colour, 9, 5, 4) })
          : svg("path", { class: "line main", d: "M1,5H17" }),
      );
      const title = "Click to hide or show. Shift-click to see it alone.";
      const key = html("button", { type: "button", class: "key", "aria-pressed": "true", title }, swatch, name);
      key.addEventListener("click", (e) => {
        if (e.shiftKey) this.hide((other) => other !== name);
        else this.hide((other) => (other === name) !== this.hidden.has(other));
      });
      for (const [event, on] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]]) {
        key.addEventListener(event, () => this.emphasise(on ? name : null));
      }
      return key;
    });
  }

  switches() {
    const made = [];
    if (this.spec.x.length > 1) {
      const choices = this.spec.x.map((axis, i) => this.button(axis.name, axis.label, () => i === this.choice, () => (this.choice = i)));
      made.push(html("div", { class: "choice", role: "group", "aria-label": "x axis" }, ...choices));
    }
    const both = this.spec.y?.switch && this.spec.x.some((axis) => axis.switch);
    const of = (word) => [both ? `log ${word}` : "log", `Logarithmic ${word} axis`];
    if (this.spec.x.some((axis) => axis.switch)) {
      const [get, set] = [() => this.log.x[this.choice], () => (this.log.x[this.choice] = !this.log.x[this.choice])];
      made.push(this.button(...of("x"), get, set));
    }
    if (this.spec.y?.switch) made.push(this.button(...of("y"), () => this.log.y, () => (this.log.y = !this.log.y)));
    return made;
  }

  button(word, label, pressed, act) {
    const attributes = { type: "button", class: "switch", "aria-pressed": pressed(), "aria-label": label, title: label };
    const button = html("button", attributes, word);
    (this.buttons ??= []).push(() => button.setAttribute("aria-pressed", pressed()));
    button.addEventListener("click", () => (act(), this.draw()));
    return button;
  }

  hide(test) {
    const chapter = this.chapter;
    const names = new Set(chapter.plots.flatMap((plot) => plot.names));
    const hidden = [...names].filter(test);
    chapter.hidden = new Set(hidden.length === names.size ? [] : hidden);
    for (const plot of chapter.plots) plot.draw();
  }

  emphasise(name) {
    for (const group of this.svg.querySelectorAll("g.series")) {
      group.classList.toggle("dim", name !== null && !this.hidden.has(name) && group.dataset.name !== name);
    }
  }

  draw() {
    this.width = this.stage.clientWidth;
    if (!this.width) return;
    this.buttons?.forEach((refresh) => refresh());
    this.keys.forEach((key, i) => key.setAttribute("aria-pressed", !this.hidden.has(this.names[i])));
    if (this.all) this.all.hidden = !this.hidden.size;
    this.svg?.remove();
    this.svg = svg("svg", { "aria-hidden": "true" });
    this.notes = [];
    this.stage.prepend(this.svg);
    this.readings = painters[this.spec.kind](this);
    this.cursor = svg("g", { class: "cursor" });
    this.svg.append(this.cursor);
    this.note.textContent = this.notes.join(" ");
    this.note.hidden = !this.notes.length;
    this.show(-1);
  }

  size(height) {
    this.height = height;
    for (const [key, value] of Object.entries({ viewBox: `0 0 ${this.width} ${height}`, width: this.width, height })) {
      this.svg.setAttribute(key, value);
    }
  }

  // Lines and labels of an axis along the bottom.
  bottomAxis(scale, label, top, bottom) {
    const axis = svg("g", { class: "axis" });
    const { start, end } = scale;
    axis.append(svg("path", { class: "base", d: `M${start},${bottom}H${end}` }));
    let free = -Infinity; // labels that would touch the one before are left out
    for (const [value, word] of ticks(scale, (end - start) / 80)) {
      const x = scale(value);
      axis.append(svg("path", { class: "tick", d: `M${x},${bottom}v${word ? 5 : 3}` }));
      if (!word || x - textWidth(word) / 2 < free) continue;
      axis.append(svg("text", { x, y: bottom + 19, "text-anchor": "middle" }, word));
      free = x + textWidth(word) / 2 + 8;
    }
    axis.append(svg("text", { class: "title", x: end, y: bottom + 38, "text-anchor": "end" }, label));
    this.svg.append(axis);
  }

  leftAxis(scale, label, left, right) {
    const axis = svg("g", { class: "axis" });
    for (const [value, word] of ticks(scale, Math.abs(scale.end - scale.start) / 42)) {
      const y = scale(value);
      if (!word) continue;
      axis.append(svg("path", { class: "grid", d: `M${left},${y}H${right}` }));
      axis.append(svg("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, word));
    }
    axis.append(svg("text", { class: "title", x: 0, y: 11 }, label));
    this.svg.append(axis);
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const ratio = this.width / box.width;
    this.show(this.readings.nearest((event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio));
  }

  key(event) {
    const { count } = this.readings;
    const at = this.at;
    const to = { ArrowRight: at + 1, ArrowLeft: at < 0 ? count - 1 : at - 1, Home: 0, End: count - 1, Escape: -1 }[event.key];
    if (to === undefined || !count) return;
    event.preventDefault();
    this.show(event.key === "Escape" ? -1 : Math.min(count - 1, Math.max(0, to)), true);
  }

  show(index, aloud = false) {
    this.at = index;
    this.cursor.replaceChildren();
    this.tip.hidden = index < 0;
    if (index < 0) return;
    const { title, rows, x, y, dots = [], line } = this.readings.reading(index);
    if (line) this.cursor.append(svg("path", { class: "hair", d: `M${x},${line[0]}V${line[1]}` }));
    for (const dot of dots) this.cursor.append(svg("circle", { class: colourClass(dot.colour), cx: dot.x, cy: dot.y, r: 4 }));
    this.tip.replaceChildren(html("b", {}, title), ...rows.map((row) => this.tipRow(row)));
    const { offsetWidth: w, offsetHeight: h } = this.tip;
    // Beside the place; above or below it where there is no room beside it.
    const beside = x + 14 + w <= this.width ? x + 14 : x - 14 - w;
    const above = y - 16 - h >= -24 ? y - 16 - h : y + 16;
    this.tip.style.left = `${beside >= 0 ? beside : Math.max(0, Math.min(this.width - w, x - w / 2))}px`;
    this.tip.style.top = `${beside >= 0 ? Math.max(0, Math.min(this.height - h, y - h / 2)) : above}px`;
    if (aloud) this.live.textContent = [title, ...rows.map((r) => `${r.name} ${r.value} ${r.note ?? ""}`)].join(", ");
  }

  tipRow({ colour, name, value, note }) {
    const row = html("div", {}, html("span", {}, name), html("output", {}, value));
    if (colour !== undefined) row.prepend(html("i", { class: `dot s${colour % COLOURS}` }));
    if (note) row.append(html("small", {}, note));
    return row;
  }
}
