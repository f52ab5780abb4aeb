"""Measures the latency of a search's designs on this device, each once.

A latency that is measured again would differ, and so would the search. So it is noted in the store for this network and
device, and an interrupted search continues with the same numbers. It is noted as a multiple of the plain network's
latency, with which it is timed in turn, because a busy machine slows down both.
"""

from __future__ import annotations

from typing import Any

import torch

from senet_lab import models
from senet_lab.studies.calibration import threads
from senet_lab.studies.pricing import PricedSpace, input_size
from senet_lab.studies.rows import Row
from senet_lab.studies.store import Store
from senet_lab.training.machine import processor


class Stopwatch:
    """Latencies of the designs of one search.

    Args:
        priced: the search's space.
        store: where measurements are noted.
        device: `cpu` or `cuda`.
        note: whether they are noted; a plan writes nothing.
    """

    def __init__(self, priced: PricedSpace, store: Store, device: str, note: bool) -> None:
        self.priced = priced
        self.store = store
        self.device = device
        self.note = note
        threads = priced.config.executor.threads
        name = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {threads} threads"
        self.known: dict[str, tuple[float, float]] = {}
        self.where = f"on {name}"
        self.plain = self.measured(priced.plain.row)[0]

    def milliseconds(self, row: Row) -> float:
        """Of one image: what the plain network was noted to take, times as much longer as this row's takes."""
        return self.plain * (1.0 if row.network == self.priced.plain.row.network else self.measured(row)[1])

    def measured(self, row: Row) -> tuple[float, float]:
        """What is noted of a network, or else measured now: its milliseconds, and as a multiple of the plain one's."""
        if row.network not in self.known:
            name = f"latency {row.network} {self.where}"
            noted = self.store.note(name)
            if noted is None:
                noted = list(self.measure(row))
                noted = self.store.note_once(name, noted) if self.note else noted
            self.known[row.network] = (noted[0], noted[1])
        return self.known[row.network]

    def measure(self, row: Row) -> tuple[float, float]:
        facts, config, rows = self.priced.facts, self.priced.config, (row, self.priced.plain.row)
        how: dict[str, Any] = {"num_classes": len(facts.classes), "in_channels": facts.channels, "seed": 0}
        net, plain = (models.create(each.config.backbone, each.se, stride=each.config.stride, **how) for each in rows)
        with threads(config.executor.threads):
            return models.latency(net, plain, input_size(config, facts), self.device)
