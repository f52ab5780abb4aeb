"""What fusing the ends of residual blocks saves: passes over memory, counted, and step time, measured.

    python -m benchmarks.fused                          on a GPU: SE-ResNet-50, batch 256 at 224, bf16, channels_last
    python -m benchmarks.fused --parts traffic          the count alone, which needs no GPU
    python -m benchmarks.fused --short --device cpu     a small network by the plain formulas: shows that it runs

*traffic* runs the end of each block on the meta device, forward and backward, and adds up what its operators read and
write, and what is kept from one way to the other. An operator reads every input once and writes every output once, but
batch norm in training, which needs two passes forward and two backward, reads its maps twice. Caches are not counted.

*time* is a training step (forward, backward, SGD) of the network with and without SE: its modules and its fused blocks,
each eager and compiled. All are timed in turn; a ratio is the median over the rounds, with its 95% interval by order
statistics. Fused are the blocks of the network without SE, too, so that it is as fast as it can be made. Written are
`fused.md` and, with every single measurement, `fused.csv`.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.metadata
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.resnet import BasicBlock, Bottleneck

from benchmarks import measuring
from senet_lab import models
from senet_lab.config import SE
from senet_lab.models.fused import block_end
from senet_lab.models.fusing import HAS_TRITON, parts_of
from senet_lab.reports import files
from senet_lab.reports.front import median_interval
from senet_lab.studies.driver import git_commit
from senet_lab.training.trial import processor

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
PARTS = ("traffic", "time")
BACKBONES = [name for name in models.BACKBONES if name.startswith(("resnet", "resnext"))]  # of torchvision's blocks
TWICE = ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit")  # and ..._backward
LEAST = 0.5  # of a map: an operator that moves less is no pass over one

Line = dict[str, Any]
Shape = tuple[int, ...]


# ---------------------------------------------------------------------------------------------------------------------
# Counted


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what every operator inside reads and writes: `lines`, of its name and the bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: list[tuple[str, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        returned = func._schema.returns
        is_view = any(each.alias_info is not None and not each.alias_info.is_write for each in returned)
        name = func._schema.name.partition("::")[2]
        if not is_view and not name.startswith(("empty", "new_empty")):
            outputs = result if isinstance(result, (tuple, list)) else [result]
            times = 2 if name.removesuffix("_backward") in TWICE else 1
            read = sum(held(each) * times for each in [*args, *(kwargs or {}).values()] if isinstance(each, Tensor))
            self.lines.append((name, read, sum(held(each) for each in outputs if isinstance(each, Tensor))))
        return result


def held(tensor: Tensor) -> int:
    """Bytes that a tensor has in memory; what is expanded counts once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else 1
    return elements * tensor.element_size()


def ends(se: bool) -> dict[str, Callable[[Tensor, Tensor, nn.Module], Tensor]]:
    """Name → the end of a block, of the branch's map, the shortcut's and what the branch ends with."""

    def modules(x_BCHW: Tensor, shortcut_BCHW: Tensor, end: nn.Module) -> Tensor:
        y_BCHW: Tensor = end(x_BCHW)
        y_BCHW += shortcut_BCHW
        return F.relu(y_BCHW, inplace=True)

    def fused(x_BCHW: Tensor, shortcut_BCHW: Tensor, end: nn.Module) -> Tensor:
        parts = parts_of(end)
        assert parts is not None
        return block_end(x_BCHW, shortcut_BCHW, *parts, "triton")

    prefix = "SE, " if se else "no SE, "
    return {prefix + "modules": modules} | ({prefix + "fused": fused} if HAS_TRITON else {})


def passes(
    end: Callable[[Tensor, Tensor, nn.Module], Tensor], last: nn.Module, shape: Shape, dtype: torch.dtype
) -> Iterator[tuple[str, str, int, int]]:
    """forward or backward, operator, bytes read, bytes written: of the end of one block, on the meta device; and at
    last what is kept between the two, as if it were written."""
    x, shortcut = (torch.empty(shape, dtype=dtype, device="meta", requires_grad=True) for _ in range(2))
    # Weights in the maps' type, as autocast gives them to SE's layers; those of the norm make no difference here.
    last = copy.deepcopy(last).to("meta", dtype).train()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = held(tensor)
        return tensor

    with Traffic() as forward, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = end(x, shortcut, last)
    with Traffic() as backward:
        torch.autograd.grad(y, [x, shortcut, *last.parameters()], torch.empty_like(y))
    for name, mode in (("forward", forward), ("backward", backward)):
        yield from ((name, *line) for line in mode.lines)
    yield "kept", "", 0, sum(kept.values())


def lasts(net: nn.Module, batch: int, size: int) -> list[tuple[nn.Module, Shape]]:
    """What each block's branch ends with, and the shape of the map that it is given; the network is on meta."""
    found: list[tuple[nn.Module, Shape]] = []
    for block in net.modules():
        if isinstance(block, (BasicBlock, Bottleneck)):
            last = block.bn2 if isinstance(block, BasicBlock) else block.bn3
            last.register_forward_pre_hook(lambda module, given: found.append((module, tuple(given[0].shape))))
    net(torch.empty(batch, 3, size, size, device="meta"))
    for last, _ in found:
        last._forward_pre_hooks.clear()
    return found


def counted(name: str, batch: int, size: int, dtype: torch.dtype) -> dict[str, list[Line]]:
    """Heading → lines: the passes of one block, and what all blocks of the network move."""
    single: list[Line] = []
    total: list[Line] = []
    for se in (None, SE()):
        with torch.device("meta"):
            found = lasts(models.create(name, se, seed=0), batch, size)
        for how, end in ends(se is not None).items():
            moved = {"forward": 0, "backward": 0, "kept": 0}
            for number, (last, shape) in enumerate(found):
                one_map = int(torch.Size(shape).numel()) * dtype.itemsize
                for way, operator, read, written in passes(end, last, shape, dtype):
                    moved[way] += read + written
                    if number == 0 and operator and max(read, written) > LEAST * one_map:
                        maps = {"reads": f"{read / one_map:.1f}", "writes": f"{written / one_map:.1f}"}
                        single.append({"end of block": how, "": way, "operator": operator, **maps})
            moved["both ways"] = moved["forward"] + moved["backward"]
            total.append({"ends of all blocks": how, **{way: f"{number / 1e9:.3g}" for way, number in moved.items()}})
    shape = "×".join(map(str, found[0][1]))
    return {
        f"Passes of the first block ({shape}), in maps": single,
        f"Traffic of all {len(found)} blocks, GB a step ({name}, batch {batch} at {size}, {str(dtype)[6:]})": total,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Measured


def networks(name: str, compiled: bool, choice: str) -> dict[str, tuple[nn.Module, bool]]:
    """Name → a network, and whether it is to be compiled."""
    made: dict[str, tuple[nn.Module, bool]] = {}
    for how, fused in (("modules", False), ("fused", True)):
        for label, se in (("no SE", None), ("SE", SE())):
            net = models.create(name, se, seed=0)
            if fused:
                models.fuse(net, choice, ungated=se is None)
            made[f"{label}, {how}"] = (net, False)
            if compiled:
                made[f"{label}, {how}, compiled"] = (copy.deepcopy(net), True)
    return made


def step(net: nn.Module, compiled: bool, batch: int, size: int, device: str) -> Callable[[], object]:
    """A training step; on a GPU in mixed precision and channels_last."""
    on_gpu = device == "cuda"
    layout = torch.channels_last if on_gpu else torch.contiguous_format
    net = net.to(device).to(memory_format=layout).train()  # type: ignore[call-overload]
    x_BCHW = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=layout)
    y_B = torch.randint(1000, (batch,), device=device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, fused=on_gpu)
    run: Any = measuring.compiled(net) if compiled else net

    def once() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=on_gpu):
            loss = F.cross_entropy(run(x_BCHW), y_B)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return once


def seconds(task: Callable[[], object], device: str) -> float:
    """Seconds of one call: on the GPU, or of the processor in this process."""
    if device == "cpu":
        begun = time.process_time()
        task()
        return time.process_time() - begun
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    task()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3


def in_turn(tasks: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each task in each round, in an order that moves on; some rounds before are not counted."""
    names, warm_up = list(tasks), 5 if device == "cuda" else 1
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        for at in range(len(names)):
            name = names[(number + at) % len(names)]
            spent = seconds(tasks[name], device)
            if number >= 0:
                taken[name].append(spent)
    return taken


def timed(taken: Mapping[str, Sequence[float]]) -> list[Line]:
    """One line a way of running: the step without and with SE, their ratio, and that to the fastest without SE."""
    ways = [name.partition(", ")[2] for name in taken if name.startswith("SE, ")]
    best = min((name for name in taken if name.startswith("no SE, ")), key=lambda name: median_interval(taken[name])[0])
    lines = []
    for way in ways:
        ours, plain = taken[f"SE, {way}"], taken[f"no SE, {way}"]
        lines.append(
            {
                "blocks": way,
                "no SE ms": spread([1e3 * value for value in plain], 2),
                "SE ms": spread([1e3 * value for value in ours], 2),
                "SE / no SE": spread([a / b for a, b in zip(ours, plain, strict=True)], 3),
                f"SE / fastest ({best})": spread([a / b for a, b in zip(ours, taken[best], strict=True)], 3),
            }
        )
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# Written


def spread(values: Sequence[float], digits: int) -> str:
    middle, low, high = (f"{value:.{digits}f}" for value in median_interval(values))
    return f"{middle} [{low}, {high}]"


def markdown(lines: Sequence[Line]) -> str:
    columns = list(lines[0])
    right = [all(str(line[name])[:1].isdigit() for line in lines) for name in columns]
    rows = [columns, ["---:" if number else "---" for number in right], *([str(v) for v in x.values()] for x in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine(device: str) -> str:
    """What it ran on and with, in a line."""
    place = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {os.cpu_count()} cores"
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", *["triton"] * HAS_TRITON)]
    told = git_commit()
    return f"{place}; {', '.join(versions)}; commit {told['commit'][:12]}{' and changes' * told['dirty']}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(both)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s: a GPU if any)")
    parser.add_argument("--backbone", default="resnet50", help="of torchvision's blocks (%(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="images (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="of the images in pixels (%(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="(%(default)s)")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--short", action="store_true", help="a small network: shows that it runs, measures nothing")
    parser.add_argument("--to", type=Path, help="folder of the tables (results/benchmarks; of --short: none)")
    given = parser.parse_args()
    device = ("cuda" if torch.cuda.is_available() else "cpu") if given.device == "auto" else given.device
    if device == "cuda" and not torch.cuda.is_available():
        print("error: --device: there is no GPU here", file=sys.stderr)
        return 2
    if given.short:
        given.backbone, given.batch, given.size, given.rounds = "resnet8", 4, 16, 2
    if given.backbone not in BACKBONES:
        print(f"error: --backbone: {given.backbone!r} is not one of {', '.join(BACKBONES)}", file=sys.stderr)
        return 2
    if device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    tables: dict[str, list[Line]] = {}
    measured: list[Line] = []
    if "traffic" in given.parts:
        tables |= counted(given.backbone, given.batch, given.size, torch.bfloat16)
    if "time" in given.parts:
        compiled = device == "cuda" and not given.eager  # on a CPU it takes a minute and brings nothing
        nets = networks(given.backbone, compiled, "auto" if device == "cuda" else "reference")
        run = functools.partial(step, batch=given.batch, size=given.size, device=device)
        taken = in_turn({name: run(*net) for name, net in nets.items()}, given.rounds, device)
        heading = f"Training step of {given.backbone}, batch {given.batch} at {given.size}, {given.rounds} rounds"
        tables[heading] = timed(taken)
        measured = [
            {"network": name, "round": number, "seconds": value}
            for name, values in taken.items()
            for number, value in enumerate(values)
        ]
    notes = ["The short form: it shows that the benchmark runs; its times mean nothing."] * given.short
    if "time" in given.parts and device == "cpu":
        notes.append("On a CPU the fused blocks are computed by plain PyTorch, for reference: it is slower there.")
    parts = ["# Fused ends of residual blocks"]
    parts += [part for heading, lines in tables.items() for part in (f"## {heading}", markdown(lines))]
    text = "\n\n".join([*parts, "\n".join(f"- {note}" for note in [*notes, f"{machine(device)}."])]) + "\n"
    print(text)
    out = {"fused.md": text.encode()}
    if measured:
        out["fused.csv"] = pd.DataFrame(measured).to_csv(index=False, float_format="%.6g").encode()
    to = given.to or (None if given.short else RESULTS)
    for path in files.replace_all(to, out) if to else ():
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
