// One plot: axes, marks with intervals, lines; hover, arrow keys, zoom. Numbers in, SVG out; colours come from the CSS.

const NEAR = 28; // pixels from the pointer to a point that it means
const CROWD = 60; // more points than this are drawn smaller
const tip = document.getElementById("tip");
let plots = 0;

class Plot {
  // box: where it is drawn; describe: what it shows now, as `marks.js` describes it.
  constructor(box, describe) {
    Object.assign(this, { box, describe, zoomed: null, active: -1, id: `plot${plots++}` });
    this.svg = make("svg", { tabindex: 0, role: "img" }, box);
    this.svg.addEventListener("pointermove", (event) => this.move(event));
    this.svg.addEventListener("pointerdown", (event) => this.press(event));
    this.svg.addEventListener("pointerup", (event) => this.release(event));
    this.svg.addEventListener("pointerleave", (event) => this.drag || event.pointerType === "touch" || this.leave());
    this.svg.addEventListener("dblclick", () => this.zoom(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("blur", () => this.leave());
  }

  draw() {
    const shown = (this.shown = this.describe());
    const width = (this.width = Math.max(260, this.box.clientWidth));
    const { x, y } = shown;
    const ordinary = Math.max(260, Math.min(380, width * 0.55));
    const height = y.rows ? 52 + y.rows.length * Math.max(24, Math.min(40, (ordinary - 52) / y.rows.length)) : ordinary;
    this.svg.replaceChildren();
    for (const [key, value] of Object.entries({ viewBox: `0 0 ${width} ${height}`, width, height, "aria-label": shown.label }))
      this.svg.setAttribute(key, value);
    if (!shown.marks.length && !shown.lines.length) {
      make("text", { x: width / 2, y: height / 2, class: "empty" }, this.svg, "nothing to draw");
      return;
    }
    const [x0, x1] = this.zoomed?.x || [x.lo, x.hi];
    const [y0, y1] = this.zoomed?.y || [y.lo, y.hi];
    const yTicks = y.rows ? [] : ticks(y0, y1, height / 60, y.log);
    const readY = reader(yTicks);
    const widest = Math.max(...(y.rows ? y.rows.map(widthOf) : yTicks.map((value) => widthOf(readY(value)))));
    const left = Math.min(width * 0.42, widest + (y.rows ? 14 : 34));
    const area = (this.area = { left, right: width - 12, top: 10, bottom: height - 42 });
    this.sx = scale(x0, x1, area.left, area.right, x.log);
    this.sy = scale(y0, y1, area.bottom, area.top, y.log);
    this.axes(x, y, x0, x1, yTicks, readY);
    const clip = make("clipPath", { id: this.id }, this.svg);
    make("rect", { x: area.left, y: area.top - 8, width: area.right - area.left, height: area.bottom - area.top + 16 }, clip);
    const inside = make("g", { "clip-path": `url(#${this.id})` }, this.svg);
    if (shown.band) {
      const [from, to] = shown.band.map(this.sx);
      make("rect", { x: from, y: area.top, width: to - from, height: area.bottom - area.top, class: "margin" }, inside);
    }
    if (shown.rule?.x != null) this.line(inside, this.sx(shown.rule.x), area.top, this.sx(shown.rule.x), area.bottom, "rule");
    if (shown.rule?.y != null) this.line(inside, area.left, this.sy(shown.rule.y), area.right, this.sy(shown.rule.y), "rule");
    this.targets = [];
    shown.lines.forEach((line) => this.curve(inside, line));
    if (shown.path?.length > 1) {
      const path = shown.path.map(([x, y]) => `${this.sx(x).toFixed(1)},${this.sy(y).toFixed(1)}`).join("L");
      make("path", { d: `M${path}`, class: "front" }, inside);
    }
    const size = shown.marks.length > CROWD ? 3.5 : 5;
    shown.marks.forEach((mark) => this.mark(inside, mark, size));
    if (shown.named) this.names(shown.marks);
    this.ring = make("circle", { r: 10, class: "ring", hidden: "" }, this.svg);
    this.frame = make("rect", { class: "frame", hidden: "" }, this.svg);
    this.box.classList.toggle("zoomed", this.zoomed != null);
  }

  axes(x, y, x0, x1, yTicks, readY) {
    const { left, right, top, bottom } = this.area;
    const xTicks = ticks(x0, x1, (right - left) / 80, x.log).filter((value) => !x.whole || Number.isInteger(value));
    const unit = x.counts ? UNITS.find(([size]) => x1 >= size) || [1, ""] : [1, ""];
    const readX = reader(xTicks.map((value) => value / unit[0]));
    for (const value of xTicks) {
      this.line(this.svg, this.sx(value), top, this.sx(value), bottom, "grid");
      make("text", { x: this.sx(value), y: bottom + 16, class: "tick middle" }, this.svg, readX(value / unit[0]));
    }
    for (const value of yTicks) {
      this.line(this.svg, left, this.sy(value), right, this.sy(value), "grid");
      make("text", { x: left - 6, y: this.sy(value) + 4, class: "tick end" }, this.svg, readY(value));
    }
    (y.rows || []).forEach((name, place) => {
      this.line(this.svg, left, this.sy(-place), right, this.sy(-place), "grid");
      const text = make("text", { x: left - 8, y: this.sy(-place) + 4, class: "name end" }, this.svg, shorten(name, left - 12));
      make("title", {}, text, name);
    });
    const title = unit[1] ? `${x.title} (${unit[1]})` : x.title;
    make("text", { x: (left + right) / 2, y: bottom + 35, class: "title middle" }, this.svg, title);
    if (y.title) {
      const middle = (top + bottom) / 2;
      make("text", { transform: `translate(13,${middle}) rotate(-90)`, class: "title middle" }, this.svg, y.title);
    }
  }

  line(parent, x1, y1, x2, y2, name) {
    return make("line", { x1, y1, x2, y2, class: name }, parent);
  }

  curve(parent, line) {
    const points = line.points.map(([x, y]) => [this.sx(x), this.sy(y)]);
    const group = make("g", { class: `curve ${line.look}` }, parent);
    if (line.band) {
      const edge = [...line.band.map(([x, , high]) => [x, high]), ...line.band.map(([x, low]) => [x, low]).reverse()];
      const path = edge.map(([x, y]) => `${this.sx(x).toFixed(1)},${this.sy(y).toFixed(1)}`).join("L");
      make("path", { d: `M${path}Z`, class: "band" }, group);
    }
    const path = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");
    make("path", { d: `M${path}`, class: "stroke" }, group);
    if (points.length === 1) make("circle", { cx: points[0][0], cy: points[0][1], r: 3, class: "dot" }, group);
    points.forEach(([x, y], place) => this.targets.push({ x, y, row: line.row, tip: () => line.tip(place), group }));
  }

  mark(parent, mark, size) {
    const x = this.sx(mark.x), y = this.sy(mark.y);
    const group = make("g", { class: `mark ${mark.look}` }, parent);
    for (const [name, half] of [["images", mark.wide], ["seeds", mark.half]]) {
      if (half == null) continue;
      const [a, b] = [-half, half].map((by) => (mark.upright ? this.sy(mark.y + by) : this.sx(mark.x + by)));
      const line = mark.upright ? `M${x},${a}V${b}` : `M${a},${y}H${b}`;
      const caps = mark.upright ? `M${x - 4},${a}h8M${x - 4},${b}h8` : `M${a},${y - 4}v8M${b},${y - 4}v8`;
      make("path", { d: name === "images" ? line + caps : line, class: name }, group);
    }
    make("path", { d: SHAPES[mark.shape](size), transform: `translate(${x},${y})`, class: "shape" }, group);
    this.targets.push({ x, y, row: mark.row, tip: mark.tip, group });
  }

  // Names beside the points, each where it hides nothing; those for which there is no such place are left to the hover.
  names(marks) {
    const { left, right, top, bottom } = this.area;
    const taken = this.targets.map(({ x, y }) => [x - 6, y - 6, x + 6, y + 6]);
    marks.forEach((mark) => {
      const x = this.sx(mark.x);
      if (reach(mark)) taken.push([x - 5, this.sy(mark.y + reach(mark)), x + 5, this.sy(mark.y - reach(mark))]);
    });
    const free = (box) =>
      box[0] >= left && box[2] <= right && box[1] >= top - 6 && box[3] <= bottom &&
      !taken.some((other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1]);
    marks.forEach((mark, place) => {
      const { x, y } = this.targets[place];
      const text = shorten(mark.name, 130), wide = widthOf(text);
      const places = [[x + 9, y], [x - 9 - wide, y], [x + 9, y - 12], [x + 9, y + 12], [x - 9 - wide, y - 12], [x - 9 - wide, y + 12]];
      const found = places.map(([at, middle]) => [at, middle - 7, at + wide, middle + 7]).find(free);
      if (!found) return;
      taken.push(found);
      make("text", { x: found[0], y: found[3] - 3, class: "name" }, this.svg, text);
    });
  }

  // ------------------------------------------------------------------------------------------------- hover and keys

  at(event) {
    const frame = this.svg.getBoundingClientRect();
    const ratio = this.width / frame.width;
    return [(event.clientX - frame.left) * ratio, (event.clientY - frame.top) * ratio];
  }

  visible(target) {
    const { left, right, top, bottom } = this.area;
    return target.x >= left - 2 && target.x <= right + 2 && target.y >= top - 8 && target.y <= bottom + 8;
  }

  move(event) {
    if (!this.targets?.length) return;
    const [x, y] = this.at(event);
    if (this.drag) return this.pull(x, y);
    let best = -1, nearest = NEAR ** 2;
    this.targets.forEach((target, place) => {
      const distance = (target.x - x) ** 2 + (target.y - y) ** 2;
      if (distance < nearest && this.visible(target)) [best, nearest] = [place, distance];
    });
    if (best < 0) return this.leave();
    this.point(best);
  }

  point(place) {
    const target = this.targets[place];
    this.active = place;
    this.svg.querySelectorAll(".lit").forEach((each) => each.classList.remove("lit"));
    target.group.classList.add("lit");
    this.ring.setAttribute("cx", target.x);
    this.ring.setAttribute("cy", target.y);
    this.ring.removeAttribute("hidden");
    this.shown.light?.(target.row);
    const frame = this.svg.getBoundingClientRect();
    const ratio = frame.width / this.width;
    show(target.tip(), frame.left + target.x * ratio, frame.top + target.y * ratio);
  }

  // Ring the point of a row, as its line in the table is pointed at.
  light(row) {
    if (!this.targets) return;
    this.svg.querySelectorAll(".lit").forEach((each) => each.classList.remove("lit"));
    this.targets.forEach((target) => target.row === row && target.group.classList.add("lit"));
  }

  leave() {
    if (this.active >= 0) {
      this.shown.light?.(null);
      tip.hidden = true;
    }
    this.active = -1;
    this.ring?.setAttribute("hidden", "");
    this.svg.querySelectorAll(".lit").forEach((each) => each.classList.remove("lit"));
  }

  key(event) {
    if (!this.targets?.length) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      let place = this.active;
      for (let tried = 0; tried < this.targets.length; tried++) {
        place = place < 0 ? (step > 0 ? 0 : this.targets.length - 1) : (place + step + this.targets.length) % this.targets.length;
        if (this.visible(this.targets[place])) break;
      }
      this.point(place);
    } else if (event.key === "Escape") this.leave();
    else if (event.key === "0") this.zoom(null);
    else if (event.key === "+" || event.key === "-") this.closer(event.key === "+" ? 0.6 : 1 / 0.6);
    else return;
    event.preventDefault();
  }

  // ----------------------------------------------------------------------------------------------------------- zoom

  press(event) {
    if (event.pointerType === "touch") return this.move(event); // a finger points; dragging, it scrolls the page
    if (event.button || !this.area) return;
    const [x, y] = this.at(event);
    this.drag = [x, y];
    this.svg.setPointerCapture(event.pointerId);
  }

  pull(x, y) {
    const { left, right, top, bottom } = this.area;
    const inside = (value, low, high) => Math.max(low, Math.min(high, value));
    const xs = [inside(this.drag[0], left, right), inside(x, left, right)].sort((a, b) => a - b);
    const ys = this.shown.y.rows ? [top, bottom] : [inside(this.drag[1], top, bottom), inside(y, top, bottom)].sort((a, b) => a - b);
    this.chosen = { xs, ys };
    const box = { x: xs[0], y: ys[0], width: xs[1] - xs[0], height: ys[1] - ys[0] };
    for (const [key, value] of Object.entries(box)) this.frame.setAttribute(key, value);
    this.frame.removeAttribute("hidden");
  }

  release() {
    if (!this.drag) return;
    const { xs, ys } = this.chosen || { xs: [0, 0], ys: [0, 0] };
    this.drag = this.chosen = null;
    this.frame.setAttribute("hidden", "");
    if (xs[1] - xs[0] < 8 || ys[1] - ys[0] < 8) return;
    this.zoom({ x: xs.map(this.sx.back), y: this.shown.y.rows ? null : ys.map(this.sy.back).reverse() });
  }

  closer(factor) {
    const middle = (from, to, back) => {
      const half = ((to - from) / 2) * factor, centre = (from + to) / 2;
      return [back(centre - half), back(centre + half)];
    };
    const { left, right, top, bottom } = this.area;
    this.zoom({ x: middle(left, right, this.sx.back), y: this.shown.y.rows ? null : middle(bottom, top, this.sy.back) });
  }

  zoom(to) {
    this.leave();
    this.zoomed = to;
    this.draw();
  }

  // The plot as a file of its own, with its colours in it.
  file() {
    const copy = this.svg.cloneNode(true);
    const from = [this.svg, ...this.svg.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
    const kept = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family", "text-anchor"];
    from.forEach((node, place) => {
      const style = getComputedStyle(node);
      kept.forEach((name) => to[place].style.setProperty(name, style.getPropertyValue(name)));
    });
    copy.style.background = getComputedStyle(document.body).backgroundColor;
    copy.setAttribute("xmlns", NS);
    return new XMLSerializer().serializeToString(copy);
  }
}

// The box with what a point says: a name, and pairs of words.
function show({ name, pairs }, x, y) {
  tip.replaceChildren();
  html("strong", { textContent: name }, tip);
  const list = html("dl", {}, tip);
  for (const [what, value] of pairs) {
    html("dt", { textContent: what }, list);
    html("dd", { textContent: value }, list);
  }
  tip.hidden = false;
  const { offsetWidth: wide, offsetHeight: high } = tip;
  const room = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(6, Math.min(x + 14 + wide > room ? x - 14 - wide : x + 14, room - wide - 6))}px`;
  tip.style.top = `${Math.max(6, y - high - 14 < 6 ? y + 16 : y - high - 14)}px`;
}
