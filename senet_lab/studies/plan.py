"""The plan: what a study would train and what its networks cost, shown before any training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from senet_lab.config import Config, Data, UserError
from senet_lab.counting import duration
from senet_lab.labels import Composed
from senet_lab.reports.aim import Aim, asked
from senet_lab.studies import family
from senet_lab.studies import rows as study_rows
from senet_lab.studies.rows import Row
from senet_lab.studies.store import Store
from senet_lab.training import data as images
from senet_lab.training import step
from senet_lab.training.data import DataFacts
from senet_lab.training.memory import size_in_memory
from senet_lab.training.spec import STEP, Spec

if TYPE_CHECKING:
    from senet_lab.studies.forecast import Expectation

DEVICES = {"cpu": "processes", "cuda": "GPUs"}


@dataclass(frozen=True)
class Plan:
    """Rows × seeds, and what is known of them before training.

    Attributes:
        config: the study's configuration.
        facts: of its data set.
        rows: in the study's order.
        device: `cpu` or `cuda`.
        cells: rows × seeds in the order of training: all rows of a seed before the next seed, so that a study that is
            stopped early has whole pairs.
        recorded: trial id → record, of the trials that have ended already.
        left_out: labels of rows for stages that this network lacks.
        study_rows, study_tests: of the whole study, also of rows that were not asked for (`family`); None without one.
        outdated: first cell and id of trials that an earlier version has recorded, and that are to be trained again,
            because they may be others than their ids told.
        whole: how many trials the study has, where this is a part of it (`part`); 0 where it is all of it.
        aim: what its verdicts are about.
    """

    config: Config
    facts: DataFacts
    rows: list[Row]
    device: str
    cells: list[Cell]
    recorded: dict[str, dict[str, Any]]
    left_out: list[str]
    study_rows: int | None = None
    study_tests: int | None = None
    outdated: list[tuple[Cell, str]] = field(default_factory=list)
    whole: int = 0
    aim: Aim = field(default_factory=Aim)

    @property
    def title(self) -> str:
        """What the table is headed, which rows this network cannot have, and whether it is only a part of the study's
        (`reports.trials.PARTIAL`)."""
        return f"Partial ({len(self.trials)} of {self.whole} trials): {self.heading}" if self.whole else self.heading

    @property
    def heading(self) -> str:
        """What the whole table is headed."""
        study = self.config.study
        if self.config.search:
            return self.config.search.title or self.config.search.name
        if study is None:
            return "One network"
        missing = f" ({', '.join(self.left_out)}: not in this network)" if self.left_out else ""
        return f"{study.title or study.name}{missing}"

    @cached_property  # asked for at every epoch, and as long as the study
    def trials(self) -> dict[str, Cell]:
        """Trial id → its first cell; rows that build the same network share their trials."""
        return {cell.trial_id: cell for cell in reversed(self.cells)}

    def facts_of(self, row: Row) -> DataFacts:
        """Of the data set as the row has it: it may train on fewer images, or hold out others."""
        same = row.config.data == self.config.data
        return self.facts if same else facts_of(repr(row.config.data), row.config.data)

    @property
    def twins(self) -> list[list[str]]:
        """Groups of labels whose rows share their trials, so that no difference between them means anything."""
        labels = defaultdict(list)
        for cell in self.cells:
            labels[cell.trial_id].append(cell.row.label)
        return [list(group) for group in dict.fromkeys(tuple(each) for each in labels.values() if len(each) > 1)]

    @property
    def todo(self) -> list[Cell]:
        """The first cell of every trial without a record, in the order of training."""
        first = self.trials
        return [cell for cell in self.cells if first[cell.trial_id] is cell and cell.trial_id not in self.recorded]


@dataclass(frozen=True)
class Cell:
    """A row with a seed, and the training that answers it."""

    row: Row
    seed: int
    spec: Spec
    trial_id: str

    def with_seed(self, seed: int) -> Cell:
        """The same row with another seed."""
        spec = replace(self.spec, seed=seed)
        return Cell(self.row, seed, spec, spec.trial_id)


OWN_FACTS: dict[str, DataFacts] = {}  # data set → facts, of rows that have their own


def facts_of(name: str, data: Data) -> DataFacts:
    """As `images.facts`, looked up once for all seeds."""
    if name not in OWN_FACTS:
        OWN_FACTS[name] = images.facts(data)
    return OWN_FACTS[name]


def make(composed: Composed) -> Plan:
    """Build and check the study; nothing is known of its records yet.

    Raises:
        UserError: whatever is wrong with the study, before anything is trained or written.
    """
    config = composed.config
    settles = config.seeds == "settle"
    seeds = range(config.settle.min) if settles else config.seed_numbers(3 if config.study else 1)
    facts = images.facts(config.data)
    rows, missing = study_rows.build(composed, facts)
    if settles and all(row.label == row.baseline for row in rows):
        raise UserError(f"seeds=settle compares rows, and here is only {', '.join(row.label for row in rows)}")
    device = device_of(config.training.device, config.executor.gpus_per_trial)
    specs = [(row, row.spec(facts, 0, device)) for row in rows]
    first = [Cell(row, 0, spec, spec.trial_id) for row, spec in specs]
    cells = [cell.with_seed(seed) for seed in seeds for cell in first]
    whole = family.size(composed, rows, missing, facts, device) if config.study else (None, None)
    aim = asked(config, settles)
    return Plan(config, facts, rows, device, cells, {}, missing, study_rows=whole[0], study_tests=whole[1], aim=aim)


def look_up(plan: Plan, store: Store) -> Plan:
    """The plan with the records that the store has of it, and those of earlier versions that it cannot use."""
    recorded = store.read(plan.trials)
    were = {
        cell.spec.earlier(plan.facts.earlier).trial_id: cell
        for cell in plan.trials.values()
        if cell.trial_id not in recorded
    }
    there = store.read(old for old, cell in were.items() if old != cell.trial_id)
    return replace(plan, recorded=recorded, outdated=[(were[old], old) for old in there])


def part(plan: Plan, records: dict[str, dict[str, Any]]) -> Plan:
    """What these records are of a study, as a plan. A row without its baseline is there, and compared with nothing."""
    there = {cell.row.label for cell in plan.cells if cell.trial_id in records}
    rows = {
        row.label: row if row.baseline in there else replace(row, baseline="")
        for row in plan.rows
        if row.label in there
    }
    cells = [replace(cell, row=rows[cell.row.label]) for cell in plan.cells if cell.trial_id in records]
    return replace(plan, rows=[*rows.values()], cells=cells, recorded=records, whole=len(plan.trials))


def together(plans: list[Plan]) -> Plan:
    """Several studies of the same data and recipe as one: rows that they share are trained once."""
    first, *others = plans
    if not others:
        return first
    return replace(
        first,
        rows=[row for plan in plans for row in plan.rows],
        cells=sorted((cell for plan in plans for cell in plan.cells), key=lambda cell: cell.seed),
        recorded={trial_id: record for plan in plans for trial_id, record in plan.recorded.items()},
        outdated=list({old: (cell, old) for plan in plans for cell, old in plan.outdated}.values()),
    )


def device_of(word: str, share: float | None = None) -> str:
    """`cpu` or `cuda`, as the user said or as there is: on a cluster, whether trials have a share of a GPU."""
    choices = ("auto", "cpu", "cuda")
    if word not in choices:
        raise UserError(f"training.device: there is no device '{word}'; there are {', '.join(choices)}")
    if share is not None and word == ("cpu" if share else "cuda"):
        raise UserError(f"training.device={word} and executor.gpus_per_trial={share:g} exclude each other")
    if share is not None:
        return "cuda" if share else "cpu"
    if word == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device=cuda: PyTorch finds no GPU here")
    return "cuda" if word != "cpu" and torch.cuda.is_available() else "cpu"


# --------------------------------------------------------------------------------------------------------------------
# Shown


def show(plan: Plan, console: Console) -> None:
    """Print the rows of a study: what they cost and how many trials they lack."""
    data = list(dict.fromkeys(row.data for row in plan.rows))
    recipes = list(dict.fromkeys(row.recipe for row in plan.rows))
    backbones = list(dict.fromkeys(row.config.backbone for row in plan.rows))
    what = backbones[0] if len(backbones) == 1 else f"{len(backbones)} networks"
    how = f"recipe{'s' * (len(recipes) > 1)} {', '.join(recipes)}"
    say(console, f"{plan.title}: {what} on {', '.join(data)}, {how}", "bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("row")
    theirs = ["paper's\nparams", "paper's\nGFLOPs"] if len(backbones) > 1 else ["ResNet-50\nparams", "at 224\nGFLOPs"]
    if not any(row.paper_cost for row in plan.rows):
        theirs = []
    for heading in ("params", "GFLOPs", *theirs, "to train"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in plan.rows:
        mine = [cell.trial_id for cell in plan.cells if cell.row is row]
        waiting = sum(trial_id not in plan.recorded for trial_id in mine)
        paper = row.paper_cost
        table.add_row(
            row.label,
            f"{row.cost.params:,}",
            f"{row.cost.macs / 1e9:#.3g}" if row.cost.macs < 1e8 else f"{row.cost.macs / 1e9:.3f}",
            *((f"{paper.params / 1e6:.2f} M", f"{paper.macs / 1e9:.3f}") if paper else ("–",) * len(theirs)),
            f"{waiting} of {len(mine)}",
        )
    console.print(table)
    for how, labels in trained_by(plan).items():
        say(console, f"{', '.join(labels)}: {how}")
    for labels in plan.twins:
        say(console, f"{' and '.join(labels)} build the same network here: trained once, no difference to be seen.")


def trained_by(plan: Plan) -> dict[str, list[str]]:
    """How comparisons are trained → their baselines, and rows that are trained otherwise than theirs; empty where all
    are trained alike."""
    found: dict[tuple[str, str, int], list[str]] = {}
    ways = {row.label: (row.recipe, row.data, row.config.recipe.epochs) for row in plan.rows}
    for row in plan.rows:
        if row.label == row.baseline or ways[row.label] != ways.get(row.baseline):
            found.setdefault(ways[row.label], []).append(row.label)
    if len(found) < 2:
        return {}
    several = len({data for _, data, _ in found}) > 1
    return {
        f"recipe {recipe}, {epochs} epoch{'s' * (epochs > 1)}" + f", {data}" * several: labels
        for (recipe, data, epochs), labels in found.items()
    }


def show_total(plan: Plan, expectation: Expectation, workers: int, console: Console) -> None:
    """Print what there is to train in all, and for how long."""
    say(console, "GFLOPs are multiply-adds of one image.", "dim")
    show_setting(plan, workers, console)
    facts = plan.facts
    if facts.validation and all(plan.facts_of(row) == facts for row in plan.rows) and plan.config.data.subset is None:
        whole = facts.train + facts.validation
        say(console, f"{facts.train:,} of {whole:,} training images are trained on; data.validation=0 trains on all")
    for remark in facts.remarks:
        say(console, remark, "yellow")
    for how in dict.fromkeys(carried_out(cell.spec) for cell in plan.cells):
        say(console, how) if how else None
    if plan.outdated:
        say(console, outdated(plan), "yellow")
    failed = [record for record in plan.recorded.values() if record["state"] == "failed"]
    if failed:
        say(console, f"{len(failed)} of {len(plan.trials)} trials are recorded as failed; retry=true trains them again")
    if plan.todo:
        about = duration(expectation.total(workers))
        rough = " (rough: by a few steps of each network)" if expectation.rough else ""
        say(console, f"{len(plan.todo)} of {len(plan.trials)} trials to train: about {about}{rough}")
    else:
        say(console, f"all {len(plan.trials)} trials are recorded: nothing to train")


def show_setting(plan: Plan, workers: int, console: Console) -> None:
    """Print images, epochs and workers."""
    facts, epochs = [plan.facts], [plan.config.recipe.epochs]
    if plan.rows:
        facts, epochs = [plan.facts_of(row) for row in plan.rows], [row.config.recipe.epochs for row in plan.rows]
    say(
        console,
        f"{span(each.train for each in facts)} training, {span(each.validation for each in facts)} validation, "
        f"{facts[0].test:,} test images; {span(epochs)} epoch{'s' * (max(epochs) > 1)}; "
        f"{workers} worker{'s' * (workers > 1)} on {plan.device}",
    )


def span(numbers: Iterable[int]) -> str:
    """ "40", or "40 to 1,000"."""
    ordered = sorted(numbers)
    return " to ".join(f"{number:,}" for number in dict.fromkeys((ordered[0], ordered[-1])))


def show_alarms(plans: list[Plan], console: Console) -> None:
    """Print how likely several tables are to show a difference where there is none."""
    tables = sum(bool(plan.study_tests) for plan in plans)
    if tables > 1:
        from senet_lab.reports.statistics import ALPHA  # scipy comes with it

        # Independent tables would have that many, and tables that share rows have fewer (Šidák 1967).
        say(
            console,
            f"p is corrected within each table: where nothing differs, one of these {tables} shows a difference in up "
            f"to {1 - (1 - ALPHA) ** tables:.0%} of such runs (in 22% with the paper's seven and ten seeds).",
        )


def outdated(plan: Plan) -> str:
    """What there is to say of trials that an earlier version has recorded."""
    cell, old = plan.outdated[0]
    was, now = cell.spec.earlier(plan.facts.earlier), cell.spec
    what = {"code": f"the code of {now.backbone}", "identity": "the contents of the images", "threads": "its threads"}
    since = " and ".join(text for name, text in what.items() if getattr(was, name) != getattr(now, name))
    number, several = len(plan.outdated), len(plan.outdated) > 1
    return (
        f"{number} trial{'s' * several} of this {'were' if several else 'was'} recorded before {since} became part of "
        f"what a trial is, and {'are' if several else 'is'} not used: nothing tells what was trained then "
        f"(python -m senet_lab store forget {old}{' …' * several} deletes {'them' if several else 'it'})"
    )


def carried_out(spec: Spec) -> str:
    """How the steps of a training are carried out; empty where that is the plain way."""
    found = []
    holder = "worker" if spec.devices == 1 else "device"
    if spec.feed == "memory":
        found.append(f"images in memory, {gibibytes(size_in_memory(spec.data))} a {holder}")
    elif spec.data.name == "folder" and spec.device == "cuda":
        found.append(f"images from files ({gibibytes(size_in_memory(spec.data))} in memory)")
    if spec.precision != "32-true":
        found.append(spec.precision)
    if spec.layout != STEP["layout"]:
        found.append(spec.layout)
    if spec.fused:
        found.append("fused optimiser")
    if spec.compile != STEP["compile"]:
        found.append(f"compiled: {spec.compile}")
    if spec.devices > 1:
        part = -(-spec.recipe.batch_size // spec.devices)
        found.append(f"{spec.devices} {DEVICES[spec.device]} a trial, each with {part} images of a batch")
    if spec.sync_batchnorm:
        found.append("synchronised batch norms")
    return ", ".join(found)


def gibibytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def check_room(specs: list[Spec], workers: int) -> None:
    """A UserError if the device has no room for the images that each of so many workers is to have in its memory."""
    sizes = {size_in_memory(spec.data) for spec in specs if spec.feed == "memory"}
    if not sizes:
        return
    needed, free = workers * max(sizes), step.room(specs[0].device)
    if needed > free:
        whose = f"{workers} worker{'s' * (workers > 1)}" + " on a GPU" * (specs[0].device == "cuda")
        raise UserError(
            f"training.feed=memory: the images take {gibibytes(needed)} for {whose}, and {gibibytes(free)} are free; "
            "fewer workers need less (executor.workers), training.feed=files none"
        )


def say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, soft_wrap=not console.is_terminal)  # a log has lines of any length
