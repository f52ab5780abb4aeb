"""The plain networks: how many weights they have, that they run, and that a seed gives the same ones with any SE."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from senet_lab import SE
from senet_lab.models import BACKBONES, cost, create
from senet_lab.models.cifar import PadShortcut, preact_resnet, resnet, wide_resnet
from senet_lab.models.gates import EXCITATIONS, SQUEEZES
from senet_lab.models.slots import POSITIONS

CIFAR = ["resnet8", "resnet20", "resnet32", "resnet56", "resnet110"]
CIFAR += [name for name in BACKBONES if name.startswith(("preresnet", "wrn"))]
IMAGENET = [name for name in BACKBONES if name.startswith(("resnet", "resnext")) and name not in CIFAR]


def params(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def plain_on_meta(name: str, num_classes: int = 10, **options: object) -> nn.Module:
    with torch.device("meta"):
        return create(name, None, num_classes, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Structure.


@pytest.mark.parametrize("depth", [8, 20, 32, 56, 110])
def test_cifar_resnets_have_the_closed_forms_weights(depth: int) -> None:
    n = (depth - 2) // 6
    assert params(plain_on_meta(f"resnet{depth}")) == 97_216 * n - 22_576 + 65 * 10
    layers = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in plain_on_meta(f"resnet{depth}").modules())
    assert layers == depth


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        # published or widely reproduced counts: 0.27 M, 0.46 M, 0.85 M, 1.7 M; 1.7 M; 2.7 M and 11.0 M
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("preresnet164", 1_703_258),
        ("wrn16_4", 2_748_890),
        ("wrn16_8", 10_961_370),
    ],
)
def test_cifar_networks_have_their_papers_weights(name: str, weights: int) -> None:
    assert params(plain_on_meta(name)) == weights


def test_preactivation_resnet_110_adds_nothing_but_projections() -> None:
    # One norm moves from the stem to the end (+96 weights), and two blocks start with a narrower one (−96).
    assert params(plain_on_meta("preresnet110")) == 1_727_962 + 16 * 32 + 32 * 64


@pytest.mark.parametrize(
    ("name", "theirs"),
    [(name, name) for name in IMAGENET if name.startswith("resnet")] + [("resnext50", "resnext50_32x4d")],
)
def test_imagenet_networks_are_torchvisions(name: str, theirs: str) -> None:
    with torch.device("meta"):
        expected = getattr(torchvision.models, theirs)(weights=None)
    assert str(plain_on_meta(name, 1000, stride="torchvision")) == str(expected)


def test_resnext101_is_32_groups_of_4() -> None:
    assert params(plain_on_meta("resnext101", 1000)) == 44_177_704  # 32×4d; torchvision's is 32×8d, 88.8 M


def test_papers_stride_is_on_the_first_1x1_of_resnets_and_on_the_3x3_of_resnexts() -> None:
    for name, first, second in [("resnet50", 2, 1), ("resnext50", 1, 2)]:  # of the others printed multiply-adds tell
        block = plain_on_meta(name).layer2[0]
        assert (block.conv1.stride, block.conv2.stride) == ((first, first), (second, second)), name
        assert plain_on_meta(name).layer1[0].conv1.stride == (1, 1)


def test_stride_changes_no_weight() -> None:
    paper, theirs = (
        create("resnet50", None, 2, stride=stride, seed=0).state_dict() for stride in ("paper", "torchvision")
    )
    assert all(torch.equal(paper[name], theirs[name]) for name in paper)


# ---------------------------------------------------------------------------------------------------------------------
# SENet-154 and the released models' pool.


def test_senet154_is_the_appendixs() -> None:
    net = plain_on_meta("senet154", 1000)
    stem = [(conv.kernel_size, conv.out_channels, conv.stride) for conv in net.conv1 if isinstance(conv, nn.Conv2d)]
    assert stem == [((3, 3), 64, (2, 2)), ((3, 3), 64, (1, 1)), ((3, 3), 128, (1, 1))]
    stages = [(net.layer1, 3, 128), (net.layer2, 8, 256), (net.layer3, 36, 512), (net.layer4, 3, 1024)]
    for number, (stage, blocks, width) in enumerate(stages):
        stride = (1, 1) if number == 0 else (2, 2)
        assert len(stage) == blocks
        for block in stage:
            assert (block.conv1.kernel_size, block.conv1.out_channels, block.conv1.stride) == ((1, 1), width, (1, 1))
            assert (block.conv2.kernel_size, block.conv2.out_channels, block.conv2.groups) == ((3, 3), 2 * width, 64)
            assert (block.conv3.kernel_size, block.conv3.out_channels, block.conv3.stride) == (
                (1, 1),
                2 * width,
                (1, 1),
            )
        assert [block.conv2.stride for block in stage] == [stride] + [(1, 1)] * (blocks - 1)
        projection, *others = [block.downsample for block in stage]
        assert (projection[0].kernel_size, projection[0].stride) == (((1, 1) if number == 0 else (3, 3)), stride)
        assert others == [None] * (blocks - 1)


def test_senet154_costs_what_the_paper_says() -> None:
    with torch.device("meta"):
        free, released = cost(create("senet154")), cost(create("senet154", SE(bias=True)))
    gates = 2 * (3 * 256**2 + 8 * 512**2 + 36 * 1024**2 + 3 * 2048**2) // 16
    assert (free.params, free.se_params) == (108_459_944 + gates, gates)
    biases = sum(n * (c + c // 16) for n, c in [(3, 256), (8, 512), (36, 1024), (3, 2048)])
    assert released.params == free.params + biases == 115_088_984
    assert round(free.macs / 1e9, 1) == 20.7


def test_senet154_drops_a_fifth_of_the_features_in_training_only() -> None:
    with torch.device("meta"):
        net = create("senet154", None, 10)
    ones_BCHW = torch.ones(8, 2048, 2, 2)
    kept, counts = net.forward_head(ones_BCHW, pre_logits=True).unique(return_counts=True)
    torch.testing.assert_close(kept, torch.tensor([0, 1 / 0.8]))
    assert counts[0].item() / counts.sum().item() == pytest.approx(0.2, abs=5 * math.sqrt(0.2 * 0.8 / 8 / 2048))
    assert torch.equal(net.eval().forward_head(ones_BCHW, pre_logits=True), torch.ones(8, 2048))


def test_ceil_pool_starts_at_the_corner_and_runs_over_the_edge() -> None:
    row = torch.arange(8.0).repeat(1, 1, 8, 1)
    for pool, starts in [("padded", [-1, 1, 3, 5]), ("ceil", [0, 2, 4, 6])]:
        with torch.device("meta"):
            net = create("resnet18", pool=pool)
        assert net.maxpool(row)[0, 0, 0].tolist() == [min(start + 2, 7) for start in starts]


@pytest.mark.parametrize("name", ["resnet50", "senet154"])
def test_pools_differ_in_nothing_but_the_pool(name: str) -> None:
    padded, ceil = (str(plain_on_meta(name, pool=pool)) for pool in ("padded", "ceil"))
    assert padded == str(plain_on_meta(name))
    assert (
        padded
        != ceil
        == padded.replace(
            "stride=2, padding=1, dilation=1, ceil_mode=False", "stride=2, padding=0, dilation=1, ceil_mode=True"
        )
    )


# ---------------------------------------------------------------------------------------------------------------------
# CIFAR networks' parts.


@pytest.mark.parametrize(
    ("name", "before", "behind"),
    [
        ("resnet20", "conv1 bn1 relu", ""),
        ("preresnet110", "conv1", "bn relu"),
        ("preresnet164", "conv1", "bn relu"),
        ("wrn16_8", "conv1", "bn relu"),
        ("shake26_2x96d", "conv1 bn1", "relu"),  # whose branches and shortcuts begin with a ReLU
        ("shake29_2x4x64d", "conv1 bn1 relu", ""),
    ],
)
def test_what_stands_before_the_stages_and_behind_them(name: str, before: str, behind: str) -> None:
    """A chain of modules is run in the order in which it is printed."""
    net = plain_on_meta(name)
    stages = ["layer1", "layer2", "layer3"]
    assert isinstance(net, nn.Sequential)
    assert [path for path, _ in net.named_children()] == [
        *before.split(),
        *stages,
        *behind.split(),
        *("avgpool", "flatten", "fc"),
    ]
    widths = {"resnet20": 16, "preresnet164": 64, "wrn16_8": 128, "shake26_2x96d": 96, "shake29_2x4x64d": 256}
    stem_out = 64 if name == "shake29_2x4x64d" else 16
    assert net.conv1.out_channels == stem_out
    x_BCHW = torch.empty(1, stem_out, 32, 32, device="meta")
    for at, stage in enumerate(stages):  # ever wider, and half as large twice
        x_BCHW = net.get_submodule(stage)(x_BCHW)
        assert x_BCHW.shape[1:] == (widths.get(name, 16) * 2**at, 32 // 2**at, 32 // 2**at)


def test_pad_shortcut_is_the_identity_of_option_a() -> None:
    x_BCHW = torch.randn(2, 3, 4, 4)
    y_BCHW = PadShortcut(3, 2)(x_BCHW)
    assert y_BCHW.shape == (2, 6, 2, 2)
    for c in range(3):
        for i in range(2):
            for j in range(2):
                assert torch.equal(y_BCHW[:, c, i, j], x_BCHW[:, c, 2 * i, 2 * j])
    assert not y_BCHW[:, 3:].any()


def test_wide_resnet_of_width_1_is_the_preactivation_resnet_of_basic_blocks() -> None:
    assert str(wide_resnet(16, 1, 10)) == str(preact_resnet(14, 10, bottleneck=False))


# ---------------------------------------------------------------------------------------------------------------------
# They run.


@pytest.mark.parametrize("name", ["resnet8", "wrn16_4"])
def test_cifar_networks_train_on_8x8_digits(name: str) -> None:
    net = create(name, SE(), 10, in_channels=1, seed=0)
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    F.cross_entropy(net(images), torch.tensor([1, 2])).backward()
    for path, weight in net.named_parameters():
        assert weight.grad is not None, path
        assert weight.grad.isfinite().all(), path


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_imagenet_networks_train_on_one_channel(name: str) -> None:
    net = create(name, SE(), 10, in_channels=1, seed=0)
    out = net(torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    F.cross_entropy(out, torch.tensor([1, 2])).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())


# ---------------------------------------------------------------------------------------------------------------------
# Seeds.


def plain_weights(net: nn.Module) -> dict[str, Tensor]:
    return {name.replace(".body", ""): w for name, w in net.state_dict().items() if ".se." not in name}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


DESIGNS = [
    *(SE(position=position) for position in POSITIONS),
    *(SE(squeeze=squeeze) for squeeze in SQUEEZES),
    *(SE(excitation=excitation) for excitation in EXCITATIONS),
    SE(reduction=2, bias=True),
    SE(stages=[3]),
    SE(reduction={2: 4, 4: 2}),
]


@pytest.mark.parametrize("name", ["resnet8", "wrn16_4"])
def test_a_seed_gives_the_same_plain_weights_with_every_design(name: str) -> None:
    expected = plain_weights(create(name, None, 10, seed=5))
    for design in DESIGNS:
        assert_same(plain_weights(create(name, design, 10, seed=5)), expected)
    other = plain_weights(create(name, None, 10, seed=6))
    assert not any(torch.equal(expected[key], other[key]) for key in expected if key.endswith("conv1.weight"))


def test_a_seed_gives_the_same_network_whatever_was_drawn_before() -> None:
    first = create("resnet8", SE(), 10, seed=5)
    torch.rand(17)
    assert_same(first.state_dict(), create("resnet8", {}, 10, seed=5).state_dict())


def test_with_a_seed_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    create("resnet8", SE(), seed=5, in_channels=1)
    create("resnet18", SE(), seed=5, in_channels=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_global_generator_decides() -> None:
    nets, states = [], []
    for se in (SE(), SE(), None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            nets.append(create("resnet8", se))
            states.append(torch.get_rng_state())
    assert_same(nets[0].state_dict(), nets[1].state_dict())
    assert_same(plain_weights(nets[0]), plain_weights(nets[2]))
    assert torch.equal(states[0], states[2])  # SE draws nothing from it
    assert not torch.equal(create("resnet8").conv1.weight, create("resnet8").conv1.weight)


@pytest.mark.parametrize("name", ["resnet20", "wrn16_4", "resnet18", "bn_inception"])
def test_convolutions_are_drawn_after_he_by_fan_out_and_norms_are_1(name: str) -> None:
    net = create(name, None, 10, seed=0)
    for path, weight in net.named_parameters():
        if weight.ndim == 1 and path != "fc.bias":
            assert torch.equal(weight, torch.ones_like(weight) if path.endswith("weight") else torch.zeros_like(weight))
    for path, conv in net.named_modules():
        if isinstance(conv, nn.Conv2d):
            fan_out = conv.out_channels * math.prod(conv.kernel_size)
            error = 5 / math.sqrt(2 * conv.weight.numel())  # five standard errors of a standard deviation
            assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=error), path


# ---------------------------------------------------------------------------------------------------------------------
# Networks of one's own, and mistakes.

OWN = """
import torch
from torchvision.models import resnet18

def small(num_classes):
    return resnet18(num_classes=num_classes)

def grey(num_classes, in_channels=3):
    net = resnet18(num_classes=num_classes)
    net.conv1 = torch.nn.Conv2d(in_channels, 64, 3)
    return net

def number(num_classes):
    return num_classes

def classes(classes):
    return resnet18(num_classes=classes)

constant = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own")
def test_own_builders_are_imported_and_take_se() -> None:
    net = create("own_nets:small", SE(8), 6, seed=1)
    assert net.fc.out_features == 6
    assert net.layer1[0].bn2.se.hidden == 8
    assert_same(plain_weights(net), create("resnet18", None, 6, seed=1).state_dict())
    assert create("own_nets:grey", None, 6, in_channels=1).conv1.in_channels == 1
    assert create("own_nets:small", None, 6, in_channels=1).conv1.in_channels == 3  # it has no such parameter
    assert create("torchvision.models:resnet18", None, 6).fc.out_features == 6


def test_own_builders_keep_their_stride() -> None:
    with torch.device("meta"):
        assert create("torchvision.models:resnet50", None).layer2[0].conv2.stride == (2, 2)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet9", ["backbone", "'resnet9'", "resnet8, resnet20", "wrn16_8", "resnext101", "package.module:function"]),
        ("own_net:small", ["cannot import own_net", "No module named 'own_net'"]),
        ("own_broken:small", ["cannot import own_broken", "No module named 'no_such_library'"]),
        ("own_nets:large", ["own_nets has no function 'large'", "small, grey, number, classes"]),
        ("own_nets:constant", ["own_nets has no function 'constant'"]),
        ("own_nets:number", ["own_nets:number returned a int, not a torch.nn.Module"]),
        ("own_nets:classes", ["own_nets:classes", "num_classes"]),
        (":small", ["':small' does not read package.module:function"]),
        ("own_nets:", ["'own_nets:' does not read package.module:function"]),
        ("..own:small", ["does not read package.module:function"]),
        ("own_nets:a:b", ["does not read package.module:function"]),
    ],
)
def test_mistaken_names_are_named(name: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^backbone: ") as error:
        create(name)
    for word in words:
        assert word in str(error.value)


def test_mistaken_options_are_named() -> None:
    with pytest.raises(ValueError, match="stride: '3x3' is not one of paper, torchvision"):
        create("resnet50", stride="3x3")
    with pytest.raises(ValueError, match="pool: 'caffe' is not one of padded, ceil"):
        create("resnet50", pool="caffe")
    with pytest.raises(ValueError, match="pool: resnet8 has no padded 3×3 maximum that could be ceil"):
        create("resnet8", pool="ceil")
    with pytest.raises(ValueError, match=r"se.squeeze: 'men' is not one of avg, max, none"):
        create("resnet8", {"squeeze": "men"})
    with pytest.raises(ValueError, match="depth: 9 is not 6n"):
        resnet(9, 10)
    with pytest.raises(ValueError, match=r"depth: 14 is not 6n \+ 4"):
        wide_resnet(14, 4, 10)
    with pytest.raises(ValueError, match=r"depth: 2 is not 9n \+ 2"):
        preact_resnet(2, 10, bottleneck=True)
