"use strict";
// What every plot is made of: SVG elements, texts that fit, scales and round values, shapes of points.

const NS = "http://www.w3.org/2000/svg";
const UNITS = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];
const ruler = document.createElement("canvas").getContext("2d");

function make(name, attributes, parent, text) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) node.setAttribute(key, value);
  if (text != null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function html(name, properties, parent) {
  const node = Object.assign(document.createElement(name), properties);
  if (parent) parent.append(node);
  return node;
}

function widthOf(text) {
  ruler.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
}

function shorten(text, room) {
  if (widthOf(text) <= room) return text;
  let length = text.length;
  while (length > 1 && widthOf(text.slice(0, length) + "…") > room) length--;
  return text.slice(0, length) + "…";
}

// Round values from lo to hi, about `count` of them.
function ticks(lo, hi, count, log) {
  if (log && hi / lo >= 8) {
    const found = [];
    for (let power = Math.floor(Math.log10(lo)); power <= Math.log10(hi); power++)
      for (const digit of hi / lo < 100 ? [1, 2, 5] : [1]) {
        const value = digit * 10 ** power;
        if (value >= lo && value <= hi) found.push(value);
      }
    if (found.length > 1) return found;
  }
  const rough = (hi - lo) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let place = Math.ceil(lo / step - 1e-9); place * step <= hi + step * 1e-9; place++) found.push(place * step);
  return found;
}

// How the values of an axis read: with as many digits as tell the ticks apart.
function reader(values) {
  const gap = values.length > 1 ? Math.min(...values.slice(1).map((value, i) => value - values[i])) : values[0] || 1;
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(Math.abs(gap)) + 1e-9)));
  return (value) => value.toFixed(digits).replace("-", "−");
}

function scale(lo, hi, from, to, log) {
  const move = log ? Math.log : (value) => value;
  const a = move(lo), b = move(hi);
  const forward = (value) => from + ((move(value) - a) / (b - a)) * (to - from);
  forward.back = (pixel) => {
    const value = a + ((pixel - from) / (to - from)) * (b - a);
    return log ? Math.exp(value) : value;
  };
  return forward;
}

// By matplotlib's letters, as in the figures; then what else a legend shows.
const SHAPES = {
  s: (s) => `M${-s},${-s}H${s}V${s}H${-s}Z`,
  o: (s) => `M${-s},0a${s},${s} 0 1,0 ${2 * s},0a${s},${s} 0 1,0 ${-2 * s},0Z`,
  v: (s) => `M${-s * 1.15},${-s}H${s * 1.15}L0,${s * 1.15}Z`,
  "^": (s) => `M${-s * 1.15},${s}H${s * 1.15}L0,${-s * 1.15}Z`,
  h: (s) => `M0,${-s * 1.15}L${s},${-s * 0.58}V${s * 0.58}L0,${s * 1.15}L${-s},${s * 0.58}V${-s * 0.58}Z`,
  X: (s) => `M${-s},${-s}L${s},${s}M${s},${-s}L${-s},${s}`,
  P: (s) => `M${-s},0H${s}M0,${-s}V${s}`,
  seeds: () => "M-8,0H8",
  images: () => "M-8,0H8",
  margin: () => "M-8,-5H8V5H-8Z",
};
