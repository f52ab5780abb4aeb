"""The LightningModule: a backbone with its SE blocks, trained as a recipe says (paper, sections 5.1 and 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from senet_lab import models
from senet_lab.config import SE, Recipe
from senet_lab.training import distributed, parts
from senet_lab.training.faults import DivergedError, network_errors
from senet_lab.training.losses import Loss, loss_of, smoothed
from senet_lab.training.mixing import MIXING, mixed_batch, set_stochastic_depth
from senet_lab.training.optimizers import lr_factor, optimizer_of
from senet_lab.training.sampling import WHOLE, BatchShare, mix_seed
from senet_lab.training.spec import Step
from senet_lab.training.step import PLAIN, compiled, to_layout


class SENet(pl.LightningModule):
    """A network by name, with SE where `se` puts it, and its training.

    Args:
        backbone: name of the plain network.
        se: an `SE`, a dict of its fields, or None for the plain network.
        classes: number of classes.
        channels: colour channels of the images.
        stride: the ImageNet ResNets' stride, `paper` or `torchvision`.
        recipe: a `Recipe`, or a dict of its fields.
        seed: of the initial weights.
        step: how it is trained here.
        share: what this process takes of every batch.
        images: how its images are read and its classes called (`checkpoints.describe`); saved in its checkpoints.

    The arguments up to `seed` are saved in its checkpoints as well, so that `SENet.load_from_checkpoint(path)` rebuilds
    the network; `step` and `share` belong to one training and are not.

    Where several processes train it, each has its share of every batch, and a step is that of the whole batch: each
    image weighs the same, however uneven the shares. The statistics of batch norms are those of a process's own images,
    as in the paper's training (section 5.1: 8 GPUs of 32 images), unless they are synchronised; the running ones are
    the first process's. Metrics are of all images, each counted once.
    """

    def __init__(
        self,
        backbone: str = "resnet8",
        se: SE | dict[str, Any] | None = None,
        classes: int = 10,
        channels: int = 3,
        stride: str = "paper",
        recipe: Recipe | dict[str, Any] | None = None,
        seed: int = 0,
        *,
        step: Step = PLAIN,
        share: BatchShare = WHOLE,
        images: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        recipe = Recipe(**recipe) if isinstance(recipe, dict) else recipe or Recipe()
        self.save_hyperparameters(
            {
                "backbone": backbone,
                "se": vars(se).copy() if isinstance(se, SE) else se,
                "classes": classes,
                "channels": channels,
                "stride": stride,
                "recipe": vars(recipe).copy(),
                "seed": seed,
            }
        )
        self.recipe = recipe
        self.loss: Loss = F.cross_entropy  # a checkpoint alone has no code of the user's imported
        with network_errors():
            self.net = models.create(backbone, se, classes, in_channels=channels, stride=stride, seed=seed)
            if recipe.stochastic_depth:
                set_stochastic_depth(self.net, recipe.stochastic_depth)
        self.history: list[dict[str, float]] = []  # one entry an epoch
        self.tested: dict[str, float] = {}
        self.outputs: list[Tensor] = []  # of the test: (2, B) right and −log p of this process's images of each batch
        self.images = dict(images or {})
        self.sums: dict[str, Tensor] = {}
        self.step = step
        parts.freeze(self.net, step.freeze.split())  # Lightning leaves modules in the mode that they are in
        self.number = share.number  # of this process
        self.full = len(share.of(recipe.batch_size)[0])  # images of a full batch in this process

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.net(to_layout(x_BCHW, self.step))
        return logits_BK

    # ----------------------------------------------------------------------------------------------------- one batch

    @network_errors()
    def training_step(self, batch: tuple[Any, ...], index: int) -> Tensor:
        x_BCHW, y_B, *part = batch
        x_BCHW, targets = self.mixed(x_BCHW, y_B, index, part[0] if part else len(y_B))
        with compiled(self.step, full=len(y_B) == self.full):
            logits_BK = self(x_BCHW)
        loss = self.batch_loss("train", logits_BK, targets, part)
        if part:  # the processes' gradients are averaged: so weighed, that is the gradient of the whole batch's mean
            own, count = part
            loss = loss * (own * self.trainer.world_size / count)
        return loss

    @network_errors()
    def validation_step(self, batch: tuple[Any, ...], index: int) -> None:
        x_BCHW, y_B, *part = batch
        with compiled(self.step, full=False):
            logits_BK = self(x_BCHW)
        self.batch_loss("val", logits_BK, y_B, part)

    @network_errors()
    def test_step(self, batch: tuple[Any, ...], index: int) -> None:
        x, y_B, *part = batch
        with compiled(self.step, full=False):
            logits_BK = self(x) if x.ndim == 4 else self.over_views(x)
        self.batch_loss("test", logits_BK, y_B, part)
        own = part[0] if part else len(y_B)
        loss_B = F.cross_entropy(logits_BK[:own], y_B[:own], reduction="none")
        self.outputs.append(torch.stack([top5_hits(logits_BK[:own], y_B[:own])[:, 0], loss_B.float()]))

    @network_errors()
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def batch_loss(self, split: str, logits_BK: Tensor, y_B: Tensor, part: list[int]) -> Tensor:
        """The mean loss of a batch, or of this process's own images of it; added to the sums of its split."""
        if part:
            logits_BK, y_B = logits_BK[: part[0]], y_B[: part[0]]
        if not len(y_B):
            return logits_BK.sum()  # zero, and so is its gradient
        loss = self.trained_loss(logits_BK, y_B) if split == "train" else F.cross_entropy(logits_BK, y_B)
        self.add_batch(split, loss.detach(), logits_BK, y_B if y_B.ndim == 1 else y_B.argmax(1))
        return loss

    def mixed(self, x_BCHW: Tensor, y_B: Tensor, index: int, own: int) -> tuple[Tensor, Tensor]:
        """A batch as it is trained on: its first `own` images, which count here, mixed where the recipe has them mixed,
        and their targets: labels (B,), or shares of each class (B, K)."""
        recipe = self.recipe
        if not (recipe.mixup or recipe.cutmix) or not own:
            return x_BCHW, y_B
        seed = mix_seed(self.hparams["seed"], self.current_epoch, index, self.number, MIXING)
        x_own, targets_BK = mixed_batch(recipe, x_BCHW[:own], y_B[:own], self.hparams["classes"], seed)
        return torch.cat([x_own, x_BCHW[own:]]), targets_BK

    def trained_loss(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        """What the recipe minimises; the targets are labels (B,) or shares of each class (B, K)."""
        smoothing = self.recipe.label_smoothing
        if self.recipe.loss == "cross_entropy":
            return F.cross_entropy(logits_BK, targets, label_smoothing=smoothing)
        targets_BK = F.one_hot(targets, logits_BK.shape[1]) if targets.ndim == 1 else targets
        return self.loss(logits_BK, smoothed(targets_BK.to(logits_BK.dtype), smoothing))

    def over_views(self, x_BVCHW: Tensor) -> Tensor:
        """Log of the mean predicted probabilities over the views of each image (ten crops, several scales)."""
        logits_BVK: Tensor = self(x_BVCHW.flatten(0, 1)).unflatten(0, x_BVCHW.shape[:2])
        return logits_BVK.log_softmax(2).logsumexp(1) - math.log(x_BVCHW.shape[1])

    # ------------------------------------------------------------------------------------------------- sums of a split

    def add_batch(self, split: str, loss: Tensor, logits_BK: Tensor, y_B: Tensor) -> None:
        """Add a batch to the sums of a split: images, loss, errors of the first guess and of the first five."""
        right_B5 = top5_hits(logits_BK.detach(), y_B)
        images = torch.full_like(loss, len(y_B))  # made on the GPU: copied there, it would wait for all that is queued
        batch = torch.stack([images, loss * images, (~right_B5[:, 0]).sum(), (~right_B5.any(1)).sum()]).double()
        self.sums[split] = self.sums[split] + batch if split in self.sums else batch

    def means(self, split: str) -> dict[str, float]:
        """Loss, top-1 and top-5 error (percent) of a split since the last call, over all processes; its sums begin
        anew."""
        nothing = torch.zeros(4, dtype=torch.double, device=self.device)  # where all images were for other processes
        images, loss, error, top5 = distributed.sum_over_ranks(self.sums.pop(split, nothing)).tolist()
        return {
            f"{split}_loss": loss / images,
            f"{split}_error": 100 * error / images,
            f"{split}_top5_error": 100 * top5 / images,
        }

    def on_train_epoch_start(self) -> None:
        self.sums.clear()  # an epoch that was cut off has left its sums

    def on_validation_epoch_end(self) -> None:
        self.end_epoch("train", "val")

    def end_epoch(self, *splits: str) -> None:
        """Add the means of these splits to the history as one epoch."""
        entry = {name: value for split in splits for name, value in self.means(split).items()}
        for name in (f"{split}_loss" for split in splits):
            if not math.isfinite(entry[name]):
                raise DivergedError(f"{name} was {entry[name]} in epoch {self.current_epoch + 1}")
        self.history.append({"epoch": self.current_epoch + 1, **entry})

    def on_test_epoch_start(self) -> None:
        self.outputs.clear()

    def on_test_epoch_end(self) -> None:
        self.tested = self.means("test")
        if not math.isfinite(self.tested["test_loss"]):
            raise DivergedError(f"test_loss was {self.tested['test_loss']}")

    # ------------------------------------------------------------------------------------------------------ optimiser

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        self.loss = loss_of(recipe.loss)
        rates = parts.rates(self.net, recipe.lr_parts)
        optimizer = optimizer_of(recipe, self.parameters(), self.step.fused, rates)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(recipe, step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        if self.recipe.clip:
            self.clip_gradients(optimizer, self.recipe.clip, "norm")

    # -------------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["images"] = self.images

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]


def top5_hits(logits_BK: Tensor, y_B: Tensor) -> Tensor:
    """Whether each of a network's five likeliest classes, the likeliest first, is right: (B, 5), or (B, K) of fewer
    classes."""
    return logits_BK.topk(min(5, logits_BK.shape[1])).indices == y_B[:, None]
