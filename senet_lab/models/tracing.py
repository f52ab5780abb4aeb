"""Traces a module's forward symbolically, and finds the sum that a residual block ends with."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from senet_lab.config import first_line

ADDITIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")

PRODUCTS: tuple[Any, ...] = (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply")


class NoBlockError(ValueError):
    """Why a module is no residual block. `adds` is False for modules that add nothing, which nobody would expect to be
    one."""

    def __init__(self, why: str, adds: bool = True) -> None:
        super().__init__(why)
        self.adds = adds


@dataclass(frozen=True)
class Sum:
    """The sum in a traced forward.

    Attributes:
        graph: the trace.
        node: the addition.
        branch: the summand that is the branch's last value.
        shortcut: the other one.
        on_branch: what is computed for the branch alone.
        on_shortcut: what is computed for the shortcut alone.
    """

    graph: fx.Graph
    node: fx.Node
    branch: fx.Node
    shortcut: fx.Node
    on_branch: frozenset[fx.Node]
    on_shortcut: frozenset[fx.Node]


class Tracer(fx.Tracer):
    """Traces a forward of one argument, others at their defaults; modules of which `whole(module, path)` holds are
    single steps."""

    def __init__(self, whole: Callable[[nn.Module, str], bool], arguments: int = 1) -> None:
        super().__init__()
        self.whole = whole
        self.arguments = arguments

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        values = [self.create_proxy("placeholder", f"x{number}", (), {}) for number in range(self.arguments)]
        return root_fn, [self.root, *values]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self.whole(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            self.path_of_module(m)
        except NameError:  # made in the forward itself: nn.ReLU()(x)
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def trace(block: nn.Module, whole: Callable[[nn.Module, str], bool], arguments: int = 1) -> fx.Graph:
    """The block's forward as a graph; a NoBlockError where it depends on the values or sizes of its input."""
    try:
        return Tracer(whole, arguments).trace(block)
    except Exception as error:  # whatever a forward makes of a stand-in for its input
        raise NoBlockError(f"its forward cannot be traced: {first_line(error)}") from error


def sum_of(block: nn.Module, graph: fx.Graph) -> Sum:
    """The sum that a residual block ends with; a NoBlockError if this is none."""
    modules = dict(block.named_modules())

    def weighted(nodes: frozenset[fx.Node], kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> int:
        called = {node.target for node in nodes if node.op == "call_module"}
        return sum(isinstance(part, kinds) for path in called for part in modules[path].modules())

    if not any(is_addition(node) for node in graph.nodes):
        raise NoBlockError("it adds nothing", adds=False)
    node = output_of(graph)
    while not is_addition(node):
        if len(node.all_input_nodes) != 1:
            raise NoBlockError("it does not end with a sum of two")
        node = node.all_input_nodes[0]
        if weighted(frozenset([node]), (_ConvNd, nn.Linear)):
            raise NoBlockError("a layer with weights follows its last sum")
    one, two = node.all_input_nodes
    before_one, before_two = ancestors(one), ancestors(two)
    if weighted(before_one & before_two, _ConvNd):
        raise NoBlockError("what both summands of its last sum come from has a convolution")
    sides = sorted(
        [
            (weighted(mine - other, _ConvNd), end, mine - other)
            for end, mine, other in ((one, before_one, before_two), (two, before_two, before_one))
        ],
        key=lambda side: side[0],
    )
    (few, shortcut, on_shortcut), (many, branch, on_branch) = sides
    if few > 1 or many <= few or not before_one & before_two:
        raise NoBlockError(f"its summands, with {few} and {many} convolutions, are no shortcut and branch of one input")
    return Sum(graph, node, branch, shortcut, on_branch, on_shortcut)


def is_addition(node: fx.Node) -> bool:
    """Whether a step is a + b of two different values."""
    if node.op not in ("call_function", "call_method") or node.target not in ADDITIONS or node.kwargs:
        return False
    return len(node.args) == 2 and len(node.all_input_nodes) == 2


def are_products(one: fx.Node, two: fx.Node) -> bool:
    """Whether both are products with the same value: x a(x) and x b(x)."""
    times = [node for node in (one, two) if node.target in PRODUCTS and len(node.all_input_nodes) == 2]
    return len(times) == 2 and not set(one.all_input_nodes).isdisjoint(two.all_input_nodes)


def ancestors(node: fx.Node) -> frozenset[fx.Node]:
    """A step and all that it is computed from."""
    nodes = {node}
    waiting = [node]
    while waiting:
        new = set(waiting.pop().all_input_nodes) - nodes
        nodes |= new
        waiting += new
    return frozenset(nodes)


def output_of(graph: fx.Graph) -> fx.Node:
    output: fx.Node = next(node for node in reversed(graph.nodes) if node.op == "output")
    return output


def is_layer(module: nn.Module) -> bool:
    """Whether a module is one step: a convolution, a norm, or one without children."""
    return isinstance(module, (_ConvNd, _NormBase, nn.GroupNorm)) or not any(True for _ in module.children())


def has_products(block: nn.Module) -> bool:
    """Whether the block's last sum is x a(x) + x b(x), in a trace that looks into all children."""
    try:
        sum_ = sum_of(block, trace(block, lambda module, path: is_layer(module)))
    except NoBlockError:  # a child that cannot be looked into
        return False
    return are_products(sum_.branch, sum_.shortcut)


def built_like(block: nn.Module) -> tuple[Any, ...]:
    """What two blocks share that are built alike: classes, settings and shapes of all parts. Attributes that are more
    than numbers and words are told by what they are (a function), not by what is in them."""
    plain = (bool, int, float, str, tuple, type(None))
    parts: list[Any] = []
    for path, part in block.named_modules():
        own = {name: each for name, each in vars(part).items() if not name.startswith("_")}
        settings = [(name, each if isinstance(each, plain) else id(each)) for name, each in own.items()]
        shapes = [(name, tuple(each.shape)) for name, each in part.named_parameters(recurse=False)]
        parts.append((path, type(part), part.extra_repr(), repr(settings), repr(shapes), repr(list(part._modules))))
    return tuple(parts)
