"""Compares the rows of a study: which seeds count, the difference of each contrast, and its verdict."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from senet_lab.outputs import Outputs
from senet_lab.reports import aim, statistics, verdicts
from senet_lab.reports.aim import Aim
from senet_lab.reports.cells import first
from senet_lab.reports.contrasts import Contrast, effects, of_rows
from senet_lab.reports.image_outcomes import outcomes
from senet_lab.reports.sequential import Looks, looks_of, rounding
from senet_lab.reports.table import IDENTICAL, Failure
from senet_lab.reports.trials import factors_of, guessing
from senet_lab.reports.verdicts import Verdict

Groups = dict[str, pd.DataFrame]  # label → trials


@dataclass(frozen=True)
class StudyTrials:
    """The trials of a study and how they are compared.

    Attributes:
        frame: the trials in canonical form.
        aim: what the study is to find out.
        images: behind one error; None if every trial failed.
        tests: what verdicts are corrected for.
        contrasts: row of the table → what it compares.
        outputs: trial id → its outputs for each test image.
    """

    frame: pd.DataFrame
    aim: Aim
    images: int | None
    tests: int
    contrasts: dict[str, Contrast]
    outputs: dict[str, Outputs]

    def step(self, weights: Mapping[str, float]) -> float:
        """What one test image weighs in a difference; 0 for a loss, which is not counted."""
        counted = self.images if self.aim.metric == "error" else None
        return statistics.step_percent(counted) * rounding(weights.values())

    def looks(self, weights: Mapping[str, float]) -> Looks:
        """The looks at each difference of a study whose seeds settle."""
        return looks_of(self.aim, self.tests, self.images, weights.values())

    def values(self, group: pd.DataFrame, metric: str) -> dict[int, float]:
        """seed → error in percent or loss in nats; for failed trials the value of guessing if they count so. No losses
        if one of them is unknown."""
        if metric == "error":
            return by_seed(group, "test_error", guessing(self.frame))
        chance = None if guessing(self.frame) is None else self.aim.guessing(int(first(self.frame["classes"])))
        known = "test_loss" in group and group["test_loss"][group["status"] == "done"].notna().all()
        return by_seed(group, "test_loss", chance) if known else {}

    def images_of(self, group: pd.DataFrame, metric: str) -> dict[int, NDArray[np.float32]]:
        """seed → outcome of each test image, of the finished trials that have outputs."""
        done = group[group["status"] == "done"]
        return {
            int(seed): outcomes(self.outputs[name], metric)
            for seed, name in zip(done["seed"], done["trial_id"], strict=True)
            if name in self.outputs
        }

    def sample(self, group: pd.DataFrame, metric: str) -> statistics.Sample | None:
        if self.images is None:
            return None
        values, known = self.values(group, metric), self.images_of(group, metric)
        counted = self.images if metric == "error" else None
        return statistics.sample(list(values.values()), counted, [known.get(seed) for seed in values])

    def compare(
        self, weights: Mapping[str, float], groups: Groups, tested: bool, last: int | None = None
    ) -> statistics.Comparison | None:
        """A contrast: a weighted sum of rows, seed by seed, up to the seed `last`; if seeds settle, over the first
        seeds without a gap."""
        if self.images is None or not weights:
            return None
        values = {label: self.values(groups[label], self.aim.metric) for label in weights}
        images = {label: self.images_of(groups[label], self.aim.metric) for label in weights}
        seeds = sorted(set.intersection(*map(set, values.values())))
        if self.aim.settles and tested:  # the first seeds up to the first that is missing
            fresh = (seed for seed in seeds if seed >= self.aim.first)
            seeds = [seed for seed, due in zip(fresh, itertools.count(self.aim.first), strict=False) if seed == due]
        seeds = [seed for seed in seeds if last is None or seed <= last]

        def total(of: Mapping[str, Mapping[int, Any]], seeds: Collection[int]) -> dict[int, Any]:
            return {seed: sum(weight * of[label][seed] for label, weight in weights.items()) for seed in seeds}

        known = total(images, [seed for seed in seeds if all(seed in images[label] for label in weights)])
        return statistics.compare_pairs(total(values, seeds), self.step(weights), tested, known)


def trainings_of(group: pd.DataFrame) -> tuple[tuple[int, str], ...]:
    """The seeds and trial ids of a row; only the first of each if seeds settle, since rows then differ in their
    number."""
    ids = [str(each) for each in group["trial_id"]]
    trained = tuple(zip(map(int, group["seed"]), ids, strict=True)) if all(ids) else ()
    return trained[:1] if aim.aim_of(group).settles else trained


def baseline_label(label: str, group: pd.DataFrame) -> str:
    """The row that one is compared with; empty for a baseline."""
    baseline = first(group["baseline"]) or ""
    return "" if baseline == label else str(baseline)


def contrasts_of(frame: pd.DataFrame, groups: Groups) -> dict[str, Contrast]:
    """The contrasts of a study, a row of the table each: its rows, or the effects of a grid."""
    baselines = {label: baseline_label(label, group) for label, group in groups.items()}
    factors = factors_of(frame)
    if len(factors) < 2 or "objectives" in frame:  # no grid: what rows vary, or a search's designs
        return of_rows({label: trainings_of(group) or label for label, group in groups.items()}, baselines)
    named = [label for label in groups if label in set(baselines.values())]
    if len(named) > 1:
        raise ValueError(f"factors: a grid has one baseline, not {', '.join(named)}")
    cells = {label: tuple(str(first(group[factor])) for factor in factors) for label, group in groups.items()}
    return effects(cells, factors, named[0] if named else next(iter(groups)))


def untested_of(frame: pd.DataFrame, groups: Groups, contrasts: Mapping[str, Contrast]) -> dict[str, str]:
    """Label of a row or of an effect → why it is not tested; empty for those that are."""
    lacking = {
        label: f"failed in {count} of {len(group)}"
        for label, group in groups.items()
        if (count := len(failures_in(group))) and guessing(frame) is None
    }
    reasons = {label: lacking.get(label, "") for label in groups}
    for label, contrast in contrasts.items():
        bad = [row for row in contrast.weights if row in lacking]
        if contrast.order:
            reasons[label] = "cells missing" if not contrast.weights else f"{bad[0]} {lacking[bad[0]]}" if bad else ""
        elif not reasons[label] and bad:
            reasons[label] = f"baseline {lacking[bad[0]]}"
        elif not reasons[label] and contrast.key and is_identical(groups[label], groups[contrast.baseline]):
            reasons[label] = IDENTICAL
    return reasons


def is_identical(group: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two rows came to the very same losses with every seed that both have, two at least: what differs between
    them then had no part in the training. Losses of different trainings differ in some of their sixteen digits."""
    if not {"test_loss", "val_loss"} <= {*group}:
        return False
    losses = [each[each["status"] == "done"].set_index("seed")[["test_loss", "val_loss"]] for each in (group, other)]
    one, two = losses[0].align(losses[1], join="inner")
    return len(one) > 1 and bool(one["test_loss"].notna().all()) and one.equals(two)


def up_to_stops(study: StudyTrials, groups: Groups, untested: Mapping[str, str]) -> tuple[Groups, dict[str, int]]:
    """If seeds settle: the trials of each row up to the seed of the last verdict that needs them (later ones are not
    looked at), and these seeds by contrast."""
    if not study.aim.settles or study.images is None:
        return groups, {}
    ends: dict[str, int] = {}
    of: dict[str, int] = {}
    for label, contrast in study.contrasts.items():
        if contrast.key is None:
            continue
        comparison = None if untested[label] else study.compare(contrast.weights, groups, tested=True)
        stop = None if comparison is None else study.looks(contrast.weights).follow(comparison.differences)
        needed = contrast.weights if contrast.order else [label]
        last = max((int(groups[row]["seed"].max()) for row in needed), default=0)
        of[label] = last if stop is None else study.aim.first + stop.n - 1
        for row in contrast.weights:
            ends[row] = max(of[label], ends.get(row, 0))
    for label, group in groups.items():  # the baseline's own network, and what nothing is compared with
        ends.setdefault(label, ends.get(baseline_label(label, group), int(group["seed"].max())))
    return {label: group[group["seed"] <= ends[label]] for label, group in groups.items()}, of


def verdicts_of(
    study: StudyTrials, groups: Groups, untested: Mapping[str, str], ends: Mapping[str, int]
) -> tuple[dict[str, statistics.Comparison | None], dict[str, Verdict | None]]:
    """Label → difference of each contrast, and label → verdict of those that can have one."""
    deltas = {
        label: study.compare(contrast.weights, groups, not untested[label], ends.get(label))
        for label, contrast in study.contrasts.items()
    }
    judged = {label: contrast.key for label, contrast in study.contrasts.items() if contrast.key is not None}
    if study.aim.settles:
        settled: dict[str, Verdict | None] = {}
        for label in judged:
            delta = deltas[label]
            if delta is not None and not untested[label]:
                looks = study.looks(study.contrasts[label].weights)
                deltas[label], settled[label] = verdicts.settled_verdict(delta, looks)
        return deltas, settled
    once = {key: label for label, key in reversed(judged.items())}
    tested = [deltas[label] for label in once.values()]
    by_key = dict(zip(once, verdicts.judge(tested, study.tests, study.aim.margin), strict=True))
    return deltas, {label: by_key[key] for label, key in judged.items()}


def failures_in(group: pd.DataFrame) -> tuple[Failure, ...]:
    failed = group[group["status"] == "failed"]
    return tuple(Failure(int(seed), why) for seed, why in zip(failed["seed"], failed["reason"], strict=True))


def by_seed(group: pd.DataFrame, column: str, guess: float | None) -> dict[int, float]:
    """seed → value of the finished trials that have one, and a guess for the failed ones where they count as that."""
    values = group[column].where(group["status"] == "done", guess)
    return {int(seed): float(value) for seed, value in zip(group["seed"], values, strict=True) if not pd.isna(value)}
