// One row a name: a value as a tick, its interval as a bar, the values behind it as dots.

painters.intervals = (plot) => {
  const { spec, width } = plot;
  const rows = spec.rows;
  const shown = rows.filter((r) => !plot.hidden.has(r.name));
  const log = plot.log.x[0];
  const numbers = shown.flatMap((r) => [r.value, r.low, r.high, ...r.values]);
  const { ends } = extent(numbers, log, { room: 0.05 });
  const step = rows.length > 6 ? 30 : 40;
  const [top, bottom] = [14, 14 + step * rows.length];
  const left = Math.min(width * 0.42, Math.ceil(Math.max(...rows.map((r) => textWidth(r.name, 13)))) + 22);
  const x = makeScale(log, ends, [left, width - 14]);
  plot.size(bottom + 48);
  for (const [value, word] of ticks(x, (x.end - left) / 80)) {
    if (word) plot.svg.append(svg("path", { class: "grid", d: `M${x(value)},${top}V${bottom}` }));
  }
  plot.bottomAxis(x, spec.x[0].label, top, bottom);
  rows.forEach((row, i) => plot.svg.append(drawRow(row, x, top + step * (i + 0.5), left, plot.hidden.has(row.name))));
  const low = log ? numbers.filter((v) => v !== null && v <= 0).length : 0;
  if (low) plot.notes.push(`Values of zero or less have no place on a log scale; ${low} are not drawn.`);

  const order = rows.flatMap((row, i) => (plot.hidden.has(row.name) ? [] : [i]));
  return {
    count: order.length,
    nearest: (_, py) => order.indexOf(order.reduce((a, b) => (Math.abs(at(b) - py) < Math.abs(at(a) - py) ? b : a), order[0])),
    reading: (i) => readRow(rows[order[i]], x, at(order[i])),
  };

  function at(i) {
    return top + step * (i + 0.5);
  }
};

function drawRow(row, x, y, left, hidden) {
  const group = svg("g", { class: `series interval ${colourClass(row.colour)}${hidden ? " off" : ""}`, "data-name": row.name });
  group.append(svg("text", { class: "name", x: left - 14, y: y + 4, "text-anchor": "end" }, shortened(row.name, left - 14, 13)));
  if (hidden) return group;
  const place = (v) => (v === null ? NaN : x(v));
  const [low, high, middle] = [place(row.low), place(row.high), place(row.value)];
  if (Number.isFinite(low) && row.high === null) group.append(svg("path", { class: "bar open", d: `M${low},${y}H${x.end}` }));
  else if (Number.isFinite(low + high)) group.append(svg("path", { class: "bar", d: `M${low},${y}H${high}` }));
  for (const value of row.values) {
    if (Number.isFinite(place(value))) group.append(svg("circle", { class: "seed", cx: place(value), cy: y, r: 3 }));
  }
  if (Number.isFinite(middle)) group.append(svg("path", { class: "middle", d: `M${middle},${y - 10}V${y + 10}` }));
  else group.append(svg("text", { class: "word", x: left + 6, y: y - 8 }, row.absent));
  return group;
}

function readRow(row, x, y) {
  const place = row.value === null ? x.start : x(row.value);
  const rows = [{ name: "median", value: row.value === null ? row.absent : format(row.value) }];
  if (row.low !== null) rows.push({ name: "interval", value: `${format(row.low)} – ${row.high === null ? "∞" : format(row.high)}` });
  row.values.forEach((value, i) => rows.push({ name: row.names[i], value: said(value) }));
  return { title: row.name, rows, x: Number.isFinite(place) ? place : x.start, y };
}
