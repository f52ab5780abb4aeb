"""The table and the figure of what gates are worth: errors with the gates of each stage replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from senet_lab import files
from senet_lab.reports.drawing import figure_files, shorten
from senet_lab.reports.statistics import half_width

Array = np.ndarray[Any, Any]
MEANING = {
    "one": "1",
    "mean": "their mean over the training images",
    "class": "the mean of the image's class (an oracle)",
    "shuffled": "those of another test image",
}


def summarise_replacement(outcomes: Sequence[Mapping[str, Array]]) -> pd.DataFrame:
    """One line a stage and one for all, after one for the networks as trained (stage `""`).

    Args:
        outcomes: of each network (a seed): stage → whether each test image is wrong, 1 or 0.

    Returns:
        stage, networks, error (percent, mean of the networks), delta (points above as trained), images (half of the 95%
        interval of delta over test images, for these networks), seeds (that over networks; NaN for one).
    """
    lines = []
    for stage in outcomes[0]:
        wrong_SN = 100 * np.stack([each[stage] for each in outcomes])
        change_SN = wrong_SN - 100 * np.stack([each[""] for each in outcomes])
        change_N, change_S = change_SN.mean(0), change_SN.mean(1)
        lines.append(
            {
                "stage": stage or "as trained",
                "networks": len(outcomes),
                "error": wrong_SN.mean(),
                "delta": change_SN.mean(),
                "images": float(half_width(change_N.std(ddof=1), len(change_N))) if stage else np.nan,
                "seeds": float(half_width(change_S.std(ddof=1), len(change_S)))
                if stage and len(change_S) > 1
                else np.nan,
            }
        )
    return pd.DataFrame(lines)


def print_replacement(summary: pd.DataFrame, how: str, console: Console) -> None:
    """The table on the terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("gates replaced", "error %", "Δ points", "± over images", "± over seeds"):
        table.add_column(head, justify="left" if head == "gates replaced" else "right")
    for line in summary.to_dict("records"):
        name = str(line["stage"])
        cells = [f"{line['error']:.2f}", f"{line['delta']:+.2f}" if pd.notna(line["images"]) else ""]
        cells += ["" if pd.isna(line[key]) else f"{line[key]:.2f}" for key in ("images", "seeds")]
        table.add_row(f"stage {name}" if name.isdigit() else name, *cells)
    console.print(table)
    console.print(f"Gates are replaced by {MEANING[how]}; 95% intervals.", markup=False, highlight=False)


def draw_replacement(summary: pd.DataFrame, how: str, title: str) -> Figure:
    """Δ of each stage with its intervals: thick over the test images, thin over the networks."""
    lines = summary[summary["stage"] != "as trained"]
    figure = Figure(figsize=(max(4.5, 0.8 * len(lines) + 1.5), 3.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(lines))
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.errorbar(places, lines["delta"], yerr=lines["seeds"], fmt="none", ecolor="black", elinewidth=0.8, capsize=4)
    axes.errorbar(places, lines["delta"], yerr=lines["images"], fmt="o", color="#0072B2", elinewidth=2.5)
    names = [f"stage {name}" if str(name).isdigit() else shorten(str(name), 16) for name in lines["stage"]]
    axes.set_xticks(places, names)
    axes.set_ylabel("Δ error, points")
    axes.set_xlabel("gates replaced")
    figure.suptitle(f"{shorten(title, 60)}\ngates replaced by {MEANING[how]}", fontsize=9.5)
    return figure


def write_replacement(folder: str | Path, summary: pd.DataFrame, how: str, title: str) -> list[Path]:
    """Write `replaced_<how>.csv` and the figure (svg, png, pdf) into a folder, all or none."""
    text = summary.assign(replaced_by=MEANING[how]).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    stem = f"replaced_{how}"
    contents = {f"{stem}.csv": text.encode()} | figure_files(lambda: draw_replacement(summary, how, title), stem)
    return files.replace_all(folder, contents)
