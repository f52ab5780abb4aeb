"""A study's figure: our test errors with their 95% intervals, and beside them the paper's, so that the order compares.

Where a handful of rows differ in parameters, error stands against parameters; where they hardly do (the position study,
say) or are many, the rows stand one below the other. Verdicts are told by the shape of a marker, not only by its
colour. The same table gives the same bytes.
"""

from __future__ import annotations

import statistics as numbers
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from senet_lab.reports import files, labels
from senet_lab.reports.drawing import LABEL_SIZE, drawn
from senet_lab.reports.rows import Row, Table

LABELLED = 8  # rows drawn against parameters; more would crowd their labels
LISTED = 60  # rows one below the other; beyond, they are left to the table
NEARLY_EQUAL = 0.05  # spread of the parameters, relative to the largest


@dataclass(frozen=True)
class Style:
    """How a point is drawn, and what that means."""

    meaning: str
    marker: str
    colour: str
    filled: bool


STYLES = {
    "baseline": Style("baseline", "s", "black", True),
    "better": Style("better", "v", "#0072B2", True),
    "worse": Style("worse", "^", "#D55E00", True),
    "better here": Style("better on these images", "v", "#0072B2", False),
    "worse here": Style("worse on these images", "^", "#D55E00", False),
    "equivalent": Style("equivalent", "o", "0.35", True),
    "open": Style("open", "o", "0.35", False),
    "": Style("no verdict", "X", "0.35", False),
    "paper": Style("paper", "D", "0.35", False),
}


@dataclass(frozen=True)
class Point:
    """One row in one panel: error in percent, half of its interval, parameters, and how it is drawn."""

    label: str
    error: float
    half: float | None
    params: float | None
    style: str


def draw(table: Table, folder: str | Path) -> list[Path]:
    """Write `figure.svg`, `.png` and `.pdf` into a folder, each whole or not at all."""
    return files.replace_all(folder, render(table))


def render(table: Table) -> dict[str, bytes]:
    """The figure's files by name."""
    return drawn(lambda: _figure(table), "figure")


def _figure(table: Table) -> Figure:
    ours = [_our_point(row) for row in table.rows]
    theirs = [_paper_point(row) for row in table.rows]
    shown = [p for p in ours if p is not None]
    known = all(p is None or p.params is not None for p in theirs)
    against_params = known and len(table.rows) <= LABELLED and _differ(shown) and not table.breaks
    panels = 2 if any(theirs) else 1
    rows = table.rows[:LISTED]
    height = 3.8 if against_params else 1.5 + 0.28 * max(3, len(rows))
    figure = Figure(figsize=(4.4 * panels if against_params or panels == 2 else 5.4, height), layout="constrained")
    figure.suptitle(_short(table.title, 90), fontsize=10)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    of = ", ".join(table.facts[name] for name in ("data", "backbone")) if not table.breaks else _several(table)
    titles = [_short(f"here: {of}, {_seeds(table)}", 60)]
    titles += [f"paper: {table.printed.setting}"] * (panels - 1) if table.printed else []
    pending = []
    for panel, title, points in zip(axes, titles, (ours, theirs), strict=False):
        panel.set_title(title)
        if against_params:
            pending.append((panel, _scatter(panel, [p for p in points if p is not None])))
        else:
            _list(panel, table, points[:LISTED], names=panel is axes[0], ours=points is ours)
    single = table.printed is not None and "single runs" in table.printed.setting
    _legend(figure, [*shown, *(p for p in theirs if p is not None)], "paper, single run" if single else "paper")
    figure.draw_without_rendering()  # lays out; labels are placed in what came of it
    figure.set_layout_engine("none")
    for panel, scattered in pending:
        _label(figure, panel, scattered)
    return figure


def _our_point(row: Row) -> Point | None:
    if row.top1 is None:
        return None
    style = "baseline" if not row.baseline else row.verdict.kind if row.verdict else ""
    return Point(row.label, row.top1.mean, row.top1.half_width, row.params, style)


def _paper_point(row: Row) -> Point | None:
    if row.printed is None:
        return None
    millions = row.printed.params_m
    params = row.paper_params if row.paper_params is not None else None if millions is None else millions * 1e6
    return Point(row.label, row.printed.top1, None, params, "paper" if row.baseline else "baseline")


def _differ(points: Sequence[Point]) -> bool:
    """Whether parameters tell the points apart: at least three values, spread over more than 5%."""
    values = {p.params for p in points if p.params is not None}
    return len(values) >= 3 and None not in {p.params for p in points} and 1 - min(values) / max(values) > NEARLY_EQUAL


def _scatter(axes: Axes, points: list[Point]) -> list[Point]:
    """Error against parameters; the points, for their labels."""
    largest = max((p.params or 0 for p in points), default=1)
    unit, letter = next((u, c) for u, c in ((1e9, " (G)"), (1e6, " (M)"), (1e3, " (k)"), (1, "")) if largest >= u)
    moved = [Point(p.label, p.error, p.half, (p.params or 0) / unit, p.style) for p in points]
    for p in moved:
        _mark(axes, p, p.params or 0, p.error, vertical=True)
    _limits(axes, moved, vertical=True)
    axes.margins(x=0.15)
    axes.set_xlabel(f"parameters{letter}")
    axes.set_ylabel("top-1 error (%)")
    return moved


def _label(figure: Figure, axes: Axes, points: list[Point]) -> None:
    if not points:
        return
    labels.place(
        figure,
        axes,
        [(p.params or 0, p.error) for p in points],
        [None if p.half is None else (p.error - p.half, p.error + p.half) for p in points],
        [p.error for p in points if p.style == "baseline"],
        [_short(p.label, 24) for p in points],
        LABEL_SIZE,
    )


def _list(axes: Axes, table: Table, points: Sequence[Point | None], names: bool, ours: bool) -> None:
    """Rows one below the other, in the study's order, error to the right. A baseline's line spans the rows that are
    compared with it."""
    rows = table.rows[:LISTED]
    places = {row.label: place for place, row in enumerate(rows)}
    for row, p in zip(rows, points, strict=True):
        place = places[row.label]
        if p is not None:
            mine = [
                places[other.label] for other in table.comparisons[row.baseline or row.label] if other.label in places
            ]
            _mark(axes, p, p.error, place, vertical=False, span=(min(mine), max(mine)) if table.breaks else None)
            continue
        why = ("failed" if row.failures else "not run") if ours else "not in the paper"
        words = axes.text(0.02, place, why, transform=axes.get_yaxis_transform(), va="center", color="0.35")
        words.set(fontsize=LABEL_SIZE, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    _limits(axes, [p for p in points if p is not None], vertical=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [_short(row.label, 24) for row in rows] if names else [""] * len(rows))
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.set_xlabel("top-1 error (%)")


def _mark(axes: Axes, p: Point, x: float, y: float, vertical: bool, span: tuple[float, float] | None = None) -> None:
    """One marker with its interval; a dashed line through the baseline, across the panel or as far as `span` says."""
    style = STYLES[p.style]
    if p.style == "baseline":
        look: dict[str, Any] = {"color": "0.75", "linewidth": 0.8, "linestyle": "--", "zorder": 1}
        if span is None:
            line = axes.axhline if vertical else axes.axvline
            line(p.error, **look)
        else:
            axes.vlines(p.error, span[0] - 0.3, span[1] + 0.3, **look)
    axes.errorbar(
        x,
        y,
        **{"yerr" if vertical else "xerr": p.half},  # type: ignore[arg-type]
        fmt=style.marker,
        markersize=6,
        color=style.colour,
        markerfacecolor=style.colour if style.filled else "white",
        elinewidth=1,
        capsize=2.5,
    )


def _limits(axes: Axes, points: Sequence[Point], vertical: bool) -> None:
    """Room for the intervals, but none for one so wide (two seeds) that the others would shrink to dots: it is cut."""
    if not points:
        return
    half = numbers.median([p.half for p in points if p.half is not None] or [0.0])
    least, most = min(p.error for p in points), max(p.error for p in points)
    low = max(min(p.error - (p.half or 0) for p in points), least - 3 * half - (most - least))
    high = min(max(p.error + (p.half or 0) for p in points), most + 3 * half + (most - least))
    room = (0.14 if vertical else 0.08) * (high - low) or 0.1  # upright, labels need a line below and above
    (axes.set_ylim if vertical else axes.set_xlim)(max(low - room, -room), high + room)


def _legend(figure: Figure, points: Sequence[Point], paper: str) -> None:
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=style.marker,
            color=style.colour,
            markerfacecolor=style.colour if style.filled else "white",
            label=paper if name == "paper" else style.meaning,
        )
        for name, style in STYLES.items()
        if any(p.style == name for p in points)
    ]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=LABEL_SIZE
        )


def _several(table: Table) -> str:
    """ "cifar10, 4 networks": the data set without what single comparisons have of their own, and how many networks."""
    data, networks = (table.facts[name].split(", ") for name in ("data", "backbone"))
    return f"{min(data, key=len)}, {networks[0] if len(networks) == 1 else f'{len(networks)} networks'}"


def _seeds(table: Table) -> str:
    counts = [len(row.seeds) for row in table.rows]
    few, many = min(counts), max(counts)
    return f"n = {few}" if few == many else f"n = {few}–{many}"


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
