"""What a recipe does to a whole batch, or to the network as it trains: mixup, CutMix, stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth
from torchvision.transforms import v2

from senet_lab.config import Recipe

MIXING = 1 << 40  # last of the numbers that seed it, so that no image's augmentation has the same seed


def mixed_batch(recipe: Recipe, x_BCHW: Tensor, y_B: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images and targets (B, K) of a batch, mixed by torchvision's MixUp or CutMix; `seed` decides how, on every kind
    of device alike."""
    ways = [v2.MixUp(alpha=recipe.mixup, num_classes=classes)] if recipe.mixup else []
    ways += [v2.CutMix(alpha=recipe.cutmix, num_classes=classes)] if recipe.cutmix else []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not the GPUs'
        mixed: tuple[Tensor, Tensor] = v2.RandomChoice(ways)(x_BCHW, y_B)
    return mixed


def set_stochastic_depth(net: nn.Module, rate: float) -> None:
    """Have the network's layers for it drop branches: the last with probability `rate`, those before in proportion.

    Raises:
        ValueError: it has none.
    """
    from timm.layers.drop import DropPath

    layers = [part for part in net.modules() if isinstance(part, (StochasticDepth, DropPath))]
    if not layers:
        raise ValueError(
            f"recipe.stochastic_depth={rate:g}: the network has no layer for it (torchvision's StochasticDepth, timm's "
            "DropPath)"
        )
    for number, layer in enumerate(layers, start=1):
        share = rate * number / len(layers)
        if isinstance(layer, StochasticDepth):
            layer.p = share
        else:
            layer.drop_prob = share
