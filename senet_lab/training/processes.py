"""Starts the processes that train, and speaks with them. They import what they are given by its module, and nothing
else of the caller's, so that whoever calls the lab may do so from a script without a guard, from standard input or from
a notebook. They are gone when the process that has started them is gone, however it ended: their pipe closes then.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import Queue
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


def receive(pipe: Connection, at_end: Callable[[], object] = lambda: None) -> Iterator[Any]:
    """What comes over the pipe of a started process, in its order, without an end: when whoever started the process has
    gone, it ends at once, whatever it does, after `at_end`."""
    inbox: Queue[Any] = Queue()

    def listen() -> None:
        try:
            while True:
                inbox.put(pipe.recv())
        finally:
            at_end()
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    return iter(inbox.get, None)


def send(pipe: Connection, kind: str, value: Any) -> None:
    """Send a message to whoever started this process; if that has gone, so is this."""
    try:
        pipe.send((kind, value))
    except OSError:
        os._exit(0)


@contextmanager
def without_main() -> Iterator[None]:
    """Have a process that is started in the body not run the caller's script, as multiprocessing's do: a script that
    has no guard would call the lab again in each of them, and standard input cannot be read a second time."""
    with MAIN_LOCK:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def end(process: SpawnProcess, seconds: float) -> None:
    """Wait for the end of a process so long, then kill it with its children; where there is no /proc, without them."""
    process.join(seconds)
    for children in Path("/proc").glob(f"{process.pid}/task/*/children"):
        with suppress(OSError):
            for pid in map(int, children.read_text().split()):
                os.kill(pid, signal.SIGKILL)
    process.kill()
    process.join()


def in_subprocess(name: str, seconds: float, act: Callable[..., Any], *args: Any) -> Any:
    """What `act(*args)` returns, or raises, in a process of its own.

    Raises:
        RunError: it takes longer than so many seconds, or the process ends before.
    """
    process, pipe = spawned(name, answer_once, act, *args)
    try:
        if not pipe.poll(seconds):
            raise RunError(f"{name} did not answer for {seconds:g} seconds")
        raised, found = pipe.recv()
    except EOFError:
        raise RunError(f"{name} has ended without an answer") from None
    finally:
        end(process, 0)
    if raised:
        raise found
    return found


def answer_once(pipe: Connection, act: Callable[..., Any], *args: Any) -> None:
    """Of the process of `apart`."""
    try:
        pipe.send((False, act(*args)))
    except Exception as error:
        pipe.send((True, error))


MAIN_LOCK = threading.Lock()  # or the second of two threads would take the first one's empty module for the script
