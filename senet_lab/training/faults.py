"""Tells failures that are results of a network from faults of the machine.

A failure is a result if it would be the same on every machine: the training diverged, or the network raised an error on
these images. It is recorded. Everything else (a full disk, a missing library, a broken GPU, a killed process, a fault
of the lab) is a fault of the machine: the study stops with the cause, nothing is recorded, and the same command
continues once the cause is removed.
"""

from __future__ import annotations

import builtins
import errno
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from senet_lab.config import RunError, UserError, first_line

MEMORY = re.compile(r"can't allocate memory|ALLOC_FAILED|CUDA error: out of memory|bad_alloc")  # in a RuntimeError
# Texts of errors that libraries raise for a fault of the machine without a class of its own.
SYSTEM = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EMFILE", "ENFILE", "EAGAIN", "EPIPE", "ECONNRESET")
MACHINE = re.compile(
    r"DataLoader worker|shared memory|start new thread|bootstrapping phase|\bCUDA\b|cuDNN|CUDNN_|CUBLAS_|\bNCCL\b|gloo"
    + "".join(f"|{re.escape(os.strerror(getattr(errno, name)))}" for name in SYSTEM)
)
MACHINES = (OSError, EOFError, ImportError, MemoryError)
LOST = re.compile(r"^its (worker|process|node)\b.*(ended with exit code|was lost)|cannot import")
COMPILERS = ("torch._dynamo", "torch._inductor", "triton")  # without them the network is the same
ADVICE = {
    r"DataLoader worker|shared memory|Bus error|No space left.*/dev/shm|/torch_\d+": "data.workers=0 needs no shared "
    "memory, a larger /dev/shm has more (docker run --shm-size=1g)",
    r"Too many open files": "`ulimit -n` allows more, data.workers=0 needs fewer",
    r"exit code -9\b": "killed from outside, most often because memory ran out; fewer executor.workers need less",
}


class DivergedError(RuntimeError):
    """A loss is no longer a number: a result of the design and the recipe, not a fault of the lab."""


class NetworkError(RuntimeError):
    """A network cannot be built, or cannot be trained on these images: its result."""


class LostError(RuntimeError):
    """A process of a training was killed; the training goes on from its last epoch if it is begun again."""


@contextmanager
def network_errors() -> Iterator[None]:
    """Raise a NetworkError for an error that the network raises in the body, unless the machine is its cause."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (DivergedError, NetworkError)) or is_memory(error) or is_machine(error):
            raise
        raise NetworkError(describe_error(error)) from error


def classify_failure(error: Exception) -> tuple[Literal["failed", "lost", "memory", "halt"], str]:
    """How a training ended that has raised this error, and the reason in one line: `failed` is a result; after `lost`
    and `memory` the trial is started again; `halt` stops the study."""
    if isinstance(error, DivergedError):
        return "failed", f"diverged: {error}"
    if isinstance(error, NetworkError):
        return "failed", str(error)
    if isinstance(error, LostError):
        return "lost", str(error)
    if is_memory(error):
        return "memory", first_line(error)
    return "halt", with_advice(str(error) if isinstance(error, (RunError, UserError)) else describe_error(error))


def is_memory(error: Exception) -> bool:
    """Whether the device, or the host, had not enough memory."""
    import torch  # here, because the driver's side of workers does without it

    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    short = isinstance(error, RuntimeError) and MEMORY.search(str(error))
    return bool(short) or isinstance(error, (MemoryError, torch.OutOfMemoryError))


def is_machine(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, is a fault of the machine or of the software installed there."""
    if error is None:
        return False
    if isinstance(error, (*MACHINES, RunError, UserError, LostError)):
        return True
    if type(error).__module__.startswith((*COMPILERS, "torch.distributed")) or MACHINE.search(str(error)):
        return True
    return is_machine(error.__cause__ or error.__context__)


def is_no_result(reason: str) -> bool:
    """Whether a recorded failure was a fault of the machine. Earlier versions recorded those, too."""
    if reason.startswith(("diverged: ", "out of memory, also alone: ")):
        return False
    kind = getattr(builtins, reason.partition(":")[0], None)
    if isinstance(kind, type) and issubclass(kind, MACHINES):
        return True
    return bool(LOST.search(reason) or MACHINE.search(reason))


def with_advice(reason: str) -> str:
    """A reason, followed by advice if there is any."""
    return next((f"{reason}; {help}" for words, help in ADVICE.items() if re.search(words, reason)), reason)


def exit_of(code: int | None) -> str:
    """How a process ended, in words."""
    name = f" ({signal.strsignal(-code)})" if code is not None and code < 0 else ""
    return f"ended with exit code {code}{name}"


def describe_error(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
