"""The plain networks by name, with or without SE.

Networks for small images are our own (`cifar.py`, `shake.py`), and so are BN-Inception and ShuffleNet; the others are
torchvision's or timm's, SENet-154 is made of timm's parts, all without pretrained weights (`weights.py` brings those).
Convolutions are initialised after He et al. (normal, fan-out; ShuffleNet's by fan-in), norms with 1 and 0, classifiers
as the library does that they come from.

Stages are numbered as in the paper's ResNets: stage s has maps 2^s times smaller than the image (networks for small
images, which halve it later, have the same three stages 2 to 4). By that VGG, which starts at full resolution, has the
stages 0 to 4, MobileNet 1 to 5, and those with a stem of stride 8 have 3 to 5. A block that lowers the resolution
belongs to the stage that it opens.

timm is imported by the networks that are made of it: that takes as long as building all others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torchvision.models
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from senet_lab.config import SE
from senet_lab.models import cifar, shake
from senet_lab.models.gated import Inserted
from senet_lab.models.gates import check_known
from senet_lab.models.importing import imported
from senet_lab.models.inception import bn_inception
from senet_lab.models.insert import STANDARD, add_se, as_design, put_se
from senet_lab.models.library import LIBRARIES, build_library, library_of
from senet_lab.models.mobilenet import mobilenet
from senet_lab.models.seeding import seeded
from senet_lab.models.shufflenet import shufflenet
from senet_lab.models.stages import declare_stages


def imagenet(
    block: type[nn.Module], blocks: Sequence[int], num_classes: int, in_channels: int = 3, **widths: int
) -> nn.Module:
    """One of torchvision's ResNets, by kind and number of blocks; `in_channels` changes its first convolution only."""
    net: nn.Module = ResNet(block, blocks, num_classes=num_classes, **widths)
    if in_channels != 3:
        net.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        cifar.he_normal(net.conv1)
    return net


resnext = partial(imagenet, groups=32, width_per_group=4)  # 32×4d


def senet154(num_classes: int, in_channels: int = 3) -> nn.Module:
    """SENet-154 without its SE (paper, appendix): ResNeXt-152 64×4d, and four changes that timm has arguments for.

    They are a stem of three 3×3 convolutions, first 1×1 convolutions of half the width, 3×3 projections where a stage
    halves the resolution, and dropout of 0.2 before the classifier. That makes 108,459,944 weights for 1000 classes;
    SE at r = 16 adds 6.58 M, and 0.05 M if it has biases, as the released model's has.
    """
    from timm.models.resnet import Bottleneck as Block
    from timm.models.resnet import ResNet as Trunk

    net: nn.Module = Trunk(
        Block,  # type: ignore[arg-type]  # annotated as an instance, meant as a class
        (3, 8, 36, 3),
        num_classes=num_classes,
        in_chans=in_channels,
        cardinality=64,
        base_width=4,
        stem_type="deep",
        block_reduce_first=2,
        down_kernel_size=3,
        drop_rate=0.2,
        zero_init_last=False,
    )
    return net


def vgg16(num_classes: int, in_channels: int = 3) -> nn.Module:
    """VGG-16 with batch norm, torchvision's: the paper adds norms to train it from scratch (section 5.1).

    SE follows the ReLU behind each of the 13 convolutions (section 3.3). That gives the printed 15.47 G and 15.48 G.
    """
    net = torchvision.models.vgg16_bn(num_classes=num_classes)
    if in_channels != 3:
        net.features[0] = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1)
        cifar.he_normal(net.features[0])
    stages: dict[int, list[str]] = {}
    places: dict[str, int] = {}
    stage, channels = 0, 0
    for number, layer in enumerate(net.features):
        path = f"features.{number}"
        if isinstance(layer, nn.MaxPool2d):  # belongs to the stage it opens; there is none behind the last
            stage += 1
            continue
        stages.setdefault(stage, []).append(path)
        channels = layer.out_channels if isinstance(layer, nn.Conv2d) else channels
        if isinstance(layer, nn.ReLU):
            places[path] = channels
    return declare_stages(net, stages, places)


def inception_resnet_v2(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Inception-ResNet-v2, timm's, which is the network that its authors released; for images of 299 pixels.

    SE gates the residual branch of its 40 residual units, before it is scaled and added; the paper speaks of "similar
    schemes" only (section 3.3). Its numbers do not decide whether the three modules between the units have SE, too: the
    gates' layers add the printed 0.01 G either way. The printed 11.75 G of the plain network are not
    those of this one, 13.16 G; which version was counted is not known.
    """
    import timm

    net = timm.create_model("inception_resnet_v2", num_classes=num_classes, in_chans=in_channels)
    cifar.he_normal(net)
    stages = {3: ["mixed_5b", "repeat"], 4: ["mixed_6a", "repeat_1"], 5: ["mixed_7a", "repeat_2", "block8"]}
    places = {
        f"{path}.conv2d": unit.conv2d.out_channels
        for path, unit in net.named_modules()
        if isinstance(getattr(unit, "conv2d", None), nn.Conv2d)
    }
    return declare_stages(net, stages, places)


# Name → builder, called with num_classes and in_channels.
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "resnet8": partial(cifar.resnet, 8),
    "resnet20": partial(cifar.resnet, 20),
    "resnet32": partial(cifar.resnet, 32),
    "resnet56": partial(cifar.resnet, 56),
    "resnet110": partial(cifar.resnet, 110),
    "preresnet110": partial(cifar.preact_resnet, 110, bottleneck=False),
    "preresnet164": partial(cifar.preact_resnet, 164, bottleneck=True),
    "wrn16_4": partial(cifar.wide_resnet, 16, 4),
    "wrn16_8": partial(cifar.wide_resnet, 16, 8),
    "shake26_2x96d": partial(shake.shake26, 96),
    "shake29_2x4x64d": partial(shake.shake29, 4),
    "resnet18": partial(imagenet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(imagenet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(imagenet, Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(imagenet, Bottleneck, (3, 4, 23, 3)),
    "resnet152": partial(imagenet, Bottleneck, (3, 8, 36, 3)),
    "resnext50": partial(resnext, Bottleneck, (3, 4, 6, 3)),
    "resnext101": partial(resnext, Bottleneck, (3, 4, 23, 3)),
    "senet154": senet154,
    "vgg16": vgg16,
    "bn_inception": bn_inception,
    "inception_resnet_v2": inception_resnet_v2,
    "mobilenet": mobilenet,
    "mobilenet_025": partial(mobilenet, width=0.25),
    "mobilenet_050": partial(mobilenet, width=0.5),
    "mobilenet_075": partial(mobilenet, width=0.75),
    "shufflenet": shufflenet,
}

STRIDES = ("paper", "torchvision")
# Where the two differ. The paper's ResNeXts have the stride on the 3×3, too: their printed multiply-adds (4.24 G; it
# would be 3.77 on the 1×1) leave no other reading. Blocks without a bottleneck have one place for it only.
STRIDE_ON_FIRST_1X1 = ("resnet50", "resnet101", "resnet152")
POOLS = ("padded", "ceil")


def create(
    name: str,
    se: SE | Mapping[str, Any] | None = STANDARD,
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    stride: str = "paper",
    pool: str = "padded",
    seed: int | None = None,
) -> nn.Module:
    """Build a network by name, with SE put into it.

    The plain network is built first and drawn from `seed` alone, so its weights are the same without SE and with any
    design of it. Given a seed, the global generators are left as they were, and weights are drawn on the CPU whatever
    the default device. Under `torch.device("meta")` nothing is allocated.

    Args:
        name: a key of `BACKBONES`; `timm:NAME` or `torchvision:NAME` for one of theirs; or `package.module:function`
            for a builder of your own. It is called with `num_classes` and, if it has such a parameter, `in_channels`;
            its network is used as it comes.
        se: the design, or a mapping of its fields; None is the plain network.
        num_classes: width of the classifier.
        in_channels: channels of the images.
        stride: `paper` halves the resolution of ResNet-50, -101 and -152 on the first 1×1 of a stage, `torchvision` on
            its 3×3. It makes no difference to other networks.
        pool: how strided 3×3 maxima (the stem's, and those of BN-Inception's modules) meet the border: `padded` by one
            pixel as in torchvision, or `ceil`, without padding but one window over the edge, as in Caffe and so in the
            released models.
        seed: what all weights are drawn from; None draws the plain network's from the global generator.

    Raises:
        ValueError: for an unknown name (the message lists the known ones), stride, pool or design, for a network that
            has no pool to change, and for a builder that is not there or returns something else than a module.
    """
    check_known("stride", stride, STRIDES)
    check_known("pool", pool, POOLS)
    build = builder_of(name)
    device = torch.get_default_device()
    with torch.device("meta" if device.type == "meta" else "cpu"), seeded(seed):
        net = build(num_classes=num_classes, in_channels=in_channels)
    if not isinstance(net, nn.Module):
        raise ValueError(f"backbone: {name} returned a {type(net).__name__}, not a torch.nn.Module")
    if stride == "paper" and name in STRIDE_ON_FIRST_1X1:
        move_stride(net)
    if pool == "ceil":
        use_ceil(net, name)
    with_se(net, name, se, seed=torch.initial_seed() if seed is None else seed)
    return net.to(device)


def with_se(net: nn.Module, name: str, se: SE | Mapping[str, Any] | None, *, seed: int = 0) -> list[Inserted]:
    """`add_se`, for a plain network that `create` built by that name; those of our own are not run once more for SE."""
    if se is None:
        return []
    design = as_design(se, {})
    return (put_se if is_own(name) and design.kind == STANDARD.kind else add_se)(net, design, seed=seed)


def is_own(name: str) -> bool:
    """Whether the builder of that name is ours, and not one that somebody registered or names by its path."""
    build = BACKBONES.get(name)
    return str(getattr(getattr(build, "func", build), "__module__", "")).startswith("senet_lab.")


def builder_of(name: str) -> Callable[..., nn.Module]:
    """The builder of that name; a ValueError that lists the names if there is none."""
    if library_of(name):
        return partial(build_library, name)
    if ":" in name:
        return import_builder(name)
    check_known(
        "backbone", name, [*BACKBONES, *(f"{library}:NAME" for library in LIBRARIES), "package.module:function"]
    )
    return BACKBONES[name]


def import_builder(name: str) -> Callable[..., Any]:
    """The user's builder at `package.module:function`, which may do without a parameter `in_channels`.

    Raises:
        ValueError: if the module or the function in it is not there, or the function cannot be called as said.
    """
    build = imported("backbone", name, "function")
    signature = inspect.signature(build)
    if "in_channels" in signature.parameters:
        return build
    try:
        signature.bind(num_classes=0)
    except TypeError as error:
        raise ValueError(f"backbone: {name} cannot be called with num_classes alone: {error}") from error
    return lambda num_classes, in_channels: build(num_classes=num_classes)


def move_stride(net: nn.Module) -> None:
    """Move the stride of torchvision's bottlenecks from the 3×3 to the first 1×1: the same weights, less work."""
    for block in net.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)


def use_ceil(net: nn.Module, name: str) -> None:
    """Let padded 3×3 maxima of stride 2 begin at the corner and run over the edge; a ValueError if there are none."""
    padded = [
        module
        for module in net.modules()
        if isinstance(module, nn.MaxPool2d) and (module.kernel_size, module.stride, module.padding) == (3, 2, 1)
    ]
    if not padded:
        raise ValueError(f"pool: {name} has no padded 3×3 maximum that could be ceil")
    for module in padded:
        module.padding, module.ceil_mode = 0, True
