"""The gates of a trained network, class by class: what figures 6 and 7 of the paper (section 7.2) are drawn from.

The network is run over test images as it is, and every SE block shown is asked for the gates that it applies to them;
nothing of the network is changed. Means and variances are summed up as the images go by, so that neither the number of
images nor that of classes is bounded by memory.

A gate is one number per image and channel. Where nothing is squeezed (section 7.1) it is a map, B × C × H × W; its mean
over H × W stands for it.

Shapes: B batch, N images, C channels of a block, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from senet_lab.config import RunError, first_line
from senet_lab.models.gates import SEBlock
from senet_lab.models.stages import stage_of
from senet_lab.training.data import ALL

Array = np.ndarray[Any, Any]

LAST = 3  # blocks of the last stage that are shown
HIGH, LOW = 0.95, 0.05  # a gate beyond these is saturated: its channel is as good as always on, or off


@dataclass(frozen=True)
class MeasuredBlock:
    """One SE block whose gates are measured."""

    name: str  # as the paper has it, SE_stage_block; the path of a block that is in no stage
    path: str  # of the module
    stage: int | None  # in the paper's numbering; None outside the stages
    block: SEBlock
    stage_params: int  # weights of all SE blocks of its stage; of this one if it is in none


def measured_blocks(net: nn.Module, every: bool = False) -> list[MeasuredBlock]:
    """The panels of the paper's figure 6, in the network's order: the last SE block of each stage and, of the last
    stage, where they saturate, the last three; those that are in no stage, too. With `every`, all."""
    by_stage: dict[int | str, list[tuple[str, SEBlock]]] = {}
    for path, part in net.named_modules():
        if isinstance(part, SEBlock):
            stage = stage_of(net, path)
            by_stage.setdefault(path if stage is None else stage, []).append((path, part))
    blocks = []
    last = max((key for key in by_stage if isinstance(key, int)), default=None)
    for key, members in by_stage.items():
        params = sum(weight.numel() for _, part in members for weight in part.parameters() if weight.requires_grad)
        for number, (path, part) in enumerate(members, start=1):
            name, stage = (f"SE_{key}_{number}", key) if isinstance(key, int) else (key, None)
            shown = LAST if key == last else 1
            if every or number > len(members) - shown:
                blocks.append(MeasuredBlock(name, path, stage, part, params))
    return blocks


@contextmanager
def latest_gates(blocks: Iterable[MeasuredBlock]) -> Iterator[dict[str, Tensor]]:
    """Record the latest gates of each block in the body, by its name, B × C; the network is restored afterwards."""
    latest: dict[str, Tensor] = {}

    def watch(shown: MeasuredBlock, block: nn.Module, given: tuple[Tensor, ...]) -> None:
        latest[shown.name] = shown.block.gate(given[0]).mean((2, 3))

    hooks = [shown.block.register_forward_pre_hook(partial(watch, shown)) for shown in blocks]
    try:
        yield latest
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put the network into evaluation mode for the body, and restore the mode of each module afterwards."""
    modes = [(part, part.training) for part in net.modules()]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


class Tally:
    """Sums over images from which the moments of each class and channel follow. They are taken relative to the first
    image, so that gates which never change have a variance of exactly 0."""

    def __init__(self, classes: int, channels: int) -> None:
        self.images_K = torch.zeros(classes, dtype=torch.float64)
        self.sums_4KC = torch.zeros(4, classes, channels, dtype=torch.float64)  # gates, their squares, high, low ones
        self.first_C: Tensor | None = None

    def add(self, gates_BC: Tensor, labels_B: Tensor) -> None:
        """Add a batch; labels count from 0."""
        if not len(labels_B):
            return
        gates_BC = gates_BC.double().cpu()
        if self.first_C is None:
            self.first_C = gates_BC[0].clone()
        shifted_BC = gates_BC - self.first_C
        values_4BC = torch.stack([shifted_BC, shifted_BC**2, (gates_BC > HIGH).double(), (gates_BC < LOW).double()])
        self.images_K.index_add_(0, labels_B, torch.ones(len(labels_B), dtype=torch.float64))
        self.sums_4KC.index_add_(1, labels_B, values_4BC)

    def frame(self, names: Sequence[str]) -> pd.DataFrame:
        """One line a class and channel: mean, standard deviation over images, and the shares that are saturated."""
        return lines(names, self.images_K.numpy(), *self.moments(), *self.sums_4KC.numpy()[2:])

    def together(self) -> pd.DataFrame:
        """One line a channel, over the images of all classes; and the two variances that they come from."""
        present = self.images_K.numpy() > 0
        images_K = self.images_K.numpy()[present]
        means_KC, squares_KC = (moment[present] for moment in self.moments())
        within_C, between_C = variance_components(images_K, means_KC, squares_KC)
        total_1 = images_K.sum(keepdims=True)
        mean_1C = (images_K @ means_KC / total_1)[None]
        squares_1C = (squares_KC.sum(0) + images_K @ (means_KC - mean_1C) ** 2)[None]
        saturated = self.sums_4KC.numpy()[2:].sum(1, keepdims=True)
        return lines([ALL], total_1, mean_1C, squares_1C, *saturated).assign(within=within_C, between=between_C)

    def moments(self) -> tuple[Array, Array]:
        """Means, and sums of squared deviations from them, K × C."""
        assert self.first_C is not None, "nothing was tallied"
        sums_KC, squares_KC = self.sums_4KC.numpy()[:2]
        offsets_KC = divided(sums_KC, self.images_K.numpy()[:, None])
        deviations_KC = np.maximum(squares_KC - offsets_KC * sums_KC, 0)  # rounding may go below
        return self.first_C.numpy() + offsets_KC, deviations_KC


def lines(
    names: Sequence[str], images_K: Array, means_KC: Array, squares_KC: Array, high_KC: Array, low_KC: Array
) -> pd.DataFrame:
    """One line a class and channel, from sums over the images of each class."""
    classes, channels = means_KC.shape
    images_KC = np.broadcast_to(images_K[:, None], means_KC.shape)
    values_KC = {
        "mean": means_KC,
        "sd": np.sqrt(divided(squares_KC, images_KC - 1)),
        "images": images_KC,
        "high": divided(high_KC, images_KC),
        "low": divided(low_KC, images_KC),
    }
    of = {"channel": np.tile(np.arange(channels), classes), "class": np.repeat(np.array(names, object), channels)}
    return pd.DataFrame(of | {name: value.ravel() for name, value in values_KC.items()})


def divided(above: Array, below: Array) -> Array:
    """The quotient; NaN where the divisor is not positive."""
    below = np.broadcast_to(below, above.shape)
    quotient: Array = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return quotient


def variance_components(images_K: Array, means_KC: Array, squares_KC: Array) -> tuple[Array, Array]:
    """Variance within classes and variance between classes, C each, by the analysis of variance of one factor.

    The first is the mean square within. The second is what is left of the variance of the class means once the share
    that the first alone gives them is taken off, so that without any difference between classes it is 0 on average
    (and may be negative): (mean square between - mean square within) / n₀, n₀ being the images a class.

    Args:
        images_K: images of each class, all above 0.
        means_KC: of each class.
        squares_KC: sums of squared deviations from them.

    Returns:
        NaN where there are too few images, or for the second too few classes.
    """
    total, classes = images_K.sum(), len(images_K)
    shape = means_KC.shape[1:]
    within_C = squares_KC.sum(0) / (total - classes) if total > classes else np.full(shape, np.nan)
    if classes < 2:
        return within_C, np.full(shape, np.nan)
    deviations_KC = means_KC - images_K @ means_KC / total
    between_C = images_K @ deviations_KC**2 / (classes - 1)
    typical = (total - (images_K**2).sum() / total) / (classes - 1)
    return within_C, (between_C - within_C) / typical


@dataclass(frozen=True)
class GateStatistics:
    """The gates of a network.

    Attributes:
        gates: one line a block, channel and class (or ALL): block, stage, channel, class, mean, sd, images, high and
            low (shares of the images whose gate is above 0.95, below 0.05); for ALL also within and between
            (see `variance_components`).
        blocks: one line a block: block, stage, module (its path), squeeze, excitation, stage_se_params (weights of the
            SE of its stage), params (weights of the network).
    """

    gates: pd.DataFrame
    blocks: pd.DataFrame


def measure(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    names: Sequence[str],
    figure: Sequence[int],
    *,
    images_a_class: int = 50,
    every: bool = False,
    report: Callable[[int], None] = lambda images: None,
) -> GateStatistics:
    """Run the network over images, and measure the gates of its SE blocks.

    Args:
        net: with SE blocks; on any device.
        batches: images (B, C, H, W) and labels.
        names: of all classes.
        figure: labels of the classes that are listed one by one, from their first `images_a_class` images each; the
            lines for ALL are made from every image.
        images_a_class: see `figure`.
        every: whether to measure every block, not only the last of each stage.
        report: called with the number of images after each batch.

    Raises:
        RunError: the network cannot take the images, or its gates are not numbers.
    """
    blocks = measured_blocks(net, every)
    device = next(net.parameters()).device
    listed, tallies = ([Tally(len(some), shown.block.channels) for shown in blocks] for some in (figure, names))
    missing = dict.fromkeys(figure, images_a_class)
    done = 0
    with evaluating(net), latest_gates(blocks) as latest:
        for x_BCHW, y_B in batches:
            try:
                net(x_BCHW.to(device))
            except RuntimeError as error:
                size = " × ".join(map(str, x_BCHW.shape[1:]))
                raise RunError(f"the network failed on images of {size}: {first_line(error)}") from error
            rows, places = first_of_classes(y_B, missing)
            for shown, few, every_one in zip(blocks, listed, tallies, strict=True):
                if shown.name not in latest:
                    raise RunError(f"{shown.name} ({shown.path}) has no part in what the network computes")
                gates_BC = latest[shown.name]
                if not gates_BC.isfinite().all():
                    raise RunError(f"the gates of {shown.name} are not all numbers: the training must have diverged")
                every_one.add(gates_BC, y_B)
                few.add(gates_BC[rows], places)
            done += len(y_B)
            report(done)
    frames = [
        frame.assign(block=shown.name, stage=shown.stage)
        for shown, few, every_one in zip(blocks, listed, tallies, strict=True)
        for frame in (few.frame([names[label] for label in figure]), every_one.together())
    ]
    gates = pd.concat(frames, ignore_index=True).astype({"images": int, "stage": "Int64"})
    first = ["block", "stage", "channel", "class", "mean", "sd", "images"]
    return GateStatistics(gates[first + [name for name in gates if name not in first]], block_frame(blocks, net))


def first_of_classes(y_B: Tensor, missing: dict[int, int]) -> tuple[Tensor, Tensor]:
    """Of a batch, the images that are among the first of their class, and the place of that class in `missing`: label
    → how many of its images are still wanted, which is brought up to date."""
    rows, places = [], []
    for place, label in enumerate(missing):
        taken = torch.nonzero(y_B == label).flatten()[: missing[label]]
        missing[label] -= len(taken)
        rows.append(taken)
        places.append(torch.full_like(taken, place))
    return torch.cat(rows), torch.cat(places)


def block_frame(blocks: Sequence[MeasuredBlock], net: nn.Module) -> pd.DataFrame:
    """The facts of each block, a line each (`GateStatistics.blocks`)."""
    return pd.DataFrame(
        {
            "block": [shown.name for shown in blocks],
            "stage": pd.array([shown.stage for shown in blocks], dtype="Int64"),
            "module": [shown.path for shown in blocks],
            "squeeze": [shown.block.squeeze for shown in blocks],
            "excitation": [shown.block.excitation for shown in blocks],
            "stage_se_params": [shown.stage_params for shown in blocks],
            "params": sum(weight.numel() for weight in net.parameters() if weight.requires_grad),
        }
    )
