"""Who trains: warm worker processes on this machine.

A worker imports the libraries once, then trains one trial after another. It speaks to the driver over a pipe and ends
with it: when the pipe closes, however the driver ended, the worker is gone at once.
"""

from __future__ import annotations

import errno
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import Queue
from typing import Any, Literal

from senet_lab.config import RunError
from senet_lab.training.spec import Spec

Kind = Literal["epoch", "done", "failed", "halt", "lost"]


@dataclass(frozen=True)
class Event:
    """What happened to a trial.

    Attributes:
        kind: `epoch` (its metrics, or a notice), `done` (its record), `failed` (the reason: a result), `halt` (the
            study cannot go on: a full disk, an unreadable image) or `lost` (its worker was killed).
        trial_id: of the trial.
        value: what belongs to the kind.
    """

    kind: Kind
    trial_id: str
    value: dict[str, Any]


class Workers:
    """A fixed number of worker processes, started when first needed and again when one was killed."""

    def __init__(self, count: int, threads: int) -> None:
        self.count = count
        self.threads = threads
        self.workers: list[Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self.workers:
            worker.stop()
        for worker in self.workers:
            worker.process.join()
        self.workers.clear()

    @property
    def free(self) -> bool:
        """Whether a trial that is submitted now is trained now."""
        return len(self.workers) < self.count or any(worker.trial_id is None for worker in self.workers)

    def submit(self, spec: Spec, checkpoint: Path) -> None:
        """Train a trial on a free worker."""
        idle = [worker for worker in self.workers if worker.trial_id is None]
        if not idle:
            assert len(self.workers) < self.count
            idle = [Worker(self.threads, slot=len(self.workers))]
            self.workers += idle
        idle[0].train(spec, checkpoint)

    def events(self, timeout: float) -> list[Event]:
        """What happened, waiting for at most `timeout` seconds."""
        busy = {worker.pipe: worker for worker in self.workers if worker.trial_id is not None}
        if not busy:
            time.sleep(timeout)
            return []
        found = []
        for pipe in wait(list(busy), timeout):
            worker = busy[pipe]  # type: ignore[index]
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
            found.append(Event(kind, trial_id, value))
        return found


class Worker:
    """The driver's end of one worker process."""

    def __init__(self, threads: int, slot: int) -> None:
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, threads, slot), name=f"senet_lab worker {slot}")
        self.process.start()
        theirs.close()  # so that the pipe reads as closed when the worker dies
        self.trial_id: str | None = None

    def train(self, spec: Spec, checkpoint: Path) -> None:
        self.trial_id = spec.trial_id
        with suppress(OSError):  # it died while idle; reading the pipe will tell so
            self.pipe.send((spec, checkpoint))

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()


def work(pipe: Connection, threads: int, slot: int) -> None:
    """The worker process: train what comes over the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the driver decides
    tasks: Queue[tuple[Spec, Path]] = Queue()
    threading.Thread(target=listen, args=(pipe, tasks), daemon=True).start()

    import torch

    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())
    from senet_lab.training import trial
    from senet_lab.training.lit import DivergedError

    quiet()

    def attempt(spec: Spec, checkpoint: Path) -> tuple[Kind, dict[str, Any]]:
        try:
            return "done", trial.run(spec, checkpoint, lambda epoch: pipe.send(("epoch", epoch)))
        except DivergedError as error:
            return "failed", {"reason": f"diverged: {error}"}
        except (MemoryError, torch.OutOfMemoryError) as error:
            return "failed", {"reason": f"out of memory: {first_line(error)}"}
        except RunError as error:
            return "halt", {"reason": str(error)}
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
                return "halt", {"reason": str(error)}
            return "failed", {"reason": f"{type(error).__name__}: {first_line(error)}"}
        except Exception as error:  # a bug in a network is that row's result; the study goes on and shows it
            return "failed", {"reason": f"{type(error).__name__}: {first_line(error)}"}

    while True:
        pipe.send(attempt(*tasks.get()))


def listen(pipe: Connection, tasks: Queue[tuple[Spec, Path]]) -> None:
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


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def default_workers(device: str) -> int:
    """One worker a GPU, or one a core that this process may use."""
    if device == "cuda":
        import torch

        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
