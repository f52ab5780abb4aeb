"""One training as a script around the usual libraries does it: what the lab is compared with.

Lightning, torchvision's transforms and PyTorch's DataLoader, all as they are by default, eager; the network, the
images, the splits and the recipe are the lab's. One process trains one network, and prints its errors as JSON; without
`--reduction` it has no SE. Where several run side by side, one thread each is quickest:

    OMP_NUM_THREADS=1 python -m benchmarks.plain --reduction 16 --seed 0

What a script might have besides (logger, progress bar, checkpoints) is off, to its advantage.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from senet_lab import models
from senet_lab.config import SE, Data, Recipe
from senet_lab.training.images import split_indices
from senet_lab.training.sources import SOURCES


class Images(Dataset[tuple[Tensor, int]]):
    """Images in memory, each turned into a PIL image and changed by itself, as torchvision's data sets do."""

    def __init__(self, images_NCHW: Any, labels_N: Any, transform: Any) -> None:
        pixels = (image[0] if len(image) == 1 else image.transpose(1, 2, 0) for image in images_NCHW)
        self.images = [Image.fromarray(image) for image in pixels]
        self.labels = labels_N.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


class Plain(pl.LightningModule):
    """A network, cross-entropy, SGD and one cosine."""

    def __init__(self, net: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.net = net
        self.recipe = recipe

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x_BCHW, y_B = batch
        loss = F.cross_entropy(self.net(x_BCHW), y_B)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.evaluated("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.evaluated("test", batch)

    def evaluated(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        x_BCHW, y_B = batch
        logits_BK = self.net(x_BCHW)
        self.log(f"{split}_loss", F.cross_entropy(logits_BK, y_B))
        self.log(f"{split}_error", 100 * (logits_BK.argmax(1) != y_B).float().mean(), batch_size=len(y_B))

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        optimizer = torch.optim.SGD(
            self.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def changes(data: Data, training: bool) -> Any:
    """torchvision's transforms for a data set's augmentation."""
    steps: list[Any] = []
    if training and data.augment == "cifar":
        steps.append(transforms.RandomHorizontalFlip())
    if training and data.augment in ("cifar", "crop"):
        steps.append(transforms.RandomCrop(data.size, padding=data.size // 8))
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(*SOURCES[data.name].statistics)])


def loader(images: Any, labels: Any, data: Data, batch_size: int, training: bool) -> DataLoader[Any]:
    split = Images(images, labels, changes(data, training))
    alone = training and len(split) % batch_size == 1  # an image that batch norm would have no variance of
    return DataLoader(split, batch_size=batch_size, shuffle=training, drop_last=alone)


def trainer(epochs: int, device: str, callbacks: Sequence[pl.Callback] = ()) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        deterministic=False,  # said because the lab, in the same process, may have switched it on
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
    )


def train(data: Data, recipe: Recipe, se: SE | None, backbone: str, seed: int) -> dict[str, float]:
    """Train and test one network of a data set that lies in memory; its errors in percent."""
    pl.seed_everything(seed, verbose=False)
    learnt, tested = SOURCES[data.name].index(data).read()
    index = split_indices(data, learnt.labels, tested.labels)
    splits = [images.take(places) for images, places in zip((learnt, learnt, tested), index, strict=True)]
    loaders = [
        loader(split.images, split.labels, data, recipe.batch_size, training)
        for split, training in zip(splits, (True, False, False), strict=True)
    ]
    channels = learnt.images.shape[1]
    module = Plain(models.create(backbone, se, 10, in_channels=channels, seed=seed), recipe)
    engine = trainer(recipe.epochs, "cuda" if torch.cuda.is_available() else "cpu")
    engine.fit(module, loaders[0], loaders[1])
    (tested,) = engine.test(module, loaders[2], verbose=False)
    return dict(tested)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reduction", type=int, help="r; without it no SE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", nargs="*", default=[], help="the lab's words for data and recipe")
    given = parser.parse_args()
    from senet_lab.compose import compose
    from senet_lab.training.silence import without_advice

    warnings.filterwarnings("ignore")
    without_advice()
    config = compose(given.words).config
    se = None if given.reduction is None else SE(reduction=given.reduction)
    print(json.dumps(train(config.data, config.recipe, se, config.backbone, given.seed)))


if __name__ == "__main__":
    main()
