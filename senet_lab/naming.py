"""The labels and the folder under which a configuration's results are filed."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from senet_lab.config import RUN, Config, Recipe, Study, flat, walk
from senet_lab.selection import networks

NAMED = ("backbone", "data.name")  # which a label begins with


@dataclass(frozen=True)
class Composed:
    """A configuration, and what its results are filed under.

    Attributes:
        config: all of it.
        data: label of the data set, with what differs from its file: `cifar10-subset=5000`.
        recipe: label of the recipe, likewise.
        folder: `<data>/<backbone>-<recipe>/<study>`; `networks` stands for the backbones of rows that name their own.
        chosen: the configuration without the words that set single keys, which the labels tell the differences from.
        recipes: recipe that rows name → it with the words that set single keys, and without.
        study: the study with all its rows, also those that were not asked for.
    """

    config: Config
    data: str
    recipe: str
    folder: str
    chosen: Config
    recipes: dict[str, tuple[Recipe, Recipe]]
    study: Study | None = None


def with_labels(config: Config, chosen: Config, recipes: dict[str, tuple[Recipe, Recipe]]) -> Composed:
    """File the configuration under its choices and whatever differs from them."""
    study = config.study
    data, recipe = labels(config, chosen)
    trained = plain_name(recipes_label(config, chosen, recipes)) if recipes else recipe
    network = "networks" if study and networks(study) else config.backbone
    name = study.name if study else "network"
    if study and study.only:
        name += f"-only={','.join(study.only)}"
    if config.search:
        name = config.search.name + suffix(config_differences(config, chosen), "search")
    folder = f"{data}/{plain_name(network)}-{trained}/{plain_name(name)}"
    return Composed(config, data, recipe, folder, chosen, recipes)


def recipes_label(config: Config, chosen: Config, recipes: dict[str, tuple[Recipe, Recipe]]) -> str:
    """The label of the recipes that rows name and of the words that change them: `cifar+wrn-epochs=1`."""
    assert config.study
    every = list(recipes.values())
    if any("recipe" not in row for row in config.study.rows.values() if isinstance(row, dict)):
        every.insert(0, (config.recipe, chosen.recipe))
    different: dict[str, Any] = {}
    for ours, theirs in every:
        different |= config_differences(replace(config, recipe=ours), replace(chosen, recipe=theirs))
    return "+".join(ours.name for ours, _ in every) + suffix(different, "recipe")


def labels(config: Config, chosen: Config) -> tuple[str, str]:
    """The labels of a configuration's data set and recipe: their names, and the values that differ from the named
    files."""
    different = config_differences(config, chosen)
    tree = f"-{Path(config.data.root).resolve().name}" if config.data.name == "folder" else ""
    data = plain_name(config.data.name + tree + suffix(different, "data"))
    return data, plain_name(config.recipe.name + suffix(different, "recipe"))


def config_differences(config: Config, chosen: Config) -> dict[str, Any]:
    """Dotted key → value, where the configuration differs from the choices and that changes a result."""
    was = flat(chosen)
    different = {
        key: value
        for key, declared, value in walk(config)
        if declared.decides != RUN and key not in NAMED and was.get(key) != value
    }
    if chosen.se is not None and config.se is None:
        different = {"se": "null"} | {key: value for key, value in different.items() if not key.startswith("se")}
    return different


def suffix(different: dict[str, Any], whose: str) -> str:
    """The differences of the data set, of the search or of all else (`recipe`), as they stand in a label:
    `-epochs=2-lr=0.2`."""
    owners = {"data": "data", "search": "search", "budget": "search"}
    return "".join(
        f"-{key.rpartition('.')[2]}={Path(value).name if key == 'init' and value else value}"
        for key, value in different.items()
        if owners.get(key.partition(".")[0], "recipe") == whose
    )


def quote_word(text: str) -> str:
    """Text as the value of a word, quoted if Hydra's grammar needs it."""
    plain = re.fullmatch(r"[A-Za-z/._][\w/.-]*", text, re.ASCII)
    return text if plain else QuotedString(text, Quote.single).with_quotes()


def word_text(value: Any) -> str:
    """A value as it is typed behind its key."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(word_text, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{word_text(each)}' for key, each in value.items())}}}"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return quote_word(value) if isinstance(value, str) and value else str(value)


def shell_line(words: Sequence[str]) -> str:
    """Words as they are typed into a shell: those with single quotes in double ones, where nothing else is in them."""
    return " ".join(
        f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word) for word in words
    )


def plain_name(text: str) -> str:
    """Text as the name of a folder. A long text is cut and gets a hash, so that different texts have different
    names."""
    name = re.sub(r"[^\w.=+-]+", "_", text)
    return name if len(name) <= 100 else f"{name[:91]}~{short_hash(text)}"


def short_hash(text: str) -> str:
    """Eight hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
