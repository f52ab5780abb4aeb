"""The exporter: a process of its own that reads a study's records from the store and writes W&B's runs and Optuna's
study.

It reads them when it starts, every `EVERY_SECONDS` while the study trains, and at its end, and writes whatever the
other side lacks. So nothing is lost or written twice, whichever process is killed. Training never waits for it; at the
end the driver waits as long as runs are being written. What could not be written is printed, with the command that
writes it: `python -m senet_lab export wandb|optuna WORDS…`, which starts the same process.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from senet_lab.config import Config, RunError, UserError, without_passwords
from senet_lab.naming import Composed
from senet_lab.studies import export_facts, wandb_client
from senet_lab.studies.export_facts import ExportedStudy
from senet_lab.studies.export_process import EVERY_SECONDS, READY, SIDES, ExportOrder, ExportOutcome, serve_exports
from senet_lab.studies.workers import signals_blocked
from senet_lab.training.processes import end, spawned

if TYPE_CHECKING:
    from senet_lab.studies.designs import Design

SILENT_SECONDS = 120.0  # at the end, without a word that something was written
PARTING_SECONDS = 5.0  # to finish what has begun, when the user waits for the end


# --------------------------------------------------------------------------------------------------------------------
# The driver's end


class Exporter:
    """The driver's end of the process.

    Args:
        config: of the studies.
        studies: what is known of them.
        sides: keys of `SIDES`.

    Raises:
        UserError: W&B is to be online, and there is no key.
        RunError: W&B is to be online, and its server cannot be reached, or refuses.
    """

    def __init__(self, config: Config, studies: list[ExportedStudy], sides: Sequence[str]) -> None:
        self.config = config
        self.studies = studies
        self.sides = sides
        self.start()

    def start(self) -> None:
        asked = ""
        if "wandb" in self.sides and wandb_client.wandb_mode(self.config.tracking) == "online":
            asked = f"WANDB_MODE={os.environ['WANDB_MODE']}" if self.config.tracking == "auto" else "tracking=online"
        where = (self.config.storage, Path(self.config.results) / "wandb")
        with signals_blocked():
            self.process, self.pipe = spawned(
                "senet_lab exporter", serve_exports, *where, self.sides, asked, self.studies
            )
        self.sent = time.monotonic()
        word: Any = None if asked else READY
        try:
            word = word or self.next(SILENT_SECONDS)
        finally:
            if word != READY:
                self.stop(0)
        if word != READY:
            raise word or RunError(f"{asked}: W&B's client did not answer for {SILENT_SECONDS:g} seconds")

    def grow(self, studies: Sequence[Composed], design: Design) -> None:
        """Send the current facts of the studies, at most every `EVERY_SECONDS`."""
        if time.monotonic() > self.sent + EVERY_SECONDS:
            self.studies = export_facts.of_design(studies, design)
            self.send(ExportOrder(self.studies))
            self.sent = time.monotonic()

    def finish(self, whole: bool = False, patience: float = SILENT_SECONDS) -> dict[str, ExportOutcome]:
        """Export the rest, and end the process.

        Args:
            whole: whether the studies have ended, with their tables.
            patience: seconds to wait for the next run or trial to be written.

        Returns:
            What came of it, by side.
        """
        outcomes: dict[str, ExportOutcome] = {}
        reason = f"it did not answer for {patience:g} seconds"
        try:
            for _ in range(2):  # one that was killed is replaced
                if not self.process.is_alive():
                    self.start()
                self.send(ExportOrder(self.studies, last=True, whole=whole))
                while len(outcomes) < len(self.sides) and (word := self.next(patience)) is not None:
                    if isinstance(word, Exception):
                        raise word
                    outcomes |= word if isinstance(word, dict) else {}
                self.process.join(PARTING_SECONDS)
                if len(outcomes) == len(self.sides) or self.process.is_alive():
                    break
                reason = "its process was killed"
        except (RunError, UserError) as error:
            reason = str(error)
        self.stop(0)
        return {side: outcomes.get(side, ExportOutcome(0, None, reason)) for side in self.sides}

    def leave(self) -> None:
        """End the process after the run that it is writing. The rest is left for the next export."""
        if self.process.is_alive():
            self.send(ExportOrder([], last=True, now=True))
        self.stop(PARTING_SECONDS)

    def send(self, order: ExportOrder) -> None:
        with suppress(OSError):  # it was killed: `finish` starts another one
            self.pipe.send(order)

    def next(self, seconds: float) -> Any:
        """The next message of the process; None if there is none for `seconds`, or if it has ended."""
        with suppress(EOFError, OSError):
            if self.pipe.poll(seconds):
                return self.pipe.recv()
        return None

    def stop(self, seconds: float) -> None:
        """End the process and its child, W&B's service; kill them after `seconds`."""
        end(self.process, seconds)
        self.pipe.close()


@contextmanager
def exporting(studies: Sequence[Composed], design: Design) -> Iterator[Exporter]:
    """Export the studies while the body trains them; call `conclude` at the end of the body. If the study fails, its
    records are exported nevertheless; if it is interrupted, they are not.

    Raises:
        UserError, RunError: as `Exporter`.
    """
    config = studies[0].config
    sides = [side for side in SIDES if side != "wandb" or wandb_client.wandb_mode(config.tracking) != "off"]
    exporter = Exporter(config, export_facts.of_design(studies, design), sides)
    try:
        yield exporter
    except RunError:
        exporter.studies = export_facts.of_design(studies, design)
        exporter.finish(patience=PARTING_SECONDS)
        raise
    finally:
        exporter.leave()


def conclude(
    exporter: Exporter, studies: Sequence[Composed], design: Design, words: Sequence[str], console: Console
) -> None:
    """Export the rest of studies that have ended, and print what could not be exported with the command that does it
    later."""
    exporter.studies = export_facts.of_design(studies, design)
    command = " ".join(["python -m senet_lab export {}", *map(shlex.quote, words)])
    for side, done in exporter.finish(whole=True).items():
        if done.left != 0:
            line = f"not exported: {done.failure_text(side)}; {command.format(side)} does it later"
            console.print(without_passwords(line), style="yellow", soft_wrap=True)


def once(studies: Sequence[Composed], design: Design, side: str, whole: bool) -> ExportOutcome:
    """Export what is recorded of the studies to one side now; their tables and figures, too, where they are whole."""
    exporter = Exporter(studies[0].config, export_facts.of_design(studies, design), [side])
    try:
        return exporter.finish(whole)[side]
    finally:
        exporter.leave()


# --------------------------------------------------------------------------------------------------------------------
# The process
