"""Shake-Shake networks: their sizes, their blocks written out once more, and what is random about them."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_models_insert import Gates, norm, on_meta
from test_models_se import reference
from torch import Tensor, nn

from senet_lab.config import SE
from senet_lab.models import add_se, create
from senet_lab.models.gates import SEBlock
from senet_lab.models.shake import Branches, ShakeBlock, ShiftShortcut, shake26, shake_basic, shake_bottleneck
from senet_lab.models.slots import POSITIONS, SHAKE

BLOCKS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "basic": shake_basic,
    "bottleneck": lambda i, o, s: shake_bottleneck(4, i, o, s),
}
KINDS = pytest.mark.parametrize("kind", BLOCKS)
STRIDES = pytest.mark.parametrize("stride", [1, 2])


def params(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def block_of(kind: str, stride: int) -> nn.Module:
    """A block as a network, in double precision, its norms with parameters and statistics of their own."""
    torch.manual_seed(3)
    block = BLOCKS[kind](16, 16, 1) if stride == 1 else BLOCKS[kind](8, 16, 2)
    model = nn.Sequential(OrderedDict(layer1=nn.Sequential(block))).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data = torch.rand(tensor.shape, dtype=torch.float64) + 0.5
    return model


def images_for(stride: int, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 16 if stride == 1 else 8, 6, 6, generator=generator, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------------------
# Size


@pytest.mark.parametrize("classes", [10, 100])
def test_weights_of_26_2x96d(classes: int) -> None:
    """Four blocks a stage, two branches of two 3×3 convolutions, three projections; 26.2 M in print."""
    total, before = 27 * 16 + 2 * 16, 16
    for o in (96, 192, 384):
        total += 2 * (9 * before * o + 9 * o * o + 4 * o) + (before * o + 2 * o) + 3 * 2 * (18 * o * o + 4 * o)
        before = o
    with torch.device("meta"):
        net = create("shake26_2x96d", None, classes)
    assert params(net) == total + 385 * classes
    assert classes != 10 or round(params(net) / 1e6, 1) == 26.2


@pytest.mark.parametrize("classes", [10, 100])
def test_weights_of_29_2x4x64d(classes: int) -> None:
    """ResNeXt-29 8×64d (34,426,698 weights for ten classes), its eight groups divided over two branches, each of which
    has a last norm of its own."""
    second_norms = 3 * 2 * (256 + 512 + 1024)
    with torch.device("meta"):
        net = create("shake29_2x4x64d", None, classes)
    assert params(net) == 34_426_698 + second_norms + 1025 * (classes - 10)
    assert classes != 10 or round(params(net) / 1e6, 1) == 34.4


@pytest.mark.parametrize(("name", "depth", "gates"), [("shake26_2x96d", 26, 12), ("shake29_2x4x64d", 29, 9)])
def test_depth_and_gates(name: str, depth: int, gates: int) -> None:
    """The depth counts the convolutions on one way through, without projections, and the classifier."""
    net = on_meta(name)
    convolutions = [
        path
        for path, module in net.named_modules()
        if isinstance(module, nn.Conv2d) and "downsample" not in path and "branch2" not in path
    ]
    assert len(convolutions) + 1 == depth
    done = add_se(net)
    assert next(record.name for record in done if record.stage == 3) == "layer2.0.branch"
    assert len(done) == gates
    assert sorted({(record.stage, record.channels) for record in done}) == [
        (stage, width)
        for stage, width in zip((2, 3, 4), (96, 192, 384) if depth == 26 else (256, 512, 1024), strict=True)
    ]


@pytest.mark.parametrize("name", ["shake26_2x96d", "shake29_2x4x64d"])
@pytest.mark.parametrize("size", [8, 32])
def test_small_and_large_images(name: str, size: int) -> None:
    with torch.device("meta"):
        net = create(name, SE(), 7, in_channels=1)
        assert net(torch.empty(2, 1, size, size)).shape == (2, 7)


# ---------------------------------------------------------------------------------------------------------------------
# The blocks, written out


def path(x: Tensor, w: dict[str, Tensor], name: str, kind: str, stride: int) -> Tensor:
    if kind == "basic":
        y = F.relu(norm(F.conv2d(F.relu(x), w[f"{name}.0.weight"], stride=stride, padding=1), w, f"{name}.1"))
        return norm(F.conv2d(y, w[f"{name}.3.weight"], padding=1), w, f"{name}.4")
    y = F.relu(norm(F.conv2d(x, w[f"{name}.0.weight"]), w, f"{name}.1"))
    groups = zip(y.chunk(4, 1), w[f"{name}.3.weight"].chunk(4), strict=True)
    y = torch.cat([F.conv2d(part, weight, stride=stride, padding=1) for part, weight in groups], 1)
    y = F.relu(norm(y, w, f"{name}.4"))
    return norm(F.conv2d(y, w[f"{name}.6.weight"]), w, f"{name}.7")


def shortcut(x: Tensor, w: dict[str, Tensor], kind: str, stride: int) -> Tensor:
    if stride == 1:
        return x
    if kind == "bottleneck":
        return norm(F.conv2d(x, w["downsample.0.weight"], stride=2), w, "downsample.1")
    a = F.relu(x)
    neighbours = torch.zeros_like(a)
    neighbours[:, :, 1:, 1:] = a[:, :, :-1, :-1]
    ways = [
        F.conv2d(F.avg_pool2d(a, 1, 2), w["downsample.conv1.weight"]),
        F.conv2d(F.avg_pool2d(neighbours, 1, 2), w["downsample.conv2.weight"]),
    ]
    return norm(torch.cat(ways, 1), w, "downsample.bn")


@KINDS
@STRIDES
@pytest.mark.parametrize("position", SHAKE)
def test_a_gated_block_in_evaluation(kind: str, stride: int, position: str) -> None:
    """Both branches count one half; standard gates their mix, before the sum (section 3.3)."""
    model, x = block_of(kind, stride).eval(), images_for(stride)
    w = {name.removeprefix("layer1.0."): weight for name, weight in model.state_dict().items()}
    add_se(model, SE(4, position=position))
    (se,) = (module for module in model.modules() if isinstance(module, SEBlock))
    g: Gates = dict.fromkeys(POSITIONS, lambda t: t)
    g[position] = lambda t: reference(t, se)
    mixed = (
        path(g["pre"](x), w, "branch.branch1", kind, stride) + path(g["pre"](x), w, "branch.branch2", kind, stride)
    ) / 2
    total = g["standard"](mixed) + g["identity"](shortcut(x, w, kind, stride))
    expected = g["post"](F.relu(total) if kind == "bottleneck" else total)
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


@KINDS
def test_there_is_no_place_after_a_3x3(kind: str) -> None:
    with pytest.raises(ValueError, match=r"^se.position: .* no place for conv3x3; .* standard, pre, post, identity$"):
        add_se(block_of(kind, 1), position="conv3x3")


def test_the_halves_of_a_shortcut_see_different_pixels() -> None:
    """Even rows and columns by one way, odd ones by the other; the odd pixels' neighbour is up and to the left."""
    seen = []
    for half in (0, 1):
        way = ShiftShortcut(1, 2, 2).eval()
        for conv in (way.conv1, way.conv2):
            nn.init.ones_(conv.weight)
        pixels = torch.eye(36).reshape(36, 1, 6, 6)
        seen.append({divmod(i, 6) for i in range(36) if way(pixels)[i, half].any()})
    assert seen[0] == {(y, x) for y in (0, 2, 4) for x in (0, 2, 4)}
    assert seen[1] == {(y, x) for y in (1, 3) for x in (1, 3)}


# ---------------------------------------------------------------------------------------------------------------------
# What is random


class Given(nn.Module):
    """A branch that gives a constant."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        self.out = torch.full_like(x, self.value).requires_grad_()
        return self.out


def shares(backward: str, count: int = 4000) -> tuple[Tensor, Tensor]:
    """The first branch's share of each image's output and of its gradient, read off from branches that give 1 and 0."""
    one, two = Given(1.0), Given(0.0)
    mix = Branches(2, 2, nn.Identity(), one, two, backward)
    y = mix(torch.zeros(count, 2, 3, 3))
    gradient = torch.randn(count, 2, 3, 3)
    y.backward(gradient)
    beta = one.out.grad / gradient
    torch.testing.assert_close(one.out.grad + two.out.grad, gradient)  # nothing is lost
    for share in (y, beta):
        assert (share - share[:, :1, :1, :1]).abs().max() < 1e-5  # one number an image
    return y[:, 0, 0, 0].detach(), beta[:, 0, 0, 0]


def test_shares_are_uniform_and_those_of_the_gradient_are_others() -> None:
    torch.manual_seed(0)
    alpha, beta = shares("shake")
    for share in (alpha, beta):
        assert 0 <= share.min() < 0.01
        assert 0.99 < share.max() <= 1
        assert abs(share.mean() - 1 / 2) < 5 * (1 / 12 / 4000) ** 0.5
        assert abs(share.var() - 1 / 12) < 5 * (1 / 180 / 4000) ** 0.5
    assert abs(torch.corrcoef(torch.stack([alpha, beta]))[0, 1]) < 5 / 4000**0.5


def test_even_shares_the_gradient_in_halves() -> None:
    torch.manual_seed(0)
    alpha, beta = shares("even")
    assert alpha.var() > 0.07
    torch.testing.assert_close(beta, torch.full_like(beta, 0.5))


@pytest.mark.parametrize(("name", "even"), [("shake26_2x96d", False), ("shake29_2x4x64d", True)])
def test_gradients_are_shared_as_the_names_say(name: str, even: bool) -> None:
    """S-S-I at random, S-E-I in halves (Gastaldi 2017), in every block: by the gradients of both branches' outputs."""
    torch.manual_seed(0)
    for block in (module for module in on_meta(name).modules() if isinstance(module, ShakeBlock)):
        one, two = Given(), Given()
        block.branch.branch1, block.branch.branch2, block.branch.first = one, two, nn.Identity()
        block.branch(torch.zeros(64, 2, 1, 1)).sum().backward()
        halves = torch.full_like(one.out.grad, 0.5)
        torch.testing.assert_close(one.out.grad + two.out.grad, 2 * halves)
        assert torch.equal(one.out.grad, halves) == even
        assert even or one.out.grad.unique().numel() == 64


def step(net: nn.Module, x: Tensor, seed: int) -> dict[str, Tensor]:
    """All that a forward and a backward pass leave behind, under the plain network's names."""
    torch.manual_seed(seed)
    net.zero_grad()
    x = x.clone().requires_grad_()
    out = net(x)
    out.square().sum().backward()
    left = {f"{name}.grad": w.grad.clone() for name, w in net.named_parameters() if ".se." not in name}
    left |= {name: buffer.clone() for name, buffer in net.named_buffers()}
    return {"out": out, "x.grad": x.grad} | {name.replace(".body", ""): t for name, t in left.items()}


def same(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


@KINDS
def test_the_global_generator_decides_and_copies_are_the_same(kind: str) -> None:
    net, x = block_of(kind, 2), images_for(2)
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net)), copy.deepcopy(net)]
    first = step(net, x, 1)
    assert same(first, step(copies[0], x, 1))
    assert same(first, step(copies[1], x, 1))
    assert not torch.equal(first["out"], step(copies[2], x, 2)["out"])


@KINDS
@STRIDES
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("position", SHAKE)
def test_with_gates_at_one_the_block_is_the_plain_one_bit_for_bit(
    kind: str, stride: int, training: bool, position: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, x = block_of(kind, stride).train(training), images_for(stride)
    gated = copy.deepcopy(plain)
    add_se(gated, SE(position=position))
    monkeypatch.setattr(SEBlock, "gate", lambda se, t: torch.ones_like(t[:, :, :1, :1]))
    assert same(step(plain, x, 5), step(gated, x, 5))


@KINDS
def test_in_mixed_precision_the_numbers_are_the_same(kind: str) -> None:
    net, x = block_of(kind, 2).float(), images_for(2).float()
    whole = step(copy.deepcopy(net), x, 1)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = step(net, x, 1)
    difference = (mixed["out"].float() - whole["out"]).norm() / whole["out"].norm()
    assert 0 < difference < 0.03


def test_export_in_evaluation() -> None:
    net = shake26(4, 3).eval()
    add_se(net, SE(2))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), net(x))
