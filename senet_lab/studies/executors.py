"""Who trains: warm worker processes on this machine, or a Ray cluster.

A worker of this machine imports the libraries once, then trains one trial after another. It speaks to the driver over a
pipe and ends with it: when the pipe closes, however the driver ended, the worker is gone at once.
"""

from __future__ import annotations

import errno
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import Queue
from typing import Any, Literal, Protocol

from senet_lab.config import Config, RunError, UserError
from senet_lab.studies.store import first_line
from senet_lab.training.spec import Spec

Task = tuple[Spec, Path, int | None]  # a training, its checkpoint, and the epoch to stop after
SIGNALS = (signal.SIGINT, signal.SIGTERM)
Kind = Literal["epoch", "stopped", "done", "failed", "halt", "lost"]


@dataclass(frozen=True)
class Event:
    """What happened to a trial.

    Attributes:
        kind: `epoch` (its metrics, or a notice), `stopped` (its epochs, where it was to stop), `done` (its record),
            `failed` (the reason: a result), `halt` (the study cannot go on: a full disk, an unreadable image) or `lost`
            (its worker was killed).
        trial_id: of the trial.
        value: what belongs to the kind.
    """

    kind: Kind
    trial_id: str
    value: dict[str, Any]


class Pool(Protocol):
    """Whoever trains for a driver."""

    @property
    def free(self) -> int:
        """How many trials that are submitted now are trained now."""

    def submit(self, spec: Spec, checkpoint: Path, until: int | None = None) -> None:
        """Train a trial, to its end or until an epoch."""

    def events(self, timeout: float) -> list[Event]:
        """What happened, waiting for at most `timeout` seconds."""

    def stop(self) -> None:
        """End all trainings, whatever they do."""


@dataclass(frozen=True)
class Ready:
    """Who can train: how many trials side by side, and a pool for (at least) so many of them."""

    room: int
    pool: Callable[[int], Pool]


@contextmanager
def ready(config: Config, device: str, idle: bool = False) -> Iterator[Ready]:
    """Whoever `config.executor` names, for the time of the body. Where nothing is to be trained (`idle`) no cluster is
    needed; a plan looks at the cluster that has an address, and starts none.

    Raises:
        UserError: a cluster that cannot be reached, or where no trial has room; more GPUs for a trial than there are.
    """
    executor = config.executor
    if executor.name == "ray" and not idle and (executor.address or not config.plan):
        from senet_lab.studies import ray_executor

        with ray_executor.connected(config, device) as found:
            yield found
    else:
        devices = config.training.devices
        if not idle and device == "cuda" and devices > default_workers(device):
            raise UserError(f"training.devices={devices}: PyTorch finds {default_workers(device)} GPUs here")
        room = executor.workers or max(1, default_workers(device) // devices)
        yield Ready(room, lambda count: Workers(count, executor.threads))


class Workers:
    """A fixed number of worker processes, started when first needed and again when one was killed."""

    def __init__(self, count: int, threads: int) -> None:
        self.count = count
        self.threads = threads
        self.workers: list[Worker] = []

    @property
    def free(self) -> int:
        """How many trials that are submitted now are trained now."""
        return self.count - sum(worker.trial_id is not None for worker in self.workers)

    def submit(self, spec: Spec, checkpoint: Path, until: int | None = None) -> None:
        """Train a trial on a free worker, to its end or until an epoch."""
        idle = [worker for worker in self.workers if worker.trial_id is None]
        if not idle:
            taken = {worker.slot for worker in self.workers}
            with undisturbed():
                idle = [Worker(self.threads, next(slot for slot in range(self.count) if slot not in taken))]
                self.workers += idle
        idle[0].train(spec, checkpoint, until)

    def events(self, timeout: float) -> list[Event]:
        """What happened, waiting for at most `timeout` seconds."""
        busy = {worker.pipe: worker for worker in self.workers if worker.trial_id is not None}
        if not busy:
            time.sleep(timeout)
        return [self.event(busy[pipe]) for pipe in wait(list(busy), timeout) if isinstance(pipe, Connection)]

    def event(self, worker: Worker) -> Event:
        """The next word of a worker that has something to say, if only that it is dead."""
        trial_id = worker.trial_id
        assert trial_id is not None
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            self.workers.remove(worker)
            kind, value = "lost", {"reason": f"its worker ended with exit code {worker.process.exitcode}"}
        if kind != "epoch":
            worker.trial_id = None
        return Event(kind, trial_id, value)

    def stop(self) -> None:
        """End all workers, whatever they do."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()
        self.workers.clear()


class Worker:
    """The driver's end of one worker process; `slot` numbers those that run side by side."""

    def __init__(self, threads: int, slot: int) -> None:
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, threads, slot), name=f"senet_lab worker {slot}")
        self.slot = slot
        self.trial_id: str | None = None
        try:
            self.process.start()
        except OSError as error:
            raise RunError(f"a worker process cannot be started: {error.strerror or error}") from error
        theirs.close()  # so that the pipe reads as closed when the worker dies

    def train(self, spec: Spec, checkpoint: Path, until: int | None = None) -> None:
        self.trial_id = spec.trial_id
        with suppress(OSError):  # it died while idle; reading the pipe will tell so
            self.pipe.send((spec, checkpoint, until))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the body is done, and are blocked for good in processes that are started in it:
    Ctrl-C reaches the whole process group, and the driver decides what becomes of its workers."""
    with postponed():
        resource_tracker.ensure_running()  # its start would unblock them
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def postponed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the body is done; their handlers are then what they were before."""
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def work(pipe: Connection, threads: int, slot: int) -> None:
    """The worker process: train what comes over the pipe until it closes."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    tasks: Queue[Task] = Queue()
    threading.Thread(target=listen, args=(pipe, tasks), daemon=True).start()

    import torch

    torch.set_num_threads(threads)

    def send(kind: Kind, value: dict[str, Any]) -> None:
        try:
            pipe.send((kind, value))
        except OSError:
            os._exit(0)  # the driver has gone

    while True:
        spec, checkpoint, until = tasks.get()
        if torch.cuda.is_available() and spec.devices == 1:  # several devices have processes of their own
            torch.cuda.set_device(slot % torch.cuda.device_count())
        send(*attempt(spec, checkpoint, until, lambda epoch: send("epoch", epoch), slot))


def attempt(
    spec: Spec, checkpoint: Path, until: int | None, report: Callable[[dict[str, Any]], None], slot: int = 0
) -> tuple[Kind, dict[str, Any]]:
    """Train in this process; the kind and the value of the event that it ends with. Each epoch is reported."""
    import torch

    from senet_lab.training import trial
    from senet_lab.training.lit import DivergedError
    from senet_lab.training.ranks import LostError

    quiet()  # Lightning sets its levels when it is imported
    try:
        value = trial.run(spec, checkpoint, report, until, slot)
        return "done" if "metrics" in value else "stopped", value
    except DivergedError as error:
        return "failed", {"reason": f"diverged: {error}"}
    except LostError as error:
        return "lost", {"reason": str(error)}
    except (MemoryError, torch.OutOfMemoryError) as error:
        return "failed", {"reason": f"out of memory: {first_line(error)}"}
    except (RunError, UserError) as error:
        return "halt", {"reason": str(error)}
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
            return "halt", {"reason": str(error)}
        return "failed", {"reason": f"{type(error).__name__}: {first_line(error)}"}
    except Exception as error:  # a bug in a network is that row's result; the study goes on and shows it
        return "failed", {"reason": f"{type(error).__name__}: {first_line(error)}"}


def listen(pipe: Connection, tasks: Queue[Task]) -> None:
    """Pass tasks on; end the process, training or not, when the driver has gone."""
    try:
        while True:
            tasks.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)


def quiet() -> None:
    """Keep Lightning's advice off the terminal, which belongs to the study's progress."""
    import logging

    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)


def default_workers(device: str) -> int:
    """One worker a GPU, or one a core that this process may use."""
    if device == "cuda":
        import torch

        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
