"""What users of this and of other tools have met: short cuts of evaluation, cost, weights, scripts. One kind each."""

from __future__ import annotations

import argparse
import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel
from torch.utils.hooks import RemovableHandle
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import deform_conv2d

from senet_lab import SE
from senet_lab.models import BACKBONES, cost, create, load_weights
from senet_lab.models.gated import Gated
from senet_lab.models.gates import EXCITATIONS, FROM_ONE, SQUEEZES, Descriptors, SEBlock
from senet_lab.models.speed import folded, folding
from senet_lab.models.weights import build, classifier_of, head_of

# ---------------------------------------------------------------------------------------------------------------------
# Whatever replaces, wraps or listens to a module is not passed by: no short cut is taken there.


def small() -> nn.Module:
    return create("resnet8", SE(4, bias=True), 5, seed=0).eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


PARTS: dict[str, Callable[[Gated], nn.Module]] = {
    "norm": lambda end: end.body,
    "gate": lambda end: end.se,
    "fc1": lambda end: end.se.fc1,
    "fc2": lambda end: end.se.fc2,
}


def doubled(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *given: 2 * method(*given)


def ends_of(net: nn.Module) -> list[Gated]:
    return [module for module in net.modules() if isinstance(module, Gated)]


def one_by_one(net: nn.Module, x_BCHW: Tensor) -> Tensor:
    """The output with gradients, which no norm in evaluation has a short cut for."""
    y_BK: Tensor = net(x_BCHW)
    return y_BK.detach()


@pytest.mark.parametrize("part", PARTS)
def test_a_forward_that_was_replaced_runs(part: str) -> None:
    """Of one module, as accelerate does, whose weights are there only while its own forward runs."""
    net, plain = small(), small()
    with torch.no_grad():
        before = net(images())
    for each in (net, plain):
        for end in ends_of(each):
            module = PARTS[part](end)
            module.forward = doubled(module.forward)
    with torch.no_grad():
        found = net(images())
    assert not torch.allclose(found, before)
    torch.testing.assert_close(found, one_by_one(plain, images()))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (nn.BatchNorm2d, "forward"),
        (nn.Conv2d, "forward"),
        (nn.Conv2d, "_conv_forward"),
        (SEBlock, "forward"),
        (SEBlock, "gate"),
        (SEBlock, "excite"),
        (Descriptors, "forward"),
    ],
)
def test_a_method_that_was_replaced_in_its_class_runs(
    kind: type[nn.Module], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, plain = small(), small()
    monkeypatch.setattr(kind, method, doubled(getattr(kind, method)))
    with torch.no_grad():
        torch.testing.assert_close(net(images()), one_by_one(plain, images()))


@pytest.mark.parametrize("method", ["gate", "excite", "sigma", "pool"])
def test_a_method_that_was_replaced_in_a_block_runs(method: str) -> None:
    net, plain = small(), small()
    for each in (net, plain):
        for end in ends_of(each):
            setattr(end.se, method, doubled(getattr(end.se, method)))
    with torch.no_grad():
        torch.testing.assert_close(net(images()), one_by_one(plain, images()))


HOOKS: dict[str, Callable[[Callable[..., None]], RemovableHandle]] = {
    "forward": nn.modules.module.register_module_forward_hook,
    "forward, before": nn.modules.module.register_module_forward_pre_hook,
    "backward": nn.modules.module.register_module_full_backward_hook,
    "backward, before": nn.modules.module.register_module_full_backward_pre_hook,
}


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_for_all_modules_hear_each_as_often_as_it_is_called(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "PAYS", 0)
    heard: list[nn.Module] = []
    end = Gated(nn.BatchNorm2d(8), SEBlock(8), "after")
    handle = HOOKS[kind](lambda module, *_: heard.append(module))
    try:
        end(torch.randn(2, 8, 3, 3, requires_grad=True)).sum().backward()
    finally:
        handle.remove()
    assert sorted(map(id, heard)) == sorted(map(id, end.modules()))


@pytest.mark.parametrize("fc", [nn.Conv2d(16, 4, 3, padding=1), nn.Conv2d(16, 4, 1, groups=4)], ids=str)
def test_another_convolution_in_a_gate_is_called(fc: nn.Conv2d) -> None:
    net = small()
    ends_of(net)[0].se.fc1 = fc
    with torch.no_grad():
        torch.testing.assert_close(net(images()), one_by_one(net, images()))


@pytest.mark.parametrize("change", ["track_running_stats", "num_batches_tracked"])
def test_a_norm_that_keeps_no_statistics_any_more_keeps_none(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "PAYS", 0)
    norm, se = nn.BatchNorm2d(16), SEBlock(16)
    setattr(norm, change, None)
    other, x_BCHW = copy.deepcopy(norm), torch.randn(2, 16, 3, 3)
    torch.testing.assert_close(Gated(norm, se, "after")(x_BCHW), se(other(x_BCHW)))
    torch.testing.assert_close(norm.state_dict(), other.state_dict())


@pytest.mark.parametrize("training", [False, True])
def test_no_images_give_no_outputs(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "PAYS", 0)
    for squeeze in SQUEEZES:
        net = create("resnet8", SE(4, squeeze), 5, seed=0).train(training)
        assert net(images(0)).shape == (0, 5)


def test_the_short_cut_is_still_there() -> None:
    end = ends_of(small())[0]
    with torch.no_grad():
        assert folded(end.body, end.se, torch.randn(2, 16, 4, 4)) is not None


# ---------------------------------------------------------------------------------------------------------------------
# torch.jit.script takes networks with gates.

GATES = [(squeeze, "sigmoid", False) for squeeze in SQUEEZES]
GATES += [("avg", excitation, one) for one, words in ((False, EXCITATIONS), (True, FROM_ONE)) for excitation in words]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
@pytest.mark.parametrize(("squeeze", "excitation", "one"), GATES)
def test_gates_can_be_scripted(squeeze: str, excitation: str, one: bool) -> None:
    for position in ("standard", "pre"):
        net = create("resnet8", SE(4, squeeze, excitation, position, identity_start=one), 5, seed=0).eval()
        scripted = torch.jit.script(net)
        with torch.no_grad():
            torch.testing.assert_close(scripted(images()), net(images()))


# ---------------------------------------------------------------------------------------------------------------------
# Cost does not depend on how a network is traced, wrapped, pruned or called, and what is not known is said.

SIZE = (3, 16, 16)


def alike(net: nn.Module, other: nn.Module) -> None:
    """All numbers, and those of the stages; tracing merges and splits operators that count nothing."""
    one, two = (cost(each, SIZE) for each in (net, other))
    for mine, theirs in [(one, two), *((one.stages[stage], two.stages[stage]) for stage in one.stages)]:
        for name in vars(mine).keys() - {"stages", "operations"}:
            assert getattr(mine, name) == getattr(theirs, name), name


TRACED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "fx": torch.fx.symbolic_trace,
    "pickled": lambda net: pickle.loads(pickle.dumps(torch.fx.symbolic_trace(net))),
    "feature extractor": lambda net: create_feature_extractor(net, ["fc"]),
    "in another": lambda net: nn.Sequential(torch.fx.symbolic_trace(net)).eval(),
    "exported": lambda net: torch.export.export(net, (torch.zeros(1, *SIZE),)).module(),
    "averaged": AveragedModel,
    "for devices": nn.DataParallel,
    "compiled": torch.compile,
}


@pytest.mark.parametrize("design", [None, SE(4), SE(4, "max", position="pre"), SE(4, "none")], ids=str)
@pytest.mark.parametrize("how", TRACED)
def test_a_network_that_was_traced_or_wrapped_costs_the_same(how: str, design: SE | None) -> None:
    net = create("resnet8", design, 5, seed=0).eval()
    alike(net, TRACED[how](net))


def kept(net: nn.Module) -> None:
    net.layer1[0].register_forward_hook(lambda module, given, out: setattr(module, "latest", [out]))
    net(torch.zeros(1, *SIZE))


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "pruned": lambda net: prune.l1_unstructured(net.layer1[0].conv1, "weight", 0.5),
    "gate pruned": lambda net: prune.l1_unstructured(net.layer1[0].bn2.se.fc1, "weight", 0.5),
    "spectral norm": lambda net: nn.utils.spectral_norm(net.layer1[0].conv1),
    "spectral norm as parametrization": lambda net: nn.utils.parametrizations.spectral_norm(net.layer1[0].conv1),
    "an activation is kept": kept,
    "forward replaced": lambda net: setattr(net.layer1[0], "forward", net.layer1[0].forward),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_whose_weights_are_made_or_that_keeps_something_costs_the_same(change: str) -> None:
    net = small()
    CHANGES[change](net)
    alike(net, small())


class Lambda(nn.Module):
    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 3, 3, 3))
        for name, part in parts.items():
            setattr(self, name, part)
        self.call = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT


LAYERS: dict[str, tuple[int, Lambda]] = {
    "functional": (8 * 27 * 14 * 14, Lambda(lambda net, x: F.conv2d(x, net.weight))),
    "transposed": (3 * 8 * 4 * 256, Lambda(lambda net, x: net.a(x), a=nn.ConvTranspose2d(3, 8, 2, 2))),
    "einsum": (8 * 3 * 256, Lambda(lambda net, x: torch.einsum("bchw,dc->bdhw", x, net.weight[:, :, 0, 0]))),
    "matmul": (256 * 256 * 3, Lambda(lambda net, x: tokens(x) @ tokens(x).mT)),
    "a vector": (27 * 8, Lambda(lambda net, x: net.weight.flatten(1) @ x.flatten()[:27])),
    "attention": (2 * 256 * 256 * 3, Lambda(lambda net, x: F.scaled_dot_product_attention(*[tokens(x)] * 3))),
    "LSTM": (9 * 4 * 4 * (3 + 4), Lambda(lambda net, x: net.a(tokens(x)[:, :9])[0], a=nn.LSTM(3, 4, batch_first=True))),
    "GRU": (9 * 3 * 4 * (3 + 4), Lambda(lambda net, x: net.a(tokens(x)[:, :9])[0], a=nn.GRU(3, 4, batch_first=True))),
    "twice": (2 * 9 * 256, Lambda(lambda net, x: net.a(net.a.forward(x)), a=nn.Conv2d(3, 3, 1))),
    "values decide": (24 * 256, Lambda(lambda net, x: net.a(x) if x.sum().item() > 0 else x, a=nn.Conv2d(3, 8, 1))),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_multiply_adds_of_layers_however_they_are_called(layer: str) -> None:
    macs, net = LAYERS[layer]
    assert cost(net, SIZE).macs == macs


UNKNOWN = {
    "_trilinear": Lambda(lambda net, x: net.a(x.mean((2, 3)), x.mean((2, 3))), a=nn.Bilinear(3, 3, 5)),
    "_fft_c2c": Lambda(lambda net, x: torch.fft.fft2(x).real),
    "deform_conv2d": Lambda(lambda net, x: deform_conv2d(x, x.new_zeros(1, 18, 14, 14), net.weight)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_operators_that_multiply_nobody_knows_how_much_are_named(name: str) -> None:
    with pytest.warns(UserWarning, match=rf"cost: how much \w+\.{name}\.default multiplies is not known"):
        cost(UNKNOWN[name], SIZE)


class Called(nn.Module):
    """Its stages and its gate are called by their forward, or not at all."""

    def __init__(self, inlined: bool) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False))
        self.layer2 = nn.ModuleList([nn.Conv2d(4, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)])
        self.se = SEBlock(8, 2)
        self.inlined = inlined

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1.forward(x)
        for part in self.layer2:
            x = part.forward(x)
        if self.inlined:
            return x * self.se.fc2(self.se.fc1(x.mean((2, 3), keepdim=True)))
        return self.se.forward(x)


def test_parts_that_are_called_by_their_forward_are_counted_where_they_are() -> None:
    found = cost(Called(inlined=False), SIZE)
    assert {stage: part.macs for stage, part in found.stages.items()} == {2: 12 * 256, 3: (32 + 64) * 256}
    assert (found.se_params, found.se_macs) == (64, 64 + 2 * 8 * 256)


def test_gates_whose_layers_are_called_from_outside_are_counted_as_others() -> None:
    one, two = cost(Called(inlined=True), SIZE), cost(Called(inlined=False), SIZE)
    assert (one.se_params, one.se_macs, one.backbone_macs) == (two.se_params, two.se_macs, two.backbone_macs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_scripted_stages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^cost: the network is scripted and does not say"):
        cost(torch.jit.script(small()), SIZE)


def test_se_of_timm_is_se() -> None:
    found = [cost(net, (3, 64, 64)) for net in (timm.create_model("seresnet18"), build("seresnet18"))]
    assert [(each.params, each.se_params, each.macs, each.se_macs) for each in found] == [
        (11_779_624, 90_112, found[1].macs, found[1].se_macs)
    ] * 2


@pytest.mark.parametrize("size", [(3, 0, 0), (3, -1, 8), (0, 8, 8), ()])
def test_an_image_without_pixels_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^cost: an image of size .* has no pixels$"):
        cost(small(), size)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_no_classes_cost_nothing() -> None:
    assert cost(create("resnet8", SE(4), 10), SIZE).macs - cost(create("resnet8", SE(4), 0), SIZE).macs == 640


def test_cost_leaves_a_network_as_it_is_that_cannot_be_copied() -> None:
    net = Lambda(lambda net, x: setattr(net, "latest", x) or net.a(x), a=nn.Conv2d(3, 8, 1))  # type: ignore[func-returns-value]
    net.lock = threading.Lock()
    before = {name: (module.training, dict(vars(module))) for name, module in net.named_modules()}
    assert cost(net, SIZE).macs == 24 * 256
    assert {name: (module.training, dict(vars(module))) for name, module in net.named_modules()} == before


# ---------------------------------------------------------------------------------------------------------------------
# Weights in the layouts that training scripts leave them in, and which of them were taken.


def state(seed: int = 1) -> dict[str, Tensor]:
    return dict(create("resnet8", None, 5, seed=seed).state_dict())


def prefixed(prefix: str, seed: int = 1) -> dict[str, Tensor]:
    return {f"{prefix}{key}": tensor for key, tensor in state(seed).items()}


LAYOUTS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "bare": (state, ""),
    "DDP, compiled": (lambda: prefixed("module._orig_mod."), ""),
    "compiled, DDP, Lightning": (lambda: {"state_dict": prefixed("model._orig_mod.module."), "epoch": 3}, "state_dict"),
    "AveragedModel": (lambda: {"n_averaged": torch.tensor(3)} | prefixed("module."), ""),
    "timm": (lambda: {"arch": "x", "args": argparse.Namespace(lr=0.1), "state_dict": state()}, "state_dict"),
    "torchvision": (
        lambda: {"model": state(), "model_ema": {"n_averaged": torch.tensor(3)} | prefixed("module.", 2), "epoch": 3},
        "model",
    ),
    "wrapped twice": (lambda: {"model": {"state_dict": state()}, "optimizer": {"state": {}}}, "model.state_dict"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_usual_layouts_of_checkpoints_are_read(layout: str, tmp_path: Path) -> None:
    make, entry = LAYOUTS[layout]
    torch.save(make(), tmp_path / "file.pth")
    for given in (make(), tmp_path / "file.pth"):
        net = create("resnet8", None, 5, seed=0)
        assert load_weights(net, given) == entry
        torch.testing.assert_close(dict(net.state_dict()), state())


@pytest.mark.parametrize(
    ("entry", "averaged"),
    [
        ("state_dict_ema", state),
        ("model_ema", lambda: {"n_averaged": torch.tensor(3)} | prefixed("module.")),
        ("ema.module", state),
        ("", lambda: {"n_averaged": torch.tensor(3)} | prefixed("module.")),
    ],
)
def test_averaged_weights_are_taken_where_they_are_asked_for(entry: str, averaged: Callable[[], Any]) -> None:
    given = averaged()
    for name in reversed(entry.split(".") if entry else []):
        given = {name: given}
    net = create("resnet8", None, 5, seed=0)
    assert load_weights(net, given | ({"state_dict": state(2)} if entry else {}), averaged=True) == entry
    torch.testing.assert_close(dict(net.state_dict()), state())


@pytest.mark.parametrize(
    ("given", "averaged", "words"),
    [
        ({"state_dict": state()}, True, "has no averaged weights, but state_dict$"),
        (state(), True, "has no averaged weights, but one state dict$"),
        ({"state_dict_ema": state()}, False, "has no weights that are not averaged, but state_dict_ema$"),
        ({"a": state(), "b": state()}, False, "has several weights that are not averaged, a, b: give one$"),
        ({"epoch": 3}, False, "is no state dict"),
    ],
)
def test_weights_that_are_not_there_or_not_told_apart_are_refused(
    given: dict[str, Any], averaged: bool, words: str
) -> None:
    with pytest.raises(ValueError, match=f"^weights: what was given {words}"):
        load_weights(create("resnet8", None, 5), given, averaged=averaged)


class Head(nn.Module):
    """Its classifier is a convolution, or stands before other layers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(8, classes, 1)
        self.stem, self.attention = nn.Conv2d(3, 8, 3), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x * self.attention(x.mean((2, 3)))[:, :, None, None]).mean((2, 3))


@pytest.mark.parametrize(("classes", "classifier"), [(5, False), (7, False), (7, "head")])
def test_the_classifier_that_is_left_out_is_the_layer_that_classifies(classes: int, classifier: bool | str) -> None:
    net, other = Head(5), Head(classes)
    head = net.head.weight.clone()
    load_weights(net, other.state_dict(), classifier=classifier)
    assert torch.equal(net.head.weight, head)
    assert torch.equal(net.attention.weight, other.attention.weight)


def test_a_classifier_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^weights: the network has no layer fc9 to leave out$"):
        load_weights(Head(5), Head(5).state_dict(), classifier="fc9")


def test_the_layer_that_classifies_is_that_of_before_in_every_network() -> None:
    for name in BACKBONES:
        with torch.device("meta"):
            net = create(name, None, 5)
        own = net.state_dict()
        assert head_of(net, {key: key for key in own}, own) == classifier_of(net)[0], name


def test_what_a_gate_stands_before_is_no_part_of_it() -> None:
    """The 1×1 convolution that the gate of position conv3x3 is wrapped with."""
    net = create("resnet50", SE(position="conv3x3"))
    assert cost(net, (3, 32, 32)).se_params == 157_184
