"""A study's figure: what verdicts are about, Δ with both of its intervals; beside it the paper's, to compare the order.

Drawn is each row's difference from its baseline, since that is what is tested: the baseline is the line at 0, the
margin the band around it. A thick interval is over the seeds, with these test images, a thin one over seeds and images.
Where a handful of rows differ in parameters, Δ stands against parameters; where they hardly do (the position study,
say) or are many, the rows stand one below the other, with their errors. Rows that are compared with nothing show their
error. The shape of a marker says the verdict, as its colour does (`verdict_styles`). The same table gives the
same bytes.
"""

from __future__ import annotations

import math
import statistics as numbers
from collections.abc import Sequence
from dataclasses import replace

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from senet_lab.reports import point_labels
from senet_lab.reports.drawing import LABEL_SIZE, figure_files, range_text, shorten
from senet_lab.reports.figure_points import FigurePoint, our_point, paper_point, params_differ
from senet_lab.reports.table import Table
from senet_lab.reports.verdict_styles import STYLES, VerdictStyle

LABELLED = 8  # rows drawn against parameters; more would crowd their labels
LISTED = 60  # rows one below the other; beyond, they are left to the table
THICK, THIN = 2.6, 0.9  # of an interval over the seeds, and over seeds and images
BAND = "#DCF1EA"  # of the margin: equivalent's colour, light
STYLES = STYLES | {"paper": VerdictStyle("paper", "", "D", "soft", False)}
ENTRY = 1.75  # inches of an entry of the legend


def render_study(table: Table) -> dict[str, bytes]:
    """The figure's files by name."""
    return figure_files(lambda: figure_of(table), "figure")


def figure_of(table: Table) -> Figure:
    if table.factors:  # what is tested: the effects
        table = replace(table, rows=tuple(row for row in table.rows if row.effect))
    compared = any(row.delta is not None for row in table.rows)
    ours = [our_point(row, compared) for row in table.rows]
    theirs = [paper_point(row, compared) for row in table.rows]
    shown = [p for p in ours if p is not None]
    known = all(p is None or p.params is not None for p in theirs)
    against_params = known and len(table.rows) <= LABELLED and params_differ(shown) and not table.breaks
    panels = 2 if any(theirs) else 1
    rows = table.rows[:LISTED]
    width = 4.4 * panels if against_params or panels == 2 else 5.4
    handles = _handles(table, shown, [p for p in theirs if p is not None])
    columns = max(1, min(len(handles), int(width / ENTRY)))
    height = 3.6 if against_params else 1.3 + 0.28 * max(3, len(rows))
    figure = Figure(figsize=(width, height + 0.18 * math.ceil(len(handles) / columns)), layout="constrained")
    figure.suptitle(shorten(table.title, 90), fontsize=10)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    of = ", ".join(table.facts[name] for name in ("data", "backbone")) if not table.breaks else _several(table)
    titles = [shorten(f"here: {of}, n = {range_text(*table.seeds)}", 60)]
    titles += [f"paper: {table.printed.setting}"] * (panels - 1) if table.printed else []
    pending = []
    for panel, title, points in zip(axes, titles, (ours, theirs), strict=False):
        here = points is ours
        panel.set_title(title)
        axis, margin = _axis(table, compared, here), table.aim.margin if here else None
        if against_params:
            pending.append((panel, _scatter(panel, [p for p in points if p is not None], axis, margin)))
        else:
            _list(panel, table, points[:LISTED], axis, here)
        if compared:
            _baseline(panel, margin, upright=not against_params)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=LABEL_SIZE)
    figure.draw_without_rendering()  # lays out; labels are placed in what came of it
    figure.set_layout_engine("none")
    for panel, scattered in pending:
        _label(figure, panel, scattered, compared)
    return figure


def _axis(table: Table, compared: bool, ours: bool) -> str:
    """What an axis of values shows."""
    loss = table.aim.metric == "loss" and ours
    what, of = ("test loss", "nats") if loss else ("top-1 error", "points" if compared else "%")
    if not compared:
        return f"{what} ({of})"
    named = table.compared_with
    baseline = shorten(named[0], 16) if len(named) == 1 else "the row's baseline"
    return f"Δ to {baseline}: {what} ({of})"


def _baseline(axes: Axes, margin: float | None, upright: bool) -> None:
    """The line at 0 and the margin around it."""
    (axes.axvline if upright else axes.axhline)(0, color="0.6", linewidth=0.8, linestyle="--", zorder=1)
    if margin is not None:
        (axes.axvspan if upright else axes.axhspan)(-margin, margin, color=BAND, linewidth=0, zorder=0)


def _scatter(axes: Axes, points: list[FigurePoint], title: str, margin: float | None) -> list[FigurePoint]:
    """Values against parameters; the points, for their labels."""
    largest = max((p.params or 0 for p in points), default=1)
    unit, letter = next((u, c) for u, c in ((1e9, " (G)"), (1e6, " (M)"), (1e3, " (k)"), (1, "")) if largest >= u)
    moved = [replace(p, params=(p.params or 0) / unit) for p in points]
    for p in moved:
        _mark(axes, p, p.params or 0, p.value, upright=True)
    _limits(axes, moved, margin, upright=True)
    axes.margins(x=0.15)
    axes.set_xlabel(f"parameters{letter}")
    axes.set_ylabel(title)
    return moved


def _label(figure: Figure, axes: Axes, points: list[FigurePoint], compared: bool) -> None:
    if not points:
        return
    point_labels.place_labels(
        figure,
        axes,
        [(p.params or 0, p.value) for p in points],
        [(p.value - p.reach, p.value + p.reach) if p.reach else None for p in points],
        [0.0] if compared else [],
        [shorten(p.label, 24) + f" ({p.reached})" * (p.style == "baseline") for p in points],
        LABEL_SIZE,
    )


def _list(axes: Axes, table: Table, points: Sequence[FigurePoint | None], title: str, ours: bool) -> None:
    """Rows one below the other, in the study's order, what they reached to the right."""
    rows = table.rows[:LISTED]
    for place, (row, p) in enumerate(zip(rows, points, strict=True)):
        if p is not None:
            _mark(axes, p, p.value, place, upright=False)
            continue
        here = "failed" if row.failures else "not run" if row.top1 is None else "not compared"
        here = row.untested if row.effect else here
        why = here if ours else "not in the paper"
        words = axes.text(0.02, place, why, transform=axes.get_yaxis_transform(), va="center", color="0.35")
        words.set(fontsize=LABEL_SIZE, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    for place, row in enumerate(rows[:-1]):
        if row.label in table.breaks:
            axes.axhline(place + 0.5, color="0.8", linewidth=0.6)
    _limits(axes, [p for p in points if p is not None], table.aim.margin if ours else None, upright=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(
        range(len(rows)), [shorten(row.label, 40 if row.effect else 24) for row in rows] if ours else [""] * len(rows)
    )
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.set_xlabel(title)
    _reached(axes, table, points, ours)


def _reached(axes: Axes, table: Table, points: Sequence[FigurePoint | None], ours: bool) -> None:
    """Each row's error or loss beside its line, and its seeds where rows differ in their number."""
    differ = ours and len({len(row.seeds) for row in table.rows}) > 1
    seeds = [f" ({len(row.seeds)})" * differ for row in table.rows[: len(points)]]
    texts = ["" if p is None else p.reached + n for p, n in zip(points, seeds, strict=True)]
    if not any(texts):  # of a grid's effects
        return
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(points)), texts, fontsize=LABEL_SIZE, color="0.35")
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    what = "loss" if ours and table.aim.metric == "loss" else "error"
    axes.text(1.0, 1.0, f"  {what}{' (n)' * differ}", transform=axes.transAxes, fontsize=LABEL_SIZE, color="0.35")


def _mark(axes: Axes, p: FigurePoint, x: float, y: float, upright: bool) -> None:
    """One marker with its intervals."""
    style = STYLES[p.style]
    colour = _colour(style)
    for half, width, cap in ((p.wide, THIN, 2.5), (p.half, THICK, 0.0)):
        axes.errorbar(
            x,
            y,
            **{"yerr" if upright else "xerr": half},  # type: ignore[arg-type]
            fmt="none",
            ecolor=colour,
            elinewidth=width,
            capsize=cap,
            capthick=THIN,
            zorder=2,
        )
    fill = colour if style.filled else "white"
    axes.plot(x, y, style.marker, markersize=6, color=colour, markerfacecolor=fill, zorder=3)


def _limits(axes: Axes, points: Sequence[FigurePoint], margin: float | None, upright: bool) -> None:
    """Room for the intervals and the margin, but none for an interval so wide (two seeds) that the others would shrink
    to dots: it is cut."""
    if not points:
        return
    half = numbers.median([p.reach for p in points if p.reach] or [0.0])
    least, most = min(p.value for p in points), max(p.value for p in points)
    low = max(min(p.value - p.reach for p in points), least - 3 * half - (most - least))
    high = min(max(p.value + p.reach for p in points), most + 3 * half + (most - least))
    low, high = min(low, -(margin or -low)), max(high, margin or high)
    room = (0.14 if upright else 0.08) * (high - low) or 0.1  # upright, labels need a line below and above
    (axes.set_ylim if upright else axes.set_xlim)(low - room, high + room)


def _handles(table: Table, ours: Sequence[FigurePoint], theirs: Sequence[FigurePoint]) -> list[Artist]:
    """The legend: of markers, intervals and the margin, those that are drawn."""
    compared = any(row.delta for row in table.rows)
    used = {p.style for p in [*ours, *theirs] if compared or p.style != "baseline"}
    single = table.printed is not None and "single runs" in table.printed.setting
    handles: list[Artist] = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=style.marker,
            color=_colour(style),
            markerfacecolor=_colour(style) if style.filled else "white",
            label="paper, single run" if name == "paper" and single else style.meaning,
        )
        for name, style in STYLES.items()
        if name in used
    ]
    if table.aim.margin is not None and compared:
        handles.append(Patch(color=BAND, label=f"margin, ±{table.aim.margin:g} {table.aim.unit}"))
    how = "repeated 95% " if table.aim.settles else "95% "
    uncorrected = ", uncorrected" * (table.tests > 1 and compared and not table.aim.settles)
    for halves, width, over in (
        ("half", THICK, f"{how}over seeds{uncorrected}"),
        ("wide", THIN, "over seeds and images"),
    ):
        if any(getattr(p, halves) is not None for p in ours):
            handles.append(Line2D([], [], color="0.35", linewidth=width, label=over))
    return handles


def _colour(style: VerdictStyle) -> str:
    return style.colour or {"ink": "black", "soft": "0.35"}[style.tone]


def _several(table: Table) -> str:
    """ "cifar10, 4 networks": the data set without what single comparisons have of their own, and how many networks."""
    data, networks = (table.facts[name].split(", ") for name in ("data", "backbone"))
    return f"{min(data, key=len)}, {networks[0] if len(networks) == 1 else f'{len(networks)} networks'}"
