"""The plan: what a study would train and what its networks cost, shown before any training."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from senet_lab.config import Config, Data, UserError
from senet_lab.naming import Composed
from senet_lab.reports.aim import Aim, aim_from_config
from senet_lab.studies import family
from senet_lab.studies import rows as study_rows
from senet_lab.studies.rows import Row
from senet_lab.studies.store import Store
from senet_lab.training import data as images
from senet_lab.training.data import DataFacts
from senet_lab.training.spec import Spec


@dataclass(frozen=True)
class Plan:
    """Rows × seeds, with their costs and the records that exist.

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
        """The facts of the data set for a row, which may train on fewer images or hold out others."""
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
    """As `data.data_facts`, looked up once for all seeds."""
    if name not in OWN_FACTS:
        OWN_FACTS[name] = images.data_facts(data)
    return OWN_FACTS[name]


def make_plan(composed: Composed) -> Plan:
    """Build and check the study; nothing is known of its records yet.

    Raises:
        UserError: whatever is wrong with the study, before anything is trained or written.
    """
    composed = measure_images(composed)
    config = composed.config
    settles = config.seeds == "settle"
    seeds = range(config.settle.min) if settles else config.seed_numbers(3 if config.study else 1)
    facts = images.data_facts(config.data)
    rows, missing = study_rows.build_rows(composed, facts)
    if settles and all(row.label == row.baseline for row in rows):
        raise UserError(f"seeds=settle compares rows, and here is only {', '.join(row.label for row in rows)}")
    device = device_of(config.training.device, config.executor.gpus_per_trial)
    specs = [(row, row.spec(facts, 0, device)) for row in rows]
    first = [Cell(row, 0, spec, spec.trial_id) for row, spec in specs]
    cells = [cell.with_seed(seed) for seed in seeds for cell in first]
    whole = family.family_size(composed, rows, missing, facts, device) if config.study else (None, None)
    aim = aim_from_config(config, settles)
    return Plan(config, facts, rows, device, cells, {}, missing, study_rows=whole[0], study_tests=whole[1], aim=aim)


def measure_images(composed: Composed) -> Composed:
    """With what the images tell of their size and normalisation, for all rows; it is in no label. A plan downloads
    nothing.

    Raises:
        UserError: images of a named source that cannot be had.
    """
    config = composed.config
    asked = replace(config.data, download=config.data.download and not config.plan)
    measured = images.resolve_data(asked)
    values = {name: getattr(measured, name) for name in ("size", "mean", "std")}
    found = {name: value for name, value in values.items() if value != getattr(asked, name)}
    filled = [replace(each, data=replace(each.data, **found)) for each in (config, composed.chosen)]
    return replace(composed, config=filled[0], chosen=filled[1])


def look_up(plan: Plan, store: Store) -> Plan:
    """The plan with the records that the store has of it, and those of earlier versions that it cannot use."""
    recorded = store.read(plan.trials)
    were = {
        cell.spec.as_recorded_earlier(plan.facts.earlier).trial_id: cell
        for cell in plan.trials.values()
        if cell.trial_id not in recorded
    }
    earlier = store.read(old for old, cell in were.items() if old != cell.trial_id)
    return replace(plan, recorded=recorded, outdated=[(were[old], old) for old in earlier])


def partial_plan(plan: Plan, records: dict[str, dict[str, Any]]) -> Plan:
    """The part of a plan that has records. A row whose baseline has none is compared with nothing."""
    labels = {cell.row.label for cell in plan.cells if cell.trial_id in records}
    rows = {
        row.label: row if row.baseline in labels else replace(row, baseline="")
        for row in plan.rows
        if row.label in labels
    }
    cells = [replace(cell, row=rows[cell.row.label]) for cell in plan.cells if cell.trial_id in records]
    return replace(plan, rows=[*rows.values()], cells=cells, recorded=records, whole=len(plan.trials))


def merge_plans(plans: list[Plan]) -> Plan:
    """Several studies of the same data and recipe as one: rows that they share are trained once. All have their first
    seed before any has its second; studies that settle are trained one after the other, so that verdicts come in."""
    first, *others = plans
    if not others:
        return first
    return replace(
        first,
        rows=[row for plan in plans for row in plan.rows],
        cells=sorted(
            (cell for plan in plans for cell in plan.cells), key=lambda cell: 0 if first.aim.settles else cell.seed
        ),
        recorded={trial_id: record for plan in plans for trial_id, record in plan.recorded.items()},
        outdated=list({old: (cell, old) for plan in plans for cell, old in plan.outdated}.values()),
    )


def device_of(word: str, share: float | None = None) -> str:
    """`cpu` or `cuda`, as asked for or available; on a cluster, `cuda` if trials have a share of a GPU."""
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
