"""Weights & Biases: a run for every trial, and one for the study that holds its table and figure.

A trial's run id is its trial id, so that nothing is uploaded twice. Offline (the default), a run is written once, from
its record, when the trial has ended: in a temporary folder, then renamed, so that a folder that is there is whole
(W&B cannot go on with an offline run that was cut off). Online, curves are live.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from senet_lab.config import RunError, UserError
from senet_lab.studies.plan import Cell

PROJECT = "senet_lab"
MODES = ("offline", "online", "off")


class Tracker:
    """Writes the W&B runs of a study.

    Args:
        mode: `offline`, `online` or `off`.
        folder: keeps `offline-run-*` as `wandb sync` takes them, and marks of what was uploaded online.
        study: what the runs are grouped by.

    Raises:
        UserError: for another mode.
    """

    def __init__(self, mode: str, folder: Path, study: str) -> None:
        if mode not in MODES:
            raise UserError(f"tracking: there is no mode '{mode}'; there are {', '.join(MODES)}")
        self.mode = mode
        self.folder = folder
        self.study = study
        self.live: dict[str, Any] = {}  # trial id → its open run, online

    def epoch(self, cell: Cell, entry: dict[str, float]) -> None:
        """Show an epoch of a trial that is running; online only."""
        if self.mode == "online":
            if cell.trial_id not in self.live:
                self.live[cell.trial_id] = self.start(cell.trial_id, self.folder, **self.about(cell))
            log(self.live[cell.trial_id], entry)

    def trial(self, cell: Cell, record: dict[str, Any]) -> None:
        """Write the run of a trial that has ended, unless it is written."""
        if self.mode == "off" or self.written(cell.trial_id):
            return

        def fill(run: Any) -> None:
            for entry in record.get("epochs", []):
                log(run, entry)
            run.summary.update({f"final/{name}": value for name, value in record.get("metrics", {}).items()})
            run.summary.update({"state": record["state"], "seconds": record.get("seconds")})
            run.summary.update({"params": cell.row.cost.params, "GFLOPs": cell.row.cost.macs / 1e9})
            if "reason" in record:
                run.summary["reason"] = record["reason"]

        self.write(cell.trial_id, fill, **self.about(cell))

    def table(self, table: Path, figure: Path) -> None:
        """Write the study's own run: its table (a CSV) and its figure. Another table is another run."""
        identity = f"study-{hashlib.sha256(self.study.encode() + table.read_bytes()).hexdigest()[:16]}"
        if self.mode == "off" or self.written(identity):
            return

        def fill(run: Any) -> None:
            import wandb

            frame = pd.read_csv(table, dtype=str, keep_default_na=False)
            run.log({"table": wandb.Table(dataframe=frame), "figure": wandb.Image(str(figure))})

        self.write(identity, fill, name=f"{self.study}: table", job_type="study", config={"study": self.study})

    # ------------------------------------------------------------------------------------------------------- writing

    def about(self, cell: Cell) -> dict[str, Any]:
        """What a trial's run is called and filed under."""
        config = {**cell.spec.config(), "row": cell.row.label, "study": self.study, "trial_id": cell.trial_id}
        config["se"] = config["se"] or "none"  # W&B drops a null, and a plain network should be found
        return {"name": f"{cell.row.label}, seed {cell.seed}", "job_type": cell.row.label, "config": text_keys(config)}

    def written(self, run_id: str) -> bool:
        pattern = f"offline-run-*-{run_id}" if self.mode == "offline" else f"online/{run_id}"
        return any(self.folder.glob(pattern))

    def write(self, run_id: str, fill: Any, **about: Any) -> None:
        """Write a whole run: offline by a rename, online by finishing it and leaving a mark."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.mode == "online":
                run = self.live.pop(run_id, None) or self.start(run_id, self.folder, **about)
                fill(run)
                run.finish()
                (self.folder / "online").mkdir(exist_ok=True)
                (self.folder / "online" / run_id).touch()
                return
            with tempfile.TemporaryDirectory(prefix=".writing-", dir=self.folder) as temporary:
                run = self.start(run_id, Path(temporary), **about)
                fill(run)
                run.finish()
                (written,) = Path(temporary).glob("wandb/offline-run-*")
                written.rename(self.folder / written.name)
        except OSError as error:
            raise RunError(f"the W&B run cannot be written to {self.folder}: {error}") from error

    def start(self, run_id: str, folder: Path, **about: Any) -> Any:
        """Open a W&B run in `folder`."""
        import wandb

        try:
            return wandb.init(
                project=PROJECT,
                id=run_id,
                dir=folder,
                mode="online" if self.mode == "online" else "offline",
                group=self.study,
                resume="allow" if self.mode == "online" else None,
                reinit="create_new",  # several trials run at a time
                settings=wandb.Settings(
                    silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
                ),
                **about,
            )
        except wandb.errors.Error as error:
            raise RunError(f"tracking={self.mode}: W&B: {str(error).strip().splitlines()[0]}") from error

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave runs that are still live to whoever goes on with them."""
        for run in self.live.values():
            run.finish(exit_code=1)
        self.live.clear()


def log(run: Any, entry: dict[str, float]) -> None:
    """Log an epoch, unless the run has it: a run that is resumed knows its last step."""
    if entry["epoch"] > run.step or run.step == 0:
        run.log(entry, step=int(entry["epoch"]))


def text_keys(value: Any) -> Any:
    """Mappings with text as keys, all the way down (stages are numbers; JSON has none as keys)."""
    if isinstance(value, dict):
        return {str(key): text_keys(inner) for key, inner in value.items()}
    return value
