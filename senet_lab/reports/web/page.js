// The page: filters, what each plot offers, light and dark.

const articles = studies.map((study) => document.getElementById(study.id));
const lines = studies.map((study, place) => [...articles[place].querySelectorAll("tbody tr")]);
const indexed = studies.map((study) => document.querySelector(`#studies tr[data-study="${study.id}"]`));
const chosen = [new Set(), new Set(), new Set()]; // of each facet; none chosen means all
const search = document.getElementById("rows");
const drawn = new Map(); // box → its plot, and whether it must be drawn again when it is seen
studies.forEach((study) => study.rows.forEach((row, place) => (row.place = place)));

// -------------------------------------------------------------------------------------------------------------- filters

let text = "";
const fits = (place) => chosen.every((values, facet) => !values.size || studies[place].facets[facet].some((value) => values.has(value)));
const named = (row) => row.label.toLowerCase().includes(text);
const rowsOf = (study) => study.rows.filter(named);
const seen = (place, row) => fits(place) && named(studies[place].rows[row]);

function apply() {
  text = search.value.trim().toLowerCase();
  let shown = 0, rows = 0;
  studies.forEach((study, place) => {
    const found = fits(place) ? rowsOf(study).length : 0;
    articles[place].hidden = indexed[place].hidden = !found;
    lines[place].forEach((line, row) => (line.hidden = !named(study.rows[row])));
    shown += found > 0;
    rows += found;
  });
  document.querySelectorAll("section.setting").forEach((section) => (section.hidden = !section.querySelector("article:not([hidden])")));
  const filtered = text !== "" || chosen.some((values) => values.size);
  document.querySelectorAll("#excitation article").forEach((article) => {
    const of = JSON.parse(article.dataset.of);
    article.hidden = filtered && !of.some(([place, row]) => seen(place, row));
  });
  const role = document.getElementById("excitation");
  if (role) role.hidden = !role.querySelector("article:not([hidden])");
  document.getElementById("studies").hidden = !shown;
  document.getElementById("nothing").hidden = shown > 0;
  document.getElementById("clear").disabled = !filtered;
  document.getElementById("shown").textContent = filtered ? `${shown} of ${studies.length} studies, ${rows} row${rows === 1 ? "" : "s"}` : "";
  drawn.forEach((entry) => (entry.stale = true));
  refresh();
}

function clear() {
  chosen.forEach((values) => values.clear());
  document.querySelectorAll(".chip").forEach((chip) => chip.setAttribute("aria-pressed", "false"));
  search.value = "";
  apply();
}

document.querySelectorAll(".chip").forEach((chip) =>
  chip.addEventListener("click", () => {
    const values = chosen[chip.dataset.facet];
    const on = !values.delete(chip.dataset.value);
    if (on) values.add(chip.dataset.value);
    chip.setAttribute("aria-pressed", String(on));
    apply();
  }),
);
let waiting = 0;
search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(apply, 80);
});
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("clear").addEventListener("click", clear);
document.querySelector("#nothing button").addEventListener("click", clear);

// ---------------------------------------------------------------------------------------------------------------- plots

function toggle(button, on) {
  button.setAttribute("aria-pressed", String(on));
}

// One of several views: buttons of which one is pressed.
function choice(parent, label, options, change) {
  const group = html("div", { className: "segments" }, parent);
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", label);
  const buttons = Object.entries(options).map(([value, name], place) => {
    const button = html("button", { type: "button", textContent: name }, group);
    toggle(button, place === 0);
    button.addEventListener("click", () => {
      buttons.forEach((each) => toggle(each, each === button));
      change(value);
    });
    return button;
  });
}

function legend(box, entries) {
  const list = html("div", { className: "legend" }, box);
  for (const [shape, look, meaning] of entries) {
    const item = html("span", {}, list);
    const picture = make("svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": "true" }, item);
    make("path", { d: SHAPES[shape](5), class: look ? "shape" : shape }, make("g", { class: `mark ${look}` }, picture));
    item.append(meaning);
  }
}

// Bar with the choices and tools above a plot; `options` fills in the choices.
function set(box, place, describe, options, below) {
  const bar = html("div", { className: "bar" }, box);
  const entry = { stale: true, plot: null };
  const again = () => {
    entry.plot.zoomed = null;
    entry.plot.draw();
  };
  options(bar, again);
  entry.plot = new Plot(html("div", { className: "canvas" }, box), describe);
  const under = html("div", { className: "under" }, box);
  below?.(under, again);
  const tools = html("div", { className: "tools" }, under);
  const back = html("button", { type: "button", className: "plain back", textContent: "Reset zoom" }, tools);
  const save = html("button", { type: "button", className: "plain", textContent: "Save SVG" }, tools);
  back.addEventListener("click", () => entry.plot.zoom(null));
  save.addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([entry.plot.file()], { type: "image/svg+xml" }));
    html("a", { href: address, download: `${place}.svg` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  });
  drawn.set(box, entry);
}

function lightLine(place, row) {
  lines[place].forEach((line, at) => line.classList.toggle("lit", at === row));
}

function ofRows(box, study, place) {
  const views = { delta: "Δ", error: "error", params: "by parameters", macs: "by multiply-adds" };
  if (!study.rows.some((row) => row.at.delta != null)) delete views.delta;
  for (const cost of ["params", "macs"]) if (!study.rows.some((row) => row.at[cost] != null)) delete views[cost];
  if ((study.rows.length > LISTED || study.front) && (views.params || views.macs)) delete views.error, delete views.delta;
  let view = Object.keys(views)[0];
  const describe = () => {
    const rows = rowsOf(study);
    const shown = view in AXES ? against(study, rows, view) : listing(study, rows, view);
    return { ...shown, light: (row) => lightLine(place, row) };
  };
  const options = (bar, again) => choice(bar, "What is drawn", views, (value) => ((view = value), again()));
  const used = Object.keys(LOOKS).filter((style) => study.rows.some((row) => row.style === style));
  const looks = study.front ? [FRONT, OTHER, LOOKS.baseline] : used.map((style) => LOOKS[style]);
  if (study.margin && !study.front) looks.push(["margin", "", `margin, ±${study.margin} ${study.unit}`]);
  for (const [name, half, meaning] of [["seeds", "half", `${study.interval} over seeds`], ["images", "wide", "over seeds and images"]])
    if (study.rows.some(({ at }) => at[half] != null || at[`delta_${half}`] != null)) looks.push([name, "", meaning]);
  set(box, study.id, describe, options, (parent) => legend(parent, looks));
}

function ofCurves(box, study, place) {
  const curves = Object.values(study.curves);
  const metrics = Object.fromEntries(Object.entries(METRICS).filter(([metric]) => curves.some((curve) => curve[metric][0].some((value) => value != null))));
  let metric = Object.keys(metrics)[0], log = false;
  const off = new Set();
  const options = (bar, again) => {
    const short = Object.fromEntries(Object.entries(metrics).map(([key, name]) => [key, name.replace("validation", "val.").replace("training", "train").replace(" (%)", "")]));
    choice(bar, "What is drawn", short, (value) => ((metric = value), again()));
    const button = html("button", { type: "button", className: "plain", textContent: "log" }, bar);
    toggle(button, false);
    button.addEventListener("click", () => (toggle(button, (log = !log)), again()));
  };
  const below = (parent, again) => {
    if (study.rows.length > COLOURS * DASHES) return;
    const list = html("div", { className: "legend rows" }, parent);
    list.setAttribute("role", "group");
    list.setAttribute("aria-label", "Rows that are drawn");
    for (const row of study.rows) {
      if (!study.curves[row.place]) continue;
      const button = html("button", { type: "button" }, list);
      const picture = make("svg", { width: 26, height: 10, viewBox: "0 0 26 10", "aria-hidden": "true" }, button);
      make("path", { d: "M0,5H26", class: "stroke" }, make("g", { class: `curve ${lookOf(study, row.place)}` }, picture));
      button.append(row.label);
      toggle(button, true);
      button.addEventListener("click", () => {
        const hidden = !off.delete(row.place);
        if (hidden) off.add(row.place);
        toggle(button, !hidden);
        again();
      });
    }
  };
  const describe = () => ({ ...learning(study, rowsOf(study), metric, log, off), light: (row) => lightLine(place, row) });
  set(box, `${study.id}-curves`, describe, options, below);
}

function ofSetting(box, points, place) {
  let cost = "params";
  const options = (bar, again) => {
    html("p", { className: "caption", textContent: "Every design of these studies, each network once" }, bar);
    choice(bar, "Cost", AXES, (value) => ((cost = value), again()));
  };
  set(box, `designs-${place + 1}`, () => network(points, cost, seen), options, (parent) => legend(parent, [["o", "design", "with SE"], ["s", "ink", "without SE"]]));
}

// A plot is made when it is first seen, and drawn again when it is seen after something has changed.
const places = new Map(); // box → how it is made
function refresh() {
  places.forEach((build, box) => box.dataset.near === "true" && bring(box, build));
}

function bring(box, build) {
  if (!box.clientWidth) return;
  if (!drawn.has(box)) build();
  const entry = drawn.get(box);
  if (entry.stale) entry.plot.draw();
  entry.stale = false;
}

document.querySelectorAll("section.setting").forEach((section, place) => {
  const box = section.querySelector(".overview");
  places.set(box, () => ofSetting(box, settings[place], place));
});
studies.forEach((study, place) => {
  for (const [kind, build] of [["rows", ofRows], ["curves", ofCurves]]) {
    const box = articles[place].querySelector(`.plot[data-kind="${kind}"]`);
    if (box) places.set(box, () => build(box, study, place));
  }
  articles[place].querySelector("tbody").addEventListener("pointerover", (event) => light(place, event.target.closest("tr")));
  articles[place].querySelector("tbody").addEventListener("pointerleave", () => light(place, null));
});

function light(place, line) {
  const row = line ? Number(line.dataset.row) : -1;
  articles[place].querySelectorAll(".plot").forEach((box) => drawn.get(box)?.plot.light(row));
}

const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      target.dataset.near = String(isIntersecting);
      if (isIntersecting) bring(target, places.get(target));
    }
  },
  { rootMargin: "400px" },
);
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const entry = drawn.get(target);
    if (!entry || entry.plot.width === Math.max(260, entry.plot.box.clientWidth)) continue;
    entry.stale = true;
    if (target.dataset.near === "true") bring(target, places.get(target));
  }
});
places.forEach((_, box) => (watcher.observe(box), sizes.observe(box)));
// Printed are all plots that the filters leave, drawn for the width of a sheet.
for (const [moment, printing] of [["beforeprint", true], ["afterprint", false]])
  addEventListener(moment, () => {
    document.documentElement.classList.toggle("printing", printing);
    drawn.forEach((entry) => (entry.stale = true));
    places.forEach((build, box) => (printing || box.dataset.near === "true") && bring(box, build));
  });
const leaveAll = (but) => drawn.forEach(({ plot }) => plot.svg.contains(but) || plot.leave());
addEventListener("pointerdown", (event) => leaveAll(event.target)); // a finger's point stays until the next
addEventListener("scroll", () => (tip.hidden = true), { passive: true });

// ------------------------------------------------------------------------------------------------------- light and dark

const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
function paint(name, keep) {
  document.documentElement.dataset.theme = name;
  toggle(theme, name === "dark");
  try {
    if (keep) localStorage.setItem("senet_lab.theme", name);
  } catch {} // a browser that keeps nothing for files
}
let kept = null;
try {
  kept = localStorage.getItem("senet_lab.theme");
} catch {}
paint(kept || (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => paint(dark.matches ? "dark" : "light"));
theme.addEventListener("click", () => paint(theme.getAttribute("aria-pressed") === "true" ? "light" : "dark", true));
