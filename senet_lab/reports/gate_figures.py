"""Figures 6 and 7 of the paper (section 7.2), from the table of measured gates.

Classes are told apart by their line's dashes, markers and lightness, not only by its colour. The same table gives the
same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from senet_lab import files
from senet_lab.reports import gate_summary
from senet_lab.reports.drawing import LABEL_SIZE, figure_files, range_text, shorten
from senet_lab.reports.gate_summary import ALL, BOUNDED, FIGURES

CHANNELS = 50  # drawn of each block
PANEL = (3.4, 2.2)  # inches


@dataclass(frozen=True)
class Style:
    """How a class is drawn."""

    colour: str
    dashes: Any
    width: float
    marker: str


EVERY = Style("black", "solid", 1.8, "")
STYLES = (
    Style("#0072B2", "solid", 0.9, "o"),
    Style("#E69F00", "solid", 1.1, "x"),
    Style("#D55E00", (0, (4, 1.5)), 1.0, "^"),
    Style("#56B4E9", (0, (1, 1)), 1.3, "s"),
    Style("#CC79A7", (0, (6, 1.5, 1, 1.5)), 1.0, "v"),
    Style("#009E73", (0, (2, 2)), 1.0, "D"),
)
MOST = len(STYLES)  # classes that one figure can tell apart


def render_gates(gates: pd.DataFrame, summary: pd.DataFrame, title: str) -> dict[str, bytes]:
    """Both figures' files by name."""
    contents: dict[str, bytes] = {}
    for name, draw in zip(FIGURES, (by_class, within_class), strict=True):
        contents |= figure_files(partial(draw, gates, summary, title), name)
    return contents


def by_class(gates: pd.DataFrame, summary: pd.DataFrame, title: str) -> Figure:
    """Figure 6: for each block the mean gate of its channels, a line a class, and one for all classes."""
    classes = listed_classes(gates)

    def lines(axes: Axes, block: pd.DataFrame) -> None:
        for name, style in [(ALL, EVERY), *zip(classes, STYLES, strict=False)]:
            one = block[block["class"] == name]
            looks = _line(style) | {"marker": style.marker, "markersize": 2.2, "zorder": 2 if name == ALL else 3}
            axes.plot(one["channel"], one["mean"], label=name, **looks)

    every = int(gates[gates["class"] == ALL]["images"].iloc[0])
    heading = (FIGURES["gates_by_class"], f"{title}: {_images(gates, classes)}, {every:,} in all")
    return _panels(gates, summary, heading, "mean gate", lines)


def within_class(gates: pd.DataFrame, summary: pd.DataFrame, title: str) -> Figure:
    """Figure 7: for each block mean ± standard deviation of its channels' gates over the images of one class."""
    classes = listed_classes(gates)[:2]
    looks = ((STYLES[0], 0.30, None), (Style("#D55E00", (0, (4, 1.5)), 1.1, "^"), 0.0, "//////"))

    def bands(axes: Axes, block: pd.DataFrame) -> None:
        for name, (style, alpha, hatch) in zip(classes, looks, strict=False):
            one = block[block["class"] == name]
            low, high = one["mean"] - one["sd"].fillna(0), one["mean"] + one["sd"].fillna(0)
            face, edge = to_rgba(style.colour, alpha), to_rgba(style.colour, 0.4)
            axes.fill_between(one["channel"], low, high, facecolor=face, edgecolor=edge, hatch=hatch, linewidth=0.4)
            axes.plot(one["channel"], one["mean"], label=name, **_line(style))

    heading = (FIGURES["gates_within_class"], f"{title}: {_images(gates, classes)}")
    return _panels(gates, summary, heading, "gate", bands)


def _line(style: Style) -> dict[str, Any]:
    return {"color": style.colour, "linestyle": style.dashes, "linewidth": style.width}


def _images(gates: pd.DataFrame, classes: list[str]) -> str:
    counts = gates.groupby("class", sort=False)["images"].first()[classes]
    return f"{range_text(counts.min(), counts.max())} images a class"


def listed_classes(gates: pd.DataFrame) -> list[str]:
    """The classes that are listed one by one, in their order."""
    return [name for name in gates["class"].unique() if name != ALL]


def drawn_channels(channels: int) -> list[int]:
    """Up to 50 channels, evenly spaced from the first to the last."""
    places = np.linspace(0, channels - 1, min(CHANNELS, channels)).round().astype(int)
    return [int(place) for place in np.unique(places)]


def _panels(
    gates: pd.DataFrame,
    summary: pd.DataFrame,
    heading: tuple[str, str],
    what: str,
    draw: Callable[[Axes, pd.DataFrame], None],
) -> Figure:
    """A panel a block, filled in by `draw` with the channels that are shown of it."""
    columns = min(len(summary), 2 if len(summary) == 4 else 3)
    rows = -(-len(summary) // columns)
    width = max(PANEL[0] * columns, 5.0)
    figure = Figure(figsize=(width, PANEL[1] * rows + 0.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)  # type: ignore[union-attr,call-arg]
    room = int(13 * width)  # letters that fit into a line
    figure.suptitle("\n".join(shorten(line, room) for line in heading), fontsize=9.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(summary):
            axes.set_axis_off()
            continue
        row = summary.iloc[place]
        block = gates[gates["block"] == row["block"]]
        channels = drawn_channels(int(row["channels"]))
        draw(axes, block[block["channel"].isin(channels)])
        count = f"{len(channels)} of {row['channels']:,}" if len(channels) < row["channels"] else f"{row['channels']}"
        axes.set_title(f"{shorten(str(row['block']), 30)}: {count} channels")
        axes.set_xlabel("channel")
        axes.set_ylabel(what)
        axes.margins(x=0.02)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if row["excitation"] in BOUNDED:
            axes.set_ylim(-0.02, 1.02)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(
        handles,
        [shorten(name, 24) for name in names],
        loc="outside lower center",
        title="class",
        title_fontsize=LABEL_SIZE,
        ncols=min(len(names), 7 if columns == 3 else 5 if columns == 2 else 3),
        frameon=False,
        fontsize=LABEL_SIZE,
        handlelength=3,
    )
    return figure


def write_gates(folder: str | Path, gates: pd.DataFrame, blocks: pd.DataFrame, title: str) -> list[Path]:
    """Write `gates.csv`, `blocks.csv` and both figures (svg, png, pdf) into a folder, all or none.

    Args:
        folder: made if missing.
        gates: see `gate_summary.summarise_gates`.
        blocks: see `gate_summary.summarise_gates`.
        title: what network on what images.
    """
    text = gates.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    gates = gate_summary.read_gates(io.StringIO(text))
    summary = gate_summary.summarise_gates(gates, blocks)
    contents = {
        "gates.csv": text.encode(),
        "blocks.csv": summary.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode(),
        **render_gates(gates, summary, title),
    }
    return files.replace_all(folder, contents)
