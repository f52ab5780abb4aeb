"""Reads state dicts from checkpoints and files, in the layouts of common training scripts."""

from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

# What training scripts (timm's, torchvision's) keep beside the weights: their words. Making one of these runs nothing.
HARMLESS: list[Any] = [argparse.Namespace, pathlib.PosixPath]
AVERAGED = re.compile(r"ema|swa|averag", re.IGNORECASE)  # in the names of entries that hold averaged weights
USUAL = ("state_dict", "model", "model_state_dict", "module", "net")  # of several entries with weights, the first


def state_dict_in(weights: Mapping[str, Any] | str | Path, averaged: bool = False) -> tuple[Mapping[str, Tensor], str]:
    """The state dict that `weights` is, holds, or names the file of; and the entry that it was in, if it was in any.

    Args:
        weights: a state dict, a checkpoint, or the path of one.
        averaged: whether the averaged weights are wanted.

    Raises:
        ValueError: if there is none, none that is averaged, or several.
    """
    what = "what was given" if isinstance(weights, Mapping) else str(weights)
    held = weights if isinstance(weights, Mapping) else read_weights(Path(weights))
    if is_state_dict(held):
        if averaged and "n_averaged" not in held:
            raise ValueError(f"weights: {what} has no averaged weights, but one state dict")
        return held, ""
    sets = entries_of(held) if isinstance(held, Mapping) else {}
    wanted = {name: state for name, state in sets.items() if bool(AVERAGED.search(name)) == averaged}
    usual = [name for name in wanted if name.partition(".")[0] in USUAL]
    first = sorted(usual, key=lambda name: USUAL.index(name.partition(".")[0]))[:1]
    names = first or list(wanted)
    if len(names) == 1:
        return wanted[names[0]], names[0]
    if not sets:
        raise ValueError(f"weights: {what} is no state dict (keys and tensors)")
    kind = "averaged weights" if averaged else "weights that are not averaged"
    which = f"several {kind}, {', '.join(names)}: give one" if names else f"no {kind}, but {', '.join(sets)}"
    raise ValueError(f"weights: {what} has {which}")


def is_state_dict(held: Any) -> bool:
    return isinstance(held, Mapping) and bool(held) and all(isinstance(tensor, Tensor) for tensor in held.values())


def entries_of(held: Mapping[str, Any]) -> dict[str, Mapping[str, Tensor]]:
    """Entry → state dict, of a checkpoint; of what is wrapped once more, `ema.module`."""
    entries = {str(name): value for name, value in held.items() if is_state_dict(value)}
    for name, value in held.items():
        if isinstance(value, Mapping) and str(name) not in entries:
            entries |= {f"{name}.{inner}": value[inner] for inner in USUAL if is_state_dict(value.get(inner))}
    return entries


def without_prefixes(given: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Without the first words that all keys share, as many of them as make the most keys `names`; and without the
    number of weights in an average."""
    own = set(names)
    found = {key: tensor for key, tensor in given.items() if key != "n_averaged" or key in own}
    levels = [found]
    while found and all("." in key for key in found) and len({key.partition(".")[0] for key in found}) == 1:
        found = {key.partition(".")[2]: tensor for key, tensor in found.items()}
        levels.append(found)
    return max(levels, key=lambda level: len(level.keys() & own))


def read_weights(path: Path) -> Any:
    """Read a file of weights, on the CPU. Nothing in it is executed.

    Raises:
        ValueError: if it is not there, cannot be read, or holds more than weights.
    """
    if not path.is_file():
        raise ValueError(f"weights: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what another kind of file makes of the readers has no common class
        raise ValueError(f"weights: {path} is no file of weights, is damaged, or holds more than weights") from error
