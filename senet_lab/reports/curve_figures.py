"""A study's training and validation curves, as figure 4 of the paper has them: each row beside its baseline.

A panel is one comparison, all on the same logarithmic axes, on which the descent from guessing and the difference at
the end can both be read. Lines are means over the seeds, validation solid, training dashed, the baseline black; the
band is one standard deviation of the seeds' validation to either side. The same records give the same bytes, whether
they come from the store or from `curves.csv`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from senet_lab.reports.curves import Curve, as_written, row_curves
from senet_lab.reports.drawing import LABEL_SIZE, figure_files, shorten
from senet_lab.reports.table import Table, TableRow

PANELS = 12  # rows that are drawn; the page shows any others
ACROSS = 3  # panels beside each other
PANEL = (2.7, 2.1)  # inches
FORMS = ("svg", "pdf")  # for the screen and for print; each takes as long as the figure
ENTRY = 1.4  # inches of an entry of the legend
BASELINE, ROW = "black", "#0072B2"
DASHES: dict[str, Any] = {"val": "solid", "train": (0, (3, 1.5))}
NAMES = {"val": "validation", "train": "training"}


def render_curves(table: Table, curves: pd.DataFrame) -> dict[str, bytes]:
    """The figure's files by name; none where no row has a curve."""
    rows, summaries = rows_and_curves(table, curves)
    return figure_files(lambda: figure_of(table, rows, summaries), "curves", FORMS) if rows else {}


def rows_and_curves(table: Table, curves: pd.DataFrame) -> tuple[list[TableRow], dict[str, Curve]]:
    """The rows that have a panel, which are those that are compared with another one or, where none is, all; and the
    curve of every row by label."""
    summaries = row_curves(as_written(curves)) if len(curves) else {}
    known = [row for row in table.trained if row.label in summaries]
    return [row for row in known if row.baseline and not row.same_as] or known, summaries


def figure_of(table: Table, rows: list[TableRow], summaries: dict[str, Curve]) -> Figure:
    """A panel for each of these rows."""
    shown = rows[:PANELS]
    across = min(ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    validated = any(not np.isnan(curve.values["val_error"]).all() for curve in summaries.values())
    handles = _handles(table, validated)
    columns = min(len(handles), int((PANEL[0] * across + 0.3) / ENTRY))
    height = PANEL[1] * down + 0.4 + 0.18 * math.ceil(len(handles) / columns)
    figure = Figure(figsize=(PANEL[0] * across + 0.3, height), layout="constrained")
    title = table.title + f" (the first {PANELS} of {len(rows)} rows)" * (len(rows) > PANELS)
    figure.suptitle(shorten(title, 40 * across), fontsize=10)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    metric, unit = ("loss", "loss (nats)") if table.aim.metric == "loss" else ("error", "top-1 error (%)")
    parts = ("val", "train") if validated else ("train",)
    least = [np.inf]  # positive mean
    for place, (axes, row) in enumerate(zip(panels, shown, strict=False)):
        axes.set_title(f"{shorten(row.label, 24)}, n = {max(summaries[row.label].n)}")
        for label, colour in ((row.baseline, BASELINE), (row.label, ROW)):
            if label not in summaries:
                continue
            values, epochs = summaries[label].values, summaries[label].epochs
            for part in parts:
                mean, *_, deviation = values[f"{part}_{metric}"]
                axes.plot(epochs, mean, color=colour, linestyle=DASHES[part], linewidth=1.0)
                least.append(np.min(mean, where=mean > 0, initial=np.inf))
            mean, *_, deviation = values[f"{parts[0]}_{metric}"]
            axes.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel("epoch" if place + across >= len(shown) else "")
        axes.set_ylabel(unit if place % across == 0 else "")
        axes.tick_params(labelbottom=place + across >= len(shown))
    panels[0].set_yscale("log")
    panels[0].set_ylim(bottom=0.8 * min(least) if np.isfinite(min(least)) else None)
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    panels[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
    panels[0].yaxis.set_minor_locator(NullLocator())
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=LABEL_SIZE)
    figure.draw_without_rendering()  # lays out, once for all forms
    figure.set_layout_engine("none")
    return figure


def _handles(table: Table, validated: bool) -> list[Artist]:
    """The legend."""
    baselines = table.compared_with
    named = shorten(baselines[0], 24) if len(baselines) == 1 else "the row's baseline"
    handles: list[Artist] = [Line2D([], [], color=BASELINE, label=named)] if baselines else []
    handles.append(Line2D([], [], color=ROW, label="the panel's row"))
    for part in ("val", "train") if validated else ("train",):
        handles.append(Line2D([], [], color="0.35", linestyle=DASHES[part], label=NAMES[part]))
    return [*handles, Patch(color="0.35", alpha=0.15, label="± 1 sd over seeds")]
