"""Averages the weights exponentially and uses the average in place of the last weights (`recipe.ema`)."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor


class Average(pl.Callback):
    """Averages a network's weights as it trains, and puts the average in their place to validate, to test and to keep.

    It begins with the initial weights; after each optimiser step average ← decay · average + (1 − decay) · weights.
    The running statistics of batch norms are averaged likewise, so that they fit the averaged weights; counts of
    batches are copied. (Lightning's own callback leaves a training that was cut off after its last epoch with the last
    weights instead of the averaged ones.)

    In a checkpoint `state_dict` is the average, so that whoever loads it gets that, and `current_state` the weights
    that the training goes on from. The decay is between 0 and 1.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        begun = self.average or module.state_dict()  # begun already if it goes on from a checkpoint
        self.average = {name: value.to(module.device, copy=True) for name, value in begun.items()}

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - self.decay)
            else:
                self.average[name].copy_(value)

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.exchange(module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.exchange(module)

    def exchange(self, module: pl.LightningModule) -> None:
        """Put the average into the network, and what was there into the average."""
        current = {name: value.clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.average)
        self.average = current

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        module.load_state_dict(self.average)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["current_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = self.average

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.average = checkpoint["state_dict"]
        module.load_state_dict(checkpoint["current_state"])
