"""A real PostgreSQL server on a port and in a folder of its own, which may be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # where Debian puts them


class Postgres:
    """The server; `with` starts it, and ends it and removes its folder."""

    def __init__(self) -> None:
        # pytest's own folders are closed to other users, and it refuses to run as root
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.user = "postgres" if os.getuid() == 0 else None
        if self.user:
            shutil.chown(self.folder, self.user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://lab@127.0.0.1:{self.port}"  # up to the name of a database
        words = [BINARIES[-1] / "initdb", "-D", "data", "-U", "lab", "--auth=trust", "--no-sync"]
        quiet = {"cwd": self.folder, "check": True, "stdout": subprocess.DEVNULL, "timeout": 120}
        subprocess.run(words, user=self.user, **quiet)  # type: ignore[call-overload]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = [BINARIES[-1] / "postgres", "-D", "data", "-p", str(self.port), "-k", self.folder, "-h", "127.0.0.1"]
        until = time.monotonic() + 60
        while True:
            with (self.folder / "log").open("a") as log:
                self.process = subprocess.Popen(
                    [*words, "-F"], user=self.user, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
                )
            while self.process.poll() is None:
                with suppress(sa.exc.OperationalError):
                    self.ask("SELECT 1")
                    return
                time.sleep(0.05)
            # Of one that was killed, children may still be ending.
            assert time.monotonic() < until, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.2)

    def stop(self) -> None:
        """Its fast shutdown, which waits for no client."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)

    def kill(self) -> None:
        """As if its plug was pulled; it recovers at the next start."""
        assert self.process
        self.process.kill()
        self.process.wait(60)

    def ask(self, statement: str, database: str = "postgres") -> list[sa.Row]:  # type: ignore[type-arg]
        engine = sa.create_engine(f"{self.url}/{database}", isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            result = connection.execute(sa.text(statement))
            return list(result) if result.returns_rows else []

    def empty(self) -> str:
        """URL of a new database."""
        name = f"lab_{uuid.uuid4().hex}"
        self.ask(f"CREATE DATABASE {name}")
        return f"{self.url}/{name}"
