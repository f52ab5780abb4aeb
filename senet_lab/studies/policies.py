"""What a driver decides: who is tried again, who waits for memory, and when a study is hopeless."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from senet_lab.studies.store import FAILED, Record

ATTEMPTS = 3  # a trial whose worker was killed so often stops the study


@dataclass
class Attempts:
    """Who is tried again: how often each trial has been begun here. One whose worker was killed goes on from its last
    epoch, until it has been begun `ATTEMPTS` times."""

    made: dict[str, int] = field(default_factory=dict)

    def first(self, trial_id: str) -> None:
        """It has been claimed."""
        self.made[trial_id] = 1

    def again(self, trial_id: str) -> None:
        """It is begun once more."""
        self.made[trial_id] += 1

    def left(self, trial_id: str) -> bool:
        """Whether it may be begun once more after its worker was killed."""
        return self.made[trial_id] < ATTEMPTS


@dataclass
class MemoryQueue:
    """Who waits for memory. A trial that was out of memory keeps its claim and waits until nothing else trains; then it
    is trained with nothing beside it, and nothing is handed out until it has ended.

    Attributes:
        waiting: trials, the first to be the next.
        granted: trials that are, or have been, trained alone.
    """

    waiting: list[str] = field(default_factory=list)
    granted: set[str] = field(default_factory=set)

    def ask(self, trial_id: str) -> None:
        """It was out of memory beside others."""
        self.waiting.append(trial_id)

    def had_turn(self, trial_id: str) -> bool:
        """Whether it had the memory for itself."""
        return trial_id in self.granted

    def next(self, running: Collection[str]) -> str | None:
        """The trial to train alone now: there is one if all that are claimed wait for it."""
        if not self.waiting or len(self.waiting) < len(running):
            return None
        self.granted.add(self.waiting[0])
        return self.waiting.pop(0)

    def reserved(self, running: Collection[str]) -> bool:
        """Whether nothing else may be handed out: a trial is trained alone, or waits for it."""
        return bool(self.waiting) or not self.granted.isdisjoint(running)

    def forget(self, trial_id: str) -> None:
        """It has been claimed anew, so that it is tried beside others first."""
        self.granted.discard(trial_id)


@dataclass
class Failures:
    """When a study is hopeless: so many of its trials have failed, and none has ended well.

    Attributes:
        most: how many may; None is no limit.
        ended: the records of those that have ended.
        worked: whether one has ended well here.
    """

    most: int | None
    ended: Mapping[str, Record]
    worked: bool = False

    def reason(self) -> str:
        """Why it is; empty if it is not."""
        if self.most is None or self.worked or len(self.ended) < self.most:
            return ""
        if any(record["state"] != FAILED for record in self.ended.values()):
            return ""
        count = len(self.ended)
        return f"{count} trial{'s' * (count > 1)} failed and none ended well (max_failures={self.most})"

    def first(self) -> str:
        """Why the first of them failed."""
        return str(next(iter(self.ended.values()))["reason"])
