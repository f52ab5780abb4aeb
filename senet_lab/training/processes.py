"""Starts the processes that train, and exchanges messages with them.

A started process does not run the caller's script, so that the lab can be called from a script without a `__main__`
guard, from standard input or from a notebook. It ends when the process that started it ends, because its pipe closes.
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
    """Start a process that runs `serve(pipe, *args)`; returns it and our end of the pipe, which closes when it dies.

    Args:
        name: of the process.
        serve: a function that the process can import.
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
    """Call `serve` with the caller's `sys.path`, in which multiprocessing's own start replaces '' by the folder in
    which Python was started."""
    sys.path[:] = path
    serve(*args)


def receive(pipe: Connection, at_end: Callable[[], object] = lambda: None) -> Iterator[Any]:
    """The messages that a started process receives, in order. When the pipe closes, because the starting process has
    ended, `at_end` is called and the process ends at once."""
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
    """Send a message to the process that started this one; end at once if it has ended."""
    try:
        pipe.send((kind, value))
    except OSError:
        os._exit(0)


@contextmanager
def without_main() -> Iterator[None]:
    """A process that is started in the body does not run the caller's script, as multiprocessing would have it: a
    script without a guard would call the lab again in each process, and standard input cannot be read twice."""
    with MAIN_LOCK:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def end(process: SpawnProcess, seconds: float) -> None:
    """Wait so many seconds for a process to end, then kill it and its children (without /proc: it alone)."""
    process.join(seconds)
    for children in Path("/proc").glob(f"{process.pid}/task/*/children"):
        with suppress(OSError):
            for pid in map(int, children.read_text().split()):
                os.kill(pid, signal.SIGKILL)
    process.kill()
    process.join()


def in_subprocess(name: str, seconds: float, act: Callable[..., Any], *args: Any) -> Any:
    """Call `act(*args)` in a process of its own; returns what it returns, or raises what it raises.

    Raises:
        RunError: it takes longer than `seconds`, or its process ends without an answer.
    """
    process, pipe = spawned(name, answer_once, act, *args)
    try:
        if not pipe.poll(seconds):
            raise RunError(f"{name} did not answer for {seconds:g} seconds")
        raised, result = pipe.recv()
    except EOFError:
        raise RunError(f"{name} has ended without an answer") from None
    finally:
        end(process, 0)
    if raised:
        raise result
    return result


def answer_once(pipe: Connection, act: Callable[..., Any], *args: Any) -> None:
    """The process of `in_subprocess`: call `act`, and send its result or its error."""
    try:
        pipe.send((False, act(*args)))
    except Exception as error:
        pipe.send((True, error))


MAIN_LOCK = threading.Lock()  # two threads must not replace the script's module at the same time
