"""`trials.csv`: one line a training, all that a table is made from, read and checked here and brought to one form.

The file holds only what the seed determines, ordered by row and seed, so that a study run again writes the same bytes.
Reading is strict: a cut-off or edited file is an error in one line, never a table with a row missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from senet_lab import outputs
from senet_lab.config import FAILURES
from senet_lab.outputs import Outputs
from senet_lab.reports.cells import clean_text, first, present, read_cells, require, typed_column, with_file_name

# What each column holds: "text", "int" or "float"; errors and losses are empty where a trial failed.
COLUMNS: dict[str, str] = {
    "study": "text",
    "title": "text",
    "paper_table": "text",  # table2 … table6, table10 … table16; empty if the paper has none
    "row": "text",
    "paper_row": "text",  # the row's name in the paper's table; empty if it is not in the paper
    "baseline": "text",  # label of the row that this one is compared with
    "seed": "int",
    "trial_id": "text",
    "status": "text",  # done | failed
    "reason": "text",  # of a failure
    "test_error": "float",  # top-1, percent
    "test_top5_error": "float",  # percent
    "val_error": "float",  # top-1, percent
    "val_loss": "float",
    "test_images": "int",
    "params": "int",  # of the network that was trained
    "macs": "int",  # its multiply-adds for one image
    "paper_params": "int",  # of the paper's network with the same change, for its classes; empty if there is none
    "paper_macs": "int",  # likewise, at the size of its images
    "hidden": "text",  # realised SE hidden widths, "stage:width …"
    "network": "text",  # structural fingerprint: equal text, same network
    "data": "text",
    "backbone": "text",
    "recipe": "text",
    "epochs": "int",
    "device": "text",  # cpu | cuda
    "torch": "text",  # version
}
# What files of an earlier lab do not have.
LATER: dict[str, str] = {
    "train_images": "int",
    "validation_images": "int",  # held out of the training images
    "classes": "int",  # of the data set
    "study_rows": "int",  # rows of the study, also of those that were not asked for (`study.only`)
    "study_tests": "int",  # networks among them that are compared with another one
    "failures": "text",  # what a failed trial is: `failures` of the configuration
    "test_loss": "float",  # −log p of the right class, mean over the test images
    "outputs": "text",  # digest of its outputs for each test image (`outputs.npz`); empty where these were not kept
    "metric": "text",  # what verdicts are about, error or loss (`aim`)
    "margin": "float",  # smallest difference that matters; empty where nobody said
    "settle_min": "int",  # seeds of a row at its first look; empty where their number was fixed
    "settle_max": "int",  # and at its last one
    "first_seed": "int",  # those before it had been seen when the study was planned
    "earlier_plans": "text",  # names of such plans on these rows
    "plan": "text",  # what the store has this one under
    "factors": "text",  # dotted keys that the rows vary, each a column with their levels; of two or more, a grid's
    "like": "text",  # the id of the row's training with seed 0, of which that plan speaks
}
KINDS = COLUMNS | LATER
OF_A_TRIAL = ("test_loss", "outputs", "like")  # of these; the others have one value in a table
NOT_EMPTY = ("study", "row", "seed", "status", "data", "backbone", "recipe")
ONE_VALUE = ("study", "paper_table", "test_images", *(name for name in LATER if name not in OF_A_TRIAL))
SETTING = ("data", "backbone", "recipe", "epochs")  # the same for a row and its baseline
# Where a factor's key begins so, these may differ between rows.
VARIED = {
    "data": ("data", "train_images", "validation_images"),
    "backbone": ("data", "backbone", "recipe", "epochs"),
    "recipe": ("recipe", "epochs"),
}
STATUSES = ("done", "failed")
PARTIAL = re.compile(r"Partial \((\d+ of \d+ trials)\): ")  # begins the title of a study that was stopped


def read_trials(path: str | Path) -> pd.DataFrame:
    """The trials in a file, checked and in canonical form (`canonical`).

    Raises:
        ValueError: in one line that names the file and what is wrong with it.
    """
    cells = read_cells(path)
    with with_file_name(path):
        return canonical(cells)


def read_study(path: str | Path) -> tuple[pd.DataFrame, dict[str, Outputs]]:
    """The trials in a file, and what lies beside it in `outputs.npz`: trial id → outputs, none without that file.

    Raises:
        ValueError: in one line that names the file and what is wrong with it.
    """
    beside = Path(path).with_name(outputs.FILE)
    return read_trials(path), outputs.read_file(beside) if beside.is_file() else {}


def canonical(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials checked, typed and ordered: rows as they first appear, seeds ascending; extra columns kept behind.

    Writing a canonical frame (`csv_bytes`), reading it and writing it again gives the same bytes.

    Raises:
        ValueError: for a missing column, a cell that is no number, a duplicate seed, data sets, recipes or backbones
            mixed in one comparison, a baseline that is not among the rows, or no trials at all.
    """
    names = [str(name) for name in trials.columns]
    require(COLUMNS, names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"column {twice[0]} appears twice")
    if trials.empty:
        raise ValueError("no trials")
    extra = [name for name in names if name not in COLUMNS]
    text = {name: [clean_text(value) for value in trials[name]] for name in (*COLUMNS, *extra)}
    for name in NOT_EMPTY:
        if "" in text[name]:
            raise ValueError(f"line {text[name].index('') + 2}: {name} is empty")
    frame = pd.DataFrame({name: typed_column(name, KINDS.get(name, "text"), cells) for name, cells in text.items()})
    _check(frame)
    order = {label: place for place, label in enumerate(dict.fromkeys(text["row"]))}
    return frame.sort_values(["row", "seed"], key=lambda c: c.map(order) if c.name == "row" else c, ignore_index=True)


def _check(frame: pd.DataFrame) -> None:
    """The rules that hold between cells."""
    for line, status in enumerate(frame["status"], start=2):
        if status not in STATUSES:
            raise ValueError(f"line {line}: status is '{status}', not one of {', '.join(STATUSES)}")
    done = frame["status"] == "done"
    for name in ("test_error", "test_images"):
        empty = frame.index[done & frame[name].isna()]
        if len(empty):
            raise ValueError(f"line {int(empty[0]) + 2}: {name} of a finished trial is empty")
    for name in ("test_error", "test_top5_error", "val_error"):
        outside = frame.index[(frame[name] < 0) | (frame[name] > 100)]
        if len(outside):
            at = int(outside[0])
            raise ValueError(f"line {at + 2}: {name} is {frame[name][at]:g}, not between 0 and 100 percent")
    if (frame.loc[done, "test_images"] < 1).any():
        raise ValueError("test_images is below 1")
    twins = frame.index[frame.duplicated(["row", "seed"])]
    if len(twins):
        at = int(twins[0])
        raise ValueError(f"line {at + 2}: seed {frame['seed'][at]} appears twice in row '{frame['row'][at]}'")
    varied = {name for key in factors_of(frame) for name in VARIED.get(key.split(".")[0], ())}
    for name in (name for name in ONE_VALUE if name not in varied):
        values = present(frame.get(name, ()))
        if len(values) > 1:
            raise ValueError(f"{name} is mixed in one table: {', '.join(map(str, values[:4]))}")
    if present(frame.get("metric", ())) == ["loss"]:
        empty = frame.index[done & frame.get("test_loss", pd.Series(dtype="float64")).reindex(frame.index).isna()]
        if len(empty):
            raise ValueError(
                f"metric=loss needs test_loss, which trial {frame['trial_id'][empty[0]]} does not have: it was trained "
                "before losses were kept"
            )
    way = failures_of(frame)
    if way not in FAILURES:
        raise ValueError(f"failures: there is no '{way}'; there are {', '.join(FAILURES)}")
    if way == "chance" and not present(frame.get("classes", ())):
        raise ValueError("failures=chance needs the column classes, how many classes the images have")
    for name in ("baseline", "paper_row"):
        mixed = frame.groupby("row", sort=False)[name].nunique()
        if (mixed > 1).any():
            raise ValueError(f"row '{mixed.index[mixed > 1][0]}' has more than one {name}")
    rows = present(frame["row"])
    for baseline in present(frame["baseline"]):
        if baseline not in rows:
            raise ValueError(f"the baseline '{baseline}' is not among the rows: {', '.join(rows[:12])}")
    _check_settings(frame, [name for name in SETTING if name not in varied])


def _check_settings(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """What is compared is of the same data set, network and recipe, as far as these are not what is varied."""
    baselines = frame["baseline"].where(frame["baseline"] != "", frame["row"])
    for baseline in present(baselines):
        compared = frame[(baselines == baseline) | (frame["row"] == baseline)]
        where = "one table" if baselines.nunique() == 1 else f"what is compared with '{baseline}'"
        for name in names:
            values = present(compared[name])
            if len(values) > 1:
                raise ValueError(f"{name} is mixed in {where}: {', '.join(map(str, values[:4]))}")


def factors_of(frame: pd.DataFrame) -> tuple[str, ...]:
    """The dotted keys that the rows vary, if the file names them; a ValueError where a column of levels is missing."""
    names = tuple(first(frame.get("factors", ()), "").split())
    require(names, frame.columns)
    return names


def failures_of(frame: pd.DataFrame) -> str:
    """How failed trials count, one of FAILURES."""
    return str(first(frame.get("failures", ()), next(iter(FAILURES))))


def guessing(frame: pd.DataFrame, best: int = 1) -> float | None:
    """Error of guessing, in percent, of a guess at the `best` classes; None where failures do not count so."""
    if failures_of(frame) != "chance":
        return None
    return 100 * max(0.0, 1 - best / int(first(frame["classes"])))
