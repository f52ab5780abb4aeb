"""MobileNet, with the places of its SE blocks."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from senet_lab.models.stages import declare_stages


class ReLU6(nn.ReLU6):
    """ReLU6 out of place, whatever it is told: in place, PyTorch copies the input for the gradient. It has the name and
    prints the settings of its base, as recorded ids have it."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu6(input)


def mobilenet(num_classes: int, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """MobileNet (arXiv 1704.04861) of a width, of timm's parts, with the ReLU6 of its authors' code.

    SE follows the norm and ReLU of each of the 13 pointwise convolutions: with 4.71 M parameters (4.69 M without norms)
    and 571.9 M multiply-adds that is the printed network of 4.7 M and 572 M. Behind the depthwise convolutions it would
    have 4.58 M parameters.
    """
    from timm.models._efficientnet_builder import decode_arch_def, round_channels
    from timm.models.efficientnet import EfficientNet

    plan = ((1, 1, 64), (2, 2, 128), (2, 2, 256), (6, 2, 512), (2, 2, 1024))  # blocks, stride, channels at width 1
    net = EfficientNet(
        decode_arch_def([[f"dsa_r{blocks}_k3_s{stride}_c{channels}"] for blocks, stride, channels in plan]),  # type: ignore[no-untyped-call]
        num_classes=num_classes,
        num_features=0,
        in_chans=in_channels,
        round_chs_fn=partial(round_channels, multiplier=width),
        act_layer=ReLU6,
    )
    stages = {number + 1: [f"blocks.{number}"] for number in range(5)}
    places = {
        f"{path}.bn2": block.conv_pw.out_channels for path, block in net.named_modules() if hasattr(block, "conv_pw")
    }
    return declare_stages(net, stages, places)
