"""What a study varies: any key that determines a result, and its levels; and the rows that come of them.

A study's file may list rows with labels of its own, or only levels (`factor: recipe.lr` and `levels: [0.05, 0.1]`, or
`factors: {se.reduction: [4, 16], se.position: [standard, pre]}` with `design: grid`); and without a file the words
`+vary=recipe.lr levels=[0.05,0.1]` say the same.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from senet_lab.config import RESULT, Config, Study, UserError, flat, near, walk
from senet_lab.naming import plain_name, word_text

SE, RECIPE = "se", "recipe"  # with SE or without; the recipe of that name
OFF = (None, False, "off")  # levels of `se.reduction` and of `se` without SE
NO_SE = "no SE"
VARY, LEVELS = "vary", "levels"  # words
ALONG = {  # factor → what its levels may have of their own
    "backbone": ("init", "recipe", "stride", "data.size", "data.test_size", "data.resize", "data.cutout"),
    "se.kind": ("se.args",),
    "recipe.optimizer": ("recipe.optimizer_args", "recipe.lr", "recipe.momentum", "recipe.weight_decay"),
    "data.policy": ("data.policy_args",),
}


def variable_keys() -> list[str]:
    """Every key that rows may differ in."""
    return [SE, RECIPE, *(key for key, declared, _ in walk(Config()) if declared.decides == RESULT)]


def check_factor(key: str, where: str) -> None:
    """A UserError for a key that cannot be varied."""
    known = variable_keys()
    if key not in known:
        why = ", because it is the same for all rows of a study" if key in flat(Config()) else near(key, known)
        raise UserError(f"{where}: '{key}' cannot be varied{why}; what can: {', '.join(known)}")


def idle_factors(keys: Iterable[str], configs: Collection[Config]) -> list[str]:
    """A sentence for each factor that has a part in none of these trainings, so that its levels are one training."""
    declared = {key: each.only for key, each, _ in walk(Config())}
    found = []
    for key in keys:
        needed, _, word = declared.get(key, "").partition("=")
        values = list(dict.fromkeys(str(flat(config)[needed]) for config in configs)) if needed else []
        if values and not (set(values) & {word} if word else set(values) - {"0", "0.0"}):
            what = f"{needed}={word}" if word else f"{needed} above 0"
            found.append(f"{key} makes a difference only with {what}; here it is {' and '.join(values)}")
    return found


def may_change_with(factor: str, key: str) -> bool:
    """Whether rows that differ in the factor may differ in this key, too: a recipe is all of its values."""
    return any(key == each or key.startswith(f"{each}.") for each in (factor, *ALONG.get(factor, ())))


# --------------------------------------------------------------------------------------------------------------------
# Levels as rows


def expand_levels(study: Study, config: Config) -> Study:
    """The study with a row for each level or, in a grid, for each combination of levels. A study that lists its rows
    stays as it is. The baseline is the row that the configuration describes without the factors, or else the first.

    Raises:
        UserError: for levels of nothing, of what cannot be varied, of none or that are there twice; for several factors
            that are no grid.
    """
    factors = {"recipe" if key == "recipe.name" else str(key): levels for key, levels in study.factors.items()}
    if study.levels:
        if not study.factor or factors:
            raise UserError("study.levels: what they are levels of is study.factor, one key, without study.factors")
        factors = {"recipe" if study.factor == "recipe.name" else study.factor: study.levels}
    if not factors:
        return study
    if study.rows:
        raise UserError(f"the study {study.name} lists rows, and levels that would be rows: one of them")
    if len(factors) > 1 and study.design != "grid":
        raise UserError(f"study.factors: {' and '.join(factors)} vary together in a grid: study.design=grid")
    for key, levels in factors.items():
        check_factor(key, "study.factors" if study.factors else "study.factor")
        check_levels(key, levels)
    off = [key for key, levels in factors.items() if any(is_off(key, level) for level in levels)]
    idle = [key for key in factors if off and key not in off and key.split(".")[0] == SE]
    if idle:
        raise UserError(f"{off[0]}: without SE {idle[0]} says nothing, so that both are no grid; leave one of them out")
    rows: dict[str, Any] = {}
    baseline = ""
    for cell in itertools.product(*factors.values()):
        label, row = row_of(dict(zip(factors, cell, strict=True)))
        rows[label] = row
        baseline = baseline or label * matches_config(config, row)
    only = next(iter(factors)) if len(factors) == 1 else ""
    return replace(
        study,
        rows=rows,
        factor=only,
        factors=factors,
        levels=[],
        baseline=study.baseline or baseline or next(iter(rows)),
    )


def check_baseline(study: Study, config: Config, keys: Collection[str]) -> None:
    """A UserError for a word that sets a factor to what is none of its levels.

    Args:
        study: with its levels.
        config: with the user's words.
        keys: what they set.
    """
    for key in sorted({*study.factors} & {*keys}):
        if not any(matches_config(config, {key: level}) for level in study.factors[key]):
            levels = ", ".join(map(str, study.factors[key]))
            raise UserError(f"{key}: a word chooses the baseline among the levels, which are {levels}")


def check_levels(key: str, levels: Any) -> None:
    """A UserError unless these are at least two different levels."""
    if not isinstance(levels, Sequence) or isinstance(levels, str) or len(levels) < 2:
        raise UserError(f"levels of {key}: {word_text(levels)} is not a list of at least two levels")
    texts = [level_text(key, level) for level in levels]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise UserError(f"levels of {key}: {twice} is there twice")
    if key == SE and set(texts) - {"true", NO_SE}:
        raise UserError("levels of se: there are false and true, without SE and with it")


def level_text(key: str, level: Any) -> str:
    """A level as text, the same for equal numbers."""
    if is_off(key, level):
        return NO_SE
    if isinstance(level, float) and level.is_integer() and abs(level) < 1e15:
        level = int(level)
    return level if isinstance(level, str) else word_text(level)


def is_off(key: str, level: Any) -> bool:
    """Whether a level is the network without SE."""
    return key in (SE, "se.reduction") and any(level is each or level == each == "off" for each in OFF)


def row_of(cell: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Label and overrides of the row with these levels: `lr = 0.05`, {recipe.lr: 0.05}."""
    words: list[str] = []
    row: dict[str, Any] = {}
    for key, level in cell.items():
        if is_off(key, level):
            words.append(NO_SE)
            row[SE] = None
        elif key == SE:
            words.append("SE")
        else:
            words.append(f"{key.rpartition('.')[2]} = {level_text(key, level)}")
            row[key] = level
    return ", ".join(words), row


def matches_config(config: Config, row: Mapping[str, Any]) -> bool:
    """Whether the configuration already has the values of a row."""
    now = flat(config) | {RECIPE: config.recipe.name, SE: config.se}
    return all(now.get(key) == level for key, level in row.items())


# --------------------------------------------------------------------------------------------------------------------
# Without a file


def as_study(words: Sequence[str]) -> list[str]:
    """Replace `+vary=KEY levels=[…]` in the words by the choice of a study that is registered with Hydra. Two keys have
    two lists of levels and make a grid.

    Raises:
        UserError: for one without the other, one that is no key or no list, and another study beside it.
    """
    asked = {name: [word for word in words if word_key(word) == name] for name in (VARY, LEVELS)}
    rest = [word for word in words if word_key(word) not in asked]
    if not asked[VARY] and not asked[LEVELS]:
        return list(words)
    if not asked[VARY]:
        raise UserError(f"{asked[LEVELS][0]}: levels of what? +vary=KEY says it, such as +vary=recipe.lr")
    if len(asked[VARY]) > 1:
        raise UserError(f"{' '.join(asked[VARY])}: two keys are a grid: '+vary=[KEY,KEY]' 'levels=[[…],[…]]'")
    if len(asked[LEVELS]) != 1:
        raise UserError(f"{asked[VARY][0]}: which levels? One list of them: 'levels=[…]'")
    keys, levels = word_value(asked[VARY][0]), word_value(asked[LEVELS][0])
    if isinstance(keys, str):
        keys, levels = [keys], [levels]
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{asked[VARY][0]}: it is a key, or a list of keys, such as recipe.lr")
    if not isinstance(levels, list) or len(levels) != len(keys):
        raise UserError(f"{asked[LEVELS][0]}: it has as many lists of levels as there are keys, {len(keys)}")
    if len({*keys}) < len(keys):
        raise UserError(f"{asked[VARY][0]}: a key is there twice")
    for key, some in zip(keys, levels, strict=True):
        check_factor("recipe" if key == "recipe.name" else key, "+vary")
        check_levels(key, some)
    made = dict(zip(keys, levels, strict=True))
    name = "-".join(f"{key}={','.join(level_text(key, each) for each in some)}" for key, some in made.items())
    study = {
        "name": plain_name(name).replace("~", "+"),
        "title": " and ".join(keys),
        "factors": made,
        "design": "grid" if len(keys) > 1 else "rows",
    }
    choice = hashlib.sha256(repr(study).encode()).hexdigest()[:16]
    ConfigStore.instance().store(choice, {"study": study}, group=VARY, package="_global_")
    return [f"+{VARY}={choice}", *rest]


def word_key(word: str) -> str:
    """The key of a word."""
    return re.sub(r"^[+~]*", "", word).partition("=")[0]


def word_value(word: str) -> Any:
    """The value of a word, read by Hydra's grammar."""
    try:
        return OverridesParser.create().parse_overrides([word])[0].value()
    except HydraException as error:
        raise UserError(f"'{word}' cannot be read: a list stands in brackets, as one argument of the shell") from error


def row_levels(config: Config, keys: Iterable[str]) -> dict[str, Any]:
    """A row's level of each key: of `se` whether there is SE, of `recipe` its name; None where there is no SE to have
    one."""
    now = flat(config) | {RECIPE: config.recipe.name, SE: config.se is not None}
    return {key: now.get(key) for key in keys}
