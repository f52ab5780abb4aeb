"""What a network costs: parameters and multiply-adds, and the share of SE in both (paper, sections 3.2 and 4).

Conventions, because the printed digits hang on them:
- Parameters are trainable weights; the running statistics of batch norms are none.
- Multiply-adds (`macs`) are those of one forward pass of one image: convolutions and linear layers, without the
  additions of biases, batch norms, activations, pools and shortcut sums. The paper prints them as GFLOPs.
- SE adds its two layers (2 C K), its pooling (one addition for each value pooled; a maximum counts the same) and its
  scaling (one multiplication for each value scaled). With all three ResNet-50's 3.858 G become 3.872 G, which the paper
  prints as 3.86 and 3.87.
- Not all of the paper's rows are counted so. `TERMS` names the parts that another convention may be the sum of.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from senet_lab.config import first_line
from senet_lab.models.copies import attributes_restored, is_on_meta, with_weights, without_weights
from senet_lab.models.gated import Gated, gates_in
from senet_lab.models.gates import Descriptors, SEBlock, check_known
from senet_lab.models.operators import POOLING, SCALING, SUMS, OperatorCall, OperatorLog, common, is_in
from senet_lab.models.stages import stage_of

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


@dataclass(frozen=True)
class Cost:
    """Cost of a network, or of one of its stages.

    Attributes:
        params: trainable weights, those of SE included.
        se_params: those of SE.
        backbone_macs: multiply-adds of the plain network.
        fc_macs: multiply-adds of SE's two layers.
        pooling_macs: additions (or comparisons) of SE's squeeze.
        scaling_macs: multiplications of channels by their gates.
        operations: how often the plain network runs each of PyTorch's operators (`aten.convolution.default` …).
        stages: the same for each stage, in the paper's numbering; stem and classifier are in none. Empty in a stage.
        sum_macs: additions of one map to another, as in shortcuts; no part of `macs`.
        norm_params: scales and shifts of norms, among `params`.
        se_biases: biases of SE, among `params` and `se_params`.
        statistics: running means and variances of norms, which are no part of `params`.
    """

    params: int
    se_params: int
    backbone_macs: int
    fc_macs: int
    pooling_macs: int
    scaling_macs: int
    operations: dict[str, int] = field(default_factory=dict)
    stages: dict[int, Cost] = field(default_factory=dict)
    sum_macs: int = 0
    norm_params: int = 0
    se_biases: int = 0
    statistics: int = 0

    @property
    def se_macs(self) -> int:
        """All that SE adds to the multiply-adds."""
        return self.fc_macs + self.pooling_macs + self.scaling_macs

    @property
    def macs(self) -> int:
        """Multiply-adds of everything."""
        return self.backbone_macs + self.se_macs


# What may be counted. A convention is some of these, as in "layers, pool"; of multiply-adds, then of parameters.
TERMS: dict[str, Callable[[Cost], int]] = {
    "layers": lambda cost: cost.backbone_macs + cost.fc_macs,
    "pool": lambda cost: cost.pooling_macs,
    "scale": lambda cost: cost.scaling_macs,
    "sums": lambda cost: cost.sum_macs,
    "weights": lambda cost: cost.params - cost.norm_params - cost.se_biases,
    "biases": lambda cost: cost.se_biases,
    "norms": lambda cost: cost.norm_params,
    "stats": lambda cost: cost.statistics,
}


def convention_total(cost: Cost, convention: str) -> int:
    """What the cost comes to by a convention: the sum of its terms.

    Raises:
        ValueError: for a word that is not in `TERMS`.
    """
    terms = convention.split(", ")
    for term in terms:
        check_known("convention", term, TERMS)
    return sum(TERMS[term](cost) for term in terms)


def cost(net: nn.Module, input_size: Sequence[int] = (3, 224, 224)) -> Cost:
    """Parameters and multiply-adds of `net` for one image. Computes on the meta device and leaves `net` untouched.

    Args:
        net: a network on any device, the meta device included.
        input_size: C, H, W of the image.

    Raises:
        ValueError: for an image that the network does not take, and if that is because it is too small, how large it
            must be; for a scripted network, which does not say which stage runs what.

    Warns:
        UserWarning: where an operator runs that may multiply, nobody knows how much: it is named, and counts nothing.
    """
    if not input_size or any(side < 1 for side in input_size):
        raise ValueError(f"cost: an image of size {tuple(input_size)} has no pixels")
    net = unwrapped(net)
    check_not_scripted(net)
    try:
        watch = run_operators(net, input_size)
    except Exception as error:  # whatever a network makes of an image
        size = " × ".join(map(str, input_size))
        least = smallest_side(net, input_size)
        if least is None:
            line = first_line(error)
            raise ValueError(f"{type(net).__name__} does not run on an image of {size}: {line}") from error
        size, takes = (" × ".join(map(str, sides)) for sides in (input_size[1:], (least, least)))
        raise ValueError(f"images of {size} pixels are too small: the network takes {takes} and larger") from error
    if watch.unknown:
        names = ", ".join(sorted(watch.unknown))
        warnings.warn(f"cost: how much {names} multiplies is not known, and counts as nothing", stacklevel=2)
    of_gates = gate_weights(watch)
    weights = {path: weight.numel() for path, weight in net.named_parameters() if weight.requires_grad}
    statistics = {
        path: n.numel() for path, n in net.named_buffers() if path.endswith((".running_mean", ".running_var"))
    }

    def within(roots: list[str], stages_within: dict[int, Cost]) -> Cost:
        """The cost of everything in the modules at `roots`."""
        here = {path: n for path, n in weights.items() if is_in(path, roots)}
        of_se = {path: n for path, n in here.items() if path in of_gates}
        ran = [step for step in watch.steps if any(is_in(place, roots) for place in step.places)]
        plain, gated = ([step for step in ran if step.gate == gate] for gate in (False, True))
        return Cost(
            params=sum(here.values()),
            se_params=sum(of_se.values()),
            backbone_macs=layers(plain),
            fc_macs=layers(gated),
            pooling_macs=macs(gated, POOLING),
            scaling_macs=macs(gated, SCALING),
            operations=dict(Counter(step.name for step in plain)),
            stages=stages_within,
            sum_macs=macs(ran, SUMS),
            norm_params=sum(n for path, n in here.items() if path in watch.norms),
            se_biases=sum(n for path, n in of_se.items() if path.endswith(".bias")),
            statistics=sum(n for path, n in statistics.items() if is_in(path, roots)),
        )

    return within([""], {stage: within(roots, {}) for stage, roots in sorted(stage_roots(net).items())})


def stage_roots(net: nn.Module) -> dict[int, list[str]]:
    """Stage → the paths of the outermost modules in it."""
    stages: dict[int, list[str]] = {}
    for path, _ in net.named_modules():
        stage = stage_of(net, path)
        if stage is not None and stage_of(net, path.rpartition(".")[0]) is None:
            stages.setdefault(stage, []).append(path)
    return stages


def unwrapped(net: nn.Module) -> nn.Module:
    """A network without what trains it on several devices, averages or compiles it."""
    while isinstance(net, WRAPPERS) or [name for name, _ in net.named_children()] == ["_orig_mod"]:
        net = next(net.children())
    return net


def check_not_scripted(net: nn.Module) -> None:
    """A ValueError for a network whose stages are scripted as one, so that it does not say what runs in which."""
    scripted = [path for path, module in net.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    for path in scripted:
        outer = next(each for each in scripted if is_in(path, [each]))
        if stage_of(net, path) != stage_of(net, outer):
            raise ValueError(
                f"cost: {outer or 'the network'} is scripted and does not say what of it runs where: give what was "
                "scripted"
            )


def run_operators(net: nn.Module, input_size: Sequence[int]) -> OperatorLog:
    """What a network runs for one image; the network is left as it is.

    It is copied and run without weights. What cannot be run so (it looks at values, or has operators that know no
    shapes) is copied and run with its weights, and what cannot be copied is run itself.

    Raises:
        Exception: whatever the network raises for such an image.
    """
    problem: Exception | None = None
    for run in (without_weights,) if is_on_meta(net) else (without_weights, with_weights, attributes_restored):
        try:
            with run(net) as (shadow, image), torch.no_grad():
                return OperatorLog(shadow.eval()).run(image(input_size))
        except Exception as error:  # whatever a network raises
            problem = error
    assert problem is not None
    raise problem


def gate_weights(watch: OperatorLog) -> set[str]:
    """The weights of the gates of what ran, whose steps then say that they are a gate's.

    What was put into the network is known, whatever it computes; other gates are known by what they compute. A step of
    these is where the gate's weights are: in a traced network it may not say itself where it is.
    """
    put = set(gates_in(watch.net))
    weights = {name for name, _ in watch.net.named_parameters() if is_in(name, put)}
    for step in watch.steps:
        step.gate = any(is_in(place, put) for place in step.places)
    for gate in watch.gates:
        steps = [watch.steps[number] for number in gate.steps]
        if any(max(step.window or (1,)) > 1 for step in steps):
            continue  # a gate looks at single pixels; this is a branch that scales another one
        own = {name for step in steps for name in step.weights}
        place = common([name.rpartition(".")[0] for name in own])
        for step in steps:
            step.gate = True
            step.places = {place} if place else step.places
        weights |= own
    return weights


def smallest_side(net: nn.Module, input_size: Sequence[int], largest: int = 1024) -> int | None:
    """The side of the smallest square image that a network takes which does not take one of `input_size`; None if it is
    not the size that it minds, as far as images of up to `largest` pixels tell."""
    if len(input_size) != 3:
        return None

    def runs(side: int) -> bool:
        try:
            with without_weights(net) as (shadow, image), torch.no_grad():
                shadow.eval()(image((input_size[0], side, side)))
        except Exception:  # whatever a network makes of an image of this size
            return False
        return True

    refused = min(input_size[1:])
    taken = 2 * refused
    while not runs(taken):
        refused, taken = taken, 2 * taken
        if taken > largest:
            return None
    while taken - refused > 1:
        middle = (refused + taken) // 2
        refused, taken = (refused, middle) if runs(middle) else (middle, taken)
    return taken if not runs(min(input_size[1:])) and runs(2 * taken) else None


def macs(steps: Sequence[OperatorCall], kinds: Sequence[Any]) -> int:
    return sum(step.macs for step in steps if step.kind in kinds)


def layers(steps: Sequence[OperatorCall]) -> int:
    """Multiply-adds of convolutions, linear layers and whatever else multiplies matrices."""
    return sum(step.macs for step in steps if step.kind not in POOLING + SCALING + SUMS)


def hidden_widths(net: nn.Module) -> dict[int, tuple[int, ...]]:
    """Stage → the hidden width of each of its gates, in order, 0 for one that has none; stages without gates are left
    out."""
    widths: dict[int, tuple[int, ...]] = {}
    for path, module in net.named_modules():
        stage = stage_of(net, path)
        gated = isinstance(module, Gated) and not isinstance(module.se, SEBlock)
        if (isinstance(module, SEBlock) or gated) and stage is not None:
            widths[stage] = (*widths.get(stage, ()), module.hidden)
    return dict(sorted(widths.items()))


def fingerprint(net: nn.Module, input_size: Sequence[int] = (3, 224, 224)) -> str:
    """Sixteen hexadecimal digits that two networks share if they are built alike, whatever their weights.

    It covers the path and kind of every module, what it prints of itself (widths, strides, groups; of SE its hidden
    width, squeeze and excitation), the shapes of all parameters and the size of the image. So r = 16 and r = 32 are one
    network where both leave a single hidden unit. Meant for comparing networks within a run: what modules print of
    themselves may change with torch's version.
    """
    lines = [f"image {tuple(input_size)}"]
    for path, module in net.named_modules():
        kind = nn.Conv2d if isinstance(module, Descriptors) else type(module)  # which it is, and was when trials ran
        lines.append(f"{path} {kind.__qualname__} {module.extra_repr()}")
    lines += [f"{path} {tuple(weight.shape)}" for path, weight in net.named_parameters()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
