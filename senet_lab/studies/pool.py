"""What a driver asks of whoever trains for it, and what it learns of each trial.

An executor (`executors.EXECUTORS`) makes a `Pool`: warm worker processes of this machine (`workers`), or the nodes of a
Ray cluster (`ray`). Wherever a trial is trained, `attempt` trains it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from senet_lab.training import faults
from senet_lab.training.silence import without_advice
from senet_lab.training.spec import Spec

BEGUN = "begun"  # what a training reports first
ELAPSED = "elapsed"  # in what it reports later: seconds since then, by its own process's clock
Kind = Literal["epoch", "stopped", "done", "failed", "memory", "halt", "lost"]
Outcome = tuple[Kind, dict[str, Any]]


@dataclass(frozen=True)
class Event:
    """What happened to a trial.

    Attributes:
        kind: `epoch` (its metrics, or a notice, with `ELAPSED`), `stopped` (its epochs, where it was to stop), `done`
            (its record), `failed` (the reason: a result), `memory` (there was not enough of it, the device's or the
            host's; alone it may do), `halt` (the study cannot go on: a full disk, an unreadable image) or `lost` (its
            worker was killed). `training.faults` says which is which.
        trial_id: of the trial.
        value: what belongs to the kind.
    """

    kind: Kind
    trial_id: str
    value: dict[str, Any]


class Pool(Protocol):
    """Whoever trains for a driver."""

    @property
    def free(self) -> int:
        """How many further trials would start at once."""

    def submit(self, spec: Spec, checkpoint: Path, until: int | None = None) -> None:
        """Train a trial, to its end or until an epoch."""

    def events(self, timeout: float) -> list[Event]:
        """What happened, waiting for at most `timeout` seconds."""

    def rest(self) -> None:
        """Free the memory that idle workers hold."""

    def stop(self) -> None:
        """Kill all trainings."""


@dataclass(frozen=True)
class Capacity:
    """Who can train.

    Attributes:
        room: how many trials side by side.
        pool: makes a pool for at least so many of them.
        sharing: of so many processes that train, how many share the memory of one device.
    """

    room: int
    pool: Callable[[int], Pool]
    sharing: Callable[[int], int]


def train_trial(
    spec: Spec, checkpoint: Path, until: int | None, report: Callable[[dict[str, Any]], None], slot: int | None = None
) -> Outcome:
    """Train in this process; the kind and the value of the event that it ends with. The beginning (`BEGUN`) and each
    epoch (its metrics, and `ELAPSED`) are reported.

    Args:
        spec: the training.
        checkpoint: where it saves its state, and goes on from.
        until: the epoch to stop after; None trains to the end.
        report: what is called.
        slot: of a worker of this machine, whose GPU goes by it.
    """
    import torch

    from senet_lab.training import trial

    without_advice()
    report({BEGUN: True})
    begun = time.monotonic()
    try:
        if slot is not None and torch.cuda.is_available() and spec.devices == 1:  # several have processes of their own
            torch.cuda.set_device(gpu_of(slot, torch.cuda.device_count()))
        value = trial.run_trial(
            spec, checkpoint, lambda entry: report({**entry, ELAPSED: time.monotonic() - begun}), until, slot or 0
        )
        return "done" if "metrics" in value else "stopped", value
    except Exception as error:
        kind, reason = faults.classify_failure(error)
        return kind, {"reason": reason}


def gpu_of(slot: int, gpus: int) -> int:
    """The GPU of a worker: workers are dealt out to the GPUs in turn."""
    return slot % gpus
