"""`+search=…`: which SE designs buy the most accuracy for what they cost (ask/tell, after Optuna 5).

The search is played, not stored: its designs follow from the space, the sampler, its seed and the results alone
(`asking`), so that whatever is recorded is taken from the store and whatever is not is trained; an interrupted search,
one on more workers, and one after a study that shares designs with it all end with the same front. The Optuna study in
the store is a mirror of it, for dashboards.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

import torch

from senet_lab.config import SE, Config, UserError
from senet_lab.labels import Composed
from senet_lab.studies import goals, pricing
from senet_lab.studies.asking import ENUMERATE, LISTED, Asker
from senet_lab.studies.halving import Halving, Job
from senet_lab.studies.plan import Cell, device_of
from senet_lab.studies.pricing import Priced
from senet_lab.studies.progress import Progress
from senet_lab.studies.rows import Row
from senet_lab.studies.space import OFF, Design, Level, amount, label
from senet_lab.studies.stopwatch import Stopwatch
from senet_lab.studies.store import FAILED, Record, Store
from senet_lab.training import data as images

PAPER = SE()  # r = 16, average pool, sigmoid, standard, all stages: the design that others are measured by
# Of a search; with another one it is another study.
IDENTITY = ("objectives", "sampler", "seed", "pending", "rungs", "keep", "strata")


@dataclass
class Search:
    """One search: what is asked for, what is known of it, and what came of it.

    Attributes:
        composed: its configuration.
        priced: its space and costs.
        device: `cpu` or `cuda`.
        seeds: trainings of each design, with seeds 0, 1, …; the sampler is told their mean.
        limits: metric → the most that a design may cost.
        stopwatch: where latency matters.
        store: where trials are recorded.
        references: rows outside the space that are trained for comparison: the plain network, the paper's default.
        known: of these two, in the space or not, name → fingerprint.
        asker: who proposes designs.
        halving: who says how far each is trained.
        jobs: design → how far it is to be trained now.
        confirmed: trainings with fresh seeds.
        reached: trial id → its epochs, of the trainings that were stopped at a rung.
        rows: of every design that was asked for.
        cells: of each of them, one a seed.
        records: trial id → record, of the trials that have ended.
    """

    composed: Composed
    priced: Priced
    device: str
    seeds: int
    limits: dict[str, float]
    stopwatch: Stopwatch | None
    store: Store
    references: list[Row]
    known: dict[str, str]
    asker: Asker = field(init=False)
    halving: Halving = field(init=False)
    rows: dict[Design, Row] = field(default_factory=dict)
    cells: dict[Design, list[Cell]] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    jobs: dict[Design, Job] = field(default_factory=dict)
    reached: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    confirmed: list[Cell] = field(default_factory=list)
    retried: set[str] = field(default_factory=set)

    @property
    def config(self) -> Config:
        return self.composed.config

    # ------------------------------------------------------------------------------------------------------- trainings

    def trainings(self, row: Row) -> list[Cell]:
        """A row with every seed."""
        specs = [row.spec(self.priced.facts, seed, self.device) for seed in range(self.seeds)]
        return [Cell(row, spec.seed, spec, spec.trial_id) for spec in specs]

    def more(self, progress: Progress) -> list[Cell]:
        """The trainings of the next job that is not recorded with every seed; what is recorded is told."""
        while (job := self.halving.next()) is not None:
            design = job.design
            again = design in self.jobs
            self.jobs[design] = job
            if not again:
                self.rows[design] = row = self.priced.row(design)
                self.cells[design] = self.trainings(row)
                self.forget_failed(self.cells[design])
            cells = self.cells[design]
            self.records |= self.store.read(cell.trial_id for cell in cells)
            missing = [cell for cell in cells if not self.has(cell, job)]
            if again:
                progress.go_on(len(cells))
            progress.learn(missing, len(cells) - len(missing))
            self.heard(design)
            if missing:
                return missing
        return []

    def has(self, cell: Cell, job: Job) -> bool:
        """Whether a training has come as far as the job wants it."""
        if cell.trial_id in self.records:
            return True
        if job.epochs is None:
            return False
        noted = self.store.note(rung(cell.trial_id, job.epochs))
        if noted is not None:
            self.reached[cell.trial_id] = noted
        return noted is not None

    def until(self, design: Design | None) -> int | None:
        """Where a design's trainings are to be stopped."""
        return None if design is None else self.jobs[design].epochs

    def stopped(self, design: Design, cell: Cell, epochs: list[dict[str, float]]) -> None:
        """Note how far a training has come. It is no record: that is only what a whole training leaves."""
        job = self.jobs[design]
        assert job.epochs is not None
        self.reached[cell.trial_id] = self.store.note_once(rung(cell.trial_id, job.epochs), epochs[: job.epochs])
        self.heard(design)

    def forget_failed(self, cells: list[Cell]) -> None:
        """With retry=true, what is recorded as failed is trained again, once."""
        if self.config.retry:
            names = {cell.trial_id for cell in cells} - self.retried
            self.retried |= names
            self.store.forget(names)

    def heard(self, design: Design) -> None:
        """Say what came of a design's job once all its trainings have come so far."""
        job = self.jobs[design]
        epochs = [self.epochs(cell, job) for cell in self.cells[design]]
        if all(found is not None for found in epochs):
            assert self.config.search is not None
            first = next(name for name in self.config.search.objectives if goals.OBJECTIVES[name].trained)
            failed = any(found == [] for found in epochs)
            metrics = {} if failed else self.metrics(design, [found[-1] for found in epochs if found])
            rank = math.inf if failed else goals.OBJECTIVES[first].value(metrics)
            self.halving.ended(job, rank, None if failed else self.objectives(metrics))

    def epochs(self, cell: Cell, job: Job) -> list[dict[str, float]] | None:
        """A training's epochs as far as the job wants them; empty where it failed, None where it is not so far yet."""
        record = self.records.get(cell.trial_id)
        if record is not None:
            return [] if record["state"] == FAILED else record["epochs"][: job.epochs]
        found = self.reached.get(cell.trial_id)
        return found if found is not None and job.epochs is not None and len(found) >= job.epochs else None

    def values(self, design: Design) -> list[float] | None:
        """The objectives of a design that is trained to its end, means over its seeds; None if a training failed."""
        records = [self.records[cell.trial_id] for cell in self.cells[design]]
        if any(record["state"] == FAILED for record in records):
            return None
        return self.objectives(self.metrics(design, [record["metrics"] for record in records]))

    def metrics(self, design: Design, trained: list[dict[str, float]]) -> dict[str, float]:
        """What objectives are made of: means over the seeds, and costs."""
        means = {name: statistics.fmean(each[name] for each in trained) for name in ("val_error", "val_loss")}
        return {**means, **self.cost(design)}

    def objectives(self, metrics: dict[str, float]) -> list[float]:
        assert self.config.search is not None
        return [goals.OBJECTIVES[name].value(metrics) for name in self.config.search.objectives]

    def so_far(self) -> tuple[dict[Design, list[float] | None], dict[Design, list[str]]]:
        """Objectives and trial ids of the designs that have ended, in the order in which they were asked for."""
        ids = {design: [cell.trial_id for cell in self.cells[design]] for design in self.asker.asked}
        ended = {design: names for design, names in ids.items() if all(name in self.records for name in names)}
        return {design: self.values(design) for design in ended}, ended

    def complete(self, design: Design) -> bool:
        """Whether every training of a design has ended, rather than stopped at a rung."""
        return all(cell.trial_id in self.records for cell in self.cells[design])

    def spent(self) -> int:
        """Epochs that the designs' trainings have come to, whoever trained them."""
        cells = [cell for cells in self.cells.values() for cell in cells]
        whole, at = self.config.recipe.epochs, self.reached
        return sum(whole if cell.trial_id in self.records else len(at.get(cell.trial_id, [])) for cell in cells)

    def cost(self, design: Design) -> dict[str, float]:
        """What a design costs, by metric; the latency only where it matters."""
        cost = self.priced.space.cost(design)
        if self.stopwatch is not None:
            row = self.rows.get(design) or self.priced.row(design)
            cost["latency"] = self.stopwatch.milliseconds(row.network, row.se)
        return cost

    def excess(self, design: Design) -> dict[str, float]:
        """By how much of each limit a design is over it; 0 or less is within."""
        if not self.limits:
            return {}
        cost = self.cost(design)
        return {f"budget.{metric}": cost[metric] / limit - 1 for metric, limit in self.limits.items()}


def rung(trial_id: str, epochs: int) -> str:
    """The name under which it is noted how far a training has come: another one than its record's."""
    return f"rung {trial_id} {epochs}"


def prepare(composed: Composed, store: Store) -> Search:
    """Read and check a search; nothing is trained or written, but for latencies (noted if the run is no plan).

    Raises:
        UserError: for whatever is wrong with it.
    """
    config = composed.config
    assert config.search is not None
    goals.check(config.search, config.recipe.epochs)
    facts = images.facts(config.data)
    if not facts.validation:
        raise UserError("data.validation=0: a search chooses designs by their validation images, and so needs some")
    priced = pricing.price(composed, facts)
    device = device_of(config.training.device, config.executor.gpus_per_trial)
    stopwatch = None
    plain: dict[str, float] = dict(priced.space.plain)
    if goals.latency_matters(config.search, config.budget):
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("latency is measured on this machine, and PyTorch finds no GPU here")
        stopwatch = Stopwatch(priced, store, device, note=not config.plan)
        plain["latency"] = stopwatch.plain
    limits = goals.limits(config.budget, plain)
    space = priced.space
    sampler, trials = config.search.sampler, config.search.trials
    if space.distinct() <= trials or sampler == ENUMERATE:
        sampler, trials = ENUMERATE, space.distinct()
    assert config.se is not None
    named = {
        "no SE": None,
        "the paper's default": dataclasses.replace(PAPER, bias=config.se.bias),
    }
    inside = {name: find(priced, se) for name, se in named.items()}
    first = [design for design in inside.values() if design is not None]
    buildable = {name: pricing.row(priced, name, se) for name, se in named.items() if fits(priced, se)}
    search = Search(
        composed=composed,
        priced=priced,
        device=device,
        seeds=config.seeds or 1,
        limits=limits,
        stopwatch=stopwatch,
        store=store,
        references=[row for name, row in buildable.items() if inside[name] is None],
        known={name: row.network for name, row in buildable.items()},
    )
    costs = [name for name in config.search.objectives if name in goals.COSTS]
    cheapest = space.extreme(next((name for name in costs if name in space.plain), "params"))
    seed, objectives = config.search.seed, len(config.search.objectives)
    search.asker = Asker(space, sampler, seed, objectives, trials, trials, [cheapest, *first], search.excess)
    search.halving = Halving(
        search.asker,
        config.search.rungs,
        config.search.keep,
        config.search.strata,
        (lambda design: search.cost(design)[costs[0]]) if costs else None,
        # What is enumerated does not depend on results, unless rungs do.
        trials if sampler == ENUMERATE and not config.search.rungs else config.search.pending,
        first,
    )
    check_budget(search)
    return search


def find(priced: Priced, se: SE | None) -> Design | None:
    """The design of the space that builds this network, by its levels; None if it is not in the space."""
    space, params = priced.space, {}
    ratios = {} if se is None else dict.fromkeys(space.stages, se.reduction)
    for key, levels in space.levels.items():
        level: Level = ratios.get(key, OFF) if key in space.stages else getattr(se or priced.config.se, key[3:])
        if key not in space.stages and se is None:
            level = levels[0]
        if level not in levels:
            return None
        params[key] = level
    return space.design(params)


def fits(priced: Priced, se: SE | None) -> bool:
    """Whether the network has a place for the design."""
    try:
        pricing.row(priced, "", se)
    except UserError:
        return False
    return True


def check_budget(search: Search) -> None:
    """A UserError if no design is within the budget; it names the cheapest one."""
    space = search.priced.space
    if not search.limits:
        return
    if space.size <= LISTED and search.stopwatch is None:
        if any(search.asker.feasible(design) for design in space.designs()):
            return
    elif all(search.asker.feasible(space.extreme(metric)) for metric in search.limits if metric in space.plain):
        if "latency" not in search.limits:
            return
        if any(search.asker.feasible(design) for design in quickest(search)):
            return
    said = []
    for metric, limit in search.limits.items():
        if metric == "latency":
            design = min(quickest(search), key=lambda each: search.cost(each)["latency"])
        else:
            design = space.extreme(metric)
        value = search.cost(design)[metric]
        cheapest = f"the cheapest design ({label(space, design)}) has {amount(value)}"
        said.append(f"{metric}: at most {amount(limit)}, and {cheapest}")
    raise UserError("no design is within the budget; " + "; ".join(said))


def quickest(search: Search) -> list[Design]:
    """The designs that cost least by each count, the plain one if it is there: to time them all would take too long."""
    space = search.priced.space
    return list(dict.fromkeys(space.extreme(metric) for metric in space.plain))


# --------------------------------------------------------------------------------------------------------------------
# Its identity in the store


def identity(search: Search) -> dict[str, Any]:
    """What makes a search this one: with anything else, its designs would be others."""
    config = search.config
    assert config.search is not None
    levels = {key: list(found) for key, found in search.priced.space.levels.items()}
    own = {f"search.{name}": getattr(config.search, name) for name in IDENTITY}
    if search.asker.listed is not None and not config.search.rungs:  # every design, whatever the rest says
        own = {"search.objectives": own["search.objectives"], "search.sampler": ENUMERATE}
    else:
        own["seeds"] = search.seeds
    budget = {f"budget.{metric}": getattr(config.budget, metric) for metric in goals.COSTS}
    return {**{f"the space's {key}": found for key, found in levels.items()}, **own, **budget}


def check_same(search: Search) -> None:
    """A UserError if the store has another search under this name."""
    name, mine = f"search {search.composed.folder}", identity(search)
    theirs = search.store.note(name)
    if theirs is None and not search.config.plan:
        theirs = search.store.note_once(name, mine)
    if theirs is None or theirs == mine:
        return
    key = next(key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key))
    assert search.config.search is not None
    word = search.config.search.name
    raise UserError(
        f"search {word}: {key} was {theirs.get(key)} in {search.store.name}, and is {mine.get(key)} now; "
        f"search.name={word}2 starts a new search, which takes over whatever is trained already"
    )
