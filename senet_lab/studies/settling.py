"""`seeds=settle`: a study trains seeds until its verdicts are in, and no longer.

A plan stands in the store before its first training: the rows, the metric, the margin, what a failure is, the fewest
and the most seeds, and the first one, which is the first that nobody has seen. Which trainings a study needs next
follows from the records alone: seeds are looked at in their order (`reports.sequential.Looks`), whoever has trained
them and whenever, so that workers, interruptions and other drivers change nothing.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from senet_lab.config import UserError, without_passwords
from senet_lab.counting import duration
from senet_lab.reports.aim import Aim, aim_from_config
from senet_lab.studies import rows as study_rows
from senet_lab.studies.forecast import Expectation
from senet_lab.studies.plan import Cell, Plan, look_up
from senet_lab.studies.plan_text import print_line
from senet_lab.studies.settle_plan import row_cells, with_first_seeds
from senet_lab.studies.store import FAILED, Record, Store

if TYPE_CHECKING:
    from senet_lab.reports.table import Table, TableRow


# --------------------------------------------------------------------------------------------------------------------
# What is needed next


def look_at(plan: Plan, store: Store) -> Plan:
    """`plan.look_up`; for a plan that settles, with all cells that the records ask for."""
    if not plan.aim.settles:
        return look_up(plan, store)
    records = store.read(plan.trials)
    while more := further(plan, records):
        plan = replace(plan, cells=[*plan.cells, *more])
        records |= store.read(each.trial_id for each in more)
    return look_up(plan, store)


def with_records(plans: Sequence[Plan], folders: Sequence[Path], store: Store) -> list[Plan]:
    """The plans as of `with_first_seeds`, with the records of the store."""
    return [look_at(plan, store) for plan in with_first_seeds(plans, folders, store)]


def further(plan: Plan, records: dict[str, Record], ahead: int = 0) -> list[Cell]:
    """The cells that the plan lacks for the next look at each open row, or for the look `ahead` seeds later, so that
    workers are not idle. Such records are kept, and looked at in their turn or not at all."""
    wanted, first = needs(plan, records, ahead), plan.aim.first
    present = {(each.row.label, each.seed) for each in plan.cells}
    return [
        each.with_seed(seed)
        for seed in range(first, first + max(need.seeds for need in wanted.values()))
        for label, each in row_cells(plan).items()
        if seed < first + wanted[label].seeds and (label, seed) not in present
    ]


def without_unused_seeds(plan: Plan, records: dict[str, Record]) -> Plan:
    """The plan with only the seeds that were looked at."""
    if not plan.aim.settles:
        return plan
    wanted = needs(plan, records)
    cells = [each for each in plan.cells if each.seed < plan.aim.first + wanted[each.row.label].seeds]
    return replace(plan, cells=cells, recorded={each.trial_id: records[each.trial_id] for each in cells})


class Need(NamedTuple):
    """The seeds that a row needs by the records so far, whether it may need more, and its verdict over seeds."""

    seeds: int
    open: bool
    word: str = ""


def needs(plan: Plan, records: dict[str, Record], ahead: int = 0) -> dict[str, Need]:
    """Label → what its row needs: the seeds up to the last stop, or next look, of the verdicts that it is needed for.
    In a grid these are the effects', which stand behind the rows."""
    aim, classes = plan.aim, len(plan.facts.classes)
    ended = {(each.row.label, each.seed): records.get(each.trial_id) for each in plan.cells}
    first = {each.row.label: each.trial_id for each in plan.cells if each.seed == aim.first}
    by_label = {row.label: Need(aim.least, open=False) for row in plan.rows}
    for name, contrast in study_rows.contrasts(plan.rows, first).items():
        if contrast.key is None:  # another name of its baseline
            continue
        values: list[tuple[float | None, ...]] = []
        for seed in range(aim.first, aim.first + aim.most):
            mine = [ended.get((label, seed)) for label in contrast.weights]
            if None in mine:
                break
            values.append(tuple(metric_value(record, aim, classes) for record in mine if record is not None))
        stop = stop_of(tuple(values), tuple(contrast.weights.values()), aim, plan.study_tests or 0, plan.facts.test)
        need = Need(stop[0], False, stop[1]) if stop else Need(min(aim.most, len(values) + 1 + ahead), True)
        for label in contrast.weights:
            had = by_label[label]
            by_label[label] = had._replace(seeds=max(had.seeds, need.seeds), open=had.open or need.open)
        by_label[name] = by_label.get(name, need)._replace(word=need.word)
    return by_label


def metric_value(record: Record, aim: Aim, classes: int) -> float | None:
    """The metric of a training; None if it failed, unless failures count as guessing."""
    if record["state"] == FAILED:
        return aim.guessing(classes) if aim.failures == "chance" else None
    return float(record["metrics"][f"test_{aim.metric}"])


@lru_cache(maxsize=4096)  # each contrast is asked about whenever a worker is free
def stop_of(
    values: tuple[tuple[float | None, ...], ...], weights: tuple[float, ...], aim: Aim, tests: int, test_images: int
) -> tuple[int, str] | None:
    """The number of seeds after which a contrast has its verdict over seeds, and the verdict; None if it is open.

    Args:
        values: what its rows came to, seed by seed.
        weights: of its rows.
        tests: of the study.
        test_images: behind an error.
    """
    from senet_lab.reports.sequential import looks_of  # scipy comes with it

    failed = next((number for number, row in enumerate(values, start=1) if None in row), None)
    if failed is not None:  # it is not tested, however many seeds follow
        return (max(failed, aim.least), "failed") if len(values) >= aim.least else None
    differences = [sum(weight * (value or 0) for weight, value in zip(weights, row, strict=True)) for row in values]
    return looks_of(aim, tests, test_images, weights).follow(differences)


def show_settling(plans: Sequence[Plan], expectation: Expectation, workers: int, console: Console) -> None:
    """Print how many seeds studies that settle may need, and from which seed on."""
    settles = [plan for plan in plans if plan.aim.settles]
    if not settles:
        return
    aim = settles[0].aim
    rows = {each.row.label: expectation.seconds[each.trial_id] for plan in plans for each in reversed(plan.todo)}
    least, most = seconds_range(settles, lambda each: rows.get(each.row.label, 0.0))
    firsts = sorted({plan.aim.first for plan in settles})
    begins = f"seed {firsts[0]}" if len(firsts) == 1 else f"seeds {firsts[0]} to {firsts[-1]}"
    why = " (those before it have been seen)" if firsts[-1] else ""
    print_line(console, f"each row has {aim.least} to {aim.most} seeds, as its verdict needs, from {begins} on{why}")
    if most:
        times = [duration(replace(expectation, seconds=part).total(workers)) for part in (least, most)]
        print_line(console, f"at least {len(least)} and at most {len(most)} trainings: about {times[0]} to {times[1]}")


def seconds_range(plans: Sequence[Plan], seconds: Callable[[Cell], float]) -> tuple[dict[str, float], dict[str, float]]:
    """The trainings that studies that settle lack at least, and at most: trial id → seconds."""
    least: dict[str, float] = {}
    most: dict[str, float] = {}
    for plan in plans:
        rows = row_cells(plan)
        by_label = needs(plan, plan.recorded)
        for label in rows:
            need = by_label[label]
            for at in range(plan.aim.most if need.open else need.seeds):
                each = rows[label].with_seed(plan.aim.first + at)
                if each.trial_id not in plan.recorded:
                    most[each.trial_id] = seconds(rows[label])
                    if at < need.seeds:
                        least[each.trial_id] = most[each.trial_id]
    return least, most


def settle_advice(
    words: Sequence[str],
    plans: Sequence[Plan],
    folders: Sequence[Path],
    tables: Sequence[Table],
    store: Store,
    room: int,
) -> str:
    """The line that says by which command seeds would settle what a fixed number of them has left open, and what that
    costs; empty where it would settle nothing.

    Args:
        words: that asked for the studies.
        plans, folders, tables: of the studies, whose trials have all ended.
        store: where they are recorded.
        room: how many trainings there may be side by side.
    """
    config = plans[0].config
    if config.seeds == "settle" or not any(by_seeds(row) for table in tables for row in table.rows):
        return ""
    aim = aim_from_config(config, settles=True)
    try:
        settles = with_records([replace(plan, aim=aim, recorded={}) for plan in plans], folders, store)
    except UserError:  # these rows were planned otherwise before
        return ""
    taken: dict[str, list[float]] = {}
    for plan in plans:
        records = store.read(plan.trials)
        for each in plan.cells:
            taken.setdefault(each.row.label, []).append(records[each.trial_id].get("seconds") or 0.0)
    parts = seconds_range(settles, lambda each: statistics.median(taken[each.row.label]))
    times = [duration(Expectation(part, rough=False).total(max(1, room))) for part in parts]
    kept = [word for word in words if word.lstrip("+").split("=")[0] not in ("seeds", "plan", "retry")]
    command = without_passwords(shlex.join(["python", "-m", "senet_lab.run", *kept, "seeds=settle"]))
    return bool(parts[1]) * (
        f"open verdicts: {command} adds seeds until they are in, at most {aim.most} a row "
        f"({len(parts[0])} to {len(parts[1])} more trainings, about {times[0]} to {times[1]})"
    )


def by_seeds(row: TableRow) -> bool:
    """Whether a row of a table is open and more seeds may settle it."""
    if row.verdict is None:  # of a single seed
        return row.delta is not None and not row.untested and row.same_as != row.baseline
    return row.verdict.kind == "open" and row.verdict.more_images is None
