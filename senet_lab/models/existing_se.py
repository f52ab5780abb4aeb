"""Finds SE that a network already has as a module, ours or another library's.

A module counts as SE if it is of our class, has one of the usual names, or computes its input times a function of its
pooled input (`operators.py`). Names of whole networks and blocks (SENet, SEBottleneck) do not count: they may be the
plain one of a pair.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from senet_lab.models.copies import shadow_of
from senet_lab.models.gated import gates_in
from senet_lab.models.gates import SEBlock
from senet_lab.models.operators import OperatorLog, is_in

WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")  # of a name: SELayer1D is SE, Layer, D
KINDS = {"se", "scse", "cse", "ese"}
ENDINGS = {"module", "layer", "block", "gate", "gating", "unit", "attention", "attn", "att", "branch", "weight"}
ENDINGS |= {"channel", "spatial", "op", "operation", "with", "norm", "d", "v"}
NAMES = KINDS | {kind + ending for kind in KINDS for ending in ENDINGS}  # also in one word: seblock

PIXELS = 6  # sides of the maps that a module is tried on


def se_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Path → module, of all SE and all other gates that were put in; of one inside another (scSE has two parts) the
    outer one."""
    modules = gates_in(model)
    alike: dict[tuple[type[nn.Module], str], bool] = {}  # looked into once only
    for path, module in model.named_modules():
        if is_in(path, modules):
            continue
        kind = (type(module), repr(module))
        if kind not in alike:
            alike[kind] = is_se(module)
        if alike[kind]:
            modules[path] = module
    return modules


def is_se(module: nn.Module) -> bool:
    """Whether a module is SE. Its children are not searched."""
    if isinstance(module, SEBlock):
        return True
    if type(module).__module__.startswith("torch.nn.") or any(has_window(part) for part in module.modules()):
        return False
    if isinstance(module, torch.jit.ScriptModule):
        return is_called_se(module.original_name)
    if is_called_se(type(module).__name__):
        return True
    parts = (part for part in module.modules() if part is not module)
    if any(isinstance(part, SEBlock) or is_called_se(type(part).__name__) for part in parts):
        return False  # a part of it is, and what else it has is none of SE
    return gates_its_input(module)


def has_window(layer: nn.Module) -> bool:
    """Whether it is a convolution over more than single pixels, which SE has none of, but blocks and networks have."""
    return isinstance(layer, (nn.Conv2d, nn.Conv3d)) and max(layer.kernel_size) > 1


def is_called_se(name: str) -> bool:
    """Whether a class has one of the usual names: SELayer, SE_Block, SeModule, SEAttention2d, SqueezeExcitation, …"""
    if re.search(r"squeeze\w*excit", name, re.IGNORECASE):
        return True
    words = [word.lower() for word in WORDS.findall(name)]
    last = max((at for at, word in enumerate(words) if word in NAMES), default=None)
    return last is not None and all(word in ENDINGS for word in words[last + 1 :])


def gates_its_input(module: nn.Module) -> bool:
    """Whether a module multiplies its input by a function of its pooled input, as shown by a run on maps of usual
    shapes."""
    layers = [part for part in module.modules() if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))]
    weighted = layers or any(weight.dim() > 1 for weight in module.parameters(recurse=False))
    if not weighted or type(module).forward in (nn.Module.forward, nn.Sequential.forward):
        return False
    dtype = next((weight.dtype for weight in module.parameters() if weight.is_floating_point()), None)
    widths: list[int] = [getattr(one, "in_channels", getattr(one, "in_features", 8)) for one in layers[:1]]
    try:
        watch = OperatorLog(shadow_of(module).eval())
    except Exception:  # a module that cannot be copied shows nothing
        return False
    for width in dict.fromkeys([*widths, 8]):  # one whose layers take any width (ECA) tells none
        for axes in (2, 1, 3):
            try:
                with torch.no_grad():
                    watch.run(torch.empty(2, width, *[PIXELS] * axes, dtype=dtype, device="meta"))
            except Exception:  # it takes something else
                continue
            if any(gate.pooled and gate.map_ == -1 for gate in watch.gates):
                return True
    return False
