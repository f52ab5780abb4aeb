"""From trials to the table of a study: per row the paper's numbers, cost, our error, the comparison and its verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from senet_lab.reports import paper, statistics
from senet_lab.reports.notes import notes, warnings
from senet_lab.reports.rows import Failure, Row, Table
from senet_lab.reports.trials import SETTING, canonical, present

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
    rows = _rows(groups, printed, None if test_images is None else int(test_images))
    table = Table(
        study=str(frame["study"][0]),
        title=_first(frame["title"]) or str(frame["study"][0]),
        printed=printed,
        facts={name: ", ".join(map(str, present(frame[name]))) for name in FACTS},
        test_images=None if test_images is None else int(test_images),
        rows=rows,
    )
    return replace(table, warnings=tuple(warnings(table)), notes=tuple(notes(table)))


def _rows(groups: dict[str, pd.DataFrame], printed: paper.PaperTable | None, images: int | None) -> tuple[Row, ...]:
    errors = {label: _by_seed(group, "test_error") for label, group in groups.items()}
    networks = {label: _first(group["network"]) or "" for label, group in groups.items()}
    settings = {
        label: {name: ", ".join(map(str, present(group[name]))) for name in SETTING} for label, group in groups.items()
    }
    names = {label: _first(group["paper_row"]) or "" for label, group in groups.items()}
    found = {label: _printed_row(label, name, printed) for label, name in names.items()}
    baselines: dict[str, str] = {}
    deltas: dict[str, statistics.Comparison | None] = {}
    twins: dict[str, str] = {}
    for label, group in groups.items():
        baseline = _first(group["baseline"]) or ""
        baselines[label] = "" if baseline == label else baseline
        known = [baselines[label], *list(groups)[: list(groups).index(label)]]
        here = (networks[label], settings[label])
        same = [other for other in known if other and networks[label] and (networks[other], settings[other]) == here]
        twins[label] = same[0] if same else ""
        deltas[label] = None
        if baselines[label] and images is not None:
            deltas[label] = statistics.compare(errors[label], errors[baselines[label]], images)
    # A row that builds the baseline's own network is known to differ by nothing: it is not tested, and takes no share
    # of the 5% that the correction divides among the rows.
    tested = [None if twins[label] and twins[label] == baselines[label] else deltas[label] for label in groups]
    verdicts = dict(zip(groups, statistics.judge(tested), strict=True))
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
            network=networks[label],
            same_as=twins[label],
            seeds=tuple(errors[label]),
            failures=tuple(
                Failure(int(seed), reason)
                for seed, reason, status in zip(group["seed"], group["reason"], group["status"], strict=True)
                if status == "failed"
            ),
            top1=_sample(errors[label], images),
            top5=_sample(_by_seed(group, "test_top5_error"), images),
            delta=deltas[label],
            verdict=verdicts[label],
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


def _by_seed(group: pd.DataFrame, column: str) -> dict[int, float]:
    """seed → value of the finished trials that have one."""
    done = group[(group["status"] == "done") & group[column].notna()]
    return {int(seed): float(value) for seed, value in zip(done["seed"], done[column], strict=True)}


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
