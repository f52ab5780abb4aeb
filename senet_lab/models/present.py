"""SE that a network has already, ours or another's: the one notion of it, which `add_se` and `cost` share.

A module is SE by its class, if that is our own; by its name, if that is one of the usual ones; or by what it computes:
its input times a function of its pooled self. Names of whole networks and of their blocks (SENet, SEBottleneck) say
nothing: who is called so may be the plain one of a pair.

What a module computes is seen by running it without weights: a gate is a factor that is one number a channel, and
that autograd traces back, through at least one layer, to the map that it multiplies. So neither its code nor its
functions matter, and a norm, whose factor comes from the map without a layer, is no gate.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

from senet_lab.models.gates import SEBlock
from senet_lab.models.structure import is_inside
from senet_lab.models.trying import copied

WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")  # of a name: SELayer1D is SE, Layer, D
KINDS = {"se", "scse", "cse", "ese"}
ENDINGS = {"module", "layer", "block", "gate", "gating", "unit", "attention", "attn", "att", "branch", "weight"}
ENDINGS |= {"channel", "spatial", "op", "operation", "with", "norm", "d", "v"}
NAMES = KINDS | {kind + ending for kind in KINDS for ending in ENDINGS}  # also in one word: seblock

PIXELS = 6
LAYERS = ("Convolution", "Addmm", "Mm", "Bmm", "Mv")  # what autograd calls them
SAME = ("View", "Reshape", "UnsafeView", "Expand", "Clone", "Alias", "ToCopy", "Permute", "Transpose")
MULTIPLICATIONS = (torch.ops.aten.mul.Tensor, torch.ops.aten.mul_.Tensor)


def se_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Path → module, of all SE in a network; of one inside another (scSE has two parts) the outer one."""
    found: dict[str, nn.Module] = {}
    alike: dict[tuple[type[nn.Module], str], bool] = {}  # looked into once only
    for path, module in model.named_modules():
        if any(is_inside(path, outer) for outer in found):
            continue
        kind = (type(module), repr(module))
        if kind not in alike:
            alike[kind] = is_se(module)
        if alike[kind]:
            found[path] = module
    return found


def is_se(module: nn.Module) -> bool:
    """Whether a module is SE; what is in it is not looked for."""
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
    """Whether a module multiplies its input by a function of its pooled self, as far as maps of usual shapes show."""
    layers = [part for part in module.modules() if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))]
    weighted = layers or any(weight.dim() > 1 for weight in module.parameters(recurse=False))
    if not weighted or type(module).forward in (nn.Module.forward, nn.Sequential.forward):
        return False
    dtype = next((weight.dtype for weight in module.parameters() if weight.is_floating_point()), None)
    widths: list[int] = [getattr(one, "in_channels", getattr(one, "in_features", 8)) for one in layers[:1]]
    try:
        shadow = copied(module, lambda tensor: tensor.to("meta")).eval()
    except Exception:  # a module that cannot be copied shows nothing
        return False
    for width in dict.fromkeys([*widths, 8]):  # one whose layers take any width (ECA) tells none
        for axes in (2, 1, 3):
            with Gates() as gates, torch.inference_mode(False), torch.enable_grad():
                sides = [PIXELS] * axes
                image = torch.empty(2, width, *sides, dtype=dtype, device="meta", requires_grad=True).clone()
                source = origin(image)
                try:
                    shadow(image)
                except Exception:  # it takes something else
                    continue
            if any(source is map_ for map_, _ in gates.maps):
                return True
    return False


class Gates(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices what is multiplied by a function of its pooled self, in two images at once.

    Attributes:
        maps: what gave the maps that were multiplied, for autograd; and the modules that multiplied them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.maps: list[tuple[Node, nn.Module | None]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in MULTIPLICATIONS and isinstance(args[1], Tensor):
            for map_, gate in (args, args[::-1]):
                source = origin(map_)
                if is_one_a_channel(gate, map_) and source is not None and comes_from(gate, source):
                    self.maps.append((source, running_module()))
        return func(*args, **(kwargs or {}))


def running_module() -> nn.Module | None:
    """The module whose code runs at the moment."""
    frame = inspect.currentframe()
    while frame is not None:
        first = frame.f_locals.get(next(iter(frame.f_code.co_varnames), ""))
        if isinstance(first, nn.Module):
            return first
        frame = frame.f_back
    return None


def is_one_a_channel(gate: Tensor, map_: Tensor) -> bool:
    """Whether one factor has one number for each image and channel, and the other has many."""
    if gate.dim() != map_.dim() or gate.dim() < 3 or gate.shape[0] != map_.shape[0] or gate.shape[0] == 1:
        return False
    sides = zip(gate.shape[1:], gate.stride()[1:], map_.shape[1:], strict=True)
    of_channels = [size == many for size, stride, many in sides if many == 1 or (size > 1 and stride != 0)]
    return of_channels == [True] and max(map_.shape[1:]) > 1


def origin(map_: Tensor) -> Node | None:
    """What gave a map, whatever its shape was then."""
    node = map_.grad_fn
    while node is not None and node.name().startswith(SAME) and node.next_functions:
        node = node.next_functions[0][0]
    return node


def comes_from(gate: Tensor, source: Node) -> bool:
    """Whether a gate is computed from a map with a layer in between."""
    waiting: list[tuple[Node | None, bool]] = [(gate.grad_fn, False)]
    seen = set()
    while waiting:
        node, layer = waiting.pop()
        if node is None or (node, layer) in seen:
            continue
        seen.add((node, layer))
        if node is source:
            if layer:
                return True
            continue
        layer = layer or node.name().startswith(LAYERS)
        waiting += [(before, layer) for before, _ in node.next_functions]
    return False
