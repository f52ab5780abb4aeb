"""Norm and gate in one pass against the modules one by one, and when it is left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from senet_lab import SE
from senet_lab.models import create
from senet_lab.models.folding import can_fold, folded
from senet_lab.models.insert import Gated
from senet_lab.models.se import EXCITATIONS, FROM_ONE, SEBlock


def norm_of(channels: int, generator: torch.Generator) -> nn.BatchNorm2d:
    """A batch norm that was trained, so to speak, with channels that are negated or nearly off."""
    norm = nn.BatchNorm2d(channels, eps=1e-3).double().eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.copy_(torch.randn(channels, generator=generator, dtype=torch.float64))
    norm.running_var.square_().add_(1e-4)
    norm.weight.data[0] = 0
    return norm


@pytest.mark.parametrize("shape", [(1, 6, 5, 3), (3, 6, 1, 1), (4, 6, 7, 8)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("excitation", "from_one"), [(word, False) for word in EXCITATIONS] + [(word, True) for word in FROM_ONE]
)
def test_it_is_what_the_modules_compute_one_by_one(
    excitation: str, from_one: bool, bias: bool, shape: tuple[int, ...]
) -> None:
    g = torch.Generator().manual_seed(3)
    norm, se = norm_of(6, g), SEBlock(6, 2, "avg", excitation, bias, from_one, generator=g).double()
    for weight in se.parameters():
        weight.data.normal_(generator=g)
    x_BCHW = 3 + torch.randn(shape, generator=g, dtype=torch.float64)
    given = x_BCHW.clone()
    with torch.no_grad():
        assert can_fold(norm, se, x_BCHW)
        torch.testing.assert_close(folded(norm, se, x_BCHW), se(norm(x_BCHW)), rtol=1e-12, atol=1e-12)
    assert torch.equal(x_BCHW, given)


@pytest.mark.parametrize("images", [0, 1, 3])
def test_gates_of_one_leave_what_the_norm_gives_bit_for_bit(images: int) -> None:
    net = create("resnet8", None, 5, seed=1).eval()
    gated = create("resnet8", SE(4, identity_start=True), 5, seed=1).eval()
    x_BCHW = torch.randn(images, 3, 11, 9)
    with torch.no_grad():
        assert torch.equal(gated(x_BCHW), net(x_BCHW))


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the products that are as large as a map."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.mul.Tensor and args[0].ndim == 4
        return func(*args, **(kwargs or {}))


def products(net: nn.Module, x_BCHW: Tensor) -> int:
    with Products() as counted:
        net(x_BCHW)
    return counted.count


def heard(net: nn.Module) -> None:
    net.layer1[0].bn2.se.register_forward_pre_hook(lambda *call: None)


def heard_norm(net: nn.Module) -> None:
    net.layer1[0].bn2.body.register_forward_hook(lambda *call: None)


def replaced(net: nn.Module) -> None:
    net.layer1[0].bn2.se = nn.Softmax2d()


def training_norm(net: nn.Module) -> None:
    net.layer1[0].bn2.body.train()


def no_statistics(net: nn.Module) -> None:
    net.layer1[0].bn2.body = nn.BatchNorm2d(16, track_running_stats=False)


CHANGES: list[Callable[[nn.Module], None]] = [heard, heard_norm, replaced, training_norm, no_statistics]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_branch_that_is_watched_or_changed_runs_its_modules(change: Callable[[nn.Module], None]) -> None:
    net = create("resnet8", SE(4), 5, seed=1).eval()
    x_BCHW = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert products(net, x_BCHW) == 0
        change(net)
        assert products(copy.deepcopy(net), x_BCHW) == (0 if change is replaced else 1)
        again = copy.deepcopy(net)
        for module in again.modules():
            if isinstance(module, Gated):
                module.forward = lambda x_BCHW, module=module: module.se(module.body(x_BCHW))
        torch.testing.assert_close(copy.deepcopy(net)(x_BCHW), again(x_BCHW))


def test_it_is_left_alone_where_gradients_are_wanted_and_in_other_layouts_types_and_variants() -> None:
    net = create("resnet8", SE(4), 5, seed=1).eval()
    x_BCHW = torch.randn(2, 3, 8, 8)
    assert products(net, x_BCHW) == 3
    with torch.no_grad():
        assert products(net.to(memory_format=torch.channels_last), x_BCHW.to(memory_format=torch.channels_last)) == 3
        for design in (SE(4, squeeze="max"), SE(4, squeeze="none"), SE(4, position="pre"), SE(4, position="identity")):
            assert products(create("resnet8", design, 5).eval(), x_BCHW) == 3, design
        net = create("resnet8", SE(4), 5, seed=1).eval()
        with torch.autocast("cpu", torch.bfloat16):  # maps in half precision, norms in single
            assert products(net, x_BCHW) == 3


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*deprecated:FutureWarning")
def test_exported_networks_hold_norms_with_constant_weights() -> None:
    net = create("resnet8", SE(4), 5, seed=1).eval()
    x_BCHW = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        exported = torch.export.export(net, (x_BCHW,))
        traced = torch.jit.trace(net, x_BCHW, check_trace=False)
        norms = [node for node in exported.graph.nodes if "batch_norm" in str(node.target)]
        assert len(norms) == 7
        assert all(argument.op == "placeholder" for node in norms for argument in node.args[1:5])
        torch.testing.assert_close(exported.module()(x_BCHW), net(x_BCHW))
        torch.testing.assert_close(traced(x_BCHW), net(x_BCHW))
        batches = [node for node in traced.inlined_graph.nodes() if node.kind() == "aten::batch_norm"]
        assert len(batches) == 7
