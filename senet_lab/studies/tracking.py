"""Weights & Biases: a run for every trial, and one for the study that holds its table and figure.

A trial's run id is its trial id, in whichever study it appears, so that nothing is there twice. Offline (the default),
a run is written once, from its record, when the trial has ended: in a temporary folder, then renamed, so that a run
that is there is whole (W&B cannot go on with an offline run that was cut off); `wandb sync` uploads these folders.
Online, curves are live, and a run that was cut off is resumed.

Tracking is never in the way of training: a thread of its own does it, and what it could not write is said at the end.
The same command, given again, writes what is missing.

The configuration says whether (`tracking`) and where on disk (`results`); WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY,
WANDB_BASE_URL and WANDB_API_KEY mean what W&B says they mean. What an agent of a sweep, or whoever else has started
this process, says of a single run (WANDB_RUN_ID, WANDB_SWEEP_ID, …) is not meant for trials, each of which has its own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from senet_lab.config import RunError, UserError, first_line
from senet_lab.studies import silence
from senet_lab.studies.run_content import Record, describe, fill, fill_table, short, table_run_id

if TYPE_CHECKING:
    from senet_lab.studies.plan import Cell

PROJECT = "senet_lab"
INIT_SECONDS, FINISH_SECONDS = 30, 60  # patience with a server
RUN_SECONDS = 180  # with a run's beginning, or the rest of it; more than both kinds of patience together
LOCK_SECONDS = 600  # with other drivers that are writing
ROOM_BYTES = 4 * 2**20  # more than a run takes on disk
FAILED = (
    "-failed"  # ends the folder or mark of a trial that failed, so that its success, when it is retried, is another
)
MODES = {"online": "online", "run": "online", "shared": "online", "offline": "offline", "dryrun": "offline"}
MODES |= {"disabled": "off"}  # of WANDB_MODE
OF_ONE_RUN = ("sweep_id", "sweep_param_path", "launch_config_path", "run_id", "resume", "resume_from", "fork_from")
HOW_TO_LOG_IN = "`wandb login` stores one, WANDB_API_KEY gives one"

Fill = Callable[[Any], int | None]  # puts into a run what it holds; its exit code, 0 if there is none


class Tracker:
    """Writes the W&B runs of a study.

    Args:
        mode: as `tracking` has it.
        folder: named `wandb`, as W&B has it; keeps `offline-run-*` as `wandb sync` takes them, and below `online/` a
            mark of each run that was uploaded live.
        study: what the runs are grouped by.

    Raises:
        UserError: online without a key, or a WANDB_MODE that W&B does not know.
        RunError: online, and the server cannot be reached or refuses the key.
    """

    def __init__(self, mode: str, folder: Path, study: str) -> None:
        self.mode = mode_of(mode)
        self.folder = folder
        self.study = study
        self.live: dict[str, tuple[Any, IO[str]]] = {}  # run id → its open run and the mark that it will leave; online
        self.missed: dict[str, str] = {}  # run id → why it is not there
        self.thread = ThreadPoolExecutor(1, "tracking")
        self.tasks: list[tuple[str, Future[None]]] = []
        self.there: set[str] = set()  # runs that need not be written
        if self.mode == "off":
            return
        # W&B's service, started with the first run, inherits these. Its files would lie in the user's home; its reports
        # of its own errors would, without a network, fill the terminal and hold up the end.
        for place in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            os.environ.setdefault(place, str(folder.absolute() / ".client"))
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        if self.mode == "online":
            asked = "tracking=online" if mode == "online" else f"WANDB_MODE={os.environ['WANDB_MODE']}"
            if not log_in(asked, "tracking=offline needs no server"):
                raise UserError(f"{asked}: there is no W&B key; {HOW_TO_LOG_IN}; tracking=offline needs none")
        self.there = self.look()

    def epoch(self, cell: Cell, entry: dict[str, float]) -> None:
        """Show an epoch of a trial that is running; online only."""
        if self.mode == "online":
            self.later(cell.trial_id, lambda: self.show(cell, entry))

    def trial(self, cell: Cell, record: Record) -> None:
        """Write the run of a trial that has ended, unless it is there."""
        if self.mode == "off":
            return
        outcome = cell.trial_id if record["state"] == "done" else cell.trial_id + FAILED
        if outcome not in self.there:
            self.later(cell.trial_id, lambda: self.write(cell.trial_id, lambda run: fill(run, cell, record), cell))

    def table(self, table: Path, figure: Path) -> None:
        """Write the study's own run: its table (a CSV) and its figure. Another table is another run.

        Raises:
            RunError: runs of the study are not there; which, and why.
        """
        if self.mode == "off":
            return
        run_id = table_run_id(self.study, table.read_bytes())
        if self.mode == "online" and self.missed:
            self.missed[run_id] = "left out"
        elif run_id not in self.there:
            self.attempt(run_id, lambda: self.write(run_id, lambda run: fill_table(run, table, figure)))
        if self.missed:
            why = next(iter(self.missed.values()))
            raise RunError(
                f"tracking={self.mode}: {len(self.missed)} of the study's W&B runs could not be written ({why}); "
                "the study is complete, and the same command writes them"
            )

    # -------------------------------------------------------------------------------------------------------- thread

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, exc_type: object, *exc_info: object) -> None:
        """Finish what has begun; when the study is interrupted, leave the rest to the next time."""
        if exc_type or (self.mode == "online" and self.missed):  # every further one would wait as long, in vain
            for run_id, task in self.tasks:
                if task.cancel():
                    self.missed.setdefault(run_id, "left out")
        self.thread.submit(self.leave)
        self.thread.shutdown()

    def leave(self) -> None:
        """Let go of runs that are still live; they count as failed until they are resumed."""
        for run, _ in self.live.values():
            if run is not None:
                with silence.limit(RUN_SECONDS):
                    run.finish(exit_code=1)

    def later(self, run_id: str, task: Callable[[], None]) -> None:
        """Have the thread do it, after all that it was given before."""
        self.tasks = [(other, waiting) for other, waiting in self.tasks if not waiting.done()]
        self.tasks.append((run_id, self.thread.submit(self.attempt, run_id, task)))

    def attempt(self, run_id: str, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception as error:  # whatever the client makes of a network that is gone or a disk that is full
            self.missed[run_id] = first_line(error)

    # ------------------------------------------------------------------------------------------------------- writing

    def look(self) -> set[str]:
        """Ids of the runs that are there."""
        if self.mode == "online":
            return {mark.name for mark in self.folder.glob("online/*") if mark.stat().st_size}
        return {path.name.split("-", 3)[3] for path in self.folder.glob("offline-run-*-*")}

    def write(self, run_id: str, fill: Fill, cell: Cell | None = None) -> None:
        """Write a whole run, or what a live one lacks; nothing where `wandb disabled` has switched W&B off."""
        if session().settings.mode == "disabled":
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.mode == "online":
            self.upload(run_id, fill, cell)
        else:
            self.save(run_id, fill, cell)
        self.missed.pop(run_id, None)  # its curve may have been missed while it was live

    def save(self, run_id: str, fill: Fill, cell: Cell | None) -> None:
        """Write an offline run: one writer at a time, and a folder that is renamed when it is whole."""
        temporary = self.folder / ".writing"
        with (self.folder / ".lock").open("a") as lock:
            wait_for_lock(lock)  # a writer that is killed lets go of it
            shutil.rmtree(temporary, ignore_errors=True)  # left by a writer that was killed
            with silence.limit(RUN_SECONDS):
                run = self.start(run_id, temporary, cell)
                exit_code = fill(run)
                run.finish(exit_code=exit_code)
            (written,) = temporary.glob("wandb/offline-run-*")
            outcome = run_id + FAILED if exit_code else run_id
            if not {run_id, outcome} & self.look():  # another driver may have waited for the same trial, and be done
                written.rename(self.folder / (written.name.removesuffix(run_id) + outcome))
            shutil.rmtree(temporary)
            if not exit_code:
                for before in self.folder.glob(f"offline-run-*-{run_id}{FAILED}"):
                    shutil.rmtree(before)

    def upload(self, run_id: str, fill: Fill, cell: Cell | None) -> None:
        """Finish an online run, and leave the mark that says so."""
        with silence.limit(RUN_SECONDS):
            run, mark = self.live.pop(run_id) if run_id in self.live else self.go_live(run_id, cell)
        with mark, silence.limit(RUN_SECONDS):
            if run is not None:
                exit_code = fill(run)
                run.finish(exit_code=exit_code)
                if exit_code:
                    Path(f"{mark.name}{FAILED}").write_text(f"{run.url}\n")
                else:
                    mark.write(f"{run.url}\n")

    def show(self, cell: Cell, entry: dict[str, float]) -> None:
        """Log an epoch of a live run, if it is the next one. If epochs before it never reached the server, a step back
        would be refused later: then the record brings them all when the trial has ended."""
        run_id = cell.trial_id
        if run_id in self.missed:
            return
        with silence.limit(RUN_SECONDS):
            if run_id not in self.live:
                self.live[run_id] = self.go_live(run_id, cell)
            run, _ = self.live[run_id]
            if run is not None and run.step <= entry["epoch"] <= run.step + 1:
                run.log(entry, step=int(entry["epoch"]))

    def go_live(self, run_id: str, cell: Cell | None) -> tuple[Any, IO[str]]:
        """Open an online run, and its mark; None for the run if it is uploaded, or live in another driver."""
        path = self.folder / "online" / run_id
        path.parent.mkdir(parents=True, exist_ok=True)
        mark = path.open("a")
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None, mark
        return None if mark.tell() else self.start(run_id, self.folder.parent, cell), mark

    def start(self, run_id: str, folder: Path, cell: Cell | None) -> Any:
        """Open a W&B run, which writes to `folder`/wandb: a trial's, or without a cell the study's own."""
        import wandb

        session()
        check_room(folder)
        online = self.mode == "online"
        name, job_type, config = (f"{self.study}: table", "study", {}) if cell is None else describe(cell)
        try:
            return wandb.init(
                project=place()[1],
                id=run_id,
                dir=folder,
                mode="online" if online else "offline",
                name=short(name),
                group=short(self.study),
                job_type=short(job_type),
                config={**config, "study": self.study},
                resume="allow" if online else None,
                reinit="create_new",  # several trials are live at a time
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
        finally:
            silence.limit_at_exit()


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
        reason = first_line(error).rstrip(".")
        raise RunError(f"{word}: {reason}; {otherwise}") from error
    finally:
        silence.limit_at_exit()


def place() -> tuple[str, str]:
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


def mode_of(word: str) -> str:
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


def wait_for_lock(lock: IO[str]) -> None:
    """Have the lock on a file for ourselves; a TimeoutError if others do not let go of it."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise TimeoutError(f"others have held {lock.name} for {LOCK_SECONDS} seconds") from None
            time.sleep(0.05)


def check_room(folder: Path) -> None:
    """An OSError if the disk (or the user's share of it) is full: W&B's client would leave half a run in silence."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".room"
    try:
        probe.write_bytes(bytes(ROOM_BYTES))
    finally:
        probe.unlink(missing_ok=True)
