"""From trials to the table of a study: per row the paper's numbers, cost, our error, the comparison and its verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pandas as pd

from senet_lab.outputs import Outputs
from senet_lab.reports import aim, paper, statistics
from senet_lab.reports.cells import first, present
from senet_lab.reports.columns import study_columns
from senet_lab.reports.comparisons import (
    Groups,
    StudyTrials,
    baseline_label,
    by_seed,
    contrasts_of,
    failures_in,
    trainings_of,
    untested_of,
    up_to_stops,
    verdicts_of,
)
from senet_lab.reports.image_outcomes import check_outputs
from senet_lab.reports.notes import column_notes, table_warnings
from senet_lab.reports.table import Table, TableRow
from senet_lab.reports.trials import SETTING, canonical, factors_of, guessing

FACTS = ("data", "backbone", "recipe", "epochs", "device", "torch")  # named under the table
NONE: Mapping[str, Outputs] = MappingProxyType({})


def summarise_study(trials: pd.DataFrame, outputs: Mapping[str, Outputs] = NONE) -> Table:
    """The table of one study's trials (the columns of `trials.COLUMNS`).

    Args:
        trials: one line a training.
        outputs: trial id → its outputs for each test image, of those that have them.

    Raises:
        ValueError: where the trials do not make one table (see `trials.canonical`), name a table or row that the paper
            does not have, or have outputs that do not fit them (see `image_outcomes.check_outputs`).
    """
    frame = canonical(trials)
    printed = paper.paper_table(name) if (name := first(frame["paper_table"])) else None
    groups = {str(label): group for label, group in frame.groupby("row", sort=False)}
    images = None if (known := first(frame["test_images"])) is None else int(known)
    contrasts = contrasts_of(frame, groups)
    factors = factors_of(frame) if any(each.order for each in contrasts.values()) else ()
    tests = len({each.key for each in contrasts.values() if each.key is not None})
    study_rows = max(len(groups), int(first(frame.get("study_rows", ()), 0)))
    if not factors or len(groups) < study_rows:  # what was left out after a look is corrected for, too
        tests = max(tests, int(first(frame.get("study_tests", ()), 0)))
    study = StudyTrials(frame, aim.aim_of(frame), images, tests, contrasts, check_outputs(frame, outputs))
    rows = _rows(study, groups, printed)
    title = str(first(frame["title"], frame["study"][0]))
    table = Table(
        study=str(frame["study"][0]),
        title=title,
        printed=printed,
        facts={name: ", ".join(map(str, present(frame[name]))) for name in FACTS},
        test_images=images,
        train_images=_only(frame.get("train_images", ())),
        validation_images=_only(frame.get("validation_images", ())),
        rows=rows,
        study_rows=study_rows,
        tests=study.tests,
        aim=study.aim,
        guessing=guessing(frame),
        factors=factors,
        heading=title + (f" (table {printed.number} of the paper)" if printed else ""),
        visible=rows,
    )
    return replace(
        table, columns=study_columns(table), warnings=tuple(table_warnings(table)), notes=tuple(column_notes(table))
    )


def _rows(study: StudyTrials, whole: Groups, printed: paper.PaperTable | None) -> tuple[TableRow, ...]:
    """The rows with what they reached, and below a grid's cells its effects."""
    untested = untested_of(study.frame, whole, study.contrasts)
    groups, ends = up_to_stops(study, whole, untested)
    deltas, verdicts = verdicts_of(study, groups, untested, ends)
    top5 = {label: by_seed(group, "test_top5_error", guessing(study.frame, 5)) for label, group in groups.items()}
    trained = {label: trainings_of(group) for label, group in groups.items()}
    settings = {
        label: {name: ", ".join(map(str, present(group[name]))) for name in SETTING} for label, group in groups.items()
    }
    names = {label: first(group["paper_row"], "") for label, group in groups.items()}
    printed_rows = {label: _printed_row(label, name, printed) for label, name in names.items()}
    baselines = {label: baseline_label(label, group) for label, group in groups.items()}
    twins: dict[str, str] = {}
    for label, baseline in baselines.items():
        known = [baseline, *list(groups)[: list(groups).index(label)]]
        twins[label] = next((each for each in known if each and trained[each] and trained[each] == trained[label]), "")
    rows = [
        TableRow(
            label=label,
            baseline=baselines[label],
            setting=settings[label],
            printed=printed_rows[label],
            starred=printed is not None and printed_rows[label] is None,
            printed_delta=_difference(printed_rows[label], printed_rows.get(baselines[label])),
            paper_params=_number(group, "paper_params"),
            paper_macs=_number(group, "paper_macs"),
            params=_number(group, "params"),
            macs=_number(group, "macs"),
            hidden=first(group["hidden"], ""),
            trainings=trained[label],
            same_as=twins[label],
            seeds=tuple(int(seed) for seed in group["seed"][group["status"] == "done"]),
            failures=failures_in(group),
            untested=untested[label],
            top1=study.sample(group, "error"),
            top5=None if study.images is None else statistics.sample(list(top5[label].values()), study.images),
            loss=study.sample(group, "loss"),
            metric=study.aim.metric,
            delta=deltas.get(label),
            verdict=verdicts.get(label),
        )
        for label, group in groups.items()
    ]
    rows += [
        TableRow(
            label=label,
            baseline=contrast.baseline,
            setting=rows[0].setting,
            seeds=shared(row for row in rows if row.label in contrast.weights),
            untested=untested[label],
            metric=study.aim.metric,
            delta=deltas[label],
            verdict=verdicts.get(label),
            effect=contrast.order,
        )
        for label, contrast in study.contrasts.items()
        if contrast.order
    ]
    return tuple(rows)


def _only(values: Iterable[Any]) -> Any:
    """The only value; None if there is none, or if a factor varies it."""
    found = present(values)
    return found[0] if len(found) == 1 else None


def shared(rows: Iterable[TableRow]) -> tuple[int, ...]:
    """The seeds that all of these rows have."""
    every = [set(row.seeds) for row in rows]
    return tuple(sorted(set.intersection(*every))) if every else ()


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


def _number(group: pd.DataFrame, column: str) -> int | None:
    """A count that every trial of a row shares."""
    values = present(group[column])
    if len(values) > 1:
        raise ValueError(f"row '{group['row'].iloc[0]}' has more than one value of {column}: {values[0]}, {values[1]}")
    return int(values[0]) if values else None
