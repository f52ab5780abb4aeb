"""A benchmark of designs: every one of a space was trained, so that a table answers in place of a training.

It is read from the folder of a search of every design (`search.sampler=enumerate`), or by the name of one that comes
with the lab. It holds validation and test results, every epoch's losses and errors, and the seconds of each training;
designs are compared by validation results, as in a search, and no objective is a test error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from senet_lab.config import UserError
from senet_lab.objectives import OBJECTIVES
from senet_lab.reports.statistics import reliability
from senet_lab.studies.designs_table import DesignsTable, level_keys, read_designs, read_level
from senet_lab.studies.space import Candidate, Level, Space, design_text

if TYPE_CHECKING:
    from optuna import Trial

TESTED = ("test_error", "test_loss")  # after the last epoch
PER_EPOCH = ("train_loss", "train_error", "val_loss", "val_error")
COSTS = ("params", "macs")
Design = Mapping[str, Level] | str


@dataclass(frozen=True)
class Bench:
    """A benchmark of designs. Made by `senet_lab.bench`.

    Attributes:
        name: of the search.
        trials: one line a design and seed, in the columns of a search's `trials.csv` and with its `seconds`.
        curves: one line a design, seed and epoch: `row`, `seed`, `epoch`, and losses and errors of the training and the
            validation images.
    """

    name: str
    trials: pd.DataFrame
    curves: pd.DataFrame

    def __post_init__(self) -> None:
        self.table()  # a ValueError where a design is missing
        if self.trials["epochs"].nunique() > 1:
            raise ValueError("its designs are trained for different numbers of epochs, which no benchmark can have")

    def __repr__(self) -> str:
        return f"<Bench {self.name}: {len(self.labels)} designs, {len(self.seeds)} seeds, {self.epochs} epochs>"

    # --------------------------------------------------------------------------------------------------------- designs

    def table(self, *objectives: str) -> DesignsTable:
        """The means over the seeds by which designs are compared.

        Args:
            objectives: of `senet_lab.objectives`, such as "val_loss", "params"; those of the search if there are none.

        Raises:
            UserError: for what is no objective.
        """
        for name in objectives:
            if name not in OBJECTIVES or OBJECTIVES[name].column not in self.trials:
                known = ", ".join(each for each, what in OBJECTIVES.items() if what.column in self.trials)
                raise UserError(f"objectives: there is no '{name}'; there are {known}")
        return read_designs(self.trials, objectives)

    @cached_property
    def space(self) -> Space:
        """The designs, and which points of the space are one and the same design."""
        return self.table().space

    @cached_property
    def labels(self) -> dict[Candidate, str]:
        """Design → its label, in the order in which they were trained."""
        return self.table().rows

    @cached_property
    def designs(self) -> pd.DataFrame:
        """One line a design: its label, its levels, params, macs, and the means over its seeds."""
        keys = level_keys(self.trials)
        means = ["val_error", "val_loss", *TESTED]
        groups = self.trials.groupby("row", sort=False)
        return groups[[*keys, *COSTS]].first().join(groups[means].mean()).rename_axis("label").reset_index()

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds of every design."""
        return sorted({int(seed) for seed in self.trials["seed"]})

    def of_seeds(self, seed: int | None) -> list[int]:
        """The one seed that is asked for, or all of them; a UserError where it is none of them."""
        if seed is not None and seed not in self.seeds:
            raise UserError(f"{self.name} has no seed {seed}; it has {', '.join(map(str, self.seeds))}")
        return self.seeds if seed is None else [seed]

    @property
    def epochs(self) -> int:
        """Of a whole training."""
        return int(self.trials["epochs"].iloc[0])

    def design(self, asked: Design) -> Candidate:
        """A design of the space by its label or its levels; what is left out of these has its first level.

        Raises:
            UserError: for a label, a key or a level that is not of the space.
        """
        if isinstance(asked, str):
            found = next((design for design, label in self.labels.items() if label == asked), None)
            if found is None:
                some = ", ".join(list(self.labels.values())[:3])
                raise UserError(f"{self.name} has no design '{asked}'; there are {some}, …")
            return found
        point = {key: read_level(key, str(level)) for key, level in asked.items()}
        for key, level in point.items():
            if key not in self.space.levels:
                raise UserError(f"{self.name} has no '{key}'; it has {', '.join(self.space.levels)}")
            if level not in self.space.levels[key]:
                raise UserError(
                    f"{self.name}: {key} has no level {level}; it has {', '.join(map(str, self.space.levels[key]))}"
                )
        return self.space.design(point)

    # --------------------------------------------------------------------------------------------------------- results

    @cached_property
    def results(self) -> pd.DataFrame:
        """One line a design, seed and epoch: `PER_EPOCH`, `elapsed` (seconds since the training began, taken to pass
        evenly), `params`, `macs`, and in the last epoch `TESTED`; indexed by label, seed and epoch."""
        of_trial = self.trials.set_index(["row", "seed"])
        lines = self.curves.set_index(["row", "seed"])[["epoch", *PER_EPOCH]]
        lines = lines.join(of_trial[[*COSTS, *TESTED, "seconds"]], how="left")
        lines = lines.astype(float).astype({"epoch": int})
        lines["elapsed"] = lines.pop("seconds") * lines["epoch"] / self.epochs
        lines.loc[lines["epoch"] < self.epochs, list(TESTED)] = math.nan
        return lines.set_index("epoch", append=True).rename_axis(["label", "seed", "epoch"]).sort_index()

    def query(self, design: Design, seed: int | None = None, epoch: int | None = None) -> dict[str, float]:
        """What a training of a design came to.

        Args:
            design: its label, or its levels: {"se.reduction.2": 4, "se.position": "pre"}.
            seed: of the training; the mean over all seeds if it is None.
            epoch: from 1; the last one if it is None.

        Returns:
            `train_loss`, `train_error`, `val_loss`, `val_error`, `params`, `macs`, `elapsed` (seconds) and, after the
            last epoch, `test_error` and `test_loss`; errors in percent. NaN where the training failed.

        Raises:
            UserError: for a design, a seed or an epoch that it does not have.
        """
        label, seeds = self.labels[self.design(design)], self.of_seeds(seed)
        epoch = self.epochs if epoch is None else epoch
        if not 1 <= epoch <= self.epochs:
            raise UserError(f"{self.name} has no epoch {epoch}; it has 1 to {self.epochs}")
        wanted = pd.MultiIndex.from_product([[label], seeds, [epoch]])
        found = self.results.reindex(wanted).mean(skipna=False)
        return {str(name): float(value) for name, value in found.items() if epoch == self.epochs or name not in TESTED}

    # ---------------------------------------------------------------------------------------------------- for a search

    def objective(self, *objectives: str, seed: int | None = None) -> Callable[[Trial], float | tuple[float, ...]]:
        """A function to be minimised by Optuna: `study.optimize(bench.objective("val_error", "params"), n_trials=50)`.

        Of a single objective that is trained, every epoch is reported first, so that Optuna's pruners work.

        Args:
            objectives: as in `table`.
            seed: of the trainings; the mean over all seeds if it is None.

        Raises:
            UserError: for what is no objective.
        """
        from optuna import TrialPruned

        table = self.table(*objectives)
        columns = [OBJECTIVES[name].column for name in table.objectives]
        seeds = self.of_seeds(seed)

        def evaluate(trial: Trial) -> float | tuple[float, ...]:
            params = {key: trial.suggest_categorical(key, levels) for key, levels in table.space.varied.items()}
            design = table.space.design({key: level for key, level in params.items() if level is not None})
            label = self.labels[design]
            trial.set_user_attr("label", label)
            if len(columns) == 1 and OBJECTIVES[table.objectives[0]].trained:
                of_design = self.results.xs(label)
                for epoch in range(1, self.epochs + 1):
                    trial.report(float(of_design.xs(epoch, level="epoch").loc[seeds, columns[0]].mean()), epoch)
                    if trial.should_prune():
                        raise TrialPruned
            if seed is None:
                values = table.values[design]
            else:
                own = self.trials[(self.trials["row"] == label) & (self.trials["seed"] == seed)]
                values = [float(own[column].iloc[0]) for column in columns]
            return values[0] if len(values) == 1 else tuple(values)

        return evaluate

    def replay(self, sampler: str = "nsga2", seed: int = 0, trials: int = 100, pending: int = 4) -> pd.DataFrame:
        """The search that the lab would have made, in a second: what its sampler asks for, told what the table says.

        Args:
            sampler: as `search.sampler`.
            seed: of the sampler.
            trials: designs at most.
            pending: designs in training at a time.

        Returns:
            One line a design, in order: its label, its objectives, and the `share` of the hypervolume of the
            benchmark's own front that has been found by then.

        Raises:
            UserError: for a sampler that there is not.
        """
        from senet_lab.studies.proposals import CHOICES

        if sampler not in CHOICES:
            raise UserError(f"sampler: there is no '{sampler}'; there are {', '.join(CHOICES)}")
        table = self.table()
        asked, _ = table.play(sampler, seed, trials, pending)
        found = pd.DataFrame([table.values[design] for design in asked], columns=list(table.objectives))
        found.insert(0, "label", [table.rows[design] for design in asked])
        return found.assign(share=table.shares(asked))

    # ----------------------------------------------------------------------------------------- what it is able to tell

    def trust(self) -> pd.DataFrame:
        """How far the benchmark tells designs apart, for each result of the last epoch.

        Returns:
            One line a result: `sd_seeds`, the standard deviation of a design over its seeds (mean of the variances);
            `reliability` of the means over the seeds (`reports.statistics.reliability`); `reliability_one_seed`;
            `noise_ceiling`, the correlation of these means with the designs' true values, above which no predictor of
            them can be expected to come; `reliability_better_half`, of those designs alone whose means are the better
            ones. A reliability is NaN where there are fewer than two seeds.
        """
        lines = []
        for name in ("val_error", "val_loss", *TESTED):
            values_DS = self.trials.pivot(index="row", columns="seed", values=name).to_numpy(dtype=float)
            values_DS = values_DS[~np.isnan(values_DS).any(axis=1)]
            if not len(values_DS):  # a table that is older than this result
                continue
            several = min(values_DS.shape) > 1
            whole = reliability(values_DS) if several else math.nan
            means = values_DS.mean(axis=1)
            better = values_DS[means <= np.median(means)]
            count = values_DS.shape[1]
            lines.append(
                {
                    "result": name,
                    "sd_seeds": float(values_DS.var(axis=1, ddof=1).mean() ** 0.5) if several else math.nan,
                    "reliability": whole,
                    # Spearman and Brown's formula, from n seeds to one.
                    "reliability_one_seed": whole / (count - (count - 1) * whole),
                    "noise_ceiling": max(whole, 0.0) ** 0.5,
                    "reliability_better_half": reliability(better) if several and len(better) > 1 else math.nan,
                }
            )
        return pd.DataFrame(lines)

    def best(self) -> str:
        """The design of the lowest mean of the first objective, in words."""
        table = self.table()
        design = min(table.complete, key=lambda each: table.complete[each][0])
        return design_text(table.space, design)
