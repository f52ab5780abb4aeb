"""The rows of a study as configurations: what each row overrides, and its baseline.

A comparison is fair only if the compared rows differ in one factor. So a row that changes more is refused with an error
that shows the difference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from senet_lab.compose import check_key
from senet_lab.config import Config, Study, UserError, check_values, flat
from senet_lab.config_errors import error_line
from senet_lab.factors import RECIPE, check_factor, may_change_with, row_levels
from senet_lab.naming import Composed, labels
from senet_lab.reports import paper
from senet_lab.reports.cells import clean_text

# Keys that may differ between comparisons of one table. All others are the same for the whole study.
OWN = (
    "backbone",
    "stride",
    "init",
    "se",
    "recipe",
    "data.size",
    "data.test_size",
    "data.resize",
    "data.augment",
    "data.cutout",
)
ROW_WORDS = ("paper", "baseline", "if_present")  # what a row says of itself, beside its overrides


@dataclass(frozen=True)
class Variant:
    """One line of a study, as a configuration.

    Attributes:
        label: what the row is called.
        baseline: label of the row that it is compared with; its own for a baseline.
        paper_row: the paper's row that it repeats; empty if the paper has none.
        if_present: whether the row is left out where its network lacks the stages that it names.
        config: the whole configuration of the row.
        data, recipe: what its data set and its recipe are called; the factor is not in their names.
        levels: factor → the row's level of it.
    """

    label: str
    baseline: str
    paper_row: str
    if_present: bool
    config: Config
    data: str
    recipe: str
    levels: dict[str, Any] = field(default_factory=dict)


def variants(composed: Composed) -> list[Variant]:
    """The rows of the study, or one for a single network; checked.

    Raises:
        UserError: a study that cannot be, a row that is not fair.
    """
    study = composed.config.study
    if study is None:
        return [Variant("network", "network", "", False, composed.config, composed.data, composed.recipe)]
    check_study(study)
    rows = [variant(composed, study, label, baseline) for label, baseline in study.baselines().items()]
    for baseline in dict.fromkeys(each.baseline for each in rows):
        check_factors(study, {each.label: each.config for each in rows if each.baseline == baseline}, baseline)
    for each in rows:
        check_own(composed.config, each, study.varied)
    return rows


def variant(composed: Composed, study: Study, label: str, baseline: str) -> Variant:
    """One row of the study as a configuration."""
    row = study.rows[label]
    config = with_overrides(composed, study, label)
    # The recipe's name holds what the rows of a comparison share; the factors are left out, as the table shows them.
    factors = [key for key in study.varied if key != RECIPE]
    shared = with_overrides(composed, study, label, but=lambda key: key in factors or key.split(".")[0] == "se")
    chosen = composed.chosen
    if "recipe" in row:
        chosen = replace(chosen, recipe=composed.recipes[row["recipe"]][1])
    data, recipe = labels(shared, chosen)
    levels, if_present = row_levels(config, study.varied), bool(row.get("if_present"))
    return Variant(label, baseline, str(row.get("paper", "")), if_present, config, data, recipe, levels)


def with_overrides(
    composed: Composed, study: Study, label: str, but: Callable[[str], bool] = lambda _: False
) -> Config:
    """The configuration with a row's overrides, without the keys for which `but` is true."""
    where, overrides = f"study.rows.{label}", study.rows[label]
    if not isinstance(overrides, dict):
        raise UserError(f"{where}: {overrides!r} is not a mapping such as {{se.reduction: 8}}")
    config = composed.config
    if "recipe" in overrides:
        config = replace(config, recipe=composed.recipes[overrides["recipe"]][0])
    values = {
        str(key): value for key, value in overrides.items() if key not in (*ROW_WORDS, "recipe") and not but(str(key))
    }
    return with_values(config, values, where)


def check_study(study: Study) -> None:
    """A UserError for a study without rows, or one whose rows do not fit one table."""
    if not study.rows:
        raise UserError(f"the study {study.name or '(without a name)'} is empty: study.rows has no row")
    for label in study.rows:
        if not label or clean_text(label) != label:
            raise UserError(f"study.rows: {label!r} cannot be the label of a row; it is one line of printable text")
    baselines = study.baselines()
    for label, baseline in baselines.items():
        if baseline not in study.rows:
            message = f"there is no row '{baseline}' in {study.name}; there are {', '.join(study.rows)}"
            row = study.rows[label]
            own = isinstance(row, dict) and "baseline" in row
            raise UserError(f"study.rows.{label}.baseline: {message}" if own else f"study.baseline: {message}")
        if baselines[baseline] != baseline:
            raise UserError(
                f"study.rows.{label}.baseline: '{baseline}' is itself compared with '{baselines[baseline]}'"
            )
    try:
        printed = paper.paper_table(study.paper) if study.paper else None
        for row in study.rows.values():
            if isinstance(row, dict) and "paper" in row and printed:
                printed.row(str(row["paper"]))
    except ValueError as error:
        raise UserError(f"study.paper={study.paper}: {error}") from error
    for key in study.varied:
        check_factor(key, "study.factor")


def check_factors(study: Study, configs: dict[str, Config], baseline: str) -> None:
    """A UserError unless compared rows differ in the study's factors, or in whether there is SE, and in nothing
    else."""
    factors = study.varied
    with_se = [label for label in (baseline, *configs) if configs[label].se is not None]
    reference = with_se[0] if with_se else baseline
    was = flat(configs[reference])
    for label, config in configs.items():
        now = flat(config)
        changed = [key for key in {**was, **now} if was.get(key) != now.get(key)]
        changed = [key for key in changed if not any(may_change_with(factor, key) for factor in factors)]
        if config.se is None:
            changed = [key for key in changed if key.split(".")[0] != "se"]
        if changed:
            shown = "; ".join(f"{key}: {was.get(key)} → {now.get(key)}" for key in changed)
            what = " and ".join(factors)
            raise UserError(f"row '{label}' changes more than {what}, compared with '{reference}': {shown}")
        if study.factor == "se" and label != baseline and (config.se is None) == (configs[baseline].se is None):
            both = "neither has SE" if config.se is None else "both have SE"
            raise UserError(f"row '{label}' does not differ from '{baseline}', its baseline: {both}")


def check_own(base: Config, variant: Variant, factors: list[str]) -> None:
    """A UserError if a row overrides a key of the whole study: its images, seeds, device, places."""
    was, now = flat(base), flat(variant.config)
    for key in {**was, **now}:
        own = any(key == name or key.startswith(f"{name}.") for name in (*OWN, *factors))
        if was.get(key) != now.get(key) and not own:
            raise UserError(
                f"row '{variant.label}': {key} is the same for all rows of a study; a row can override {', '.join(OWN)}"
            )


def with_values(config: Config, values: Mapping[str, Any], where: str) -> Config:
    """A configuration with other values, by key; a UserError that begins with `where` for one that its key refuses."""
    if not values:
        return copy.deepcopy(config)
    whole = bool({"study", "search"} & {key.split(".")[0] for key in values})  # else left out: many rows take long
    structured = OmegaConf.structured(config if whole else replace(config, study=None, search=None))
    try:
        for key, value in values.items():
            check_key(key)
            if key.startswith("se.") and structured.se is None:
                raise UserError(f"{key} cannot be set, because se is null")
            OmegaConf.update(structured, key, value, merge=False)
        checked = OmegaConf.to_object(structured)
        assert isinstance(checked, Config)
        if not whole:
            checked = replace(checked, study=copy.deepcopy(config.study), search=copy.deepcopy(config.search))
        check_values(checked)
    except (OmegaConfBaseException, UserError) as error:
        raise UserError(f"{where}: {error_line(error)}") from error
    return checked
