"""Who trains: warm worker processes on this machine, or a Ray cluster.

A worker of this machine imports the libraries once, then trains one trial after another. It speaks to the driver over a
pipe and ends with it: when the pipe closes, however the driver ended, the worker is gone at once.
"""

from __future__ import annotations

import errno
import math
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

from senet_lab.config import Config, Executor, RunError, UserError
from senet_lab.studies import limits
from senet_lab.studies.limits import Limits
from senet_lab.studies.store import first_line
from senet_lab.training.quiet import without_advice
from senet_lab.training.spec import Spec

Task = tuple[Spec, Path, int | None]  # a training, its checkpoint, and the epoch to stop after
BEGUN = "begun"  # what a training reports first
ELAPSED = "elapsed"  # in what it reports later: seconds since then, by its own process's clock
SIGNALS = (signal.SIGINT, signal.SIGTERM)
Kind = Literal["epoch", "stopped", "done", "failed", "memory", "halt", "lost"]
SHORT = ("can't allocate memory", "ALLOC_FAILED", "CUDA error: out of memory")  # of memory, in a RuntimeError


@dataclass(frozen=True)
class Event:
    """What happened to a trial.

    Attributes:
        kind: `epoch` (its metrics, or a notice, with `ELAPSED`), `stopped` (its epochs, where it was to stop), `done`
            (its record), `failed` (the reason: a result), `memory` (there was not enough of it, the device's or the
            host's; alone it may do), `halt` (the study cannot go on: a full disk, an unreadable image) or `lost` (its
            worker was killed).
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

    def rest(self) -> None:
        """Have whoever is not training give up the memory that earlier trials have left it."""

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
        UserError: a cluster that cannot be reached, or where no trial has room; GPUs to be shared on a CPU; more GPUs
            for a trial than there are; limits that cannot be kept.
    """
    executor, most = config.executor, limits.of(config.executor)
    if executor.per_gpu > 1 and device != "cuda":
        raise UserError(
            f"executor.per_gpu={executor.per_gpu}: there is no GPU here to share; on a CPU, executor.workers says how "
            "many trials are trained side by side"
        )
    if executor.name == "ray" and not idle and (executor.address or not config.plan):
        from senet_lab.studies import ray_executor

        with ray_executor.connected(config, device) as found:
            yield found
    else:
        devices = config.training.devices
        if not idle and device == "cuda" and devices > gpu_count():
            raise UserError(f"training.devices={devices}: PyTorch finds {gpu_count()} GPUs here")
        room = executor.workers or max(1, default_workers(device, executor.per_gpu) // devices)
        yield Ready(room, lambda count: Workers(count, executor.threads, most))


class Workers:
    """A fixed number of worker processes, started when first needed and again when one was killed. One whose training
    is over a limit is killed."""

    def __init__(self, count: int, threads: int, most: Limits = limits.NONE) -> None:
        self.count = count
        self.threads = threads
        self.most = most
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
        said = [self.event(busy[pipe]) for pipe in wait(list(busy), timeout) if isinstance(pipe, Connection)]
        late = [self.over(worker) for worker in busy.values() if worker.trial_id is not None]
        return [event for event in said + late if event is not None]

    def event(self, worker: Worker) -> Event | None:
        """The next word of a worker that has something to say, if only that it is dead; None if the driver need not
        know."""
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
        elif BEGUN in value:
            worker.begun = time.monotonic()
            return None
        return Event(kind, trial_id, value)

    def over(self, worker: Worker) -> Event | None:
        """The end of a training that is over a limit, whatever it does; None if it is not."""
        reason = self.most.late(worker.begun) or self.most.large(worker.process.pid)
        if not reason:
            return None
        event = Event("failed", str(worker.trial_id), {"reason": reason})
        worker.process.kill()
        worker.process.join()
        with suppress(EOFError, OSError):
            while worker.pipe.poll():  # it may have ended by itself meanwhile
                kind, value = worker.pipe.recv()
                event = event if kind == "epoch" else Event(kind, event.trial_id, value)
        self.end([worker])
        return event

    def rest(self) -> None:
        """End the workers that train nothing; they are started again when they are needed."""
        self.end([worker for worker in self.workers if worker.trial_id is None])

    def stop(self) -> None:
        """End all workers, whatever they do."""
        self.end(self.workers[:])

    def end(self, workers: list[Worker]) -> None:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.pipe.close()
            self.workers.remove(worker)


class Worker:
    """The driver's end of one worker process; `slot` numbers those that run side by side. Its training has `begun` at
    that time of the monotonic clock."""

    def __init__(self, threads: int, slot: int) -> None:
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, threads, slot), name=f"senet_lab worker {slot}")
        self.slot = slot
        self.trial_id: str | None = None
        self.begun: float | None = None
        try:
            self.process.start()
        except OSError as error:
            raise RunError(f"a worker process cannot be started: {error.strerror or error}") from error
        theirs.close()  # so that the pipe reads as closed when the worker dies

    def train(self, spec: Spec, checkpoint: Path, until: int | None = None) -> None:
        self.trial_id, self.begun = spec.trial_id, None
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
            torch.cuda.set_device(gpu_of(slot, torch.cuda.device_count()))
        send(*attempt(spec, checkpoint, until, lambda epoch: send("epoch", epoch), slot))


def attempt(
    spec: Spec, checkpoint: Path, until: int | None, report: Callable[[dict[str, Any]], None], slot: int = 0
) -> tuple[Kind, dict[str, Any]]:
    """Train in this process; the kind and the value of the event that it ends with. The beginning (`BEGUN`) and each
    epoch (its metrics, and `ELAPSED`) are reported."""
    import torch

    from senet_lab.training import trial
    from senet_lab.training.lit import DivergedError
    from senet_lab.training.ranks import LostError

    without_advice()
    report({BEGUN: True})
    begun = time.monotonic()
    try:
        value = trial.run(
            spec, checkpoint, lambda said: report({**said, ELAPSED: time.monotonic() - begun}), until, slot
        )
        return "done" if "metrics" in value else "stopped", value
    except DivergedError as error:
        return "failed", {"reason": f"diverged: {error}"}
    except LostError as error:
        return "lost", {"reason": str(error)}
    except (MemoryError, torch.OutOfMemoryError) as error:
        return "memory", {"reason": first_line(error)}
    except (RunError, UserError) as error:
        return "halt", {"reason": str(error)}
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return "memory", {"reason": first_line(error)}
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
            return "halt", {"reason": str(error)}
        return "failed", {"reason": f"{type(error).__name__}: {first_line(error)}"}
    except Exception as error:  # a bug in a network is that row's result; the study goes on and shows it
        if isinstance(error, RuntimeError) and any(words in str(error) for words in SHORT):
            return "memory", {"reason": first_line(error)}
        return "failed", {"reason": f"{type(error).__name__}: {first_line(error)}"}


def listen(pipe: Connection, tasks: Queue[Task]) -> None:
    """Pass tasks on; end the process, training or not, when the driver has gone."""
    try:
        while True:
            tasks.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)


def default_workers(device: str, per_gpu: int = 1, gpus: int | None = None) -> int:
    """So many workers a GPU, or one a core that this process may use; `gpus` are those of this machine unless said."""
    if device == "cuda":
        return per_gpu * (gpu_count() if gpus is None else gpus)
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def gpu_of(slot: int, gpus: int) -> int:
    """The GPU of a worker: workers are dealt out to the GPUs in turn."""
    return slot % gpus


def sharing(executor: Executor, device: str, workers: int, gpus: int | None = None) -> int:
    """How many of so many processes that train share the memory of one device; `gpus` are those of this machine unless
    said."""
    if device != "cuda":
        return workers
    if executor.name == "ray":
        share = executor.gpus_per_trial or 1.0
        return min(workers, math.floor(1 / share + 1e-6))
    return math.ceil(workers / max(1, gpu_count() if gpus is None else gpus))


def gpu_count() -> int:
    import torch

    return torch.cuda.device_count()
