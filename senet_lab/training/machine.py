"""The machine that a trial is trained on, as its record has it."""

from __future__ import annotations

import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

VERSIONS = ("torch", "torchvision", "pytorch-lightning", "numpy", "optuna", "wandb")


def machine_facts(device: str) -> dict[str, Any]:
    """Memory, device, host and versions of the libraries: what a record tells of the machine."""
    return {
        "peak_memory_mib": peak_memory_mib(device),
        "device_name": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "host": platform.node(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }


def peak_memory_mib(device: str) -> float:
    """Peak memory in MiB: of the GPU since the trial began, or else of this process since it began."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes / (2**20 if sys.platform == "darwin" else 2**10)


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
