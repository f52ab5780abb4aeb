"""What users of this and of other tools have met: short cuts of evaluation, cost, weights, scripts. One kind each."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from senet_lab import SE
from senet_lab.models import create, folding, fuse
from senet_lab.models.folding import folded
from senet_lab.models.gated import Gated
from senet_lab.models.se import EXCITATIONS, FROM_ONE, SQUEEZES, SEBlock

# ---------------------------------------------------------------------------------------------------------------------
# Whatever replaces, wraps or listens to a module is not passed by: no short cut is taken there.


def small(fused: bool = False) -> nn.Module:
    net = create("resnet8", SE(4, bias=True), 5, seed=0).eval()
    if fused:
        fuse(net, "reference")
    return net


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
    """The output with gradients, which no norm in evaluation has a short cut for, of a network that is not fused."""
    assert not any("Fused" in type(module).__name__ for module in net.modules())
    y_BK: Tensor = net(x_BCHW)
    return y_BK.detach()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_a_forward_that_was_replaced_runs(part: str, fused: bool) -> None:
    """Of one module, as accelerate does, whose weights are there only while its own forward runs."""
    net, plain = small(fused), small()
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


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (nn.BatchNorm2d, "forward"),
        (nn.Conv2d, "forward"),
        (nn.Conv2d, "_conv_forward"),
        (SEBlock, "forward"),
        (SEBlock, "gate"),
        (SEBlock, "excite"),
    ],
)
def test_a_method_that_was_replaced_in_its_class_runs(
    kind: type[nn.Module], method: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, plain = small(fused), small()
    monkeypatch.setattr(kind, method, doubled(getattr(kind, method)))
    with torch.no_grad():
        torch.testing.assert_close(net(images()), one_by_one(plain, images()))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", ["gate", "excite", "sigma", "pool"])
def test_a_method_that_was_replaced_in_a_block_runs(method: str, fused: bool) -> None:
    net, plain = small(fused), small()
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


def test_hooks_for_all_modules_hear_those_of_fused_blocks() -> None:
    net, heard = small(fused=True), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: heard.append(module))
    try:
        net(images())
    finally:
        handle.remove()
    assert all(heard.count(module) == 1 for module in net.modules() if not isinstance(module, nn.ReLU))


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
@pytest.mark.parametrize("fused", [False, True])
def test_no_images_give_no_outputs(fused: bool, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "PAYS", 0)
    for squeeze in SQUEEZES:
        net = create("resnet8", SE(4, squeeze), 5, seed=0).train(training)
        if fused:
            fuse(net, "reference")
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


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_fused_blocks_can_be_scripted() -> None:
    net = small(fused=True)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(net)(images()), net(images()))
