"""A search's figure: error against each cost, the front as a line, every design that was trained faintly behind it.
Designs on the front, the plain network and the paper's default have their intervals.

The same trials give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from senet_lab.reports import labels
from senet_lab.reports.drawing import LABEL_SIZE, drawn
from senet_lab.reports.front_rows import Found, Front

COSTS = {"params": "parameters", "macs": "multiply-adds", "latency_ms": "latency (ms)"}
FRONT, OTHER = "#0072B2", "0.75"
REFERENCES = {"no SE": ("s", "black"), "the paper's default": ("D", "#D55E00")}
LABELLED = 8  # designs on the front that are numbered, and named below; more would crowd


def render(front: Front) -> dict[str, bytes]:
    """The figure's files by name."""
    return drawn(lambda: _figure(front), "front")


def _figure(front: Front) -> Figure:
    objectives = ["latency_ms" if name == "latency" else name for name in front.objectives]
    costs = [name for name in COSTS if name in objectives] or ["params"]
    figure = Figure(figsize=(5.2 * len(costs), 4.6), layout="constrained")
    figure.suptitle((front.title or front.study)[:90], fontsize=10)
    axes = figure.subplots(1, len(costs), squeeze=False)[0]
    pending = [(panel, _panel(panel, front, cost)) for panel, cost in zip(axes, costs, strict=True)]
    named = {each.label: number for number, each in enumerate(pending[0][1][1], start=1)}
    handles, names = axes[0].get_legend_handles_labels()
    handles += [Line2D([], [], ls="") for _ in named]
    names += [f"{number}: {label}" for label, number in named.items()]
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=LABEL_SIZE)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for panel, (cost, best) in pending:
        points = [(each.costs[cost], _error(each)) for each in best]
        texts = [str(named[each.label]) if each.label in named else "" for each in best]
        for note in labels.place(figure, panel, points, [None] * len(points), [], texts, LABEL_SIZE):
            note.set_path_effects([withStroke(linewidth=2, foreground="white")])  # readable across what is behind it
    return figure


def _panel(axes: Axes, front: Front, cost: str) -> tuple[str, list[Found]]:
    """Error against one cost; which designs want their name."""
    known = [each for each in front.found if each.val_error is not None and cost in each.costs]
    best = [each for each in front.best if each.val_error is not None and cost in each.costs]
    _scatter(axes, [each for each in known if each not in best], cost, "o", OTHER, "every design trained", 14)
    line = sorted(best, key=lambda each: (each.costs[cost], _error(each)))
    two = len(front.objectives) == 2  # a front of more objectives is no line in two of them
    if two:
        axes.step(
            [each.costs[cost] for each in line], [_error(each) for each in line], where="post", color=FRONT, lw=0.8
        )
    _scatter(axes, best, cost, "o", FRONT, "front", 28)
    anchors = [each for each in known if each.reference]
    _intervals(axes, best, cost, FRONT)
    for name, (_, colour) in REFERENCES.items():
        _intervals(axes, [each for each in anchors if each.reference == name and each not in best], cost, colour)
    for name, (marker, colour) in REFERENCES.items():
        _scatter(axes, [each for each in anchors if each.reference == name], cost, marker, colour, name, 34)
    axes.set_xlabel(COSTS[cost])
    axes.set_ylabel("validation error (%)")
    axes.margins(x=0.12, y=0.12)
    _cut(axes, known, best + anchors)
    return cost, line[:LABELLED]


def _scatter(axes: Axes, chosen: Sequence[Found], cost: str, marker: str, colour: str, name: str, size: float) -> None:
    if chosen:
        x, y = [each.costs[cost] for each in chosen], [_error(each) for each in chosen]
        axes.scatter(x, y, marker=marker, s=size, color=colour, label=name, linewidths=0, zorder=2 + size / 100)


def _intervals(axes: Axes, chosen: Sequence[Found], cost: str, colour: str) -> None:
    """The 95% t intervals over the seeds, thin: points are what is compared."""
    for each in chosen:
        assert each.val_error is not None
        half = half_width(each)
        if half is not None:
            low, high = max(0.0, each.val_error.mean - half), each.val_error.mean + half
            axes.plot([each.costs[cost]] * 2, [low, high], color=colour, lw=0.7, alpha=0.6, zorder=2)


def _cut(axes: Axes, known: Sequence[Found], best: Sequence[Found]) -> None:
    """Leave out what is far worse than the median, so that the front is not squeezed into a corner; and say so."""
    errors = sorted(_error(each) for each in known)
    if len(errors) < 20:
        return
    least, median = errors[0], errors[len(errors) // 2]
    top = max([median + (median - least), *(_error(each) + (half_width(each) or 0) for each in best)])
    beyond = sum(error > top for error in errors)
    if beyond:
        foot = min(_error(each) - (half_width(each) or 0) for each in best)
        axes.set_ylim(max(0.0, min(least, foot) - 0.12 * (top - least)), top)
        axes.text(
            0.99,
            0.99,
            f"{beyond} beyond the top",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=7,
            color="0.4",
        )


def half_width(each: Found) -> float | None:
    return None if each.val_error is None else each.val_error.half_width


def _error(each: Found) -> float:
    assert each.val_error is not None
    return each.val_error.mean
