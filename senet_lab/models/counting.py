"""Runs a network once and notes each operator: what it multiplies, and in which parts of the network it ran.

Operators are what PyTorch runs in the end, so that it does not matter how a layer is called: as a module, by its
`forward`, as a function of its weights, as a matrix product. What it is part of is told by the modules that are being
run, in a traced or exported network by what each step says of itself, and otherwise by whose weights it takes.

The network is copied and run without weights, on the meta device. What cannot be run so (it looks at values, or has
operators that know no shapes) is copied and run with its weights, and what cannot be copied is run itself.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from senet_lab.models.graphs import places_in
from senet_lab.models.present import se_modules
from senet_lab.models.stages import stage_of
from senet_lab.models.trying import copied

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
# In the names of operators that take two maps and multiply nothing that counts, and of those that take one and do.
MOVING = ("norm", "copy", "scatter", "put", "index", "masked", "sampler", "where", "embedding", "prelu", "loss")
TRANSFORMING = ("fft", "linalg", "matrix_exp", "cdist")
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


@dataclass(frozen=True)
class Step:
    """One operator that ran.

    Attributes:
        kind: the operator, such as `aten.convolution`.
        name: of the very overload, such as `aten.convolution.default`.
        macs: its multiply-adds, if it has any.
        places: paths of what it ran in; a path stands for all that it is inside of, too.
    """

    kind: Any
    name: str
    macs: int
    places: frozenset[str]


@dataclass(frozen=True)
class Count:
    """What ran.

    Attributes:
        steps: in order.
        gates: path of a gate, as it stands among the places → its parameters.
        norms: parameters that norms took.
    """

    steps: list[Step]
    gates: dict[str, set[str]]
    norms: set[str]


def unwrapped(net: nn.Module) -> nn.Module:
    """A network without what trains it on several devices, averages or compiles it."""
    while isinstance(net, WRAPPERS) or [name for name, _ in net.named_children()] == ["_orig_mod"]:
        net = next(net.children())
    return net


def count(net: nn.Module, input_size: Sequence[int]) -> Count:
    """What a network runs for one image; the network is left as it is.

    Raises:
        ValueError: if it cannot be told what runs where.
        Exception: whatever the network raises for such an image.
    """
    problem: Exception | None = None
    for run in (without_weights, with_weights, itself):
        try:
            with run(net) as (shadow, image), torch.no_grad():
                return watched(shadow.eval(), image(input_size))
        except UnclearError:
            raise
        except Exception as error:  # whatever a network raises
            problem = error
            if any(tensor.is_meta for tensor in [*net.parameters(), *net.buffers()]):
                break
    assert problem is not None
    raise problem


class UnclearError(ValueError):
    """It cannot be told what runs where."""


Image = Callable[[Sequence[int]], Tensor]


@contextmanager
def without_weights(net: nn.Module) -> Iterator[tuple[nn.Module, Image]]:
    dtype = dtype_of(net)
    yield copied(net, lambda tensor: tensor.to("meta")), lambda size: torch.empty(1, *size, dtype=dtype, device="meta")


@contextmanager
def with_weights(net: nn.Module) -> Iterator[tuple[nn.Module, Image]]:
    """On the CPU."""
    with torch.random.fork_rng(devices=[]):
        yield copied(net, lambda tensor: tensor.cpu().clone()), lambda size: drawn(net, size)


@contextmanager
def itself(net: nn.Module) -> Iterator[tuple[nn.Module, Image]]:
    """Whatever is an attribute is what it was afterwards."""
    was = [(module, module.training, dict(vars(module))) for module in net.modules()]
    device = next((weight.device for weight in net.parameters()), None)
    try:
        with torch.random.fork_rng(devices=[]):
            yield net, lambda size: drawn(net, size).to(device)
    finally:
        for module, training, attributes in was:
            module.training = training
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)


def drawn(net: nn.Module, size: Sequence[int]) -> Tensor:
    return torch.rand(1, *size, generator=torch.Generator().manual_seed(0)).to(dtype_of(net))


def dtype_of(net: nn.Module) -> torch.dtype:
    """Of the first weight, and so of the images."""
    return next((weight.dtype for weight in net.parameters() if weight.is_floating_point()), torch.get_default_dtype())


def watched(net: nn.Module, image: Tensor) -> Count:
    """What runs in a network that may be changed."""
    gates = {path: {name for name, _ in net.named_parameters() if is_in(name, [path])} for path in se_modules(net)}
    scripted = [path for path, module in net.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    for path in scripted:
        outer = next(each for each in scripted if is_in(path, [each]))
        if path in gates or stage_of(net, path) != stage_of(net, outer):
            kind = outer or "the network"
            raise UnclearError(
                f"cost: {kind} is scripted and does not say what of it runs where: give what was scripted"
            )
    watch = Watch(net)
    for path, module in list(net.named_modules()):
        if path in scripted:
            continue
        forward = module.forward
        if isinstance(module, fx.GraphModule):
            places, found = places_in(module)
            gates |= {joined(path, gate): {joined(path, name) for name in weights} for gate, weights in found.items()}
            forward = Traced(module, path, watch, places).run
        module.forward = watch.inside(path, forward)
    with watch:
        net(image)
    for path in gates:
        if path not in watch.entered and any(is_in(place, [path]) for step in watch.steps for place in step.places):
            raise UnclearError(f"cost: {path or 'the network'} is SE that is not called: what of it runs is unknown")
    if watch.unknown:
        names = ", ".join(sorted(watch.unknown))
        warnings.warn(f"cost: how much {names} multiplies is not known, and counts as nothing", stacklevel=5)
    return Count(watch.steps, gates, watch.norms)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators that run inside.

    Attributes:
        steps: them.
        unknown: names of those that may multiply, nobody knows how much.
        entered: paths of all modules that were run.
        norms: parameters that norms took.
    """

    supports_higher_order_operators = True

    def __init__(self, net: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.unknown: set[str] = set()
        self.entered: set[str] = set()
        self.running: list[str] = []
        self.norms: set[str] = set()
        self.names: dict[Any, list[str]] = {}  # storage of a weight, or of what is made of weights only → its names
        for tensors in (net.named_parameters(remove_duplicate=False), net.named_buffers()):
            for name, tensor in tensors:
                self.names.setdefault(tensor.untyped_storage(), []).append(name)

    def inside(self, path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A forward that says where it runs."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.at(path):
                return forward(*args, **kwargs)

        return call

    @contextmanager
    def at(self, *paths: str) -> Iterator[None]:
        self.running += paths
        self.entered.update(paths)
        try:
            yield
        finally:
            del self.running[len(self.running) - len(paths) :]

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
        out = func(*args, **kwargs)
        macs = FLOPS[kind](*args, **kwargs, out_val=out) // 2 if kind in FLOPS else 0
        tensors = [each for each in args if isinstance(each, Tensor)]
        names = [self.names.get(tensor.untyped_storage()) for tensor in tensors]
        places = set(self.running)
        if tensors and None not in names:
            macs = 0 if kind in SMALL else macs
            for made in tree_leaves(out):
                if isinstance(made, Tensor):
                    self.names.setdefault(made.untyped_storage(), [])
        elif kind not in FLOPS and may_multiply(func, tensors):
            self.unknown.add(str(func))
        if any(word in str(func) for word in NORMS):
            self.norms.update(name for several in names for name in several or [])
        for several in names if macs else []:
            holders = [name.rpartition(".")[0] for name in several or []]
            if holders and not any(is_in(place, holders) for place in places):
                places.add(holders[0])
        self.steps.append(Step(kind, str(func), macs, frozenset(places)))
        return out


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


class Traced(fx.Interpreter):
    """Runs a traced network step by step, each where it belongs."""

    def __init__(self, module: fx.GraphModule, path: str, watch: Watch, places: dict[fx.Node, list[str]]) -> None:
        super().__init__(module)
        self.watch = watch
        self.places = {node: [joined(path, place) for place in inner] for node, inner in places.items()}

    def run_node(self, n: fx.Node) -> Any:
        with self.watch.at(*self.places[n]):
            return super().run_node(n)


def joined(*paths: str) -> str:
    return ".".join(filter(None, paths))


def is_in(path: str, roots: Sequence[str]) -> bool:
    """Whether a module or parameter is one of the modules at `roots` or in one; everything is in `""`."""
    return any(not root or path == root or path.startswith(root + ".") for root in roots)
