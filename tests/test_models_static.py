"""Static gates folded into the layers beside them: the plain network's operators, the gated one's outputs."""

from __future__ import annotations

import pytest
import torch
from test_models_insert import MADE
from torch import nn

from senet_lab import SE, models
from senet_lab.models import add_se, cost, create
from senet_lab.models.gate_factors import replaceable_gates
from senet_lab.models.gated import gates_in

FOLDED = ("standard", "pre", "conv3x3")


def trained_like(net: nn.Module) -> nn.Module:
    """In double precision, with norms that have seen images and gates that differ."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 2, generator=generator)
    for gate in gates_in(net).values():
        for weight in gate.parameters():
            nn.init.normal_(weight, std=1.0, generator=generator)
    return net.double().eval()


def check(net: nn.Module, plain: nn.Module, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    seen, x_BCHW = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    folded = models.static(net, [seen, 2 * seen])
    with torch.no_grad(), replaceable_gates(net) as gates:
        own = []
        for image in (seen, 2 * seen):
            net(image)
            own.append({path: gate.own for path, gate in gates.items()})
        for path, gate in gates.items():
            gate.use = torch.cat([each[path] for each in own]).mean(0, keepdim=True)
        expected = net(x_BCHW)
    torch.testing.assert_close(folded(x_BCHW), expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(net(x_BCHW), expected), "the gates look at the image"
    assert not gates_in(folded)
    assert {name: weight.shape for name, weight in folded.state_dict().items()} == {
        name: weight.shape for name, weight in plain.state_dict().items()
    }
    if len(shape) == 4 and shape[1] == 3:
        assert cost(folded, shape[1:]).operations == cost(plain, shape[1:]).operations
        assert cost(folded, shape[1:]).se_macs == 0


@pytest.mark.parametrize("position", FOLDED)
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("block", MADE)
def test_every_block_takes_its_gate_over(block: str, projected: bool, position: str) -> None:
    torch.manual_seed(0)  # by chance, every unit behind a narrow gate may be off
    net, plain = (nn.Sequential(MADE[block][1 + projected]()) for _ in range(2))
    width = next(part.in_channels for part in net.modules() if isinstance(part, nn.Conv2d))
    width = 16 if block == "bottleneck" and not projected else width
    add_se(net, SE(1, position=position, bias=True))
    check(trained_like(net), plain, (2, width, 8, 8))


@pytest.mark.parametrize(
    ("name", "se", "pixels"),
    [
        ("resnet8", SE(4), 8),
        ("wrn16_4", SE(4, position="pre"), 8),
        ("mobilenet_025", SE(4, position="depthwise"), 32),
        ("resnet8", SE(4, kind="timm:eca"), 8),
    ],
)
def test_networks_become_plain_ones(name: str, se: SE, pixels: int) -> None:
    check(trained_like(create(name, se, 10, seed=0)), create(name, None, 10), (2, 3, pixels, pixels))


def test_shake_shake_takes_its_gates_over_in_both_branches() -> None:
    from senet_lab.models.shake import shake_basic

    for position in ("standard", "pre"):
        net, plain = (nn.Sequential(shake_basic(4, 4, 1)) for _ in range(2))
        add_se(net, SE(1, position=position, bias=True))
        check(trained_like(net), plain, (2, 4, 8, 8))


@pytest.mark.parametrize("kind", ["constant", "static"])
def test_controls_need_no_images(kind: str) -> None:
    net = trained_like(create("resnet8", SE(kind=kind), 10, seed=0))
    x_BCHW = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(models.static(net)(x_BCHW), net(x_BCHW), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("se", "words"),
    [
        (None, "has no gates"),
        (SE(), "the gates look at the image"),
        (SE(position="identity"), r"no layer can take over the gate after layer1\.0\.downsample, a Identity"),
        (SE(position="post"), r"no layer can take over the gate after layer1\.0, a BasicBlock"),
        (SE(squeeze="none"), r"the gate of layer1\.0\.bn2 differs by pixel"),
        (SE(kind="timm:gca"), "a GlobalContext does not multiply its map"),
    ],
)
def test_what_cannot_be_folded_is_said_by_name(se: SE | None, words: str) -> None:
    net = create("resnet8", se, 10, seed=0)
    images = None if se is None or se == SE() else [torch.randn(2, 3, 8, 8)]
    with pytest.raises(ValueError, match=words):
        models.static(net, images)
