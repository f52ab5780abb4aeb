"""What the exporter must know of a study beside its records, as plain values: no torch is needed to read them.

W&B has a run for each training, Optuna a trial for each row and seed or, of a search, for each design.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from senet_lab.config import SE
from senet_lab.naming import Composed, short_hash
from senet_lab.objectives import OBJECTIVES
from senet_lab.studies.space import design_text

if TYPE_CHECKING:
    from senet_lab.studies.designs import Design as StudyDesign
    from senet_lab.studies.plan import Cell, Plan
    from senet_lab.studies.search import SearchDesign

NO_SE = "none"


@dataclass(frozen=True)
class WandbRun:
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
class OptunaPoint:
    """A trial of an Optuna study.

    Attributes:
        params: what varies → its level here.
        trial_ids: the trainings behind it; its values are means over them.
        costs: what is known of it without training, by metric.
        shown: user attributes that hold whatever comes of the trainings; `trial` holds the rest where it is there.
    """

    params: dict[str, Any]
    trial_ids: tuple[str, ...]
    costs: dict[str, float]
    shown: dict[str, Any]


@dataclass(frozen=True)
class ExportedStudy:
    """A study, with all trials that were asked for so far.

    Attributes:
        name: its folder below the results.
        optuna: what its Optuna study is called.
        objectives: of the Optuna study, keys of `OBJECTIVES`.
        levels: what varies → its levels; what is missing here (the seed) is a whole number.
        about: user attributes of the Optuna study.
        runs, points: what W&B and Optuna have of it.
        files: where its table (a CSV) and its figure are at its end.
    """

    name: str
    optuna: str
    objectives: tuple[str, ...]
    levels: dict[str, tuple[Any, ...]]
    about: dict[str, str]
    runs: list[WandbRun]
    points: list[OptunaPoint]
    files: tuple[Path, Path]


def of_design(studies: Sequence[Composed], design: StudyDesign) -> list[ExportedStudy]:
    """The studies of one command, one each."""
    if studies[0].config.search:
        return [of_search(cast("SearchDesign", design))]
    return [of_plan(each, study) for study, each in zip(studies, design.plans, strict=True)]


def of_plan(plan: Plan, composed: Composed) -> ExportedStudy:
    """Of an ablation, or of a single network.

    Rows are Optuna's categories, which it fixes for good: other rows under the same name are another Optuna study. So
    are rows that train something else.
    """
    study, rows = plan.config.study, plan.rows
    first = min((cell.seed for cell in plan.cells), default=0)
    trained = [(cell.row.label, cell.with_seed(0).trial_id) for cell in plan.cells if cell.seed == first]
    about = {
        "title": plan.title,
        "data": distinct_texts(row.data for row in rows),
        "backbone": distinct_texts(row.config.backbone for row in rows),
        "recipe": distinct_texts(row.recipe for row in rows),
        "factor": distinct_texts(study.varied) if study else "",
        "baseline": distinct_texts(row.baseline for row in rows) if study else "",
    }
    points = [
        OptunaPoint(
            {"row": cell.row.label, "seed": cell.seed},
            (cell.trial_id,),
            {"params": cell.row.cost.params, "macs": cell.row.cost.macs},
            {factor: level_word(factor, value) for factor, value in cell.row.levels.items()},
        )
        for cell in plan.cells
    ]
    folder = Path(composed.config.results) / composed.folder
    return ExportedStudy(
        composed.folder,
        f"{composed.folder} ({short_hash(repr(trained))})",
        ("val_error", "params", "macs") if plan.facts.validation else ("params", "macs"),
        {"row": tuple(row.label for row in rows)},
        {key: text for key, text in about.items() if text},
        runs_of(plan.trials.values()),
        points,
        (folder / "table.csv", folder / "figure.png"),
    )


def of_search(search: SearchDesign) -> ExportedStudy:
    """Of a search. Optuna fixes levels for good: other ones under the same name are another Optuna study."""
    name, space = search.composed.folder, search.priced.space
    titles = [OBJECTIVES[each].title for each in search.asked.objectives]
    points = []
    for design in search.asker.asked:
        params, ids = space.params(design), [cell.trial_id for cell in search.cells[design]]
        varied = {key: params[key] for key in space.varied}
        shown = {"trial": {"design": design_text(space, design), "ids": ids}}
        points.append(OptunaPoint(varied, tuple(ids), search.worth.cost(design), shown))
    cells = [cell for row in search.references for cell in search.trainings(row)]
    cells += [cell for each in search.asker.asked for cell in search.cells[each]] + (search.confirmed or [])
    folder = Path(search.config.results) / name
    return ExportedStudy(
        name,
        f"{name} ({short_hash(repr((sorted(space.varied.items()), titles)))})",
        tuple(search.asked.objectives),
        {key: tuple(levels) for key, levels in space.varied.items()},
        {},
        runs_of(cells),
        points,
        (folder / "front.csv", folder / "front.png"),
    )


def runs_of(cells: Iterable[Cell]) -> list[WandbRun]:
    """The runs of cells, one each."""
    configs: dict[str, dict[str, Any]] = {}
    runs = []
    for cell in cells:
        row = cell.row
        if row.label not in configs:
            config = cell.spec.config()
            # W&B drops a null, and a plain network should be found.
            configs[row.label] = {
                **config,
                "se": config["se"] or NO_SE,
                "row": row.label,
                "design": design_words(cell.spec.se),
            }
        runs.append(WandbRun(cell.trial_id, row.label, cell.seed, configs[row.label], row.cost.params, row.cost.macs))
    return runs


def design_words(se: SE | None) -> dict[str, str]:
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


def level_word(factor: str, value: Any) -> str:
    """A row's level of a factor, in words; `none` where the row has no SE to have one."""
    if factor == "se":
        return "SE" if value else NO_SE
    return NO_SE if value is None else str(value)


def distinct_texts(texts: Iterable[str]) -> str:
    """Each of the texts once."""
    return ", ".join(dict.fromkeys(texts))
