"""Applies the user's words to the rows of a study: which rows are trained, and which of their values a word replaces.

A study of several networks is seldom trained whole (Table 2 of the paper is sixteen trainings on ImageNet), and its
rows may bring the recipe of each network's own paper, which one word of the user's replaces for all of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from senet_lab.config import Study, UserError, near

STUDIES = {"ablation": "study", "search": "search"}  # chosen by name from sweeps/, and the key that each sets
WITH_RECIPE = ("data.cutout",)  # belongs to a recipe, though it is done to the images


def as_asked(study: Study, keys: Collection[str]) -> Study:
    """The study with the rows that the words select.

    Args:
        study: as its file and the words have it.
        keys: what the user's words set (`recipe`, `data.size`, …).

    Raises:
        UserError: for a name in `study.only` that no row has, and for a word that would change no row, because each
            sets the key itself.
    """
    own = networks(study)
    if "backbone" in keys and len(own) == len(study.rows) > 0:
        raise UserError(
            f"backbone: the rows of {study.name} name their own networks; study.only=[…] chooses among "
            f"{', '.join(dict.fromkeys(own.values()))}"
        )
    for key in sorted(set_by_rows(study) & {*keys}):
        raise UserError(f"{key}: each row of {study.name} sets it, because that is what the study varies")
    labels = picked(study) if study.only else list(study.rows)
    return replace(study, rows={label: kept(study.rows[label], study.varied, keys) for label in labels})


def set_by_rows(study: Study) -> set[str]:
    """The factors that each row sets, or that it has none of, without SE; none of a study of levels, where the word
    chooses the baseline."""

    def is_set(row: Any, key: str) -> bool:
        return isinstance(row, dict) and (key in row or (key.startswith("se.") and row.get("se", key) is None))

    listed = [] if study.factors else study.varied
    return {key for key in listed if all(is_set(row, key) for row in study.rows.values())}


def networks(study: Study) -> dict[str, str]:
    """Row → its own backbone, for the rows that name one."""
    return {
        label: str(row["backbone"]) for label, row in study.rows.items() if isinstance(row, dict) and "backbone" in row
    }


def named_recipes(study: Study, known: Collection[str]) -> list[str]:
    """The recipes that rows name.

    Raises:
        UserError: for a recipe that is not among the `known`.
    """
    named = {label: row["recipe"] for label, row in study.rows.items() if isinstance(row, dict) and "recipe" in row}
    for label, name in named.items():
        if name not in known:
            raise UserError(f"study.rows.{label}: there is no recipe '{name}'; there are {', '.join(known)}")
    return list(dict.fromkeys(named.values()))


def picked(study: Study) -> list[str]:
    """The rows that `study.only` names, by label or backbone, in the study's order. A row comes with its baseline, and
    a baseline of which no other row is named with all the rows that are compared with it."""
    own, baselines = networks(study), study.baselines()
    labels: set[str] = set()
    for word in study.only:
        rows = [label for label in study.rows if word in (label, own.get(label))]
        if not rows:
            names = list(dict.fromkeys([*study.rows, *own.values()]))
            raise UserError(
                f"study.only: {study.name} has no row '{word}'{near(word, names)}; it has {', '.join(names)}"
            )
        labels |= set(rows)
    alone = labels - {baselines[label] for label in labels if baselines[label] != label}
    labels |= {label for label in study.rows if baselines[label] in alone}
    labels |= {baselines[label] for label in labels}
    return [label for label in study.rows if label in labels]


def kept(row: Any, factors: Collection[str], keys: Collection[str]) -> Any:
    """The row without the keys of recipe or data that the words set, and without its whole recipe if the words choose
    one."""
    if not isinstance(row, dict):
        return row

    def replaced(key: str) -> bool:
        if key in factors or key.split(".")[0] not in ("recipe", "data"):
            return False
        return key in keys or ("recipe" in keys and (key.startswith("recipe") or key in WITH_RECIPE))

    return {key: value for key, value in row.items() if not replaced(str(key))}


def named_data(words: list[str]) -> list[str]:
    """The words with `data=torchvision:SVHN` or `data=mine:function`, of which there is no file, spelt out."""
    named = [word.partition("=")[2] for word in words if word.startswith("data=") and ":" in word]
    first = [word for name in named for word in ("data=data_schema", f"data.name={name}", "data.size=0")]
    return first + [word for word in words if not (word.startswith("data=") and ":" in word)]
