"""`+search=…`: which SE designs buy the most accuracy for what they cost (ask/tell, after Optuna 5).

A search is not stored; it is replayed. Its designs follow from the space, the sampler, its seed and the results alone
(`proposals`): recorded results are read from the store, and missing ones are trained. So an interrupted search, one on
more workers, and one after a study that shares designs with it end with the same front.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from rich.console import Console

from senet_lab.config import UserError
from senet_lab.counting import duration
from senet_lab.naming import Composed
from senet_lab.objectives import COSTS
from senet_lab.studies import confirmation, pricing, search_objectives, search_plan, search_tables
from senet_lab.studies.forecast import Expectation, expect
from senet_lab.studies.halving import Halving, Job
from senet_lab.studies.plan import Cell, Plan, device_of, measure_images
from senet_lab.studies.progress import Progress
from senet_lab.studies.proposals import ENUMERATE, Proposer
from senet_lab.studies.rows import Row
from senet_lab.studies.search_objectives import SearchObjectives
from senet_lab.studies.space import Candidate
from senet_lab.studies.stopwatch import Stopwatch
from senet_lab.studies.store import DONE, FAILED, Record, Store
from senet_lab.training import data as images
from senet_lab.training.spec import Spec


class SearchDesign:
    """One search: its space, its records and the designs that were asked for.

    Attributes:
        composed: its configuration.
        priced: its space and costs.
        device: `cpu` or `cuda`.
        seeds: trainings of each design, with seeds 0, 1, …; the sampler is told their mean.
        records: trial id → record, of the trials that have ended.
        rows, cells: of every design that was asked for, the cells one a seed.
        owners: trial id → its design.
        jobs: design → how far it is to be trained now.
        reached: trial id → its epochs, of the trainings that were stopped at a rung.
        confirmed: trainings with fresh seeds; None before the search itself is over.
        store: where trials are recorded; this and what follows once they were looked up.
        worth: costs and objectives of its designs.
        known: of the two designs that everyone knows (no SE, the paper's default), in the space or not, name →
            fingerprint.
        references: rows of those that are outside the space: they are trained for comparison.
        asker: who proposes designs.
        halving: who says how far each is trained.

    Raises:
        UserError: whatever is wrong with the search, before anything is read or written.
    """

    store: Store
    worth: SearchObjectives
    known: dict[str, str]
    references: list[Row]
    asker: Proposer
    halving: Halving

    def __init__(self, composed: Composed) -> None:
        composed = measure_images(composed)
        config = composed.config
        assert config.search is not None
        search_objectives.check_search(config.search, config.recipe.epochs)
        facts = images.data_facts(config.data)
        if not facts.validation:
            raise UserError("data.validation=0: a search chooses designs by their validation images, and so needs some")
        self.composed, self.config, self.asked = composed, config, config.search
        self.priced = pricing.price(composed, facts)
        self.device = device_of(config.training.device, config.executor.gpus_per_trial)
        self.seeds = config.seeds or 1
        self.records: dict[str, Record] = {}
        self.rows: dict[Candidate, Row] = {}
        self.cells: dict[Candidate, list[Cell]] = {}
        self.owners: dict[str, Candidate] = {}
        self.jobs: dict[Candidate, Job] = {}
        self.reached: dict[str, list[dict[str, float]]] = {}
        self.confirmed: list[Cell] | None = None
        self.retried: set[str] = set()

    def look_up(self, store: Store) -> None:
        """Measure latencies if they matter and prepare the sampler. Latencies are noted in the store, unless this is a
        plan."""
        config, space, asked = self.config, self.priced.space, self.asked
        self.store, stopwatch = store, None
        if search_objectives.latency_matters(asked, config.budget):
            if self.device == "cuda" and not torch.cuda.is_available():
                raise UserError("latency is measured on this machine, and PyTorch finds no GPU here")
            stopwatch = Stopwatch(self.priced, store, self.device, note=not config.plan)
        self.worth = SearchObjectives(asked, config.budget, self.priced, stopwatch)
        sampler, trials = asked.sampler, asked.trials
        if space.distinct() <= trials or sampler == ENUMERATE:
            sampler, trials = ENUMERATE, space.distinct()
        self.known, self.references, known = pricing.well_known(self.priced)
        costs = [name for name in asked.objectives if name in COSTS]
        cheapest = space.extreme(next((name for name in costs if name in space.metrics), "params"))
        first, objectives = [cheapest, *known], len(asked.objectives)
        self.asker = Proposer(space, sampler, asked.seed, objectives, trials, trials, first, self.worth.excess)
        self.halving = Halving(
            self.asker,
            asked.rungs,
            asked.keep,
            asked.strata,
            (lambda design: self.worth.cost(design)[costs[0]]) if costs else None,
            # What is enumerated does not depend on results, unless rungs do.
            trials if sampler == ENUMERATE and not asked.rungs else asked.pending,
            known,
        )
        search_plan.check_budget(self)
        search_plan.check_same(self)
        beside = [cell for row in self.references for cell in self.trainings(row)]
        self.forget_failed(beside)
        self.records.update(store.read(cell.trial_id for cell in beside))

    # ------------------------------------------------------------------------------------------- before the first one

    @property
    def most(self) -> int:
        return (self.asker.trials + len(self.references)) * self.seeds

    @property
    def plans(self) -> list[Plan]:
        """Everything that is trained: complete designs in the order in which they were asked for, then references."""
        rows = [self.rows[design] for design in self.asker.asked if self.complete(design)] + self.references
        cells = [cell for row in rows for cell in self.trainings(row)] + (self.confirmed or [])
        recorded = {cell.trial_id: self.records[cell.trial_id] for cell in cells if cell.trial_id in self.records}
        return [Plan(self.config, self.priced.facts, rows, self.device, cells, recorded, [])]

    def specs(self) -> list[Spec]:
        return [self.trainings(self.priced.plain.row)[0].spec]  # all are trained alike

    def forecast(self, workers: int) -> Expectation:
        """Predicts each training to take as long as one of the most expensive design."""
        dearest = self.trainings(self.priced.row(self.priced.space.extreme("macs", dearest=True)))[:1]
        (fixed,) = self.plans
        expected = expect(dataclasses.replace(fixed, cells=dearest, recorded={}), self.store, workers, "backbone")
        (seconds,) = expected.seconds.values()
        unasked = (seconds,) * (self.asker.trials * self.seeds)
        return dataclasses.replace(expected, seconds=dict.fromkeys(fixed.trials, seconds), unasked=unasked)

    def show(self, forecast: Expectation, workers: int, console: Console) -> None:
        search_plan.show_search(self, forecast, workers, console)

    def begin(self) -> None:
        search_plan.check_same(self, write=True)

    # ------------------------------------------------------------------------------------------------------- trainings

    def trainings(self, row: Row) -> list[Cell]:
        """A row with every seed."""
        return [self.training(row, seed) for seed in range(self.seeds)]

    def training(self, row: Row, seed: int) -> Cell:
        spec = row.spec(self.priced.facts, seed, self.device)
        return Cell(row, seed, spec, spec.trial_id)

    def due(self, progress: Progress) -> list[Cell]:
        return []

    def more(self, progress: Progress) -> list[Cell]:
        """The trainings of the next job that has records to add; recorded results are reported to the sampler. After
        the last job, the trainings that confirm the front."""
        while (job := self.halving.next()) is not None:
            design = job.design
            again = design in self.jobs
            self.jobs[design] = job
            if not again:
                self.rows[design] = row = self.priced.row(design)
                self.cells[design] = self.trainings(row)
                self.owners.update((cell.trial_id, design) for cell in self.cells[design])
                self.forget_failed(self.cells[design])
            cells = self.cells[design]
            self.records.update(self.store.read(cell.trial_id for cell in cells))
            missing = [cell for cell in cells if not self.has(cell, job)]
            if again:
                progress.go_on(len(cells))
            progress.learn(missing, len(cells) - len(missing))
            self.report_result(design)
            if missing:
                return missing
        over = len(self.halving.results) == len(self.halving.jobs)
        return self.confirm(progress) if over and self.confirmed is None and self.asked.confirm else []

    def confirm(self, progress: Progress) -> list[Cell]:
        """Trainings with fresh seeds of the designs on and near the front, of the plain network and of the paper's
        default."""
        rows = [self.rows[design] for design in self.near_front()]
        known = [row for row in self.rows.values() if row.network in self.known.values()]
        rows += [row for row in [*known, *self.references] if row not in rows]
        seeds = range(self.seeds, self.seeds + self.asked.confirm)
        if not any(record["state"] == DONE for record in self.records.values()):
            return []  # there is no front
        self.confirmed = [self.training(row, seed) for seed in seeds for row in rows]
        self.forget_failed(self.confirmed)
        self.records.update(self.store.read(cell.trial_id for cell in self.confirmed))
        missing = [cell for cell in self.confirmed if cell.trial_id not in self.records]
        progress.grow(missing)
        what = f"{len(rows)} designs on or near the front, with {len(seeds)} fresh seed{'s' * (len(seeds) > 1)}"
        about = f"{len(missing)} of {len(self.confirmed)} trials to train: about {duration(progress.left())}"
        progress.say(f"{what}: {about if missing else f'all {len(self.confirmed)} trials are recorded'}")
        return missing

    def near_front(self) -> list[Candidate]:
        """The designs that are on the front, or near enough to be on it by chance."""
        whole = {design: self.values(design) for design in self.asker.asked if self.complete(design)}
        values = {design: found for design, found in whole.items() if found is not None}
        errors = [at for at, name in enumerate(self.asked.objectives) if name in ("val_error", "val_accuracy")]
        return confirmation.designs_to_confirm(values, errors[:1], self.priced.facts.validation * self.seeds)

    def has(self, cell: Cell, job: Job) -> bool:
        """Whether a training has reached the epoch that the job asks for."""
        if cell.trial_id in self.records or job.epochs is None:
            return cell.trial_id in self.records
        noted = self.store.note(rung(cell.trial_id, job.epochs))
        if noted is not None:
            self.reached[cell.trial_id] = noted
        return noted is not None

    def until(self, cell: Cell) -> int | None:
        design = self.owners.get(cell.trial_id)
        return None if design is None else self.jobs[design].epochs

    def stopped(self, cell: Cell, epochs: list[dict[str, float]]) -> None:
        """Note the epochs of a stopped training. This is no record, which only a whole training leaves."""
        design = self.owners[cell.trial_id]
        job = self.jobs[design]
        assert job.epochs is not None
        self.reached[cell.trial_id] = self.store.note_once(rung(cell.trial_id, job.epochs), epochs[: job.epochs])
        self.report_result(design)

    def ended(self, cell: Cell, record: Record) -> list[str]:
        self.records[cell.trial_id] = record
        design = self.owners.get(cell.trial_id)
        if design is not None:
            self.report_result(design)
        return []

    def forget_failed(self, cells: list[Cell]) -> None:
        """With retry=true, what is recorded as failed is trained again, once."""
        if self.config.retry and not self.config.plan:
            names = {cell.trial_id for cell in cells} - self.retried
            self.retried |= names
            self.store.forget(names)

    def report_result(self, design: Candidate) -> None:
        """Report the result of a design's job once all of its trainings have reached the job's epoch."""
        job = self.jobs[design]
        epochs = [self.epochs(cell, job) for cell in self.cells[design]]
        if all(found is not None for found in epochs):
            last = [found[-1] for found in epochs if found]
            if len(last) < len(epochs):  # one has failed
                self.halving.ended(job, math.inf, None)
            else:
                self.halving.ended(job, self.worth.error(last), self.worth.values(design, last))

    def epochs(self, cell: Cell, job: Job) -> list[dict[str, float]] | None:
        """The epochs of a training up to the job's; empty if it failed, None if it has not got there."""
        record = self.records.get(cell.trial_id)
        if record is not None:
            return [] if record["state"] == FAILED else record["epochs"][: job.epochs]
        reached = self.reached.get(cell.trial_id)
        return reached if reached is not None and job.epochs is not None and len(reached) >= job.epochs else None

    def values(self, design: Candidate) -> list[float] | None:
        """The objectives of a design that is trained to its end, means over its seeds; None if a training failed."""
        records = [self.records[cell.trial_id] for cell in self.cells[design]]
        if any(record["state"] == FAILED for record in records):
            return None
        return self.worth.values(design, [record["metrics"] for record in records])

    def complete(self, design: Candidate) -> bool:
        """Whether every training of a design has ended and not just reached a rung."""
        return all(cell.trial_id in self.records for cell in self.cells[design])

    # ---------------------------------------------------------------------------------------------------------- outputs

    def finish(self) -> None:
        """Count what was spent, and number the designs as they were asked for."""
        self.spent = search_tables.spent(self)
        self.numbers = {self.rows[design].label: (n, design) for n, design in enumerate(self.asker.asked, start=1)}

    def columns(self, cell: Cell) -> dict[str, Any]:
        return search_tables.columns(self, cell)

    def files(self) -> dict[str, bytes]:
        return search_tables.rung_files(self) if self.asked.rungs else {}


def rung(trial_id: str, epochs: int) -> str:
    """The name of the note about the epochs of a stopped training."""
    return f"rung {trial_id} {epochs}"
