"""A search's second figure: how the front grew with the designs, and which factor matters."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from senet_lab.reports import front as fronts
from senet_lab.reports.drawing import drawn
from senet_lab.reports.front_figures import FRONT
from senet_lab.reports.front_rows import Found, Front

FEW = 4  # designs; with fewer there is nothing to be seen


def render(front: Front) -> dict[str, bytes]:
    """The figure's files by name."""
    return drawn(lambda: _figure(front), "search")


def importance(front: Front) -> dict[str, float]:
    """Factor → share of the variance of the designs' mean validation errors that lies between its levels.

    Of each factor by itself, over whatever designs were trained: where a sampler has looked for the best, it has not
    tried all levels alike. A stage's reduction and the words of a design are one factor each. Without SE in any stage
    the words say nothing, so the plain network is left out of theirs.
    """
    designs = [each for each in front.found if each.val_error is not None and each.asked is not None]
    found = {}
    for factor in next((each.levels for each in designs), {}):
        chosen = designs if factor.startswith("se.reduction.") else [d for d in designs if d.reference != "no SE"]
        levels = np.array([each.levels[factor] for each in chosen])
        errors = np.array([each.val_error.mean for each in chosen if each.val_error is not None])
        total = ((errors - errors.mean()) ** 2).sum() if len(errors) else 0.0
        if len(set(levels)) > 1 and total > 0:
            own = [errors[levels == level] for level in dict.fromkeys(levels)]
            found[factor] = float(sum(len(e) * (e.mean() - errors.mean()) ** 2 for e in own) / total)
    return found


def _figure(front: Front) -> Figure:
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    tried = sorted(_tried(front), key=lambda each: each.asked or 0)
    if len(tried) >= FEW:
        _history(left, tried)
        _importance(right, importance(front))
    else:
        for axes in (left, right):
            axes.text(0.5, 0.5, "too few designs", ha="center", transform=axes.transAxes, color="0.4")
    return figure


def _tried(front: Front) -> list[Found]:
    return [each for each in front.found if each.values is not None and each.asked is not None]


def _history(axes: Axes, tried: list[Found]) -> None:
    points = np.array([each.values for each in tried])
    grown = fronts.history(points, fronts.corner(points))
    axes.step([each.asked or 0 for each in tried], 100 * grown / grown[-1], where="post", color=FRONT)
    axes.set_xlabel("designs asked for")
    axes.set_ylabel("hypervolume (% of the last)")
    axes.set_title("growth of the front")


def _importance(axes: Axes, shares: dict[str, float]) -> None:
    ordered = sorted(shares, key=lambda factor: shares[factor])
    axes.barh(range(len(ordered)), [100 * shares[factor] for factor in ordered], color=FRONT, height=0.6)
    axes.set_yticks(range(len(ordered)), ordered)
    axes.set_xlabel("variance of the error between its levels (%)")
    axes.set_title("importance of each factor")
