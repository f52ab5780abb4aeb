"""`curves.csv`: the metrics of every training after each epoch, and their summary by row.

Beside `trials.csv`, in a file of its own, because no table is made from it: a folder without one still has its tables.
Like `trials.csv` it holds only what the seed determines. Six digits are more than the counts of images behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from senet_lab.reports.cells import clean_text, read_cells, require, typed_column, with_file_name

METRICS = ("train_loss", "train_error", "val_loss", "val_error")  # errors: top-1, percent
PER_EPOCH = ("epoch", *METRICS)
COLUMNS: dict[str, str] = {
    "trial_id": "text",
    "row": "text",
    "seed": "int",
    "epoch": "int",  # from 1
    **dict.fromkeys(METRICS, "float"),
}
POINTS = 200  # of a curve that is shown; a longer one is thinned


def curves_csv(curves: pd.DataFrame) -> bytes:
    """Curves as CSV: the columns of `COLUMNS`, in the order given."""
    text: str = curves.reindex(columns=list(COLUMNS)).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return text.encode("utf-8", "replace")


def as_written(curves: pd.DataFrame) -> pd.DataFrame:
    """The curves with the digits that `curves_csv` writes."""
    return curves.assign(**{name: [float(f"{value:.6g}") for value in curves[name].astype(float)] for name in METRICS})


def read_curves(path: str | Path) -> pd.DataFrame:
    """The curves in a file; a file with no more than its header (every trial failed in its first epoch) is none.

    Raises:
        ValueError: in one line that names the file and what is wrong with it.
    """
    cells = read_cells(path)
    with with_file_name(path):
        require(COLUMNS, cells.columns)
        texts = {name: [clean_text(cell) for cell in cells[name]] for name in COLUMNS}
        for name, kind in COLUMNS.items():
            # A study without validation images has no such curves; a gap in any other is damage.
            if kind != "text" and "" in texts[name] and (name not in METRICS or any(texts[name])):
                raise ValueError(f"line {texts[name].index('') + 2}: {name} is empty")
        frame = pd.DataFrame({name: typed_column(name, kind, texts[name]) for name, kind in COLUMNS.items()})
        twice = frame.index[frame.duplicated(["row", "seed", "epoch"])]
        if len(twice):
            raise ValueError(f"line {int(twice[0]) + 2}: this epoch of its row and seed appears twice")
        return frame


def curves_of_records(trials: pd.DataFrame, epochs: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """Curves in the order of the trials, from what each trained epoch by epoch.

    Args:
        trials: their trial_id, row and seed.
        epochs: trial id → one mapping an epoch, with `epoch` and the metrics; a trial that is missing has no curve.
    """
    lines = [
        {"trial_id": trial_id, "row": clean_text(row), "seed": seed, **{name: entry.get(name) for name in PER_EPOCH}}
        for trial_id, row, seed in zip(trials["trial_id"], trials["row"], trials["seed"], strict=True)
        for entry in epochs.get(trial_id, ())
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


@dataclass(frozen=True)
class Curve:
    """A row's seeds together.

    Attributes:
        epochs: from 1.
        n: seeds that reached each of them.
        values: metric → their mean, least, most and standard deviation (n − 1; 0 for one seed), (4, epochs); NaN where
            no seed has it.
    """

    epochs: list[int]
    n: list[int]
    values: dict[str, NDArray[np.float64]]


def row_curves(curves: pd.DataFrame) -> dict[str, Curve]:
    """Row → its curve. Of more than 200 epochs, 200 are kept, evenly spaced from the first to the last."""
    groups = curves.groupby(["row", "epoch"], sort=True)
    counts = groups.size()
    metrics = groups[list(METRICS)]
    spread = metrics.std().where(metrics.count() != 1, 0.0)
    values_4EM = np.stack([each.to_numpy(float) for each in (metrics.mean(), metrics.min(), metrics.max(), spread)])
    places: dict[str, list[int]] = {}
    for place, (label, _) in enumerate(counts.index):
        places.setdefault(str(label), []).append(place)
    summaries = {}
    for label, of_row in places.items():
        kept = np.array(of_row)[
            np.unique(np.linspace(0, len(of_row) - 1, min(POINTS, len(of_row))).round().astype(int))
        ]
        values = {metric: values_4EM[:, kept, number] for number, metric in enumerate(METRICS)}
        summaries[label] = Curve([int(counts.index[place][1]) for place in kept], counts.iloc[kept].tolist(), values)
    return summaries
