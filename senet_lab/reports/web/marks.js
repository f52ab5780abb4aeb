// What the plots of this page show: the rows of a study, its learning curves, the networks of a setting.

const { studies, settings, looks: LOOKS } = JSON.parse(document.getElementById("data").textContent);
const FRONT = ["o", "design", "on the front"], OTHER = ["o", "open", "not on it"]; // of a search
const LISTED = 60; // rows one below the other
const NAMED = 12; // points that get their name beside them
const COLOURS = 7, DASHES = 4; // of curves; no common factor, so that 28 rows can be told apart
const AXES = { params: "parameters", macs: "multiply-adds" };
const METRICS = { val_error: "validation error (%)", val_loss: "validation loss", train_error: "training error (%)", train_loss: "training loss" };

// Room for the points and their intervals; but none for an interval so wide (two seeds) that all else would shrink.
function limits(values, halves) {
  const known = halves.filter((half) => half).sort((a, b) => a - b);
  const half = known.length ? known[known.length >> 1] : 0;
  const least = Math.min(...values), most = Math.max(...values);
  const low = Math.max(Math.min(...values.map((value, i) => value - (halves[i] || 0))), least - 3 * half - (most - least));
  const high = Math.min(Math.max(...values.map((value, i) => value + (halves[i] || 0))), most + 3 * half + (most - least));
  const room = 0.07 * (high - low) || Math.abs(high) * 0.05 || 0.1;
  return [low - room, high + room];
}

function costs(values) {
  const least = Math.min(...values), most = Math.max(...values);
  const log = least > 0 && most / least > 10;
  const room = log ? (most / least) ** 0.06 : 0.08 * (most - least) || 0.05 * most || 1;
  return log ? { lo: least / room, hi: most * room, log } : { lo: least - room, hi: most + room, log };
}

const EMPTY = { marks: [], lines: [], x: { lo: 0, hi: 1 }, y: { lo: 0, hi: 1 } };

const reach = ({ half, wide }) => Math.max(half ?? 0, wide ?? 0);

// Rows of a study one below the other, by their difference to the baseline (`delta`), or by what they reach (`error`).
function listing(study, rows, what) {
  const compared = what === "delta";
  const marks = rows.map((row) => {
    const [shape, look] = LOOKS[row.style], at = row.at;
    const drawn = !compared ? { x: at.error, half: at.half, wide: at.wide } : row.style === "baseline" ? { x: 0 } : { x: at.delta, half: at.delta_half, wide: at.delta_wide };
    return { ...drawn, y: -rows.indexOf(row), shape, look, row: row.place, name: row.label, tip: () => ({ name: row.label, pairs: row.tip }) };
  }).filter((mark) => mark.x != null);
  if (!marks.length) return { ...EMPTY, label: study.title };
  const band = compared && study.margin ? [-study.margin, study.margin] : null;
  const [lo, hi] = limits([...marks.map((mark) => mark.x), ...(band || [])], marks.map(reach));
  const title = compared ? `Δ to ${study.baseline}: ${study.metric} (${study.unit}; left is better)` : "top-1 test error (%)";
  return {
    label: `${study.title}: ${title}, one line a row. The table has the same numbers.`,
    x: { title, lo, hi },
    y: { rows: rows.map((row) => (row.at.delta == null && row.at.error == null ? `${row.label} (failed)` : row.label)), lo: -rows.length + 0.5, hi: 0.5 },
    rule: { x: compared ? 0 : only(study, rows)?.at.error },
    band,
    marks,
    lines: [],
  };
}

// Points in the plane of a cost and an error; `y` is which one, and the test error has its intervals.
function scattered(label, points, cost, y = "error") {
  const known = points.filter((point) => point.at[y] != null && point.at[cost] != null);
  if (!known.length) return { ...EMPTY, label };
  const halves = ({ at }) => (y === "error" ? { half: at.half, wide: at.wide } : {});
  const [lo, hi] = limits(known.map(({ at }) => at[y]), known.map((point) => reach(halves(point))));
  const title = y === "error" ? "top-1 test error (%)" : "validation error (%)";
  return {
    label: `${label}: ${title} against ${AXES[cost]}. The tables have the same numbers.`,
    x: { title: AXES[cost], counts: true, ...costs(known.map(({ at }) => at[cost])) },
    y: { title, lo: Math.max(lo, Math.min(0, ...known.map(({ at }) => at[y])) - 0.02 * (hi - lo)), hi },
    named: known.length <= NAMED,
    marks: known.map((point) => {
      const { at, shape, look, place, name, tip } = point;
      return { x: at[cost], y: at[y], ...halves(point), upright: true, shape, look, row: place, name, tip };
    }),
    lines: [],
  };
}

function against(study, rows, cost) {
  const searched = study.front != null;
  const points = rows.map((row) => {
    const [shape, look] = !searched || row.style === "baseline" ? LOOKS[row.style] : study.front[row.place] ? FRONT : OTHER;
    return { ...row, name: row.label, shape, look, tip: () => ({ name: row.label, pairs: searched ? [["validation error", `${row.at.val} %`], ...row.tip] : row.tip }) };
  });
  if (searched) points.sort((a, b) => study.front[a.place] - study.front[b.place]); // the front above the others
  const shown = scattered(study.title, points, cost, searched ? "val" : "error");
  const path = shown.marks.filter((mark) => searched && study.front[mark.row]).sort((a, b) => a.x - b.x);
  return { ...shown, path: path.map(({ x, y }) => [x, y]), rule: searched ? null : { y: only(study, rows)?.at.error } };
}

// The baseline, where there is one for all rows.
function only(study, rows) {
  const found = study.rows.filter((row) => row.style === "baseline");
  return found.length === 1 ? rows.find((row) => row === found[0]) : null;
}

// All networks of a setting; one that several studies share is one point.
function network(points, cost, seen) {
  const known = points.map((point) => {
    const of = point.of.filter(([place, row]) => seen(place, row));
    if (!of.length) return null;
    const first = studies[of[0][0]].rows[of[0][1]];
    const pairs = first.tip.filter(([what]) => ["error %", "params", "multiply-adds", "SE widths", "failed"].includes(what));
    const names = of.map(([place, row]) => [studies[place].title, studies[place].rows[row].label]);
    return { at: first.at, shape: point.plain ? "s" : "o", look: point.plain ? "ink" : "design", name: first.label, place: null, tip: () => ({ name: first.label, pairs: [...pairs, ...names] }) };
  });
  return scattered("All designs", known.filter(Boolean), cost);
}

function lookOf(study, row) {
  if (only(study, study.rows)?.place === row) return "main";
  return study.rows.length > COLOURS * DASHES ? "faint" : `c${row % COLOURS} d${row % DASHES}`;
}

// Mean over the seeds after each epoch, a line a row; the range of the seeds for the baseline and what is pointed at.
function learning(study, rows, metric, log, off) {
  const lines = [];
  for (const row of rows) {
    const curve = study.curves[row.place];
    if (!curve || off.has(row.place)) continue;
    const [mean, low, high] = curve[metric];
    const usable = curve.x.map((_, i) => i).filter((i) => mean[i] != null && (!log || low[i] > 0));
    if (!usable.length) continue;
    lines.push({
      points: usable.map((i) => [curve.x[i], mean[i]]),
      band: curve.n === "1" ? null : usable.map((i) => [curve.x[i], low[i], high[i]]),
      look: lookOf(study, row.place),
      row: row.place,
      tip: (at) => {
        const i = usable[at];
        const spread = low[i] === high[i] ? "" : ` (${low[i]} to ${high[i]}, n = ${curve.n})`;
        return { name: row.label, pairs: [["epoch", String(curve.x[i])], [METRICS[metric], `${mean[i]}${spread}`], ...row.tip.filter(([what]) => ["error %", "params"].includes(what)).map(([what, text]) => [what === "error %" ? "test error %" : what, text])] };
      },
    });
  }
  if (!lines.length) return { ...EMPTY, label: study.title };
  const xs = lines.flatMap((line) => line.points.map(([x]) => x)), ys = lines.flatMap((line) => line.points.map(([, y]) => y));
  const least = Math.min(...ys), most = Math.max(...ys), room = 0.05 * (most - least) || 0.1;
  const first = Math.min(...xs), last = Math.max(...xs);
  return {
    label: `${study.title}: ${METRICS[metric]} by epoch, one line a row`,
    x: { title: "epoch", whole: true, lo: first === last ? first - 1 : first, hi: first === last ? last + 1 : last },
    y: log ? { title: METRICS[metric], log, lo: least / 1.15, hi: most * 1.15 } : { title: METRICS[metric], lo: Math.max(0, least - room), hi: most + room },
    marks: [],
    lines: lines.sort((a, b) => (a.look === "main") - (b.look === "main")),
  };
}
