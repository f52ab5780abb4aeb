"""How long a network takes for one image, beside the plain network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import nn

WARM_UP = 5  # passes that are not timed


def latency(
    net: nn.Module, plain: nn.Module, input_size: Sequence[int], device: str = "cpu", repeats: int = 30
) -> tuple[float, float]:
    """Milliseconds of a forward pass of one image, and how many times as long as the plain network's that is.

    Medians over warm repeats in evaluation mode. The plain network is timed in turn with `net`, so that whatever else
    the machine does meets both.
    """
    image = torch.zeros(1, *input_size, device=device)
    nets = [each.to(device).eval() for each in (net, plain)]
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for repeat in range(repeats + WARM_UP):
            for each, taken in zip(nets, seconds, strict=True):
                begun = time.perf_counter()
                each(image)
                if device == "cuda":
                    torch.cuda.synchronize()
                if repeat >= WARM_UP:
                    taken.append(time.perf_counter() - begun)
    mine, theirs = (statistics.median(taken) for taken in seconds)
    return 1000 * mine, mine / theirs
