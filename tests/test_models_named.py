"""Gates after modules that the user names, in networks of any kind."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from test_models_se import reference
from test_models_structure import Functional, conv
from torch import Tensor, nn

from senet_lab import add_se
from senet_lab.models import cost
from senet_lab.models.gated import Gated, Inserted
from senet_lab.models.gates import SEBlock
from senet_lab.models.module_paths import fits


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def lenet() -> nn.Module:
    """Takes images of 32 pixels only."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 5),
            act1=nn.Tanh(),
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            act2=nn.Sequential(nn.Tanh(), nn.AvgPool2d(2)),
            flat=nn.Flatten(),
            fc=nn.Linear(400, 5),
        )
    )


def test_mobilenet_v2() -> None:
    """Seventeen inverted residuals, of which ten add; all seventeen get a gate after their last norm."""
    net = on_meta(torchvision.models.mobilenet_v2)
    done = add_se(net, where="features.*.conv")
    assert [gate.name for gate in add_se(on_meta(torchvision.models.mobilenet_v2))] == [gate.name for gate in done]
    widths = [16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    assert done == [
        Inserted(f"features.{number}.conv", "after", None, width, width // 16)
        for number, width in enumerate(widths, start=1)
    ]
    assert all(isinstance(net.get_submodule(gate.name), Gated) for gate in done)
    assert cost(net).se_params == sum(2 * width * (width // 16) for width in widths)


@pytest.mark.parametrize("where", ["act?", ["act1", "act2"], "act[12]", "**.act*"])
def test_the_gate_is_after_each_match(where: str | list[str]) -> None:
    net = lenet()
    plain = copy.deepcopy(net)
    assert add_se(net, where=where, reduction=2) == [
        Inserted("act1", "after", None, 6, 3),
        Inserted("act2", "after", None, 16, 8),
    ]
    x_BCHW = torch.randn(2, 1, 32, 32)
    y_BCHW = reference(plain.act1(plain.conv1(x_BCHW)), net.act1.se)
    y_BCHW = reference(plain.act2(plain.conv2(plain.pool1(y_BCHW))), net.act2.se)
    torch.testing.assert_close(net(x_BCHW), plain.fc(y_BCHW.flatten(1)))


@pytest.mark.parametrize(
    ("make", "where", "widths"),
    [
        (
            lambda: torchvision.models.vgg11(num_classes=5),
            "features.[1-9]",
            [64, 64, 128, 128, 128, 256, 256, 256, 256],
        ),
        (lambda: torchvision.models.densenet121(), "features.transition?.conv", [128, 256, 512]),
        (lambda: torchvision.models.googlenet(init_weights=False), "inception[35]?", [256, 480, 832, 1024]),
        (lambda: timm.create_model("convnext_atto"), "stages.*.blocks.1", [40, 80, 160, 320]),
        (lambda: timm.create_model("mobilenetv1_100"), "blocks.?.0.bn2", [64, 128, 256, 512, 1024]),
        (lambda: torchvision.models.resnet18(), "layer*.*.bn2", [64, 64, 128, 128, 256, 256, 512, 512]),
    ],
)
def test_widths_are_found_in_any_network(make: Callable[[], nn.Module], where: str, widths: list[int]) -> None:
    assert [gate.channels for gate in add_se(on_meta(make), where=where)] == widths


def test_naming_what_the_structure_finds_is_the_same_network_but_for_the_gates_numbers() -> None:
    found, named = (on_meta(lambda: torchvision.models.resnet18()) for _ in range(2))
    assert add_se(found) == add_se(named, where="layer*.*.bn2")
    assert str(found) == str(named)


def test_stages_that_the_network_tells_can_be_used() -> None:
    net = on_meta(torchvision.models.resnet18)
    done = add_se(net, where="layer*.*.bn2", reduction={2: 4, 5: 32}, stages=[5])
    assert [(gate.name, gate.hidden) for gate in done] == [("layer4.0.bn2", 16), ("layer4.1.bn2", 16)]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (
            "features.*.conv",
            ["features.1.conv"],
            ["features.conv", "features.1.2.conv", "features.1.conv.0", "features"],
        ),
        ("**.conv?", ["conv1", "a.b.conv2"], ["conv", "conv12", "conv1.a"]),
        ("a.**", ["a", "a.b", "a.b.c"], ["b.a", "ab"]),
        ("layer[!1].0", ["layer2.0"], ["layer1.0", "layer2.1"]),
        ("a.b", ["a.b"], ["a-b", "aab", "A.b"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    assert all(fits(path, pattern) for path in yes)
    assert not any(fits(path, pattern) for path in no)


class Swapped(nn.Module):
    """Channels last, as in some networks: the second axis is the height."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mlp = nn.Conv2d(3, 8, 1), nn.Sequential(nn.Linear(8, 8), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Unused(Functional):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Sequential(conv(8, 8))


def shared() -> nn.Module:
    one = conv(8, 8)
    return nn.Sequential(OrderedDict(a=conv(3, 8), b=one, c=one))


@pytest.mark.parametrize(
    ("make", "where", "design", "words"),
    [
        (lenet, "conv*.x", {}, ["where", "no module is called conv*.x", "in conv* there is nothing"]),
        (lenet, "features.*.conv", {}, ["no module is called features.*.conv", "there is conv1, act1, pool1"]),
        (lambda: torchvision.models.mobilenet_v2(), "features.*.convs", {}, ["in features.* there is 0, 1, 2, conv"]),
        (lenet, ["conv1", "nothing"], {}, ["no module is called nothing"]),
        (lenet, [], {}, ["[] is not a pattern"]),
        (lenet, "", {}, ["'' is not a pattern"]),
        (lenet, [1], {}, ["[1] is not a pattern"]),
        (lenet, ["act2", "act2.1"], {}, ["act2.1 is inside act2"]),
        (lenet, "flat", {}, ["flat gives 1 × ", "not images"]),
        (lenet, "fc", {}, ["224 × 224", "do not both reach fc", "nothing tells its channels"]),
        (Swapped, "mlp", {}, ["mlp gives 1 × 224 × 224 × 8, whose second axis is not its channels"]),
        (Unused, "spare", {}, ["do not both reach spare", "no part in what the network computes"]),
        (
            lambda: nn.ModuleDict({"a": nn.ModuleList([conv(3, 3)])}),
            "a",
            {},
            ["a is a ModuleList", "name what is in it"],
        ),
        (shared, "b", {}, ["b is in the model under another name, too"]),
        (lenet, "conv*", {"position": "pre"}, ["se.position", "no place for pre", "standard, after conv1"]),
        (lenet, "conv*", {"stages": [2]}, ["se.stages", "stage of conv1", "stage_roots"]),
        (lenet, "conv*", {"stages": "all_but_last"}, ["se.stages", "stage of conv1"]),
        (lenet, "conv*", {"reduction": {2: 4}}, ["se.reduction", "stage of conv1", "one reduction for all"]),
        (lenet, "conv*", {"reduction": 0}, ["se.reduction", "0 is not a whole number"]),
    ],
)
def test_mistakes_are_named_and_change_nothing(
    make: Callable[[], nn.Module], where: str | list[str], design: dict[str, object], words: list[str]
) -> None:
    net = on_meta(make)
    before = str(net)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are compared below
        add_se(net, design, where=where)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert str(net) == before


def test_no_stages_and_no_design_leave_it_plain() -> None:
    for design in (None, {"stages": []}):
        net = lenet()
        assert add_se(net, design, where="conv*") == []
        assert not any(isinstance(module, SEBlock) for module in net.modules())
