"""One training in several processes, one a device: Lightning's DDP between processes that are started here.

Whoever asks for such a training does not train: it starts the processes, its ranks, listens to them, and ends them all
as soon as one of them fails, so that none waits for another for ever, whatever the devices speak with each other. The
ranks stay for the next training, as warm as a worker is.
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

GRACE_SECONDS = 0.5  # in which the ranks whose fault it was are heard, too: another one may have failed by theirs
LOOPBACK = "lo"

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Rank(BatchShare):
    """One of the processes that train a network together; a process alone is the first of one, and the first is the one
    that reports and writes."""

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
    """What a task, which must be picklable, gives in each of `world` processes, in their order. It is called with its
    rank and what to report with; what the first rank reports is reported here. `gpus` is empty on a CPU.

    Raises:
        LostError: a rank was killed.
        RunError: a rank cannot be started.
        Exception: what a rank has raised, the first if there are several. The others are ended in any case.
    """
    if len(RANKS) != world:
        end_ranks()
    try:
        while len(RANKS) < world:
            RANKS.append(RankProcess(len(RANKS), torch.get_num_threads()))
        with tempfile.TemporaryDirectory(prefix="senet_lab-ranks-") as folder:
            for number, member in enumerate(RANKS):
                with suppress(OSError):  # it died while idle; reading the pipe will tell so
                    member.pipe.send((task, Rank(number, world, gpus, Path(folder) / "meeting")))
            return collect_results(report)
    except BaseException:
        end_ranks()
        raise


def collect_results(report: Report) -> list[dict[str, Any]]:
    """Pass on what the ranks say until all have ended; what each has ended with. Once one has failed, the others are
    heard a little longer, for whose fault it was: that a rank was killed, which makes the others fail, or else what was
    raised first."""
    members = {member.pipe: member for member in RANKS}  # that may say more
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
            if kind == "said":
                report(value)
                continue
            if kind == "failed":
                failures.append(value)  # it waits for its end, and may be killed yet
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


@atexit.register  # before multiprocessing's own, which would wait for them
def end_ranks() -> None:
    """End the ranks, whatever they do."""
    for member in RANKS:
        member.end()
    RANKS.clear()


# --------------------------------------------------------------------------------------------------------------------
# A rank


def serve_rank(pipe: Connection, threads: int) -> None:
    """The process of a rank: do what comes over the pipe until it closes. Once it has failed it waits for its end,
    which comes with the failure's being heard."""
    folders: list[Path] = []  # where the ranks meet; nobody else deletes it if whoever started them was killed

    def clear() -> None:
        for folder in folders[-1:]:
            shutil.rmtree(folder, ignore_errors=True)

    tasks = receive(pipe, clear)
    without_advice()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # or Lightning takes as many as there are cores
    torch.set_num_threads(threads)
    if LOOPBACK in {name for _, name in socket.if_nameindex()}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)  # it would ask for this machine's name otherwise
    for task, rank in tasks:
        folders.append(rank.meeting.parent)
        try:
            with process_group(rank):
                value = task(rank, partial(send, pipe, "said"))
        except BaseException as error:
            send(pipe, "failed", (time.monotonic(), sendable(error)))
            threading.Event().wait()
        send(pipe, "ended", value)


def sendable(error: BaseException) -> Exception:
    """An error as it can be raised in another process: itself, if it survives the way there."""
    try:
        if isinstance(error, Exception) and isinstance(pickle.loads(pickle.dumps(error)), type(error)):
            return error
    except Exception:  # what pickling makes of someone's own error has no common class
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


@contextmanager
def process_group(rank: Rank) -> Iterator[None]:
    """The process as one of its group, for the time of a training that goes well. (After one that does not, leaving the
    group might wait for others that wait, too.)"""
    assert rank.meeting is not None
    backend, gpu = "gloo", None
    if rank.gpus:
        backend, gpu = "nccl", torch.device("cuda", rank.gpus[rank.number])
        torch.cuda.set_device(gpu)
    os.environ |= {"LOCAL_RANK": str(rank.number), "NODE_RANK": "0"}  # by which Lightning knows that all are there
    url = f"file://{rank.meeting}"  # no port that anyone else might have, or could reach
    with silenced(1):  # gloo says that it has connected
        dist.init_process_group(backend, init_method=url, rank=rank.number, world_size=rank.world, device_id=gpu)
    yield
    dist.destroy_process_group()


def sum_over_ranks(sums: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, if this process is one of several."""
    if dist.is_initialized():
        dist.all_reduce(sums)
    return sums


def trainer_arguments(rank: Rank, device: str, sync_batchnorm: bool = False) -> dict[str, Any]:
    """How Lightning's Trainer is told where to train."""
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
