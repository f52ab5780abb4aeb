"""Starts the processes that train. They import what they are given by its module, and nothing else of the caller's, so
that whoever calls the lab may do so from a script without a guard, from standard input or from a notebook.
"""

from __future__ import annotations

import multiprocessing as mp
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from senet_lab.config import RunError


def spawned(name: str, serve: Callable[..., None], *args: Any) -> tuple[SpawnProcess, Connection]:
    """A process that runs `serve(pipe, *args)`, and our end of its pipe, which reads as closed when the process dies.

    Args:
        name: what it is called.
        serve: a function of a module that the process can import.
        args: picklable.

    Raises:
        RunError: it cannot be started.
    """
    context = mp.get_context("spawn")
    path = [str(Path.cwd()) if place == "" else place for place in sys.path]
    try:
        ours, theirs = context.Pipe()
        process = context.Process(target=begin, args=(path, serve, theirs, *args), name=name)
        with without_main():
            process.start()
    except OSError as error:
        raise RunError(f"the process '{name}' cannot be started: {error.strerror or error}") from error
    theirs.close()
    return process, ours


def begin(path: list[str], serve: Callable[..., None], *args: Any) -> None:
    """Serve with the caller's path of modules: multiprocessing's own takes the folder in which Python was started for
    the one that it is in."""
    sys.path[:] = path
    serve(*args)


@contextmanager
def without_main() -> Iterator[None]:
    """Have a process that is started in the body not run the caller's script, as multiprocessing's do: a script that
    has no guard would call the lab again in each of them, and standard input cannot be read a second time."""
    with SOLE:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


SOLE = threading.Lock()  # or the second of two threads would take the first one's empty module for the script
