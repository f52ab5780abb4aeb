"""Every design of a space with its results, as a search with `search.sampler=enumerate` has left them.

A search can be replayed on such a table in a second: it is asked as a search asks its sampler, and told what the table
says. Nothing trains, and torch is not imported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from senet_lab.objectives import OBJECTIVES
from senet_lab.reports import pareto
from senet_lab.reports.front import is_search, level_columns
from senet_lab.studies.proposals import PATIENCE, Proposer
from senet_lab.studies.space import OFF, REDUCTION, WORDS, Candidate, Level, Space, StageCost

Array = NDArray[np.float64]
ALONE = " alone"  # behind a sampler's name: known proposals are not replaced by neighbours of the front
AGAIN = 10  # times in a row that a sampler alone may propose what is known, before any other design is drawn


@dataclass(frozen=True)
class DesignsTable:
    """A table of every design.

    Attributes:
        space: its designs.
        objectives: their names, all of them to be minimised.
        values: design → objectives, means over its seeds; NaN where a training of it failed.
        errors: (designs, seeds), the first objective: validation errors in percent, or losses.
        rows: design → its label.
        epochs: of a whole training.
    """

    space: Space
    objectives: tuple[str, ...]
    values: dict[Candidate, list[float]]
    errors: Array
    rows: dict[Candidate, str]
    epochs: int

    @cached_property
    def complete(self) -> dict[Candidate, list[float]]:
        """The values of designs of which no training failed."""
        return {design: values for design, values in self.values.items() if not any(map(math.isnan, values))}

    @cached_property
    def reference(self) -> Array:
        """The corner of hypervolumes (`pareto.corner`)."""
        return pareto.corner(list(self.complete.values()))

    @cached_property
    def whole(self) -> float:
        """Hypervolume of the table's own front."""
        return pareto.hypervolume(list(self.complete.values()), self.reference)

    @cached_property
    def cheapest(self) -> Candidate:
        """The design that every search begins with."""
        return min(self.values, key=lambda design: self.values[design][1:])

    def shares(self, asked: Sequence[Candidate]) -> Array:
        """Share of the whole hypervolume after each design."""
        points = [self.complete.get(design, [math.inf] * len(self.objectives)) for design in asked]
        return pareto.history(points, self.reference) / self.whole

    def play(self, sampler: str, seed: int, trials: int, pending: int) -> tuple[list[Candidate], Proposer]:
        """The designs of one search, in order.

        Args:
            sampler: one of `proposals.SAMPLERS`, or its name and ALONE.
            seed: of the sampler.
            trials: designs at most.
            pending: how many are in training at a time.
        """
        alone = sampler.endswith(ALONE)
        asker = Proposer(
            self.space,
            sampler.removesuffix(ALONE),
            seed,
            len(self.objectives),
            trials,
            pending,
            [self.cheapest],
            near=not alone,
            patience=AGAIN if alone else PATIENCE,
        )
        asked: list[Candidate] = []
        while (design := asker.ask()) is not None:
            asked.append(design)
            asker.tell(design, self.complete.get(design))
        return asked, asker


def read_designs(trials: pd.DataFrame, objectives: Sequence[str] = ()) -> DesignsTable:
    """The table in a search's trials.

    Args:
        trials: one line a training, as `reports.trials.read_trials` returns them.
        objectives: what designs are compared by, in place of the search's own.

    Raises:
        ValueError: if they are no search's, or leave a design of its space out.
    """
    if not is_search(trials):
        raise ValueError("these are not the trials of a search")
    trials = trials[trials["asked"] != ""]
    objectives = tuple(objectives or str(trials["objectives"].iloc[0]).split())
    keys = level_keys(trials)
    points = {
        tuple(read_level(key, str(level)) for key, level in zip(keys, line, strict=True)): group
        for line, group in trials.groupby(keys, sort=False)
    }
    levels = {key: tuple(dict.fromkeys(design[at] for design in points)) for at, key in enumerate(keys)}
    columns = [OBJECTIVES[name].column for name in objectives]
    values = {
        # A mean over the seeds; that of a design which failed with one of them is NaN.
        design: [float(group[column].astype(float).mean(skipna=False)) for column in columns]
        for design, group in points.items()
    }
    space = listed_space(levels)
    missing = [design for design in space.designs() if design not in values]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {space.distinct()} designs of the space are not in it, {missing[0]} for one"
        )
    errors = trials.pivot(index="row", columns="seed", values=columns[0]).to_numpy(dtype=float)
    rows = {design: str(group["row"].iloc[0]) for design, group in points.items()}
    return DesignsTable(space, objectives, values, errors, rows, int(trials["epochs"].iloc[0]))


def level_keys(trials: pd.DataFrame) -> list[str]:
    """The columns of a design's levels, in the order of its space; a table may be older than one of `WORDS`."""
    named = level_columns(trials)
    stages = [key for key in named if key.startswith(REDUCTION)]
    return [*stages, *(word for word in WORDS if word in named), *(key for key in named if not is_gates(key))]


def is_gates(key: str) -> bool:
    return key in WORDS or key.startswith(REDUCTION)


def read_level(key: str, text: str) -> Level:
    """A level as the space has it, from its cell."""
    if text == OFF or key in WORDS:
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"True": True, "False": False}.get(text, text)


def listed_space(levels: dict[str, Candidate]) -> Space:
    """The space of levels that all build different networks: of those that do not, one alone was trained."""
    stages = [key for key in levels if key.startswith(REDUCTION)]
    beside = [key for key in levels if key not in stages]
    parts = {
        (stage, words, level): StageCost((0 if level == OFF else int(level),), {})
        for stage in stages
        for level in levels[stage]
        for words in itertools.product(*(levels[key] for key in beside))
    }
    others = itertools.product(*(levels[key] for key in beside if key not in WORDS))
    return Space(levels, {setting: {} for setting in others}, parts)
