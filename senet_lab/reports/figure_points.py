"""The points of a study's figure: one a row, ours and the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from senet_lab.reports.aim import DIGITS
from senet_lab.reports.table import TableRow

NEARLY_EQUAL = 0.05  # spread of the parameters, relative to the largest


@dataclass(frozen=True)
class FigurePoint:
    """One row in one panel, in the unit of the panel.

    Attributes:
        label: of the row.
        value: Δ, or the error of a row that is compared with nothing.
        half: half of its interval over the seeds; None where there is none.
        wide: half of its interval over seeds and images; None where there is none.
        params: parameters of the network.
        style: of `STYLES`.
        reached: its error or loss, as text.
    """

    label: str
    value: float
    half: float | None
    wide: float | None
    params: float | None
    style: str
    reached: str

    @property
    def reach(self) -> float:
        """Half of its wider interval; 0 without any."""
        return max(self.half or 0, self.wide or 0)


def our_point(row: TableRow, compared: bool) -> FigurePoint | None:
    """A row of ours; None where it has nothing to draw."""
    sample, delta = row.sample, row.delta
    if sample is None and not row.effect:
        return None
    reached = "" if sample is None else f"{sample.mean:.{DIGITS[row.metric]}f}" + "%" * (row.metric == "error")
    if sample is not None and not compared:
        return FigurePoint(
            row.label, sample.mean, sample.half_width, sample.half_crossed, row.params, row.kind, reached
        )
    if not row.baseline:
        return FigurePoint(row.label, 0.0, None, None, row.params, row.kind, reached)
    if delta is None:
        return None
    half = None if delta.high is None else delta.high - delta.delta
    return FigurePoint(row.label, delta.delta, half, delta.half_crossed, row.params, row.kind, reached)


def paper_point(row: TableRow, compared: bool) -> FigurePoint | None:
    """A row of the paper; None where it has nothing to draw."""
    if row.printed is None:
        return None
    value = row.printed.top1 if not compared else row.printed_delta if row.baseline else 0.0
    if value is None:
        return None
    millions = row.printed.params_m
    params = row.paper_params if row.paper_params is not None else None if millions is None else millions * 1e6
    style = "paper" if row.baseline else "baseline"
    return FigurePoint(row.label, value, None, None, params, style, f"{row.printed.top1:.2f}%")


def params_differ(points: Sequence[FigurePoint]) -> bool:
    """Whether parameters tell the points apart: at least three values, spread over more than 5%."""
    values = {p.params for p in points if p.params is not None}
    return len(values) >= 3 and None not in {p.params for p in points} and 1 - min(values) / max(values) > NEARLY_EQUAL
