"""Trains on a Ray cluster: each trial is a task with its share of CPUs and GPUs, on whichever node has room.

The driver alone writes to the store. Tasks tell of their epochs through an actor beside the driver, which asks it for
news. Ray's own retries are off: a task that is lost with its worker or its node is an event of kind `lost`, which the
driver counts, shows and submits again, exactly as with workers of this machine.
"""

from __future__ import annotations

import importlib
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from math import ceil, inf
from pathlib import Path
from typing import Any

from senet_lab.config import Config, RunError, UserError, first_line
from senet_lab.files import whole
from senet_lab.studies import limits
from senet_lab.studies.executors import BEGUN, Event, Ready, default_workers
from senet_lab.studies.limits import Limits
from senet_lab.studies.ray_cluster import (
    OBJECT_STORE_BYTES,
    QUIET,
    Share,
    check_answer,
    end,
    gpus,
    guarded,
    listed,
    runtime_env,
    start,
    surroundings,
)
from senet_lab.studies.ray_node import Inbox, Task, library, train
from senet_lab.training.quiet import unheard
from senet_lab.training.spec import Spec

CANCEL_SECONDS = 2  # a running task is gone in a fraction of one; one whose worker is still starting is not waited for
ROOM_SECONDS = 5.0  # how long what is known of the cluster's nodes is taken to be so


@contextmanager
def connected(config: Config, device: str) -> Iterator[Ready]:
    """The cluster of `executor.address`, or one of this machine alone, which is gone after the body.

    Raises:
        UserError: Ray is not installed, no cluster is at the address, or none of its nodes has room for a trial.
    """
    executor, share = config.executor, Share(config.executor.cpus_per_trial, gpus(config.executor, device))
    how: dict[str, Any] = {"address": executor.address, "runtime_env": runtime_env(config)}
    with ExitStack() as stack:
        with surroundings(QUIET), unheard(2):  # of its log level; an error comes as an exception
            ray = library()
        if executor.address:
            check_answer(executor.address)
        else:
            folder = stack.enter_context(guarded())
            cores = max(default_workers("cpu"), ceil(executor.workers * share.cpus))
            how |= {"address": "local", "num_cpus": cores, "object_store_memory": OBJECT_STORE_BYTES}
            how |= {"_temp_dir": f"{folder}/r", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        stack.callback(end, ray)
        start(ray, executor.address, how)
        room = share.room()
        if not room:
            raise UserError(
                f"no node of the Ray cluster has room for a trial of executor.cpus_per_trial={share.cpus:g} and "
                f"executor.gpus_per_trial={share.gpus:g}; there are {listed()}"
            )
        most, keep, threads = executor.workers or inf, config.training.keep == "last", executor.threads_of_a_trial
        yield Ready(int(min(room, most)), lambda count: RayWorkers(share, most, keep, limits.of(executor), threads))


@dataclass
class Running:
    """A task that has not ended: where it runs, when its training began on the monotonic clock, and the limit that it
    is over, once it has said so."""

    task: Task
    spec: Spec
    checkpoint: Path
    node: tuple[str, str] | None = None  # id and name
    begun: float | None = None
    over: str = ""


class RayWorkers:
    """The cluster, as a driver sees its workers."""

    def __init__(self, share: Share, count: float, keep: bool, most: Limits, threads: int) -> None:
        """As many trials at once as have room, also on nodes that join, but not more than `count`."""
        self.ray = library()
        self.share = share
        self.count = count
        self.most = most
        self.keep = keep
        self.threads = threads
        self.running: dict[Any, Running] = {}  # by reference
        self.number = 0
        self.marker = f".shared-{secrets.token_hex(8)}"
        self.marked: set[Path] = set()
        self.known = (-inf, 0)  # when the room was looked up, and what it was
        resources = {"num_gpus": share.gpus} if share.gpus else {}
        self.train = self.ray.remote(num_cpus=share.cpus, max_retries=0, **resources)(train)
        here = self.ray.get_runtime_context().get_node_id()
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        beside = strategies.NodeAffinitySchedulingStrategy(here, soft=False)  # not to be lost with another node
        self.inbox = self.ray.remote(num_cpus=0, scheduling_strategy=beside)(Inbox).remote()

    @property
    def free(self) -> int:
        now = time.monotonic()
        if now - self.known[0] > ROOM_SECONDS:
            with self.reachable():
                self.known = (now, self.share.room())
        return max(0, int(min(self.known[1], self.count)) - len(self.running))

    def submit(self, spec: Spec, checkpoint: Path, until: int | None = None) -> None:
        self.mark(checkpoint.parent)
        self.number += 1
        data = replace(spec.data, root=str(Path(spec.data.root).resolve()), download=False)
        there = replace(spec, data=data)
        task = Task(there, self.number, checkpoint.resolve(), self.marker, until, self.keep, self.threads, self.most)
        with self.reachable():
            self.running[self.train.remote(task, self.inbox)] = Running(task, spec, checkpoint)

    def mark(self, folder: Path) -> None:
        """Leave the marker in a folder, once."""
        if folder not in self.marked:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / self.marker).touch()
            except OSError as error:
                raise RunError(f"{folder} cannot be written: {error.strerror or error}") from error
            self.marked.add(folder)

    def events(self, timeout: float) -> list[Event]:
        if not self.running:
            time.sleep(timeout)
            return []
        found = []
        with self.reachable():
            ended, _ = self.ray.wait(list(self.running), timeout=timeout)
            numbers = {running.task.number: running for running in self.running.values()}
            for number, value in self.ray.get(self.inbox.take.remote()):  # whatever was said before the end
                running = numbers.get(number)
                if running and "node" in value:
                    running.node = value["node"]
                elif running and BEGUN in value:
                    running.begun = time.monotonic()
                elif running and "over" in value:
                    running.over = value["over"]
                elif running:
                    found.append(Event("epoch", running.spec.trial_id, value))
        found += [self.end(reference) for reference in ended]
        late = {at: reason for at, now in self.running.items() if (reason := now.over or self.most.late(now.begun))}
        return found + [self.cut_off(reference, reason) for reference, reason in late.items()]

    def cut_off(self, reference: Any, reason: str) -> Event:
        """End a training that is over a limit, whatever it does: its process is killed."""
        with self.reachable():
            self.ray.cancel(reference, force=True)
            ended, _ = self.ray.wait([reference], timeout=CANCEL_SECONDS)
        trial_id = self.running[reference].spec.trial_id
        event = self.end(reference) if ended else None
        self.running.pop(reference, None)
        return event if event and event.kind != "lost" else Event("failed", trial_id, {"reason": reason})

    def end(self, reference: Any) -> Event:
        """The last word of a task, or what became of it."""
        running = self.running.pop(reference)
        trial_id = running.spec.trial_id
        errors = self.ray.exceptions
        try:
            kind, value, weights = self.ray.get(reference)
        except (errors.RayTaskError, errors.RuntimeEnvSetupError, errors.TaskUnschedulableError) as error:
            cause = getattr(error, "cause", None) or error
            return Event("halt", trial_id, {"reason": f"Ray cannot run it{on(running)}: {first_line(cause)}"})
        except errors.OutOfMemoryError:
            return Event("memory", trial_id, {"reason": f"Ray killed its worker{on(running)}"})
        except errors.RayError as error:
            return Event("lost", trial_id, {"reason": self.loss(running, error)})
        if weights is not None:
            write(running.checkpoint, weights)
        if "config" in value:
            value["config"] = running.spec.config()  # with the path that the user gave
        return Event(kind, trial_id, value)

    def loss(self, running: Running, error: Exception) -> str:
        """Why a task was lost, in words that name the node."""
        errors = self.ray.exceptions
        with self.reachable():
            alive = {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}
        died = isinstance(error, (errors.LocalRayletDiedError, errors.NodeDiedError))
        if running.node and (died or running.node[0] not in alive):
            return f"its node {running.node[1]} was lost"
        return f"its worker{on(running)} was lost"

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """A RunError if the cluster has gone while the body asks it for something."""
        try:
            yield
        except self.ray.exceptions.RayError as error:
            raise RunError(f"the Ray cluster was lost: {first_line(error)}") from error

    def rest(self) -> None:
        """Ray ends idle processes, and those of GPUs after each task, by itself."""

    def stop(self) -> None:
        """End all tasks, and wait until they have."""
        with suppress(Exception):  # the cluster may have gone
            for reference in self.running:
                self.ray.cancel(reference, force=True)
            if self.running:
                self.ray.wait(list(self.running), num_returns=len(self.running), timeout=CANCEL_SECONDS)
            self.ray.kill(self.inbox)
        self.running.clear()
        for folder in self.marked:
            with suppress(OSError):
                (folder / self.marker).unlink()


def on(running: Running) -> str:
    return f" on the node {running.node[1]}" if running.node else ""


def write(path: Path, content: bytes) -> None:
    """Write a checkpoint that came from a node, whole or not at all."""
    try:
        with whole(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise RunError(f"the checkpoint {path} cannot be written: {error.strerror or error}") from error
