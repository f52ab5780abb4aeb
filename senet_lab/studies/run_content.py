"""What stands in a W&B run: the name, the configuration, the curves and the results of a trial; a study's table."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from senet_lab.config import SE

if TYPE_CHECKING:
    from senet_lab.studies.plan import Cell

LONGEST = 128  # characters that W&B takes in a name, group or job type
NO_SE = "none"
MEASURED = ("commit", "dirty", "host", "device_name", "versions")  # of a record, shown beside the configuration

Record = dict[str, Any]


def describe(cell: Cell) -> tuple[str, str, Record]:
    """Name, job type and configuration of a trial's run."""
    config = {**cell.spec.config(), "row": cell.row.label, "trial_id": cell.trial_id}
    config["se"] = config["se"] or "none"  # W&B drops a null, and a plain network should be found
    config["design"] = design(cell.spec.se)
    return f"{cell.row.label}, seed {cell.seed}", cell.row.label, text_keys(config)


def design(se: SE | None) -> dict[str, str]:
    """An SE design in one word a factor, which W&B can group by; `none` all over for the plain network.

    A trial may belong to several studies, under another label in each. What it is grouped by must hold in all of them.
    """
    if se is None:
        return {field.name: NO_SE for field in dataclasses.fields(SE)}
    words = {field.name: str(getattr(se, field.name)) for field in dataclasses.fields(SE)}
    ratios = set(se.reduction.values())
    each = (f"{stage}:{ratio}" for stage, ratio in se.reduction.items())
    return {
        **words,
        "reduction": str(*ratios) if len(ratios) == 1 else " ".join(each),
        "stages": " ".join(map(str, se.reduction)),
    }


def fill(run: Any, cell: Cell, record: Record) -> int:
    """Put a trial's record into its run; one that is resumed, or was live, has the epochs before its step."""
    for entry in record.get("epochs", []):
        if entry["epoch"] >= run.step:
            run.log(entry, step=int(entry["epoch"]))
    run.config.update({name: record[name] for name in MEASURED if name in record}, allow_val_change=True)
    run.summary.update({f"final/{name}": value for name, value in record.get("metrics", {}).items()})
    run.summary.update({"params": cell.row.cost.params, "GFLOPs": cell.row.cost.macs / 1e9})
    run.summary.update({name: record[name] for name in ("state", "seconds") if name in record})
    if "reason" in record or run.resumed:  # a trial that failed may have been retried
        run.summary["reason"] = record.get("reason", "")
    return int(record["state"] != "done")


def table_run_id(study: str, table: bytes) -> str:
    """Id of the study's own run, with this table (a CSV)."""
    return f"study-{hashlib.sha256(study.encode() + table).hexdigest()[:16]}"


def fill_table(run: Any, table: Path, figure: Path) -> None:
    """Put a study's table and figure into its run."""
    import wandb

    frame = pd.read_csv(table, dtype={"row": str}, keep_default_na=False, na_values=[""]).astype(object)
    run.log({"table": wandb.Table(dataframe=frame.where(frame.notna(), None)), "figure": wandb.Image(str(figure))})


def short(text: str) -> str:
    """Text that W&B takes as a name, still another one for another text."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 9]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def text_keys(value: Any) -> Any:
    """Mappings with text as keys, all the way down (stages are numbers; JSON has none as keys)."""
    if isinstance(value, dict):
        return {str(key): text_keys(inner) for key, inner in value.items()}
    return value
