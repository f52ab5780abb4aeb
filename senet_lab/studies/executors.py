"""Who trains, by name: one function an executor. Its options are fields of `config.Executor`, its defaults a file of
`conf/executor`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from senet_lab.config import Config, UserError
from senet_lab.studies import ray, workers
from senet_lab.studies.pool import Capacity


class ExecutorFactory(Protocol):
    """Has trials trained."""

    def __call__(self, config: Config, device: str, idle: bool = False) -> AbstractContextManager[Capacity]:
        """Whoever trains, for the time of a `with`.

        Args:
            config: of the study.
            device: `cpu` or `cuda`.
            idle: whether nothing is to be trained, so that no cluster is needed.

        Raises:
            UserError: it cannot be reached, or has no room for a trial, or cannot do what the options ask for.
        """


EXECUTORS: dict[str, ExecutorFactory] = {"local": workers.local_workers, "ray": ray.ray_workers}


def open_executor(config: Config, device: str, idle: bool = False) -> AbstractContextManager[Capacity]:
    """Whoever `config.executor` names; a UserError if there is no such executor."""
    name = config.executor.name
    if name not in EXECUTORS:
        raise UserError(f"executor.name: there is no '{name}'; there are {', '.join(EXECUTORS)}")
    return EXECUTORS[name](config, device, idle)
