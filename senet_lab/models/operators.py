"""Runs a network once and notes each operator: what it takes, what it multiplies, and in which modules it ran.

Operators are what PyTorch runs in the end, so that it does not matter whether a layer is called as a module, by its
`forward`, as a function of its weights, or as a matrix product. An operator belongs to the modules that are running; in
a traced or exported network to the place that its step is marked with; and otherwise to the module whose weights it
takes.

Gates are recognised by what they compute: a map is multiplied by a factor that is computed from that map through at
least one layer, and the factor is one number a channel or, for a map of factors, comes through two layers of single
pixels (section 7.1). Names and classes do not matter. The factor of a norm comes from the map without a layer, so a
norm is no gate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from senet_lab.models.copies import run_operator

aten = torch.ops.aten
WINDOWS = (aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d, aten.avg_pool2d, aten.max_pool2d_with_indices)
POOLING = (aten.mean, aten.sum, aten.amax, aten.max, *WINDOWS)
SCALING = (aten.mul, aten.mul_)
SUMS = (aten.add, aten.add_)

# Operator → its floating-point operations, two a multiply-add: torch's own for convolutions, products of matrices and
# attention; and what it lacks. Pooling and scaling are counted wherever they run; only those of SE are of interest.
FLOPS: dict[Any, Any] = {op: lambda x, *_, out_shape, **__: 2 * math.prod(x) for op in POOLING}
FLOPS |= {op: lambda *_, out_shape, **__: 2 * math.prod(out_shape) for op in SCALING}
FLOPS |= {op: lambda x, y, *_, out_shape, **__: 2 * math.prod(x) if x == y else 0 for op in SUMS}
FLOPS |= {op: lambda x, *_, out_shape, **__: 2 * math.prod(x) for op in (aten.mv, aten.dot, aten.vdot)}
FLOPS |= {aten.addmv: lambda y, x, *_, out_shape, **__: 2 * math.prod(x)}
FLOPS |= {aten.addbmm: lambda y, x, z, *_, out_shape, **__: 2 * math.prod(x) * z[-1]}
FLOPS = FlopCounterMode(display=False, custom_mapping=FLOPS).flop_registry
# With these weights are made of others (spectral norm, pruning), which is no part of what is counted for an image.
SMALL = (*SCALING, aten.mv, aten.addmv, aten.dot, aten.vdot)
NORMS = ("batch_norm", "layer_norm", "group_norm")  # in the names of operators that normalise
COPIES = (aten.clone, aten._to_copy, aten._unsafe_view, aten.detach, aten.alias)  # like views, the same values
# In the names of operators that take two maps and multiply nothing that counts, and of those that take one and do.
MOVING = ("norm", "copy", "scatter", "put", "index", "masked", "sampler", "where", "embedding", "prelu", "loss")
TRANSFORMING = ("fft", "linalg", "matrix_exp", "cdist")


@dataclass
class OperatorCall:
    """One operator that ran.

    Attributes:
        kind: the operator, such as `aten.convolution`.
        name: of the very overload, such as `aten.convolution.default`.
        macs: its multiply-adds, if it has any.
        place: path of the module whose code it is.
        places: paths of all that it ran in; a path stands for all that it is inside of, too.
        weights: names of the parameters and buffers that it takes.
        takes: numbers of the steps whose results it takes; -1 is what the network was given.
        window: sides of the window of a convolution of images; empty for other layers; None if it is no layer.
        gate: whether it belongs to a gate.
    """

    kind: Any
    name: str
    macs: int
    place: str
    places: set[str]
    weights: set[str]
    takes: set[int]
    window: Sequence[int] | None
    gate: bool = False


@dataclass(frozen=True)
class Gate:
    """A map that is multiplied by a function of itself.

    Attributes:
        steps: numbers of the steps that compute the factor, and of the multiplication.
        map_: number of the step that gives the map; -1 is the image.
        place: path of the module that multiplies; `""` is the network.
        pooled: whether the factor is one number a channel.
    """

    steps: frozenset[int]
    map_: int
    place: str
    pooled: bool


class OperatorLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators that a network runs. The forwards of its modules are replaced by ones that note where they
    run.

    Attributes:
        steps: them.
        gates: multiplications of maps by functions of themselves.
        unknown: names of operators that may multiply, nobody knows how much.
        norms: parameters that norms took.
    """

    supports_higher_order_operators = True

    def __init__(self, net: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: dict[Any, list[str]] = {}  # storage of a weight, or of what is made of weights only → its names
        for tensors in (net.named_parameters(remove_duplicate=False), net.named_buffers()):
            for name, tensor in tensors:
                self.names.setdefault(tensor.untyped_storage(), []).append(name)
        for path, module in list(net.named_modules()):
            if isinstance(module, fx.GraphModule):
                module.forward = self.inside(path, TracedForward(module, path, self).run)
            elif not isinstance(module, torch.jit.ScriptModule):
                module.forward = self.inside(path, module.forward)
        self.net = net
        self.running: list[str] = []
        self.forget()

    def forget(self) -> None:
        self.steps: list[OperatorCall] = []
        self.gates: list[Gate] = []
        self.unknown: set[str] = set()
        self.norms: set[str] = set()
        # id of a tensor → number of its step, and of the one that made its values (of a view); and it, to keep the id
        self.made: dict[int, tuple[int, int, Tensor]] = {}

    def run(self, x: Tensor, part: nn.Module | None = None) -> OperatorLog:
        """Run the network, or a part of it, on x, and note that alone."""
        self.forget()
        self.made[id(x)] = (-1, -1, x)
        with self:
            (part or self.net)(x)
        return self

    def inside(self, path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A forward that notes its module's path while it runs."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.at(path):
                return forward(*args, **kwargs)

        return call

    @contextmanager
    def at(self, path: str) -> Iterator[None]:
        self.running.append(path)
        try:
            yield
        finally:
            self.running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):  # a control flow, whose branches this does not see
            self.unknown.add(str(func))
            return func(*args, **kwargs)
        kind = func.overloadpacket
        if kind not in FLOPS and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        tensors = [each for each in args if isinstance(each, Tensor)]
        takes = {self.made[id(each)][0] for each in tree_leaves(args) if id(each) in self.made}
        shapes = [(each.shape, each.stride()) for each in tensors[:2]] if kind in SCALING else []
        out = run_operator(func, args, kwargs)
        macs = FLOPS[kind](*args, **kwargs, out_val=out) // 2 if kind in FLOPS else 0
        names = [self.names.get(tensor.untyped_storage()) for tensor in tensors]
        weights = {name for several in names for name in several or []}
        results = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        of_weights = bool(tensors) and None not in names
        if of_weights:
            macs = 0 if kind in SMALL else macs
            for made in results:
                self.names.setdefault(made.untyped_storage(), sorted(weights))
        elif kind not in FLOPS and may_multiply(func, tensors):
            self.unknown.add(str(func))
        if any(word in str(func) for word in NORMS):
            self.norms |= weights
        places = set(self.running)
        if macs:
            for holders in ([name.rpartition(".")[0] for name in several or []] for several in names):
                if holders and not any(is_in(place, holders) for place in places):
                    places.add(holders[0])
        window = None
        if kind in FLOPS and kind not in POOLING + SCALING + SUMS:
            window = tensors[1].shape[2:] if kind is aten.convolution and tensors[1].dim() == 4 else ()
        number = len(self.steps)
        place = self.running[-1] if self.running else ""
        self.steps.append(OperatorCall(kind, str(func), macs, place, places, weights, takes, window))
        if len(shapes) == 2 and all(id(each) in self.made for each in tensors):
            self.look_for_gate(number, [self.made[id(each)] for each in tensors], shapes)
        same = (func.is_view or kind in COPIES) and tensors and id(tensors[0]) in self.made
        for made in results:
            self.made[id(made)] = (number, self.made[id(tensors[0])][1] if same else number, made)
        return out

    def look_for_gate(self, number: int, ends: Sequence[tuple[int, int, Tensor]], shapes: Sequence[Any]) -> None:
        """Note a multiplication if it multiplies a map by a function of itself."""
        for map_, factor in ((0, 1), (1, 0)):
            (sides, _), (of_factor, strides) = shapes[map_], shapes[factor]
            pooled = is_one_a_channel(sides, of_factor, strides)
            if not pooled and (of_factor != sides or len(sides) != 4):
                continue
            (_, source, _), before = ends[map_], self.before(ends[factor][0])
            steps = before - self.before(source)
            windows = [window for window in (self.steps[each].window for each in steps) if window is not None]
            single = all(max(window, default=1) == 1 for window in windows)
            if source in before and (windows if pooled else single and len(windows) > 1):
                self.gates.append(Gate(frozenset([*steps, number]), source, self.steps[number].place, pooled))

    def before(self, number: int) -> set[int]:
        """A step and all steps that its value is computed from; -1 stands for the image."""
        steps, waiting = {number}, [number]
        while waiting:
            each = waiting.pop()
            new = self.steps[each].takes - steps if each >= 0 else set()
            steps |= new
            waiting += new
        return steps


def is_one_a_channel(sides: Sequence[int], of_factor: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a factor of a map of these sides has one number for each image and channel, by its sides and strides."""
    if len(of_factor) != len(sides) or len(sides) < 3 or of_factor[0] != sides[0]:
        return False
    each = [(one if stride else 1, many) for one, stride, many in zip(of_factor, strides, sides, strict=True)][1:]
    if any(one not in (1, many) for one, many in each):
        return False
    return sum(one > 1 for one, _ in each) == 1 or (max(one for one, _ in each) == 1 and sides[1] == 1)


def may_multiply(func: torch._ops.OpOverload, tensors: Sequence[Tensor]) -> bool:
    """Whether an operator might be a layer that `FLOPS` lacks: another library's, or of two maps, and neither element
    by element nor one that moves them."""
    if any(word in str(func) for word in TRANSFORMING):
        return True
    maps = [tensor for tensor in tensors if tensor.is_floating_point() or tensor.is_quantized]
    if func.namespace not in ("aten", "prim", "prims"):
        return bool(maps)
    moves = func.is_view or torch.Tag.pointwise in func.tags or any(word in str(func) for word in MOVING)
    return len(maps) > 1 and not moves


class TracedForward(fx.Interpreter):
    """Runs a traced network step by step, each step in the place that the tracer noted; without a note, in the module
    that it calls or in the place of the step before."""

    def __init__(self, module: fx.GraphModule, path: str, watch: OperatorLog) -> None:
        super().__init__(module)
        self.path = path
        self.watch = watch
        self.last = ""

    def run_node(self, n: fx.Node) -> Any:
        noted = [*n.meta.get("nn_module_stack", {}).values()]
        if noted:
            self.last = noted[-1][0]
        elif n.op == "call_module":
            self.last = str(n.target)
        with self.watch.at(shared_places(self.path, self.last)):
            return super().run_node(n)


def common(paths: Sequence[str]) -> str:
    """The path of the smallest module that holds all of these."""
    levels = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len({*level}) == 1, levels))


def shared_places(*paths: str) -> str:
    return ".".join(filter(None, paths))


def is_in(path: str, roots: Container[str]) -> bool:
    """Whether a module or parameter is one of the modules at `roots` or in one; everything is in `""`."""
    while path not in roots:
        if not path:
            return False
        path = path.rpartition(".")[0]
    return True
