"""Whoever is told of trials beside the store: W&B and Optuna."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from senet_lab.labels import Composed
from senet_lab.studies.designs import Design, folder_of
from senet_lab.studies.mirror import Mirror
from senet_lab.studies.plan import Cell
from senet_lab.studies.search import Search
from senet_lab.studies.search_mirror import SearchMirror
from senet_lab.studies.store import Record, Store
from senet_lab.studies.tracking import Tracker


class Sinks(ExitStack):
    """W&B's runs and Optuna's studies of the studies of one command."""

    def __init__(self, studies: Sequence[Composed], design: Design, store: Store) -> None:
        super().__init__()
        config = studies[0].config
        self.studies, self.design = studies, design
        self.trackers = [
            self.enter_context(Tracker(config.tracking, Path(config.results) / "wandb", study.folder))
            for study in studies
        ]
        self.mirrors: list[Mirror] = []
        self.search_mirror: SearchMirror | None = None
        if isinstance(design, Search):
            objectives = design.asked.objectives
            self.search_mirror = SearchMirror(design.priced.space, objectives, studies[0].folder, store)
        else:
            pairs = zip(studies, design.plans, strict=True)
            self.mirrors = [Mirror(each, study.folder, store) for study, each in pairs]
        for trial_id, record in design.records.items():  # by a run that was cut off before its tracking
            for number, own in self.cells(trial_id):
                self.trackers[number].trial(own, record)

    def cells(self, trial_id: str) -> Iterator[tuple[int, Cell]]:
        """Number of a study and its cell, for each study that the trial belongs to."""
        for number, each in enumerate(self.design.plans):
            if trial_id in each.trials:
                yield number, each.trials[trial_id]

    def epoch(self, cell: Cell, entry: Record) -> None:
        number = next((number for number, _ in self.cells(cell.trial_id)), 0)
        self.trackers[number].epoch(cell, entry)

    def trial(self, cell: Cell, record: Record) -> None:
        if self.search_mirror:
            self.trackers[0].trial(cell, record)
        for number, own in self.cells(cell.trial_id) if self.mirrors else ():
            self.trackers[number].trial(own, record)
        self.update()

    def update(self, patience: float = 0.0) -> None:
        if isinstance(self.design, Search) and self.search_mirror:
            self.search_mirror.update(*self.design.so_far(), patience)
        for mirror, each in zip(self.mirrors, self.design.plans, strict=False):
            mirror.grow(each)
            mirror.update(self.design.records, patience)

    def tables(self) -> None:
        """The outputs of the studies are written."""
        for study, tracker in zip(self.studies, self.trackers, strict=True):
            name = ("front.csv", "front.png") if study.config.search else ("table.csv", "figure.png")
            tracker.table(folder_of(study) / name[0], folder_of(study) / name[1])
