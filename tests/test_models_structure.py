"""Residual blocks found by what they compute: against the table of known blocks and blocks written out; and traps."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from test_models_insert import MADE, downsample
from test_models_se import reference
from timm.layers import DropPath
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from senet_lab import SE, add_se
from senet_lab.models import stages_of
from senet_lab.models.gated import Inserted
from senet_lab.models.gates import SEBlock
from senet_lab.models.site_check import checked_width
from senet_lab.models.slots import POSITIONS, slots_of
from senet_lab.models.structure import residual, residual_blocks

Gates = dict[str, Callable[[Tensor], Tensor]]


def conv(in_channels: int, out_channels: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False)


# ---------------------------------------------------------------------------------------------------------------------
# Against the table, and in the libraries.


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", MADE)
def test_the_blocks_of_the_table_are_read_as_the_table_has_them(kind: str, stride: int) -> None:
    block = MADE[kind][stride]()
    found = residual(block)
    assert {position: site.slot for position, site in found.sites.items()} == slots_of(block)
    if "basic" in kind:
        width = 8 if stride == 1 else 12
        for position in POSITIONS:
            expected = {"pre": 8, "conv3x3": width}.get(position, width)
            assert checked_width(found.block, found.sites[position], found.width) == expected, position


# name → (blocks, what ends their branch, channels of the first and of the last gate)
LIBRARY = {
    "resnet18": (8, "bn2", 64, 512),
    "resnet50d": (16, "bn3", 256, 2048),
    "resnet50_gn": (16, "bn3", 256, 2048),
    "resnetv2_18": (8, "conv2", 64, 512),
    "resnetv2_50x1_bit": (16, "conv3", 256, 2048),  # weight standardisation and group norm
}


@pytest.mark.parametrize("name", LIBRARY)
def test_timms_networks(name: str) -> None:
    with torch.device("meta"):
        net = timm.create_model(name)
    blocks, end, first, last = LIBRARY[name]
    done = add_se(net)
    assert len(done) == blocks
    assert {gate.name.rpartition(".")[2] for gate in done} == {end}
    assert (done[0].channels, done[-1].channels) == (first, last)
    assert {gate.stage for gate in done} == {2, 3, 4, 5}
    assert net(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 1000)


def group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(4, width)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("norm", [group_norm, FrozenBatchNorm2d, nn.InstanceNorm2d])
def test_norms_of_other_kinds(norm: Callable[[int], nn.Module], position: str) -> None:
    with torch.device("meta"):
        net, usual = ResNet(Bottleneck, [1, 1, 1, 1], 5, norm_layer=norm), ResNet(Bottleneck, [1, 1, 1, 1], 5)
    assert add_se(net, position=position) == add_se(usual, position=position)


def test_a_block_without_norms_is_refused() -> None:
    net = nn.Sequential(BasicBlock(8, 8, norm_layer=nn.Identity))
    with pytest.raises(ValueError, match="Identity stands where a block has its last layer or norm"):
        add_se(net)


def small_v2(**how: object) -> nn.Module:
    return ResNetV2((1, 2), channels=(128, 256), num_classes=5, stem_chs=32, drop_path_rate=0.2, **how)


def small_timm(**how: object) -> nn.Module:
    return timm.models.resnet.ResNet(
        timm.models.resnet.BasicBlock, (1, 2, 1, 1), channels=(8, 8, 16, 16), num_classes=5, **how
    )


SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "timm's ResNet-D": (lambda: small_timm(stem_type="deep", stem_width=4, avg_down=True), POSITIONS),
    "timm's with drops": (lambda: small_timm(drop_path_rate=0.2, drop_block_rate=0.1), POSITIONS),
    "BiT": (small_v2, ("standard", "pre", "post", "conv3x3")),  # a plain shortcut of theirs is no module
}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", SMALL)
def test_with_gates_at_one_timms_networks_are_the_plain_ones(
    name: str, position: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, positions = SMALL[name]
    plain = make().eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm begins with branches of 0
    gated = copy.deepcopy(plain)
    if position not in positions:
        with pytest.raises(ValueError, match=f"has no place for {position}; it has standard, pre, post, conv3x3"):
            add_se(gated, position=position)
        return
    done = add_se(gated, SE(4, position=position))
    monkeypatch.setattr(SEBlock, "gate", lambda se, x: torch.ones_like(x[:, :, :1, :1]))
    x_BCHW = torch.randn(2, 3, 32, 32)
    assert torch.equal(gated(x_BCHW), plain(x_BCHW))
    monkeypatch.undo()
    assert not torch.allclose(gated(x_BCHW), plain(x_BCHW))
    assert len(done) == sum(type(module).__name__ in ("BasicBlock", "PreActBottleneck") for module in plain.modules())


# ---------------------------------------------------------------------------------------------------------------------
# Blocks of one's own, each written out once more with gates.


class Functional(nn.Module):
    """ReLUs that are functions, and an empty Sequential for a plain shortcut, as many repositories have it."""

    def __init__(self, width: int = 8, out: int = 8, stride: int = 1) -> None:
        super().__init__()
        self.first, self.n1 = conv(width, out, 3, stride), nn.BatchNorm2d(out)
        self.second, self.n2 = conv(out, out), nn.BatchNorm2d(out)
        self.skip = downsample(width, out, stride) if stride > 1 else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.n1(self.first(x)))
        out = self.n2(self.second(out))
        out += self.skip(x)
        return F.relu(out)

    def written_out(self, x: Tensor, g: Gates) -> Tensor:
        out = self.n2(self.second(g["conv3x3"](F.relu(self.n1(self.first(g["pre"](x)))))))
        return g["post"](F.relu(g["standard"](out) + g["identity"](self.skip(x))))


class Packed(nn.Module):
    """A branch in one Sequential, and a ReLU that is made in the forward."""

    def __init__(self) -> None:
        super().__init__()
        norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(8)]
        self.path = nn.Sequential(
            *(conv(8, 4, 1), norms[0], nn.ReLU(True), conv(4, 4), norms[1], nn.ReLU(True), conv(4, 8, 1), norms[2])
        )
        self.way = nn.Sequential(conv(8, 8, 1), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.ReLU(inplace=True)(self.path(x) + self.way(x))

    def written_out(self, x: Tensor, g: Gates) -> Tensor:
        y = g["conv3x3"](self.path[:6](g["pre"](x)))
        return g["post"](F.relu(g["standard"](self.path[6:](y)) + g["identity"](self.way(x))))


class ConvNorm(nn.Module):
    def __init__(self, width: int, act: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.act = conv(width, width), nn.GroupNorm(2, width), act

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return F.leaky_relu(y) if self.act else y


class Nested(nn.Module):
    """Layers in modules of one's own, dropout and stochastic depth at the end of the branch, x on the left."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = ConvNorm(8, True), ConvNorm(8, False)
        self.drop, self.shortcut = DropPath(0.3), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(F.dropout(self.two(self.one(x)), 0.1, self.training))
        return torch.add(self.shortcut(x), y)

    def written_out(self, x: Tensor, g: Gates) -> Tensor:
        return g["post"](g["identity"](x) + g["standard"](self.two(g["conv3x3"](self.one(g["pre"](x))))))


class Preactivated(nn.Module):
    """The first norm is shared with the projection."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.BatchNorm2d(8), nn.BatchNorm2d(6)
        self.conv, self.last, self.project = conv(8, 6, 3, 2), conv(6, 12), conv(8, 12, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.project(x) + self.last(F.relu(self.b(self.conv(x))))

    def written_out(self, x: Tensor, g: Gates) -> Tensor:
        x = F.relu(self.a(x))
        y = self.last(g["conv3x3"](F.relu(self.b(self.conv(g["pre"](x))))))
        return g["post"](g["identity"](self.project(x)) + g["standard"](y))


OWN: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "functional": (Functional, dict(zip(POSITIONS, ("n2", "first", "", "skip", "second"), strict=True))),
    "functional, stride 2": (
        lambda: Functional(8, 12, 2),
        dict(zip(POSITIONS, ("n2", "first", "", "skip", "second"), strict=True)),
    ),
    "packed": (Packed, dict(zip(POSITIONS, ("path.7", "path.0", "", "way", "path.6"), strict=True))),
    "nested": (Nested, dict(zip(POSITIONS, ("two.norm", "one.conv", "", "shortcut", "two.conv"), strict=True))),
    "preactivated": (Preactivated, dict(zip(POSITIONS, ("last", "conv", "", "project", "last"), strict=True))),
}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", OWN)
def test_own_blocks(name: str, position: str) -> None:
    make, children = OWN[name]
    model = nn.Sequential(OrderedDict(stem=conv(3, 8), stage=make())).eval()
    dice = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data = torch.rand(tensor.shape, generator=dice) + 0.5
    plain = copy.deepcopy(model)
    (done,) = add_se(model, SE(2, position=position))
    side = "before" if position in ("pre", "conv3x3") else "after"
    assert (done.name, done.side, done.stage) == (f"stage.{children[position]}".rstrip("."), side, None)
    (se,) = (module for module in model.modules() if isinstance(module, SEBlock))
    assert se.channels == done.channels
    gates: Gates = dict.fromkeys(POSITIONS, lambda t: t)
    gates[position] = lambda t: reference(t, se)
    x_BCHW = torch.randn(2, 3, 6, 6, generator=dice)
    torch.testing.assert_close(model(x_BCHW), plain.stage.written_out(plain.stem(x_BCHW), gates))


def test_the_innermost_block_takes_the_gate() -> None:
    class Group(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(Functional(), Functional(), conv(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x)

    done = add_se(nn.Sequential(OrderedDict(layer1=Group(), layer2=BasicBlock(8, 8))))
    assert done == [
        Inserted("layer1.body.0.n2", "after", 2, 8, 1),
        Inserted("layer1.body.1.n2", "after", 2, 8, 1),
        Inserted("layer2.bn2", "after", 3, 8, 1),
    ]


def test_blocks_of_one_class_of_which_one_has_another_inside_are_refused() -> None:
    one, other = Packed(), Packed()
    other.path.append(Functional())
    with pytest.raises(ValueError, match=r"0 is a residual block and 1, of the same class Packed, .*another one is in"):
        add_se(nn.Sequential(one, other))


def test_stages_of_own_names_need_a_word_from_the_network() -> None:
    net = nn.Sequential(OrderedDict(begin=Functional(), end=Functional(8, 16, 2)))
    with pytest.raises(ValueError, match="begin is a Functional outside layer1"):
        stages_of(net)
    net.stage_roots = {4: ["begin"], 5: ["end"]}
    assert stages_of(net) == (4, 5)
    assert [gate.hidden for gate in add_se(net, reduction={5: 4})] == [4]


def test_looking_changes_nothing() -> None:
    net = nn.Sequential(Functional(), Nested()).train()
    net[0].eval()
    before, state = str(net), copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    attributes = [dict(vars(module)) for module in net.modules()]
    residual_blocks(net, lambda module: False)
    assert str(net) == before
    assert all(torch.equal(state[name], weight) for name, weight in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    for module, was in zip(net.modules(), attributes, strict=True):
        assert vars(module).keys() == was.keys()
        assert all(vars(module)[name] is value for name, value in was.items())


# ---------------------------------------------------------------------------------------------------------------------
# Traps: what looks like a residual block and is none, or where a gate would do something else.


class Trap(nn.Module):
    """Two layers and what a subclass makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = conv(8, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True)

    def branch(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Concatenates(Trap):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


class Subtracts(Trap):
    def forward(self, x: Tensor) -> Tensor:
        return x - self.branch(x)


class Scales(Trap):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.branch(x)


class Activates(Trap):
    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.branch(x))


class CallsTwice(Trap):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self.branch(x))


class Insists(Trap):
    """Would break, were its convolution wrapped."""

    def forward(self, x: Tensor) -> Tensor:
        assert type(self.conv) is nn.Conv2d
        return x + self.conv(x)


class InPlace(Trap):
    """Its ReLU changes x under the shortcut; a gate before it would take that away."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self.act(x))


class Unequal(Trap):
    """Two convolutions side by side: which is the shortcut?"""

    def __init__(self) -> None:
        super().__init__()
        self.other = conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.other(x)


class TwoSums(Trap):
    def __init__(self) -> None:
        super().__init__()
        self.other = conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.branch(x)
        return x + self.other(x)


class TwoInputs(Trap):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.branch(y)


class Decides(Trap):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if x.mean() > 0 else x


class Trains(Trap):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) * 0.5 if self.training else x + self.branch(x)


class Attends(Trap):
    """What it adds is one number a channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x.mean((2, 3), keepdim=True))


class Sometimes(Trap):
    def __init__(self, adds: bool) -> None:
        super().__init__()
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.adds else self.branch(x)


NOWHERE = ["found nowhere", "residual blocks", "where="]
TRAPS: list[tuple[Callable[[], nn.Module], str, list[str]]] = [
    (Concatenates, "standard", NOWHERE),
    (Subtracts, "standard", NOWHERE),
    (Unequal, "standard", [*NOWHERE, "Unequal is none", "with 1 and 1 convolutions"]),
    (TwoSums, "standard", [*NOWHERE, "TwoSums is none", "come from has a convolution"]),
    (Attends, "standard", [*NOWHERE, "Attends is none", "not of one shape"]),
    (TwoInputs, "standard", [*NOWHERE, "TwoInputs is none", "takes 2 arguments"]),
    (Decides, "standard", NOWHERE),
    (Trains, "standard", [*NOWHERE, "something else in training"]),
    (Scales, "standard", ["Scales (layer1.0) has no place for standard; it has pre, post"]),
    (Activates, "standard", ["no place for standard"]),
    (CallsTwice, "standard", ["no place for standard"]),
    (Insists, "pre", ["layer1.0 (Insists)", "cannot be tried", "where="]),
    (InPlace, "pre", ["layer1.0 (InPlace)", "computes something else", "even a gate of 1"]),
    (Functional, "middle", ["se.position"]),
    (lambda: nn.Sequential(Sometimes(True), Sometimes(False)), "standard", ["layer1.0.0 is", "layer1.0.1", "where="]),
]


@pytest.mark.parametrize(("make", "position", "words"), TRAPS)
def test_traps_are_named_and_left_alone(make: Callable[[], nn.Module], position: str, words: list[str]) -> None:
    net = nn.Sequential(OrderedDict(layer1=nn.Sequential(make())))
    before = str(net)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are compared below
        add_se(net, position=position)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert str(net) == before


@pytest.mark.parametrize(("make", "position"), [(InPlace, "standard"), (Scales, "post"), (Insists, "post")])
def test_places_beside_a_trap_are_fine(make: Callable[[], nn.Module], position: str) -> None:
    add_se(nn.Sequential(make()), position=position)


def test_a_block_that_stands_in_two_places_gets_no_gate() -> None:
    block = Functional()
    net = nn.Sequential(OrderedDict(layer1=nn.Sequential(block, block)))
    with pytest.raises(ValueError, match=r"layer1\.0 is in the model under another name, too"):
        add_se(net, position="post")
    with pytest.raises(ValueError, match=r"layer1\.0\.n2 is called 2 times"):
        add_se(net)


# ---------------------------------------------------------------------------------------------------------------------
# SE that is there already.


@pytest.mark.parametrize(
    ("name", "where", "words"),
    [
        ("seresnet18", None, ["layer1.0.se is a SEModule", "8 in all"]),
        ("legacy_seresnet18", "*", ["layer1.0.se_module is a SEModule", "8 in all"]),
        ("ese_vovnet19b_dw", None, ["is a Eff", "in all"]),
        ("efficientnet_b0", None, ["blocks.0.0.se is a SqueezeExcite"]),
        ("torchvision:mobilenet_v3_small", "*", ["is a SqueezeExcitation"]),
    ],
)
def test_networks_that_have_se_are_refused(name: str, where: str | None, words: list[str]) -> None:
    import torchvision

    library, _, theirs = name.rpartition(":")
    with torch.device("meta"):
        net = torchvision.models.get_model(theirs) if library else timm.create_model(theirs)
    with pytest.raises(ValueError, match="the model has SE already") as error:
        add_se(net, where=where)
    for word in words:
        assert word in str(error.value)
