"""A PostgreSQL server of one's own: in a temporary folder, on a free port of this machine, gone in the end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # where Debian puts them
DRIVER = "postgresql+psycopg"


@contextmanager
def server() -> Iterator[str]:
    """The URL of a new server, up to the name of a database. It trusts whoever asks from this machine.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """
    if not BINARIES:
        raise FileNotFoundError("there is no PostgreSQL here: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="postgres") as place:  # not below a folder that is closed to other users
        folder = Path(place)
        user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
        if user:
            shutil.chown(folder, user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        initdb, postgres = (str(BINARIES[-1] / name) for name in ("initdb", "postgres"))
        made = [initdb, "-D", "data", "-U", "lab", "--auth=trust", "--no-sync"]
        subprocess.run(made, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=60)
        words = [postgres, "-D", "data", "-p", str(port), "-k", str(folder), "-h", "127.0.0.1", "-F"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(words, user=user, cwd=folder, stdout=log, stderr=log)
        try:
            url = f"{DRIVER}://lab@127.0.0.1:{port}"
            wait_for(url, process, folder / "log")
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # its fast shutdown: it waits for no client
            process.wait(30)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    engine = sa.create_engine(f"{url}/postgres", poolclass=sa.NullPool)
    for _ in range(100):
        try:
            engine.connect().close()
            return
        except sa.exc.OperationalError:
            if process.poll() is not None:
                raise RuntimeError(log.read_text()) from None
            time.sleep(0.1)
    raise TimeoutError(f"PostgreSQL does not answer: {log.read_text()}")


def database(server: str, name: str) -> str:
    """The URL of a new, empty database of a server."""
    engine = sa.create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    return f"{server}/{name}"
