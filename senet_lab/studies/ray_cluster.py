"""The Ray cluster that a study trains on: one that is there, or one of this machine that ends with the study."""

from __future__ import annotations

import importlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

from senet_lab.config import Config, Executor, UserError, first_line
from senet_lab.studies.executors import postponed
from senet_lab.studies.ray_node import library
from senet_lab.training.quiet import unheard

PACKAGE = Path(__file__).parents[1]
OBJECT_STORE_BYTES = 75 * 2**20  # Ray's least: tasks and records are small
ANSWER_SECONDS = 20  # an address where no cluster has answered by then has none
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


def start(ray: Any, address: str, how: dict[str, Any]) -> None:
    """Connect to the cluster, or start it."""
    environment = QUIET.copy()
    if not address:
        # Whoever reaches a cluster can run code in it, unless it asks for a token. Ray would write one to the home.
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), MARK: how["_temp_dir"]}
    with surroundings(environment), postponed(), unheard(2):  # Ray sets a handler of its own
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
