"""Gates behind depthwise convolutions: EfficientNet's own SE, taken out and put back by what the network computes."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from senet_lab import SE, add_se
from senet_lab.models import cost, create
from senet_lab.models.gated import gates_in


def test_the_places_are_where_efficientnet_has_its_se() -> None:
    """Without its SE modules, and with these as our gates, the network computes what it did."""
    net = timm.create_model("efficientnet_b0", num_classes=5).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.2, generator=generator) if weight.dim() > 1 else None
    x_BCHW = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        expected = net(x_BCHW)
        own = [(block, block.se) for stage in net.blocks for block in stage]
        for block, _ in own:
            block.se = nn.Identity()
        assert not torch.allclose(net(x_BCHW), expected)
        done = add_se(net, position="depthwise")
        assert [gate.channels for gate in done] == [se.conv_reduce.in_channels for _, se in own]
        for gate, (_, se) in zip(done, own, strict=True):
            net.get_submodule(gate.name).se = se
        torch.testing.assert_close(net(x_BCHW), expected)


@pytest.mark.parametrize(
    ("build", "gates"),
    [
        (torchvision.models.mobilenet_v2, 17),  # a pointwise convolution behind each of its depthwise ones
        (torchvision.models.shufflenet_v2_x0_5, 19),  # three units of stride 2 have two
        (torchvision.models.resnext50_32x4d, 16),
    ],
)
def test_any_network_is_looked_into(build: type[nn.Module], gates: int) -> None:
    with torch.device("meta"):
        net = build()
    assert len(add_se(net, position="depthwise")) == len(gates_in(net)) == gates


# arXiv 1704.04861, table 6: million multiply-adds and parameters.
WIDTHS = {"mobilenet": (569, 4.2), "mobilenet_075": (325, 2.6), "mobilenet_050": (149, 1.3), "mobilenet_025": (41, 0.5)}


@pytest.mark.parametrize("name", WIDTHS)
def test_mobilenets_have_the_costs_of_their_paper(name: str) -> None:
    with torch.device("meta"):
        plain, gated = create(name, None), create(name, SE(position="depthwise"))
    found = cost(plain)
    assert (round(found.macs / 1e6), round(found.params / 1e6, 1)) == WIDTHS[name]
    widths = [conv.in_channels for path, conv in plain.named_modules() if path.endswith("conv_pw")]
    assert cost(gated).se_params == sum(2 * width * max(1, width // 16) for width in widths)


def test_a_network_without_a_grouped_convolution_has_no_such_place() -> None:
    with pytest.raises(ValueError, match=r"se\.position: the network has no place for depthwise"):
        create("resnet8", SE(position="depthwise"), 10)
