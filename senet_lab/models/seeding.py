"""The global generators of torch, NumPy and Python, seeded for the building of networks and gates."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """What is drawn on the CPU inside, from torch's, NumPy's or Python's global generator, depends on `seed` alone and
    moves none of them; None changes nothing."""
    if seed is None:
        yield
        return
    python, array = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # unlike torch.manual_seed, leaves the GPUs' generators alone
        seed_others(seed)
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(array)


def seed_others(seed: int) -> None:
    """Seed Python's and NumPy's global generators. The lab's own networks draw from torch's alone; a network of the
    user's may draw from any."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # all that it takes
