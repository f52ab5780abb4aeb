"""What each named network and gate computes, as it was released, kept in `released.json` beside this file.

Trials are recorded under these names for good. If the code behind a name comes to compute something else, its results
must not count as those of the released code; if it is moved, renamed or rewritten and computes the same, they must. So
code is identified by what it computes:

- A network by its initial weights of seed 0, and by what it gives on a small fixed image and fixed weights, in
  evaluation and in training, with the gradient (`measured`): hundredths of a second for CIFAR's, seconds for the
  largest.
- A gate by its initial weights, what it gives on a fixed map and fixed weights, and the gradient (`gate`).

All are kept as a few numbers, and compared with a tolerance that is far above what machines differ in.

`write_released` writes the file anew; a test compares.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet_lab.config import SE
from senet_lab.models.backbones import BACKBONES, builder_of
from senet_lab.models.gates import EXCITATIONS, SQUEEZES
from senet_lab.models.kinds import kind_of, made, names
from senet_lab.models.seeding import seeded

FILE = Path(__file__).with_name("released.json")
CLASSES, CHANNELS, BATCH = 10, 3, 2
SIDES = (16, 32, 96)  # pixels; the smallest that a network takes
# Decimals that tell. Where torch draws normal numbers by other instructions, weights differ in their eighth digit.
DECIMALS = {"weights": 3, "output": 4, "training": 4}
PERIOD = 65_521
Measurement = dict[str, list[float]]


# --------------------------------------------------------------------------------------------------------------------
# Whether it is what was released


@functools.cache
def released_table() -> dict[str, dict[str, Any]]:
    """Name of a network or gate → its measurements; for a network with the `side` of the image."""
    entries: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return entries


def is_network(name: str) -> bool:
    """Whether the backbone of this name is the released one; a ValueError if there is none."""
    return computes(name, builder_of(name))


@functools.cache
def computes(name: str, build: Callable[..., nn.Module]) -> bool:
    """Whether a builder builds what was released under a name."""
    was = released_table().get(name)
    if was is None:
        return False
    try:
        return is_alike(network(build, was["side"]), was)
    except Exception:  # of a builder that takes something else, or a network that does not run: it is another one
        return False


def is_gate(se: SE) -> bool:
    """Whether a design's gates are the released ones."""
    was = released_table().get(gate_name(se))
    return was is not None and is_alike(
        gate(replace(se, args=None)), was
    )  # arguments stand in the trial's name themselves


def is_alike(found: Measurement, was: dict[str, Any]) -> bool:
    return all(
        math.isclose(one, other, rel_tol=0, abs_tol=1.5 * 10.0 ** -DECIMALS[name])
        for name, values in found.items()
        for one, other in zip(values, was[name], strict=True)
    )


def network(build: Callable[..., nn.Module], side: int) -> Measurement:
    return measure(
        lambda: build(num_classes=CLASSES, in_channels=CHANNELS), (BATCH, CHANNELS, side, side), training=True
    )


def gate_name(se: SE) -> str:
    """The name of a gate here: its kind and its words; for SE its words alone."""
    has = kind_of(se.kind).fields
    words = [se.kind] if se.kind != SE().kind else []
    words += [getattr(se, word) for word in ("squeeze", "excitation") if word in has]
    return " ".join([*words, *(word for word in ("bias", "identity_start") if word in has and getattr(se, word))])


# --------------------------------------------------------------------------------------------------------------------
# Measured


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one CPU thread in the body: the tensors are small, and two threads that wait for each other on a busy machine
    take fifty times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def measure(build: Callable[[], nn.Module], shape: tuple[int, ...], *, training: bool = False) -> Measurement:
    """A few numbers that identify a network: of its weights with seed 0, and of its output in evaluation on fixed
    weights and a fixed image in double precision; with `training`, also of its output in training mode and the gradient
    of the image. No output if the network cannot compute in double precision."""
    with seeded(0):
        net = build()
    measurement = {"weights": weights(net)}
    dropped = float(sum(getattr(part, rate) for part, rate in dropout_modules(net)))
    with suppress(Exception):
        net = with_fixed_weights(net.double()).eval()
        x = pattern(math.prod(shape)).view(shape)
        with torch.no_grad(), seeded(0):
            measurement["output"] = summary("output", [net(x)])
        if training:
            x.requires_grad_()
            with seeded(0):
                y = training_output(net)(x)
                (slope,) = torch.autograd.grad((y * pattern(y.numel()).view(y.shape)).sum(), x)
            measurement["training"] = [*summary("training", [y, slope]), dropped]
    return measurement


@one_thread()
def gate(se: SE, channels: int = 8) -> Measurement:
    """The same for the gate of a design."""
    with seeded(0):
        block = made(se, channels, 2, torch.Generator().manual_seed(0))
    measurement = {"weights": weights(block)}
    for weight in block.double().parameters():
        weight.data = pattern(weight.numel()).view(weight.shape) / 2
    maps = (8, channels, 5, 5)  # of such values that the arguments of the gates are -3 to 3
    x = 3 * pattern(8 * channels).view(8, channels, 1, 1) + pattern(math.prod(maps)).view(maps)
    x.requires_grad_()
    y = block(x)
    (slope,) = torch.autograd.grad((y * pattern(y.numel()).view(y.shape)).sum(), x)
    return measurement | {"output": summary("output", [y, slope])}


def weights(net: nn.Module) -> list[float]:
    """Of all parameters and buffers."""
    return summary("weights", [*net.parameters(), *net.buffers()])


def with_fixed_weights(net: nn.Module) -> nn.Module:
    """Replace the weights by fixed ones, the same on every machine and about as large as initial weights."""
    for weight in net.parameters():
        if weight.dim() > 1:
            scale = math.sqrt(2 * weight.shape[0] / weight.numel())
            weight.data = scale * math.sqrt(2) * pattern(weight.numel()).view(weight.shape)
    return net


def training_output(net: nn.Module) -> nn.Module:
    """The network in training mode without what differs by machine: batch norms use their running statistics, because
    those of two images amplify the last digit, and dropout drops nothing."""
    net.train()
    for part, word in dropout_modules(net):
        setattr(part, word, 0.0)
    for part in net.modules():
        if hasattr(part, "running_mean"):
            part.eval()
    return net


def dropout_modules(net: nn.Module) -> list[tuple[nn.Module, str]]:
    """The modules with dropout, and the name of their rate: torch's and timm's."""
    words = ("p", "drop_rate")
    return [(part, word) for part in net.modules() for word in words if isinstance(vars(part).get(word), float)]


def summary(kind: str, tensors: Iterable[Any]) -> list[float]:
    """Two numbers that identify tensors: their sizes, and their directions relative to a fixed one, with a share for
    each tensor."""
    size = direction = 0.0
    for number, tensor in enumerate(tensors):
        share = 1 + math.cos(number) / 2
        values = tensor.detach().double().flatten()
        norm = values.norm().item()
        size += share * (math.log(norm) if norm else -50)
        product = sum((part @ pattern(len(part))).item() for part in values.split(PERIOD))
        direction += share * product / norm if norm else 0.0
    return [round(value, DECIMALS[kind]) + 0.0 for value in (size, direction)]  # no -0.0


@functools.cache
def wave() -> Tensor:
    return torch.arange(1, PERIOD + 1, dtype=torch.float64).cos()


def pattern(count: int) -> Tensor:
    """So many numbers between -1 and 1, the same on every machine."""
    return wave().repeat(-(-count // PERIOD))[:count]


# --------------------------------------------------------------------------------------------------------------------


def network_entry(name: str) -> dict[str, Any]:
    """The entry of a network."""
    for side in SIDES:
        entry = network(BACKBONES[name], side)
        if len(entry) == len(DECIMALS):
            break
    return {"side": side, **entry}


def gate_designs() -> list[SE]:
    """One of each kind of gate, with each of the words that it has."""
    levels: dict[str, list[Any]] = {
        "squeeze": list(SQUEEZES),
        "excitation": list(EXCITATIONS),
        "bias": [False, True],
        "identity_start": [False, True],
    }
    designs = []
    for kind in names():
        has = {word: values for word, values in levels.items() if word in kind_of(kind).fields}
        words = [dict(zip(has, each, strict=True)) for each in itertools.product(*has.values())]
        designs += [SE(kind=kind, **each) for each in words]
    return designs


def write_released(path: Path = FILE) -> None:
    """Write the file anew from the current code."""
    entries = {name: network_entry(name) for name in BACKBONES} | {gate_name(se): gate(se) for se in gate_designs()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    path.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
