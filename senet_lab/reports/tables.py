"""Writes the folder of a study from its trials: Markdown, CSV, LaTeX and figures.

Everything is computed from the trials and their outputs for each test image, so that all of it regenerates byte
for byte from its `trials.csv` and `outputs.npz`. A search has a front, `front.*`, where any other study has `table.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.console import Console

from senet_lab import files, outputs
from senet_lab.outputs import Outputs
from senet_lab.reports import curve_figures, figures, front_figures
from senet_lab.reports.cells import csv_bytes
from senet_lab.reports.curves import curves_csv as curve_bytes
from senet_lab.reports.front import front, is_search
from senet_lab.reports.render import csv_text, latex, markdown, print_table
from senet_lab.reports.summary import NONE, summarise_study
from senet_lab.reports.table import Table
from senet_lab.reports.trials import canonical, read_study, read_trials

__all__ = [
    "Table",
    "canonical",
    "csv_text",
    "latex",
    "make_table",
    "markdown",
    "print_table",
    "read_study",
    "read_trials",
    "show_table",
    "summarise_study",
    "unpack_outputs",
    "write_table",
]


def make_table(trials: pd.DataFrame, known: Mapping[str, Outputs] = NONE) -> Table:
    """The table of trials, and of their outputs by trial id; of a search its front."""
    return front(trials) if is_search(trials) else summarise_study(trials, known)


def show_table(trials: pd.DataFrame, console: Console, known: Mapping[str, Outputs] = NONE) -> None:
    """Print the table of trials."""
    print_table(make_table(trials, known), console)


def unpack_outputs(packed: Mapping[str, bytes]) -> dict[str, Outputs]:
    """Trial id → outputs, from their bytes."""
    return {name: Outputs.unpacked(data) for name, data in packed.items()}


def write_table(
    folder: str | Path,
    trials: pd.DataFrame,
    runs: pd.DataFrame | None = None,
    curves: pd.DataFrame | None = None,
    packed: Mapping[str, bytes] | None = None,
    known: Mapping[str, Outputs] = NONE,
    table: Table | None = None,
) -> list[Path]:
    """Write `trials.csv`, `runs.csv`, `curves.csv`, `outputs.npz`, `table.md` `.csv` `.tex` and `figure.svg` `.png`
    `.pdf`, and `curves.svg` and `.pdf`; of a search `front.*` in place of these, and the figures `front.*` and
    `search.*`.

    Args:
        folder: made if missing; its files of these names are replaced, all of them or (on an error) none.
        trials: one line a training, columns as in `trials.COLUMNS`; brought to canonical form first.
        runs: what was measured once (time, memory, host), written as given; None leaves `runs.csv` alone.
        curves: what each training reached after each epoch (`curves.COLUMNS`); None leaves `curves.*` alone.
        packed: trial id → its outputs for each test image (`senet_lab.outputs`), of those that have them; None, or
            nothing, leaves `outputs.npz` alone.
        known: trial id → outputs that lie in the folder's `outputs.npz` already, or will be copied there.
        table: of these trials, where it is made already (`made`).

    Returns:
        The files written.

    Raises:
        ValueError: where the trials do not make one table, or the outputs are not of its test images, in one line.
        OSError: where the folder cannot be written.
    """
    frame = canonical(trials)
    searched = is_search(frame)
    table = table or make_table(frame, unpack_outputs(packed) if packed else known)
    contents = {"trials.csv": csv_bytes(frame)}
    if runs is not None:
        contents["runs.csv"] = csv_bytes(runs)
    if curves is not None:
        # A search's have all digits, as those that are published do.
        contents["curves.csv"] = csv_bytes(curves) if searched else curve_bytes(curves)
    if packed:
        contents[outputs.FILE] = outputs.file_bytes(packed, table.test_images)
    name = "front" if searched else "table"
    for form, text in (("md", markdown(table)), ("csv", csv_text(table)), ("tex", latex(table))):
        contents[f"{name}.{form}"] = text.encode("utf-8", "replace")
    drawn = front_figures.render_front(table) if searched else figures.render_study(table)
    if curves is not None and not searched:
        drawn |= curve_figures.render_curves(table, curves)
    return files.replace_all(folder, contents | drawn)
