"""One trial: build → fit → test once → record.

A trial that is cut off goes on from its last epoch when it is run again, and ends with the same numbers.
"""

from __future__ import annotations

import gc
import time
import warnings
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from senet_lab import models, outputs
from senet_lab.config import RunError, UserError, first_line
from senet_lab.files import atomic_path
from senet_lab.models import identity
from senet_lab.training import checkpoints, distributed
from senet_lab.training import data as images
from senet_lab.training.distributed import ALONE, Rank, Report
from senet_lab.training.ema import Average
from senet_lab.training.lit import SENet
from senet_lab.training.machine import machine_facts
from senet_lab.training.sampling import WHOLE, BatchShare, mix_seed
from senet_lab.training.spec import Spec
from senet_lab.training.starting import start
from senet_lab.training.step import prepare

QUIET = ("pytorch_lightning", "torch", "multiprocessing", "PIL")  # their warnings are of what is done on purpose here


class SplitsModule(pl.LightningDataModule):
    """The splits of a data set, every epoch's order and augmentation decided by (seed, epoch)."""

    def __init__(
        self, splits: images.Splits, batch_size: int, seed: int, sampling: str = "uniform", share: BatchShare = WHOLE
    ) -> None:
        super().__init__()
        self.splits = splits
        self.batch_size = batch_size
        self.seed = seed
        self.sampling = sampling
        self.share = share

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        return self.splits.train.batches(self.batch_size, self.seed, epoch, self.sampling, share=self.share)

    def val_dataloader(self) -> Any:
        validation = self.splits.validation
        return validation.batches(validation.evaluation_size(self.batch_size), share=self.share)

    def test_dataloader(self) -> Any:
        return self.splits.test.test_batches(self.splits.test.evaluation_size(self.batch_size), self.share)


@dataclass(eq=False)
class Epochs(pl.Callback):
    """Reseeds at each epoch's start and before the test (Lightning saves no generator's state); reports and saves at an
    epoch's end, and stops there if that is the epoch `until`."""

    seed: int
    checkpoint: Path
    report: Report
    until: int | None
    rank: Rank

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.reseed(trainer)

    def on_test_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.reseed(trainer)  # for a network that draws even then: a training may have been cut off before its test

    def reseed(self, trainer: pl.Trainer) -> None:
        """All three generators, by (seed, epoch)."""
        mine = [self.rank.number] if self.rank.number else []  # or all would draw the same, for dropout
        seed = mix_seed(self.seed, trainer.current_epoch, *mine)
        torch.manual_seed(seed)
        models.seed_others(seed)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, SENet)
        if not trainer.limit_val_batches:
            module.end_epoch("train")
        save_checkpoint(trainer, self.checkpoint)
        if trainer.is_global_zero:
            self.report(module.history[-1])
        if self.until is not None and trainer.current_epoch + 1 >= self.until:
            trainer.should_stop = True


def save_checkpoint(trainer: pl.Trainer, path: Path) -> None:
    """Write a checkpoint completely or not at all: to a temporary name that is then renamed. All ranks call this; the
    first one writes."""
    try:
        with atomic_path(path) as part:
            trainer.save_checkpoint(part)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        raise RunError(f"the checkpoint {path} cannot be written: {first_line(error)}") from error


def can_resume(path: Path, module: SENet, report: Report) -> bool:
    """Whether there is a checkpoint to continue from. A damaged one is renamed and reported; only time is lost.

    Raises:
        RunError: it is there, but cannot be read or moved.
    """
    aside = path.with_suffix(".damaged")
    try:
        if not path.exists():
            return False
        reason = checkpoint_damage(path, module)
        if reason:
            path.replace(aside)
    except OSError as error:
        raise RunError(f"the checkpoint {path} cannot be read: {error.strerror or error}") from error
    if reason:
        report({"notice": f"the checkpoint {path} is damaged ({reason}); moved to {aside.name}, training starts anew"})
    return not reason


def checkpoint_damage(path: Path, module: SENet) -> str:
    """What is wrong with a checkpoint of the module's training; empty if nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()  # PyTorch writes checksums, but does not compare them
        if member:
            return f"its part {member} is not as it was written"
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise  # the machine's fault; the file may be whole
    except Exception as error:  # what a damaged file makes of the unpickler has no common class
        return first_line(error)
    whole = isinstance(saved, dict) and "hyper_parameters" in saved
    return "" if whole and agree(saved["hyper_parameters"], dict(module.hparams)) else "it is not of this training"


def agree(saved: Any, now: Any) -> bool:
    """Whether settings are those that were saved. Fields that the lab did not have then may be there: the file is named
    by the trial's id, in which they have their defaults."""
    if isinstance(saved, dict) and isinstance(now, dict):
        return all(key in now and agree(value, now[key]) for key, value in saved.items())
    return bool(saved == now)


def run_trial(spec: Spec, checkpoint: Path, report: Report, until: int | None = None, slot: int = 0) -> dict[str, Any]:
    """Train and test one network, or train it for its first epochs.

    Args:
        spec: the training, completely.
        checkpoint: file that it goes on from, and saves to after each epoch.
        report: called after each epoch with its metrics, or with a `notice` for the user.
        until: epoch after which to stop, as if it had been killed there: nothing is tested, and the next call goes on
            from the checkpoint. The schedule is that of the whole training. None trains to the end.
        slot: which of the workers of this machine this is; its GPUs go by it where a trial has several.

    Returns:
        The record, less what only the driver knows (label, attempts, git commit), with the `outputs` of the test
        images as bytes; of a training that was stopped, the epochs alone.

    Raises:
        DivergedError: the loss became infinite or NaN.
        NetworkError: the network raised an error.
        LostError: one of several processes was killed.
        RunError: images or a checkpoint that cannot be read, a checkpoint that cannot be written.
        Exception: whatever else a machine does; `faults.classify_failure` says what a study makes of it.
    """
    task = partial(train_in_process, spec, checkpoint, until)
    if spec.devices == 1:
        records = [task(ALONE, report)]
    else:
        records = distributed.run_ranks(
            task, distributed.gpus_of(slot, spec.devices, spec.device), spec.devices, report
        )
    record = records[0]
    if "metrics" in record:
        record["outputs"] = outputs.merge_batches([each["outputs"] for each in records]).packed()
        record["peak_memory_mib"] = max(each["peak_memory_mib"] for each in records)
        record["device_name"] = f"{spec.devices} × " * (spec.devices > 1) + record["device_name"]
    return record


def train_in_process(spec: Spec, checkpoint: Path, until: int | None, rank: Rank, report: Report) -> dict[str, Any]:
    """`run_trial` in this process, alone or as one of several."""
    started = time.time()
    prepare_device(spec)
    with warnings.catch_warnings():
        for source in QUIET:
            warnings.filterwarnings("ignore", module=source)
        check_code(spec)
        splits = load_trial_splits(spec)
        module = SENet(
            *(spec.backbone, spec.se, spec.classes, spec.channels, spec.stride),
            recipe=spec.recipe,
            seed=spec.seed,
            step=spec.step,
            share=rank,
            images=checkpoints.describe(spec.data, splits),
        )
        start(module.net, spec)
        prepare(module.net, spec.step, spec.network)
        batches = SplitsModule(splits, spec.recipe.batch_size, spec.seed, spec.recipe.sampling, rank)
        callbacks = [Average(spec.recipe.ema)] if spec.recipe.ema else []
        trainer = pl.Trainer(
            max_epochs=spec.recipe.epochs,
            **distributed.trainer_arguments(rank, spec.device, spec.sync_batchnorm),
            precision=spec.precision,  # type: ignore[arg-type]
            deterministic="warn",
            benchmark=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if len(splits.validation) else 0,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            callbacks=[*callbacks, Epochs(spec.seed, checkpoint, report, until, rank)],
        )
        resumed = trainer.strategy.broadcast(rank.number == 0 and can_resume(checkpoint, module, report))
        try:
            trainer.fit(module, datamodule=batches, ckpt_path=checkpoint if resumed else None, weights_only=True)
            if until is not None and until < spec.recipe.epochs:
                return {"epochs": module.history}
            trainer.test(module, datamodule=batches, verbose=False)
        finally:
            splits.close()
    for left in checkpoint.parent.glob(f"{checkpoint.stem}.*.tmp"):  # by a process that was killed as it wrote
        left.unlink(missing_ok=True)
    last = module.history[-1]
    return {
        "config": spec.config(),
        "epochs": module.history,
        "metrics": {**module.tested, **{name: value for name, value in last.items() if name != "epoch"}},
        "outputs": [each_2B.cpu().numpy() for each_2B in module.outputs],
        "seconds": time.time() - started,
        "resumed": resumed,
        "started": started,
        **machine_facts(spec.device),
    }


def prepare_device(spec: Spec) -> None:
    """Free what the last trial has left on the GPU; a RunError for a precision that the device lacks."""
    if (spec.device, spec.precision) == ("cpu", "16-mixed"):  # Lightning would take bf16 instead, with a warning
        raise RunError("training.precision=16-mixed needs a GPU; on a CPU there are 32-true and bf16-mixed")
    if spec.device == "cuda":
        gc.collect()  # Lightning's last trainer holds its network in a reference cycle
        torch.cuda.empty_cache()  # blocks of other sizes would leave gaps, and other processes may use this memory
        torch.cuda.reset_peak_memory_stats()
    # Deterministic algorithms would fill all new memory with NaN first: one more pass over every map.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def check_code(spec: Spec) -> None:
    """A RunError if the code of the network or its gates is not the code that the trial's id names: it was changed
    since the study began, or this process lacks an entry that another one has added to a registry."""
    identity.network_measurement.cache_clear()
    try:
        now = models.code(spec.backbone, spec.se, spec.classes, spec.channels, spec.data.size)
    except (ValueError, OSError) as error:  # others are met as those of a training are
        raise RunError(
            f"{first_line(error)}; {spec.backbone} cannot be built as it was when the study began"
        ) from error
    own = (now, identity.own_code(spec.recipe.loss), identity.own_code(spec.recipe.optimizer))
    if own != (spec.code, spec.loss_code, spec.optimizer_code):
        raise RunError(
            f"the code of {spec.backbone}, of its gates, loss or optimiser, or what they read is not what it was when "
            "the study began: start the study again (in a notebook, after a restart of Python), and it is trained as "
            "it is now"
        )


def load_trial_splits(spec: Spec) -> images.Splits:
    """The splits of the trial. A data set that is missing now was there when the study began, so it is a RunError and
    no result."""
    try:
        return images.load_splits(spec.data, spec.feed, spec.device, spec.identity)
    except UserError as error:
        raise RunError(str(error)) from error
