"""What a driver does about failures: start again, wait for free memory, or stop the study."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from senet_lab.studies.store import FAILED, Record

ATTEMPTS = 3  # a trial whose worker was killed so often stops the study


@dataclass
class Attempts:
    """How often each trial has been started by this driver. A trial whose worker was killed is started again from its
    last epoch, until it has been started `ATTEMPTS` times."""

    made: dict[str, int] = field(default_factory=dict)

    def first(self, trial_id: str) -> None:
        """Count the first start, after the claim."""
        self.made[trial_id] = 1

    def again(self, trial_id: str) -> None:
        """Count a further start."""
        self.made[trial_id] += 1

    def left(self, trial_id: str) -> bool:
        """Whether it may be started again after its worker was killed."""
        return self.made[trial_id] < ATTEMPTS


@dataclass
class MemoryQueue:
    """Trials that ran out of memory. Each keeps its claim and waits until no other trial is running; then it is trained
    alone, and no other trial is started until it has ended.

    Attributes:
        waiting: trials, the first to be the next.
        granted: trials that are, or have been, trained alone.
    """

    waiting: list[str] = field(default_factory=list)
    granted: set[str] = field(default_factory=set)

    def ask(self, trial_id: str) -> None:
        """Queue a trial that ran out of memory beside others."""
        self.waiting.append(trial_id)

    def had_turn(self, trial_id: str) -> bool:
        """Whether it was trained alone."""
        return trial_id in self.granted

    def next(self, running: Collection[str]) -> str | None:
        """The trial to train alone now, if every claimed trial is in this queue; else None."""
        if not self.waiting or len(self.waiting) < len(running):
            return None
        self.granted.add(self.waiting[0])
        return self.waiting.pop(0)

    def reserved(self, running: Collection[str]) -> bool:
        """Whether no other trial may be started, because one is trained alone or waits for that."""
        return bool(self.waiting) or not self.granted.isdisjoint(running)

    def forget(self, trial_id: str) -> None:
        """Forget a trial that is claimed anew: it is first trained beside others again."""
        self.granted.discard(trial_id)


@dataclass
class Failures:
    """When to stop a study: `most` trials have failed and none has succeeded.

    Attributes:
        most: failed trials after which to stop; None is no limit.
        ended: the records of those that have ended.
        worked: whether one has succeeded in this driver.
    """

    most: int | None
    ended: Mapping[str, Record]
    worked: bool = False

    def note_success(self) -> None:
        """A trial has succeeded: the study is not stopped any more."""
        self.worked = True

    def reason(self) -> str:
        """Why to stop; empty if the study may continue."""
        if self.most is None or self.worked or len(self.ended) < self.most:
            return ""
        if any(record["state"] != FAILED for record in self.ended.values()):
            return ""
        count = len(self.ended)
        return f"{count} trial{'s' * (count > 1)} failed and none ended well (max_failures={self.most})"

    def first(self) -> str:
        """The reason of the first failure."""
        return str(next(iter(self.ended.values()))["reason"])
