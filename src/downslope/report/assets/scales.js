"use strict";
// Numbers to pixels and to words. Nothing here touches the page.

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const power = (exponent) => `10${[...String(exponent)].map((c) => SUPERSCRIPT[c]).join("")}`;

// A number to so many significant digits, as people read it: 0.0412, 3.16×10⁻⁵, 12 000.
function format(value, digits = 4) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e7) {
    const [mantissa, exponent] = size.toExponential(digits - 1).split("e");
    const sign = value < 0 ? "−" : "";
    return Number(mantissa) === 1 ? sign + power(+exponent) : `${sign}${Number(mantissa)}×${power(+exponent)}`;
  }
  const places = Number.isInteger(value) ? 0 : Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  const [whole, part] = value.toFixed(places).split(".");
  return grouped(whole).replace("-", "−") + (part ? `.${part}` : "");
}

const grouped = (whole) => (whole.replace("-", "").length > 4 ? whole.replace(/\B(?=(\d{3})+$)/g, "\u202f") : whole);

// A scale is a function of a value, in pixels; NaN where a log scale has no place for it.
function makeScale(log, [low, high], [start, end]) {
  const to = log ? (v) => (v > 0 ? Math.log10(v) : NaN) : (v) => v;
  const [a, b] = [to(low), to(high)];
  const scale = (v) => start + ((to(v) - a) / (b - a)) * (end - start);
  return Object.assign(scale, { log, low, high, start, end });
}

// The ends of an axis for these values: what a scale can show, with room at both ends.
// Far outliers may be left out: `fence(sorted, to)` returns the highest value to be shown.
function extent(values, log, { room = 0.04, fence = null, zero = false } = {}) {
  const shown = values.filter((v) => v !== null && Number.isFinite(v) && (!log || v > 0)).sort((a, b) => a - b);
  if (!shown.length) return { ends: log ? [0.1, 10] : [0, 1], above: 0 };
  const to = log ? Math.log10 : (v) => v;
  const back = log ? (v) => 10 ** v : (v) => v;
  const limit = fence && shown.length >= 8 ? fence(shown.map(to)) : Infinity;
  const inside = shown.filter((v) => to(v) <= limit);
  let [low, high] = [to(inside[0]), to(inside.at(-1))];
  if (low === high) {
    const half = log ? 0.15 : Math.abs(low) * 0.1 || 0.5;
    [low, high] = [low - half, high + half];
  }
  const pad = (high - low) * room;
  const bottom = zero && !log && inside[0] >= 0 && low - pad < 0 ? 0 : low - pad;
  return { ends: [back(bottom), back(high + pad)], above: shown.length - inside.length };
}

const quantile = (sorted, q) => sorted[Math.round(q * (sorted.length - 1))];

// Curves may start high: only what lies five times above all but two in a hundred is left out.
const curveFence = (s) => s[0] + 5 * (quantile(s, 0.98) - s[0]);
// Points: Tukey's far fence.
const pointFence = (s) => quantile(s, 0.75) + 3 * (quantile(s, 0.75) - quantile(s, 0.25) || Infinity);

// Ticks as [value, label], about `count` of them; on a log scale those between decades may be bare.
function ticks(scale, count) {
  const decades = scale.log ? Math.log10(scale.high / scale.low) : 0;
  return scale.log && decades >= 0.9 ? logTicks(scale, count, decades) : linearTicks(scale, count);
}

function linearTicks({ low, high }, count) {
  const rough = (high - low) / Math.max(1, count);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= rough * 0.999);
  const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const plain = Math.max(Math.abs(low), Math.abs(high)) < 1e7 && places <= 6;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12) + 1e-300; i++) {
    const value = Number((i * step).toPrecision(12));
    const [whole, part] = value.toFixed(places).split(".");
    found.push([value, plain ? grouped(whole).replace("-", "−") + (part ? `.${part}` : "") : format(value, 3)]);
  }
  return found;
}

function logTicks({ low, high }, count, decades) {
  const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  const plain = first >= -4 && last <= 5;
  const word = (v, e) => (plain ? format(v, 1) : v === 10 ** e ? power(e) : "");
  const every = Math.ceil((last - first + 1) / Math.max(2, count));
  const labelled = decades * 3 <= count ? [1, 2, 5] : decades * 2 <= count ? [1, 3] : [1];
  const found = [];
  for (let e = first - 1; e <= last; e++) {
    for (const m of every > 1 ? [1] : [1, 2, 3, 4, 5, 6, 7, 8, 9]) {
      const value = Number(`${m}e${e}`);
      if (value < low * (1 - 1e-9) || value > high * (1 + 1e-9)) continue;
      const said = labelled.includes(m) && (e - first) % every === 0;
      if (said || every === 1) found.push([value, said ? word(value, e) : ""]);
    }
  }
  return found;
}
