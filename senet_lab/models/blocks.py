"""The residual blocks that are known by their classes, and where a gate goes in each (paper, section 6.5)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from senet_lab.models.shake import Branches
from senet_lab.models.trying import Slot

BASIC = {
    "standard": Slot("bn2", "after"),
    "pre": Slot("conv1", "before"),
    "post": Slot("", "after"),
    "identity": Slot("downsample", "after"),
    "conv3x3": Slot("conv2", "before"),
}
BOTTLENECK = BASIC | {"standard": Slot("bn3", "after"), "conv3x3": Slot("conv3", "before")}
PREACT_BASIC = BASIC | {"standard": Slot("conv2", "after"), "pre": Slot("bn1", "before")}
PREACT_BOTTLENECK = BOTTLENECK | {"standard": Slot("conv3", "after"), "pre": Slot("bn1", "before")}
SHAKE = {  # gates the mix of the branches; there are two 3×3 convolutions side by side, so no place after one of them
    "standard": Slot("branch", "after"),
    "pre": Slot("branch", "before"),
    "post": Slot("", "after"),
    "identity": Slot("downsample", "after"),
}

# The kinds of block whose slots are known. Exactly these classes: a subclass may compute something else, and is looked
# into as any other block is. They go by their names, so that timm, which takes long, is imported where it is used only.
BLOCKS: dict[str, dict[str, Slot]] = {
    "torchvision.models.resnet.BasicBlock": BASIC,
    "torchvision.models.resnet.Bottleneck": BOTTLENECK,
    "timm.models.resnet.Bottleneck": BOTTLENECK,
    "senet_lab.models.cifar.PreactBasic": PREACT_BASIC,
    "senet_lab.models.cifar.PreactBottleneck": PREACT_BOTTLENECK,
    "senet_lab.models.shake.ShakeBlock": SHAKE,
}


def name_of(kind: type[nn.Module]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def is_known(block: nn.Module) -> bool:
    """Whether it is of one of these kinds."""
    return name_of(type(block)) in BLOCKS


def slots_of(block: nn.Module) -> dict[str, Slot]:
    """The slots of one block of a known kind, by position."""
    slots = BLOCKS[name_of(type(block))]
    if getattr(block, "shares_norm", False):  # a gate before that norm would gate the projection, too
        return slots | {"pre": Slot("conv1", "before")}
    return slots


def channels_in(layer: nn.Module) -> int:
    """The width that a convolution or norm takes; a ValueError for anything else."""
    return layer.in_channels if isinstance(layer, (nn.Conv2d, Branches)) else norm_width(layer)


def channels_out(block: nn.Module, slots: Mapping[str, Slot]) -> int:
    """The width of a block's output: that of the layer that ends its branch; a ValueError where nothing tells it."""
    layer = getattr(block, slots["standard"].child)
    return layer.out_channels if isinstance(layer, (nn.Conv2d, Branches)) else norm_width(layer)


def norm_width(layer: nn.Module) -> int:
    """The width of a norm of any kind: batch, group, frozen, …"""
    for name in ("num_features", "num_channels"):
        width = getattr(layer, name, None)
        if isinstance(width, int):
            return width
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() == 1:
        return len(weight)
    raise ValueError(f"{type(layer).__name__} stands where a block has its last layer or norm: name modules by where=")
