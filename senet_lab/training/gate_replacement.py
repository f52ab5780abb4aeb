"""What the gates of a trained network are worth: its errors with each gate replaced, stage by stage.

A gate is replaced by 1, by its mean over the training images, by its mean over the training images of the class that
the image is of (an oracle, for it knows the label), or by that of another test image. What a gate gives for an image is
what it gives in the network as it was trained, whatever is replaced elsewhere. If the mean does as well, the gate is a
scale; if another image's gate does as well, it does not depend on the image.

Shapes: B batch, N images, C channels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from senet_lab.models.gate_factors import replaceable_gates
from senet_lab.models.stages import stage_of
from senet_lab.training.feeds import Epoch, Feed
from senet_lab.training.gate_stats import evaluating
from senet_lab.training.sampling import WHOLE

REPLACEMENTS = ("one", "mean", "class", "shuffled")
BATCH = 64
ALL_STAGES = "all"
Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Means:
    """Path → the mean factor of a gate over the training images of each class, K × C × 1 × 1 or K × C × H × W; and how
    many images each class has (K)."""

    factors: Mapping[str, Tensor]
    images: Tensor

    def over_all(self, path: str) -> Tensor:
        shares_K = self.images / self.images.sum()
        return torch.einsum("k,kchw->chw", shares_K, self.factors[path])[None]


def mean_factors(net: nn.Module, batches: Batches, classes: int) -> Means:
    """The mean factors of all gates of a network; a ValueError for a gate that does not multiply (`gate_factor`)."""
    device = next(net.parameters()).device
    sums: dict[str, Tensor] = {}
    images = torch.zeros(classes, dtype=torch.float64)
    with evaluating(net), replaceable_gates(net) as gates:
        for x_BCHW, y_B in batches:
            net(x_BCHW.to(device))
            y_B = y_B.cpu()
            images.index_add_(0, y_B, torch.ones(len(y_B), dtype=torch.float64))
            for path, gate in gates.items():
                assert gate.own is not None, f"{path} has no part in what the network computes"
                own = gate.own.double().cpu()
                sums.setdefault(path, torch.zeros(classes, *own.shape[1:], dtype=torch.float64)).index_add_(0, y_B, own)
    return Means({path: each / images.clamp(min=1)[:, None, None, None] for path, each in sums.items()}, images)


def in_random_order(feed: Feed) -> Batches:
    """The images of a split, not augmented, in an order that is the same for every network: neighbours in a data set
    are often of one class, and a gate is to be replaced by that of any other image. Batches are of nearly one size, so
    that none has a single image."""
    generator = torch.Generator().manual_seed(0)
    order_N = torch.randperm(len(feed), generator=generator)
    indices = order_N.tensor_split(math.ceil(len(feed) / BATCH))
    whole = [list(range(len(index_B))) for index_B in indices]
    return feed.load(indices, whole, Epoch(None, 0, generator, False, WHOLE))


def replaced_outcomes(
    net: nn.Module,
    batches: Batches,
    how: str,
    means: Means | None,
    report: Callable[[int], None] = lambda images: None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Whether each image is wrong (N): `""` as trained, then with the gates of each stage replaced, then all of them.

    Args:
        net: with gates, on any device.
        batches: images (B, C, H, W) and labels.
        how: one of `REPLACEMENTS`.
        means: of the training images, for `mean` and `class`.
        report: called with the number of images after each batch.
    """
    device = next(net.parameters()).device
    wrong: dict[str, list[Tensor]] = {}
    done = 0
    with evaluating(net), replaceable_gates(net) as gates:
        stages: dict[str, list[str]] = {}
        for path in gates:
            stages.setdefault(str(stage_of(net, path) or path), []).append(path)
        groups = {"": [], **stages} | ({ALL_STAGES: list(gates)} if len(stages) > 1 else {})
        for x_BCHW, y_B in batches:
            x_BCHW, y_B = x_BCHW.to(device), y_B.to(device)
            own: dict[str, Tensor] = {}
            for name, paths in groups.items():
                for path, gate in gates.items():
                    gate.use = replacement(how, path, own, means, y_B) if path in paths else None
                wrong.setdefault(name, []).append((net(x_BCHW).argmax(1) != y_B).cpu())
                own = own or {path: gate.own for path, gate in gates.items() if gate.own is not None}
            done += len(y_B)
            report(done)
    return {name: torch.cat(each).double().numpy() for name, each in wrong.items()}


def replacement(how: str, path: str, own: Mapping[str, Tensor], means: Means | None, y_B: Tensor) -> Tensor:
    """What a gate multiplies a batch by: `own` is what each gate gives for it in the network as it was trained."""
    factor = own[path]
    if how == "one":
        return torch.ones_like(factor[:1])
    if how == "shuffled":  # one cycle of the batch, whose order is random: no image keeps its own
        return factor.roll(1, 0)
    assert means is not None
    mean = means.over_all(path) if how == "mean" else means.factors[path][y_B.cpu()]
    return mean.to(factor)
