"""Trials on a Ray cluster: each is a task with its share of CPUs and GPUs, on whichever node has room.

The study attaches to the cluster at `executor.address`; without one Ray starts an instance of its own on this machine,
and ends it with the study. The driver alone writes to the store; tasks send it their epochs through a queue. Ray's own
retries are off: a task that is lost with its worker or its node is an event of kind `lost`, which the driver counts,
shows and submits again, exactly as with workers of this machine.
"""

from __future__ import annotations

import importlib
import re
import secrets
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
from senet_lab.files import atomic_path
from senet_lab.studies import limits, workers
from senet_lab.studies.pool import BEGUN, Capacity, Event
from senet_lab.studies.ray_task import Task, library, train_on_node
from senet_lab.training.silence import silenced
from senet_lab.training.spec import Spec

PACKAGE = Path(__file__).parents[1]
OWN_CODE = r"'(?!torchvision:|timm:)[A-Za-z_][\w.]*:[A-Za-z_]\w*'"  # package.module:attribute, as Python quotes it
ANSWER_SECONDS = 30  # an address where no cluster has answered by then has none
CANCEL_SECONDS = 2  # a running task is gone in a fraction of one; one whose worker is still starting is not waited for


# ---------------------------------------------------------------------------------------------------------- the cluster


@contextmanager
def ray_workers(config: Config, device: str, idle: bool = False) -> Iterator[Capacity]:
    """The cluster of `executor.address`, or Ray's own instance of this machine, which is gone after the body; a plan
    starts none.

    Raises:
        UserError: Ray is not installed, no cluster is at the address, or none of its nodes has room for a trial.
        RunError: the cluster was lost.
    """
    executor = config.executor
    if idle or (config.plan and not executor.address):
        with workers.local_workers(config, device, idle=True) as found:
            yield found
        return
    limits.limits_of(executor)  # before anything is started
    wanted = executor.gpus_per_trial
    share = Share(executor.cpus_per_trial, float(device == "cuda") if wanted is None else wanted)
    ray = library()
    attach(ray, config)
    try:
        room = int(min(share.room(ray), executor.workers or inf))
        if not room:
            raise UserError(
                f"no node of the Ray cluster has room for a trial of executor.cpus_per_trial={share.cpus:g} and "
                f"executor.gpus_per_trial={share.gpus:g}; there are {live_nodes(ray)}"
            )
        sharing = share.of_a_gpu if device == "cuda" else inf
        yield Capacity(room, lambda _: RayWorkers(ray, config, share), lambda processes: int(min(processes, sharing)))
    except ray.exceptions.RayError as error:
        raise RunError(f"the Ray cluster was lost: {first_line(error)}") from error
    finally:
        with workers.signals_postponed():
            ray.shutdown()


@dataclass(frozen=True)
class Share:
    """What a trial takes of a node."""

    cpus: float
    gpus: float

    @property
    def of_a_gpu(self) -> int:
        """How many trials share a GPU."""
        return floor(1 / (self.gpus or 1) + 1e-6)

    def room(self, ray: Any) -> int:
        """How many trials the nodes that are alive can train side by side."""
        return sum(self.on(node["Resources"]) for node in ray.nodes() if node["Alive"])

    def on(self, resources: dict[str, float]) -> int:
        """How many trials a node can train; of a GPU's parts, only those of one GPU make a trial."""
        most = floor(resources.get("CPU", 0) / self.cpus + 1e-6)
        return min(most, int(resources.get("GPU", 0)) * self.of_a_gpu) if self.gpus else most


def attach(ray: Any, config: Config) -> None:
    """Connect to the cluster, or have Ray start its own instance; a UserError if it cannot be used."""
    executor = config.executor
    how: dict[str, Any] = {"address": executor.address, "runtime_env": runtime_env(config)}
    if not executor.address:
        cores = max(workers.default_workers("cpu"), ceil(executor.workers * executor.cpus_per_trial))
        how |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
    elif executor.address != "auto" and not executor.address.startswith("ray://"):
        check_answer(executor.address)
    with workers.signals_postponed(), silenced(2):  # Ray sets a handler of its own; an error comes as an exception
        try:
            ray.init(**how, log_to_driver=False, logging_level="CRITICAL")
        except (Exception, SystemExit) as error:
            where = f"executor.address={executor.address}" if executor.address else "executor=ray"
            raise UserError(f"{where}: the cluster cannot be used: {first_line(error)}") from error


def check_answer(address: str) -> None:
    """A UserError if no cluster answers at `host:port`. Ray itself tries for two minutes and then ends the process."""
    asked = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        subprocess.run(asked, check=True, capture_output=True, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"executor.address={address}: there is no Ray cluster (host:port, or auto), or none that takes this user's "
            "token"
        ) from error


def runtime_env(config: Config) -> dict[str, Any]:
    """What is sent to the nodes: the lab's code, and the working directory if any value of the configuration, of its
    rows or of its search's space names code of the user's own."""
    environment: dict[str, Any] = {"py_modules": [str(PACKAGE)], "excludes": ["__pycache__"]}
    if re.search(OWN_CODE, repr(config)):
        here = Path.cwd()
        places = [Path(place).resolve() for place in (config.results, config.data.root)]
        inside = [f"/{place.relative_to(here)}" for place in places if place.is_relative_to(here) and place != here]
        environment["working_dir"] = str(here)
        environment["excludes"] += [*inside, ".git", ".venv", "wandb", "*.ckpt"]
    return environment


def live_nodes(ray: Any) -> str:
    """The nodes that are alive, with what they have."""
    nodes = [(node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return ", ".join(f"{name} ({has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs)" for name, has in nodes)


# ----------------------------------------------------------------------------------------------------- the driver's end


@dataclass
class RunningTask:
    """A task that has not ended. It reports where it runs (`on_node`), that its training has `begun`, which is noted on
    the monotonic clock, and the limit of memory that it is `over`."""

    reference: Any
    spec: Spec
    checkpoint: Path
    on_node: str = ""
    begun: float | None = None
    over: str = ""


class RayWorkers:
    """The cluster as a pool of workers: as many trials at once as have room, also on nodes that join later, but at most
    `executor.workers`."""

    def __init__(self, ray: Any, config: Config, share: Share) -> None:
        self.ray = ray
        self.config = config
        self.share = share
        self.limits = limits.limits_of(config.executor)
        self.running: dict[int, RunningTask] = {}  # by the number of the attempt
        self.number = 0
        self.marker = f".shared-{secrets.token_hex(8)}"
        self.marked: set[Path] = set()
        resources = {"num_gpus": share.gpus} if share.gpus else {}
        self.train = ray.remote(num_cpus=share.cpus, max_retries=0, **resources)(train_on_node)
        here = ray.get_runtime_context().get_node_id()
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        beside = strategies.NodeAffinitySchedulingStrategy(here, soft=False)  # not to be lost with another node
        queue = importlib.import_module("ray.util.queue")
        self.queue = queue.Queue(actor_options={"num_cpus": 0, "scheduling_strategy": beside})

    @property
    def free(self) -> int:
        room = min(self.share.room(self.ray), self.config.executor.workers or inf)
        return max(0, int(room) - len(self.running))

    def submit(self, spec: Spec, checkpoint: Path, until: int | None = None) -> None:
        folder = checkpoint.parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.marker).touch()
        self.marked.add(folder)
        self.number += 1
        data = replace(spec.data, root=str(Path(spec.data.root).resolve()), download=False)
        keep, executor = self.config.training.keep == "last", self.config.executor
        task = Task(replace(spec, data=data), self.number, checkpoint.resolve(), self.marker, until, keep, executor)
        self.running[self.number] = RunningTask(self.train.remote(task, self.queue), spec, checkpoint)

    def events(self, timeout: float) -> list[Event]:
        if not self.running:
            time.sleep(timeout)
            return []
        ended, _ = self.ray.wait([running.reference for running in self.running.values()], timeout=timeout)
        events = []
        for number, value in self.queue.get_nowait_batch(self.queue.qsize()):  # whatever was reported before the end
            running = self.running.get(number)
            if running is None:
                continue  # of an attempt that has ended
            if BEGUN in value:
                running.begun = time.monotonic()
            elif "node" in value or "over" in value:
                running.on_node, running.over = value.get("node", running.on_node), value.get("over", "")
            else:
                events.append(Event("epoch", running.spec.trial_id, value))
        for number, running in list(self.running.items()):
            if running.reference in ended:
                events.append(self.end(number))
            elif reason := running.over or self.limits.late(running.begun):
                events.append(self.cut_off(number, reason))
        return events

    def cut_off(self, number: int, reason: str) -> Event:
        """Kill a training that exceeds a limit."""
        running = self.running[number]
        self.ray.cancel(running.reference, force=True)
        ended, _ = self.ray.wait([running.reference], timeout=CANCEL_SECONDS)
        event = self.end(number) if ended else None
        self.running.pop(number, None)
        return event if event and event.kind != "lost" else Event("failed", running.spec.trial_id, {"reason": reason})

    def end(self, number: int) -> Event:
        """How a task ended: as it reported, or as Ray says of a lost one."""
        running = self.running.pop(number)
        trial_id, errors = running.spec.trial_id, self.ray.exceptions
        try:
            kind, value, weights = self.ray.get(running.reference)
        except (errors.RayTaskError, errors.RuntimeEnvSetupError, errors.TaskUnschedulableError) as error:
            cause = getattr(error, "cause", None) or error
            return Event("halt", trial_id, {"reason": f"Ray cannot run it{running.on_node}: {first_line(cause)}"})
        except errors.OutOfMemoryError:
            return Event("memory", trial_id, {"reason": f"Ray killed its worker{running.on_node}"})
        except errors.RayError:
            return Event("lost", trial_id, {"reason": f"its worker{running.on_node} was lost"})
        if weights is not None:
            with atomic_path(running.checkpoint) as part:
                part.write_bytes(weights)
        if "config" in value:
            value["config"] = running.spec.config()  # with the path that the user gave
        return Event(kind, trial_id, value)

    def rest(self) -> None:
        """Ray ends idle processes, and those of GPUs after each task, by itself."""

    def stop(self) -> None:
        """Kill all tasks, and wait for their end."""
        references = [running.reference for running in self.running.values()]
        with suppress(Exception):  # the cluster may have gone
            for reference in references:
                self.ray.cancel(reference, force=True)
            if references:
                self.ray.wait(references, num_returns=len(references), timeout=CANCEL_SECONDS)
            self.queue.shutdown(force=True)
        self.running.clear()
        for folder in self.marked:
            with suppress(OSError):
                (folder / self.marker).unlink()
