"""VGG, Inception and mobile networks: how many weights they have, where their gates are, what they compute."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import timm
import torch
import torchvision
from test_models_insert import step
from torch import nn

from senet_lab import SE, add_se
from senet_lab.models import BACKBONES, cost, create, hidden_widths, stages_of
from senet_lab.models.gates import SEBlock
from senet_lab.models.shufflenet import Shuffle

NETWORKS = ["vgg16", "bn_inception", "inception_resnet_v2", "mobilenet", "shufflenet"]
SIZES = dict.fromkeys(NETWORKS, 224) | {"inception_resnet_v2": 299}
SMALLEST = dict.fromkeys(NETWORKS, 1) | {"vgg16": 32, "inception_resnet_v2": 75}

# The largest network takes ten seconds where it is run, or its size of images is looked for.
IN_TURN = [pytest.param(name, marks=pytest.mark.slow) if name == "inception_resnet_v2" else name for name in NETWORKS]

# name → stage → channels of its gates, by the layer tables of the articles
GATES = {
    "vgg16": {0: [64] * 2, 1: [128] * 2, 2: [256] * 3, 3: [512] * 3, 4: [512] * 3},
    "bn_inception": {3: [256, 320], 4: [576, 576, 576, 608, 608], 5: [1056, 1024, 1024]},
    "inception_resnet_v2": {3: [320] * 10, 4: [1088] * 20, 5: [2080] * 10},
    "mobilenet": {1: [64], 2: [128] * 2, 3: [256] * 2, 4: [512] * 6, 5: [1024] * 2},
    "shufflenet": {3: [240] * 3, 4: [480] * 7, 5: [960] * 3},
}
# What each gate follows: VGG's ReLU, the concatenation of a module, the last convolution of a residual branch before it
# is scaled, the norm of a pointwise convolution with its ReLU, a residual branch.
FOLLOWED = dict(zip(NETWORKS, ("ReLU", "Inception", "Conv2d", "BatchNormAct2d", "Sequential"), strict=True))


def on_meta(name: str, se: SE | None = None, num_classes: int = 1000, **options: int | str) -> nn.Module:
    with torch.device("meta"):
        return create(name, se, num_classes, **options)


def params(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def test_every_network_that_says_where_its_gates_go_is_tried() -> None:
    """MobileNets of other widths are the same network, with fewer channels."""
    names = [name for name in BACKBONES if not name.startswith("mobilenet_")]
    assert set(NETWORKS) == {name for name in names if hasattr(on_meta(name, None, 2), "se_places")}


# ---------------------------------------------------------------------------------------------------------------------
# Weights.


def vgg16_weights() -> int:
    """Convolutions with biases and norms, and three linear layers."""
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convs = sum(9 * before * after + 3 * after for before, after in pairwise(widths))
    return convs + sum(before * after + after for before, after in pairwise([512 * 49, 4096, 4096, 1000]))


def bn_inception_weights() -> int:
    """Published ports have 11,295,240 weights with a bias in each of the 69 convolutions, which norms make idle."""
    convs = [module for module in on_meta("bn_inception").modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 69
    return 11_295_240 - sum(conv.out_channels for conv in convs)


def mobilenet_weights() -> int:
    """Table 1 of its article: depthwise 3×3, norm, 1×1, norm."""
    widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    units = sum(9 * before + 2 * before + before * after + 2 * after for before, after in pairwise(widths))
    return 27 * 32 + 2 * 32 + units + 1025 * 1000


def shufflenet_weights() -> int:
    """Table 1 of its article, g = 3."""
    count, before = 27 * 24 + 2 * 24, 24
    for units, width in ((4, 240), (8, 480), (4, 960)):
        middle = width // 4
        for unit in range(units):
            groups, out = (1 if before == 24 else 3), (width - before if unit == 0 else width)
            count += before * middle // groups + 9 * middle + middle * out // 3 + 2 * (2 * middle + out)
            before = width
    return count + 961 * 1000


def timms_weights() -> int:
    with torch.device("meta"):
        return params(timm.create_model("inception_resnet_v2"))


WEIGHTS = {
    "vgg16": vgg16_weights,
    "bn_inception": bn_inception_weights,
    "inception_resnet_v2": timms_weights,
    "mobilenet": mobilenet_weights,
    "shufflenet": shufflenet_weights,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_equal_an_independent_count(name: str) -> None:
    expected = WEIGHTS[name]()
    assert params(on_meta(name)) == expected
    gates = sum(2 * channels * (channels // 16) for stage in GATES[name].values() for channels in stage)
    assert params(on_meta(name, SE())) == expected + gates


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("vgg16", torchvision.models.vgg16_bn),
        ("inception_resnet_v2", lambda: timm.create_model("inception_resnet_v2")),
        ("mobilenet", lambda: timm.create_model("mobilenetv1_100")),
    ],
)
def test_networks_of_libraries_are_the_libraries(name: str, theirs: object) -> None:
    with torch.device("meta"):
        expected = theirs()
    assert str(on_meta(name)) == str(expected)


@pytest.mark.parametrize("name", ["bn_inception", "mobilenet", "shufflenet"])
def test_a_seed_gives_the_same_plain_weights_with_se(name: str) -> None:
    plain, gated = (create(name, se, 10, seed=5).state_dict() for se in (None, SE()))
    without = {key.replace(".body", ""): weight for key, weight in gated.items() if ".se." not in key}
    assert plain.keys() == without.keys()
    assert all(torch.equal(plain[key], without[key]) for key in plain)


@pytest.mark.parametrize("name", ["shufflenet", "mobilenet"])
def test_grouped_convolutions_start_with_the_width_of_their_groups(name: str) -> None:
    """Whatever He's rule counts, it counts the channels of one group."""
    for path, conv in create(name, None, 10, seed=0).named_modules():
        if isinstance(conv, nn.Conv2d):
            fans = [(conv.in_channels if name == "shufflenet" else conv.out_channels) // conv.groups]
            expected = math.sqrt(2 / (fans[0] * math.prod(conv.kernel_size)))
            error = 5 / math.sqrt(2 * conv.weight.numel())
            assert conv.weight.std(correction=0).item() == pytest.approx(expected, rel=error), path


# ---------------------------------------------------------------------------------------------------------------------
# Gates.


@pytest.mark.parametrize("name", NETWORKS)
def test_gates_are_where_the_articles_layers_end(name: str) -> None:
    net = on_meta(name)
    assert stages_of(net) == tuple(GATES[name])
    done = add_se(net)
    assert {
        stage: [gate.channels for gate in done if gate.stage == stage] for stage in sorted({g.stage for g in done})
    } == GATES[name]
    assert hidden_widths(net) == {
        stage: tuple(channels // 16 for channels in widths) for stage, widths in GATES[name].items()
    }
    assert {gate.side for gate in done} == {"after"}
    assert {type(net.get_submodule(gate.name).body).__name__ for gate in done} == {FOLLOWED[name]}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stage_is_the_logarithm_of_its_stride(name: str) -> None:
    """Of every gate, and of every convolution but those that open a stage and read the one before."""
    net, size = on_meta(name, SE()).eval(), SIZES[name]
    seen: dict[str, tuple[int, ...]] = {}

    def watch(path: str) -> object:
        return lambda module, inputs, out: seen.update({path: tuple(out.shape)})

    gates = {path: module for path, module in net.named_modules() if isinstance(module, SEBlock)}
    for path, gate in gates.items():
        gate.register_forward_hook(watch(path))
    net(torch.empty(1, 3, size, size, device="meta"))
    stages = [stage for stage, widths in GATES[name].items() for _ in widths]
    assert [round(math.log2(size / seen[path][-1])) for path in gates] == stages
    assert [seen[path][1] for path in gates] == [gate.channels for gate in gates.values()]


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_hold_everything_but_stem_and_classifier(name: str) -> None:
    found = cost(on_meta(name, SE()), (3, SIZES[name], SIZES[name]))
    assert sum(part.se_params for part in found.stages.values()) == found.se_params > 0
    assert sum(part.se_macs for part in found.stages.values()) == found.se_macs
    in_stages = sum(part.backbone_macs for part in found.stages.values())
    outside = {  # stem and classifier
        "vgg16": 512 * 49 * 4096 + 4096 * 4096 + 4096 * 1000,
        "bn_inception": 112**2 * 147 * 64 + 56**2 * (64 * 64 + 9 * 64 * 192) + 1024 * 1000,
        "mobilenet": 112**2 * 27 * 32 + 1024 * 1000,
        "shufflenet": 112**2 * 27 * 24 + 960 * 1000,
        "inception_resnet_v2": 149**2 * 27 * 32
        + 147**2 * (9 * 32 * 32 + 9 * 32 * 64)
        + 73**2 * 64 * 80
        + 71**2 * 9 * 80 * 192
        + 8**2 * 2080 * 1536
        + 1536 * 1000,
    }
    assert found.backbone_macs - in_stages == outside[name]


def real(name: str) -> nn.Module:
    """The plain network with weights, but VGG with a small classifier: its own has 120 M of them."""
    net = on_meta(name, None, 5)
    if name == "vgg16":
        net.classifier = nn.Linear(512 * 49, 5, device="meta")
    net = net.to_empty(device="cpu")
    drawn = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.reset_parameters()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, generator=drawn)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


@pytest.mark.parametrize("name", IN_TURN)
def test_with_gates_at_one_the_network_is_the_plain_one_bit_for_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = real(name)
    gated = copy.deepcopy(plain)
    done = add_se(gated)
    assert len(done) == sum(map(len, GATES[name].values()))
    size = max(SMALLEST[name], 32)
    x_BCHW = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    first = step(copy.deepcopy(gated), x_BCHW)
    expected = step(plain, x_BCHW)
    assert all(gradient.isfinite().all() for gradient in first.values())
    assert not torch.equal(first["out"], expected["out"])
    asked: list[SEBlock] = []
    monkeypatch.setattr(SEBlock, "gate", lambda se, x: asked.append(se) or torch.ones_like(x[:, :, :1, :1]))
    found = step(gated, x_BCHW)
    assert len(asked) == len(done)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        assert torch.equal(tensor, found[key]), key


@pytest.mark.parametrize("name", NETWORKS)
def test_other_positions_are_refused_with_the_one_there_is(name: str) -> None:
    with pytest.raises(ValueError, match=r"se.position: the network has no place for conv3x3; it has standard"):
        on_meta(name, SE(position="conv3x3"))


# ---------------------------------------------------------------------------------------------------------------------
# Sizes of images.


@pytest.mark.parametrize("name", IN_TURN)
def test_an_image_that_is_too_small_is_refused_with_the_smallest(name: str) -> None:
    smallest = SMALLEST[name]
    net = on_meta(name, SE(), in_channels=1)
    assert cost(net, (1, smallest, smallest)).se_params > 0
    size = smallest - 1
    if size:
        with pytest.raises(ValueError, match=rf"{size} × {size} pixels are too small.* {smallest} × {smallest} and"):
            cost(net, (1, size, size))


def test_what_is_wrong_at_any_size_keeps_torchs_words() -> None:
    with pytest.raises(ValueError, match=r"does not run on an image of 3 × 8 × 8: .*shapes cannot be multiplied"):
        cost(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(10, 2)), (3, 8, 8))
    with pytest.raises(ValueError, match=r"does not run on an image of 3 × 7 × 7: .*shapes"):  # takes 8 × 8 alone
        cost(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)), (3, 7, 7))


def test_a_longer_image_is_refused_by_its_shorter_side() -> None:
    with pytest.raises(ValueError, match="64 × 31 pixels are too small: the network takes 32 × 32"):
        cost(on_meta("vgg16"), (3, 64, 31))


# ---------------------------------------------------------------------------------------------------------------------
# Parts of our own.


def test_the_shuffle_deals_channels_out() -> None:
    x_BCHW = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 2, 2)
    assert Shuffle(3)(x_BCHW)[1, :, 0, 1].tolist() == [0, 2, 4, 1, 3, 5]
    x_BCHW = torch.randn(2, 12, 3, 3)
    assert torch.equal(Shuffle(3)(x_BCHW), nn.functional.channel_shuffle(x_BCHW, 3))


def test_ceil_pools_are_those_of_the_released_bn_inception() -> None:
    """All four strided maxima, and the same sizes at 224 pixels; the pool of 5b is not strided."""
    net = on_meta("bn_inception", pool="ceil").eval()
    pools = [module for module in net.modules() if isinstance(module, nn.MaxPool2d)]
    assert [(pool.stride, pool.padding, pool.ceil_mode) for pool in pools] == [(2, 0, True)] * 4 + [(1, 1, False)]
    assert cost(net).macs == cost(on_meta("bn_inception")).macs


def test_shufflenets_units_add_or_stand_behind() -> None:
    net = real("shufflenet").eval()
    x_BCHW = torch.randn(2, 24, 8, 8)
    opens, adds = net.stage3[0], net.stage3[1]
    y_BCHW = opens(x_BCHW)
    assert torch.equal(y_BCHW[:, :24], nn.functional.avg_pool2d(x_BCHW, 3, 2, 1).relu())
    assert torch.equal(y_BCHW[:, 24:], opens.branch(x_BCHW).relu())
    assert torch.equal(adds(y_BCHW), (y_BCHW + adds.branch(y_BCHW)).relu())
    assert [opens.branch[0].groups, net.stage4[0].branch[0].groups, adds.branch[0].groups] == [1, 3, 3]
    first, norm1, relu, _, depthwise, norm2, last, norm3 = adds.branch
    hidden_BCHW = nn.functional.channel_shuffle(relu(norm1(first(y_BCHW))), 3)
    assert torch.equal(adds.branch(y_BCHW), norm3(last(norm2(depthwise(hidden_BCHW)))))
