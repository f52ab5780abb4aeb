"""What a study leaves: its records as the three tables that are published with it.

`trials.csv` and `curves.csv` hold only what the seed determines, ordered by row and seed, so that the same study ends
with the same bytes; `runs.csv` holds what is measured once (time, memory, host).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

from senet_lab import outputs
from senet_lab.config import Study
from senet_lab.naming import Composed, shell_line, word_text
from senet_lab.reports import cells as csv_cells
from senet_lab.reports.curves import curves_of_records
from senet_lab.studies.plan import Cell, Plan
from senet_lab.studies.rows import Row

CURVES = ("train_loss", "train_error", "val_loss", "val_error")  # of an epoch
Records = dict[str, dict[str, Any]]
PLACES = {"data.root": "data.root=DIR", "init": "init=FILE"}  # words that name a place of this machine
PUBLISHED = ("init=timm:", "init=torchvision:")

# Keys and groups of words that bear on no number of a study.
NOT_SHOWN = {"executor", "tracking", "results", "storage", "plan", "retry", "data.workers", "training.keep"}
NOT_SHOWN |= {"init_download"}


def trials_frame(
    plan: Plan,
    records: Records,
    packed: Mapping[str, bytes] = MappingProxyType({}),
    columns: Callable[[Cell], dict[str, Any]] = lambda cell: {},
) -> pd.DataFrame:
    """One line a row and seed: outcome, cost and what was trained.

    Args:
        packed: trial id → its outputs, of those that have them.
        columns: what a design of studies has beside these columns, or in their place.
    """
    cells = cells_by_row(plan)
    return pd.DataFrame([trial_line(plan, cell, records[cell.trial_id], packed) | columns(cell) for cell in cells])


def commands_file(composed: Composed, plan: Plan, words: Sequence[str]) -> dict[str, bytes]:
    """The file that says which command trains a study, and which one of its rows alone (with those that it is compared
    with); of a search, the search. What says where and how it was run (`NOT_SHOWN`) is left out, images lie in DIR and
    weights in FILE: the same study gives the same bytes on every machine, and no password is written.

    Args:
        words: that asked for the study, maybe with others (`+ablation=all`).
    """
    study = composed.config.study
    named = [f"+ablation={study.name}" if study and word == "+ablation=all" else word for word in words]
    keys = {word: word.partition("=")[0] for word in named}
    kept = [word for word, key in keys.items() if not {key, key.partition(".")[0]} & NOT_SHOWN]
    base = ["python", "-m", "senet_lab.run"]
    base += [word if word.startswith(PUBLISHED) else PLACES.get(keys[word], word) for word in kept]
    lines = {"": base}
    if study and study.rows:
        rest = [word for word in base if not word.startswith("study.only=")]
        lines |= {row.label: [*rest, f"study.only={word_text([row.label])}"] for row in plan.rows}
    frame = pd.DataFrame({"row": list(lines), "command": [shell_line(line) for line in lines.values()]})
    return {csv_cells.COMMANDS: csv_cells.csv_bytes(frame)}


def cells_by_row(plan: Plan) -> list[Cell]:
    order = {row.label: position for position, row in enumerate(plan.rows)}
    return sorted(plan.cells, key=lambda cell: (order[cell.row.label], cell.seed))


def trial_line(
    plan: Plan, cell: Cell, record: dict[str, Any], packed: Mapping[str, bytes] = MappingProxyType({})
) -> dict[str, Any]:
    study, row, config, facts = plan.config.study, cell.row, cell.row.config, plan.facts_of(cell.row)
    metrics = record.get("metrics", {})
    return {
        "study": study.name if study else "network",
        "title": plan.title,
        "paper_table": study.paper if study else "",
        "row": row.label,
        "paper_row": row.paper_row,
        "baseline": row.baseline,
        "seed": cell.seed,
        "trial_id": cell.trial_id,
        "status": record["state"],
        "reason": record.get("reason", ""),
        "test_error": metrics.get("test_error"),
        "test_top5_error": metrics.get("test_top5_error"),
        "val_error": metrics.get("val_error"),
        "val_loss": metrics.get("val_loss"),
        "test_images": plan.facts.test,
        "params": row.cost.params,
        "macs": row.cost.macs,
        "paper_params": row.paper_cost.params if row.paper_cost else None,
        "paper_macs": row.paper_cost.macs if row.paper_cost else None,
        "hidden": " ".join(f"{stage}:{'/'.join(map(str, widths))}" for stage, widths in row.hidden.items()),
        "network": row.network,
        "data": row.data,
        "backbone": config.backbone,
        "recipe": row.recipe,
        "epochs": config.recipe.epochs,
        "device": cell.spec.device,
        "torch": record.get("versions", {}).get("torch", ""),
        "train_images": facts.train,
        "validation_images": facts.validation,
        "classes": len(plan.facts.classes),
        "study_rows": plan.study_rows,
        "study_tests": plan.study_tests,
        "failures": plan.aim.failures,  # stands here in what is published
        "test_loss": metrics.get("test_loss"),
        "outputs": outputs.outputs_digest(packed[cell.trial_id]) if cell.trial_id in packed else "",
        **plan.aim.columns(),
        "like": cell.with_seed(0).trial_id if plan.aim.settles else "",
        **level_columns(study, row),
    }


def level_columns(study: Study | None, row: Row) -> dict[str, str]:
    """The columns of what is varied, and of the row's levels; none where a study lists designs of SE, whose labels say
    it. Backbone and recipe have columns anyway."""
    if study is None or not (study.factors or any(key.split(".")[0] != "se" for key in study.varied)):
        return {}
    own = row.level_texts
    return {"factors": " ".join(own)} | {key: text for key, text in own.items() if key not in ("backbone", "recipe")}


def curves_frame(trials: pd.DataFrame, records: Records) -> pd.DataFrame:
    """One line a row, seed and epoch: the losses and errors on the training and the validation images."""
    return curves_of_records(trials, {trial_id: record.get("epochs", []) for trial_id, record in records.items()})


def runs_frame(plan: Plan, records: Records) -> pd.DataFrame:
    """One line a row and seed: what was measured of the training itself."""
    return pd.DataFrame([run_line(cell, records[cell.trial_id]) for cell in cells_by_row(plan)])


def run_line(cell: Cell, record: dict[str, Any]) -> dict[str, Any]:
    started = record.get("started")
    return {
        "trial_id": cell.trial_id,
        "row": cell.row.label,
        "seed": cell.seed,
        "seconds": round(record["seconds"], 2) if "seconds" in record else None,
        "resumed": record.get("resumed"),
        "attempts": record.get("attempts"),
        "peak_memory_mib": round(record["peak_memory_mib"]) if "peak_memory_mib" in record else None,
        "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat("T", "seconds")
        if started
        else None,
        "host": record.get("host"),
        "device_name": record.get("device_name"),
        "versions": " ".join(f"{name}={number}" for name, number in record.get("versions", {}).items()),
        "commit": record.get("commit"),
        "dirty": record.get("dirty"),
    }


def rungs_frame(trainings: Iterable[tuple[int, Cell, list[dict[str, float]]]]) -> pd.DataFrame:
    """One line an epoch of the trainings that a search has stopped at a rung: when their design was asked for, the cell
    and the epochs that it has come to."""
    lines = [
        {"asked": number, "row": cell.row.label, "seed": cell.seed, "trial_id": cell.trial_id}
        | {"epoch": int(entry["epoch"])}
        | {name: entry[name] for name in CURVES}
        for number, cell, epochs in trainings
        for entry in epochs
    ]
    return pd.DataFrame(lines, columns=["asked", "row", "seed", "trial_id", "epoch", *CURVES])
