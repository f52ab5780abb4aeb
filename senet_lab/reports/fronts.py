"""A search's front: from `trials.csv` to Markdown, CSV, LaTeX, the terminal and the figure.

Everything is computed from the trials alone, so that the front regenerates byte for byte. Designs are compared by the
means over their seeds on the validation images; the test images, read once by each training, choose nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.console import Console

from senet_lab import files, outputs
from senet_lab.reports import front_figures, front_forms, search_figures
from senet_lab.reports.front_summary import is_search, summarise
from senet_lab.reports.trials import canonical, csv_bytes

__all__ = ["is_search", "show", "summarise", "write"]


def write(
    folder: str | Path,
    trials: pd.DataFrame,
    runs: pd.DataFrame | None = None,
    curves: pd.DataFrame | None = None,
    packed: Mapping[str, bytes] | None = None,
) -> list[Path]:
    """Write a search's files into a folder, all of them or none: `trials.csv`, `runs.csv`, `curves.csv`, `outputs.npz`
    (of the trials whose outputs are `packed`; without any it is left alone), and from the first alone `front.md` `.csv`
    `.tex`, `front.svg` `.png` `.pdf` and `search.svg` `.png` `.pdf`.

    Raises:
        ValueError: where the trials are not those of one search, or the outputs are not of its test images.
        OSError: where the folder cannot be written.
    """
    frame = canonical(trials)
    made = summarise(frame)
    contents = {"trials.csv": csv_bytes(frame)}
    if runs is not None:
        contents["runs.csv"] = csv_bytes(runs)
    if curves is not None:
        contents["curves.csv"] = csv_bytes(curves)
    if packed:
        contents[outputs.FILE] = outputs.file_bytes(packed, int(frame["test_images"].iloc[0]))
    contents |= {
        "front.md": front_forms.markdown(made).encode("utf-8", "replace"),
        "front.csv": front_forms.csv_text(made).encode("utf-8", "replace"),
        "front.tex": front_forms.latex(made).encode("utf-8", "replace"),
    }
    return files.replace_all(folder, contents | front_figures.render(made) | search_figures.render(made))


def show(trials: pd.DataFrame, console: Console) -> None:
    """Print the front of trials in canonical form."""
    front_forms.terminal(summarise(trials), console)
