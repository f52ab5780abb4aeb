"""Keeps a table that would be replaced by one of other trials, beside it under another name.

The same words may mean other trials than before: code or images were changed, two data sets or studies have one name,
or rows or seeds were removed. A table that has all trials of the one before replaces it, because it continues the same
study.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from senet_lab import files
from senet_lab.reports.cells import csv_bytes, read_cells
from senet_lab.reports.trials import PARTIAL, canonical


def lost_trials(folder: Path, trial_ids: Collection[str]) -> tuple[int, int]:
    """How many trials of the table in a folder are missing from these, and how many it has. An unreadable table counts
    as one missing trial."""
    path = folder / "trials.csv"
    if not path.is_file():
        return 0, 0
    try:
        cells = read_cells(path)
        present = set(cells["trial_id"])
    except (ValueError, KeyError):
        return 1, 1
    return len(present - set(trial_ids)), len(present)


def kept_folder(folder: Path) -> Path:
    """Where the table in a folder is kept when another one takes its place: `ratio~1a2b3c4d`."""
    name = f"{folder.name}~{hashlib.sha256((folder / 'trials.csv').read_bytes()).hexdigest()[:8]}"
    places = [folder.with_name(name), *(folder.with_name(f"{name}-{number}") for number in range(2, 100))]
    return next(place for place in places if not place.exists())


def replacement_notice(folder: Path, trial_ids: Collection[str]) -> str:
    """The notice that a table will be kept under another name, before these trials are trained; empty if its trials are
    all among these."""
    lost, total = lost_trials(folder, trial_ids)
    if not lost:
        return ""
    whose = "other trials" if lost == total else f"{total} trials, {lost} of which are not among these"
    kept = kept_folder(folder).name
    return f"{folder}/ has a table of {whose}: it will be kept as {kept}/ (results=DIR leaves it there)"


def make_room(folder: Path, trial_ids: Collection[str]) -> Path | None:
    """Rename the folder if its table has trials that these lack; returns the new folder.

    Raises:
        OSError: where it cannot be renamed.
    """
    if not lost_trials(folder, trial_ids)[0]:
        return None
    place = kept_folder(folder)
    folder.rename(place)
    return place


def leave_part(folder: Path, trials: pd.DataFrame) -> None:
    """Write `trials.csv` for a part of a study, unless a complete table or one of other trials is there.

    Raises:
        OSError: where it cannot be written.
        ValueError: where the trials do not make a table.
    """
    path = folder / "trials.csv"
    whole = path.exists() and not is_partial(path)
    if not (whole or lost_trials(folder, set(trials["trial_id"]))[0]):
        files.replace_all(folder, {path.name: csv_bytes(canonical(trials))})


def is_partial(path: Path) -> bool:
    """Whether a `trials.csv` is of a part of a study."""
    try:
        return path.is_file() and any(PARTIAL.match(title) for title in read_cells(path)["title"])
    except (ValueError, KeyError):  # damaged: whoever reads it says so
        return False
