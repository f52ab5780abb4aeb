"""What a search found, as what its forms and its figure show."""

from __future__ import annotations

from dataclasses import dataclass

from senet_lab.reports.statistics import Sample

LEVELS = ("se.reduction.", "se.squeeze", "se.excitation", "se.position")  # columns of a design's levels begin so


@dataclass(frozen=True)
class Found:
    """One design of a search.

    Attributes:
        label: what it is called.
        asked: when it was asked for, from 1; None for a reference that is not in the space.
        reference: `no SE` or `the paper's default`, which are shown whatever became of them; empty for all others.
        levels: parameter → level; empty for such a reference.
        values: the objectives, means over its seeds, all to be small; None if a training failed.
        failed, failed_again: in the search, and with fresh seeds: "failed in 1 of 5"; empty if none did.
        val_error, test_error: over its seeds, percent; None if every training failed.
        confirmed: test error over fresh seeds, percent; None if it was not confirmed.
        chance: of being on the front by its true error, as far as these tell it; None where they are too few.
        costs: `params`, `macs` and, where it was measured, `latency_ms`.
        on_front: whether no other design of the search is better.
    """

    label: str
    asked: int | None
    reference: str
    levels: dict[str, str]
    values: tuple[float, ...] | None
    val_error: Sample | None
    test_error: Sample | None
    confirmed: Sample | None
    chance: float | None
    failed: str
    failed_again: str
    costs: dict[str, float]
    on_front: bool


@dataclass(frozen=True)
class Front:
    """What a search found.

    Attributes:
        study: its name.
        title: its heading.
        objectives: their names.
        facts: data, backbone, recipe and so on, by name.
        found: every design, in the order in which they were asked for; references last.
        warnings: what is particular.
    """

    study: str
    title: str
    objectives: tuple[str, ...]
    facts: dict[str, str]
    found: tuple[Found, ...]
    warnings: tuple[str, ...]

    @property
    def best(self) -> list[Found]:
        """The designs on the front, the cheapest first."""
        chosen = [each for each in self.found if each.on_front and each.values is not None]
        return sorted(chosen, key=lambda each: (each.costs["params"], each.values))
