"""Parts of a network by patterns of names: those that do not train (`training.freeze`), and those that learn at another
rate (`recipe.lr_parts`).

A pattern is one of a shell (`fnmatch`), in which `*` is any text, dots included. It names modules, each with all that
is in it, or weights: `layer1`, `layer[12].*`, `*.bias`. Names are those of the plain network: a layer is called the
same with a gate and without. A gate is a part of its own, `se` below the layer that it is put after or before
(`layer1.0.bn3.se`), and only patterns with the word `se` take gates (`*.se`). So a pattern means the same weights in
all rows of a study.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn

from senet_lab.models.gated import Gated, gates_in

FREEZE, RATES = "training.freeze", "recipe.lr_parts"


def check_parts(net: nn.Module, frozen: Iterable[str], factors: Mapping[str, float]) -> None:
    """A ValueError for patterns with which the network cannot be trained, as of `freeze` and `rates`."""
    frozen_paths(net, frozen)
    rates(net, factors)


def freeze(net: nn.Module, patterns: Iterable[str]) -> None:
    """Have the weights that the patterns name require no gradient, and put their norms into evaluation mode, so that
    statistics stay as they are: norms in modules that are named, and those of which all weights are.

    Raises:
        ValueError: for a pattern that names nothing, and if no weight is left to train.
    """
    taken = frozen_paths(net, patterns)
    for path, weight in net.named_parameters():
        if path in taken:
            weight.requires_grad_(False)
    for path, module in net.named_modules():
        own = {f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
        has_statistics = any(name == "running_mean" for name, _ in module.named_buffers(recurse=False))
        if has_statistics and (path in taken or (own and own <= taken)):
            module.eval()


def frozen_paths(net: nn.Module, patterns: Iterable[str]) -> set[str]:
    """Paths of all modules and weights that the patterns name; a ValueError as of `freeze`."""
    taken = set[str]().union(*(paths_of(net, pattern, FREEZE) for pattern in patterns))
    if taken and not any(weight.requires_grad and path not in taken for path, weight in net.named_parameters()):
        raise ValueError(f"{FREEZE}: it leaves no weight to train")
    return taken


def rates(net: nn.Module, factors: Mapping[str, float]) -> dict[nn.Parameter, float]:
    """What the learning rate of a weight is multiplied by, for those weights that a pattern names.

    Raises:
        ValueError: for a pattern that names nothing, and for a weight that two patterns name.
    """
    weights, named_by = dict(net.named_parameters()), dict[str, str]()
    for pattern in factors:
        for path in paths_of(net, pattern, RATES) & weights.keys():
            if path in named_by:
                raise ValueError(f"{RATES}: '{named_by[path]}' and '{pattern}' both name {path}; it is one of them")
            named_by[path] = pattern
    return {weights[path]: factors[pattern] for path, pattern in named_by.items()}


def paths_of(net: nn.Module, pattern: str, key: str) -> set[str]:
    """Paths of the modules and weights that a pattern names. One of gates may name none in a network without gates.

    Raises:
        ValueError: if it names no weight.
    """
    of_gates = "se" in re.split(r"\W+", pattern)
    names, gates = {"": ""}, set[str]()
    taken = {""} if pattern and fnmatchcase("", pattern) else set[str]()
    weights = [path for path, _ in net.named_parameters()]
    for path in [*(path for path, _ in net.named_modules() if path), *weights]:
        above, _, word = path.rpartition(".")
        gated = isinstance(net.get_submodule(above), Gated)
        names[path] = names[above] if gated and word == "body" else f"{names[above]}.{word}".lstrip(".")
        if above in gates or (gated and word == "se"):
            gates.add(path)
        if (above in taken or fnmatchcase(names[path], pattern)) and (of_gates or path not in gates):
            taken.add(path)
    if taken.isdisjoint(weights) and not (of_gates and not gates_in(net)):
        near = difflib.get_close_matches(pattern, names.values(), n=3, cutoff=0.5)
        hint = f" (near are {', '.join(near)})" if near else ""
        parts = ", ".join(dict.fromkeys(path.partition(".")[0] for path in weights))
        raise ValueError(f"{key}: '{pattern}' names no weight of the network{hint}; it consists of {parts}")
    return taken
