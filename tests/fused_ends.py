"""The end of a residual block by the operator and by its modules: what the tests of both kinds of passes compare.

As a program, with TRITON_INTERPRET=1 set, it runs every case through the Triton kernels on the CPU and prints, as JSON,
how far they are from the modules. It is a process of its own because Triton reads that variable where it is imported.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from senet_lab.models.fused import block_end
from senet_lab.models.se import EXCITATIONS, SEBlock


class Case(NamedTuple):
    """One end of a block; every weight and statistic is random, and exact in single precision."""

    shape: tuple[int, int, int, int] = (2, 5, 3, 3)
    excitation: str | None = "sigmoid"  # None is no SE
    bias: bool = True
    training: bool = True
    last: bool = False  # channels_last
    from_one: bool = False
    reduction: int = 2
    momentum: float | None = 0.1
    track: bool = True

    @property
    def name(self) -> str:
        given = [f"{key}={value}" for key, value in self._asdict().items() if value != self._field_defaults[key]]
        return " ".join(given) or "default"


def cases() -> Iterator[Case]:
    for excitation, training in itertools.product(EXCITATIONS, (True, False)):
        yield Case(excitation=excitation, training=training, bias=training)
    for shape, training, last in itertools.product(
        ((3, 1, 2, 2), (2, 6, 1, 1), (1, 3, 2, 5), (2, 5, 3, 7)), (True, False), (True, False)
    ):
        yield Case(shape, training=training, last=last, reduction=4, bias=last)
    yield Case(excitation=None)
    yield Case(excitation=None, training=False)
    yield Case(from_one=True)
    yield Case(excitation="softmax", from_one=True, bias=False)
    yield Case(momentum=None)
    yield Case(track=False)
    yield Case(track=False, training=False)


def made(case: Case, dtype: torch.dtype = torch.float64, shift: float = 2) -> tuple[nn.BatchNorm2d, Any, list[Tensor]]:
    """Norm, SE, and x, shortcut and the gradient of y."""
    dice = torch.Generator().manual_seed(0)
    channels = case.shape[1]
    norm = nn.BatchNorm2d(channels, momentum=case.momentum, track_running_stats=case.track)
    se = None
    if case.excitation is not None:
        se = SEBlock(channels, case.reduction, "avg", case.excitation, case.bias, case.from_one)
    modules = nn.ModuleList([norm, *([se] if se else [])]).to(dtype).train(case.training)
    for tensor in [*modules.parameters(), *modules.buffers()]:
        if tensor.is_floating_point() and tensor.dim():
            tensor.data = (torch.randn(tensor.shape, generator=dice, dtype=torch.float64) * 0.8).float().to(dtype)
    if norm.running_var is not None:
        norm.running_var.abs_().add_(0.5)
    maps = torch.randn(3, *case.shape, generator=dice, dtype=torch.float64)
    maps[0] = maps[0] * 3 + shift
    maps = maps.float()
    layout = torch.channels_last if case.last else torch.contiguous_format
    x, shortcut, dy = (each.to(dtype).contiguous(memory_format=layout) for each in maps)
    return norm, se, [x.requires_grad_(), shortcut.requires_grad_(), dy]


def values(case: Case, passes: str | None, dtype: torch.dtype = torch.float64, shift: float = 2) -> dict[str, Tensor]:
    """y, all gradients and the running statistics; passes None is the modules. Two batches for the mean over all."""
    norm, se, (x, shortcut, dy) = made(case, dtype, shift)
    weights = dict(nn.ModuleDict({"norm": norm, **({"se": se} if se else {})}).named_parameters())
    for _ in range(2 if case.momentum is None else 1):
        if passes is None:
            u = norm(x)
            y = torch.relu((u if se is None else se(u)) + shortcut)
        else:
            y = block_end(x, shortcut, norm, se, passes)
    wanted = {"x": x, "shortcut": shortcut, **weights}
    grads = torch.autograd.grad(y, list(wanted.values()), dy)
    found = {"y": y.detach(), **{f"d {name}": grad for name, grad in zip(wanted, grads, strict=True)}}
    return found | {name: buffer.clone() for name, buffer in norm.named_buffers()}


def apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest value of its kind where that is above 1; infinite for others."""
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
        return float("inf")
    return max(
        float((ours[name].double() - theirs[name].double()).abs().max() / theirs[name].double().abs().max().clamp(1))
        for name in ours
    )


def interpreted() -> dict[str, float]:
    """Case → how far the kernels are from the modules. Small tiles, so that there are several in these small maps."""
    from senet_lab.models import fused_kernels as kernels

    found = {}
    for tile, channels in ((16, 4), (2048, 64)):
        kernels.TILE, kernels.CHANNELS = tile, channels
        for case in cases():
            if tile == 16 or case.shape == (2, 5, 3, 7):
                found[f"{case.name} tile={tile}"] = apart(values(case, "triton"), values(case, None))
    kernels.TILE, kernels.CHANNELS = 16, 4
    for shift, last in itertools.product((2, 1e4), (False, True)):  # single precision, and a mean far from 0
        ours = values(Case(last=last), "triton", torch.float32, shift)
        found[f"single shift={shift} last={last}"] = apart(ours, values(Case(last=last), "reference", shift=shift))
    # The interpreter cuts bf16 off where a GPU rounds: up to one unit in the last place, and that of what is summed.
    half = apart(values(Case(), "triton", torch.bfloat16), values(Case(), "reference", torch.bfloat16))
    found["half"] = half
    x, shortcut, mean = torch.zeros(1, 1, 1, 2), torch.tensor([[[[float("nan"), -1]]]]), torch.zeros(1, 1)
    y = kernels.finish(x, shortcut, mean, mean, mean)
    found["nan"] = 0.0 if y.isnan().tolist() == [[[[True, False]]]] and y[0, 0, 0, 1] == 0 else float("inf")
    return found


def touched(last: bool) -> dict[str, list[float]]:
    """Kernel → how often it reads and writes each element of a map, over all of its maps, and how many maps are read
    and written if each element counts once: what Triton's interpreter loads and stores by tiles."""
    import numpy as np
    from triton.runtime.interpreter import InterpreterBuilder

    from senet_lab.models import fused_kernels as kernels

    seen: dict[str, list[Any]] = {"load": [], "store": []}
    originals = {way: getattr(InterpreterBuilder, f"create_masked_{way}") for way in seen}

    def watching(way: str) -> Any:
        def watched(builder: Any, pointers: Any, *rest: Any) -> Any:
            mask = rest[0] if way == "load" else rest[1]
            if pointers.data.ndim == 2:  # the others are one number an image and channel
                seen[way].append(pointers.data[mask.data])
            return originals[way](builder, pointers, *rest)

        return watched

    layout = torch.channels_last if last else torch.contiguous_format
    dy, y, x, shortcut = (torch.randn(2, 5, 3, 7).contiguous(memory_format=layout) for _ in range(4))
    numbers = torch.randn(4, 2, 5)
    calls = {
        "moments": lambda: kernels.moments(x),
        "finish": lambda: kernels.finish(x, shortcut, *numbers[:3]),
        "sums": lambda: kernels.sums(dy, y, x, numbers[0]),
        "spread": lambda: kernels.spread(dy, x, *numbers),
        "spread in evaluation": lambda: kernels.spread(dy, x, *numbers[:3], None),
    }
    found = {}
    try:
        for way in seen:
            setattr(InterpreterBuilder, f"create_masked_{way}", watching(way))
        for name, call in calls.items():
            for addresses in seen.values():
                addresses.clear()
            call()
            flat = [np.concatenate(addresses) if addresses else np.zeros(0) for addresses in seen.values()]
            found[name] = [float(n) / x.numel() for all_ in flat for n in (len(all_), len(np.unique(all_)))]
    finally:
        for way, original in originals.items():
            setattr(InterpreterBuilder, f"create_masked_{way}", original)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"apart": interpreted(), "touched": [touched(last) for last in (True, False)]}))
