"""How long the designs of a search take on the device at hand, each measured once.

A measured number would make every search another one. So it is noted in the store, for this network on this device,
and the interrupted search that goes on finds the same. It is noted as a multiple of the plain network, with which it is
timed in turn: what slows down the machine for an hour slows down both.
"""

from __future__ import annotations

import torch

from senet_lab import models
from senet_lab.config import SE
from senet_lab.studies.pricing import Priced
from senet_lab.studies.store import Store
from senet_lab.training.trial import processor


class Stopwatch:
    """Latencies of the designs of one search.

    Args:
        priced: the search's space.
        store: where measurements are noted.
        device: `cpu` or `cuda`.
        note: whether they are noted; a plan writes nothing.
    """

    def __init__(self, priced: Priced, store: Store, device: str, note: bool) -> None:
        self.priced = priced
        self.store = store
        self.device = device
        self.note = note
        threads = priced.config.executor.threads
        name = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {threads} threads"
        self.known: dict[str, tuple[float, float]] = {}
        self.where = f"on {name}"
        self.plain = self.measured(priced.plain_row.network, None)[0]

    def milliseconds(self, network: str, se: SE | None) -> float:
        """Of one image: what the plain network was noted to take, times as much longer as this one takes.

        Args:
            network: fingerprint of the network.
            se: its design.
        """
        return self.plain * (1.0 if se is None else self.measured(network, se)[1])

    def measured(self, network: str, se: SE | None) -> tuple[float, float]:
        if network not in self.known:
            self.known[network] = self.look_up(network, se)
        return self.known[network]

    def look_up(self, network: str, se: SE | None) -> tuple[float, float]:
        """What is noted, or else measured now."""
        name = f"latency {network} {self.where}"
        noted = self.store.note(name)
        if noted is None:
            noted = list(self.measure(se))
            if self.note:
                noted = self.store.note_once(name, noted)
        return noted[0], noted[1]

    def measure(self, se: SE | None) -> tuple[float, float]:
        priced, config = self.priced, self.priced.config
        nets = [
            models.create(
                config.backbone,
                design,
                len(priced.facts.classes),
                in_channels=priced.facts.channels,
                stride=config.stride,
                seed=0,
            )
            for design in (se, None)
        ]
        threads = torch.get_num_threads()
        torch.set_num_threads(config.executor.threads)
        try:
            return models.latency(nets[0], nets[1], priced.input_size, self.device)
        finally:
            torch.set_num_threads(threads)
