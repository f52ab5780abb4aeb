"""Where SE goes: gated blocks against blocks written out once more, and networks with open gates against plain ones."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections import OrderedDict
from collections.abc import Callable

import pytest
import timm.models.resnet
import torch
import torch.nn.functional as F
from test_models_se import reference
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from senet_lab import SE, add_se
from senet_lab.models import cost, create, hidden_widths, stages_of
from senet_lab.models.cifar import PadShortcut, PreactBasic, PreactBottleneck, preact_resnet, resnet, wide_resnet
from senet_lab.models.gated import Gated, Inserted
from senet_lab.models.gates import SEBlock
from senet_lab.models.library_blocks import LIBRARY_BLOCKS
from senet_lab.models.shake import ShakeBlock
from senet_lab.models.slots import BLOCKS, POSITIONS, class_path, is_known

# ---------------------------------------------------------------------------------------------------------------------
# One block, every variant, against a functional forward that takes nothing but the weights.

Gates = dict[str, Callable[[Tensor], Tensor]]


def downsample(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


TimmBottleneck = timm.models.resnet.Bottleneck


def timm_projected() -> nn.Module:
    return TimmBottleneck(8, 4, 2, downsample(8, 16, 2))


# kind → (class, block with a plain shortcut, block whose shortcut changes width and resolution)
MADE = {
    "basic": (BasicBlock, lambda: BasicBlock(8, 8), lambda: BasicBlock(8, 12, 2, downsample(8, 12, 2))),
    "basic, option A": (BasicBlock, lambda: BasicBlock(8, 8), lambda: BasicBlock(8, 12, 2, PadShortcut(4, 2))),
    "bottleneck": (Bottleneck, lambda: Bottleneck(16, 4), lambda: Bottleneck(8, 4, 2, downsample(8, 16, 2))),
    "timm's bottleneck": (TimmBottleneck, lambda: TimmBottleneck(16, 4), timm_projected),
    "preact basic": (PreactBasic, lambda: PreactBasic(8, 8, 1), lambda: PreactBasic(8, 12, 2)),
    "preact bottleneck": (PreactBottleneck, lambda: PreactBottleneck(16, 16, 1), lambda: PreactBottleneck(8, 16, 2)),
}


def norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]
    mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    per_channel = (slice(None), None, None)
    return (x - mean[per_channel]) / (var[per_channel] + 1e-5).sqrt() * scale[per_channel] + shift[per_channel]


def shortcut_of(x: Tensor, w: dict[str, Tensor], out_channels: int) -> Tensor:
    if "downsample.0.weight" in w:
        return norm(F.conv2d(x, w["downsample.0.weight"], stride=2), w, "downsample.1")
    if "downsample.weight" in w:
        return F.conv2d(x, w["downsample.weight"], stride=2)
    if x.shape[1] == out_channels:
        return x
    zeros = torch.zeros(len(x), out_channels - x.shape[1], *x[:, :, ::2, ::2].shape[2:], dtype=x.dtype)
    return torch.cat([x[:, :, ::2, ::2], zeros], 1)


def basic(x: Tensor, w: dict[str, Tensor], g: Gates, stride: int) -> Tensor:
    y = F.relu(norm(F.conv2d(g["pre"](x), w["conv1.weight"], stride=stride, padding=1), w, "bn1"))
    y = norm(F.conv2d(g["conv3x3"](y), w["conv2.weight"], padding=1), w, "bn2")
    return g["post"](F.relu(g["standard"](y) + g["identity"](shortcut_of(x, w, y.shape[1]))))


def bottleneck(x: Tensor, w: dict[str, Tensor], g: Gates, stride: int) -> Tensor:
    y = F.relu(norm(F.conv2d(g["pre"](x), w["conv1.weight"]), w, "bn1"))
    y = F.relu(norm(F.conv2d(y, w["conv2.weight"], stride=stride, padding=1), w, "bn2"))
    y = norm(F.conv2d(g["conv3x3"](y), w["conv3.weight"]), w, "bn3")
    return g["post"](F.relu(g["standard"](y) + g["identity"](shortcut_of(x, w, y.shape[1]))))


def preact_start(x: Tensor, w: dict[str, Tensor], g: Gates, stride: int) -> tuple[Tensor, Tensor]:
    """What the branch and what the shortcut starts from; a norm shared by both is not gated."""
    if stride == 1:
        return F.relu(norm(g["pre"](x), w, "bn1")), x
    shared = F.relu(norm(x, w, "bn1"))
    return g["pre"](shared), shared


def preact_basic(x: Tensor, w: dict[str, Tensor], g: Gates, stride: int) -> Tensor:
    y, start = preact_start(x, w, g, stride)
    y = F.relu(norm(F.conv2d(y, w["conv1.weight"], stride=stride, padding=1), w, "bn2"))
    y = F.conv2d(g["conv3x3"](y), w["conv2.weight"], padding=1)
    return g["post"](g["standard"](y) + g["identity"](shortcut_of(start, w, y.shape[1])))


def preact_bottleneck(x: Tensor, w: dict[str, Tensor], g: Gates, stride: int) -> Tensor:
    y, start = preact_start(x, w, g, stride)
    y = F.relu(norm(F.conv2d(y, w["conv1.weight"], stride=stride), w, "bn2"))
    y = F.relu(norm(F.conv2d(y, w["conv2.weight"], padding=1), w, "bn3"))
    y = F.conv2d(g["conv3x3"](y), w["conv3.weight"])
    return g["post"](g["standard"](y) + g["identity"](shortcut_of(start, w, y.shape[1])))


# Words of the gate, in turn: each meets every position. test_models_se has every pair of them.
DESIGNS = itertools.cycle([("avg", "sigmoid"), ("max", "softmax"), ("none", "tanh"), ("avg", "relu")])
PLACES = list(itertools.product(MADE, (1, 2), POSITIONS))

WRITTEN_OUT = {
    BasicBlock: basic,
    Bottleneck: bottleneck,
    TimmBottleneck: bottleneck,
    PreactBasic: preact_basic,
    PreactBottleneck: preact_bottleneck,
}


def test_every_kind_of_block_is_tried() -> None:
    known = {*BLOCKS} - {*LIBRARY_BLOCKS} - {class_path(ShakeBlock)}  # test_models_library and _shake test these
    assert known == {class_path(kind) for kind in WRITTEN_OUT} == {class_path(kind) for kind, *_ in MADE.values()}


@pytest.mark.parametrize(
    ("kind", "stride", "position", "squeeze", "excitation"),
    [(*place, *design) for place, design in zip(PLACES, DESIGNS, strict=False)],
)
def test_gated_block_computes_what_the_paper_says(
    kind: str, stride: int, position: str, squeeze: str, excitation: str
) -> None:
    cls, *makers = MADE[kind]
    block = makers[stride - 1]()
    model = nn.Sequential(OrderedDict(layer1=nn.Sequential(block))).double().eval()
    g = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data = torch.rand(tensor.shape, generator=g, dtype=torch.float64) + 0.5
    plain = {name.removeprefix("layer1.0."): w for name, w in model.state_dict().items()}
    x_BCHW = torch.randn(2, 16 if stride == 1 and "neck" in kind else 8, 5, 5, generator=g, dtype=torch.float64)

    (done,) = add_se(model, SE(2, squeeze, excitation, position))

    (se,) = (module for module in model.modules() if isinstance(module, SEBlock))
    assert (se.squeeze, se.excitation, se.hidden) == (squeeze, excitation, done.channels // 2)
    gates: Gates = dict.fromkeys(POSITIONS, lambda t: t)
    gates[position] = lambda t: reference(t, se)
    expected = WRITTEN_OUT[cls](x_BCHW, plain, gates, stride)
    torch.testing.assert_close(model(x_BCHW), expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():  # norm and gate may then be one pass
        torch.testing.assert_close(model(x_BCHW), expected, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------------------------------------------------------------
# Networks with all gates at 1.

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: ResNet(BasicBlock, [1, 2, 1, 1], 5),
    "resnext": lambda: ResNet(Bottleneck, [1, 2, 1, 1], 5, groups=32, width_per_group=4),
    "cifar resnet": lambda: resnet(14, 5),
    "preact basic": lambda: preact_resnet(14, 5, bottleneck=False),
    "preact bottleneck": lambda: preact_resnet(20, 5, bottleneck=True),
    "wide": lambda: wide_resnet(16, 2, 5),
}


@pytest.fixture(scope="module", params=NETWORKS)
def plain(request: pytest.FixtureRequest) -> nn.Module:
    return NETWORKS[request.param]()


def step(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """All that a forward and a backward pass leave behind, under the plain network's names."""
    x = x.clone().requires_grad_()
    out = net(x)
    F.cross_entropy(out, torch.tensor([0, 3])).backward()
    left = {f"{name}.grad": w.grad for name, w in net.named_parameters() if ".se." not in name}
    left |= {name: tensor for name, tensor in net.state_dict().items() if ".se." not in name}
    return {"out": out, "x.grad": x.grad} | {name.replace(".body", ""): t for name, t in left.items()}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("position", POSITIONS)
def test_with_gates_at_one_the_network_is_the_plain_one_bit_for_bit(
    plain: nn.Module, position: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = copy.deepcopy(plain).train(training)
    gated = copy.deepcopy(plain)
    done = add_se(gated, SE(position=position))
    assert len(done) == sum(map(is_known, plain.modules()))
    asked = []
    monkeypatch.setattr(SEBlock, "gate", lambda se, x: asked.append(se) or torch.ones_like(x[:, :, :1, :1]))
    x_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected, found = step(plain, x_BCHW), step(gated, x_BCHW)
    assert len(asked) == len(done)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


# ---------------------------------------------------------------------------------------------------------------------
# What is reported, copied, saved.


def on_meta(name: str, se: SE | None = None) -> nn.Module:
    with torch.device("meta"):
        return create(name, se)


@pytest.mark.parametrize(
    ("position", "ends", "widths"),
    [
        ("standard", "bn3", [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3),
        ("pre", "conv1", [64] + [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 2),
        ("post", "", [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3),
        ("identity", "downsample", [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3),
        ("conv3x3", "conv3", [64] * 3 + [128] * 4 + [256] * 6 + [512] * 3),
    ],
)
def test_record_says_what_was_wrapped_where(position: str, ends: str, widths: list[int]) -> None:
    net = on_meta("resnet50")
    done = add_se(net, SE(position=position))
    blocks = [(s, f"layer{s - 1}.{b}") for s, n in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True) for b in range(n)]
    side = "before" if position in ("pre", "conv3x3") else "after"
    assert done == [
        Inserted(f"{block}.{ends}".rstrip("."), side, stage, width, width // 16)
        for (stage, block), width in zip(blocks, widths, strict=True)
    ]
    for record in done:
        gated = net.get_submodule(record.name)
        assert isinstance(gated, Gated)
        assert (gated.side, gated.se.channels, gated.se.hidden) == (record.side, record.channels, record.hidden)


def test_shared_norm_moves_pre_behind_it() -> None:
    done = add_se(on_meta("wrn16_4"), position="pre")
    assert [record.name for record in done if record.stage == 3] == ["layer2.0.conv1", "layer2.1.bn1"]
    assert [record.channels for record in done] == [16, 64, 64, 128, 128, 256]


def test_reduction_by_stage_and_stages() -> None:
    assert [(r.stage, r.hidden) for r in add_se(on_meta("resnet8"), reduction={4: 8, 2: 4})] == [(2, 4), (4, 8)]
    assert [(r.stage, r.hidden) for r in add_se(on_meta("resnet8"), reduction={4: 8, 2: 4}, stages=[4])] == [(4, 8)]
    assert [(r.stage, r.hidden) for r in add_se(on_meta("resnet8"), SE(4), stages=(3,))] == [(3, 8)]


def test_fields_stand_on_top_of_the_design() -> None:
    design = SE(reduction=4, squeeze="max")
    net = on_meta("resnet8")
    add_se(net, design, reduction=2)
    assert design == SE(reduction=4, squeeze="max")
    assert {(m.squeeze, m.channels // m.hidden) for m in net.modules() if isinstance(m, SEBlock)} == {("max", 2)}


@pytest.mark.parametrize("none", [None, SE(stages=[]), {"stages": []}, SE(reduction={})])
def test_no_stages_is_the_plain_network(none: object) -> None:
    net = on_meta("resnet8")
    assert add_se(net, none) == []
    assert not any(isinstance(module, (SEBlock, Gated)) for module in net.modules())


def test_a_network_inside_another_is_found() -> None:
    net = nn.ModuleDict({"encoder": on_meta("resnet18"), "head": nn.Linear(2, 2, device="meta")})
    assert [record.name for record in add_se(net, stages=[5])] == ["encoder.layer4.0.bn2", "encoder.layer4.1.bn2"]


def test_torchvisions_own_segmentation_network() -> None:
    from torchvision.models.segmentation import fcn_resnet50

    with torch.device("meta"):
        net = fcn_resnet50(weights=None, weights_backbone=None)
        assert len(add_se(net, SE(position="identity"))) == 16
        assert net.eval()(torch.empty(1, 3, 64, 64))["out"].shape == (1, 21, 64, 64)


def test_gates_take_the_networks_precision_and_mode() -> None:
    net = create("resnet8", None, 5).double().eval()
    add_se(net)
    assert {weight.dtype for weight in net.parameters()} == {torch.float64}
    assert not any(module.training for module in net.modules())


# ---------------------------------------------------------------------------------------------------------------------
# Where the weights come from.


def se_weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: w for name, w in net.named_parameters() if ".se." in name}


def test_a_blocks_gate_depends_on_the_seed_and_its_path_alone() -> None:
    every, one = create("resnet8", SE(4), seed=7), create("resnet8", SE(4, stages=[3]), seed=7)
    other = create("resnet8", SE(4), seed=8)
    assert len(se_weights(one)) == 2
    for name, weight in se_weights(one).items():
        assert torch.equal(weight, se_weights(every)[name])
        assert not torch.equal(weight, se_weights(other)[name])


def test_blocks_of_one_width_get_different_gates() -> None:
    weights = list(se_weights(create("resnet20", SE(4, stages=[4]), seed=0)).values())[::2]
    assert weights[0].shape == weights[1].shape
    assert not torch.equal(weights[0], weights[1])


def test_inserting_leaves_the_global_generator_alone() -> None:
    net = create("resnet8", None)
    before = torch.get_rng_state()
    add_se(net, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes.


class Own(BasicBlock):
    """A subclass that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.bn1(self.conv1(x))], 1)


@pytest.mark.parametrize(
    ("model", "design", "words"),
    [
        (lambda: on_meta("resnet8", SE()), {}, ["has SE already", "layer1.0.bn2.se is a SEBlock"]),
        (lambda: SEBlock(8), {}, ["has SE already", "SEBlock"]),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 3, 1)),
            {},
            ["nowhere", "residual blocks", "Conv2d", "Sequential", "where="],
        ),
        (lambda: nn.ModuleDict({"layer1": Own(8, 8)}), {}, ["nowhere", "Own"]),
        (lambda: nn.Sequential(BasicBlock(8, 8)), {"reduction": {2: 4}}, ["se.reduction", "stage of 0", "stage_roots"]),
        (lambda: nn.Sequential(BasicBlock(8, 8)), {"stages": [2]}, ["se.stages", "stage of 0", "layer1"]),
        (lambda: BasicBlock(8, 8), {"position": "post"}, ["the model is a BasicBlock itself"]),
        (lambda: on_meta("resnet8"), {"position": "middle"}, ["se.position", "'middle'", ", ".join(POSITIONS)]),
        (lambda: on_meta("resnet8"), {"squeeze": "min"}, ["se.squeeze", "'min'", "avg, max, none"]),
        (lambda: on_meta("resnet8"), {"stages": [5]}, ["no stage 5", "2, 3, 4"]),
        (lambda: on_meta("resnet8"), {"reduction": {7: 4}}, ["no stage 7", "2, 3, 4"]),
        (lambda: on_meta("resnet8"), {"stages": [2], "reduction": {3: 4}}, ["[2]", "{3: 4}", "none in common"]),
        (
            lambda: on_meta("resnet8"),
            {"ratio": 4},
            ["'ratio'", "reduction, squeeze, excitation, position, stages, bias, identity_start"],
        ),
    ],
)
def test_mistakes_are_named_and_change_nothing(
    model: Callable[[], nn.Module], design: dict[str, object], words: list[str]
) -> None:
    net = model()
    before = str(net)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are compared below
        add_se(net, design)
    for word in words:
        assert word in str(error.value)
    assert str(net) == before


def test_what_is_no_design_is_refused() -> None:
    with pytest.raises(ValueError, match="se: 16 is not a design"):
        add_se(on_meta("resnet8"), 16)
    with pytest.raises(ValueError, match="se: None is not a design"):
        add_se(on_meta("resnet8"), None, reduction=4)


# ---------------------------------------------------------------------------------------------------------------------
# Stages.


def four_blocks(names: str) -> nn.Module:
    """Two stages of two blocks, called as timm's or in a way that tells nothing."""
    pairs = [nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8)) for _ in range(2)]
    if names == "stages":
        return nn.Sequential(OrderedDict(stages=nn.Sequential(*pairs)))
    return nn.Sequential(OrderedDict(first=pairs[0], second=pairs[1]))


def test_stages_are_known_by_timms_names_or_by_what_the_network_says() -> None:
    assert stages_of(four_blocks("stages")) == (2, 3)
    with pytest.raises(ValueError, match=r"first\.0 is a BasicBlock outside"):
        stages_of(four_blocks("mute"))
    said = four_blocks("mute")
    said.stage_roots = {3: ["first"], 5: ["second.0", "second.1"]}
    assert [(done.name, done.stage) for done in add_se(copy.deepcopy(said), stages=[5])] == [
        ("second.0.bn2", 5),
        ("second.1.bn2", 5),
    ]
    add_se(said)
    assert hidden_widths(said) == {3: (1, 1), 5: (1, 1)}
    found = cost(said, (8, 4, 4))
    assert {stage: part.se_params for stage, part in found.stages.items()} == {3: 32, 5: 32}
    assert found.se_params == 64


# ---------------------------------------------------------------------------------------------------------------------
# Networks that say themselves where their gates go.


def two_layers() -> nn.Module:
    """No block that is known, a stage of one convolution and one of two; the last is to have no gate."""
    net = nn.Sequential(OrderedDict(a=nn.Conv2d(3, 8, 1), b=nn.ReLU(True), c=nn.Conv2d(8, 6, 1), d=nn.Flatten()))
    net.stage_roots = {1: ["a", "b"], 4: ["c"]}
    net.se_places = {"b": 8, "c": 6}
    return net


@pytest.mark.parametrize("again", [lambda net: net, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_network_says_itself_where_its_gates_go(again: Callable[[nn.Module], nn.Module]) -> None:
    net = again(two_layers())
    assert stages_of(net) == (1, 4)
    x_BCHW = torch.randn(2, 3, 4, 4)
    plain = copy.deepcopy(net)
    done = add_se(net, reduction={1: 4, 4: 2})
    assert done == [Inserted("b", "after", 1, 8, 2), Inserted("c", "after", 4, 6, 3)]
    expected = reference(plain.c(reference(plain.b(plain.a(x_BCHW)), net.b.se)), net.c.se).flatten(1)
    torch.testing.assert_close(net(x_BCHW), expected)
    assert hidden_widths(net) == {1: (2,), 4: (3,)}
    assert {stage: part.se_params for stage, part in cost(net, (3, 4, 4)).stages.items()} == {1: 32, 4: 36}


def test_what_such_a_network_lacks_is_named() -> None:
    net = two_layers()
    before = str(net)
    with pytest.raises(ValueError, match=r"se.position: the network has no place for pre; it has standard"):
        add_se(net, position="pre")
    with pytest.raises(ValueError, match="no stage 2; it has 1, 4"):
        add_se(net, stages=[2])
    net.se_places["e"] = 3
    with pytest.raises(ValueError, match="se_places: the model has no module e"):
        add_se(net)
    net.se_places = {"d": 3}
    with pytest.raises(ValueError, match="d is a Flatten outside"):
        add_se(net)
    assert str(net) == before
