"""Weights of timm and torchvision in our networks and back: outputs are theirs, and what does not fit is refused."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import resnet18

from senet_lab import SE
from senet_lab.models import BACKBONES, create, load_weights, pretrained, timm_state_dict
from senet_lab.models.weights import LIBRARIES, SOURCES, classifier_of, head_of

IMAGE = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def shallow(names: Iterable[str]) -> list[str]:
    """Without networks of a hundred layers and more, of 34, and of groups, which are made of the same blocks."""
    return [name for name in names if not re.search(r"1\d\d|34|resnext", name)]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The libraries draw convolutions from the global generator, whose state is whatever other tests have left."""
    torch.manual_seed(0)


def drawn(net: nn.Module, seed: int = 0) -> nn.Module:
    """With norms, their statistics and all biases drawn too, in float64, for evaluation. The values fit float32."""
    dice = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6, generator=dice)
            nn.init.uniform_(module.running_mean, -0.5, 0.5, generator=dice)
            nn.init.uniform_(module.running_var, 0.5, 2.0, generator=dice)
        if getattr(module, "bias", None) is not None:
            nn.init.uniform_(module.bias, -0.5, 0.5, generator=dice)
    return net.double().eval()


@torch.no_grad()
def gap(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of their outputs, on the scale of the outputs."""
    y_BK, z_BK = one(IMAGE), other(IMAGE)
    assert y_BK.isfinite().all()
    assert y_BK.std() > 0.1  # there is something to differ
    return ((y_BK - z_BK).abs().max() / y_BK.abs().max().clamp(max=1)).item()


def norms(net: nn.Module) -> list[tuple[float, float | None]]:
    return [(module.eps, module.momentum) for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


# ---------------------------------------------------------------------------------------------------------------------
# There and back.


@pytest.mark.parametrize("name", shallow(SOURCES))
def test_ours_computes_what_timms_does_and_timms_what_ours_does(name: str) -> None:
    theirs = drawn(timm.create_model(name, num_classes=5))
    ours = pretrained(name, theirs.state_dict(), num_classes=5).double().eval()
    assert gap(ours, theirs) < 1e-5
    assert norms(ours) == norms(theirs)
    with torch.no_grad():
        for tensor in [*ours.parameters(), *ours.buffers()]:
            tensor.copy_(tensor * 1.03)  # whole numbers stay
    assert gap(ours, theirs) > 1e-3
    theirs.load_state_dict(timm_state_dict(ours, name))
    assert gap(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", shallow(LIBRARIES["torchvision"]))
def test_ours_computes_what_torchvisions_does(name: str) -> None:
    theirs = drawn(torchvision.models.get_model(name, num_classes=5))
    assert gap(pretrained(name, theirs.state_dict(), num_classes=5).double().eval(), theirs) < 1e-5


def test_a_network_without_biases_gets_timms_as_zeros() -> None:
    ours = drawn(create("resnet50", SE(), 5, stride="torchvision", seed=0))
    theirs = timm.create_model("seresnet50", num_classes=5).double().eval()
    theirs.load_state_dict(timm_state_dict(ours, "seresnet50"))
    assert gap(ours, theirs) < 1e-5
    assert not theirs.layer4[2].se.fc2.bias.any()


# ---------------------------------------------------------------------------------------------------------------------
# Each thing that the released models need is needed.


def test_released_bottlenecks_need_the_papers_stride_and_caffes_pool() -> None:
    theirs = drawn(timm.create_model("legacy_seresnet50", num_classes=5))
    for stride, pool in [("paper", "ceil"), ("paper", "padded"), ("torchvision", "ceil")]:
        ours = create("resnet50", SE(bias=True), 5, stride=stride, pool=pool).double().eval()
        load_weights(ours, theirs.state_dict())
        assert (gap(ours, theirs) < 1e-5) == ((stride, pool) == ("paper", "ceil")), (stride, pool)


def test_released_basic_blocks_need_a_relu_before_the_gate() -> None:
    theirs = drawn(timm.create_model("legacy_seresnet18", num_classes=5))
    ours = create("resnet18", SE(bias=True), 5, pool="ceil").double().eval()
    load_weights(ours, theirs.state_dict())
    assert gap(ours, theirs) > 1e-3
    with pytest.raises(
        ValueError, match=r"not timm's legacy_seresnet18: layer1.0.bn2.body is BatchNorm2d\(.*, not Batc"
    ):
        timm_state_dict(ours, "legacy_seresnet18")


@pytest.mark.parametrize(
    ("net", "name", "words"),
    [
        (("resnet50", {"bias": True}), "seresnet50", ["layer2.0.conv1 is Conv2d(256, 128", "stride=(2, 2)"]),
        (("resnet50", {}), "legacy_seresnet50", ["maxpool is MaxPool2d", "padding=1", "ceil_mode=True"]),
        (("resnet18", {}), "seresnet18", ["layer1.0.bn2.se is SEBlock(64, hidden=4", "not SEBlock(64, hidden=8"]),
        (("resnet18", {"position": "post"}), "seresnet18", ["layer1.0 is Gated(side=after), not BasicBlock()"]),
        (("resnet18", None), "seresnet18", ["layer1.0.bn2 is BatchNorm2d", "not Gated"]),
        (("resnet8", {}), "resnet18", ["it is Sequential(), not ResNet()"]),
        (("resnet8", {}), "resnet19", ["'resnet19' is not one of resnet18, resnet34"]),
    ],
)
def test_what_timm_does_not_compute_is_not_written_under_its_names(net: tuple, name: str, words: list[str]) -> None:
    with torch.device("meta"):
        ours = create(*net)
    with pytest.raises(ValueError, match=r"^weights: ") as error:
        timm_state_dict(ours, name)
    for word in words:
        assert word in str(error.value)


def test_excitation_that_timm_lacks_is_refused() -> None:
    with torch.device("meta"):
        ours = create("resnet50", SE(excitation="tanh", bias=True), stride="torchvision")
    with pytest.raises(ValueError, match=r"layer1\.0\.bn3\.se is SEBlock.*tanh.*, not SEBlock.*sigmoid"):
        timm_state_dict(ours, "seresnet50")


# ---------------------------------------------------------------------------------------------------------------------
# State dicts and files.


def same(net: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items())


def two(se: object = None, num_classes: int = 5) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network, and the weights of another like it."""
    return create("resnet18", se, 5, seed=0), dict(create("resnet18", se, num_classes, seed=1).state_dict())


@pytest.mark.parametrize("position", ["standard", "pre", "post", "identity", "conv3x3"])
def test_our_own_keys_are_known_at_every_position(position: str) -> None:
    net, state = two(SE(position=position))
    load_weights(net, state)
    assert same(net, state)


def test_files_and_checkpoints_are_read(tmp_path: Path) -> None:
    _, state = two(SE())
    torch.save(state, tmp_path / "state.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {f"net.{key}": tensor for key, tensor in state.items()}, "epoch": 3}, tmp_path / "a.ckpt")
    safetensors.torch.save_file(state, tmp_path / "state.safetensors")
    for name in ("state.pth", "old.pth", "a.ckpt", "state.safetensors"):
        net, _ = two(SE())
        load_weights(net, tmp_path / name)
        assert same(net, state), name
        load_weights(net, str(tmp_path / name))


def test_old_files_that_count_no_batches_are_read() -> None:
    net, state = two()
    load_weights(net, {key: tensor for key, tensor in state.items() if "num_batches" not in key})
    assert same(net, state)


def test_a_classifier_of_other_classes_is_left_out_on_request() -> None:
    net, state = two(SE(), num_classes=7)
    head = net.fc.weight.clone()
    load_weights(net, state, classifier=False)
    assert torch.equal(net.fc.weight, head)
    assert torch.equal(net.layer4[1].bn2.se.fc1.weight, state["layer4.1.bn2.se.fc1.weight"])
    del state["fc.weight"], state["fc.bias"]
    load_weights(net, state, classifier=False)
    assert torch.equal(net.fc.weight, head)

    theirs = timm.create_model("legacy_seresnet18", num_classes=7).state_dict()
    assert pretrained("legacy_seresnet18", theirs, num_classes=5, classifier=False).fc.out_features == 5
    one, other = (pretrained("legacy_seresnet18", theirs, num_classes=5, classifier=False, seed=3) for _ in range(2))
    assert torch.equal(one.fc.weight, other.fc.weight)


def test_libraries_fetch_their_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From their cache, where files of their names lie already: nothing is downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub/checkpoints"
    cache.mkdir(parents=True)
    released, plain = timm.create_model("legacy_seresnet18").state_dict(), resnet18().state_dict()
    torch.save(released, cache / "seresnet18-4bb0ce65.pth")
    torch.save(plain, cache / "resnet18-f37072fd.pth")
    for name in ("legacy_seresnet18", "legacy_seresnet18.in1k"):
        assert torch.equal(pretrained(name).layer1[0].bn2.se.fc1.weight, released["layer1.0.se_module.fc1.weight"])
    assert same(pretrained("resnet18", library="torchvision"), plain)


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes.


def refusal(net: nn.Module, weights: object, **options: bool) -> str:
    """The line that refuses the weights; the network is as before."""
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"^weights: [^\n]*$") as error:
        load_weights(net, weights, **options)
    assert same(net, before)
    return str(error.value)


def test_keys_and_shapes_that_do_not_fit_are_counted_and_named() -> None:
    net, state = two(num_classes=7)
    del state["layer1.0.conv1.weight"]
    state |= {"layer5.weight": torch.ones(1), "layer6.weight": torch.ones(1), "layer7.weight": torch.ones(1)}
    assert refusal(net, state) == (
        "weights: they do not fit the network: 1 missing: layer1.0.conv1.weight; "
        "3 left over: layer5.weight, layer6.weight, …; "
        "2 of another shape: fc.bias ((7,) for (5,)), fc.weight ((7, 512) for (5, 512))"
    )


def test_weights_for_other_gates_are_refused() -> None:
    theirs = timm.create_model("seresnet18", num_classes=5).state_dict()
    free = create("resnet18", SE({2: 8, 3: 16, 4: 16, 5: 16}), 5)
    assert "16 left over: layer1.0.se.fc1.bias, layer1.0.se.fc2.bias, …" in refusal(free, theirs)
    exact = create("resnet18", SE(bias=True), 5)
    assert "layer1.0.se.fc1.bias ((8,) for (4,))" in refusal(exact, theirs)
    for position in ("pre", "post", "identity", "conv3x3"):
        elsewhere = create("resnet18", SE({2: 8, 3: 16, 4: 16, 5: 16}, position=position, bias=True), 5)
        assert "missing" in refusal(elsewhere, theirs), position
    assert "32 left over" in refusal(create("resnet18", None, 5), theirs)


class Code:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return Path.touch, (self.victim,)


def test_what_is_no_file_of_weights_is_refused_and_never_executed(tmp_path: Path) -> None:
    net, state = two()
    assert "there is no file" in refusal(net, tmp_path / "none.pth")
    assert "there is no file" in refusal(net, tmp_path)
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "empty.pth").touch()
    torch.save({**state, "code": Code(tmp_path / "executed")}, tmp_path / "code.pth")
    for name in ("text.pth", "text.safetensors", "empty.pth", "code.pth"):
        assert f"{name} is no file of weights" in refusal(net, tmp_path / name)
    assert not (tmp_path / "executed").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"state_dict": {}}, tmp_path / "nothing.pth")
    for name in ("list.pth", "nothing.pth"):
        assert f"{name} is no state dict" in refusal(net, tmp_path / name)
    assert "what was given is no state dict" in refusal(net, {"conv1.weight": 3})


def test_a_network_without_a_classifier_is_named() -> None:
    assert "has no layer to classify with" in refusal(nn.BatchNorm2d(1), {"weight": torch.ones(1)}, classifier=False)


@pytest.mark.parametrize(
    ("name", "library", "words"),
    [
        ("resnet19", "timm", ["weights: 'resnet19' is not one of resnet18,", "legacy_senet154"]),
        ("seresnet50", "torchvision", ["weights: 'seresnet50' is not one of resnet18,"]),
        ("resnet50", "keras", ["library: 'keras' is not one of timm, torchvision"]),
        ("seresnet18", "timm", ["weights: timm has no weights for seresnet18; give a file of them"]),
        (
            "seresnet50.none_such",
            "timm",
            ["weights: timm:seresnet50 has no weights 'none_such'; there are a1_in1k, a2_in1k, a3_in1k, ra2_in1k"],
        ),
    ],
)
def test_names_without_weights_are_refused(name: str, library: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^(weights|library): ") as error:
        pretrained(name, library=library)
    for word in words:
        assert word in str(error.value)


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
