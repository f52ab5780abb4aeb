"""What libraries say of themselves is kept off the terminal, which belongs to the study's progress."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ADVISERS = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "torch")


def without_advice() -> None:
    """Lightning and PyTorch say nothing but errors from now on; after their import, which sets levels of its own."""
    for name in ADVISERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """What C++ prints to standard output (1) or standard error (2) within the body goes nowhere."""
    (sys.stdout if descriptor == 1 else sys.stderr).flush()
    heard, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
        yield
    finally:
        os.dup2(heard, descriptor)
        os.close(nowhere)
        os.close(heard)
