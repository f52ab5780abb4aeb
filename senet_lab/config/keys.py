"""What is declared of a key beside its default: its meaning, its choices, its bounds, and what it determines.

Help, the reference of keys, checks and error messages are made from these declarations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from senet_lab.config.errors import UserError, near

TINY, ENDLESS = 1e-9, 1e9  # bounds of what is only to be above 0, and finite

RESULT, STUDY, RUN = "result", "study", "run"


@dataclass(frozen=True)
class Key:
    """What is declared of a key.

    Attributes:
        means: what it is, with units.
        choices: the words that it can have → what each means; empty where it is no word, or where what it names (a
            backbone, an excitation) is looked up in a registry, whose error lists the choices.
        bounds: least and most that it, or each number of its list or mapping, can be.
        decides: what it bears on: the `result` of a training, so that rows may differ in it and folders are named after
            it; the whole `study`, so that folders are named after it, and it is the same for all rows; or only the
            `run`: how and where it is done, what it is called, and what is shown. Empty is as its group.
        only: where alone it has a part in the training, as "recipe.schedule=step", or a key that is not to be 0; empty
            is everywhere.
    """

    means: str
    choices: Mapping[str, str]
    bounds: tuple[float, float] | None
    decides: str
    only: str = ""

    @property
    def description(self) -> str:
        """Meaning, choices and bounds in a sentence or two."""
        words = [f"{word} ({meaning})" if meaning else word for word, meaning in self.choices.items()]
        sentences = [self.means, f"One of {', '.join(words)}"] if words else [self.means]
        least, most = self.bounds or (0.0, ENDLESS)
        if most < ENDLESS:
            sentences.append(f"At most {most:g}" if least == TINY else f"From {least:g} to {most:g}")
        return ". ".join(sentences)


def key(
    default: Any,
    means: str,
    *,
    choices: Mapping[str, str] | Iterable[str] = (),
    bounds: tuple[float, float] | None = None,
    decides: str = "",
    only: str = "",
) -> Any:
    """A field of the configuration, for whose arguments see `Key`; a callable default is called for each new one."""
    words = dict(choices) if isinstance(choices, Mapping) else dict.fromkeys(choices, "")
    metadata = {"key": Key(means, words, bounds, decides, only)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def walk(config: Any, prefix: str = "", decides: str = RESULT) -> Iterator[tuple[str, Key, Any]]:
    """Every key of a configuration that holds no further ones: its dotted name, what is declared of it, its value."""
    for field in dataclasses.fields(config):
        name, value, declared = f"{prefix}{field.name}", getattr(config, field.name), field.metadata["key"]
        declared = dataclasses.replace(declared, decides=declared.decides or decides)
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{name}.", declared.decides)
        else:
            yield name, declared, value


def flat(config: Any) -> dict[str, Any]:
    """The configuration as dotted key → value."""
    return {name: value for name, _, value in walk(config)}


def check_declared(config: Any) -> None:
    """A UserError for the first key that is none of its choices, or out of its bounds."""
    for name, declared, value in walk(config):
        words = declared.choices
        if words and value not in words:
            raise UserError(f"{name}: there is no '{value}'{near(value, words)}; there are {', '.join(words)}")
        if declared.bounds and value is not None:
            least, most = declared.bounds
            one: dict[Any, Any] = {None: value}
            several = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else one
            for place, number in several.items():
                if not least <= number <= most:  # not so for nan
                    where = name if place is None else f"{name}[{place}]"
                    raise UserError(f"{where}={number} is not between {least:g} and {most:g}")
