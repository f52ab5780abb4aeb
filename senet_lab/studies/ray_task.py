"""The part of a Ray trial that runs on a node: it trains, and reports epochs to the driver.

What a task needs of its node: the lab's libraries (its code is sent along, so that it is the driver's), and the data
set under the same path. Its checkpoints lie beside the driver's where the node shares that folder, which a marker in it
tells; else on the node, and are gone with the task.
"""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senet_lab.config import Executor, UserError
from senet_lab.studies import limits
from senet_lab.studies.limits import memory_watch
from senet_lab.studies.pool import Kind, train_trial
from senet_lab.training.silence import silenced
from senet_lab.training.spec import Spec

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def library() -> Any:
    """Ray; a UserError if it is not installed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        with silenced(2):
            return importlib.import_module("ray")
    except ImportError as error:
        raise UserError(
            "executor=ray: Ray is not installed; pip install 'senet-lab[ray]', or `make setup`, does it"
        ) from error


@dataclass(frozen=True)
class Task:
    """What is sent to a node: the training, with its data set and its checkpoint under absolute paths; the `number` of
    the attempt; the name of the `marker` by which the node sees that the checkpoint's folder is the driver's; the epoch
    to stop after, if it is to; whether to `keep` the weights; and the limits and threads of the executor."""

    spec: Spec
    number: int
    checkpoint: Path
    marker: str
    until: int | None
    keep: bool
    executor: Executor


def train_on_node(task: Task, queue: Any) -> tuple[Kind, dict[str, Any], bytes | None]:
    """Train a trial on this node: the kind and the value of the event that it ends with, and the weights if they are
    wanted and the driver has not got them."""
    import torch

    ray = library()
    name = f" on the node {platform.node()} ({ray.util.get_node_ip_address()})"

    def report(value: dict[str, Any]) -> None:
        with suppress(ray.exceptions.RayError):  # the driver will notice by itself
            queue.put((task.number, value))

    report({"node": name})
    torch.set_num_threads(task.executor.threads_of_a_trial)
    reason = missing_on_node(task.spec)
    if reason:
        return "halt", {"reason": f"{name.strip()}: {reason}"}, None
    with (
        checkpoint_path(task) as checkpoint,
        memory_watch(limits.limits_of(task.executor), lambda reason: report({"over": reason})),
    ):
        kind, value = train_trial(task.spec, checkpoint, task.until, report)
        missing = kind == "done" and task.keep and checkpoint != task.checkpoint
        weights = checkpoint.read_bytes() if missing else None
    if kind == "halt":
        value = {"reason": f"{name.strip()}: {value['reason']}"}
    return kind, value, weights


def missing_on_node(spec: Spec) -> str:
    """What this node lacks for a training: a GPU, or the data set; empty if nothing."""
    import torch

    from senet_lab.training import data as images

    if spec.device == "cuda" and not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    try:
        images.check_files(spec.data)
        identity = images.data_facts(spec.data).identity
    except UserError as error:
        return str(error)
    return "" if identity == spec.identity else f"data.root={spec.data.root} is not the data set that the driver has"


@contextmanager
def checkpoint_path(task: Task) -> Iterator[Path]:
    """The path of the checkpoint: in the driver's folder if the node shares it, else in a temporary folder."""
    if (task.checkpoint.parent / task.marker).exists():
        yield task.checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="senet_lab-") as folder:
        yield Path(folder) / task.checkpoint.name
