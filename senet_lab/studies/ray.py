"""Trials on a Ray cluster: each is a task with its share of CPUs and GPUs, on whichever node has room.

The study attaches to the cluster at `executor.address`; without one Ray starts an instance of its own on this machine,
and ends it with the study. The driver alone writes to the store; tasks send it their epochs through a queue. Ray's own
retries are off: a task that is lost with its worker or its node is an event of kind `lost`, which the driver counts,
shows and submits again, exactly as with workers of this machine.
"""

from __future__ import annotations

import importlib
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import ceil, floor, inf
from pathlib import Path
from typing import Any

from senet_lab.config import Config, RunError, UserError, first_line
from senet_lab.files import whole
from senet_lab.studies import limits, workers
from senet_lab.studies.limits import Limits
from senet_lab.studies.pool import BEGUN, Event, Ready
from senet_lab.studies.ray_task import Task, library, train
from senet_lab.training.quiet import unheard
from senet_lab.training.spec import Spec

PACKAGE = Path(__file__).parents[1]
ANSWER_SECONDS = 20  # an address where no cluster has answered by then has none
CANCEL_SECONDS = 2  # a running task is gone in a fraction of one; one whose worker is still starting is not waited for
ROOM_SECONDS = 5.0  # how long what is known of the cluster's nodes is taken to be so


# ---------------------------------------------------------------------------------------------------------- the cluster


@dataclass(frozen=True)
class Share:
    """What a trial takes of a node."""

    cpus: float
    gpus: float

    @property
    def of_a_gpu(self) -> int:
        """How many trials share a GPU."""
        return floor(1 / (self.gpus or 1) + 1e-6)

    def room(self) -> int:
        """How many trials the nodes that are alive can train side by side."""
        return sum(self.on(node["Resources"]) for node in library().nodes() if node["Alive"])

    def on(self, resources: dict[str, float]) -> int:
        """How many trials a node can train; of a GPU's parts, only those of one GPU make a trial."""
        most = floor(resources.get("CPU", 0) / self.cpus + 1e-6)
        return min(most, int(resources.get("GPU", 0)) * self.of_a_gpu) if self.gpus else most


@contextmanager
def ready(config: Config, device: str, idle: bool = False) -> Iterator[Ready]:
    """The cluster of `executor.address`, or Ray's own instance of this machine, which is gone after the body; a plan
    starts none.

    Raises:
        UserError: Ray is not installed, no cluster is at the address, or none of its nodes has room for a trial.
    """
    executor, most = config.executor, limits.of(config.executor)
    if idle or (config.plan and not executor.address):
        with workers.ready(config, device, idle=True) as found:
            yield found
        return
    wanted = executor.gpus_per_trial
    share = Share(executor.cpus_per_trial, float(device == "cuda") if wanted is None else wanted)
    ray = library()
    if executor.address:
        check_answer(executor.address)
    attach(ray, config)
    try:
        room = share.room()
        if not room:
            raise UserError(
                f"no node of the Ray cluster has room for a trial of executor.cpus_per_trial={share.cpus:g} and "
                f"executor.gpus_per_trial={share.gpus:g}; there are {listed()}"
            )
        count, keep, threads = executor.workers or inf, config.training.keep == "last", executor.threads_of_a_trial
        yield Ready(
            int(min(room, count)),
            lambda _: RayWorkers(share, count, keep, most, threads),
            lambda processes: min(processes, share.of_a_gpu) if device == "cuda" else processes,
        )
    finally:
        with workers.postponed():
            ray.shutdown()


def attach(ray: Any, config: Config) -> None:
    """Connect to the cluster, or have Ray start its own instance; a UserError if it cannot be used."""
    executor = config.executor
    how: dict[str, Any] = {"address": executor.address, "runtime_env": runtime_env(config)}
    if not executor.address:
        cores = max(workers.default_workers("cpu"), ceil(executor.workers * executor.cpus_per_trial))
        how |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
    with workers.postponed(), unheard(2):  # Ray sets a handler of its own; an error comes as an exception
        try:
            ray.init(**how, log_to_driver=False, logging_level="CRITICAL")
        except (Exception, SystemExit) as error:
            where = f"executor.address={executor.address}" if executor.address else "executor=ray"
            raise UserError(f"{where}: the cluster cannot be used: {first_line(error)}") from error


def check_answer(address: str) -> None:
    """A UserError if no cluster answers at `host:port`. Ray itself tries for two minutes and then ends the process."""
    wrong = f"executor.address={address}: there is no Ray cluster"
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"executor.address={address} is neither host:port nor auto")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"{wrong} ({error})") from error
    if address.startswith("ray://"):
        return
    asked = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        subprocess.run(asked, check=True, capture_output=True, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"{wrong}, or none that takes this user's token") from error


def runtime_env(config: Config) -> dict[str, Any]:
    """What is sent to the nodes: the lab's code, and the working directory if a network in it is the user's own."""
    own = [config.backbone]
    if config.study:
        own += [str(row.get("backbone", "")) for row in config.study.rows.values() if isinstance(row, dict)]
    environment: dict[str, Any] = {"py_modules": [str(PACKAGE)], "excludes": ["__pycache__"]}
    if any(":" in backbone for backbone in own):
        here = Path.cwd()
        places = [Path(place).resolve() for place in (config.results, config.data.root)]
        inside = [f"/{place.relative_to(here)}" for place in places if place.is_relative_to(here) and place != here]
        environment["working_dir"] = str(here)
        environment["excludes"] += [*inside, ".git", ".venv", "wandb", "*.ckpt"]
    return environment


def listed() -> str:
    """The nodes that are alive, with what they have."""
    nodes = [(node["NodeManagerAddress"], node["Resources"]) for node in library().nodes() if node["Alive"]]
    return ", ".join(f"{name} ({has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs)" for name, has in nodes)


# ----------------------------------------------------------------------------------------------------- the driver's end


@dataclass
class Running:
    """A task that has not ended: where it runs, when its training began on the monotonic clock, and the limit that it
    is over, once it has reported so."""

    task: Task
    spec: Spec
    checkpoint: Path
    node: tuple[str, str] | None = None  # id and name
    begun: float | None = None
    over: str = ""

    @property
    def place(self) -> str:
        return f" on the node {self.node[1]}" if self.node else ""


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
        queue = importlib.import_module("ray.util.queue")
        self.queue = queue.Queue(actor_options={"num_cpus": 0, "scheduling_strategy": beside})

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
            self.running[self.train.remote(task, self.queue)] = Running(task, spec, checkpoint)

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
        with self.reachable():
            ended, _ = self.ray.wait(list(self.running), timeout=timeout)
            reports = self.queue.get_nowait_batch(self.queue.qsize())  # whatever was reported before the end
        found = self.reported(reports) + [self.end(reference) for reference in ended]
        late = {at: reason for at, now in self.running.items() if (reason := now.over or self.most.late(now.begun))}
        return found + [self.cut_off(reference, reason) for reference, reason in late.items()]

    def reported(self, reports: list[tuple[int, dict[str, Any]]]) -> list[Event]:
        """The epochs among what tasks have reported; the rest is noted."""
        found, numbers = [], {running.task.number: running for running in self.running.values()}
        for number, value in reports:
            running = numbers.get(number)
            if running is None:
                continue  # of a task that has ended
            if BEGUN in value:
                running.begun = time.monotonic()
            elif "node" in value:
                running.node = value["node"]
            elif "over" in value:
                running.over = value["over"]
            else:
                found.append(Event("epoch", running.spec.trial_id, value))
        return found

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
        """How a task has ended by its own account, or what became of it."""
        running = self.running.pop(reference)
        trial_id = running.spec.trial_id
        errors = self.ray.exceptions
        try:
            kind, value, weights = self.ray.get(reference)
        except (errors.RayTaskError, errors.RuntimeEnvSetupError, errors.TaskUnschedulableError) as error:
            cause = getattr(error, "cause", None) or error
            return Event("halt", trial_id, {"reason": f"Ray cannot run it{running.place}: {first_line(cause)}"})
        except errors.OutOfMemoryError:
            return Event("memory", trial_id, {"reason": f"Ray killed its worker{running.place}"})
        except errors.RayError as error:
            return Event("lost", trial_id, {"reason": self.loss(running, error)})
        if weights is not None:
            try:
                with whole(running.checkpoint) as part:
                    part.write_bytes(weights)
            except OSError as error:
                reason = f"the checkpoint {running.checkpoint} cannot be written: {error.strerror or error}"
                raise RunError(reason) from error
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
        return f"its worker{running.place} was lost"

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
            self.queue.shutdown(force=True)
        self.running.clear()
        for folder in self.marked:
            with suppress(OSError):
                (folder / self.marker).unlink()
