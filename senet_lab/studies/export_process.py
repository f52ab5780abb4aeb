"""The process of the exporter: it writes what is recorded, and not yet exported, to W&B and Optuna."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from senet_lab.config import RunError, UserError, first_line
from senet_lab.studies import export_wandb, wandb_client
from senet_lab.studies.export_facts import ExportedStudy
from senet_lab.studies.store import Store

EVERY_SECONDS = 30.0
WAIT_SECONDS = 30.0  # at the end, for another exporter of the store
NICE = 5  # trainings go first
SIDES = {"optuna": "trials of the Optuna study", "wandb": "W&B runs"}
READY = "ready"


@dataclass(frozen=True)
class ExportOrder:
    """What the driver tells the process.

    Attributes:
        studies: what is known of them.
        last: whether to end with this.
        whole: whether the studies have ended, with their tables.
        now: whether to write nothing more.
    """

    studies: list[ExportedStudy]
    last: bool = False
    whole: bool = False
    now: bool = False


@dataclass(frozen=True)
class ExportOutcome:
    """What came of the export to one side.

    Attributes:
        written: how many runs or trials were written at the end.
        left: how many could not be; None if that is not known.
        reason: why.
    """

    written: int
    left: int | None
    reason: str

    def failure_text(self, side: str) -> str:
        """How many could not be written, and why."""
        return f"{'what is lacking of the' if self.left is None else self.left} {SIDES[side]} ({self.reason})"


class LeaveError(Exception):
    """The driver has ordered the export to stop at once."""


class OrderInbox:
    """The driver's latest order. A thread reads the pipe, so that the driver never waits for it. When the pipe closes,
    because the driver has ended, this process ends at once."""

    def __init__(self, pipe: Connection, order: ExportOrder) -> None:
        self.pipe = pipe
        self.order = order
        self.news = threading.Event()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        try:
            while True:
                self.order = self.pipe.recv()
                self.news.set()
        except (EOFError, OSError):
            os._exit(0)

    def report_left(self, left: int) -> None:
        """Tell the driver how many runs or trials are left to be written; a `LeaveError` if it has ordered to stop."""
        if self.order.now:
            raise LeaveError
        if self.order.last:
            self.pipe.send(left)


def serve_exports(
    pipe: Connection, url: str, folder: Path, sides: Sequence[str], asked: str, studies: list[ExportedStudy]
) -> None:
    """The process.

    Args:
        pipe: to the driver.
        url: of the store.
        folder: of W&B's runs.
        sides: keys of `SIDES`.
        asked: the setting by which W&B is online (`tracking=online`, say); empty if it is not.
        studies: their facts at the start; orders bring them up to date.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.nice(NICE)
    driver = OrderInbox(pipe, ExportOrder(studies))
    with wandb_client.client(folder), suppress(LeaveError):
        try:
            store = Store(url)
            store.report_to(lambda text: None)  # the driver prints the same warnings
            if asked and not wandb_client.log_in(asked, "tracking=offline needs no server"):
                how = wandb_client.HOW_TO_LOG_IN
                raise UserError(f"{asked}: there is no W&B key; {how}; tracking=offline needs none")
            pipe.send(READY)
            export_until_done(driver, store, sides, export_wandb.Wandb(folder, bool(asked)))
        except (RunError, UserError) as error:
            pipe.send(error)


def export_until_done(driver: OrderInbox, store: Store, sides: Sequence[str], wandb: export_wandb.Wandb) -> None:
    """Export until the driver's last order."""
    exported: set[str] = set()
    while not (order := driver.order).now:
        ended = store.finished(run.trial_id for study in order.studies for run in study.runs)
        if order.last or ended != exported:
            outcomes = {side: write_side(side, order, driver, store, wandb) for side in sides}
            exported = ended if not any(each.left for each in outcomes.values()) else set()
        if order.last:
            driver.pipe.send(outcomes)
            return
        driver.news.wait(EVERY_SECONDS)
        driver.news.clear()


def write_side(
    side: str, order: ExportOrder, driver: OrderInbox, store: Store, wandb: export_wandb.Wandb
) -> ExportOutcome:
    """Write what one side lacks. After an error the rest is left for the next export, because it would meet the same
    error."""
    counts: list[int] = []  # runs or trials left to write, at the start and after each

    def report(left: int) -> None:
        counts.append(left)
        driver.report_left(left)

    try:
        if side == "optuna":
            from senet_lab.studies import export_optuna  # Optuna comes with it

            export_optuna.write_optuna(order.studies, store, report, WAIT_SECONDS if order.last else 0.0)
        else:
            wandb.write(order.studies, store, report, order.whole)
        return ExportOutcome(counts[0], 0, "")
    except LeaveError:
        raise
    except Exception as error:  # clients raise many classes for a lost network or a full disk
        return ExportOutcome(counts[0] - counts[-1] if counts else 0, counts[-1] if counts else None, first_line(error))
