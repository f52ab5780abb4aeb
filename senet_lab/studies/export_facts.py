"""What the exporter must know of a study beside its records, as plain values: no torch is needed to read them.

W&B has a run for each training, Optuna a trial for each row and seed or, of a search, for each design.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from senet_lab.config import SE
from senet_lab.labels import Composed, short_hash
from senet_lab.objectives import OBJECTIVES
from senet_lab.studies.space import label

if TYPE_CHECKING:
    from senet_lab.studies.designs import Design as StudyDesign
    from senet_lab.studies.plan import Cell, Plan
    from senet_lab.studies.search import Search
    from senet_lab.studies.space import Design

NO_SE = "none"


@dataclass(frozen=True)
class Run:
    """A training, as W&B shows it.

    Attributes:
        config: of its row; runs of one row share it.
        params, macs: costs of its network.
    """

    trial_id: str
    row: str
    seed: int
    config: dict[str, Any]
    params: int
    macs: int


@dataclass(frozen=True)
class Point:
    """A trial of an Optuna study.

    Attributes:
        params: what varies → its level here.
        trial_ids: the trainings behind it; its values are means over them.
        costs: what is known of it without training, by metric.
        shown: user attributes that hold whatever comes of the trainings.
    """

    params: dict[str, Any]
    trial_ids: tuple[str, ...]
    costs: dict[str, float]
    shown: dict[str, Any]


@dataclass(frozen=True)
class Exported:
    """A study, as far as it is planned.

    Attributes:
        name: its folder below the results.
        optuna: what its Optuna study is called.
        objectives: of the Optuna study, keys of `OBJECTIVES`.
        levels: what varies → its levels; what is missing here (the seed) is a whole number.
        about: user attributes of the Optuna study.
        by_design: whether a point is a search's design rather than a row with a seed.
    """

    name: str
    optuna: str
    objectives: tuple[str, ...]
    levels: dict[str, tuple[Any, ...]]
    about: dict[str, str]
    by_design: bool
    runs: tuple[Run, ...]
    points: tuple[Point, ...]


class Facts:
    """What is known so far of the studies of one command.

    Attributes:
        studies: one each, with all trials that were asked for when `more` was asked last.
    """

    def __init__(self, studies: Sequence[Composed], design: StudyDesign) -> None:
        self.composed = studies
        self.design = design
        self.search = cast("Search", design) if studies[0].config.search else None
        if self.search:
            self.studies = [of_search(self.search)]
        else:
            self.studies = [of_plan(each, study.folder) for study, each in zip(studies, design.plans, strict=True)]
        self.seen = [tuple(map(len, each)) for each in self.asked()]

    def asked(self) -> list[tuple[Sequence[Cell], Sequence[Any]]]:
        """Of each study, the cells behind its runs and what is behind its points; both only grow."""
        if self.search:
            return [(cells_of(self.search), self.search.asker.asked)]
        return [(each.cells, each.cells) for each in self.design.plans]

    def more(self) -> Iterator[tuple[int, tuple[Run, ...], tuple[Point, ...]]]:
        """Number of a study, and what it has been given since this was asked last; of those that have been."""
        for number, asked in enumerate(self.asked()):
            cells, items = (each[seen:] for each, seen in zip(asked, self.seen[number], strict=True))
            self.seen[number] = tuple(map(len, asked))
            if self.search:
                runs, points = runs_of(cells), points_of(self.search, items)
            else:
                runs, points = of_cells(self.design.plans[number], cells)
            if runs or points:
                before = self.studies[number]
                self.studies[number] = replace(before, runs=before.runs + runs, points=before.points + points)
                yield number, runs, points

    def files(self) -> list[tuple[Path, Path]]:
        """Table (a CSV) and figure of each study."""
        names = ("front.csv", "front.png") if self.search else ("table.csv", "figure.png")
        folders = [Path(each.config.results) / each.folder for each in self.composed]
        return [(folder / names[0], folder / names[1]) for folder in folders]


def of_plan(plan: Plan, name: str) -> Exported:
    """Of an ablation, or of a single network.

    Rows are Optuna's categories, which it fixes for good: other rows under the same name are another Optuna study. So
    are rows that train something else.
    """
    study, rows = plan.config.study, plan.rows
    first = min((cell.seed for cell in plan.cells), default=0)
    told = [(cell.row.label, cell.with_seed(0).trial_id) for cell in plan.cells if cell.seed == first]
    about = {
        "title": plan.title,
        "data": listed(row.data for row in rows),
        "backbone": listed(row.config.backbone for row in rows),
        "recipe": listed(row.recipe for row in rows),
        "factor": listed(study.varied) if study else "",
        "baseline": listed(row.baseline for row in rows) if study else "",
    }
    runs, points = of_cells(plan, plan.cells)
    return Exported(
        name,
        f"{name} ({short_hash(repr(told))})",
        ("val_error", "params", "macs") if plan.facts.validation else ("params", "macs"),
        {"row": tuple(row.label for row in rows)},
        {key: text for key, text in about.items() if text},
        False,
        runs,
        points,
    )


def of_cells(plan: Plan, cells: Sequence[Cell]) -> tuple[tuple[Run, ...], tuple[Point, ...]]:
    """Runs and points of some of a plan's cells; rows that share a training share its run."""
    points = [
        Point(
            {"row": cell.row.label, "seed": cell.seed},
            (cell.trial_id,),
            {"params": cell.row.cost.params, "macs": cell.row.cost.macs},
            {factor: level(factor, value) for factor, value in cell.row.levels.items()},
        )
        for cell in cells
    ]
    return runs_of(cell for cell in cells if plan.trials[cell.trial_id] is cell), tuple(points)


def of_search(search: Search) -> Exported:
    """Of a search, as far as it has asked. Optuna fixes levels for good: other ones under the same name are another
    Optuna study."""
    name, varied = search.composed.folder, search.priced.space.varied
    titles = [OBJECTIVES[each].title for each in search.asked.objectives]
    return Exported(
        name,
        f"{name} ({short_hash(repr((sorted(varied.items()), titles)))})",
        tuple(search.asked.objectives),
        {key: tuple(levels) for key, levels in varied.items()},
        {},
        True,
        runs_of(cells_of(search)),
        points_of(search, search.asker.asked),
    )


def cells_of(search: Search) -> list[Cell]:
    """All trainings that a search has asked for, in this order."""
    beside = [cell for row in search.references for cell in search.trainings(row)]
    return [*beside, *(cell for each in search.asker.asked for cell in search.cells[each]), *(search.confirmed or [])]


def points_of(search: Search, designs: Iterable[Design]) -> tuple[Point, ...]:
    """Points of designs that a search has asked for."""
    space, found = search.priced.space, []
    for each in designs:
        params, ids = space.params(each), [cell.trial_id for cell in search.cells[each]]
        varied = {key: params[key] for key in space.varied}
        shown = {"trial": {"design": label(space, each), "ids": ids}}
        found.append(Point(varied, tuple(ids), search.worth.cost(each), shown))
    return tuple(found)


def runs_of(cells: Iterable[Cell]) -> tuple[Run, ...]:
    """The runs of cells, one each."""
    configs: dict[str, dict[str, Any]] = {}
    found = []
    for cell in cells:
        row = cell.row
        if row.label not in configs:
            config = cell.spec.config()
            # W&B drops a null, and a plain network should be found.
            configs[row.label] = {
                **config,
                "se": config["se"] or NO_SE,
                "row": row.label,
                "design": design(cell.spec.se),
            }
        found.append(Run(cell.trial_id, row.label, cell.seed, configs[row.label], row.cost.params, row.cost.macs))
    return tuple(found)


def design(se: SE | None) -> dict[str, str]:
    """An SE design in one word a factor, which W&B can group by; `none` all over for the plain network.

    A trial may belong to several studies, under another label in each. What it is grouped by must hold in all of them.
    """
    if se is None:
        return {field.name: NO_SE for field in dataclasses.fields(SE)}
    words = {field.name: str(getattr(se, field.name)) for field in dataclasses.fields(SE)}
    ratios = set(se.reduction.values())
    each = (f"{stage}:{ratio}" for stage, ratio in se.reduction.items())
    return {
        **words,
        "reduction": str(*ratios) if len(ratios) == 1 else " ".join(each),
        "stages": " ".join(map(str, se.reduction)),
    }


def level(factor: str, value: Any) -> str:
    """A row's level of a factor, in words; `none` where the row has no SE to have one."""
    if factor == "se":
        return "SE" if value else NO_SE
    return NO_SE if value is None else str(value)


def listed(texts: Iterable[str]) -> str:
    """Each of the texts once."""
    return ", ".join(dict.fromkeys(texts))
