"""The exporter: a process of its own that reads a study's records from the store and writes W&B's runs and Optuna's
study.

It reads them when it starts, every `EVERY_SECONDS` while the study trains, and at its end. Whatever is missing on the
other side is written then, so that nothing is lost and nothing is there twice, whoever is killed when. Training never
waits for it; at the end it is waited for as long as it gets on. What it could not write is said, and the command that
writes it: `python -m senet_lab export wandb|optuna WORDS…`, which starts the same process.
"""

from __future__ import annotations

import os
import queue
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from senet_lab.config import Config, RunError, UserError, first_line, without_passwords
from senet_lab.labels import Composed
from senet_lab.studies import export_wandb
from senet_lab.studies.export_facts import Exported, Facts, Point, Run
from senet_lab.studies.export_wandb import WandbExport
from senet_lab.studies.store import Store
from senet_lab.studies.workers import undisturbed
from senet_lab.training.processes import end, spawned

if TYPE_CHECKING:
    from senet_lab.studies.designs import Design

EVERY_SECONDS = 30.0
SILENT_SECONDS = 120.0  # at the end, without a word that something was written
PARTING_SECONDS = 5.0  # to finish what has begun, when the user waits for the end
NICE = 5  # trainings go first
WAIT_SECONDS = 30.0  # at the end, for another exporter of the store
TITLES = {"wandb": "W&B runs", "optuna": "trials of the Optuna study"}
READY = "ready"
Files = tuple[Path, Path]  # a study's table (a CSV) and figure


@dataclass(frozen=True)
class Outcome:
    """What came of the export to one side.

    Attributes:
        written: how many runs or trials were written.
        left: how many could not be; None if that is not known.
        reason: why.
    """

    written: int = 0
    left: int | None = 0
    reason: str = ""

    def told(self, side: str) -> str:
        """How many could not be written, and why."""
        return f"{'what is lacking of the' if self.left is None else self.left} {TITLES[side]} ({self.reason})"


class Export(Protocol):
    """A study on one side."""

    written: int

    def grow(self, runs: Sequence[Run], points: Sequence[Point]) -> None:
        """The study has more trials than before."""

    def todo(self) -> list[Any]:
        """What is recorded and not there."""

    def write(self, heard: Callable[[int], None], patience: float = 0.0) -> None:
        """Write it."""


# --------------------------------------------------------------------------------------------------------------------
# The driver's end


class Exporter:
    """The driver's end of the process.

    Args:
        config: of the studies.
        facts: of the studies.
        sides: keys of `TITLES`.

    Raises:
        UserError: W&B is to be online, and there is no key.
        RunError: W&B is to be online, and its server cannot be reached, or refuses.
    """

    def __init__(self, config: Config, facts: Facts, sides: Sequence[str]) -> None:
        self.config = config
        self.facts = facts
        self.sides = sides
        self.start()

    def start(self) -> None:
        config = self.config
        asked = ""
        if "wandb" in self.sides and export_wandb.mode_of(config.tracking) == "online":
            asked = f"WANDB_MODE={os.environ['WANDB_MODE']}" if config.tracking == "auto" else "tracking=online"
        with undisturbed():
            folder = Path(config.results) / "wandb"
            self.process, self.pipe = spawned(
                "senet_lab exporter", serve, config.storage, self.sides, folder, asked, self.facts.studies
            )
        word: Any = None if asked else READY
        try:
            word = word or self.next(SILENT_SECONDS)
        finally:
            if word != READY:
                self.stop(0)
        if word != READY:
            raise word or RunError(f"{asked}: W&B's client did not answer for {SILENT_SECONDS:g} seconds")

    def grow(self) -> None:
        """Tell of the trials that the studies have been given since."""
        for added in self.facts.more():
            self.send("grow", *added)

    def conclude(self, words: Sequence[str], console: Console) -> None:
        """Export what is left of studies whose outputs are written, and print what could not be, and the command that
        does it later, by the words that have asked for the studies."""
        command = " ".join(["python -m senet_lab export {}", *map(shlex.quote, words)])
        for side, done in self.finish(self.facts.files()).items():
            if done.left != 0:
                line = f"not exported: {done.told(side)}; {command.format(side)} does it later"
                console.print(without_passwords(line), style="yellow", soft_wrap=True)

    def finish(self, files: Sequence[Files] = (), patience: float = SILENT_SECONDS) -> dict[str, Outcome]:
        """Export what is left, and end the process.

        Args:
            files: table (a CSV) and figure of each study, if they have ended.
            patience: seconds to wait for the next run or trial to be written.

        Returns:
            What came of it, by side.
        """
        found: dict[str, Outcome] = {}
        reason = f"nothing was heard of it for {patience:g} seconds"
        try:
            for _ in range(2):
                if not self.process.is_alive():  # it was killed, or is now; another one writes what is missing
                    self.start()
                self.send("finish", list(files))
                while len(found) < len(self.sides) and (word := self.next(patience)) is not None:
                    if isinstance(word, dict):
                        found |= word
                    elif isinstance(word, Exception):
                        raise word
                self.process.join(0 if len(found) == len(self.sides) else PARTING_SECONDS)
                if len(found) == len(self.sides) or self.process.is_alive():
                    break
                reason = "its process was ended twice"
        except (RunError, UserError) as error:
            reason = str(error)
        self.stop(PARTING_SECONDS if len(found) == len(self.sides) else 0)
        return {side: found.get(side, Outcome(left=None, reason=reason)) for side in self.sides}

    def leave(self) -> None:
        """End the process, once it has finished what it is writing; what it lacks is for the next time."""
        if self.process.is_alive():
            self.send("leave")
        self.stop(PARTING_SECONDS)

    # ---------------------------------------------------------------------------------------------------- the process

    def send(self, *words: Any) -> None:
        with suppress(OSError):  # it was killed: `finish` starts another one
            self.pipe.send(words)

    def next(self, seconds: float) -> Any:
        """The next word of the process; None where it says nothing for so long, or has ended."""
        with suppress(EOFError, OSError):
            if self.pipe.poll(seconds):
                return self.pipe.recv()
        return None

    def stop(self, seconds: float) -> None:
        """End the process, and W&B's service, which is its child; after so many seconds, whatever it does."""
        end(self.process, seconds)
        self.pipe.close()


@contextmanager
def exporting(studies: Sequence[Composed], design: Design) -> Iterator[Exporter]:
    """Export the studies while the body trains them; it ends with `Exporter.conclude`. Of a study that could not go on,
    what there is is exported all the same, but not of one that is interrupted.

    Raises:
        UserError, RunError: as `Exporter`.
    """
    config = studies[0].config
    sides = ["optuna"] if export_wandb.mode_of(config.tracking) == "off" else ["optuna", "wandb"]
    exporter = Exporter(config, Facts(studies, design), sides)
    try:
        yield exporter
    except RunError:
        exporter.finish(patience=PARTING_SECONDS)
        raise
    finally:
        exporter.leave()


def once(studies: Sequence[Composed], design: Design, side: str, whole: bool) -> Outcome:
    """Export what is recorded of the studies to one side now; their tables and figures, too, where they are whole."""
    exporter = Exporter(studies[0].config, Facts(studies, design), [side])
    try:
        return exporter.finish(exporter.facts.files() if whole else ())[side]
    finally:
        exporter.leave()


# --------------------------------------------------------------------------------------------------------------------
# The process


class LeaveError(Exception):
    """The driver has asked for the end."""


class Words:
    """What the driver says, read by a thread, so that the driver never waits; when the driver is gone, so is this
    process, whatever it does."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.queue: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self.leaving = threading.Event()
        self.awaited = False  # whether the driver listens
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        try:
            while True:
                words = self.pipe.recv()
                if words[0] == "leave":
                    self.leaving.set()
                self.queue.put(words)
        except (EOFError, OSError):
            os._exit(0)

    def next(self, seconds: float) -> tuple[Any, ...]:
        """The next word, or ("wait",) if there is none for so long."""
        try:
            return self.queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return ("wait",)

    def heard(self, left: int) -> None:
        """Say that something was written; a `LeaveError` when the driver does not want any more."""
        if self.awaited:
            self.pipe.send(left)
        if self.leaving.is_set():
            raise LeaveError


def serve(pipe: Connection, url: str, sides: Sequence[str], folder: Path, asked: str, studies: list[Exported]) -> None:
    """The process.

    Args:
        pipe: to the driver.
        url: of the store.
        sides: keys of `TITLES`.
        folder: of W&B's runs.
        asked: the word that has asked for W&B to be online; empty where it is not.
        studies: as far as they are known.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.nice(NICE)
    words = Words(pipe)
    with export_wandb.client(folder):
        try:
            store = Store(url)
            store.say = lambda text: None  # the driver tells of it
            if asked and not export_wandb.log_in(asked, "tracking=offline needs no server"):
                how = export_wandb.HOW_TO_LOG_IN
                raise UserError(f"{asked}: there is no W&B key; {how}; tracking=offline needs none")
            pipe.send(READY)
            export(words, {side: begin(side, studies, store, folder, bool(asked)) for side in sides})
        except LeaveError:
            pass
        except Exception as error:
            pipe.send(error if isinstance(error, (RunError, UserError)) else RunError(first_line(error)))


def export(words: Words, exports: dict[str, Sequence[Export]]) -> None:
    """Export until the driver has no more to say; raises a `LeaveError` when it does not want any more."""
    hopeless: dict[str, str] = {}
    due = 0.0
    while True:
        word, *rest = words.next(due - time.monotonic())
        if word == "leave":
            return
        if word == "grow":
            for each in exports.values():
                each[rest[0]].grow(*rest[1:])
            continue
        words.awaited = word == "finish"
        for side, each in exports.items():
            done = attempt(side, each, words, hopeless, rest[0] if rest else ())
            if words.awaited:
                words.pipe.send({side: done})
        if words.awaited:
            return
        due = time.monotonic() + EVERY_SECONDS


def begin(side: str, studies: list[Exported], store: Store, folder: Path, online: bool) -> Sequence[Export]:
    """The studies on one side."""
    if side == "optuna":
        from senet_lab.studies.export_optuna import OptunaExport  # Optuna comes with it

        return [OptunaExport(study, store) for study in studies]
    return [WandbExport(study, store, online, folder) for study in studies]


def attempt(
    side: str, exports: Sequence[Export], words: Words, hopeless: dict[str, str], files: Sequence[Files]
) -> Outcome:
    """Write what is lacking on one side. After a fault the rest is left to the next time, since it would meet the same
    one; after a client that hung, to another process.

    Args:
        hopeless: side → why nothing more is tried; added to.
        files: of the studies, if they have ended.
    """
    reason = hopeless.get(side, "")
    concluded = 0
    try:
        for number, export in enumerate(() if reason else exports):
            export.write(words.heard, WAIT_SECONDS if words.awaited else 0.0)
            if files and isinstance(export, WandbExport):
                export.conclude(*files[number])
                concluded += 1
    except LeaveError:
        raise
    except Exception as error:  # whatever a client makes of a network that is gone or a disk that is full
        reason = first_line(error)
        if isinstance(error, TimeoutError):
            hopeless[side] = reason
    if not words.awaited:
        return Outcome()
    written = sum(export.written for export in exports)
    try:
        left = sum(len(export.todo()) for export in exports)
    except Exception:
        return Outcome(written, None, reason)
    left += len(files) - concluded if side == "wandb" else 0
    return Outcome(written, left, reason or "another process was writing")
