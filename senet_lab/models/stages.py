"""The stages of a network in the paper's numbering: by the names of its modules, or as the network declares them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import nn


def declare_stages(net: nn.Module, stage_roots: Mapping[int, Sequence[str]], se_places: Mapping[str, int]) -> nn.Module:
    """Declare on `net` what its stages are (`stage_of`) and where its gates go (`declared_places`); returns it."""
    vars(net).update(stage_roots=dict(stage_roots), se_places=dict(se_places))
    return net


def declared_places(model: nn.Module) -> Mapping[str, int] | None:
    """Where a network declares that its gates go, by an attribute `se_places`: path of the module before the gate →
    channels of the gate. None without a declaration. The stages of these modules are those of `stage_of`."""
    return getattr(model, "se_places", None)


def stage_of(model: nn.Module, path: str) -> int | None:
    """The stage that a module or parameter of `model` is in, in the paper's numbering; None outside the stages.

    A network may declare its stages by an attribute `stage_roots`: stage → paths of its modules. Otherwise names tell:
    layer1 (torchvision's, and ours) and stages.0 (timm's) are stage 2.
    """
    roots: Mapping[int, Sequence[str]] | None = getattr(model, "stage_roots", None)
    if roots is not None:
        inside = (stage for stage, paths in roots.items() if any(f"{path}.".startswith(f"{root}.") for root in paths))
        return next(inside, None)
    match = re.search(r"(?:^|\.)(layer|stages\.)(\d+)(?:\.|$)", path)
    return None if match is None else int(match[2]) + (1 if match[1] == "layer" else 2)
