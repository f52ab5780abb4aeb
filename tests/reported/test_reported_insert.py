"""What users of this and other tools reported of putting SE into their networks, each with its kind in one line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from senet_lab import add_se
from senet_lab.models.present import is_called_se, se_modules


class Gate(nn.Module):
    """SE under no usual name, its layers linear."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 2), nn.Linear(2, width)

    def of(self, x: Tensor) -> Tensor:
        z = x.flatten(2).mean(2)
        return torch.sigmoid(self.up(torch.relu(self.down(z)))).view(*z.shape, *[1] * (x.dim() - 2))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.of(x)


class Expanded(Gate):
    def forward(self, x: Tensor) -> Tensor:
        return self.of(x).expand_as(x) * x


class InPlace(Gate):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.of(x))


class Flattened(Gate):
    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(2) * self.of(x).flatten(2)).view(x.shape)


class Einsum(Gate):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,bc->bchw", x, self.of(x).flatten(1))


class Decides(Gate):
    """Cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.of(x) if x.shape[1] > 1 else x


class Twofold(Gate):
    """scSE: x a(x) + x b(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.of(x) + x * torch.sigmoid(self.at(x))


class Norm(nn.Module):
    """The factor comes from the map, but through no layer: no gate."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.var((2, 3), keepdim=True)) * self.weight


class Spatial(nn.Module):
    """One number a pixel: no SE."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.at(x))


SE_NAMES = (
    "SE SELayer SE_Block SEAttention SELayer1D SEBlock2d SE_Module SeModule SCSEModule se_block seblock scSE cSE "
    "eSEModule ChannelSELayer SqueezeExcite SqueezeExcitation Squeeze_and_Excitation squeeze_excite "
    "EffectiveSEModule SEWithNorm"
)
OTHER_NAMES = (
    "SENet SEResNet SE_ResNet50 SEBottleneck SEBasicBlock SEUNet MSE MSELoss Base BaseLayer BaSEline SEquence Reset "
    "DenseBlock PoseBlock NoiseLayer"
)


@pytest.mark.parametrize("name", SE_NAMES.split())
def test_se_goes_by_many_names(name: str) -> None:
    assert is_called_se(name)


@pytest.mark.parametrize("name", OTHER_NAMES.split())
def test_what_is_no_se_may_have_se_in_its_name(name: str) -> None:
    assert not is_called_se(name)


@pytest.mark.parametrize("kind", [Gate, Expanded, InPlace, Flattened, Einsum, Decides, Twofold])
def test_se_is_known_by_what_it_computes(kind: type[nn.Module]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(kind()))
    assert list(se_modules(net)) == ["1.0"]
    with pytest.raises(ValueError, match=f"has SE already: 1.0 is a {kind.__name__}"):
        add_se(net, where="0")


@pytest.mark.parametrize("kind", [Norm, Spatial])
def test_what_scales_otherwise_is_no_se(kind: type[nn.Module]) -> None:
    assert se_modules(nn.Sequential(nn.Conv2d(3, 8, 3), kind())) == {}


def test_a_plain_network_may_be_called_as_one_with_se() -> None:
    class SEBlock(nn.Sequential):
        """A name of SE, and the convolutions of a block."""

    class SENet(nn.Sequential):
        pass

    net = SENet(SEBlock(nn.Conv2d(3, 8, 3), nn.ReLU()))
    assert se_modules(net) == {}
    assert len(add_se(net, where="0.0")) == 1
