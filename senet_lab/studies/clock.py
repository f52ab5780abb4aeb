"""How long the trials of a plan will take: by records of the same network, or by a few steps of it."""

from __future__ import annotations

import heapq
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from senet_lab import models
from senet_lab.studies.plan import Cell, Plan
from senet_lab.studies.store import Store
from senet_lab.training.data import DataFacts
from senet_lab.training.spec import STEP

# A training step is the forward pass and about twice its work backward.
PASSES_TRAINING, PASSES_FORWARD = 3, 1
EPOCH_SECONDS, STEP_SECONDS = 0.03, 0.002  # of overhead, measured with a ResNet-8 on the digits, on a CPU of 2026
PIXELS = {"cpu": 2**16, "cuda": 2**22}  # of a batch to calibrate with
CALIBRATING, PROBING = 0.3, 1.5  # seconds of one network, and of all
DOUBTFUL = 0.8  # of the others' rate; the networks of an ablation differ by less
RECENT = 200  # records whose times are looked at; a store may hold many thousands


@dataclass(frozen=True)
class Expectation:
    """Seconds that a trial is expected to take, by trial id; `rough` where no record of the same network tells."""

    seconds: dict[str, float]
    rough: bool

    def total(self, workers: int) -> float:
        """Seconds for all of them on so many workers, each taking the next when it is free."""
        free = [0.0] * workers
        for seconds in self.seconds.values():
            heapq.heapreplace(free, free[0] + seconds)
        return max(free)


def expect(plan: Plan, store: Store) -> Expectation:
    """How long the trials still to run will take: from records of the same network, data and recipe on the same kind of
    device; else by multiply-adds, at the rate that a few steps of the network reach here (`tried`). Where several
    devices train a trial the steps are tried on one, and the others are taken to be as fast as it and never to wait."""
    known: dict[str, list[float]] = {}
    for record in [*plan.recorded.values(), *store.latest(RECENT)]:
        if record["state"] == "done" and not record["resumed"] and "imported" not in record:
            known.setdefault(pace_key(record["config"]), []).append(record["seconds"])
    keys: dict[int, str] = {}  # by row: its seeds take the same time, and may be thousands
    unknown: dict[str, Cell] = {}
    for cell in plan.todo:
        if id(cell.row) not in keys:
            key = keys[id(cell.row)] = pace_key(cell.spec.config())
            if key not in known:
                unknown.setdefault(key, cell)
    rates = tried(plan, unknown)
    mean = statistics.harmonic_mean([*rates.values()]) if rates else 0.0
    seconds: dict[str, float] = {}
    for cell in plan.todo:
        key = keys[id(cell.row)]
        if key in known:
            seconds[cell.trial_id] = statistics.median(known[key])
        else:
            rate = rates.get(key, mean) * cell.spec.devices
            seconds[cell.trial_id] = trial_macs(cell, plan.facts) / rate + overhead(cell, plan.facts)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()  # the driver lives as long as the study, beside workers that want the memory
    return Expectation(seconds, rough=bool(rates))


def tried(plan: Plan, cells: dict[str, Cell]) -> dict[str, float]:
    """Multiply-adds a second that a few steps of these cells' networks reach, of as many as `PROBING` seconds allow.
    One that is much slower than the others is tried once more: it may have been other work on the machine."""
    rates: dict[str, float] = {}
    begun = time.monotonic()
    for key, cell in cells.items():
        if not rates or time.monotonic() - begun < PROBING:
            rates[key] = calibrate(plan, cell)
    slowest = min(rates, key=rates.__getitem__, default="")
    if len(rates) > 2 and rates[slowest] < DOUBTFUL * statistics.median(rates.values()):
        rates[slowest] = max(rates[slowest], calibrate(plan, cells[slowest]))
    return rates


def pace_key(config: dict[str, Any]) -> str:
    """Trainings with the same key take the same time: all that matters but the seed. A record that lacks some of it, of
    an earlier version or damaged, is like no training that is to come."""
    recipe, data = config.get("recipe") or {}, config.get("data") or {}
    matters = [config.get(key) for key in ("network", "device", "precision", "identity")]
    matters += [config.get(key, plain) for key, plain in STEP.items()]
    matters += [recipe.get(key) for key in ("epochs", "batch_size")]
    matters += [data.get(key, "lacking") for key in ("size", "validation", "subset", "test_subset")]
    matters.append(data.get("test_share", 0.0))
    return repr(matters)


def trial_macs(cell: Cell, facts: DataFacts) -> float:
    """Multiply-adds of a whole training, its validations and its test."""
    images_trained = PASSES_TRAINING * facts.train * cell.spec.recipe.epochs
    images_seen = PASSES_FORWARD * (facts.validation * cell.spec.recipe.epochs + facts.test)
    return float(cell.row.cost.macs * (images_trained + images_seen))


def overhead(cell: Cell, facts: DataFacts) -> float:
    """Seconds of a whole training that go into Lightning, batches, metrics and checkpoints: they count where images and
    networks are tiny."""
    steps = -(-facts.train // cell.spec.recipe.batch_size)
    return cell.spec.recipe.epochs * (EPOCH_SECONDS + steps * STEP_SECONDS)


def calibrate(plan: Plan, cell: Cell) -> float:
    """Multiply-adds a second that training the cell's network reaches here, from a few steps of it on batches of the
    study's size, or on fewer images where they are large: on tiny images it is the overhead of each step that counts.
    A network of the user's own is first run where its faults are a trial's result; a small one stands in for it here.
    """
    spec = cell.spec
    own = ":" in spec.backbone
    device = plan.device if torch.cuda.is_available() else "cpu"  # a cluster may have GPUs where there is none here
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.config.executor.threads)
    try:
        name, se = ("resnet8", None) if own else (spec.backbone, spec.se)
        net = models.create(name, se, spec.classes, in_channels=spec.channels, stride=spec.stride, seed=0)
        macs = models.cost(net, (spec.channels, spec.data.size, spec.data.size)).macs if own else cell.row.cost.macs
        net.to(device)
        if spec.layout == "channels_last":
            net.to(memory_format=torch.channels_last)
        if spec.fused_blocks and device == "cuda":
            models.fuse(net, ungated=True)
        batch = max(2, min(spec.recipe.batch_size, PIXELS[device] // spec.data.size**2))
        x_BCHW = torch.zeros(batch, spec.channels, spec.data.size, spec.data.size, device=device)
        y_B = torch.zeros(batch, dtype=torch.long, device=device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
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
    finally:
        torch.set_num_threads(threads)
