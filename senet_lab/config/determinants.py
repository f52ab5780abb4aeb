"""What determines the result of one training beside its recipe: the design, and the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from senet_lab.config.keys import RUN, STUDY, key


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
    test_size: int = key(
        0,
        "likewise of the images that it is validated and tested on; 0 is `size`. A network that was trained at 224 may "
        "well be tested at 320 (section 5.1)",
        bounds=(0, 10_000),
    )
    resize: int = key(
        0,
        "short side that test images are resized to before the centre crop, in pixels (`folder` only); 0 takes the "
        "paper's 256 for 224 and 352 for 299, else size × 256 / 224",
        only="data.name=folder",
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

    @property
    def tested(self) -> Data:
        """The images as they are validated and tested on, by the one word `size`."""
        return replace(self, size=self.test_size or self.size, test_size=0)
