"""In which order the images of a split are fed, and which of them each of several processes takes.

Shapes: B batch, N images of a split.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def mix_seed(*numbers: int) -> int:
    """One seed from several numbers, the same on every machine (Python's and NumPy's hashes are not meant for it)."""
    digest = hashlib.sha256(",".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


@dataclass(frozen=True)
class BatchShare:
    """What one of several processes that train together takes of every batch: each `world`-th image, from that of its
    own number on. A process alone takes all.

    Of a last batch that is smaller than twice their number a part would have one image or none; others of the batch
    fill it up to two, because a batch norm needs them. They count neither in the loss nor in the metrics.

    A batch of a part has two numbers behind its images and labels: how many of these, the first ones, are the
    process's own, and how many the whole batch has.
    """

    number: int = 0
    world: int = 1

    def of(self, count: int) -> tuple[list[int], int]:
        """Which of a batch's `count` images it takes, and how many of them, the first ones, are its own."""
        own = list(range(self.number, count, self.world))
        if len(own) > 1:
            return own, len(own)
        others = [at % count for at in range(self.number, self.number + count) if at % count not in own]
        return own + others[: 2 - len(own)], len(own)


WHOLE = BatchShare()


def order_of(labels_N: Tensor, batch_size: int, seed: int | None, generator: torch.Generator, sampling: str) -> Tensor:
    """Indices of a split's images in the order in which they are fed: their own, or, with a seed, a random one."""
    count = len(labels_N)
    if seed is None:
        order_N = torch.arange(count)
    elif sampling == "balanced":
        order_N = class_aware(labels_N, generator)
    else:
        order_N = torch.randperm(count, generator=generator)
    return order_N[: fed_count(count, batch_size, seed)]


def class_aware(labels_N: Tensor, generator: torch.Generator) -> Tensor:
    """As many indices as there are images, every class equally often (Shen et al. 2016, arXiv 1512.05830).

    They go through a list of classes, and for each class through a list of its images; a list that is at its end is
    shuffled. Here all lists begin anew with each epoch, so that an epoch does not depend on those before.
    """
    count = len(labels_N)
    members = [(labels_N == label).nonzero()[:, 0] for label in sorted(set(labels_N.tolist()))]
    class_N = rounds(torch.arange(len(members)), count, generator)
    order_N = torch.empty(count, dtype=torch.long)
    for position, images in enumerate(members):
        turns = (class_N == position).nonzero()[:, 0]
        order_N[turns] = rounds(images, len(turns), generator)
    return order_N


def rounds(items: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The first `count` of the items, shuffled, shuffled again, and so on."""
    shuffled = [items[torch.randperm(len(items), generator=generator)] for _ in range(-(-count // len(items)))]
    return torch.cat([items[:0], *shuffled])[:count]


def fed_count(count: int, batch_size: int, seed: int | None) -> int:
    """How many of a split's images are fed: all, but that training leaves out a last batch of a single image, in which
    batch norm has no variance to divide by (and which it refuses where H = W = 1)."""
    return count - 1 if seed is not None and count % batch_size == 1 < count else count
