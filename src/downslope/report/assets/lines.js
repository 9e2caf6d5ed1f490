// Series over an x axis: curves with a crosshair, or single points.

painters.lines = (plot) => {
  const { spec, width } = plot;
  const wide = width >= 640;
  const series = spec.series.filter((s) => !plot.hidden.has(s.name)).map((s) => unpack(s, spec, plot.choice));
  const logX = plot.log.x[plot.choice];
  const traces = series.flatMap((s) => [s.main, ...s.thin]);
  const lost = spec.missing === "top" ? series.filter((s) => s.main.y.includes(null)) : [];
  const labelled = wide && !spec.points && series.length <= 8 ? series : [];
  const guides = spec.guides.filter((g) => !plot.log.y || g.value > 0);

  const fence = spec.points ? pointFence : curveFence;
  const yRange = extent([...traces.flatMap((t) => t.y), ...guides.map((g) => g.value)], plot.log.y, { fence, room: 0.06, zero: true });
  const room = spec.points || logX ? 0.03 : 0;
  const xRange = extent([...traces.flatMap((t) => t.x), ...series.flatMap((s) => s.span ?? [])], logX, { room, zero: true });

  const band = lost.length ? 22 + 10 * lost.length : 0; // where missing values stand, and above them their name
  const spans = series.filter((s) => s.span);
  const foot = spans.length ? 30 + 8 * spans.length : 0; // where the bars stand
  const height = Math.round(Math.min(spec.points ? 360 : 440, Math.max(280, width * (spec.points ? 0.62 : 0.46)))) + band + foot;
  const top = 26 + band;
  const bottom = height - 48 - foot;
  const y = makeScale(plot.log.y, yRange.ends, [bottom, top]);
  const left = Math.ceil(Math.max(20, ...ticks(y, (bottom - top) / 42).map(([, word]) => textWidth(word)))) + 10;
  const named = labelled.map((s) => ({ ...s, label: shortened(s.name, width / 3, 13) }));
  const right = width - Math.ceil(Math.max(8, ...named.map((s) => textWidth(s.label, 13) + 14)));
  const x = makeScale(logX, xRange.ends, [left, right]);
  plot.size(height);

  plot.leftAxis(y, spec.y.label, left, right);
  plot.bottomAxis(x, spec.x[plot.choice].label, top, bottom + foot);
  for (const guide of guides) drawGuide(plot, guide, y, left, right);
  const clip = `clip-${(Plot.clips = (Plot.clips ?? 0) + 1)}`;
  plot.svg.append(svg("clipPath", { id: clip }, svg("rect", { x: left - 6, y: top - 6, width: right - left + 12, height: bottom - top + 12 })));
  const groups = series.map((s) => {
    const group = svg("g", { class: `series ${colourClass(s.colour)}`, "data-name": s.name });
    const inside = svg("g", { "clip-path": `url(#${clip})` });
    for (const t of s.thin) inside.append(svg("path", { class: "line thin", d: path(t, x, y) }), ...ending(t, x, y, 3));
    inside.append(svg("path", { class: spec.points ? "line joint" : "line main", d: path(s.main, x, y) }));
    if (!spec.points) inside.append(...ending(s.main, x, y, 4));
    group.append(inside);
    return group;
  });
  plot.svg.append(...groups.toReversed());
  if (spans.length) drawSpans(plot, series, groups, x, bottom + 22);
  if (named.length) endLabels(named, groups, x, y, right + 10, [top, bottom]);
  const points = spec.points ? drawPoints(plot, series, groups, lost, x, y, top) : null;

  if (yRange.above) plot.notes.push(`Values above ${format(yRange.ends[1], 2)} leave the frame.`);
  const low = plot.log.y ? traces.flatMap((t) => t.y).filter((v) => v !== null && v <= 0).length : 0;
  if (low) plot.notes.push(`Values of zero or less have no place on a log scale; ${low} are not drawn.`);
  const gone = spec.missing === "gap" ? series.filter((s) => s.main.y.includes(null)).map((s) => s.name) : [];
  if (gone.length) plot.notes.push(`× ends a curve that diverged (${gone.join(", ")}).`);
  return spec.points ? readPoints(points, spec, plot) : readCurves(series, spec, plot, x, y, [top, bottom]);
};

// A series with the lists it names put in place, x those of the axis chosen.
function unpack(s, spec, choice) {
  const open = (t) => ({ ...t, key: spec.lists[t.x[0]], x: spec.lists[t.x[choice]], y: spec.lists[t.y] });
  return { ...s, main: open(s.main), thin: s.thin.map(open) };
}

// A path with a gap at every missing value. `h0` shows a point that stands alone.
function path(trace, x, y) {
  let d = "";
  let pen = false;
  trace.y.forEach((value, i) => {
    const [px, py] = [x(trace.x[i]), value === null ? NaN : y(value)];
    if (Number.isNaN(px) || Number.isNaN(py)) return void (pen = false);
    d += pen ? `L${px.toFixed(1)},${py.toFixed(1)}` : `M${px.toFixed(1)},${py.toFixed(1)}h0`;
    pen = true;
  });
  return d;
}

// A cross where a trace stops being finite.
function ending(trace, x, y, r) {
  const last = trace.y.findLastIndex((v) => v !== null);
  if (last < 0 || last === trace.y.length - 1) return [];
  const [px, py] = [x(trace.x[last]), y(trace.y[last])];
  return Number.isFinite(px + py) ? [svg("path", { class: "line end", d: cross(px, py, r) })] : [];
}

function drawGuide(plot, { value, label }, y, left, right) {
  const at = y(value);
  const guide = svg("g", { class: "guide" });
  guide.append(svg("path", { d: `M${left},${at}H${right}` }));
  guide.append(svg("text", { x: left + 4, y: at - 6 }, label));
  plot.svg.append(guide);
}

// Names at the ends of the curves, pushed apart until they do not touch.
function endLabels(series, groups, x, y, left, [top, bottom]) {
  const labels = series.flatMap((s, i) => {
    const last = s.main.y.findLastIndex((v) => v !== null && Number.isFinite(y(v)));
    if (last < 0 || left - x(s.main.x[last]) > 60) return []; // it ended long before the edge
    return [{ s, group: groups[i], at: Math.max(top, Math.min(bottom, y(s.main.y[last]))) }];
  });
  labels.sort((a, b) => a.at - b.at);
  for (let i = 1; i < labels.length; i++) labels[i].at = Math.max(labels[i].at, labels[i - 1].at + 17);
  let limit = bottom;
  for (const label of labels.toReversed()) {
    label.at = Math.min(label.at, limit);
    limit = label.at - 17;
    label.group.append(svg("text", { class: "name", x: left, y: label.at + 4 }, label.s.label));
  }
}

function drawPoints(plot, series, groups, lost, x, y, top) {
  const points = [];
  series.forEach((s, n) => {
    const row = top - 14 - 10 * lost.indexOf(s);
    s.main.y.forEach((value, i) => {
      const px = x(s.main.x[i]);
      const py = value === null ? (lost.includes(s) ? row : NaN) : Math.max(top - 2, y(value));
      if (!Number.isFinite(px + py)) return;
      const above = value !== null && y(value) < top - 2;
      const d = value === null ? cross(px, py, 3.5) : above ? `M${px - 5},${py + 6}L${px},${py - 1}L${px + 5},${py + 6}` : mark(s.colour, px, py, 4);
      groups[n].append(svg("path", { class: value === null || above ? "line lost" : "mark", d }));
      if (i === s.best) groups[n].append(svg("circle", { class: "best", cx: px, cy: py, r: 9 }));
      points.push({ s, i, value, x: px, y: py });
    });
  });
  if (lost.length) {
    const band = svg("g", { class: "axis" });
    band.append(svg("path", { class: "edge", d: `M${x.start},${top - 8}H${x.end}` }));
    band.append(svg("text", { x: x.start + 4, y: top - 13 - 10 * lost.length, class: "word" }, plot.spec.missingLabel));
    plot.svg.append(band);
  }
  return points.sort((a, b) => a.x - b.x || a.y - b.y);
}

// Bars at the foot, one a series that has a span.
function drawSpans(plot, series, groups, x, y) {
  plot.svg.append(svg("g", { class: "axis" }, svg("text", { x: x.start + 4, y, class: "word" }, plot.spec.spanLabel)));
  let row = y + 10;
  series.forEach((s, n) => {
    if (!s.span) return;
    const [low, high] = s.span.map(x);
    groups[n].append(svg("path", { class: "span", d: `M${low},${row}H${Math.max(high, low + 2)}` }));
    row += 8;
  });
}

function readPoints(points, spec, plot) {
  const axis = spec.x[plot.choice].label;
  return {
    count: points.length,
    nearest: (px, py) => {
      const distances = points.map((p) => Math.hypot(p.x - px, p.y - py));
      return distances.indexOf(Math.min(...distances));
    },
    reading: (i) => {
      const { s, i: at, value, x, y } = points[i];
      const hint = s.main.hints?.[at];
      const rows = [
        { name: spec.y.label, value: value === null ? spec.missingLabel : format(value), note: at === s.best ? "best" : "" },
        { name: axis, value: format(s.main.x[at], 3) },
      ];
      if (hint) rows.push({ name: hint, value: "" });
      return { title: s.name, rows, x, y, dots: [{ colour: s.colour, x, y }] };
    },
  };
}

function readCurves(series, spec, plot, x, y, [top, bottom]) {
  const places = [...new Set(series.flatMap((s) => s.main.x))].filter((v) => Number.isFinite(x(v))).sort((a, b) => a - b);
  const near = (px) => nearestIndex(places, (v) => x(v) - px);
  return {
    count: places.length,
    nearest: (px) => near(px),
    reading: (i) => {
      const at = x(places[i]);
      const read = series.map((s) => ({ s, j: nearestIndex(s.main.x, (v) => v - places[i]) }));
      // A curve that ended well before, or starts well after, has nothing to say here.
      const told = read.filter(({ s, j }) => j >= 0 && Math.abs(x(s.main.x[j]) - at) < 12);
      told.sort((a, b) => (a.s.main.y[a.j] ?? Infinity) - (b.s.main.y[b.j] ?? Infinity));
      const rows = told.map(({ s, j }) => ({ colour: s.colour, name: s.name, value: said(s.main.y[j]), note: spread(s, j) }));
      const dots = told.flatMap(({ s, j }) => dot(s, j, x, y, top));
      const ys = dots.map((d) => d.y);
      const middle = ys.length ? (Math.min(...ys) + Math.max(...ys)) / 2 : (top + bottom) / 2;
      return { title: `${format(places[i])} ${spec.x[plot.choice].name}`, rows, x: at, y: middle, dots, line: [top, bottom] };
    },
  };
}

const said = (value) => (value === null ? "diverged" : format(value));

function dot(s, j, x, y, top) {
  const value = s.main.y[j];
  const py = value === null ? NaN : y(value);
  return Number.isFinite(py) && py >= top - 6 ? [{ colour: s.colour, x: x(s.main.x[j]), y: py }] : [];
}

// Lowest and highest of the thin traces at the same first x (the step) as the main trace's point.
function spread(s, j) {
  const values = s.thin.map((t) => t.y[t.key.indexOf(s.main.key[j])]).filter((v) => v !== undefined && v !== null);
  return values.length > 1 ? `${format(Math.min(...values), 3)} – ${format(Math.max(...values), 3)}` : "";
}

// Index of the value where `distance`, which rises along the sorted values, is nearest to zero.
function nearestIndex(sorted, distance) {
  let [low, high] = [0, sorted.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (distance(sorted[middle]) < 0) low = middle + 1;
    else high = middle;
  }
  return low > 0 && Math.abs(distance(sorted[low - 1])) <= Math.abs(distance(sorted[low])) ? low - 1 : low < sorted.length ? low : -1;
}
