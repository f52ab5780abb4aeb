"""The content of a study's table, from which all forms and figures are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from senet_lab.reports import paper, statistics
from senet_lab.reports.aim import Aim
from senet_lab.reports.verdict_styles import STYLES, VerdictStyle
from senet_lab.reports.verdicts import Verdict

IDENTICAL = "identical"  # why a row is not tested whose trainings are its baseline's to the last digit


@dataclass(frozen=True)
class Failure:
    """A failed trial: its seed and the reason."""

    seed: int
    reason: str


@dataclass(frozen=True)
class FrontDesign:
    """A row's design in a search. The numbers of its `TableRow` are over all seeds, confirming ones included.

    Attributes:
        asked: when it was asked for, from 1; None for a reference that is not in the space.
        reference: `no SE` or `the paper's default`, which are shown whatever became of them; empty for all others.
        levels: parameter → level; empty for such a reference.
        values: objective → mean over the search's seeds, to be small; empty if a training failed.
        failed, failed_again: in the search, and with fresh seeds: "failed in 1 of 5"; empty if none did.
        val_error, test_error: over the search's seeds, percent; None if every training failed.
        confirmed: test error over fresh seeds, percent; None if it was not confirmed.
        chance: of being on the front by its true error, as far as these tell it; None where they are too few.
        costs: by column of `trials.csv`: `params`, `macs` and, where they are known, `latency_ms` and others.
        on_front: whether no other design of the search is better.
    """

    asked: int | None
    reference: str
    levels: dict[str, str]
    values: dict[str, float]
    failed: str
    failed_again: str
    val_error: statistics.Sample | None
    test_error: statistics.Sample | None
    confirmed: statistics.Sample | None
    chance: float | None
    costs: dict[str, float]
    on_front: bool = False

    @property
    def again(self) -> bool:
        """Whether it was trained with fresh seeds."""
        return self.confirmed is not None or bool(self.failed_again)


@dataclass(frozen=True)
class TableRow:
    """One line of a table; None is a number that there is not.

    Attributes:
        label: the row's name in the study.
        baseline: label of the row it is compared with; empty for the baseline itself.
        setting: data, backbone, recipe and epochs by name; the same as its baseline's.
        printed: the row in the paper's table.
        starred: whether the paper's table lacks it.
        printed_delta: the paper's top-1 error minus that of the baseline's row, points.
        paper_params, paper_macs: recomputed on the paper's network (multiply-adds at the size of its images).
        params, macs: of the network that was trained (multiply-adds of one image).
        hidden: realised SE hidden widths by stage.
        trainings: its seeds and the ids of their trials; rows with equal ones are the same trainings. Of the first seed
            alone where seeds are added until a verdict is in; empty where a file does not name them.
        same_as: label of an earlier row (or of the baseline) that is the same trainings; empty if there is none.
        seeds: the finished ones.
        failures: the trials that failed.
        untested: why the row has no test though it was trained: "failed in 2 of 5", or `IDENTICAL`; empty for all
            others.
        top1, top5: our test errors, percent.
        loss: our test losses, nats; None where they are not known.
        metric: what `delta` and `verdict` are about, error or loss.
        delta: comparison with the baseline, paired by seed; a difference alone where it is not tested.
        verdict: None for the baseline, for fewer than two pairs (of a fixed number), after failures and for the
            baseline's own network.
        effect: of an effect in a grid, how many factors it is of; 0 for a row of trainings.
        design: what a search knows of it; None in any other study.
    """

    label: str
    baseline: str
    setting: dict[str, str]
    metric: str
    delta: statistics.Comparison | None
    verdict: Verdict | None
    untested: str
    seeds: tuple[int, ...]
    printed: paper.PaperRow | None = None
    starred: bool = False
    printed_delta: float | None = None
    paper_params: int | None = None
    paper_macs: int | None = None
    params: int | None = None
    macs: int | None = None
    hidden: str = ""
    trainings: tuple[tuple[int, str], ...] = ()
    same_as: str = ""
    failures: tuple[Failure, ...] = ()
    top1: statistics.Sample | None = None
    top5: statistics.Sample | None = None
    loss: statistics.Sample | None = None
    effect: int = 0
    design: FrontDesign | None = None

    @property
    def kind(self) -> str:
        """Its key in `STYLES`."""
        if not self.baseline:
            return "baseline"
        if self.same_as == self.baseline:
            return "same network"
        if self.untested:
            return IDENTICAL if self.untested == IDENTICAL else "failed"
        return self.verdict.kind if self.verdict else ""

    @property
    def look(self) -> VerdictStyle:
        return STYLES[self.kind]

    @property
    def sample(self) -> statistics.Sample | None:
        """What `delta` is a difference of: its losses or its errors."""
        return self.loss if self.metric == "loss" else self.top1


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: its header in the CSV, with the unit; empty if the CSV does not have it.
        head: its header where people read it; None if they do not.
        value: the number or text in a row; None leaves the cell empty.
        exact: how a fraction reads in the CSV; whole numbers and text stand there as they are.
        show: how a value reads for people; None as in the CSV.
        cell: what people read of a row, where that is more than the value.
        words: whether it is text rather than numbers, aligned to the left.
        drop: the terminal leaves out columns with the highest number first until the table fits; 0 stays always, and
            None is never on the terminal.
        wrap: the terminal and the LaTeX break longer words into lines of so many characters where they must.
        page: whether the LaTeX has it, too, whose page is narrow.
        paper: whether only studies of the paper's have it.
        tip: what it is called where a point of a plot says what it is; empty if it does not say it.
    """

    name: str
    head: str | None = None
    value: Callable[[TableRow], Any] = lambda row: None
    exact: Callable[[Any], str] = str
    show: Callable[[Any], str] | None = None
    cell: Callable[[TableRow], str | None] | None = None
    words: bool = False
    drop: int | None = None
    wrap: int | None = None
    page: bool = True
    paper: bool = False
    tip: str = ""

    def text(self, row: TableRow) -> str:
        """The cell as people read it; empty without a value."""
        if self.cell is not None:
            return self.cell(row) or ""
        value = self.value(row)
        return "" if value is None or value == "" else (self.show or self.exact)(value)

    def exactly(self, row: TableRow) -> str:
        """`text`, a whole number in full."""
        value = self.value(row)
        return f"{value:,}" if self.cell is None and isinstance(value, int) else self.text(row)

    def plain(self, row: TableRow) -> str:
        """The cell of the CSV."""
        value = self.value(row)
        return "" if value is None else self.exact(value) if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Table:
    """A study's table: everything that its forms and its figures show.

    Attributes:
        study: short name, as in `+ablation=ratio`.
        title: what is varied.
        printed: the paper's table; None if the study is not the paper's.
        facts: data, backbone, recipe, epochs, device and version by name, for the notes; a search's own, too.
        test_images: images behind one error; None if every trial failed.
        train_images, validation_images: what is trained on, and held out of it; None where a file does not say.
        rows: in the study's order.
        study_rows: how many rows the whole study has.
        tests: networks of the whole study that are compared with another one: what p values are corrected for.
        aim: what the study is to find out.
        guessing: the error that a failed trial counts with, percent; None where its row is not tested instead.
        factors: of a grid, whose rows are its cells and then its effects; empty for any other study.
        objectives: of a search, by name; empty for any other study.
        heading: above the table.
        columns: that its forms have, in order (`columns`).
        visible: the rows that are for reading; the CSV has them all.
        warnings: notes on what is particular to these trials (failures, equal networks, n = 1).
        notes: what the trials were, then what the columns mean and what the numbers stand for.
        recipe: lines of Markdown below its notes: how to train what a search has found.
    """

    study: str
    title: str
    printed: paper.PaperTable | None
    facts: dict[str, str]
    test_images: int | None
    train_images: int | None
    validation_images: int | None
    rows: tuple[TableRow, ...]
    study_rows: int
    tests: int
    aim: Aim
    guessing: float | None
    factors: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    heading: str = ""
    columns: tuple[Column, ...] = field(default=(), repr=False)
    visible: tuple[TableRow, ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()

    @property
    def trained(self) -> tuple[TableRow, ...]:
        """The rows that are trainings, without the effects of a grid."""
        return tuple(row for row in self.rows if not row.effect)

    @property
    def comparisons(self) -> dict[str, list[TableRow]]:
        """Baseline → it and the rows that are compared with it, in the table's order."""
        by_baseline: dict[str, list[TableRow]] = {}
        for row in self.trained:
            by_baseline.setdefault(row.baseline or row.label, []).append(row)
        return by_baseline

    @property
    def breaks(self) -> set[str]:
        """The rows after which another comparison begins, or a grid's effects of one more factor; none in a table of
        one, or of rows that are not compared."""
        of: list[Any] = [row.effect if self.factors else row.baseline or row.label for row in self.rows]
        if len(set(of)) in (1, len(of)):
            return set()
        return {row.label for row, this, other in zip(self.rows, of, of[1:], strict=False) if this != other}

    @property
    def compared_with(self) -> tuple[str, ...]:
        """The rows that others are compared with."""
        return tuple(dict.fromkeys(row.baseline for row in self.rows if row.baseline))

    @property
    def all_notes(self) -> list[str]:
        """Every note: what the numbers rest on, what is particular about them, what the columns mean."""
        return [*self.notes[:1], *self.warnings, *self.notes[1:]]

    @property
    def seeds(self) -> tuple[int, int]:
        """The fewest and the most seeds of a row."""
        counts = [len(row.seeds) for row in self.trained or self.rows]
        return min(counts), max(counts)

    @property
    def front(self) -> list[TableRow]:
        """A search's rows that no other design is better than, the cheapest first."""
        chosen = [(row.design, row) for row in self.rows if row.design is not None and row.design.on_front]
        return [row for _, row in sorted(chosen, key=lambda each: (each[0].costs["params"], *each[0].values.values()))]
