"""Networks that gates are tried in: what has SE already, which blocks get none, and that each gate is asked once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import prune
from torchvision.models.quantization.resnet import QuantizableBasicBlock, QuantizableResNet
from torchvision.models.resnet import BasicBlock

from senet_lab import add_se
from senet_lab.models import SEBlock, create
from senet_lab.models.existing_se import is_called_se, se_modules
from senet_lab.models.gated import Gated

# ---------------------------------------------------------------------------------------------------------------------
# SE that is there already.


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


class WrittenOut(Gate):
    """A residual block whose SE is no module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return torch.relu(x + y * self.of(y))


@pytest.mark.parametrize("how", [{}, {"position": "post"}, {"where": "0"}])
def test_se_that_is_written_out_in_a_block_is_seen_where_the_network_runs(how: dict[str, str]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), WrittenOut())
    refused(net, r"has SE already: 1 \(WrittenOut\) multiplies a map", **how)


def refused(net: nn.Module, words: str, **how: object) -> None:
    """It is said in one line, and nothing is changed."""
    before = str(net)
    with pytest.raises(ValueError, match=words) as error:
        add_se(net, **how)
    assert "\n" not in str(error.value)
    assert str(net) == before


# ---------------------------------------------------------------------------------------------------------------------
# Blocks that are passed over, and what is none.


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)

    def branch(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


class Optional(Block):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        return x + self.branch(x) if mask is None else x * scale


class Embedded(Block):
    """A diffusion model's."""

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return x + self.branch(x + e)


class Checked(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if x.shape[1] == 8 else x


class Caller(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, torch.zeros_like(x))


def test_optional_arguments_are_left_at_their_defaults() -> None:
    assert [gate.name for gate in add_se(nn.Sequential(Block(), Optional(), Optional()))] == [
        "0.norm",
        "1.norm",
        "2.norm",
    ]


@pytest.mark.parametrize("other", [Block, lambda: BasicBlock(8, 8)])
@pytest.mark.parametrize(
    ("passed", "reason"),
    [
        (lambda: Caller(Embedded()), "Embedded: its forward takes 2 arguments"),
        (Checked, "Checked: its forward cannot be traced"),
        (lambda: traced(), "Block: it is a module of torch.jit"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_what_gets_no_gate_is_named(
    passed: Callable[[], nn.Module], reason: str, other: Callable[[], nn.Module]
) -> None:
    with pytest.warns(UserWarning, match=reason):
        assert len(add_se(nn.Sequential(other(), passed()))) == 1


def traced() -> nn.Module:
    return torch.jit.trace(Block().eval(), torch.zeros(1, 8, 4, 4))


@pytest.mark.parametrize("where", ["1", "1.norm"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_nothing_goes_into_a_traced_part(where: str) -> None:
    refused(nn.Sequential(nn.Conv2d(3, 8, 3), traced()), f"{where} is a module of torch.jit", where=where)


class Product(nn.Module):
    """x b(x), each pixel by another number."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.layers(x))


def test_the_sum_of_two_products_with_x_is_no_residual_block() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = Product(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
            self.two = Product(nn.Conv2d(8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.two(x)

    refused(nn.Sequential(Sum()), "Sum is none: its summands are both products with the same value", position="post")


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (lambda: torchvision.models.video.r3d_18(), "Conv3d.*: SE is for 2-D networks"),
        (lambda: nn.Sequential(nn.Conv1d(1, 8, 3), nn.BatchNorm1d(8)), "Conv1d: SE is for 2-D networks"),
        (lambda: traced(), "of torch.jit, which cannot be changed"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_what_cannot_have_se_is_said_in_one_line(net: Callable[[], nn.Module], words: str) -> None:
    with torch.device("meta" if "r3d" in str(net.__code__.co_names) else "cpu"):
        refused(net(), words)


# ---------------------------------------------------------------------------------------------------------------------
# Whether the network asks each gate once.


class Uses(nn.Module):
    """Two blocks, and what a network makes of them."""

    def __init__(self, way: Callable[[Uses, Tensor], object]) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.way = nn.Conv2d(3, 8, 3), Block(), Block(), way

    def forward(self, x: Tensor) -> object:
        return self.way(self, self.stem(x))


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (lambda net, x: net.a(x), "never reaches b.norm"),
        (lambda net, x: net.b(net.a(x)) if x.shape[-1] > 5000 else net.a(x), "never reaches b.norm"),
        (lambda net, x: net.b(net.a(net.a(x))), "a.norm is called 2 times"),
    ],
)
def test_gates_that_are_not_asked_once_are_refused(way: Callable[[Uses, Tensor], object], words: str) -> None:
    refused(Uses(way), words)
    refused(Uses(way), words.replace("norm", "conv"), where=["a.conv", "b.conv"])


@pytest.mark.parametrize(
    "way",
    [
        lambda net, x: (net.a(x), net.b(x)) if net.training else net.a(x),  # an auxiliary head
        lambda net, x: net.b(net.a(x)) if x.sum().item() < float("inf") else x,  # needs values
    ],
)
def test_gates_that_are_asked_in_training_or_by_values_are_fine(way: Callable[[Uses, Tensor], object]) -> None:
    assert len(add_se(Uses(way))) == 2


def test_a_network_that_breaks_by_gates_is_refused() -> None:
    def way(net: Uses, x: Tensor) -> Tensor:
        assert type(net.b.norm) is nn.BatchNorm2d
        return net.b(net.a(x))

    refused(Uses(way), "with gates in it the network does not run: assert ")


def test_a_network_may_have_been_made_for_inference_and_begin_with_its_last_layer() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.block, self.stem = nn.Conv2d(8, 5, 1), Block(), nn.Conv2d(4, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.stem(x)))

    with torch.inference_mode():
        assert len(add_se(Backwards())) == 1


def test_what_does_not_run_on_an_image_is_put_in_and_said() -> None:
    class Conditional(Uses):
        def forward(self, x: Tensor, e: Tensor) -> Tensor:
            return self.b(self.a(self.stem(x) + e))

    with pytest.warns(UserWarning, match="does not run on an image .*positional argument: 'e'"):
        assert len(add_se(Conditional(lambda net, x: x))) == 2


@pytest.mark.parametrize(("position", "fuses"), [("standard", False), ("pre", False), ("post", True)])
def test_a_network_that_could_not_be_fused_any_more_is_refused(position: str, fuses: bool) -> None:
    net = QuantizableResNet(QuantizableBasicBlock, [1, 1, 1, 1], 5).eval()
    if not fuses:
        refused(net, "fuse_model of the network cannot join", position=position)
        net.fuse_model(is_qat=False)
    assert len(add_se(net, position=position)) == 4
    if fuses:
        net.fuse_model(is_qat=False)
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


# ---------------------------------------------------------------------------------------------------------------------
# Wrapped networks, and what is done with wrapped modules.


def test_data_parallel_networks_are_changed_inside() -> None:
    net, plain = nn.DataParallel(create("resnet8", None, seed=0)), create("resnet8", None, seed=0)
    done = add_se(net, seed=0)
    assert [gate.name for gate in done] == [f"module.{gate.name}" for gate in add_se(plain, seed=0)]
    assert all(isinstance(net.get_submodule(gate.name), Gated) for gate in done)
    assert all(torch.equal(one, two) for one, two in zip(net.parameters(), plain.parameters(), strict=True))


def test_networks_that_train_what_they_were_built_with_are_refused() -> None:
    class DistributedDataParallel(nn.Module):
        pass

    refused(DistributedDataParallel(), "wrapped in DistributedDataParallel, which would not train the gates")


def test_a_wrapped_module_may_be_called_by_keywords_and_with_more() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 8, 3, 2, 1)
            self.e = Embedded()

        def forward(self, x: Tensor) -> Tensor:
            y = self.e(self.n(input=self.a(x)), e=x[:, :1, ::2, ::2])
            return self.up(y, output_size=x.shape[2:])

    net = Net().eval()
    x = torch.randn(2, 3, 8, 8)
    plain = copy.deepcopy(net)
    done = add_se(net, where=["n", "e", "up"])
    assert [gate.channels for gate in done] == [8, 8, 8]
    y = net.n.se(plain.n(plain.a(x)))
    y = net.e.se(plain.e(y, x[:, :1, ::2, ::2]))
    assert torch.equal(net(x), net.up.se(plain.up(y, output_size=[8, 8])))
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    assert torch.equal(pickle.loads(pickle.dumps(net.up))(y), net.up(y))


def test_attributes_of_a_wrapped_module_are_those_of_the_module() -> None:
    net = create("resnet8", None, 5)
    net.layer1[0].bn2.f = -1
    add_se(net)
    norm = net.layer1[0].bn2
    assert (norm.f, norm.num_features, norm.eps) == (-1, 16, norm.body.eps)
    nn.init.zeros_(norm.weight)
    norm.bias, norm.momentum = nn.Parameter(torch.ones(16)), 0.3
    assert norm.body.weight.abs().sum() == 0
    assert norm.body.bias.sum() == 16
    assert norm.body.momentum == 0.3
    assert set(net.state_dict()) == set(create("resnet8", {}, 5).state_dict())
    with pytest.raises(AttributeError, match="'BatchNorm2d' object has no attribute 'g'"):
        _ = norm.g


def test_dense_blocks_are_gated_as_a_whole() -> None:
    with torch.device("meta"):
        net = torchvision.models.densenet121()
    assert [gate.channels for gate in add_se(net, where="features.denseblock*")] == [256, 512, 1024, 1024]
    refused(nn.ModuleDict({"a": nn.ModuleList([nn.Conv2d(3, 8, 1)])}), "a is a ModuleList, which computes", where="a")


def test_hooks_fire_for_what_they_were_registered_on_and_for_nothing_else() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), Block()).eval()
    x, seen = torch.randn(2, 3, 6, 6), []
    net[1].norm.register_forward_hook(lambda module, args, output: seen.append((module, output)))
    norm = net[1].norm
    net(x)
    add_se(net)
    assert len(seen) == 1  # not by the proof
    net(x)
    assert seen[0][0] is seen[1][0] is norm
    assert torch.equal(seen[0][1], seen[1][1])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_that_torch_makes_are_copied() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), Block(), Block())
    torch.nn.utils.weight_norm(net[1].conv)
    prune.l1_unstructured(net[2].conv, "weight", 0.5)
    net(torch.randn(2, 3, 6, 6))
    assert len(add_se(net)) == 2


def test_gates_go_into_a_graph_module_after_what_is_named() -> None:
    x = torch.randn(2, 3, 8, 8)
    for identity_start in (True, False):
        net = torch.fx.symbolic_trace(create("resnet8", None, 5).eval())
        plain = net(x)
        add_se(net, where="layer1.*.bn2", identity_start=identity_start)
        assert sum(isinstance(module, SEBlock) for module in net.modules()) == 1
        assert torch.allclose(net(x), plain, atol=1e-5) is identity_start
