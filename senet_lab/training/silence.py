"""Keeps messages of libraries off the terminal, where the progress of a study is shown."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ADVISERS = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "torch")


def without_advice() -> None:
    """Let Lightning and PyTorch log errors only. To be called after their import, which sets its own levels."""
    for name in ADVISERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """Discard what is written to standard output (1) or standard error (2) in the body, also by C++."""
    (sys.stdout if descriptor == 1 else sys.stderr).flush()
    terminal, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
        yield
    finally:
        os.dup2(terminal, descriptor)
        os.close(nowhere)
        os.close(terminal)
