"""The seeds of a row trained together in one batched graph, tried: against one after the other, and side by side.

    python -m benchmarks.batched                    4 seeds of SE-ResNet-20, batches of 128 at 32×32
    python -m benchmarks.batched --seeds 8 --device cuda

Seeds of a row are the same network with other weights and other images. *one after another* trains them in turn in one
process; *packed* has a process for each, all at once on the one device, as `executor.workers` does; *together* stacks
their weights and takes a step of all of them at once (`torch.func.stack_module_state` and `vmap`), in which S
convolutions become one of S groups. Their losses are summed, so that the gradient of each stack is that of every seed
by itself, and SGD, which knows of single numbers only, needs no change. Together and one after another are the same
training (`tests/test_benchmarks.py`, in double precision).

The lab trains seeds packed. Together is an experiment: it would have to be 1.3 times as fast as that to be worth its
place. Time is that on the wall in all three ways, as processes side by side have no other in common.
"""

from __future__ import annotations

import multiprocessing as mp
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from benchmarks import measuring
from benchmarks.measuring import ratio, spread, within
from senet_lab import models
from senet_lab.config import SE

CLASSES = 10
GOAL = 1.3  # steps a second, over packed
APART, PACKED, TOGETHER = "one after another", "packed", "together"


def network(name: str, seed: int, device: str, dtype: torch.dtype) -> nn.Module:
    return models.create(name, SE(), CLASSES, seed=seed).to(device, dtype).train()


def optimiser(weights: Any, device: str) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=1e-4, fused=True if device == "cuda" else None)


def batches(seeds: range, batch: int, size: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A made-up batch of each seed: images (S, B, C, H, W) and labels (S, B)."""
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    x_SBCHW = torch.stack([torch.randn(batch, 3, size, size, generator=draw) for draw in draws])
    y_SB = torch.stack([torch.randint(CLASSES, (batch,), generator=draw) for draw in draws])
    return x_SBCHW.to(device, dtype), y_SB.to(device)


class Apart:
    """Seeds that are trained one after another, in the way that is fast for a single network."""

    def __init__(self, name: str, seeds: range, device: str, dtype: torch.dtype = torch.float32) -> None:
        self.device = device
        self.layout = torch.channels_last if device == "cuda" else torch.contiguous_format
        self.nets = [network(name, seed, device, dtype) for seed in seeds]
        for net in self.nets:
            net.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.optimisers = [optimiser(net.parameters(), device) for net in self.nets]

    def step(self, x_SBCHW: Tensor, y_SB: Tensor) -> None:
        """A training step of every seed."""
        for net, optimizer, x_BCHW, y_B in zip(self.nets, self.optimisers, x_SBCHW, y_SB, strict=True):
            optimizer.zero_grad()
            with mixed(self.device):
                logits_BK = net(x_BCHW.contiguous(memory_format=self.layout))
            F.cross_entropy(logits_BK.to(x_BCHW.dtype), y_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def states(self) -> list[dict[str, Tensor]]:
        """Weights and statistics of each seed."""
        return [dict(net.state_dict()) for net in self.nets]


class Together:
    """Seeds that are trained in one graph: every weight and every statistic is a stack of S."""

    def __init__(self, name: str, seeds: range, device: str, dtype: torch.dtype = torch.float32) -> None:
        self.device = device
        nets = [network(name, seed, device, dtype) for seed in seeds]
        self.weights, self.statistics = stack_module_state(nets)  # type: ignore[arg-type]
        self.net = nets[0]  # its forward alone is used
        self.optimiser = optimiser(self.weights.values(), device)

    def step(self, x_SBCHW: Tensor, y_SB: Tensor) -> None:
        """A training step of all seeds; batch norm brings the statistics forward in their stacks."""

        def loss(weights: dict[str, Tensor], statistics: dict[str, Tensor], x_BCHW: Tensor, y_B: Tensor) -> Tensor:
            with mixed(self.device):
                logits_BK = functional_call(self.net, (weights, statistics), (x_BCHW,))
            return F.cross_entropy(logits_BK.to(x_BCHW.dtype), y_B)

        self.optimiser.zero_grad()
        loss_S = vmap(loss)(self.weights, self.statistics, x_SBCHW, y_SB)
        loss_S.sum().backward()
        self.optimiser.step()

    def states(self) -> list[dict[str, Tensor]]:
        """Weights and statistics of each seed."""
        stacks = {**self.weights, **self.statistics}
        seeds = len(next(iter(stacks.values())))
        return [{name: stack[seed].detach() for name, stack in stacks.items()} for seed in range(seeds)]


def mixed(device: str) -> torch.autocast:
    """Mixed precision in bfloat16 on a GPU."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


# --------------------------------------------------------------------------------------------------------------------
# Measured


def seconds(way: Apart | Together, given: tuple[Tensor, Tensor], steps: int, device: str) -> float:
    """On the wall, of so many steps of every seed, until the device has done them."""
    settle(device)
    begun = time.perf_counter()
    for _ in range(steps):
        way.step(*given)
    settle(device)
    return time.perf_counter() - begun


def settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def child(pipe: Connection, name: str, seed: int, batch: int, size: int, device: str) -> None:
    """A process of one seed: for each number of steps that comes over the pipe it takes them, and says when it has."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    seeds = range(seed, seed + 1)
    way, given = Apart(name, seeds, device), batches(seeds, batch, size, device, torch.float32)
    pipe.send("ready")
    try:
        while True:
            seconds(way, given, pipe.recv(), device)
            pipe.send("done")
    except EOFError:
        return


@contextmanager
def packed(name: str, seeds: range, batch: int, size: int, device: str) -> Iterator[Callable[[int], float]]:
    """Processes side by side: what is given has all of them take so many steps, and tells the seconds until the last
    one has.

    Raises:
        EOFError: a process has ended, out of memory for example; what it printed says why.
    """
    context = mp.get_context("spawn")
    pipes, processes = [], []
    for seed in seeds:
        ours, theirs = context.Pipe()
        process = context.Process(target=child, args=(theirs, name, seed, batch, size, device), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)

    def go(steps: int) -> float:
        begun = time.perf_counter()
        for pipe in pipes:
            pipe.send(steps)
        for pipe in pipes:
            pipe.recv()
        return time.perf_counter() - begun

    try:
        for pipe in pipes:
            pipe.recv()
        yield go
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join()


def measure(
    name: str, seeds: range, batch: int, size: int, steps: int, rounds: int, device: str
) -> dict[str, list[float]]:
    """Seconds of so many steps of every seed, each way, in each round; a round before is not counted."""
    apart, together = Apart(name, seeds, device), Together(name, seeds, device)
    given = batches(seeds, batch, size, device, torch.float32)
    with packed(name, seeds, batch, size, device) as go:
        ways: dict[str, Callable[[], float]] = {
            APART: lambda: seconds(apart, given, steps, device),
            PACKED: lambda: go(steps),
            TOGETHER: lambda: seconds(together, given, steps, device),
        }
        names = list(ways)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(-1, rounds):
            for at in range(len(names)):
                way = names[(number + at) % len(names)]
                spent = ways[way]()
                if number >= 0:
                    taken[way].append(spent)
    return taken


def main(words: list[str] | None = None) -> int:
    made = measuring.arguments(__doc__, device=True)
    made.add_argument("--network", default="resnet20", help="(%(default)s)")
    made.add_argument("--seeds", type=int, default=4, help="(%(default)s)")
    made.add_argument("--batch", type=int, help="images of a seed's step (16 on a CPU, 128 on a GPU)")
    made.add_argument("--steps", type=int, help="of each seed in a round (2 on a CPU, 100 on a GPU)")
    made.add_argument("--rounds", type=int, default=15, help="(%(default)s)")
    given = made.parse_args(words)
    device = measuring.chosen(given.device)
    on_gpu, size = device == "cuda", 32
    batch, steps = given.batch or (128 if on_gpu else 16), given.steps or (100 if on_gpu else 2)
    if given.short:
        given.network, given.seeds, given.rounds, batch, steps, size = "resnet8", 2, 2, 4, 1, 8
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    taken = measure(given.network, range(given.seeds), batch, size, steps, given.rounds, device)
    lines = []
    for way, each in taken.items():
        lines.append(
            {
                f"{given.seeds} seeds": way,
                "steps a second": spread([given.seeds * steps / spent for spent in each], 1),
                f"over {APART}": within(ratio(taken[APART], each)),
                f"over {PACKED}": within(ratio(taken[PACKED], each)),
                "goal": f"at least {GOAL} over {PACKED}" if way == TOGETHER and on_gpu else "",
            }
        )
    measured = [
        {"way": way, "round": number, "seconds": spent, "steps": given.seeds * steps}
        for way, each in taken.items()
        for number, spent in enumerate(each)
    ]
    what = f"{given.network} with SE, batches of {batch} at {size}×{size}"
    measuring.write("batched", "Seeds together", {"": lines}, measured, notes(what, steps, device), given, device)
    return 0


def notes(what: str, steps: int, device: str) -> list[str]:
    told = [
        f"{what}; {steps} step{'s' * (steps > 1)} of every seed a round, each way in turn; time on the wall. Ratios "
        "are medians over the rounds, in brackets the 95% interval by order statistics.",
    ]
    if device == "cpu":
        told.append("On a CPU each process has one thread, so that packed has more cores than the other two.")
    else:
        told.append("bf16 mixed precision, eager; channels_last but for together, whose maps have five dimensions. ")
        told[-1] += "Processes share the GPU in turns, unless NVIDIA's MPS runs on the machine."
    return told


if __name__ == "__main__":
    sys.exit(main())
