"""Writes a study's records as Weights & Biases runs: one for every trial, and one that holds the study's table and
figure.

A trial's run id is its trial id, in whichever study it appears, so that nothing is there twice. Offline (the default)
a run is written to a temporary folder, then renamed, so that a run that is there is whole (W&B cannot go on with an
offline run that was cut off); `wandb sync` uploads these folders. Online, a run that was cut off is resumed.

The configuration says whether (`tracking`) and where on disk (`results`); WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY,
WANDB_BASE_URL and WANDB_API_KEY mean what W&B says they mean. What an agent of a sweep, or whoever else has started
this process, says of a single run (WANDB_RUN_ID, WANDB_SWEEP_ID, …) is not meant for trials, each of which has its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from senet_lab.config import RunError, UserError, first_line
from senet_lab.naming import short_hash
from senet_lab.studies.export_facts import ExportedStudy, WandbRun
from senet_lab.studies.store import DONE, Record, Store

PROJECT = "senet_lab"
LONGEST = 128  # characters that W&B takes in a name, group or job type
INIT_SECONDS, FINISH_SECONDS = 30, 40  # patience with a server
RUN_SECONDS = 90  # with a whole run; more than both kinds of patience together
ROOM_BYTES = 4 * 2**20  # more than a run takes on disk
FAILED = "-failed"  # ends the name of a trial's run that failed, so that its success, when it is retried, is another
MODES = {"online": "online", "run": "online", "shared": "online", "offline": "offline", "dryrun": "offline"}
MODES |= {"disabled": "off"}  # of WANDB_MODE
OF_ONE_RUN = ("sweep_id", "sweep_param_path", "launch_config_path", "run_id", "resume", "resume_from", "fork_from")
HOW_TO_LOG_IN = "`wandb login` stores one, WANDB_API_KEY gives one"
MEASURED = ("commit", "dirty", "host", "device_name", "versions")  # of a record, shown beside the configuration

Config = dict[str, Any]
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
        self, studies: Sequence[ExportedStudy], store: Store, heard: Callable[[int], None], whole: bool = False
    ) -> None:
        """Write the runs of trials that are recorded and, of studies that are whole, those of their tables, as far as
        they are not there.

        Args:
            studies: what is known of them.
            store: that holds the records.
            heard: called with the number of runs that are left, before the first and after each.
            whole: whether the studies have ended.

        Raises:
            Exception: whatever the client makes of a network that is gone or a disk that is full.
        """
        trials = {run.trial_id: (study, run) for study in reversed(studies) for run in study.runs}
        there = self.look()
        ended = store.finished(trials.keys() - there)
        failures = store.read(each for each in ended if each + FAILED in there)
        todo = [each for each in trials if each in ended and failures.get(each, {}).get("state") != "failed"]
        tables = {table_run_id(study.name, study.files[0].read_bytes()): study for study in studies if whole}
        left = len(todo) + len(tables.keys() - there)
        if left and session().settings.mode == "disabled":  # by the command `wandb disabled`
            left, todo, tables = 0, [], {}
        heard(left)
        for trial_id in todo:
            (study, run), record = trials[trial_id], store.read([trial_id])[trial_id]
            outcome = trial_id if record["state"] == DONE else trial_id + FAILED
            self.add(outcome, trial_id, study.name, *run_description(run), partial(fill, run=run, record=record))
            heard(left := left - 1)
        for run_id in tables.keys() - there:
            study = tables[run_id]
            put = partial(fill_table, table=study.files[0], figure=study.files[1])
            self.add(run_id, run_id, study.name, f"{study.name}: table", "study", {}, put)
            heard(left := left - 1)

    def look(self) -> set[str]:
        """The runs that are there, those of trials that failed with `FAILED`."""
        if self.online:
            return {mark.name for mark in self.folder.glob("online/*") if mark.stat().st_size}
        return {path.name.split("-", 3)[3] for path in self.folder.glob("offline-run-*-*")}

    def add(self, outcome: str, run_id: str, group: str, name: str, job_type: str, config: Config, put: Put) -> None:
        """Write one run, one writer at a time, unless another one has done so meanwhile. What writers that were killed
        have left is replaced, and so is a failure by a success.

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


def run_name(text: str) -> str:
    """Text that W&B takes as a name, still another one for another text."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 9]}~{short_hash(text)}"


def text_keys(value: Any) -> Any:
    """Mappings with text as keys, all the way down (stages are numbers; JSON has none as keys)."""
    if isinstance(value, dict):
        return {str(key): text_keys(inner) for key, inner in value.items()}
    return value


# --------------------------------------------------------------------------------------------------------------------
# W&B's client


def start(run_id: str, online: bool, folder: Path, name: str, group: str, job_type: str, config: Config) -> Any:
    """Open a W&B run, which writes to `folder`/wandb."""
    import wandb

    check_disk(folder)
    return wandb.init(
        project=entity_and_project()[1],
        id=run_id,
        dir=folder,
        mode="online" if online else "offline",
        name=run_name(name),
        group=run_name(group),
        job_type=run_name(job_type),
        config={**config, "study": group},
        resume="allow" if online else None,
        reinit="create_new",
        settings=wandb.Settings(
            silent=True,
            console="off",
            symlink=False,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,  # the command line, which may hold a password of the database
            x_save_requirements=False,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        ),
    )


@contextmanager
def client(folder: Path) -> Iterator[None]:
    """Set W&B's client up for the time of the body, in a process that does nothing else: what it leaves on disk lies in
    the folder of the runs, and is no report of its own errors, which would hold up the end without a network."""
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        os.environ.setdefault(name, str(folder.absolute() / ".client"))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    with tempfile.TemporaryDirectory() as place:
        tempfile.tempdir = place  # it counts on exit handlers to remove its own, and multiprocessing runs none
        yield


def log_in(word: str, otherwise: str) -> bool:
    """Make sure of key and server before anything else; a server that does not answer is given ten seconds.

    Args:
        word: what needs it, for the message.
        otherwise: what there is without it, likewise.

    Returns:
        Whether there is a key.

    Raises:
        RunError: the server cannot be reached or refuses the key.
    """
    import wandb

    session(mode="online")
    try:
        return bool(wandb.login(prompt=False, verify=True))
    except wandb.errors.Error as error:
        raise RunError(f"{word}: {first_line(error).rstrip('.')}; {otherwise}") from error


def entity_and_project() -> tuple[str, str]:
    """Entity and project that runs are in, as W&B's own settings name them: an empty entity is the user's default."""
    settings = session().settings
    return settings.entity or "", settings.project or PROJECT


def session(**settings: Any) -> Any:
    """W&B's client, as it is set up for this process: silent, and with nothing of what was said of one single run."""
    import wandb

    client = wandb.setup(settings=wandb.Settings(silent=True, launch=False, **settings))
    for name in OF_ONE_RUN:
        setattr(client.settings, name, None)  # given to `setup`, None would leave what there is
    return client


def wandb_mode(word: str) -> str:
    """`offline`, `online` or `off`. W&B that is switched off by WANDB_MODE stays so whatever `tracking` says; `auto` is
    what WANDB_MODE says, or `offline`.

    Raises:
        UserError: WANDB_MODE is none of W&B's.
    """
    said = os.environ.get("WANDB_MODE")
    if word == "off" or said is None:
        return "offline" if word == "auto" else word
    if said not in MODES:  # its client would only say so once all is trained
        raise UserError(f"WANDB_MODE={said}: there is no such mode; there are {', '.join(MODES)}")
    return MODES[said] if word == "auto" or MODES[said] == "off" else word


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End the body if it takes longer than this: W&B's client waits for its service, and for its beginning, without a
    limit. For the main thread of a process that has no other use of the alarm.

    Raises:
        TimeoutError: it did.
    """

    def over(*_: object) -> None:
        raise TimeoutError(f"W&B did not answer for {seconds:g} seconds")

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def check_disk(folder: Path) -> None:
    """An OSError if the disk (or the user's share of it) is full: W&B's client would leave half a run in silence."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".room"
    try:
        probe.write_bytes(bytes(ROOM_BYTES))
    finally:
        probe.unlink(missing_ok=True)
