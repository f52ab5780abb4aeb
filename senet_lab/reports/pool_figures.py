"""The forest plot of a row in several settings: each Δ with its interval, below them the pooled one as a diamond, with
the prediction interval for a new setting as a line, and the paper's own difference as a mark."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from senet_lab import files
from senet_lab.reports.cell_text import signed
from senet_lab.reports.drawing import FORMATS, LABEL_SIZE, figure_files, shorten
from senet_lab.reports.pooled import PooledRow, PooledTable, mean_interval, prediction
from senet_lab.reports.render import csv_text, latex, markdown
from senet_lab.reports.verdict_styles import COLOURS

LISTED = 120  # lines; beyond, they are left to the table
INK, POOLED = "0.25", COLOURS["better"]


def write_pooled(folder: Path, table: PooledTable) -> list[Path]:
    """Write `pooled.md`, `.csv`, `.tex`, `.svg`, `.png` and `.pdf`, all or none; the files written.

    Raises:
        OSError: where the folder cannot be written.
    """
    texts = {"md": markdown(table), "csv": csv_text(table), "tex": latex(table)}
    forms = {f"pooled.{form}": text.encode("utf-8", "replace") for form, text in texts.items()}
    return files.replace_all(folder, forms | forest_files(table))


def forest_files(table: PooledTable, forms: Collection[str] = tuple(FORMATS)) -> dict[str, bytes]:
    """The plot's files by name."""
    return figure_files(lambda: forest(table), "pooled", forms)


def forest(table: PooledTable) -> Figure:
    """The plot; rows one below the other, each with its settings."""
    rows = [row for row in table.rows if isinstance(row, PooledRow)][:LISTED]
    figure = Figure(figsize=(6.4, 1.3 + 0.24 * len(rows)), layout="constrained")
    figure.suptitle(shorten(table.heading, 80), fontsize=10)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        _line(axes, row, place)
    for place, row in enumerate(rows[:-1]):
        if row.pooled:
            axes.axhline(place + 0.5, color="0.8", linewidth=0.6)
    axes.axvline(0, color="0.6", linewidth=0.8, linestyle="--", zorder=1)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _limits(axes, rows)
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"Δ to the baseline: test {table.aim.metric} ({table.aim.unit})")
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(rows)), [signed(row.mean) for row in rows], fontsize=LABEL_SIZE, color="0.35")
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    handles = [
        Line2D([], [], color=INK, marker="s", label="setting, 95%"),
        Patch(color=POOLED, label="pooled, 95%"),
        *([Line2D([], [], color=POOLED, linewidth=0.9, label="new setting, 95%")] * any(map(prediction, rows))),
        *(
            [
                Line2D(
                    [],
                    [],
                    color="0.35",
                    marker="D",
                    markerfacecolor="white",
                    linestyle="none",
                    label="paper, single run",
                )
            ]
            * any(row.printed_delta is not None for row in rows)
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=LABEL_SIZE)
    return figure


def _name(row: PooledRow) -> str:
    """The setting; of the pooled difference what is compared."""
    return shorten(f"{row.of} − {row.baseline}" if row.pooled else row.label, 44)


def _limits(axes: Axes, rows: list[PooledRow]) -> None:
    """Room for the settings' intervals; one of two settings alone is so wide that it is cut where the others would
    shrink to dots."""
    ends = [row.mean + side * row.half for row in rows if not row.pooled for side in (-1, 1)]
    ends += [row.printed_delta for row in rows if row.printed_delta is not None]
    low, high = min(ends), max(ends)
    most = [end for row in rows for end in prediction(row) or mean_interval(row) or ()]
    room = 0.6 * (high - low)
    low, high = max(min([low, *most]), low - room), min(max([high, *most]), high + room)
    axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))


def _line(axes: Axes, row: PooledRow, place: int) -> None:
    """One setting, or the pooled difference."""
    half = row.half
    if not row.pooled:
        axes.errorbar(row.mean, place, xerr=half, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2.5, zorder=2)
        size = 3 + 6 * ((row.weight or 0.0) / 100) ** 0.5  # an area by its weight
        axes.plot(row.mean, place, "s", markersize=size, color=INK, zorder=3)
        return
    wide = prediction(row)
    if wide is not None:
        axes.plot(wide, [place, place], "|-", color=POOLED, linewidth=0.9, markersize=5, zorder=2)
    axes.fill([row.mean - half, row.mean, row.mean + half, row.mean], [place, place - 0.3, place, place + 0.3], POOLED)
    if row.printed_delta is not None:
        axes.plot(row.printed_delta, place, "D", markersize=5, color="0.35", markerfacecolor="white", zorder=4)
