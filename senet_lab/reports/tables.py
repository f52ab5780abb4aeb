"""A study's table: from `trials.csv` to Markdown, CSV, LaTeX, the terminal and the figure.

Everything is computed from the trials and from what they made of each test image, so that the table regenerates byte
for byte from its `trials.csv` and `outputs.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.console import Console

from senet_lab import files, outputs
from senet_lab.outputs import Outputs
from senet_lab.reports import figures
from senet_lab.reports.curves import csv_bytes as curve_bytes
from senet_lab.reports.forms import csv_text, latex, markdown, terminal
from senet_lab.reports.rows import Table
from senet_lab.reports.summary import NONE, summarise
from senet_lab.reports.trials import canonical, csv_bytes, read_study, read_trials

__all__ = [
    "Table",
    "canonical",
    "csv_text",
    "latex",
    "markdown",
    "read_study",
    "read_trials",
    "show",
    "summarise",
    "terminal",
    "unpacked",
    "write",
]


def show(trials: pd.DataFrame, console: Console, found: Mapping[str, Outputs] = NONE) -> None:
    """Print the table of trials in canonical form, and of their outputs by trial id."""
    terminal(summarise(trials, found), console)


def unpacked(packed: Mapping[str, bytes]) -> dict[str, Outputs]:
    """Trial id → outputs, from their bytes."""
    return {name: Outputs.unpacked(data) for name, data in packed.items()}


def write(
    folder: str | Path,
    trials: pd.DataFrame,
    runs: pd.DataFrame | None = None,
    curves: pd.DataFrame | None = None,
    packed: Mapping[str, bytes] | None = None,
    known: Mapping[str, Outputs] = NONE,
) -> list[Path]:
    """Write `trials.csv`, `runs.csv`, `curves.csv`, `outputs.npz`, `table.md` `.csv` `.tex` and `figure.svg` `.png`
    `.pdf`.

    Args:
        folder: made if missing; its files of these names are replaced, all of them or (on an error) none.
        trials: one line a training, columns as in `trials.COLUMNS`; brought to canonical form first.
        runs: what was measured once (time, memory, host), written as given; None leaves `runs.csv` alone.
        curves: what each training reached after each epoch (`curves.COLUMNS`); None leaves `curves.csv` alone.
        packed: trial id → what it made of each test image (`senet_lab.outputs`), of those that have it; None, or
            nothing, leaves `outputs.npz` alone.
        known: trial id → outputs that lie in the folder's `outputs.npz` already, or will be copied there.

    Returns:
        The files written.

    Raises:
        ValueError: where the trials do not make one table, or the outputs are not of its test images, in one line.
        OSError: where the folder cannot be written.
    """
    frame = canonical(trials)
    table = summarise(frame, unpacked(packed) if packed else known)
    contents = {"trials.csv": csv_bytes(frame)}
    if runs is not None:
        contents["runs.csv"] = csv_bytes(runs)
    if curves is not None:
        contents["curves.csv"] = curve_bytes(curves)
    if packed:
        contents[outputs.FILE] = outputs.file_bytes(packed, table.test_images)
    contents |= {
        "table.md": markdown(table).encode("utf-8", "replace"),
        "table.csv": csv_text(table).encode("utf-8", "replace"),
        "table.tex": latex(table).encode("utf-8", "replace"),
    }
    return files.replace_all(folder, contents | figures.render(table))
