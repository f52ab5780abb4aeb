"""What a study's table holds, its rows with all their numbers and its notes: what the forms and the figure show."""

from __future__ import annotations

from dataclasses import dataclass

from senet_lab.reports import paper, statistics
from senet_lab.reports.aim import Aim
from senet_lab.reports.conclusions import Verdict


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
        setting: data, backbone, recipe and epochs by name; the same as its baseline's.
        paper_params, paper_macs: recomputed on the paper's network (multiply-adds at the size of its images).
        params, macs: of the network that was trained (multiply-adds of one image).
        hidden: realised SE hidden widths by stage.
        trainings: its seeds and the ids of their trials; rows with equal ones are the same trainings. Of the first seed
            alone where seeds are added until a verdict is in; empty where a file does not name them.
        same_as: label of an earlier row (or of the baseline) that is the same trainings; empty if there is none.
        seeds: the finished ones.
        failures: the trials that failed.
        untested: why the row has no test though it was trained: "failed in 2 of 5"; empty for all others.
        top1, top5: our test errors, percent.
        loss: our test losses, nats; None where they are not known.
        metric: what `delta` and `verdict` are about, error or loss.
        delta: comparison with the baseline, paired by seed; a difference alone where it is not tested.
        verdict: None for the baseline, for fewer than two pairs (of a fixed number), after failures and for the
            baseline's own network.
    """

    label: str
    baseline: str
    setting: dict[str, str]
    printed: paper.PaperRow | None
    printed_delta: float | None
    paper_params: int | None
    paper_macs: int | None
    params: int | None
    macs: int | None
    hidden: str
    trainings: tuple[tuple[int, str], ...]
    same_as: str
    seeds: tuple[int, ...]
    failures: tuple[Failure, ...]
    untested: str
    top1: statistics.Sample | None
    top5: statistics.Sample | None
    loss: statistics.Sample | None
    metric: str
    delta: statistics.Comparison | None
    verdict: Verdict | None


@dataclass(frozen=True)
class Table:
    """A study's table: everything that its four forms and its figure show.

    Attributes:
        study: short name, as in `+ablation=ratio`.
        title: what is varied.
        printed: the paper's table; None if the study is not the paper's.
        facts: data, backbone, recipe, epochs, device and version by name, for the notes.
        test_images: images behind one error; None if every trial failed.
        train_images, validation_images: what is trained on, and held out of it; None where a file does not say.
        rows: in the study's order.
        study_rows: how many rows the whole study has.
        tests: networks of the whole study that are compared with another one: what p values are corrected for.
        aim: what the study is to find out.
        guessing: the error that a failed trial counts with, percent; None where its row is not tested instead.
        warnings: notes on what is particular to these trials (failures, equal networks, n = 1).
        notes: what the columns mean and what the numbers stand for.
    """

    study: str
    title: str
    printed: paper.PaperTable | None
    facts: dict[str, str]
    test_images: int | None
    train_images: int | None
    validation_images: int | None
    rows: tuple[Row, ...]
    study_rows: int
    tests: int
    aim: Aim
    guessing: float | None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def comparisons(self) -> dict[str, list[Row]]:
        """Baseline → it and the rows that are compared with it, in the table's order."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.baseline or row.label, []).append(row)
        return found

    @property
    def breaks(self) -> set[str]:
        """The rows after which another comparison begins; none in a table of one, or of rows that are not compared."""
        of = [row.baseline or row.label for row in self.rows]
        if len(set(of)) in (1, len(of)):
            return set()
        return {row.label for row, this, other in zip(self.rows, of, of[1:], strict=False) if this != other}
