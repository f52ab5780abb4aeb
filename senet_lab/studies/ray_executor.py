"""Trains on a Ray cluster: each trial is a task with its share of CPUs and GPUs, on whichever node has room.

The driver alone writes to the store. Tasks tell of their epochs through an actor beside the driver, which asks it for
news. Ray's own retries are off: a task that is lost with its worker or its node is an event of kind `lost`, which the
driver counts, shows and submits again, exactly as with workers of this machine.

What a task needs of its node: the lab's libraries (its code is sent along, so that it is the driver's), and the data
set under the same path. Its checkpoints lie beside the driver's where the node shares that folder, which a marker in it
tells; else on the node, and are gone with the task.
"""

from __future__ import annotations

import importlib
import os
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from math import ceil, floor, inf
from pathlib import Path
from typing import Any

from senet_lab.config import Config, Executor, RunError, UserError
from senet_lab.studies.executors import Event, Kind, Ready, attempt, default_workers, postponed
from senet_lab.studies.store import first_line
from senet_lab.training.spec import Spec

PACKAGE = Path(__file__).parents[1]
OBJECT_STORE_BYTES = 75 * 2**20  # Ray's least: tasks and records are small
ANSWER_SECONDS = 20  # an address where no cluster has answered by then has none
CANCEL_SECONDS = 5
ROOM_SECONDS = 5.0  # how long what is known of the cluster's nodes is taken to be so
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
MARK = "SENET_LAB_RAY"  # in the environment of what is started here
GUARD = """
import os, pathlib, shutil, signal, sys
sys.stdin.read()  # until the driver has ended
for place in pathlib.Path("/proc").glob("[0-9]*/environ"):
    try:
        if sys.argv[2].encode() in place.read_bytes().split(bytes(1)):
            os.kill(int(place.parent.name), signal.SIGKILL)
    except OSError:
        pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


# --------------------------------------------------------------------------------------------------------------------
# The cluster


@contextmanager
def connected(config: Config, device: str) -> Iterator[Ready]:
    """The cluster of `executor.address`, or one of this machine alone, which is gone after the body.

    Raises:
        UserError: Ray is not installed, no cluster is at the address, or none of its nodes has room for a trial.
    """
    executor, share = config.executor, Share(config.executor.cpus_per_trial, gpus(config.executor, device))
    how: dict[str, Any] = {"address": executor.address, "runtime_env": runtime_env(config)}
    with ExitStack() as stack:
        with surroundings(QUIET), unheard():
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
        most = executor.workers or inf
        yield Ready(int(min(room, most)), lambda count: RayWorkers(share, most, config.training.keep == "last"))


def start(ray: Any, address: str, how: dict[str, Any]) -> None:
    """Connect to the cluster, or start it."""
    environment = QUIET.copy()
    if not address:
        # Whoever reaches a cluster can run code in it, unless it asks for a token. Ray would write one to the home.
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), MARK: how["_temp_dir"]}
    with surroundings(environment), postponed(), unheard():  # Ray sets a handler of its own
        if not address:
            importlib.import_module("ray._raylet").Config.initialize("")  # what was read at the import may be another
        try:
            ray.init(**how, log_to_driver=False, logging_level="CRITICAL")
        except (Exception, SystemExit) as error:
            where = f"executor.address={address}" if address else "executor=ray"
            raise UserError(f"{where}: the cluster cannot be used: {first_line(error)}") from error


def end(ray: Any) -> None:
    """Leave the cluster; one that was started here is stopped."""
    with postponed():
        ray.shutdown()


@contextmanager
def guarded() -> Iterator[str]:
    """A folder for a cluster of this machine. However this process ends, a guard then removes the folder and kills what
    is left of the cluster: some of Ray's processes would outlive a killed driver by a minute or more."""
    folder = tempfile.mkdtemp(prefix="senet_lab-ray-", dir="/tmp")  # paths of sockets must be short
    words = [sys.executable, "-I", "-c", GUARD, folder, f"{MARK}={folder}/r"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True):
        yield folder


def library() -> Any:
    """Ray; a UserError if it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError(
            "executor=ray: Ray is not installed; pip install 'senet-lab[ray]', or `make setup`, does it"
        ) from error


@contextmanager
def surroundings(values: dict[str, str]) -> Iterator[None]:
    """Variables of the environment, for the body and what it starts; what the user has set stays."""
    mine = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


@contextmanager
def unheard() -> Iterator[None]:
    """What Ray's C++ says of its log level goes nowhere: an error comes as an exception."""
    sys.stderr.flush()
    heard = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(heard, 2)
        os.close(nowhere)
        os.close(heard)


def check_answer(address: str) -> None:
    """A UserError if no cluster answers at `host:port`. Ray itself tries for two minutes and then ends the process."""
    wrong = f"executor.address={address}: there is no Ray cluster"
    if address in ("", "auto"):
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


@dataclass(frozen=True)
class Share:
    """What a trial takes of a node."""

    cpus: float
    gpus: float

    def room(self) -> int:
        """How many trials the nodes that are alive can train side by side."""
        return sum(self.on(node["Resources"]) for node in library().nodes() if node["Alive"])

    def on(self, resources: dict[str, float]) -> int:
        """How many trials a node can train; of a GPU's parts, only those of one GPU make a trial."""
        most = floor(resources.get("CPU", 0) / self.cpus + 1e-6)
        if self.gpus:
            most = min(most, int(resources.get("GPU", 0)) * floor(1 / self.gpus + 1e-6))
        return most


def gpus(executor: Executor, device: str) -> float:
    if executor.gpus_per_trial is not None:
        return executor.gpus_per_trial
    return 1.0 if device == "cuda" else 0.0


def listed() -> str:
    """The nodes that are alive, with what they have."""
    nodes = [(node["NodeManagerAddress"], node["Resources"]) for node in library().nodes() if node["Alive"]]
    return ", ".join(f"{name} ({has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs)" for name, has in nodes)


# --------------------------------------------------------------------------------------------------------------------
# The driver's end


@dataclass(frozen=True)
class Task:
    """What is sent to a node.

    Attributes:
        spec: the training, its data set under an absolute path.
        number: of this attempt.
        checkpoint: where the driver has it, as an absolute path.
        marker: name of the file by which a node sees that the folder of the checkpoint is the driver's.
        until: the epoch to stop after; None trains to the end.
        keep: whether the weights are wanted when it has ended.
        threads: CPU threads.
    """

    spec: Spec
    number: int
    checkpoint: Path
    marker: str
    until: int | None
    keep: bool
    threads: int


@dataclass
class Running:
    """A task that has not ended, and where it runs, once it has said so."""

    task: Task
    spec: Spec
    checkpoint: Path
    node: tuple[str, str] | None = None  # id and name


class RayWorkers:
    """The cluster, as a driver sees its workers."""

    def __init__(self, share: Share, most: float, keep: bool) -> None:
        """As many trials at once as have room, also on nodes that join, but not more than `most`."""
        self.ray = library()
        self.share = share
        self.most = most
        self.keep = keep
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
        return max(0, int(min(self.known[1], self.most)) - len(self.running))

    def submit(self, spec: Spec, checkpoint: Path, until: int | None = None) -> None:
        self.mark(checkpoint.parent)
        self.number += 1
        data = replace(spec.data, root=str(Path(spec.data.root).resolve()), download=False)
        threads = max(1, int(self.share.cpus))
        there = replace(spec, data=data)
        task = Task(there, self.number, checkpoint.resolve(), self.marker, until, self.keep, threads)
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
                elif running:
                    found.append(Event("epoch", running.spec.trial_id, value))
        return found + [self.end(reference) for reference in ended]

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
        if isinstance(error, errors.OutOfMemoryError):
            return f"Ray killed its worker{on(running)}, which was out of memory"
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
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise RunError(f"the checkpoint {path} cannot be written: {error.strerror or error}") from error


class Inbox:
    """What tasks have said and the driver has not heard; an actor."""

    def __init__(self) -> None:
        self.said: list[tuple[int, dict[str, Any]]] = []

    def put(self, number: int, value: dict[str, Any]) -> None:
        self.said.append((number, value))

    def take(self) -> list[tuple[int, dict[str, Any]]]:
        said, self.said = self.said, []
        return said


# --------------------------------------------------------------------------------------------------------------------
# The node's end


def train(task: Task, inbox: Any) -> tuple[Kind, dict[str, Any], bytes | None]:
    """Train a trial on this node: the kind and the value of the event that it ends with, and the weights if they are
    wanted and the driver has not got them."""
    import torch

    ray = library()
    context = ray.get_runtime_context()
    name = f"{platform.node()} ({ray.util.get_node_ip_address()})"

    def report(value: dict[str, Any]) -> None:
        with suppress(ray.exceptions.RayError):  # the driver will notice by itself
            ray.get(inbox.put.remote(task.number, value))

    report({"node": (context.get_node_id(), name)})
    torch.set_num_threads(task.threads)
    reason = lack(task.spec)
    if reason:
        return "halt", {"reason": f"on the node {name}: {reason}"}, None
    with place(task) as checkpoint:
        kind, value = attempt(task.spec, checkpoint, task.until, report)
        there = checkpoint == task.checkpoint
        weights = checkpoint.read_bytes() if kind == "done" and task.keep and not there else None
    if kind == "halt":
        value = {"reason": f"on the node {name}: {value['reason']}"}
    return kind, value, weights


def lack(spec: Spec) -> str:
    """What a training needs and this node has not: a GPU, or the data set; empty if nothing."""
    import torch

    from senet_lab.training import data as images

    if spec.device == "cuda" and not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    try:
        images.check_files(spec.data)
        identity = images.facts(spec.data).identity
    except UserError as error:
        return str(error)
    return "" if identity == spec.identity else f"data.root={spec.data.root} is not the data set that the driver has"


@contextmanager
def place(task: Task) -> Iterator[Path]:
    """Where the checkpoint is written to: beside the driver's, or where nothing is shared, a folder for now."""
    if (task.checkpoint.parent / task.marker).exists():
        yield task.checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="senet_lab-") as folder:
        yield Path(folder) / task.checkpoint.name
