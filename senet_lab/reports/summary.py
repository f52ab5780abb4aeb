"""From trials to the table of a study: per row the paper's numbers, cost, our error, the comparison and its verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from senet_lab.reports import paper, statistics
from senet_lab.reports.notes import notes, warnings
from senet_lab.reports.rows import Failure, Row, Table
from senet_lab.reports.trials import SETTING, canonical, guessing, present

FACTS = ("data", "backbone", "recipe", "epochs", "device", "torch")  # named under the table


def summarise(trials: pd.DataFrame) -> Table:
    """The table of one study's trials (the columns of `trials.COLUMNS`).

    Raises:
        ValueError: where the trials do not make one table (see `trials.canonical`), or name a table or row that the
            paper does not have.
    """
    frame = canonical(trials)
    printed_name = _first(frame["paper_table"]) or ""
    printed = paper.load().table(printed_name) if printed_name else None
    test_images = _first(frame["test_images"])
    groups = {str(label): group for label, group in frame.groupby("row", sort=False)}
    guess, images = guessing(frame), None if test_images is None else int(test_images)
    comparisons = _comparisons(groups)
    tests = max(len(set(comparisons.values())), int(_first(frame.get("study_tests", ())) or 0))
    rows = _rows(groups, printed, images, comparisons, tests, frame)
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
        guessing=guess,
    )
    return replace(table, warnings=tuple(warnings(table)), notes=tuple(notes(table)))


Comparison = tuple[Any, Any]  # of these trainings with those


def _trainings(group: pd.DataFrame) -> tuple[tuple[int, str], ...]:
    ids = [str(each) for each in group["trial_id"]]
    return tuple(zip(map(int, group["seed"]), ids, strict=True)) if all(ids) else ()


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


def _rows(
    groups: dict[str, pd.DataFrame],
    printed: paper.PaperTable | None,
    images: int | None,
    comparisons: dict[str, Comparison],
    tests: int,
    frame: pd.DataFrame,
) -> tuple[Row, ...]:
    errors = {label: _by_seed(group, "test_error", guessing(frame)) for label, group in groups.items()}
    top5 = {label: _by_seed(group, "test_top5_error", guessing(frame, 5)) for label, group in groups.items()}
    trained = {label: _trainings(group) for label, group in groups.items()}
    settings = {
        label: {name: ", ".join(map(str, present(group[name]))) for name in SETTING} for label, group in groups.items()
    }
    names = {label: _first(group["paper_row"]) or "" for label, group in groups.items()}
    found = {label: _printed_row(label, name, printed) for label, name in names.items()}
    failures = {label: _failures(group) for label, group in groups.items()}
    lacking = {
        label: f"failed in {len(failures[label])} of {len(group)}"
        for label, group in groups.items()
        if failures[label] and guessing(frame) is None
    }
    baselines = {label: _baseline(label, group) for label, group in groups.items()}
    untested = {
        label: lacking.get(label) or (f"baseline {lacking[baseline]}" if baseline in lacking else "")
        for label, baseline in baselines.items()
    }
    deltas: dict[str, statistics.Comparison | None] = dict.fromkeys(groups)
    twins: dict[str, str] = {}
    for label, baseline in baselines.items():
        known = [baseline, *list(groups)[: list(groups).index(label)]]
        twins[label] = next((each for each in known if each and trained[each] and trained[each] == trained[label]), "")
        if baseline and images is not None:
            deltas[label] = statistics.compare(errors[label], errors[baseline], images, tested=not untested[label])
    once = {comparison: label for label, comparison in reversed(comparisons.items())}
    judged = statistics.judge([deltas[label] for label in once.values()], tests)
    verdicts = dict(zip(once, judged, strict=True))
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
            failures=failures[label],
            untested=untested[label],
            top1=_sample(errors[label], images),
            top5=_sample(top5[label], images),
            delta=deltas[label],
            verdict=verdicts.get(comparisons[label]) if label in comparisons else None,
        )
        for label, group in groups.items()
    )


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


def _sample(errors: dict[int, float], images: int | None) -> statistics.Sample | None:
    return None if images is None else statistics.sample(list(errors.values()), images)


def _number(group: pd.DataFrame, column: str) -> int | None:
    """A count that every trial of a row shares."""
    values = present(group[column])
    if len(values) > 1:
        raise ValueError(f"row '{group['row'].iloc[0]}' has more than one value of {column}: {values[0]}, {values[1]}")
    return int(values[0]) if values else None


def _first(column: Any) -> Any:
    values = present(column)
    return values[0] if values else None
