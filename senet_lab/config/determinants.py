"""What determines the result of one training, whatever it is part of: the design, the images, the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from senet_lab.config.keys import ENDLESS, RUN, STUDY, TINY, key


@dataclass
class SE:
    """A design of gates: which one, and where in the plain network (paper, sections 3 and 6)."""

    reduction: Any = key(
        16,
        "r, the ratio of a block's channels C to its hidden width max(1, C // r). One number for all stages, or a "
        "mapping from stage to number; a stage that the mapping leaves out has no SE (sections 3.2 and 6.1)",
    )
    squeeze: str = key("avg", "how H × W is pooled to one descriptor a channel: `avg`, `max`, or `none` (6.2, 7.1)")
    excitation: str = key("sigmoid", "the gate's non-linearity: `sigmoid`, `softmax`, `tanh` or `relu` (6.3)")
    position: str = key(
        "standard",
        "where in the residual unit: `standard`, `pre`, `post`, `identity` or `conv3x3` (6.5); or `depthwise`, behind "
        "each depthwise or grouped convolution, its norm and non-linearity, as in MobileNetV3",
    )
    stages: Any = key(
        "all",
        "`all`, `all_but_last`, or a list in the paper's numbering, 2 to 5 (torchvision's layer1 to layer4; 6.4). "
        "Networks with three stages have 2 to 4; VGG, Inception and mobile networks number theirs by resolution. An "
        "empty list is the plain network",
    )
    bias: bool = key(False, "whether the two fully connected layers have biases. The paper's section 6 leaves them out")
    identity_start: bool = key(
        False,
        "whether every gate starts at exactly 1, so that a pretrained network gives at first what it gave without SE: "
        "for fine-tuning. The gates then reach from 0 to 2 (sigmoid, tanh), to C (softmax; they sum to C) or without "
        "bound (ReLU)",
    )
    kind: str = key(
        "se",
        "which gate: `se`; the controls `constant` (one fixed number) and `static` (one learned number a channel, "
        "whatever the image is); `simam`; timm's `timm:eca`, `timm:ge`, `timm:gc`, `timm:cbam` …; or a class of your "
        "own, `package.module:Class`, called with the channels. Squeeze, excitation and bias are of the kinds that "
        "have them",
    )
    args: Any = key(
        None,
        "what the kind takes besides, by name: `{value: 0.3}` for `constant`, `{spatial_kernel_size: 3}` …; null is "
        "nothing",
    )

    def by_stage(self, available: Sequence[int]) -> dict[int, int]:
        """The one form that every spelling comes down to: stage → reduction, for the stages that get SE.

        Args:
            available: the stages that the network has, e.g. (2, 3, 4, 5).

        Returns:
            A dict ordered by stage; empty if no stage gets SE.

        Raises:
            ValueError: for a stage that the network lacks or a reduction that is not a whole number of at least 1.
        """
        if isinstance(self.reduction, Mapping):
            ratios = {stage_number(stage): reduction_number(r) for stage, r in self.reduction.items()}
        else:
            ratios = dict.fromkeys(available, reduction_number(self.reduction))
        if self.stages == "all":
            wanted = list(ratios)
        elif self.stages == "all_but_last":
            wanted = [stage for stage in ratios if stage != max(available)]
        elif isinstance(self.stages, Sequence) and not isinstance(self.stages, str):
            wanted = [stage_number(stage) for stage in self.stages]
        else:
            raise ValueError(f"se.stages: {self.stages!r} is not all, all_but_last or a list such as [3,4]")
        for name, stages in (("reduction", ratios), ("stages", wanted)):
            for stage in stages:
                if stage not in available:
                    has = ", ".join(map(str, available))
                    raise ValueError(f"se.{name}: the network has no stage {stage}; it has {has}")
        return {stage: ratios[stage] for stage in sorted(set(wanted)) if stage in ratios}


def reduction_number(value: Any) -> int:
    """`value` as a reduction ratio; a ValueError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"se.reduction: {value!r} is not a whole number of at least 1")
    return value


def stage_number(value: Any) -> int:
    """`value` as a stage's number; a ValueError unless it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"se.stages: {value!r} is not the number of a stage")
    return value


@dataclass
class Data:
    """Which images, how they are split, and how they are fed."""

    name: str = key(
        "digits",
        "`digits`, `cifar10`, `cifar100` or `folder`; one of torchvision's, `torchvision:SVHN`; or what a function of "
        "yours returns, `package.module:function` (docs/data.md)",
        decides=STUDY,
    )
    args: Any = key(
        None,
        "arguments of torchvision's class or of your function, such as `{split: letters}`; null is none",
        decides=STUDY,
    )
    root: str = key(
        "data",
        "the folder that holds the data set (torchvision's layout for CIFAR; `train/` and `test` for `folder`)",
        decides=RUN,
    )
    train: str = key("train", "name of the training tree below `root` (`folder` only)", decides=STUDY)
    test: str = key("val", "name of the test tree below `root` (`folder` only; ImageNet calls it val)", decides=STUDY)
    test_share: float = key(
        0.0,
        "share of the training images that is tested on, where there are no test images (not for `digits` and CIFAR): "
        "of every class in proportion, the same images for every row and seed, none of which trains or validates",
        decides=STUDY,
    )
    identity: str = key(
        "contents",
        "by what a trial knows the images of a `folder`: their `contents`, or `names` and sizes alone, as in earlier "
        "versions, which other images under the same names may share. The contents are read once; what they were is "
        "kept in the user's cache",
        decides=RUN,
    )
    size: int = key(
        8,
        "height and width of the images that the network sees, in pixels; others are resized. 0 takes the size that "
        "they have (not for `folder`)",
        bounds=(0, 10_000),
    )
    resize: int = key(
        0,
        "short side that test images are resized to before the centre crop, in pixels (`folder` only); 0 takes the "
        "paper's 256 for 224 and 352 for 299, else size × 256 / 224",
    )
    crops: int = key(
        1,
        "what is cut out of a test image: 1 (the centre) or 10 (corners and centre, and their mirror images), over "
        "which predicted probabilities are averaged (`folder` only). Validation sees the centre",
    )
    scales: list[int] = key(
        list,
        "short sides in pixels that test images are resized to, one after the other, averaged over likewise (`folder` "
        "only); empty takes `resize`",
    )
    mean: list[float] = key(
        list,
        "of each colour channel of the training images, in units of the full range (not for `digits` and CIFAR, of "
        "which it is known). For `folder`, one number has the images read as grey ones of one channel, and empty takes "
        "ImageNet's three; for others, empty has it measured",
        decides=STUDY,
    )
    std: list[float] = key(list, "their standard deviations, likewise", decides=STUDY)
    augment: str = key(
        "none",
        "`none`, `crop` (pad an eighth, crop), `cifar` (flip, pad 4 of 32, crop) or `imagenet` (random resized crop, "
        "flip; `folder` only)",
    )
    cutout: int = key(
        0,
        "side of the square that is blanked in each training image after its augmentation (DeVries and Taylor 2017), "
        "in pixels; 16 is for CIFAR-10, 8 for CIFAR-100, 0 is none",
    )
    policy: str = key(
        "none",
        "what is done to each training image besides, after its crop: `none`, `randaugment` (Cubuk et al. 2020) or "
        "`trivialaugment` (Müller and Hutter 2021), both as torchvision has them",
    )
    policy_args: Any = key(
        None,
        "arguments of torchvision's class, such as `{num_ops: 2, magnitude: 6}`; null is none",
    )
    erasing: float = key(
        0.0,
        "probability that a random rectangle of a training image, 2 to 33% of its area, is blanked at last (Zhong et "
        "al. 2020), as torchvision has it",
        bounds=(0, 1),
    )
    validation: float = key(
        0.1,
        "share of the training images held out for validation, the same images for every row and seed. A search "
        "selects by them; where nothing is selected, 0 trains on all images, as the paper does",
    )
    subset: int | None = key(
        None,
        "train on at most this many images, balanced over classes, and validate on fewer in proportion; null takes all",
    )
    test_subset: int | None = key(None, "likewise for the test images", decides=STUDY)
    download: bool = key(
        False, "have torchvision fetch a data set that is not below `root`. Changes no result", decides=RUN
    )
    workers: int = key(
        0,
        "processes that decode images (`folder` only), or threads where that is done once. Changes no result",
        bounds=(0, 1_000),
        decides=RUN,
    )


@dataclass
class Recipe:
    """How every network of a study is trained: fixed across rows that do not vary it."""

    name: str = key("custom", "what the recipe is called in tables and folders", decides=RUN)
    epochs: int = key(30, "passes over the training images", bounds=(1, ENDLESS))
    batch_size: int = key(128, "images a step", bounds=(1, ENDLESS))
    lr: float = key(0.1, "learning rate at the start (after warm-up)", bounds=(TINY, ENDLESS))
    momentum: float = key(0.9, "of SGD", bounds=(0, 1))
    nesterov: bool = key(False, "whether the momentum is Nesterov's")
    weight_decay: float = key(1e-4, "L2, on all weights unless `decay_norm` is off", bounds=(0, ENDLESS))
    decay_norm: bool = key(True, "whether normalisation parameters and biases are decayed, too")
    schedule: str = key(
        "cosine",
        "of the learning rate",
        choices={
            "constant": "",
            "cosine": "to zero",
            "step": "times `factor` at each of `milestones`",
            "onecycle": "from a 25th up to it at `peak`, then to next to nothing (Smith and Topin 2017)",
        },
    )
    milestones: list[int] = key(list, "epochs at which `step` cuts", bounds=(1, ENDLESS))
    factor: float = key(0.1, "what `step` multiplies by", bounds=(0, 1))
    warmup_steps: int = key(0, "optimiser steps at `warmup_lr` before the schedule begins", bounds=(0, ENDLESS))
    warmup_lr: float = key(0.01, "learning rate of the warm-up", bounds=(0, ENDLESS))
    warmup_epochs: float = key(
        0.0,
        "epochs in which the learning rate rises linearly, step by step, from `warmup_start` of it, before a schedule "
        "for the rest of the training begins",
        bounds=(0, ENDLESS),
    )
    warmup_start: float = key(0.01, "share of the learning rate that this begins with", bounds=(0, 1))
    peak: float = key(0.3, "share of the steps of `onecycle` after which its rate is highest", bounds=(0.01, 0.99))
    optimizer: str = key(
        "sgd",
        "by name: of torch.optim (`adamw`, `rmsprop` …), else of timm's factory (`lamb`, `lion` …); or "
        "`package.module:function`, called as PyTorch's are, with groups of weights and `lr`. `momentum` and "
        "`nesterov` are SGD's alone",
    )
    optimizer_args: Any = key(None, "arguments of another optimiser than SGD, such as `{betas: [0.9, 0.95]}`")
    clip: float = key(0.0, "norm that the gradient of a step is clipped to; 0 leaves it", bounds=(0, ENDLESS))
    loss: str = key(
        "cross_entropy",
        "that is trained on: `cross_entropy`; `bce`, binary cross-entropy of each class by itself; `bce_any`, "
        "likewise, where a mixed image counts wholly for each class that it has part of (Wightman et al. 2021); or "
        "`package.module:function` of logits (B, K) and targets (B, K), whose rows sum to 1, that gives a mean. "
        "Validation and test say the cross-entropy in any case",
    )
    mixup: float = key(
        0.0,
        "alpha of the Beta distribution by which pairs of images of a batch, and their labels, are mixed (Zhang et al. "
        "2018), as torchvision has it; 0 is none",
        bounds=(0, ENDLESS),
    )
    cutmix: float = key(
        0.0,
        "likewise, where a rectangle of the one image is put into the other (Yun et al. 2019). With both, each batch "
        "gets one of them, as likely as the other",
        bounds=(0, ENDLESS),
    )
    stochastic_depth: float = key(
        0.0,
        "probability that the last residual branch of an image is left out in training, and for those before it in "
        "proportion to their depth (Huang et al. 2016), where the network has layers for it (torchvision's "
        "`StochasticDepth`, timm's `DropPath`)",
        bounds=(0, 0.99),
    )
    label_smoothing: float = key(0.0, "weight of the uniform distribution in the training targets", bounds=(0, 1))
    sampling: str = key(
        "uniform",
        "which images an epoch shows",
        choices={
            "uniform": "every one once",
            "balanced": "as many, but every class equally often, as the paper's first versions did (after Shen et al. "
            "2016)",
        },
    )
    ema: float = key(
        0.0,
        "decay of an exponential moving average of the weights, which is validated, tested and kept in place of the "
        "last ones; 0 is none",
        bounds=(0, 0.999999),  # 1 would never leave the initial weights
    )
