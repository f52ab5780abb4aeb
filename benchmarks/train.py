"""Images a second in training the networks for small images: the lab, the plain way, and what the device could do.

    python -m benchmarks.train                              ResNet-20 and WRN-16-4 at 32×32, on made-up images
    python -m benchmarks.train --networks resnet56 --images 1024 --epochs 5

Both ways train with Lightning: the lab as its worker does (`training/trial.py`), the plain way with torchvision's
transforms and a DataLoader (`benchmarks/plain.py`), eager. Epochs of both are timed in turn, the first of each is not
counted. On a CPU the time is that of the processor on one thread, on a GPU that on the wall.

The roofline is that of a training step whose convolutions and matrix products read their operands and write their
results once, and in which all else costs nothing: each takes its multiply-adds at the rate of a large matrix product
measured here, or its bytes at the bandwidth of a large copy measured here, whichever is longer.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks import measuring, plain
from benchmarks.measuring import ratio, spread, within
from senet_lab import compose, models
from senet_lab.config import SE
from senet_lab.studies import plan as plans
from senet_lab.training import data as lab_data
from senet_lab.training import silence, trial
from senet_lab.training.feeds import TensorFeed

BATCH = 128
CLASSES, SIDE = 10, 32
# Networks and sizes of images whose layout `training.layout=auto` was decided by (`training/step.py`).
LAYOUTS = ["resnet8:8", "resnet8:32", "resnet20:32", "resnet56:32", "wrn16_4:32", "mobilenet_050:96", "mobilenet:96"]
VALIDATED = 32  # images: both ways validate each epoch, on next to nothing


def clock(device: str) -> float:
    """Seconds: of the processor, or, once the GPU has done all it was given, on the wall."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Epochs(pl.Callback):
    """When each epoch of the plain way ends."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.ends.append(clock(self.device))


def made_up(count: int, side: int = SIDE) -> tuple[Any, Any]:
    draw = np.random.default_rng(0)
    return draw.integers(256, size=(count, 3, side, side), dtype=np.uint8), draw.integers(CLASSES, size=count)


def lab(network: str, words: list[str], count: int, epochs: int, device: str, side: int = SIDE) -> list[float]:
    """Seconds of each epoch but the first, as a worker trains."""
    training = [f"recipe.epochs={epochs}", f"recipe.batch_size={BATCH}", f"training.device={device}", *words]
    training.append(f"data.size={side}")
    # The images of CIFAR are not needed, and so neither are its files: of the digits only what is said of them is left.
    made = plans.make_plan(compose.compose([f"backbone={network}", "recipe=cifar", *training])).cells[0].spec
    spec = dataclasses.replace(made, channels=3, classes=CLASSES)
    data = compose.compose(["data=cifar10", f"data.size={side}"]).config.data
    images, labels = (torch.from_numpy(each) for each in made_up(count, side))
    feed, few = (TensorFeed(images[:some], labels[:some], data, device) for some in (count, VALIDATED))
    splits = lab_data.Splits(feed, few, few, tuple(map(str, range(CLASSES))))
    ends: list[float] = []
    real, trial.load_trial_splits = trial.load_trial_splits, lambda spec: splits
    try:
        with tempfile.TemporaryDirectory() as place:
            trial.run_trial(spec, Path(place) / "it.ckpt", lambda entry: ends.append(clock(device)))
    finally:
        trial.load_trial_splits = real
    return [after - before for before, after in itertools.pairwise(ends)]


def plainly(network: str, count: int, epochs: int, device: str) -> list[float]:
    """Seconds of each epoch but the first, by the script."""
    config = compose.compose(["data=cifar10", "recipe=cifar", f"recipe.batch_size={BATCH}"]).config
    images, labels = made_up(count)
    loaders = [
        plain.loader(images[:some], labels[:some], config.data, BATCH, training)
        for some, training in ((count, True), (VALIDATED, False))
    ]
    seen = Epochs(device)
    module = plain.Plain(models.create(network, SE(), CLASSES, seed=0), config.recipe)
    plain.trainer(epochs, device, [seen]).fit(module, *loaders)
    return [after - before for before, after in itertools.pairwise(seen.ends)]


def layouts(networks: list[str], count: int, epochs: int, rounds: int) -> tuple[list[Any], list[Any]]:
    """What `training.layout` makes of networks on a CPU, as `name:pixels` with SE and without: the lines of the table,
    and every measurement."""
    lines, measured = [], []
    for network, se in itertools.product(networks, ("with", "without")):
        name, _, pixels = network.partition(":")
        print(f"{name} {se} SE at {pixels} pixels …", file=sys.stderr)
        taken: dict[str, list[float]] = {"contiguous": [], "channels_last": []}
        for number in range(rounds):
            for layout in list(taken)[:: 1 if number % 2 else -1]:
                words = [f"training.layout={layout}", *(["se=null"] if se == "without" else [])]
                taken[layout] += lab(name, words, count, epochs, "cpu", int(pixels))
        speed = {layout: [count / seconds for seconds in each] for layout, each in taken.items()}
        lines.append(
            {
                "network": name,
                "SE": se,
                "pixels": pixels,
                **{f"{layout}, images/s": spread(each, 1) for layout, each in speed.items()},
                "channels_last over contiguous": within(ratio(speed["channels_last"], speed["contiguous"])),
            }
        )
        measured += [
            {"network": network, "way": f"{layout}, {se} SE", "epoch": number, "images a second": value}
            for layout, each in speed.items()
            for number, value in enumerate(each)
        ]
    return lines, measured


# --------------------------------------------------------------------------------------------------------------------
# Roofline


class Products(TorchDispatchMode):
    """Multiply-adds and bytes of each convolution and matrix product that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            tensors = [*args, *(out if isinstance(out, (tuple, list)) else (out,))]
            numbers = sum(each.numel() for each in tensors if isinstance(each, torch.Tensor))
            self.found.append((count(*args, **(kwargs or {}), out_val=out) / 2, float(numbers)))
        return out


def products(network: str) -> list[tuple[float, float]]:
    """Multiply-adds, and numbers read and written, of each product in a training step of a batch."""
    with torch.device("meta"):
        net: nn.Module = models.create(network, SE(), CLASSES, seed=0)
        x_BCHW, y_B = torch.empty(BATCH, 3, SIDE, SIDE), torch.empty(BATCH, dtype=torch.long)
        with Products() as seen:
            F.cross_entropy(net(x_BCHW), y_B).backward()  # type: ignore[no-untyped-call]
    return seen.found


def rates(device: str, short: bool) -> tuple[float, float, int]:
    """Multiply-adds a second of a large matrix product, bytes a second of a large copy, and bytes of a number."""
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    side, numbers = (8192, 2**28) if device == "cuda" else ((256, 2**18) if short else (2048, 2**25))
    a = torch.randn(side, side, device=device).to(kind)
    source = torch.zeros(numbers, device=device, dtype=kind)
    target = torch.empty_like(source)
    taken = measuring.in_turn({"product": lambda: a @ a, "copy": lambda: target.copy_(source)}, 10, device)
    moved = 2 * numbers * source.element_size()
    return side**3 / min(taken["product"]), moved / min(taken["copy"]), source.element_size()


def roofline(network: str, macs_a_second: float, bytes_a_second: float, width: int) -> float:
    """Images a second at best."""
    seconds = sum(max(macs / macs_a_second, numbers * width / bytes_a_second) for macs, numbers in products(network))
    return BATCH / seconds


def main(words: list[str] | None = None) -> int:
    made = measuring.arguments(__doc__, device=True)
    made.add_argument("--networks", nargs="+", default=["resnet20", "wrn16_4"], help="(%(default)s)")
    made.add_argument("--layouts", nargs="*", default=LAYOUTS, help="networks and pixels, on a CPU (%(default)s)")
    made.add_argument("--images", type=int, help="of an epoch (256 on a CPU, 50,000 on a GPU)")
    made.add_argument("--epochs", type=int, default=4, help="of each round, the first not counted (%(default)s)")
    made.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    made.add_argument("words", nargs="*", help="for the lab, such as training.precision=bf16-mixed")
    given = made.parse_args(words)
    device = measuring.chosen(given.device)
    count = given.images or (50_000 if device == "cuda" else 256)
    if given.short:
        given.networks, count, given.epochs, given.rounds = ["resnet8"], 16, 2, 1
        given.layouts = given.layouts[:1]
    torch.set_num_threads(1)
    silence.without_advice()
    warnings.filterwarnings("ignore")
    macs_a_second, bytes_a_second, width = rates(device, given.short)
    lines, measured = [], []
    for network in given.networks:
        print(f"{network} …", file=sys.stderr)
        taken: dict[str, list[float]] = {"lab": [], "plain": []}
        ways: dict[str, Callable[[], list[float]]] = {
            "lab": lambda network=network: lab(network, list(given.words), count, given.epochs, device),  # type: ignore[misc]
            "plain": lambda network=network: plainly(network, count, given.epochs, device),  # type: ignore[misc]
        }
        for number in range(given.rounds):
            for way in list(ways)[:: 1 if number % 2 else -1]:
                taken[way] += ways[way]()
        speed = {way: [count / seconds for seconds in each] for way, each in taken.items()}
        best = roofline(network, macs_a_second, bytes_a_second, width)
        share = statistics.median(speed["lab"]) / best
        lines.append(
            {
                "network, with SE": network,
                "lab, images/s": spread(speed["lab"], 1),
                "plain, images/s": spread(speed["plain"], 1),
                "lab over plain": within(ratio(speed["lab"], speed["plain"])),
                "roofline, images/s": f"{best:.0f}",
                "lab of roofline": f"{share:.0%}",
            }
        )
        measured += [
            {"network": network, "way": way, "epoch": number, "images a second": value}
            for way, each in speed.items()
            for number, value in enumerate(each)
        ]
    tables: dict[str, Any] = {"": lines}
    if device == "cpu" and given.layouts:
        tables["Layouts"], every = layouts(given.layouts, count, given.epochs, given.rounds)
        measured += every
    told = notes(device, count, macs_a_second, bytes_a_second)
    measuring.write("train", "Training, images a second", tables, measured, told, given, device)
    return 0


def notes(device: str, count: int, macs_a_second: float, bytes_a_second: float) -> list[str]:
    time_of = "processor time of one thread" if device == "cpu" else "time on the wall"
    return [
        f"Epochs of {count:,} made-up images of {SIDE}×{SIDE} in batches of {min(BATCH, count)}, augmented as CIFAR's; "
        f"{time_of}. Medians over the epochs, 95% intervals by order statistics.",
        f"Measured: matrix products at {2 * macs_a_second / 1e9:,.0f} GFLOP/s, copies at {bytes_a_second / 1e9:.1f} "
        "GB/s. The roofline counts the convolutions and matrix products of a step alone, forward and backward, each "
        "operand and result moved once.",
    ]


if __name__ == "__main__":
    sys.exit(main())
