"""Where gates go in the blocks of timm and torchvision that are no residual blocks, or only some of which are.

A bottleneck of MobileNetV2 adds its input where stride and width allow it, and none is added by dense layers, Inception
modules and blocks without shortcuts: `structure.py` would refuse them, or find some of them only. A gate at the
standard position ends what the block computes, before anything is added or dropped.

Of networks whose convolutions stand in no blocks (VGG, AlexNet), gates go after each ReLU that follows one.
"""

from __future__ import annotations

from torch import nn

from senet_lab.models.site_check import Slot

AFTER = Slot("", "after")  # the whole block


def unit(end: str, first: str, third: str = "", shortcut: str = "") -> dict[str, Slot]:
    """Position → slot: after the child `end`, before `first`, after the block; before `third`, which follows the first
    convolution larger than 1×1; after the child `shortcut`."""
    slots = {"standard": Slot(end, "after"), "pre": Slot(first, "before"), "post": AFTER}
    slots |= {"conv3x3": Slot(third, "before")} if third else {}
    return slots | ({"identity": Slot(shortcut, "after")} if shortcut else {})


WHOLE = {"standard": AFTER}  # a module whose output is a concatenation, or ends with a non-linearity
DENSE = {"standard": Slot("conv2", "after")}  # the channels that a dense layer adds

TIMM = {
    "_efficientnet_blocks.InvertedResidual": unit("bn3", "conv_pw", "conv_pwl"),
    "_efficientnet_blocks.CondConvResidual": unit("bn3", "conv_pw", "conv_pwl"),
    "_efficientnet_blocks.EdgeResidual": unit("bn2", "conv_exp", "conv_pwl"),
    "_efficientnet_blocks.DepthwiseSeparableConv": unit("bn2", "conv_dw", "conv_pw"),
    "_efficientnet_blocks.UniversalInvertedResidual": unit("layer_scale", "dw_start"),
    "byobnet.MobileOneBlock": WHOLE,
    "byobnet.RepVggBlock": WHOLE,
    "densenet.DenseLayer": DENSE,
    "dla.DlaBasic": unit("bn2", "conv1", "conv2"),
    "dla.DlaBottleneck": unit("bn3", "conv1", "conv3"),
    "fasternet.MLPBlock": unit("mlp", "spatial_mixing"),
    "ghostnet.GhostBottleneck": unit("ghost2", "ghost1", shortcut="shortcut"),
    "inception_resnet_v2.Block35": {"standard": Slot("conv2d", "after"), "post": AFTER},
    "inception_resnet_v2.Block17": {"standard": Slot("conv2d", "after"), "post": AFTER},
    "inception_resnet_v2.Block8": {"standard": Slot("conv2d", "after"), "post": AFTER},
    **{f"inception_v3.Inception{letter}": WHOLE for letter in "ABCDE"},
    **{f"inception_v4.Inception{letter}": WHOLE for letter in "ABC"},
    "nfnet.NormFreeBlock": unit("conv3", "conv1", "conv3", "downsample"),
    "rexnet.LinearBottleneck": {"standard": Slot("conv_pwl", "after"), "post": AFTER},
    "vovnet.OsaBlock": {"standard": Slot("conv_concat", "after"), "post": AFTER},
    "xception.Block": unit("rep", "rep"),
    "xception_aligned.XceptionModule": unit("stack", "stack", shortcut="shortcut"),
    "xception_aligned.PreXceptionModule": unit("stack", "stack", shortcut="shortcut"),
}
TORCHVISION = {
    "densenet._DenseLayer": DENSE,
    "efficientnet.FusedMBConv": unit("block", "block"),
    "efficientnet.MBConv": unit("block", "block"),
    "googlenet.Inception": WHOLE,
    **{f"inception.Inception{letter}": WHOLE for letter in "ABCDE"},
    "mnasnet._InvertedResidual": unit("layers", "layers"),
    "mobilenetv2.InvertedResidual": unit("conv", "conv"),
    "mobilenetv3.InvertedResidual": unit("block", "block"),
    "shufflenetv2.InvertedResidual": {"standard": Slot("branch2", "after"), "post": AFTER},
    "squeezenet.Fire": WHOLE,
}
# Class → position → slot.
LIBRARY_BLOCKS = {f"timm.models.{name}": slots for name, slots in TIMM.items()}
LIBRARY_BLOCKS |= {f"torchvision.models.{name}": slots for name, slots in TORCHVISION.items()}

WITHOUT_BLOCKS = ("torchvision.models.vgg.VGG", "torchvision.models.alexnet.AlexNet", "timm.models.vgg.VGG")


def relu_places(features: nn.Sequential, root: str) -> dict[str, int]:
    """Path → channels, of the ReLUs that follow a convolution in a chain of layers at `root`."""
    places, channels = {}, 0
    for number, layer in enumerate(features):
        channels = layer.out_channels if isinstance(layer, nn.Conv2d) else channels
        if isinstance(layer, nn.ReLU):
            places[f"{root}.{number}"] = channels
    return places
