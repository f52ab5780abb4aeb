"""A Ray cluster on this machine, whose nodes may be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from launching import text_of

SMALL_STORE = "--object-store-memory=78643200"


class Nodes:
    """Nodes of a Ray cluster, each a process group with a mark in its environment; `with` starts its head, `a`, and
    kills all of them. Nobody else can use it: its token is in the environment, too."""

    def __init__(self) -> None:
        self.temp = Path(tempfile.mkdtemp(prefix="lab-test-ray-", dir="/tmp"))  # paths of sockets must be short
        self.secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2}
        self.marks: dict[str, str] = {}
        with socket.socket() as probe:
            probe.bind(("", 0))
            self.port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Nodes:
        try:
            self.start("a", "--head", f"--port={self.port}", "--include-dashboard=false")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in self.marks:
            self.kill(name)
        shutil.rmtree(self.temp, ignore_errors=True)

    def start(self, name: str, *words: str) -> None:
        self.marks[name] = f"LAB_RAY_NODE={uuid.uuid4().hex}"
        variable, _, value = self.marks[name].partition("=")
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--disable-usage-stats"]
        # A folder of its own, as on a machine of its own: a node that starts removes the code that was sent to others.
        ray.append(f"--temp-dir={self.temp / name}")
        subprocess.run(
            [*ray, SMALL_STORE, "--node-ip-address=127.0.0.1", f"--node-name={name}", *words],
            env={**os.environ, **self.secret, "HOME": str(self.temp), variable: value},
            check=True,
            capture_output=True,
            timeout=120,
        )

    def pids(self, name: str) -> list[int]:
        mark = self.marks[name]
        return [int(place.parent.name) for place in Path("/proc").glob("[0-9]*/environ") if mark in text_of(place)]

    def kill(self, name: str) -> None:
        """The node is gone at once, as if its plug was pulled."""
        while pids := self.pids(name):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)
