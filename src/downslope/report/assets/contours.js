// Paths over the level lines of a function of two unknowns.

painters.contours = (plot) => {
  const { spec, width } = plot;
  const series = spec.series.filter((s) => !plot.hidden.has(s.name)).map((s) => unpack(s, spec, 0));
  const [top, right] = [26, width - 10];
  const height = Math.round(Math.min(640, Math.max(320, width * 0.62)));
  const bottom = height - 48;
  const y = makeScale(false, spec.frame[1], [bottom, top]);
  const left = Math.ceil(Math.max(20, ...ticks(y, (bottom - top) / 42).map(([, word]) => textWidth(word)))) + 10;
  const x = makeScale(false, spec.frame[0], [left, right]);
  plot.size(height);
  plot.bottomAxis(x, spec.x[0].label, top, bottom);
  const axis = svg("g", { class: "axis" });
  for (const [value, word] of ticks(y, (bottom - top) / 42)) {
    if (word) axis.append(svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, word));
  }
  axis.append(svg("text", { class: "title", x: 0, y: 11 }, spec.y.label));
  axis.append(svg("path", { class: "base", d: `M${left},${top}V${bottom}` }));
  plot.svg.append(axis);

  const clip = `clip-${(Plot.clips = (Plot.clips ?? 0) + 1)}`;
  plot.svg.append(svg("clipPath", { id: clip }, svg("rect", { x: left, y: top, width: right - left, height: bottom - top })));
  const inside = svg("g", { "clip-path": `url(#${clip})` });
  plot.svg.append(inside);
  spec.field?.levels.forEach((level, i) => {
    const low = i < spec.field.levels.length / 4;
    inside.append(svg("path", { class: `level${low ? " low" : ""}`, d: levelLine(spec.field, level, x, y) }));
  });
  for (const s of series.toReversed()) {
    const group = svg("g", { class: `series ${colourClass(s.colour)}`, "data-name": s.name });
    group.append(svg("path", { class: "line main path", d: path(s.main, x, y) }));
    // Feet where the steps end, as long as they can be told apart.
    if (s.main.x.length <= 200) {
      s.main.x.forEach((v, i) => {
        if (s.main.y[i] !== null) group.append(svg("circle", { class: "foot", cx: x(v).toFixed(1), cy: y(s.main.y[i]).toFixed(1), r: 2 }));
      });
    }
    const last = s.main.y.findLastIndex((v) => v !== null);
    if (last >= 0) group.append(svg("path", { class: "mark", d: mark(s.colour, x(s.main.x[last]), y(s.main.y[last]), 5) }));
    inside.append(group);
  }
  for (const m of spec.marks) {
    if (!within(m.x, spec.frame[0]) || !within(m.y, spec.frame[1])) continue;
    const [px, py] = [x(m.x), y(m.y)];
    plot.svg.append(svg("circle", { class: `place ${m.kind}`, cx: px, cy: py, r: m.kind === "start" ? 4 : 2.5 }));
    if (!m.name) continue;
    const before = px + textWidth(m.name) + 14 > right;
    plot.svg.append(svg("text", { class: "placename", x: before ? px - 9 : px + 9, y: py - 7, "text-anchor": before ? "end" : "start" }, m.name));
  }
  const gone = series.filter((s) => s.main.x.some((v, i) => s.main.y[i] === null || !within(v, spec.frame[0]) || !within(s.main.y[i], spec.frame[1])));
  if (gone.length) plot.notes.push(`Paths that leave the frame: ${gone.map((s) => s.name).join(", ")}.`);
  return readPaths(series, spec, x, y);
};

const within = (v, [low, high]) => v >= low && v <= high;

// The line of one level by marching squares: each cell of the grid has at most two pieces of it.
function levelLine({ x: xs, y: ys, rows }, level, x, y) {
  const [h, w] = [rows.length, rows[0].length];
  const px = (j) => x(xs[0] + ((xs[1] - xs[0]) * j) / (w - 1));
  const py = (i) => y(ys[0] + ((ys[1] - ys[0]) * i) / (h - 1));
  const share = (a, b) => (level - a) / (b - a);
  let d = "";
  for (let i = 0; i + 1 < h; i++) {
    for (let j = 0; j + 1 < w; j++) {
      const [a, b, c, e] = [rows[i][j], rows[i][j + 1], rows[i + 1][j + 1], rows[i + 1][j]];
      if (a === null || b === null || c === null || e === null) continue;
      const cuts = [];
      if (a < level !== b < level) cuts.push([px(j + share(a, b)), py(i)]);
      if (b < level !== c < level) cuts.push([px(j + 1), py(i + share(b, c))]);
      if (e < level !== c < level) cuts.push([px(j + share(e, c)), py(i + 1)]);
      if (a < level !== e < level) cuts.push([px(j), py(i + share(a, e))]);
      // Four cuts are a saddle: the mean says which corners belong together.
      if (cuts.length === 4 && (a + b + c + e) / 4 < level !== a < level) cuts.push(cuts.shift());
      for (let k = 0; k + 1 < cuts.length; k += 2) {
        const [[x1, y1], [x2, y2]] = [cuts[k], cuts[k + 1]];
        d += `M${x1.toFixed(1)},${y1.toFixed(1)}L${x2.toFixed(1)},${y2.toFixed(1)}`;
      }
    }
  }
  return d;
}

function readPaths(series, spec, x, y) {
  const points = series.flatMap((s) => s.main.x.map((v, i) => ({ s, i, x: x(v), y: y(s.main.y[i] ?? NaN) })));
  const shown = points.filter((p) => Number.isFinite(p.x + p.y) && p.x >= x.start && p.x <= x.end && p.y <= y.start && p.y >= y.end);
  return {
    count: shown.length,
    nearest: (px, py) => {
      const distances = shown.map((p) => Math.hypot(p.x - px, p.y - py));
      const least = Math.min(...distances);
      return least < 40 ? distances.indexOf(least) : -1;
    },
    reading: (index) => {
      const { s, i, x: px, y: py } = shown[index];
      const rows = [
        { name: spec.x[0].label, value: format(s.main.x[i], 4) },
        { name: spec.y.label, value: format(s.main.y[i], 4) },
      ];
      if (s.main.hints) rows.push({ name: s.main.hints[i], value: "" });
      return { title: s.name, rows, x: px, y: py, dots: [{ colour: s.colour, x: px, y: py }] };
    },
  };
}
