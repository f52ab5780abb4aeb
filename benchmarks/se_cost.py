"""What SE costs in time: networks with it over the same networks without, ours beside timm's and torchvision's.

    python -m benchmarks.se_cost                          a CPU: inference at batch 1, training steps; half an hour
    python -m benchmarks.se_cost --parts inference        of inference, training, cifar
    python -m benchmarks.se_cost --device cuda            a GPU: batch 1 and 256, bf16, eager and compiled

Multiply-adds say 0.3%. Each network is timed in turn with its own plain network: what timm calls `resnet50` for its
`seresnet50`, the same network with its SE modules taken out for `legacy_seresnet50`, and torchvision's ResNet-50 for
torchvision's `SqueezeExcitation` where ours stands, after each last norm. Ours is wrapped around the paper's network
and, as theirs are, around torchvision's. All have random weights. A training step is forward, backward and SGD.

All networks run as their libraries build them. So in inference no plain network has its norms folded into its
convolutions, and ours, which takes the norm before a gate and the gate in one pass, is compared with a norm that takes
a pass of its own. Where all norms are folded SE costs more than it does here.

On a CPU where a process happens to lie in memory moves its ratios by more than a hundredth, however often it measures
them. So each is measured in several fresh processes, and these are what an interval is taken over.
"""

from __future__ import annotations

import argparse
import copy
import functools
import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.ops.misc import SqueezeExcitation

from benchmarks import measuring
from benchmarks.measuring import Line, ratio, spread, within
from senet_lab import models
from senet_lab.config import SE
from senet_lab.models.gates import SQUEEZES
from senet_lab.models.slots import POSITIONS

PARTS = ("inference", "training", "cifar")
GOALS = {"inference cpu": "at most 1.06, and timm's", "cifar cpu": "at most 1.08"}
OURS, PAPER, TIMM, LEGACY, TORCHVISION = "ours", "ours, paper's stride", "timm seresnet50", "timm legacy", "torchvision"


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        part: one of `PARTS`.
        batch: images.
        size: their height and width, in pixels.
        classes: of the network.
        training: whether it is a training step.
        compiled: whether by torch.compile.
        varied: whether each position and squeeze of ours is timed as well.
    """

    part: str
    batch: int
    size: int
    classes: int
    training: bool
    compiled: bool
    varied: bool

    @property
    def title(self) -> str:
        network = "ResNet-20" if self.part == "cifar" else "ResNet-50"
        what = "training step" if self.training else "inference"
        how = "compiled" if self.compiled else "eager"
        return f"{network}, {what}, batch {self.batch} at {self.size}, {how}"


Build = Callable[[], nn.Module]
Networks = dict[str, tuple[str, Build, Build]]
"""Name → name of the plain network, how that is built, and how the network with SE is."""


def resnet50s() -> Networks:
    """Ours beside others'."""
    plain = functools.partial(models.create, "resnet50", None, stride="torchvision", seed=0)
    paper = functools.partial(models.create, "resnet50", None, seed=0)
    return {
        OURS: ("ResNet-50", plain, functools.partial(models.create, "resnet50", SE(), stride="torchvision", seed=0)),
        PAPER: ("ResNet-50, paper's stride", paper, functools.partial(models.create, "resnet50", SE(), seed=0)),
        TIMM: ("timm resnet50", lambda: timm.create_model("resnet50"), lambda: timm.create_model("seresnet50")),
        LEGACY: ("timm legacy without SE", lambda: legacy(False), lambda: legacy(True)),
        TORCHVISION: ("ResNet-50", plain, torchvision_se),
    }


def variants_of(part: str) -> Networks:
    """The network of a part with each position and each squeeze of ours, the paper's block first, and with static gates
    that are folded into its norms."""
    if part == "cifar":
        title, create = "ResNet-20", functools.partial(models.create, "resnet20", num_classes=10, seed=0)
    else:
        title, create = "ResNet-50", functools.partial(models.create, "resnet50", stride="torchvision", seed=0)
    plain, designs = functools.partial(create, se=None), {OURS: SE(), **variants()}
    found: Networks = {name: (title, plain, functools.partial(create, se=design)) for name, design in designs.items()}
    return found | {"ours, static folded": (title, plain, lambda: models.static(create(se=SE(kind="static"))))}


def variants() -> dict[str, SE]:
    """Each position and each squeeze of ours but the paper's."""
    positions = {f"ours, {word}": SE(position=word) for word in POSITIONS if word != SE().position}
    return positions | {f"ours, squeeze {word}": SE(squeeze=word) for word in SQUEEZES if word != SE().squeeze}


def legacy(se: bool) -> nn.Module:
    """timm's port of the released SE-ResNet-50; without SE, its SE modules pass on what they are given."""
    net: nn.Module = timm.create_model("legacy_seresnet50")
    for block in net.modules():
        if hasattr(block, "se_module") and not se:
            block.se_module = nn.Identity()
    return net


def torchvision_se() -> nn.Module:
    """torchvision's ResNet-50 with torchvision's SE after the last norm of each block."""
    net = torchvision.models.resnet50()
    for block in net.modules():
        if isinstance(block, torchvision.models.resnet.Bottleneck):
            channels = block.bn3.num_features
            block.bn3 = nn.Sequential(block.bn3, SqueezeExcitation(channels, channels // 16))
    return net


def groups(case: Case, every: bool) -> dict[str, Networks]:
    """Heading → networks that are timed in turn: ours beside others', by itself so that no more networks than these
    pass through the caches, and with `every` each variant of ours."""
    variants = variants_of(case.part)
    beside = {OURS: variants[OURS]} if case.part == "cifar" else resnet50s()
    more = {f"{case.title}: positions and squeezes": variants} if every and case.varied else {}
    return {case.title: beside, **more}


def task(net: nn.Module, case: Case, device: str) -> Callable[[], object]:
    """One call of the network, or one training step."""
    draw = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(case.batch, 3, case.size, case.size, generator=draw)
    y_B = torch.randint(case.classes, (case.batch,), generator=draw).to(device)
    on_gpu = device == "cuda"
    if on_gpu:
        x_BCHW, net = x_BCHW.to(device, memory_format=torch.channels_last), net.to(device)
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not case.training:
        net.eval().requires_grad_(False)
        if on_gpu:
            net, x_BCHW = net.bfloat16(), x_BCHW.bfloat16()
        run: Any = measuring.compiled(net, mode="max-autotune-no-cudagraphs") if case.compiled else net
        return functools.partial(inferred, run, x_BCHW)
    net.train()
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=on_gpu, foreach=not on_gpu
    )
    run = measuring.compiled(net) if case.compiled else net
    return functools.partial(step, run, optimizer, x_BCHW, y_B)


def inferred(net: nn.Module, x_BCHW: Tensor) -> None:
    with torch.inference_mode():
        net(x_BCHW)


def step(net: nn.Module, optimizer: torch.optim.Optimizer, x_BCHW: Tensor, y_B: Tensor) -> None:
    optimizer.zero_grad()
    with torch.autocast("cuda", torch.bfloat16, enabled=x_BCHW.is_cuda):
        loss = F.cross_entropy(net(x_BCHW), y_B)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def cases(parts: list[str], device: str, short: bool) -> list[Case]:
    """What is timed on a device."""
    found = []
    on_gpu = device == "cuda"
    size = 64 if short else 224
    for compiled in (False, True) if on_gpu else (False,):
        for batch in (1, 256) if on_gpu else (1,):
            found.append(Case("inference", batch, size, 1000, False, compiled, varied=True))
        found.append(Case("training", 256 if on_gpu else 2, size, 1000, True, compiled, varied=False))
        if not on_gpu:  # the batch of the recipe that is made for CPUs
            found.append(Case("cifar", 32, 8 if short else 32, 10, True, compiled, varied=True))
        if on_gpu or not short:  # that of the paper's
            found.append(Case("cifar", 128, 8 if short else 32, 10, True, compiled, varied=on_gpu))
    return [case for case in found if case.part in parts]


Taken = dict[str, list[float]]
"""Name of a network → its seconds, round by round."""


def measure(given: argparse.Namespace, device: str) -> dict[tuple[Case, str], Taken]:
    """In this process: case and heading → what was taken."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    warnings.filterwarnings("ignore", module="torch")
    found = {}
    for case in cases(given.parts, device, given.short):
        for title, networks in groups(case, every=not given.short and not given.standard).items():
            print(f"{title} …", file=sys.stderr)
            torch.compiler.reset()  # of what earlier cases compiled nothing is called again
            builds: dict[str, Build] = {}
            for name, (plain, build_plain, build) in networks.items():
                builds |= {plain: build_plain, name: build}
            tasks = {name: task(copy.deepcopy(build()), case, device) for name, build in builds.items()}
            found[case, title] = measuring.in_turn(tasks, given.rounds, device)
    return found


def end_with_parent() -> None:
    """End this process when the one that started it has ended, however that came about."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def lines_of(case: Case, networks: Networks, taken: list[Taken], device: str) -> list[Line]:
    """A line for each network with SE, of what each process took."""
    lines = []
    for name, (plain, _, _) in networks.items():
        ratios = [ratio(each[name], each[plain]) for each in taken]
        lines.append(
            {
                "with SE": name,
                "ms": spread([median(each[name]) for each in taken], 2, 1e3),
                "without": plain,
                "ms ": spread([median(each[plain]) for each in taken], 2, 1e3),
                "ratio": within(
                    ratios[0] if len(ratios) == 1 else measuring.median_interval([middle for middle, *_ in ratios])
                ),
                "goal": GOALS.get(f"{case.part} {device}", "") if name in (OURS, PAPER) else "",
            }
        )
    return lines


def main(words: list[str] | None = None) -> int:
    made = measuring.arguments(__doc__, device=True)
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(%(default)s)")
    made.add_argument("--standard", action="store_true", help="of ours, only the paper's block: no other position")
    made.add_argument("--processes", type=int, help="that measure one after another (9 on a CPU, 1 on a GPU)")
    made.add_argument("--rounds", type=int, help="in a process, of timing each network in turn (6; 40 in a single one)")
    given = made.parse_args(words)
    device = measuring.chosen(given.device)
    if given.processes is None:
        given.processes = 2 if given.short else 9 if device == "cpu" else 1
    if given.rounds is None:
        given.rounds = 2 if given.short else 6 if given.processes > 1 else 40
    fresh = multiprocessing.get_context("spawn")
    taken = []
    for number in range(given.processes):
        print(f"process {number + 1} of {given.processes}", file=sys.stderr)
        with ProcessPoolExecutor(1, mp_context=fresh, initializer=end_with_parent) as pool:
            taken.append(pool.submit(measure, given, device).result())
    tables: dict[str, list[Line]] = {}
    measured: list[Line] = []
    for case, title in taken[0]:
        each = [found[case, title] for found in taken]
        networks = groups(case, every=True)[title]
        tables[title] = lines_of(case, networks, each, device)
        measured += [
            {"case": title, "network": name, "process": process, "round": number, "seconds": seconds}
            for process, found in enumerate(each)
            for name, singles in found.items()
            for number, seconds in enumerate(singles)
        ]
    measuring.write("se_cost", "What SE costs in time", tables, measured, notes(given, device), given, device)
    return 0


def notes(given: argparse.Namespace, device: str) -> list[str]:
    clock = "CUDA events, bf16, channels_last" if device == "cuda" else "processor time of one thread, float32"
    turns = f"{given.rounds} rounds in which every network is timed once, in turn"
    if given.processes == 1:
        how = f"{turns}. Ratios are medians over the rounds, each over the plain network in the same round"
    else:
        how = (
            f"{given.processes} fresh processes one after another, in each {turns}. A process's ratio is the median "
            "over its rounds, each over the plain network in the same round; the table has medians over the processes"
        )
    return [
        f"{clock}; {how}; in brackets the 95% interval by order statistics.",
        "r = 16 everywhere. ours: wrapped around torchvision's ResNet-50, unless the paper's stride is named.",
        "Networks run as they are built: no norm is folded into a convolution, with SE or without. Ours takes the norm "
        "before a gate and the gate in one pass on a CPU; where all norms are folded SE costs more than here.",
    ]


if __name__ == "__main__":
    sys.exit(main())
