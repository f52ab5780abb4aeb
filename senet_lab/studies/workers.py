"""Trials on this machine: warm worker processes, one trial after another in each.

A worker imports the libraries once. It ends as soon as its pipe to the driver closes, however the driver ended.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path

from senet_lab.config import Config, UserError
from senet_lab.counting import cores
from senet_lab.studies import limits
from senet_lab.studies.limits import Limits
from senet_lab.studies.pool import BEGUN, Capacity, Event, Outcome, train_trial
from senet_lab.training import faults
from senet_lab.training.processes import receive, send, spawned
from senet_lab.training.spec import Spec

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def local_workers(config: Config, device: str, idle: bool = False) -> Iterator[Capacity]:
    """The workers of this machine.

    Raises:
        UserError: GPUs to be shared on a CPU; more GPUs for a trial than there are; limits that cannot be kept.
    """
    executor, devices, most = config.executor, config.training.devices, limits.limits_of(config.executor)
    if executor.per_gpu > 1 and device != "cuda":
        raise UserError(
            f"executor.per_gpu={executor.per_gpu}: there is no GPU here to share; on a CPU, executor.workers says how "
            "many trials are trained side by side"
        )
    if not idle and device == "cuda" and devices > gpu_count():
        raise UserError(f"training.devices={devices}: PyTorch finds {gpu_count()} GPUs here")
    room = executor.workers or max(1, default_workers(device, executor.per_gpu) // devices)
    yield Capacity(room, lambda count: Workers(count, executor.threads, most), lambda count: sharing(device, count))


class Workers:
    """Up to a fixed number of worker processes, started when first needed, and again after one was killed. A worker
    whose training exceeds a limit is killed."""

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
            with signals_blocked():
                idle = [Worker(self.threads, next(slot for slot in range(self.count) if slot not in taken))]
                self.workers += idle
        idle[0].train(spec, checkpoint, until)

    def events(self, timeout: float) -> list[Event]:
        """What happened, waiting for at most `timeout` seconds."""
        busy = {worker.pipe: worker for worker in self.workers if worker.trial_id is not None}
        if not busy:
            time.sleep(timeout)
        events = [self.event(busy[pipe]) for pipe in wait(list(busy), timeout) if isinstance(pipe, Connection)]
        events += [self.cut_off(worker) for worker in busy.values() if worker.trial_id is not None]
        return [event for event in events if event is not None]

    def event(self, worker: Worker) -> Event | None:
        """The event of a worker's next message or of its end; None if it does not concern the driver."""
        trial_id = worker.trial_id
        assert trial_id is not None
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            self.end([worker])
            kind, value = worker.loss()
        if kind != "epoch":
            worker.trial_id = None
        elif BEGUN in value:
            worker.begun = time.monotonic()
            worker.works = True
            return None
        return Event(kind, trial_id, value)

    def cut_off(self, worker: Worker) -> Event | None:
        """Kill a training that exceeds a limit; None if it does not."""
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
        """Kill all workers."""
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
    that time of the monotonic clock; it `works` if one ever has."""

    def __init__(self, threads: int, slot: int) -> None:
        self.process, self.pipe = spawned(f"senet_lab worker {slot}", work, threads, slot)
        self.slot = slot
        self.trial_id: str | None = None
        self.begun: float | None = None
        self.works = False

    def train(self, spec: Spec, checkpoint: Path, until: int | None = None) -> None:
        self.trial_id, self.begun = spec.trial_id, None
        with suppress(OSError):  # it died while idle; reading the pipe will tell so
            self.pipe.send((spec, checkpoint, until))

    def loss(self) -> Outcome:
        """The event of a process that has ended. If it had never trained, starting it again would end in the same
        way."""
        code = self.process.exitcode
        if not self.works and code is not None and code >= 0:
            return "halt", {"reason": f"its worker could not start: it {faults.exit_of(code)}"}
        return "lost", {"reason": f"its worker {faults.exit_of(code)}"}


# ------------------------------------------------------------------------------------------------- the worker's process


def work(pipe: Connection, threads: int, slot: int) -> None:
    """The worker process: train what comes over the pipe until it closes."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    tasks = receive(pipe)
    try:
        import torch

        from senet_lab.training import trial  # noqa: F401  # before the first training comes
    except Exception as error:  # a library that is not whole
        send(pipe, "halt", {"reason": f"its worker could not start: {faults.describe_error(error)}"})
        return
    torch.set_num_threads(threads)
    for spec, checkpoint, until in tasks:
        send(pipe, *train_trial(spec, checkpoint, until, partial(send, pipe, "epoch"), slot))


# -------------------------------------------------------------------------------------------------------------- signals


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the body is done, and block them for good in processes started in it: Ctrl-C
    reaches the whole process group, and the driver decides when its workers end."""
    with signals_postponed():
        resource_tracker.ensure_running()  # its start would unblock them
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def signals_postponed() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the body is done, and restore their handlers. In other threads than the main one
    there is nothing to do, because no handler runs there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


# -------------------------------------------------------------------------------------------------------------- devices


def default_workers(device: str, per_gpu: int = 1, gpus: int | None = None) -> int:
    """The default number of workers: `per_gpu` for each GPU, or one for each core that this process may use."""
    if device == "cuda":
        return per_gpu * (gpu_count() if gpus is None else gpus)
    return cores()


def sharing(device: str, processes: int, gpus: int | None = None) -> int:
    """How many of so many training processes share one device: those of the fullest GPU, as workers are assigned to the
    GPUs in turn."""
    if device != "cuda":
        return processes
    return math.ceil(processes / max(1, gpu_count() if gpus is None else gpus))


def gpu_count() -> int:
    import torch

    return torch.cuda.device_count()
