"""One training in several processes, one a device: Lightning's DDP between processes that are started here.

The calling process does not train. It starts one process (rank) for each device, receives their messages, and ends all
of them as soon as one fails, because the others would wait for it in a collective operation for ever. The ranks stay
for the next training, with their libraries imported.
"""

from __future__ import annotations

import atexit
import os
import pickle
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.strategies import DDPStrategy

from senet_lab.config import RunError
from senet_lab.training.faults import LostError, exit_of
from senet_lab.training.processes import receive, send, spawned
from senet_lab.training.sampling import BatchShare
from senet_lab.training.silence import silenced, without_advice

GRACE_SECONDS = 0.5  # to wait for further messages after a failure: the first message need not come from its cause
LOOPBACK = "lo"

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Rank(BatchShare):
    """One of the processes that train a network together. The first one reports and writes; a process that trains alone
    is the first of one."""

    gpus: tuple[int, ...] = ()  # index of each rank's GPU; empty on a CPU
    meeting: Path | None = None  # file by which they find each other, in a folder of its own


ALONE = Rank()
Task = Callable[[Rank, Report], dict[str, Any]]


# --------------------------------------------------------------------------------------------------------------------
# Who asks for a training


class RankProcess:
    """The asking process's end of a rank."""

    def __init__(self, number: int, threads: int) -> None:
        self.process, self.pipe = spawned(f"senet_lab rank {number}", serve_rank, threads)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


RANKS: list[RankProcess] = []  # the ranks of the last training, in their order


def run_ranks(task: Task, gpus: tuple[int, ...], world: int, report: Report) -> list[dict[str, Any]]:
    """Run a task in `world` processes; returns their results in the order of the ranks.

    Args:
        task: picklable; called with its rank and a function to report with.
        gpus: index of each rank's GPU; empty on a CPU.
        report: called with what the first rank reports.

    Raises:
        LostError: a rank was killed.
        RunError: a rank cannot be started.
        Exception: the first error that a rank raised. All ranks are ended.
    """
    if len(RANKS) != world:
        end_ranks()
    try:
        while len(RANKS) < world:
            RANKS.append(RankProcess(len(RANKS), torch.get_num_threads()))
        with tempfile.TemporaryDirectory(prefix="senet_lab-ranks-") as folder:
            for number, member in enumerate(RANKS):
                with suppress(OSError):  # the rank has died: `collect_results` finds its pipe closed
                    member.pipe.send((task, Rank(number, world, gpus, Path(folder) / "meeting")))
            return collect_results(report)
    except BaseException:
        end_ranks()
        raise


def collect_results(report: Report) -> list[dict[str, Any]]:
    """Pass on the reports of the ranks until all have ended; returns their results. After a failure, wait
    `GRACE_SECONDS` more for its cause: a killed rank makes the others fail; otherwise the first error is raised."""
    members = {member.pipe: member for member in RANKS}  # whose results are outstanding
    ended: dict[RankProcess, dict[str, Any]] = {}
    failures: list[tuple[float, Exception]] = []
    until: float | None = None
    while members and (until is None or time.monotonic() < until):
        for pipe in wait(list(members), until and until - time.monotonic()):
            assert isinstance(pipe, Connection)
            try:
                kind, value = pipe.recv()
            except (EOFError, OSError):
                kind, value = "lost", None
            if kind == "report":
                report(value)
                continue
            if kind == "failed":
                failures.append(value)  # the rank now waits to be ended; until then it may also be killed
            else:
                member = members.pop(pipe)
            if kind == "ended":
                ended[member] = value
            else:
                until = until or time.monotonic() + GRACE_SECONDS
    for number, member in enumerate(RANKS, 1):
        if member.pipe not in members and member not in ended:
            member.process.join()
            raise LostError(f"its process {number} of {len(RANKS)} {exit_of(member.process.exitcode)}")
    if failures:
        raise min(failures, key=lambda failure: failure[0])[1]
    return [ended[member] for member in RANKS]


@atexit.register  # runs before multiprocessing's own exit handler, which would wait for the ranks
def end_ranks() -> None:
    """Kill the ranks."""
    for member in RANKS:
        member.end()
    RANKS.clear()


# --------------------------------------------------------------------------------------------------------------------
# A rank


def serve_rank(pipe: Connection, threads: int) -> None:
    """The process of a rank: run the tasks that come over the pipe, until it closes. After a failure the rank waits to
    be killed by the calling process."""
    folders: list[Path] = []  # of the meeting files; deleted here in case the calling process was killed

    def clear() -> None:
        for folder in folders[-1:]:
            shutil.rmtree(folder, ignore_errors=True)

    tasks = receive(pipe, clear)
    without_advice()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # otherwise Lightning sets it to the number of cores
    torch.set_num_threads(threads)
    if LOOPBACK in {name for _, name in socket.if_nameindex()}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)  # otherwise gloo looks up the machine's name
    for task, rank in tasks:
        folders.append(rank.meeting.parent)
        try:
            with process_group(rank):
                value = task(rank, partial(send, pipe, "report"))
        except BaseException as error:
            send(pipe, "failed", (time.monotonic(), sendable(error)))
            threading.Event().wait()
        send(pipe, "ended", value)


def sendable(error: BaseException) -> Exception:
    """An error that can be sent to another process: the error itself if it can be pickled, else its text."""
    try:
        if isinstance(error, Exception) and isinstance(pickle.loads(pickle.dumps(error)), type(error)):
            return error
    except Exception:  # pickling a user's error may raise anything
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


@contextmanager
def process_group(rank: Rank) -> Iterator[None]:
    """Join the process group for the body, and leave it if the body succeeds. After an error it is not left, because
    that could wait for other ranks for ever."""
    assert rank.meeting is not None
    backend, gpu = "gloo", None
    if rank.gpus:
        backend, gpu = "nccl", torch.device("cuda", rank.gpus[rank.number])
        torch.cuda.set_device(gpu)
    os.environ |= {
        "LOCAL_RANK": str(rank.number),
        "NODE_RANK": "0",
    }  # tells Lightning that the processes were started by others
    url = f"file://{rank.meeting}"  # a file instead of a port, which other processes could use or reach
    with silenced(1):  # gloo prints that it has connected
        dist.init_process_group(backend, init_method=url, rank=rank.number, world_size=rank.world, device_id=gpu)
    yield
    dist.destroy_process_group()


def sum_over_ranks(sums: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, if this process is one of several."""
    if dist.is_initialized():
        dist.all_reduce(sums)
    return sums


def trainer_arguments(rank: Rank, device: str, sync_batchnorm: bool = False) -> dict[str, Any]:
    """The arguments of Lightning's Trainer that say on which devices to train."""
    accelerator = "gpu" if device == "cuda" else "cpu"
    if rank.world == 1:
        return {"accelerator": accelerator, "devices": [torch.cuda.current_device()] if device == "cuda" else 1}
    return {
        "accelerator": accelerator,
        "devices": list(rank.gpus) or rank.world,
        "strategy": DDPStrategy(cluster_environment=LightningEnvironment()),
        "sync_batchnorm": sync_batchnorm,
    }


def gpus_of(slot: int, world: int, device: str) -> tuple[int, ...]:
    """The GPUs of a worker's trial of `world` ranks; empty on a CPU. Workers are numbered by their slots.

    Raises:
        RunError: there are not so many.
    """
    if device != "cuda":
        return ()
    count = torch.cuda.device_count()
    if count < world:
        raise RunError(f"training.devices={world}: PyTorch finds {count} GPU{'s' * (count != 1)} here")
    return tuple((slot * world + number) % count for number in range(world))
