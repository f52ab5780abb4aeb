"""Finds the modules that a user names for gates, in any network, and how many channels they give."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from senet_lab.config import first_line
from senet_lab.models.copies import has_forward, shadow_of
from senet_lab.models.structure import is_inside

PIXELS = (224, 256)  # sides of the images whose way through the network tells widths


def matches(model: nn.Module, where: str | Sequence[str]) -> list[str]:
    """The paths that the patterns match, in the network's order.

    Raises:
        ValueError: for a pattern that matches nothing, for modules of which one is in another, for containers that
            compute nothing.
    """
    patterns = [where] if isinstance(where, str) else list(where)
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ValueError(f"where: {where!r} is not a pattern such as features.*.conv, or a list of them")
    paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    found = set()
    for pattern in patterns:
        fitting = [path for path in paths if fits(path, pattern)]
        if not fitting:
            raise ValueError(f"where: no module is called {pattern}; {nearest_names(paths, pattern)}")
        found |= set(fitting)
    chosen = [path for path in paths if path in found]
    for path in chosen:
        module = model.get_submodule(path)
        if not has_forward(module):
            raise ValueError(f"where: {path} is a {type(module).__name__}, which computes nothing; name what is in it")
        inner = next((other for other in chosen if is_inside(other, path)), None)
        if inner is not None:
            raise ValueError(f"where: {inner} is inside {path}, and each would get a gate; name one of them")
    return chosen


def fits(path: str, pattern: str) -> bool:
    """Whether a path is what a pattern describes, name by name."""

    def rest_fits(names: Sequence[str], words: Sequence[str]) -> bool:
        if not words:
            return not names
        if words[0] == "**":
            return rest_fits(names, words[1:]) or (len(names) > 0 and rest_fits(names[1:], words))
        return len(names) > 0 and fnmatchcase(names[0], words[0]) and rest_fits(names[1:], words[1:])

    return rest_fits(path.split("."), pattern.split("."))


def nearest_names(paths: Sequence[str], pattern: str) -> str:
    """The names that exist below the longest beginning of the pattern that matches."""
    words = pattern.split(".")
    for length in range(len(words) - 1, 0, -1):
        beginning = ".".join(words[:length])
        above = [path for path in paths if fits(path, beginning)]
        if above:
            below = dict.fromkeys(path.rpartition(".")[2] for path in paths if path.rpartition(".")[0] in above)
            return f"in {beginning} there is {comma_list(list(below)) or 'nothing'}"
    return f"there is {comma_list([path for path in paths if '.' not in path])}"


def comma_list(words: Sequence[str]) -> str:
    return ", ".join(words[:8]) + (", …" if len(words) > 8 else "")


def widths_of(model: nn.Module, paths: Sequence[str]) -> dict[str, int]:
    """Path → output channels of the module: as it declares them, or as images on the meta device show.

    Raises:
        ValueError: for a module that is not reached, or gives something else than maps of channels.
    """
    widths = {path: width_out(model.get_submodule(path)) for path in paths}
    unknown = [path for path, width in widths.items() if width is None]
    shown = shown_widths(model, unknown) if unknown else {}
    return {path: shown[path] if width is None else width for path, width in widths.items()}


def width_out(layer: nn.Module) -> int | None:
    """The channels that a convolution or norm of images gives; None for others."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        return layer.out_channels
    return layer.num_features if isinstance(layer, (nn.BatchNorm2d, nn.InstanceNorm2d)) else None


def shown_widths(model: nn.Module, paths: Sequence[str]) -> dict[str, int]:
    """Path → channels, from images of two sizes: what is the same in both is not their height."""
    shadow = shadow_of(model).eval()
    channels = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3)
    dtype = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), None)
    seen: dict[str, list[Any]] = {path: [] for path in paths}
    for path in paths:
        if isinstance(model.get_submodule(path), torch.jit.ScriptModule):
            raise ValueError(
                f"where: {path} is a module of torch.jit, which tells nothing of its channels: name another"
            )
        shadow.get_submodule(path).register_forward_hook(
            lambda module, given, output, path=path: seen[path].append(output)
        )
    fault = "it has no part in what the network computes"
    counts = []
    for pixels in PIXELS:
        try:
            with torch.no_grad():
                shadow(torch.empty(1, channels, pixels, pixels, dtype=dtype, device="meta"))
        except Exception as error:  # of what comes later, perhaps: what was seen until then will do
            fault = first_line(error)
        counts.append({path: len(outputs) for path, outputs in seen.items()})
    for path, outputs in seen.items():
        if counts[0][path] == 0 or counts[1][path] == counts[0][path]:
            raise ValueError(
                f"where: images of {channels} × {PIXELS[0]} × {PIXELS[0]} and × {PIXELS[1]} × {PIXELS[1]} do not both "
                f"reach {path}, so nothing tells its channels: {fault}"
            )
        if not all(isinstance(output, Tensor) and output.dim() == 4 for output in outputs):
            raise ValueError(f"where: {path} gives {output_text(outputs[0])}, not images (B × C × H × W)")
        if len({output.shape[1] for output in outputs}) > 1:
            raise ValueError(f"where: {path} gives {output_text(outputs[0])}, whose second axis is not its channels")
    return {path: int(outputs[0].shape[1]) for path, outputs in seen.items()}


def output_text(output: Any) -> str:
    return " × ".join(map(str, output.shape)) if isinstance(output, Tensor) else f"a {type(output).__name__}"
