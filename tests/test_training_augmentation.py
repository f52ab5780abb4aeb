"""What today's recipes do to images and batches: as torchvision does it, and the same after a training was cut off."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_data_feeds import make_tree
from test_training_trial import DIGITS, make_spec, outcome, silent
from torch import Tensor, nn
from torchvision.ops import StochasticDepth
from torchvision.transforms import v2

from senet_lab.config import Data, Recipe
from senet_lab.training import trial
from senet_lab.training.augment import erasing
from senet_lab.training.data import load_splits
from senet_lab.training.mixing import mixed_batch, set_stochastic_depth
from senet_lab.training.policies import OPERATIONS, POLICIES, BatchPolicy

DRAW = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_operation_is_torchvisions(policy: str, channels: int) -> None:
    """On the same images with the same numbers, to the last bit; images of a batch are changed each in its own way."""
    theirs = POLICIES[policy]()
    assert list(OPERATIONS) == list(theirs._AUGMENTATION_SPACE)
    ours = BatchPolicy(policy, {})
    x_BCHW = torch.randint(256, (6, channels, 12, 16), generator=DRAW, dtype=torch.uint8)
    for bin_ in (0, 9, 17, 30):
        for turn in range(0, len(OPERATIONS), 3):
            numbers_B13 = torch.tensor([[[(turn + at) % len(OPERATIONS), bin_, at % 2]] for at in range(6)])
            changed = ours.apply(x_BCHW, numbers_B13)
            for x_CHW, found, (name_at, number, negative) in zip(
                x_BCHW, changed, numbers_B13[:, 0].tolist(), strict=True
            ):
                name = list(OPERATIONS)[name_at]
                levels, signed = theirs._AUGMENTATION_SPACE[name]
                table = levels(31, 12, 16)
                level = 0.0 if table is None else float(table[number]) * (-1 if signed and negative else 1)
                expected = theirs._apply_image_or_video_transform(
                    x_CHW, name, level, interpolation=theirs.interpolation, fill=theirs._fill
                )
                assert torch.equal(found, expected), (name, number, negative)


def test_operations_are_drawn_evenly() -> None:
    """Each as often as the others, of both signs; TrivialAugment with every magnitude, RandAugment with its own."""
    trivial = BatchPolicy("trivialaugment", {}).draw(50_000, DRAW)[:, 0]
    rand = BatchPolicy("randaugment", {"num_ops": 3, "magnitude": 5}).draw(20_000, DRAW)
    assert rand.shape == (20_000, 3, 3)
    assert (rand[:, :, 1] == 5).all()
    for numbers, sizes in ((trivial, (14, 31, 2)), (rand[:, 2], (14, 0, 2))):
        for column, size in zip(numbers.T, sizes, strict=True):
            if size:
                shares = torch.bincount(column, minlength=size) / len(column) * size
                assert shares.min() > 0.85
                assert shares.max() < 1.15
                assert len(shares) == size


def test_erasing_is_distributed_as_torchvisions() -> None:
    """How often, how large, of which aspect and where, of 3,000 images each."""
    x_BCHW = torch.ones(3_000, 1, 24, 32)
    theirs = v2.RandomErasing(p=0.4)
    torch.manual_seed(0)
    both = [erasing(0.4)(x_BCHW, DRAW), torch.stack([theirs(x_CHW) for x_CHW in x_BCHW])]
    figures = []
    for erased_BHW in (found[:, 0] == 0 for found in both):
        hit = erased_BHW.flatten(1).any(1)
        heights, widths = (erased_BHW[hit].any(axis).sum(1).double() for axis in (2, 1))
        assert (erased_BHW[hit].sum((1, 2)) == heights * widths).all()  # one rectangle, wholly inside
        top = erased_BHW[hit].any(2).long().argmax(1) / (24 - heights)
        area, aspect = heights * widths / (24 * 32), (heights / widths).log()
        told = [hit.double().mean(), area.mean(), area.std(), aspect.mean(), aspect.std(), top.mean()]
        figures.append([float(each) for each in told])
    assert figures[0] == pytest.approx(figures[1], abs=0.04)
    assert figures[0][0] == pytest.approx(0.4, abs=0.03)


def test_mixup_mixes_images_and_labels_by_one_share() -> None:
    x_BCHW, y_B = torch.rand(8, 3, 4, 4), torch.arange(8)
    shares = []
    for seed in range(400):
        mixed, targets = mixed_batch(Recipe(mixup=0.4), x_BCHW, y_B, 8, seed)
        share = float(targets[0, 0])
        shares.append(share)
        torch.testing.assert_close(targets, share * torch.eye(8) + (1 - share) * torch.eye(8).roll(1, 0))
        torch.testing.assert_close(mixed, share * x_BCHW + (1 - share) * x_BCHW.roll(1, 0))
    # Beta(0.4, 0.4): mean a half, variance 1 / (4 · 1.8).
    assert torch.tensor(shares).mean() == pytest.approx(0.5, abs=0.06)
    assert torch.tensor(shares).var() == pytest.approx(1 / 7.2, abs=0.02)


def test_cutmix_puts_in_a_rectangle_and_counts_it() -> None:
    """A batch has one of the two where both are asked for, and the same seed the same."""
    x_BCHW, y_B = torch.rand(4, 3, 16, 16), torch.arange(4)
    cut = 0
    for seed in range(100):
        recipe = Recipe(cutmix=1.0, mixup=1.0)
        mixed, targets = mixed_batch(recipe, x_BCHW, y_B, 4, seed)
        again = mixed_batch(recipe, x_BCHW, y_B, 4, seed)
        assert torch.equal(mixed, again[0])
        assert torch.equal(targets, again[1])
        own, other = (mixed == x_BCHW).all(1), (mixed == x_BCHW.roll(1, 0)).all(1)
        if (own | other).all():
            cut += 1
            assert float(targets[0, 0]) == pytest.approx(float(own[0].double().mean()), abs=1e-6)
    assert 35 < cut < 65


class Deep(nn.Module):
    """Two residual branches that may be left out."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.branches = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.drops = nn.ModuleList(StochasticDepth(0.0, "row") for _ in range(2))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch, drop in zip(self.branches, self.drops, strict=True):
            x = x + drop(branch(x).relu())
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def deep(num_classes: int, in_channels: int = 3) -> nn.Module:
    return Deep(num_classes, in_channels)


def test_stochastic_depth_rises_with_depth() -> None:
    net = deep(10)
    set_stochastic_depth(net, 0.4)
    assert [layer.p for layer in net.drops] == [0.2, 0.4]
    with pytest.raises(ValueError, match=r"stochastic_depth=0.4: the network has no layer for it"):
        set_stochastic_depth(nn.Conv2d(1, 1, 1), 0.4)


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of the data and of the recipe
    "adamw": ({}, {"optimizer": "adamw", "optimizer_args": {"amsgrad": True}, "lr": 0.01, "warmup_epochs": 1}),
    "lamb": ({}, {"optimizer": "lamb", "loss": "bce_any", "cutmix": 1.0, "mixup": 0.1, "ema": 0.9}),
    "onecycle": ({"erasing": 0.5, "cutout": 3}, {"schedule": "onecycle", "clip": 0.1, "loss": "bce"}),
    "randaugment": ({"policy": "randaugment", "policy_args": {"magnitude": 12}}, {"mixup": 0.3}),
    "trivialaugment": (
        {"policy": "trivialaugment", "erasing": 0.3, "size": 10},
        {"label_smoothing": 0.1, "cutmix": 0.5},
    ),
}


@pytest.mark.parametrize("option", [*OPTIONS, "depth"])
def test_a_training_that_was_cut_off_ends_with_the_same_bits(option: str, tmp_path: Path) -> None:
    data, recipe = OPTIONS.get(option, ({}, {"stochastic_depth": 0.5}))
    spec = make_spec(
        data=Data(**{**vars(DIGITS), **data}),
        recipe=Recipe(**{"epochs": 3, "batch_size": 32, "lr": 0.05, **recipe}),
        backbone="resnet8" if option in OPTIONS else f"{__name__}:deep",
    )
    whole = trial.run_trial(spec, tmp_path / "whole.ckpt", silent)
    trial.run_trial(spec, tmp_path / "cut.ckpt", silent, until=1)
    resumed = trial.run_trial(spec, tmp_path / "cut.ckpt", silent)
    assert resumed["resumed"]
    assert outcome(resumed) == outcome(whole)
    ends = [torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["state_dict"] for name in ("whole", "cut")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert all(math.isfinite(value) for value in whole["metrics"].values())


@pytest.mark.parametrize("feed", ["files", "memory"])
def test_a_tree_is_augmented_likewise(feed: str, tmp_path: Path) -> None:
    """Epochs differ, an epoch is the same each time, and what validates is left alone."""
    make_tree(tmp_path / "tree", {"a": 8, "b": 8})
    words = {"root": str(tmp_path / "tree"), "size": 16, "resize": 18, "augment": "imagenet", "validation": 0.25}
    plain = load_splits(Data("folder", **words), feed)
    changed = load_splits(Data("folder", **words, policy="trivialaugment", erasing=1.0), feed)
    first, again, second = (next(iter(changed.train.batches(12, 3, epoch)))[0] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    before = next(iter(plain.train.batches(12, 3, 0)))[0]
    assert not torch.equal(before, first)
    assert ((first == 0).all(1).flatten(1).float().mean(1) > 0).all()
    assert torch.equal(*(next(iter(each.validation.batches(4)))[0] for each in (plain, changed)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data.policy=autoaugment"],
            "data.policy: there is no 'autoaugment' (did you mean randaugment?); there are none, randaugment, triv",
        ),
        (["data.policy_args={magnitude:3}"], "data.policy=none takes none"),
        (["data.policy=randaugment", "data.policy_args={m:3}"], "takes no 'm'; it takes num_ops, magnitude, num_mag"),
        (["data.policy=randaugment", "data.policy_args={magnitude:40}"], "data.policy_args={'magnitude': 40}: randaug"),
        (["data.policy=trivialaugment", "data.policy_args=3"], "data.policy_args=3: no mapping"),
        (["data.erasing=1.5"], "data.erasing=1.5 is not between 0 and 1"),
        (["recipe.stochastic_depth=0.2"], "recipe.stochastic_depth=0.2: the network has no layer for it"),
    ],
)
def test_words_that_cannot_be(words: list[str], message: str, refuses: Callable[[list[str], str], None]) -> None:
    refuses(words, message)
