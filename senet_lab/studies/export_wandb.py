"""Writes a study's records as Weights & Biases runs: one for every trial, and one that holds the study's table and
figure.

A trial's run id is its trial id, in whichever study it appears, so that nothing is there twice. Offline (the default)
a run is written to a temporary folder, then renamed, so that a run that is there is whole (W&B cannot go on with an
offline run that was cut off); `wandb sync` uploads these folders. Online, a run that was cut off is resumed.

The configuration says whether runs are written (`tracking`) and where (`results`); WANDB_MODE, WANDB_PROJECT,
WANDB_ENTITY, WANDB_BASE_URL and WANDB_API_KEY have W&B's meaning. Settings of a single run (WANDB_RUN_ID,
WANDB_SWEEP_ID, …), which a sweep's agent sets for example, are ignored, because each trial has a run of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from senet_lab.studies.export_facts import ExportedStudy, WandbRun
from senet_lab.studies.store import DONE, Record, Store
from senet_lab.studies.wandb_client import Config, session, start, time_limit

RUN_SECONDS = 90  # with a whole run; more than both kinds of patience together
FAILED = "-failed"  # ends the name of a trial's run that failed, so that its success, when it is retried, is another
MEASURED = ("commit", "dirty", "host", "device_name", "versions")  # of a record, shown beside the configuration

Put = Callable[[Any], None]


@dataclass(frozen=True)
class Wandb:
    """Where runs are written.

    Attributes:
        folder: named `wandb`, as W&B has it; keeps `offline-run-*` as `wandb sync` takes them, and below `online/` a
            file for each run that was uploaded.
        online: whether the runs are uploaded.
    """

    folder: Path
    online: bool

    def write(
        self, studies: Sequence[ExportedStudy], store: Store, report: Callable[[int], None], whole: bool = False
    ) -> None:
        """Write the runs of recorded trials that W&B lacks and, for complete studies, the runs of their tables.

        Args:
            studies: what is known of them.
            store: that holds the records.
            report: called with the number of runs that are left, before the first and after each.
            whole: whether the studies have ended.

        Raises:
            Exception: whatever the client makes of a network that is gone or a disk that is full.
        """
        trials = {run.trial_id: (study, run) for study in reversed(studies) for run in study.runs}
        written = self.look()
        ended = store.finished(trials.keys() - written)
        failures = store.read(each for each in ended if each + FAILED in written)
        todo = [each for each in trials if each in ended and failures.get(each, {}).get("state") != "failed"]
        tables = {table_run_id(study.name, study.files[0].read_bytes()): study for study in studies if whole}
        left = len(todo) + len(tables.keys() - written)
        if left and session().settings.mode == "disabled":  # by the command `wandb disabled`
            left, todo, tables = 0, [], {}
        report(left)
        for trial_id in todo:
            (study, run), record = trials[trial_id], store.read([trial_id])[trial_id]
            outcome = trial_id if record["state"] == DONE else trial_id + FAILED
            self.add(outcome, trial_id, study.name, *run_description(run), partial(fill, run=run, record=record))
            report(left := left - 1)
        for run_id in tables.keys() - written:
            study = tables[run_id]
            put = partial(fill_table, table=study.files[0], figure=study.files[1])
            self.add(run_id, run_id, study.name, f"{study.name}: table", "study", {}, put)
            report(left := left - 1)

    def look(self) -> set[str]:
        """The ids of existing runs; those of failed trials end with `FAILED`."""
        if self.online:
            return {mark.name for mark in self.folder.glob("online/*") if mark.stat().st_size}
        return {path.name.split("-", 3)[3] for path in self.folder.glob("offline-run-*-*")}

    def add(self, outcome: str, run_id: str, group: str, name: str, job_type: str, config: Config, put: Put) -> None:
        """Write one run unless another process has written it. One process writes at a time. What killed writers have
        left is replaced, and a failed trial's run by that of its success.

        Args:
            outcome: what `look` is to find.
            put: puts into a run what it holds.
        """
        temporary = self.folder / ".writing"
        (self.folder / "online" if self.online else self.folder).mkdir(parents=True, exist_ok=True)
        with time_limit(RUN_SECONDS), (self.folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a writer that is killed lets go of it
            if {run_id, outcome} & self.look():
                return
            shutil.rmtree(temporary, ignore_errors=True)
            folder = self.folder.parent if self.online else temporary
            run = start(run_id, self.online, folder, name=name, group=group, job_type=job_type, config=config)
            put(run)
            run.finish(exit_code=int(outcome != run_id))
            if self.online:
                (self.folder / "online" / outcome).write_text(f"{run.url}\n")
                return
            (written,) = temporary.glob("wandb/offline-run-*")
            written.rename(self.folder / (written.name.removesuffix(run_id) + outcome))
            shutil.rmtree(temporary)
            for before in self.folder.glob(f"offline-run-*-{run_id}{FAILED}") if outcome == run_id else ():
                shutil.rmtree(before)


# --------------------------------------------------------------------------------------------------------------------
# What stands in a run


def run_description(run: WandbRun) -> tuple[str, str, Config]:
    """Name, job type and configuration of a trial's run."""
    config = text_keys({**run.config, "seed": run.seed, "trial_id": run.trial_id})
    return f"{run.row}, seed {run.seed}", run.row, config


def fill(made: Any, run: WandbRun, record: Record) -> None:
    """Put a trial's record into its W&B run; one that is resumed has the epochs before its step."""
    for entry in record.get("epochs", []):
        if entry["epoch"] >= made.step:
            made.log(entry, step=int(entry["epoch"]))
    made.config.update({name: record[name] for name in MEASURED if name in record}, allow_val_change=True)
    made.summary.update({f"final/{name}": value for name, value in record.get("metrics", {}).items()})
    made.summary.update({"params": run.params, "GFLOPs": run.macs / 1e9})
    made.summary.update({name: record[name] for name in ("state", "seconds") if name in record})
    if "reason" in record or made.resumed:  # a trial that failed may have been retried
        made.summary["reason"] = record.get("reason", "")


def fill_table(made: Any, table: Path, figure: Path) -> None:
    """Put a study's table and figure into its run."""
    import pandas as pd
    import wandb

    frame = pd.read_csv(table, dtype={"row": str}, keep_default_na=False, na_values=[""]).astype(object)
    made.log({"table": wandb.Table(dataframe=frame.where(frame.notna(), None)), "figure": wandb.Image(str(figure))})


def table_run_id(study: str, table: bytes) -> str:
    """Id of the study's own run, with this table (a CSV). Another table is another run."""
    return f"study-{hashlib.sha256(study.encode() + table).hexdigest()[:16]}"


def text_keys(value: Any) -> Any:
    """Mappings with text as keys, all the way down (stages are numbers; JSON has none as keys)."""
    if isinstance(value, dict):
        return {str(key): text_keys(inner) for key, inner in value.items()}
    return value


# --------------------------------------------------------------------------------------------------------------------
# W&B's client
