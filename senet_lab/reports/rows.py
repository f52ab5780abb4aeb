"""What a study's table holds, its rows with all their numbers and its notes: what the forms and the figure show."""

from __future__ import annotations

from dataclasses import dataclass

from senet_lab.reports import paper, statistics


@dataclass(frozen=True)
class Failure:
    """A trial that gave no number: its seed and why."""

    seed: int
    reason: str


@dataclass(frozen=True)
class Row:
    """One line of a table; None is a number that there is not.

    Attributes:
        label: the row's name in the study.
        baseline: label of the row it is compared with; empty for the baseline itself.
        printed: the row in the paper's table.
        printed_delta: the paper's top-1 error minus that of the baseline's row, points.
        paper_params, paper_macs: recomputed on the paper's network (multiply-adds at 224 × 224).
        params, macs: of the network that was trained (multiply-adds of one image).
        hidden: realised SE hidden widths by stage.
        network: structural fingerprint.
        same_as: label of an earlier row (or of the baseline) that builds the same network; empty if there is none.
        seeds: the finished ones.
        failures: the trials that failed.
        top1, top5: our test errors, percent.
        delta: comparison with the baseline, paired by seed.
        verdict: None for the baseline, for fewer than two pairs and for a network that is the baseline's own.
    """

    label: str
    baseline: str
    printed: paper.PaperRow | None
    printed_delta: float | None
    paper_params: int | None
    paper_macs: int | None
    params: int | None
    macs: int | None
    hidden: str
    network: str
    same_as: str
    seeds: tuple[int, ...]
    failures: tuple[Failure, ...]
    top1: statistics.Sample | None
    top5: statistics.Sample | None
    delta: statistics.Comparison | None
    verdict: statistics.Verdict | None


@dataclass(frozen=True)
class Table:
    """A study's table: everything that its four forms and its figure show.

    Attributes:
        study: short name, as in `+ablation=ratio`.
        title: what is varied.
        printed: the paper's table; None if the study is not the paper's.
        facts: data, backbone, recipe, epochs, device and version by name, for the notes.
        test_images: images behind one error; None if every trial failed.
        rows: in the study's order.
        warnings: notes on what is particular to these trials (failures, equal networks, n = 1).
        notes: what the columns mean and what the numbers stand for.
    """

    study: str
    title: str
    printed: paper.PaperTable | None
    facts: dict[str, str]
    test_images: int | None
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
