"""A search's figures. `front`: error against each cost, the front as a line, every design that was trained faintly
behind it; designs on the front, the plain network and the paper's default have their intervals. `search`: how the front
grew with the designs, and which factor matters.

The same trials give the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from senet_lab.objectives import COSTS as COSTED
from senet_lab.objectives import OBJECTIVES
from senet_lab.reports import pareto, point_labels
from senet_lab.reports.drawing import LABEL_SIZE, figure_files
from senet_lab.reports.front import LEVELS
from senet_lab.reports.table import Table

COSTS = {OBJECTIVES[name].column: OBJECTIVES[name].title for name in COSTED} | {"params": "parameters"}
FRONT, OTHER = "#0072B2", "0.75"
REFERENCES = {"no SE": ("s", "black"), "the paper's default": ("D", "#D55E00")}
LABELLED = 8  # designs on the front that are numbered, and named below; more would crowd
FEW = 4  # designs; with fewer there is nothing to be seen of how a search went


def render_front(table: Table) -> dict[str, bytes]:
    """The figures' files by name."""
    return figure_files(lambda: front_figure(table), "front") | figure_files(lambda: _search(table), "search")


def frame(table: Table) -> pd.DataFrame:
    """The designs that have a validation error, by their labels: it and half of its interval, percent, whether they are
    on the front, which references they are, and what they cost."""
    lines: dict[str, dict[str, Any]] = {
        row.label: {"error": d.val_error.mean, "half": d.val_error.half_width, "front": d.on_front}
        | {"reference": d.reference}
        | d.costs
        for row in table.rows
        if (d := row.design) is not None and d.val_error is not None
    }
    return pd.DataFrame.from_dict(lines, orient="index").astype({"half": float})


# --------------------------------------------------------------------------------------------------------------------
# Error against costs


def front_figure(table: Table) -> Figure:
    objectives = [OBJECTIVES[name].column for name in table.objectives]
    costs = [name for name in COSTS if name in objectives] or ["params"]
    figure = Figure(figsize=(5.2 * len(costs), 4.6), layout="constrained")
    figure.suptitle(table.title[:90], fontsize=10)
    axes = figure.subplots(1, len(costs), squeeze=False)[0]
    pending = [(panel, _panel(panel, table, cost)) for panel, cost in zip(axes, costs, strict=True)]
    named = {label: number for number, label in enumerate(pending[0][1].index, start=1)}
    handles, names = axes[0].get_legend_handles_labels()
    handles += [Line2D([], [], ls="") for _ in named]
    names += [f"{number}: {label}" for label, number in named.items()]
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=LABEL_SIZE)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for panel, best in pending:
        points = list(best.itertuples(index=False, name=None))
        texts = [str(named.get(label, "")) for label in best.index]
        for note in point_labels.place_labels(figure, panel, points, [None] * len(points), [], texts, LABEL_SIZE):
            note.set_path_effects([withStroke(linewidth=2, foreground="white")])  # readable across what is behind it
    return figure


def _panel(axes: Axes, table: Table, cost: str) -> pd.DataFrame:
    """Error against one cost; where the designs are that want their name: cost and error by label."""
    known = frame(table).dropna(subset=cost)
    best = known.loc[[row.label for row in table.front if row.label in known.index]]
    _scatter(axes, known[~known["front"]], cost, "o", OTHER, "every design trained", 14)
    line = best.sort_values([cost, "error"], kind="stable")
    if len(table.objectives) == 2:  # a front of more objectives is no line in two of them
        axes.step(line[cost], line["error"], where="post", color=FRONT, lw=0.8)
    _scatter(axes, best, cost, "o", FRONT, "front", 28)
    _intervals(axes, best, cost, FRONT)
    for name, (_, colour) in REFERENCES.items():
        _intervals(axes, known[(known["reference"] == name) & ~known["front"]], cost, colour)
    for name, (marker, colour) in REFERENCES.items():
        _scatter(axes, known[known["reference"] == name], cost, marker, colour, name, 34)
    axes.set_xlabel(COSTS[cost])
    axes.set_ylabel("validation error (%)")
    axes.margins(x=0.12, y=0.12)
    _cut(axes, known["error"], known[known["front"] | (known["reference"] != "")])
    return line[[cost, "error"]][:LABELLED]


def _scatter(axes: Axes, chosen: pd.DataFrame, cost: str, marker: str, colour: str, name: str, size: float) -> None:
    if len(chosen):
        x, y = chosen[cost], chosen["error"]
        axes.scatter(x, y, marker=marker, s=size, color=colour, label=name, linewidths=0, zorder=2 + size / 100)


def _intervals(axes: Axes, chosen: pd.DataFrame, cost: str, colour: str) -> None:
    """The 95% t intervals over the seeds, thin: points are what is compared."""
    for x, error, half in chosen.dropna(subset="half")[[cost, "error", "half"]].to_numpy():
        axes.plot([x, x], [max(0.0, error - half), error + half], color=colour, lw=0.7, alpha=0.6, zorder=2)


def _cut(axes: Axes, errors: pd.Series[float], best: pd.DataFrame) -> None:
    """Leave out what is far worse than the median, so that the front is not squeezed into a corner; and say so."""
    if len(errors) < 20:
        return
    least, median, half = errors.min(), errors.sort_values().iloc[len(errors) // 2], best["half"].fillna(0)
    top = max(median + (median - least), (best["error"] + half).max())
    beyond = int((errors > top).sum())
    if beyond:
        foot = (best["error"] - half).min()
        axes.set_ylim(max(0.0, min(least, foot) - 0.12 * (top - least)), top)
        words = axes.text(0.99, 0.99, f"{beyond} beyond the top", transform=axes.transAxes, ha="right", va="top")
        words.set(fontsize=7, color="0.4")


# --------------------------------------------------------------------------------------------------------------------
# How the search went


def importance(table: Table) -> dict[str, float]:
    """Factor → share of the variance of the designs' mean validation errors that lies between its levels.

    Of each factor by itself, over whatever designs were trained: where a sampler has looked for the best, it has not
    tried all levels alike. A stage's reduction and the words of a design are one factor each. Without SE in any stage
    the words say nothing, so the plain network is left out of theirs.
    """
    designs = [d for row in table.rows if (d := row.design) and d.val_error is not None and d.asked is not None]
    shares = {}
    for factor in next((each.levels for each in designs), {}):
        of_se = factor.startswith(LEVELS[1:])
        chosen = [d for d in designs if d.reference != "no SE"] if of_se else designs
        levels = np.array([each.levels[factor] for each in chosen])
        errors = np.array([each.val_error.mean for each in chosen if each.val_error is not None])
        total = ((errors - errors.mean()) ** 2).sum() if len(errors) else 0.0
        if len(set(levels)) > 1 and total > 0:
            own = [errors[levels == level] for level in dict.fromkeys(levels)]
            shares[factor] = float(sum(len(e) * (e.mean() - errors.mean()) ** 2 for e in own) / total)
    return shares


def _search(table: Table) -> Figure:
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    designs = [row.design for row in table.rows if row.design and row.design.values]
    tried = sorted((d.asked, [*d.values.values()]) for d in designs if d.asked is not None)
    if len(tried) >= FEW:
        _history(left, [asked for asked, _ in tried], np.array([values for _, values in tried]))
        _importance(right, importance(table))
    else:
        for axes in (left, right):
            axes.text(0.5, 0.5, "too few designs", ha="center", transform=axes.transAxes, color="0.4")
    return figure


def _history(axes: Axes, asked: list[int], points: pareto.Array) -> None:
    grown = pareto.history(points, pareto.corner(points))
    axes.step(asked, 100 * grown / grown[-1], where="post", color=FRONT)
    axes.set_xlabel("designs asked for")
    axes.set_ylabel("hypervolume (% of the last)")
    axes.set_title("growth of the front")


def _importance(axes: Axes, shares: dict[str, float]) -> None:
    ordered = sorted(shares, key=lambda factor: shares[factor])
    axes.barh(range(len(ordered)), [100 * shares[factor] for factor in ordered], color=FRONT, height=0.6)
    axes.set_yticks(range(len(ordered)), ordered)
    axes.set_xlabel("variance of the error between its levels (%)")
    axes.set_title("importance of each factor")
