"""The lab from Python, in a notebook or a script: the same words as on the command line, and the same records.

    import senet_lab as lab

    study = lab.study("ratio", data="digits", seeds=3)
    study.plan()     # rows, costs, what is recorded, how long the rest takes
    study.run()      # trains what is missing
    study.table()    # with verdicts

What `python -m senet_lab.run` has trained is not trained here again, nor the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet_lab.config import UserError
from senet_lab.notebook_study import NotebookSearch, NotebookStudy

if TYPE_CHECKING:
    from torch import nn

    from senet_lab.studies.bench import Bench

Network = str | Callable[..., "nn.Module"]
FUNCTIONS = ("backbone", "data", "data.name", "se.kind", "recipe.loss", "recipe.optimizer")  # keys that take a function


def study(name: str, *words: str, **settings: Any) -> NotebookStudy:
    """A study of `sweeps/ablation`, with settings as on the command line.

    Args:
        name: of the study, such as "ratio" (`python -m senet_lab.run --help` lists them), or "+vary=KEY" with
            `levels=[…]`.
        words: further words as they stand on the command line: "se.reduction=8".
        settings: keys and values: `seeds=3`, `backbone="resnet20"`, `recipe={"epochs": 30, "lr": 0.05}`. A network, a
            gate (`se={"kind": Gate}`), a loss and an optimiser may be the function or class itself, and a data set a
            pair of a training and a test set (`ablate`).

    Raises:
        UserError: for the first word that is wrong, in one line.

    Example:
        >>> lab.study("ratio", data="cifar10", backbone="resnet20", seeds="settle", margin=0.3).plan()
    """
    return NotebookStudy([name if "=" in name else f"+ablation={name}", *words, *as_words(settings)])


def ablate(
    network: Network, factors: Mapping[str, Sequence[Any]], *words: str, data: Any = "digits", **settings: Any
) -> NotebookStudy:
    """A study without a file: a network of yours, and the levels of what is to be compared.

    Args:
        network: name of a backbone, `package.module:function`, or the function itself: called with `num_classes` (and
            `in_channels`, if it has that parameter) it returns the plain network. One that is defined in a notebook is
            kept with its source beside the records, because workers and later sessions need it.
        factors: key → its levels, such as `{"recipe.lr": [0.05, 0.1, 0.2]}` or `{"se.kind": ["se", Gate]}`; several
            keys are a grid of all combinations. SE is put into the network only where a factor, a word or a setting
            speaks of `se`.
        words, settings: as in `study`.
        data: name of a data set, or a pair (training set, test set): each with `__len__` and `__getitem__` → image and
            label, or two arrays, images and labels; or a function that returns such a pair.

    Raises:
        UserError: for the first word that is wrong, a function whose source cannot be kept, and images that are not
            alike, in one line.

    Example:
        >>> lab.ablate(build, {"recipe.lr": [0.05, 0.1]}, data=(train_set, test_set), seeds=5).run().table()
    """
    from senet_lab.naming import word_text

    results = results_of(settings)
    keys, levels = list(factors), [plain(key, list(each), results) for key, each in factors.items()]
    single = len(keys) == 1
    varied = [f"+vary={keys[0] if single else word_text(keys)}", f"levels={word_text(levels[0] if single else levels)}"]
    asked = [*factors, *settings, *(word.lstrip("+") for word in words)]
    bare = {} if any(re.match(r"se\b", each) for each in asked) else {"se": None}
    return NotebookStudy([*varied, *words, *as_words({"backbone": network, "data": data, **bare, **settings})])


def search(name: str = "design", *words: str, **settings: Any) -> NotebookSearch:
    """A search of `sweeps/search`, with settings as on the command line.

    Example:
        >>> lab.search("design", budget={"params": "1.02x"}).run().front()
    """
    return NotebookSearch([f"+search={name}", *words, *as_words(settings)])


def bench(name: str | Path) -> Bench:
    """A benchmark of designs, in which a table of every design of a space answers in place of a training.

    Args:
        name: of one that comes with the lab, or the folder of a search with `search.sampler=enumerate`.

    Raises:
        UserError: for a name that is not known, or a folder that holds no such search, in one line.

    Example:
        >>> lab.bench("digits-resnet8").query({"se.reduction.2": 4, "se.position": "pre"}, epoch=12)["val_error"]
    """
    from senet_lab.studies.bench_files import open_bench

    return open_bench(name)


def as_words(settings: Mapping[str, Any]) -> list[str]:
    """Keyword arguments as words: {"recipe": {"epochs": 2}, "seeds": 3} → recipe.epochs=2, seeds=3."""
    from senet_lab.naming import word_text

    results = results_of(settings)
    return [f"{key}={word_text(plain(key, value, results))}" for key, value in dotted(settings)]


def dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; arguments of something, `se.args` say, and `recipe.lr_parts` are one value."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and not name.endswith(("args", "parts")):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def plain(key: str, value: Any, results: Path) -> Any:
    """A value of a key as a word can say it: functions and images by the names under which they are kept.

    Raises:
        UserError: for what no word can say.
    """
    from senet_lab.notebook import kept_images, kept_source

    if key in FUNCTIONS and callable(value):
        return kept_source(key, value, results)
    if key in ("data", "data.name") and isinstance(value, tuple) and len(value) == 2:
        return kept_images(value, results)
    if isinstance(value, Path):
        return str(value)
    value = value.tolist() if hasattr(value, "tolist") else value  # numbers and arrays of NumPy
    if isinstance(value, Mapping):
        return {name: plain(f"{key}.{name}", each, results) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(key, each, results) for each in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise UserError(
        f"{key}: a {type(value).__name__} is no value of it; functions and classes are of {', '.join(FUNCTIONS)}"
    )


def results_of(settings: Mapping[str, Any]) -> Path:
    """The folder of results, beside which sources are kept."""
    return Path(str(settings.get("results", "results/local")))
