"""The same row of several studies side by side, and its difference pooled over their settings (`random_effects`).

A study whose seeds settled stopped where its difference was large, or small enough: such differences are biased. Its
first `settle.min` seeds were trained whatever they told, so that these alone count here.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from senet_lab.reports.aim import COLUMNS, DIGITS, Aim, aim_of
from senet_lab.reports.cell_text import and_list, fixed_digits, in_its_unit, interval_cell, pick, signed
from senet_lab.reports.cells import with_file_name
from senet_lab.reports.front import is_search
from senet_lab.reports.random_effects import Pooled, Z, pool
from senet_lab.reports.results import FinishedStudy, below
from senet_lab.reports.summary import summarise_study
from senet_lab.reports.table import Column, Table, TableRow
from senet_lab.reports.trials import read_study, read_trials

POOLED = "pooled"  # in the place of a setting
SETTLING = ("least", "most", "first", "earlier", "plan")  # of `Aim`, what only seeds that settle have


@dataclass(frozen=True)
class PooledRow(TableRow):
    """One setting of a row, or what all its settings tell (`label` is "pooled"); `delta` is None for the latter.

    Attributes:
        of: the row's name in its studies.
        mean, half: Δ and half of its interval.
        weight: the setting's weight in the pooled difference, percent; None for the latter and where nothing is pooled.
        pooled: what all settings tell; None for a setting.
    """

    of: str = ""
    mean: float = 0.0
    half: float = 0.0
    weight: float | None = None
    pooled: Pooled | None = None


@dataclass(frozen=True)
class PooledTable(Table):
    """The rows of studies of one name, each in its settings and then pooled."""

    @property
    def breaks(self) -> set[str]:
        """Behind each row's pooled difference another row begins."""
        return {POOLED}


def pooled_tables(roots: Iterable[Path], studies: Iterable[FinishedStudy] = ()) -> list[PooledTable]:
    """A table for each study of which a row stands in two settings or more, of what lies below these folders.

    Args:
        roots: the folders.
        studies: those of them that have been read already.

    Raises:
        ValueError: in one line, for a folder that is missing or a file that is damaged.
    """
    by_study: dict[tuple[str, str], list[Path]] = defaultdict(list)
    known = {study.folder / "trials.csv": study for study in studies}
    for path in dict.fromkeys(path for _, path in below(roots, "trials.csv")):
        trials = known[path].trials if path in known else read_trials(path)
        if not is_search(trials):
            by_study[trials["study"][0], aim_of(trials).metric].append(path)
    several = [paths for paths in by_study.values() if len(paths) > 1]
    made = (pooled_table([planned_table(path, known.get(path)) for path in paths]) for paths in several)
    return [table for table in made if table.rows]


def planned_table(path: Path, study: FinishedStudy | None = None) -> Table:
    """A study's table of the trials whose number was fixed before any of them was trained: all of them, or of a study
    whose seeds settled the first ones, with which it looked for the first time."""
    if study and not study.table.aim.settles:
        return study.table
    trials, outputs = read_study(path)
    aim = aim_of(trials)
    if aim.settles:
        trials = trials[(trials["seed"] >= aim.first) & (trials["seed"] < aim.first + aim.least)]
        trials = trials.assign(**dict.fromkeys((COLUMNS[name] for name in SETTLING), None))
    with with_file_name(path):
        return summarise_study(trials, outputs)


def pooled_table(tables: Sequence[Table]) -> PooledTable:
    """The table of one study in several settings; without rows where none stands in two of them."""
    names, left_out = setting_names(tables), []
    rows: list[PooledRow] = []
    for of in dict.fromkeys((row.label, row.baseline) for table in tables for row in table.rows if row.baseline):
        settings: list[PooledRow] = []
        seen: set[tuple[int, str]] = set()
        for table, name in zip(tables, names, strict=True):
            row = next((each for each in table.rows if (each.label, each.baseline) == of), None)
            if row is None:
                continue
            why = without_error(row) or (
                "the same trainings as in another setting" if seen & set(row.trainings) else ""
            )
            if why:
                left_out.append(f"{row.label} in {name} ({why})")
            else:
                seen |= set(row.trainings)
                settings.append(_in_setting(row, name))
        if len(settings) > 1:
            rows += _with_pooled(settings)
    first = tables[0]
    table = PooledTable(
        study=first.study,
        title=first.title,
        printed=first.printed,
        facts=first.facts,
        test_images=None,
        train_images=None,
        validation_images=None,
        rows=tuple(rows),
        study_rows=len(rows),
        tests=0,
        aim=Aim(metric=first.aim.metric),
        guessing=None,
        heading=f"{first.title}: {len(tables)} settings pooled",
        columns=COLUMNS_OF_POOLED,
        visible=tuple(rows),
    )
    used = [(each, name) for each, name in zip(tables, names, strict=True) if any(row.label == name for row in rows)]
    return replace(table, warnings=tuple(_warnings(used, left_out)), notes=tuple(_notes(table, used)))


def setting_names(tables: Sequence[Table]) -> list[str]:
    """Data set, network and recipe of each table; the epochs, too, where these are the same, and numbers where all
    is."""
    names = [", ".join(table.facts[fact] for fact in ("data", "backbone", "recipe")) for table in tables]
    if len(set(names)) < len(names):
        names = [f"{name}, {table.facts['epochs']} epochs" for name, table in zip(names, tables, strict=True)]
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1)]


def without_error(row: TableRow) -> str:
    """Why a row's difference has no standard error; empty where it has one."""
    if row.same_as == row.baseline:
        return "the same network as its baseline"
    if row.untested:
        return row.untested
    if row.delta is None or row.delta.sd is None:
        return "fewer than two pairs"
    return "" if _half(row) else "no spread"


def _half(row: TableRow) -> float:
    """Half of the interval of a row's difference, over images, too, where they are known."""
    assert row.delta is not None
    assert row.delta.high is not None
    return row.delta.half_crossed or row.delta.high - row.delta.delta


def _in_setting(row: TableRow, name: str) -> PooledRow:
    assert row.delta is not None
    fields = {each.name: getattr(row, each.name) for each in dataclasses.fields(row)}
    return PooledRow(**fields | {"label": name}, of=row.label, mean=row.delta.delta, half=_half(row))


def _with_pooled(settings: list[PooledRow]) -> list[PooledRow]:
    """A row's settings with their weights, and below them what they tell together."""
    pooled = pool([row.mean for row in settings], [row.half / Z for row in settings])
    like = settings[0]
    total = PooledRow(
        label=POOLED,
        baseline=like.baseline,
        setting={},
        metric=like.metric,
        delta=None,
        verdict=None,
        untested="",
        seeds=(),
        printed_delta=like.printed_delta,
        of=like.of,
        mean=pooled.mean,
        half=pooled.half,
        pooled=pooled,
    )
    weighted = zip(settings, pooled.weights, strict=True)
    return [*(replace(row, weight=100 * weight, printed_delta=None) for row, weight in weighted), total]


def mean_interval(row: TableRow) -> tuple[float, float] | None:
    """The interval of a row's difference, or of the pooled one."""
    return (row.mean - row.half, row.mean + row.half) if isinstance(row, PooledRow) else None


def _delta_cell(row: TableRow) -> str:
    """A difference with its interval."""
    assert isinstance(row, PooledRow)
    return f"{signed(row.mean, DIGITS[row.metric])} {interval_cell(row.mean - row.half, row.mean + row.half, row)}"


def _prediction_cell(row: TableRow) -> str | None:
    """The interval for a new setting."""
    ends = prediction(row)
    return None if ends is None else interval_cell(ends[0], ends[1], row)


def _end(interval: Callable[[TableRow], tuple[float, float] | None], place: int) -> Callable[[TableRow], float | None]:
    """The lower (0) or the upper (1) end."""
    return lambda row: None if (ends := interval(row)) is None else ends[place]


prediction = pick("pooled", "prediction")  # of a row; None for a setting
COLUMNS_OF_POOLED = (
    Column("row", "row", pick("of"), words=True, drop=0, wrap=18),
    Column("baseline", value=pick("baseline")),
    Column("setting", "setting", pick("label"), words=True, drop=0, wrap=24),
    Column("pairs", "seeds", pick("delta", "n"), drop=3),
    Column("metric", value=pick("metric")),
    Column("", "Δ [95%]", cell=_delta_cell, drop=0),
    Column("delta", value=pick("mean"), exact=fixed_digits(4)),
    Column("low", value=_end(mean_interval, 0), exact=fixed_digits(4)),
    Column("high", value=_end(mean_interval, 1), exact=fixed_digits(4)),
    Column("weight_percent", "weight %", pick("weight"), fixed_digits(1), drop=2),
    Column("tau", "τ", pick("pooled", "tau"), fixed_digits(4), cell=in_its_unit("pooled", "tau"), drop=2),
    Column("", "new setting [95%]", cell=_prediction_cell, drop=0),
    Column("prediction_low", value=_end(prediction, 0), exact=fixed_digits(4)),
    Column("prediction_high", value=_end(prediction, 1), exact=fixed_digits(4)),
    Column("paper_delta_points", "paper Δ", pick("printed_delta"), fixed_digits(2), signed, drop=1, paper=True),
)


def _warnings(used: Sequence[tuple[Table, str]], left_out: Sequence[str]) -> Iterable[str]:
    """What is particular about these settings."""
    by_images: dict[str, list[str]] = defaultdict(list)
    for table, name in used:
        by_images[re.sub(r"-[\w.]+=.*", "", table.facts["data"])].append(name)
    for data, names in by_images.items():
        if len(names) > 1:
            yield (
                f"Not independent: {and_list(names)} may share test images and seeds ({data}), yet each counts as a "
                "setting of its own: the pooled interval is too narrow by what they share."
            )
    alone = [name for table, name in used if all(row.delta is None or row.delta.crossed is None for row in table.rows)]
    if alone:
        yield f"Over seeds alone, with these test images: {and_list(alone)} (nothing is known of each image)."
    if left_out:
        yield f"Left out: {'; '.join(left_out)}."


def _notes(table: Table, used: Sequence[tuple[Table, str]]) -> Iterable[str]:
    """What the settings are, and what the columns mean."""
    yield f"Settings: {'; '.join(name for _, name in used)}."
    yield (
        f"Δ: the row's test {table.aim.metric} minus its baseline's in {table.aim.unit}, paired by seed, with its 95% "
        "interval over seeds and test images. Of a study whose seeds settled its first seeds alone, as many as it had "
        "at its first look: where it stopped, differences run high."
    )
    yield (
        "Pooled: the mean of the settings' true differences, which may differ (random effects; τ² by Paule and Mandel, "
        "the interval by Hartung and Knapp, never narrower than with the settings' own errors). τ: their standard "
        "deviation, as estimated. New setting: where the true difference of another data set, network or recipe is to "
        "be expected, with 95%; of three settings or more."
    )
    if table.printed:
        yield "Paper Δ: the difference of the paper's two single runs on ImageNet; it is not pooled."
