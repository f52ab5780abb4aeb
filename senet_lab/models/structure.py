"""Finds residual blocks that no table lists by what they compute, and where a gate goes in them.

A module is taken for a residual block if its forward, traced symbolically by torch.fx, reads

    y = tail(shortcut(x) + branch(x))

- x and y are one tensor each, other arguments are left at their defaults, and the trace is the same in training and in
  evaluation;
- the sum is the last one in the forward, and the tail (usually a ReLU, or nothing) has no convolution or linear layer;
- the branch is the summand with more convolutions, at least one; the shortcut has one at most; both have one shape, and
  are not both products with one value, as in x a(x) + x b(x);
- what both begin with (pre-activation's first norm and ReLU) has no convolution;
- no other residual block is inside, and all modules of its class in the network are such blocks.

Names are not used. Where a gate goes in such a block:

- standard: after the module that ends the branch; dropout, stochastic depth and identities are stepped over backwards;
  where a function ends it (a scale of each channel), before the first of these;
- pre: before the module that the branch begins with, behind what it shares with the shortcut;
- post: after the block;
- identity: after the module that ends the shortcut, or in place of an attribute that is None and called where it is not
  (as torchvision's and timm's `downsample`);
- conv3x3: before the convolution that follows the first one larger than 1×1, where those of the branch form a chain.

If a function instead of a module is at that place, or the module is called twice, there is no slot. Every slot is
checked before it is used: a copy of the block with random weights and random gates in the slot must compute what its
traced formula computes with these gates and, with gates of 1, what it computed before, bit for bit (`checked_width`).
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd
from torchvision.ops import stochastic_depth

from senet_lab.config import first_line
from senet_lab.models.copies import shadow_of
from senet_lab.models.site_check import PIXELS, Site, Slot
from senet_lab.models.tracing import (
    NoBlockError,
    Sum,
    ancestors,
    built_like,
    has_products,
    is_addition,
    is_layer,
    output_of,
    sum_of,
    trace,
)

IDLE_FUNCTIONS: tuple[Any, ...] = (F.dropout, F.dropout2d, stochastic_depth)  # they do nothing in evaluation


@dataclass(frozen=True)
class Residual:
    """A residual block that was found.

    Attributes:
        block: without weights.
        sites: position → where its gate goes.
        width: channels of the input.
    """

    block: nn.Module
    sites: Mapping[str, Site]
    width: int


def residual_blocks(model: nn.Module, skip: Callable[[nn.Module], bool]) -> tuple[dict[str, Residual], dict[str, str]]:
    """Path → residual block, for those that are found by structure, and class → why a module of it is none.

    Args:
        model: any network; it is left as it is.
        skip: whether a module is known already; neither what it is in nor what is in it can be a block, then.

    Raises:
        ValueError: if some modules of a class are residual blocks and others are not.
    """
    scripted = [path for path, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    refused = {
        path: NoBlockError("it is a module of torch.jit, which cannot be looked into")
        for path in scripted
        if not any(is_inside(path, other) for other in scripted)
    }
    known = [path for path, module in model.named_modules() if skip(module)]
    candidates = [
        path
        for path, module in model.named_modules()
        if path not in scripted
        and type(module).forward not in (nn.Module.forward, nn.Sequential.forward)
        and any(isinstance(part, _ConvNd) for part in module.modules())
        and not is_layer(module)
        and not any(path == other or is_inside(path, other) or is_inside(other, path) for other in known)
    ]
    if not candidates and not scripted:
        return {}, {}
    try:
        shadow = shadow_of(model)
    except Exception as error:  # a module that cannot be copied, such as one that waits for its first input
        raise ValueError(
            f"the model cannot be copied to be looked into ({first_line(error)}): name modules by where="
        ) from error
    found = looked_into(shadow, candidates)
    blocks = {path: each for path, each in found.items() if isinstance(each, Residual)}
    refused |= {path: each for path, each in found.items() if isinstance(each, NoBlockError)}
    inner = {path: each for path, each in blocks.items() if not any(is_inside(other, path) for other in blocks)}
    why = {path: str(error) for path, error in refused.items()}
    why |= {path: "another one is inside" for path in blocks if path not in inner}
    for one, each in inner.items():
        kind = type(each.block)
        other = next((path for path in why if type(shadow.get_submodule(path)) is kind), None)
        if other is not None:
            raise ValueError(
                f"{one} is a residual block and {other}, of the same class {kind.__name__}, is none "
                f"({why[other]}): name what takes a gate by where="
            )
    taken = [*inner, *known]
    reasons = {
        getattr(module := shadow.get_submodule(path), "original_name", type(module).__name__): str(error)
        for path, error in refused.items()
        if error.adds and not any(is_inside(other, path) for other in taken)
    }
    return inner, reasons


def looked_into(net: nn.Module, paths: Sequence[str]) -> dict[str, Residual | NoBlockError]:
    """What the module at each path is; of those that are built alike one is looked into."""
    alike: dict[tuple[Any, ...], Residual | NoBlockError] = {}
    found = {}
    for path in paths:
        built = built_like(net.get_submodule(path))
        if built not in alike:
            try:
                alike[built] = residual(net.get_submodule(path))
            except NoBlockError as error:
                alike[built] = error
        found[path] = alike[built]
    return found


def residual(block: nn.Module) -> Residual:
    """The block's structure; a NoBlockError if it is no residual block. The block may be without weights."""
    needed = [
        each
        for each in inspect.signature(block.forward).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if len(needed) > 1:
        adds = any(map(is_addition, trace(block, lambda module, path: True, len(needed)).nodes))
        raise NoBlockError(f"its forward takes {len(needed)} arguments", adds)
    modes = [sites_of(block.train(training)) for training in (True, False)]
    if len({tuple((position, site.slot) for position, site in sites.items()) for sites, _ in modes}) > 1:
        raise NoBlockError("it computes something else in training than in evaluation")
    sites, sum_ = modes[-1]
    modules = dict(block.named_modules())
    called = [modules[str(node.target)] for node in sum_.graph.nodes if node.op == "call_module"]
    widths = [width_in(part) for module in called for part in module.modules()]
    width = next((width for width in widths if width is not None), None)
    if width is None:
        raise NoBlockError("no convolution or norm tells how many channels it takes")
    check_shapes(block, sum_, width)
    return Residual(block, sites, width)


def check_shapes(block: nn.Module, sum_: Sum, width: int) -> None:
    """A NoBlockError if one summand is broadcast over the other, as one number a channel is in attention."""
    weight = next(block.parameters())
    run = fx.Interpreter(block, garbage_collect_values=False, graph=sum_.graph)
    try:
        with torch.no_grad():
            run.run(torch.zeros(1, width, PIXELS, PIXELS, dtype=weight.dtype, device=weight.device))
        shapes = [run.env[node].shape for node in (sum_.branch, sum_.shortcut)]
    except Exception as error:  # whatever a block makes of an image of this size
        raise NoBlockError(
            f"it does not take an image of {width} × {PIXELS} × {PIXELS}: {first_line(error)}"
        ) from error
    if shapes[0] != shapes[1]:
        raise NoBlockError("its summands are not of one shape")


def sites_of(block: nn.Module) -> tuple[dict[str, Site], Sum]:
    """Position → site, and the sum in a trace that looks into all children but the shortcut; in the block's current
    mode."""
    outer = sum_of(block, trace(block, lambda module, path: True))
    whole = {node.target for node in outer.on_shortcut if node.op == "call_module"}
    try:
        inner = sum_of(block, trace(block, lambda module, path: path in whole or is_layer(module)))
    except NoBlockError:  # a child that cannot be looked into
        inner = outer
    if has_products(block):
        raise NoBlockError("its summands are both products with the same value")
    ends = {"standard": end_of_branch(block, inner), "pre": start_of_branch(block, inner)}
    ends["post"] = Site(Slot("", "after"), output_of(inner.graph).all_input_nodes[0], output_of(inner.graph))
    ends["identity"] = end_of_shortcut(block, outer, inner)
    ends["conv3x3"] = after_first_3x3(block, inner)
    return {position: site for position, site in ends.items() if site is not None}, inner


def is_inside(path: str, root: str) -> bool:
    return path != root and (not root or path.startswith(f"{root}."))


def width_in(layer: nn.Module) -> int | None:
    """The channels that a convolution or norm takes; None for others."""
    for name in ("in_channels", "num_features", "num_channels"):
        width = getattr(layer, name, None)
        if isinstance(width, int):
            return width
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Where gates go.


def module_of(sum_: Sum, node: fx.Node) -> str | None:
    """The path of the module that a step calls, if no other step calls it."""
    calls = [each for each in sum_.graph.nodes if each.op == "call_module" and each.target == node.target]
    return str(node.target) if calls == [node] else None


def end_of_branch(block: nn.Module, sum_: Sum) -> Site | None:
    node, idle = sum_.branch, None
    while is_idle(block, node) and len(node.users) == 1:
        node, idle = node.all_input_nodes[0], node
    if node not in sum_.on_branch or len(node.users) != 1:
        return None
    path = module_of(sum_, node)
    if path is not None:
        return Site(Slot(path, "after"), sum_.branch, sum_.node)
    path = module_of(sum_, idle) if idle is not None else None  # behind a function: a scale, a change of the axes
    return None if path is None else Site(Slot(path, "before"), sum_.branch, sum_.node)


def start_of_branch(block: nn.Module, sum_: Sum) -> Site | None:
    mine = sum_.on_branch
    first = [node for node in sum_.graph.nodes if node in mine and not mine.issuperset(node.all_input_nodes)]
    path = module_of(sum_, first[0]) if len(first) == 1 and len(first[0].all_input_nodes) == 1 else None
    return None if path is None else Site(Slot(path, "before"), first[0].all_input_nodes[0], first[0])


def end_of_shortcut(block: nn.Module, outer: Sum, sum_: Sum) -> Site | None:
    node = sum_.shortcut
    if node in sum_.on_shortcut:
        path = module_of(sum_, node)
        return Site(Slot(path, "after"), node, sum_.node) if path is not None and len(node.users) == 1 else None
    for name in [*vars(block), *block._modules]:
        if name.startswith("_") or getattr(block, name, block) is not None:
            continue
        setattr(block, name, nn.Identity())
        try:
            then = sum_of(block, trace(block, lambda module, path: True))
            takes = [given.name for given in then.shortcut.all_input_nodes]
            if module_of(then, then.shortcut) == name and takes == [outer.shortcut.name]:
                return Site(Slot(name, "after"), node, sum_.node)
        except NoBlockError:
            pass
        finally:
            delattr(block, name)
            setattr(block, name, None)
    return None


def after_first_3x3(block: nn.Module, sum_: Sum) -> Site | None:
    modules = dict(block.named_modules())
    layers = [node for node in sum_.graph.nodes if node in sum_.on_branch and node.op == "call_module"]
    convs = [(node, conv) for node in layers if isinstance(conv := modules[str(node.target)], _ConvNd)]
    chain = all(one in ancestors(two) for (one, _), (two, _) in itertools.pairwise(convs))
    large = [number for number, (_, conv) in enumerate(convs) if max(conv.kernel_size) > 1]
    if not chain or not large or large[0] + 1 == len(convs):
        return None
    node, _ = convs[large[0] + 1]
    path = module_of(sum_, node)
    return None if path is None else Site(Slot(path, "before"), node.all_input_nodes[0], node)


def is_idle(block: nn.Module, node: fx.Node) -> bool:
    """Whether a step does nothing in evaluation: an identity, dropout, stochastic depth."""
    if node.op == "call_function":
        return node.target in IDLE_FUNCTIONS
    if node.op != "call_module" or len(node.all_input_nodes) != 1:
        return False
    module = copy.deepcopy(block.get_submodule(str(node.target))).eval()
    if any(True for _ in [*module.parameters(), *module.buffers()]):
        return False
    x_BCHW = torch.linspace(-2, 2, 2 * 3 * 4 * 4, device="cpu").view(2, 3, 4, 4)
    try:
        return torch.equal(module(x_BCHW.clone()), x_BCHW)
    except Exception:  # it takes something else
        return False
