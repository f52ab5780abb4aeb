"""Measures the speed of this machine: a few training steps and, if images lie in files, a few decodings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from senet_lab import models
from senet_lab.config import Data, RunError
from senet_lab.models.library import is_users_code
from senet_lab.studies.plan import Cell, Plan
from senet_lab.training import memory, parts
from senet_lab.training.data import DataFacts
from senet_lab.training.feeds import FolderFeed
from senet_lab.training.images import Files
from senet_lab.training.transforms import views_of

PASSES_TRAINING = 3  # a training step is the forward pass and about twice its work backward
PIXELS = {"cpu": 2**16, "cuda": 2**22}  # of a batch to calibrate with
CALIBRATING, PROBING = 0.3, 1.5  # seconds of one network, and of all
DECODING = 0.45  # seconds of decoding, of all data sets
DOUBTFUL = 0.8  # of the others' rate; the networks of an ablation differ by less


@dataclass(frozen=True)
class Decoding:
    """Seconds that one image takes from its file to the network, each time that it trains, validates or tests; and that
    all of them take that are decoded `once`, into memory."""

    train: float = 0.0
    validation: float = 0.0
    test: float = 0.0
    once: float = 0.0


def calibrated_rates(plan: Plan, cells: dict[str, Cell]) -> dict[str, float]:
    """Multiply-adds a second in a few training steps of these cells' networks, for as many networks as `PROBING`
    seconds allow. A network that is much slower than the others is measured again, because the machine may have been
    busy."""
    rates: dict[str, float] = {}
    begun = time.monotonic()
    for key, cell in cells.items():
        if not rates or time.monotonic() - begun < PROBING:
            rates[key] = calibrate(plan, cell)
    slowest = min(rates, key=rates.__getitem__, default="")
    if len(rates) > 2 and rates[slowest] < DOUBTFUL * statistics.median(rates.values()):
        rates[slowest] = max(rates[slowest], calibrate(plan, cells[slowest]))
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()  # the driver lives as long as the study, beside workers that want the memory
    return rates


def reading_key(cell: Cell) -> str:
    """Trials with the same word read the same images in the same way."""
    return f"{cell.spec.feed} {cell.spec.data}"


def decodings(plan: Plan, cells: list[Cell], cores: float) -> dict[str, Decoding]:
    """What decoding takes, by `read_by`, from some images of these cells' data sets; nothing where those lie in memory
    already."""
    specs = {reading_key(cell): cell.spec for cell in cells if cell.spec.data.name == "folder"}
    with threads(plan.config.executor.threads):
        return {
            key: decoding(spec.data, spec.feed, plan.facts, cores, DECODING / len(specs)) for key, spec in specs.items()
        }


def decoding(data: Data, feed: str, facts: DataFacts, cores: float, seconds: float) -> Decoding:
    """The time of decoding, from as many images as `seconds` allow, read as a training reads them.

    Args:
        data: the data set.
        feed: whether images are decoded once, into `memory`, or whenever they are fed, from `files`.
        facts: of the data set.
        cores: for the threads (`data.workers`) that decode into memory.
        seconds: to spend.
    """
    here = replace(data, workers=0)
    shown = here.tested
    train, test = facts.samples
    tested = FolderFeed(test, shown).test_batches(1)
    if feed != "memory":
        feeds = [FolderFeed(train, here).batches(1, seed=0), FolderFeed(train, shown).batches(1), tested]
        return Decoding(*(seconds_an_image(images, seconds / 3) for images in feeds))
    held = [(train, facts.train, here), (train, facts.validation, shown), (test, facts.test, shown)]
    again = 0.0
    if views_of(data):
        held.pop()  # the test reads its files
        again = seconds_an_image(tested, seconds / 3)
    once = sum(
        count * seconds_an_image((memory.decode(file, seen, seen is here) for file in split_files(files)), seconds / 3)
        for files, count, seen in held
    )
    return Decoding(test=again, once=once / min(max(1, data.workers), cores))


def split_files(files: Files) -> Iterator[Files]:
    """Each file by itself."""
    return (files.take(np.array([place])) for place in range(len(files)))


def seconds_an_image(images: Iterable[Any], seconds: float) -> float:
    """Seconds that an image takes to be read, by as many as so many seconds allow, but at least two: the lower
    median, as the first warms up, and others meet other work on the machine."""
    ends = [time.perf_counter()]
    with suppress(RunError):  # a training says which image cannot be read
        for _ in images:
            ends.append(time.perf_counter())
            if len(ends) > 2 and ends[-1] - ends[0] >= seconds:
                break
    taken = [end - begin for begin, end in pairwise(ends)]
    return statistics.median_low(taken or [0.0])


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def calibrate(plan: Plan, cell: Cell) -> float:
    """Multiply-adds a second that training the cell's network reaches here, from a few steps of it on batches of the
    study's size, or on fewer images where they are large: on tiny images it is the overhead of each step that counts.
    A network of the user's own is first run where its faults are a trial's result; a small one stands in for it here.
    """
    spec = cell.spec
    own = is_users_code(spec.backbone)
    device = plan.device if torch.cuda.is_available() else "cpu"  # a cluster may have GPUs where there is none here
    with threads(plan.config.executor.threads):
        name, se = ("resnet8", None) if own else (spec.backbone, spec.se)
        net = models.create(name, se, spec.classes, in_channels=spec.channels, stride=spec.stride, seed=0)
        macs = models.cost(net, (spec.channels, spec.data.size, spec.data.size)).macs if own else cell.row.cost.macs
        net.to(device)
        if spec.layout == "channels_last":
            net.to(memory_format=torch.channels_last)
        batch = max(2, min(spec.recipe.batch_size, PIXELS[device] // spec.data.size**2))
        x_BCHW = torch.zeros(batch, spec.channels, spec.data.size, spec.data.size, device=device)
        y_B = torch.zeros(batch, dtype=torch.long, device=device)
        parts.freeze(net, [] if own else spec.freeze.split())
        optimizer = torch.optim.SGD([weight for weight in net.parameters() if weight.requires_grad], lr=0.0)
        steps, begun = 0, time.perf_counter()
        while steps < 2 or time.perf_counter() - begun < CALIBRATING:
            if steps == 1:
                begun = time.perf_counter()  # the first step warms up
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=spec.precision == "bf16-mixed"):
                loss = F.cross_entropy(net(x_BCHW), y_B)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()
            steps += 1
        return PASSES_TRAINING * batch * macs * (steps - 1) / (time.perf_counter() - begun)
