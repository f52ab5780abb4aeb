"""From trials to the table of a study: per row the paper's numbers, cost, our error, the comparison and its verdict."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from senet_lab.outputs import Outputs
from senet_lab.reports import aim, conclusions, paper, statistics
from senet_lab.reports.aim import Aim
from senet_lab.reports.conclusions import Verdict
from senet_lab.reports.notes import notes, warnings
from senet_lab.reports.outcomes import checked, outcomes
from senet_lab.reports.rows import Failure, Row, Table
from senet_lab.reports.sequential import Looks, planned
from senet_lab.reports.trials import SETTING, canonical, guessing, present

FACTS = ("data", "backbone", "recipe", "epochs", "device", "torch")  # named under the table
NONE: Mapping[str, Outputs] = MappingProxyType({})


def summarise(trials: pd.DataFrame, outputs: Mapping[str, Outputs] = NONE) -> Table:
    """The table of one study's trials (the columns of `trials.COLUMNS`).

    Args:
        trials: one line a training.
        outputs: trial id → what it made of each test image, of those that have it.

    Raises:
        ValueError: where the trials do not make one table (see `trials.canonical`), name a table or row that the paper
            does not have, or have outputs that do not fit them (see `outcomes.checked`).
    """
    frame = canonical(trials)
    printed_name = _first(frame["paper_table"]) or ""
    printed = paper.load().table(printed_name) if printed_name else None
    test_images = _first(frame["test_images"])
    groups = {str(label): group for label, group in frame.groupby("row", sort=False)}
    guess, images = guessing(frame), None if test_images is None else int(test_images)
    comparisons = _comparisons(groups)
    tests = max(len(set(comparisons.values())), int(_first(frame.get("study_tests", ())) or 0))
    study = Study(frame, aim.of(frame), images, tests, comparisons, checked(frame, outputs))
    rows = _rows(study, _up_to_stops(study, groups), printed)
    table = Table(
        study=str(frame["study"][0]),
        title=_first(frame["title"]) or str(frame["study"][0]),
        printed=printed,
        facts={name: ", ".join(map(str, present(frame[name]))) for name in FACTS},
        test_images=images,
        train_images=_first(frame.get("train_images", ())),
        validation_images=_first(frame.get("validation_images", ())),
        rows=rows,
        study_rows=max(len(rows), int(_first(frame.get("study_rows", ())) or 0)),
        tests=tests,
        aim=study.aim,
        guessing=guess,
    )
    return replace(table, warnings=tuple(warnings(table)), notes=tuple(notes(table)))


Comparison = tuple[Any, Any]  # of these trainings with those
Groups = dict[str, pd.DataFrame]  # label → trials


@dataclass(frozen=True)
class Study:
    """What the rows of a table are made from.

    Attributes:
        frame: the trials in canonical form.
        aim: what the study is to find out.
        images: behind one error; None if every trial failed.
        tests: what verdicts are corrected for.
        comparisons: label → what is compared with what.
        outputs: trial id → what it made of each test image.
    """

    frame: pd.DataFrame
    aim: Aim
    images: int | None
    tests: int
    comparisons: dict[str, Comparison]
    outputs: dict[str, Outputs]

    @property
    def counted(self) -> int | None:
        """Images in which the metric is counted; None for a loss, which is not."""
        return self.images if self.aim.metric == "error" else None

    @property
    def looks(self) -> Looks:
        """At each row, where seeds are added until a verdict is in."""
        return planned(self.aim, self.tests, self.images)

    def values(self, group: pd.DataFrame, metric: str) -> dict[int, float]:
        """seed → error in percent, or loss in nats; of a failed trial the guess where it counts as that. No losses
        where one is not known."""
        if metric == "error":
            return _by_seed(group, "test_error", guessing(self.frame))
        chance = None if guessing(self.frame) is None else self.aim.guessing(int(present(self.frame["classes"])[0]))
        known = "test_loss" in group and group["test_loss"][group["status"] == "done"].notna().all()
        return _by_seed(group, "test_loss", chance) if known else {}

    def images_of(self, group: pd.DataFrame, metric: str) -> dict[int, NDArray[np.float32]]:
        """seed → what it made of each test image, of the finished trials that have outputs."""
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

    def compare(self, group: pd.DataFrame, baseline: pd.DataFrame, tested: bool) -> statistics.Comparison | None:
        """A row against its baseline; where seeds are added until a verdict is in, over the first seeds without gap."""
        ours, theirs = (self.values(each, self.aim.metric) for each in (group, baseline))
        if self.aim.settles and tested:
            ours = {seed: ours[seed] for seed in _gapless(ours.keys() & theirs.keys(), self.aim.first)}
        known = self.images_of(group, self.aim.metric), self.images_of(baseline, self.aim.metric)
        return statistics.compare(ours, theirs, self.counted, tested, known)


def _gapless(seeds: Collection[int], first: int) -> list[int]:
    """The seeds from the first one up to the first that is missing."""
    return list(itertools.takewhile(seeds.__contains__, itertools.count(first)))


def _up_to_stops(study: Study, groups: Groups) -> Groups:
    """The trials of each row up to the seed at which its verdict was in, where seeds are added until then; what was
    trained beyond is not looked at. Of a baseline as many as its rows have."""
    if not study.aim.settles or study.images is None:
        return groups
    untested = _untested(study.frame, groups)
    ends: dict[str, int] = {}
    for label in study.comparisons:
        group, baseline = groups[label], _baseline(label, groups[label])
        found = None if untested[label] else study.compare(group, groups[baseline], tested=True)
        stop = None if found is None else study.looks.follow(found.differences)
        ends[label] = int(group["seed"].max()) if stop is None else study.aim.first + stop.n - 1
        ends[baseline] = max(ends[label], ends.get(baseline, 0))
    for label, group in groups.items():  # the baseline's own network, and what nothing is compared with
        ends.setdefault(label, ends.get(_baseline(label, group), int(group["seed"].max())))
    return {label: group[group["seed"] <= ends[label]] for label, group in groups.items()}


def _trainings(group: pd.DataFrame) -> tuple[tuple[int, str], ...]:
    """Seeds and trial ids; the first alone where seeds are added until a verdict is in, so that rows have more or
    fewer of them."""
    ids = [str(each) for each in group["trial_id"]]
    trained = tuple(zip(map(int, group["seed"]), ids, strict=True)) if all(ids) else ()
    return trained[:1] if aim.of(group).settles else trained


def _comparisons(groups: dict[str, pd.DataFrame]) -> dict[str, Comparison]:
    """Label → what is compared with what, for each row whose trainings are not those of its baseline. Equal ones are
    one comparison under two names: it takes one share of the 5% that the correction divides."""
    trained = {label: _trainings(group) or label for label, group in groups.items()}
    pairs = {label: (trained[label], trained[_baseline(label, group) or label]) for label, group in groups.items()}
    return {label: (row, baseline) for label, (row, baseline) in pairs.items() if row != baseline}


def _baseline(label: str, group: pd.DataFrame) -> str:
    """The row that one is compared with; empty for a baseline."""
    baseline = _first(group["baseline"]) or ""
    return "" if baseline == label else str(baseline)


def _untested(frame: pd.DataFrame, groups: Groups) -> dict[str, str]:
    """Label → why the row is not tested; empty for those that are."""
    lacking = {
        label: f"failed in {count} of {len(group)}"
        for label, group in groups.items()
        if (count := len(_failures(group))) and guessing(frame) is None
    }
    return {
        label: lacking.get(label) or (f"baseline {lacking[baseline]}" if baseline in lacking else "")
        for label, group in groups.items()
        for baseline in (_baseline(label, group),)
    }


def _rows(study: Study, groups: Groups, printed: paper.PaperTable | None) -> tuple[Row, ...]:
    top5 = {label: _by_seed(group, "test_top5_error", guessing(study.frame, 5)) for label, group in groups.items()}
    trained = {label: _trainings(group) for label, group in groups.items()}
    settings = {
        label: {name: ", ".join(map(str, present(group[name]))) for name in SETTING} for label, group in groups.items()
    }
    names = {label: _first(group["paper_row"]) or "" for label, group in groups.items()}
    found = {label: _printed_row(label, name, printed) for label, name in names.items()}
    baselines = {label: _baseline(label, group) for label, group in groups.items()}
    untested = _untested(study.frame, groups)
    twins: dict[str, str] = {}
    for label, baseline in baselines.items():
        known = [baseline, *list(groups)[: list(groups).index(label)]]
        twins[label] = next((each for each in known if each and trained[each] and trained[each] == trained[label]), "")
    deltas, verdicts = _verdicts(study, groups, untested)
    return tuple(
        Row(
            label=label,
            baseline=baselines[label],
            setting=settings[label],
            printed=found[label],
            printed_delta=_difference(found[label], found.get(baselines[label])),
            paper_params=_number(group, "paper_params"),
            paper_macs=_number(group, "paper_macs"),
            params=_number(group, "params"),
            macs=_number(group, "macs"),
            hidden=_first(group["hidden"]) or "",
            trainings=trained[label],
            same_as=twins[label],
            seeds=tuple(int(seed) for seed in group["seed"][group["status"] == "done"]),
            failures=_failures(group),
            untested=untested[label],
            top1=study.sample(group, "error"),
            top5=None if study.images is None else statistics.sample(list(top5[label].values()), study.images),
            loss=study.sample(group, "loss"),
            metric=study.aim.metric,
            delta=deltas[label],
            verdict=verdicts.get(label),
        )
        for label, group in groups.items()
    )


def _verdicts(
    study: Study, groups: Groups, untested: dict[str, str]
) -> tuple[dict[str, statistics.Comparison | None], dict[str, Verdict | None]]:
    """Label → its comparison with the baseline, None for a baseline; and label → verdict, of the rows that may have
    one."""
    deltas: dict[str, statistics.Comparison | None] = dict.fromkeys(groups)
    for label, group in groups.items():
        baseline = _baseline(label, group)
        if baseline and study.images is not None:
            deltas[label] = study.compare(group, groups[baseline], tested=not untested[label])
    if study.aim.settles:
        verdicts: dict[str, Verdict | None] = {}
        for label in study.comparisons:
            found = deltas[label]
            if found is not None and not untested[label]:
                deltas[label], verdicts[label] = conclusions.settled(found, study.looks)
        return deltas, verdicts
    once = {comparison: label for label, comparison in reversed(study.comparisons.items())}
    judged = conclusions.judge([deltas[label] for label in once.values()], study.tests, study.aim.margin)
    by_comparison = dict(zip(once, judged, strict=True))
    return deltas, {label: by_comparison[comparison] for label, comparison in study.comparisons.items()}


def _printed_row(label: str, name: str, printed: paper.PaperTable | None) -> paper.PaperRow | None:
    if not name:
        return None
    if printed is None:
        raise ValueError(f"row '{label}': paper_row is '{name}', but paper_table is empty")
    try:
        return printed.row(name)
    except ValueError as error:
        raise ValueError(f"row '{label}': {error}") from None


def _difference(row: paper.PaperRow | None, baseline: paper.PaperRow | None) -> float | None:
    return None if row is None or baseline is None else row.top1 - baseline.top1


def _failures(group: pd.DataFrame) -> tuple[Failure, ...]:
    failed = group[group["status"] == "failed"]
    return tuple(Failure(int(seed), why) for seed, why in zip(failed["seed"], failed["reason"], strict=True))


def _by_seed(group: pd.DataFrame, column: str, guess: float | None) -> dict[int, float]:
    """seed → value of the finished trials that have one, and a guess for the failed ones where they count as that."""
    values = group[column].where(group["status"] == "done", guess)
    return {int(seed): float(value) for seed, value in zip(group["seed"], values, strict=True) if not pd.isna(value)}


def _number(group: pd.DataFrame, column: str) -> int | None:
    """A count that every trial of a row shares."""
    values = present(group[column])
    if len(values) > 1:
        raise ValueError(f"row '{group['row'].iloc[0]}' has more than one value of {column}: {values[0]}, {values[1]}")
    return int(values[0]) if values else None


def _first(column: Any) -> Any:
    values = present(column)
    return values[0] if values else None
