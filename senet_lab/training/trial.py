"""One trial: build → fit → test once → record.

A trial that is cut off goes on from its last epoch when it is run again, and ends with the same numbers.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from senet_lab.config import RunError
from senet_lab.training import data as images
from senet_lab.training.feeds import mixed
from senet_lab.training.lit import SENet
from senet_lab.training.spec import Spec

Report = Callable[[dict[str, Any]], None]
VERSIONS = ("torch", "torchvision", "pytorch-lightning", "numpy", "optuna", "wandb")


class Feeding(pl.LightningDataModule):
    """The splits of a data set, every epoch's order and augmentation decided by (seed, epoch)."""

    def __init__(self, splits: images.Splits, batch_size: int, seed: int) -> None:
        super().__init__()
        self.splits = splits
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        return self.splits.train.batches(self.batch_size, self.seed, self.trainer.current_epoch)

    def val_dataloader(self) -> Any:
        return self.splits.validation.batches(4 * self.batch_size)

    def test_dataloader(self) -> Any:
        return self.splits.test.batches(4 * self.batch_size)


class Epochs(pl.Callback):
    """Reseeds at each epoch's start (Lightning saves no generator's state); reports and saves at its end."""

    def __init__(self, seed: int, checkpoint: Path, report: Report) -> None:
        self.seed = seed
        self.checkpoint = checkpoint
        self.report = report

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        torch.manual_seed(mixed(self.seed, trainer.current_epoch))

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, SENet)
        save(trainer, self.checkpoint)
        self.report(module.history[-1])


def save(trainer: pl.Trainer, path: Path) -> None:
    """Write a checkpoint whole or not at all: to a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        trainer.save_checkpoint(temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        temporary.unlink(missing_ok=True)
        raise RunError(f"the checkpoint {path} cannot be written: {error}") from error


def readable(path: Path, report: Report) -> bool:
    """Whether there is a checkpoint to go on from. A damaged one is set aside and said so; nothing but time is lost."""
    if not path.exists():
        return False
    try:
        torch.load(path, map_location="cpu", weights_only=True)["history"]
    except Exception as error:  # whatever a damaged file makes of the reader
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        report({"notice": f"the checkpoint {path} is damaged ({reason}); moved to {aside.name}, training starts anew"})
        return False
    return True


def run(spec: Spec, checkpoint: Path, report: Report) -> dict[str, Any]:
    """Train and test one network.

    Args:
        spec: the training, completely.
        checkpoint: file that it goes on from, and saves to after each epoch.
        report: called after each epoch with its metrics, or with a `notice` for the user.

    Returns:
        The record, less what only the driver knows (label, attempts, git commit).

    Raises:
        DivergedError: the loss became infinite or NaN.
        RunError: an image that cannot be read, a checkpoint that cannot be written.
    """
    started = time.time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning warns of what the lab does on purpose (workers, logging, LeafSpec)
        module = SENet(
            spec.backbone, spec.se, spec.classes, spec.channels, spec.stride, recipe=spec.recipe, seed=spec.seed
        )
        feeding = Feeding(images.load(spec.data), spec.recipe.batch_size, spec.seed)
        trainer = pl.Trainer(
            max_epochs=spec.recipe.epochs,
            accelerator="gpu" if spec.device == "cuda" else "cpu",
            devices=1,
            precision=spec.precision,  # type: ignore[arg-type]
            deterministic="warn",
            benchmark=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            callbacks=[Epochs(spec.seed, checkpoint, report)],
        )
        resumed = readable(checkpoint, report)
        trainer.fit(module, datamodule=feeding, ckpt_path=checkpoint if resumed else None, weights_only=True)
        trainer.test(module, datamodule=feeding, verbose=False)
    last = module.history[-1]
    return {
        "config": spec.config(),
        "epochs": module.history,
        "metrics": {**module.tested, **{name: value for name, value in last.items() if name != "epoch"}},
        "seconds": time.time() - started,
        "resumed": resumed,
        "started": started,
        "peak_memory_mib": peak_memory_mib(spec.device),
        "device_name": torch.cuda.get_device_name() if spec.device == "cuda" else processor(),
        "host": platform.node(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }


def peak_memory_mib(device: str) -> float:
    """Peak memory in MiB: of the GPU since the last call, or else of this process since it began."""
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak / 2**20
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes / (2**20 if sys.platform == "darwin" else 2**10)


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
