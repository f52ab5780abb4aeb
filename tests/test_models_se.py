"""The SE block against the paper's equations, written out once more without convolutions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from senet_lab.models.gates import EXCITATIONS, SQUEEZES, SEBlock


def squeezed(x_BCHW: Tensor, squeeze: str) -> Tensor:
    """Equation 2: z, with the pixels flattened to one axis (of length 1 unless nothing is squeezed)."""
    pixels_BCN = x_BCHW.flatten(2)
    return {
        "avg": lambda: (pixels_BCN.sum(2) / pixels_BCN.shape[2])[..., None],
        "max": lambda: pixels_BCN.sort(2).values[..., -1:],
        "none": lambda: pixels_BCN,
    }[squeeze]()


def excited(y_BCN: Tensor, excitation: str) -> Tensor:
    return {
        "sigmoid": lambda: 1 / (1 + (-y_BCN).exp()),
        "softmax": lambda: y_BCN.exp() / y_BCN.exp().sum(1, keepdim=True),
        "tanh": lambda: (y_BCN.exp() - (-y_BCN).exp()) / (y_BCN.exp() + (-y_BCN).exp()),
        "relu": lambda: y_BCN.clamp(min=0),
    }[excitation]()


def reference(x_BCHW: Tensor, se: SEBlock) -> Tensor:
    """Equations 2 to 4 with matrices."""
    w1_KC, w2_CK = se.fc1.weight.flatten(1), se.fc2.weight.flatten(1)
    h_BKN = torch.einsum("kc,bcn->bkn", w1_KC, squeezed(x_BCHW, se.squeeze))
    if se.fc1.bias is not None:
        h_BKN = h_BKN + se.fc1.bias[:, None]
    y_BCN = torch.einsum("ck,bkn->bcn", w2_CK, h_BKN.clamp(min=0))
    if se.fc2.bias is not None:
        y_BCN = y_BCN + se.fc2.bias[:, None]
    return (x_BCHW.flatten(2) * excited(y_BCN, se.excitation)).view_as(x_BCHW)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("excitation", EXCITATIONS)
@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_block_is_the_papers_equations(squeeze: str, excitation: str, bias: bool) -> None:
    g = torch.Generator().manual_seed(1)
    se = SEBlock(12, 3, squeeze, excitation, bias, generator=g).double()
    if bias:
        for fc in (se.fc1, se.fc2):
            torch.nn.init.normal_(fc.bias, generator=g)
    x_BCHW = torch.randn(2, 12, 3, 5, generator=g, dtype=torch.float64, requires_grad=True)
    ours, theirs = se(x_BCHW), reference(x_BCHW, se)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    probe = torch.randn(ours.shape, generator=g, dtype=torch.float64)
    wanted = [x_BCHW, *se.parameters()]
    for a, b in zip(
        torch.autograd.grad((ours * probe).sum(), wanted),
        torch.autograd.grad((theirs * probe).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("excitation", EXCITATIONS)
@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_gate_is_what_forward_multiplies_by(squeeze: str, excitation: str) -> None:
    se = SEBlock(8, 2, squeeze, excitation)
    x_BCHW = torch.randn(2, 8, 4, 3)
    gate = se.gate(x_BCHW)
    assert gate.shape == ((2, 8, 4, 3) if squeeze == "none" else (2, 8, 1, 1))
    assert torch.equal(se(x_BCHW), x_BCHW * gate)


def test_layers_that_somebody_listens_to_or_put_there_are_called() -> None:
    se, x_BCHW = SEBlock(8, 2), torch.randn(2, 8, 4, 3)
    expected, shown = se(x_BCHW), []
    se.fc1.register_forward_hook(lambda *call: shown.append(call))
    torch.testing.assert_close(se(x_BCHW), expected)
    assert len(shown) == 1
    se.fc2 = torch.nn.Sequential(se.fc2, torch.nn.Threshold(torch.inf, 0))
    torch.testing.assert_close(se(x_BCHW), x_BCHW / 2)  # sigmoid(0)


def test_softmax_gates_sum_to_one_over_the_channels() -> None:
    gate = SEBlock(8, 2, "none", "softmax").gate(torch.randn(2, 8, 4, 3))
    torch.testing.assert_close(gate.sum(1), torch.ones(2, 4, 3))


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"),
    [(64, 16, 4), (16, 16, 1), (16, 32, 1), (8, 16, 1), (100, 16, 6), (24, 1, 24), (40, 8, 5), (1, 1, 1)],
)
def test_hidden_width_is_exact_and_at_least_one(channels: int, reduction: int, hidden: int) -> None:
    se = SEBlock(channels, reduction)
    assert se.hidden == hidden
    assert se.fc1.weight.shape == (hidden, channels, 1, 1)
    assert se.fc2.weight.shape == (channels, hidden, 1, 1)
    assert sum(w.numel() for w in se.parameters()) == 2 * channels * hidden


def test_one_hidden_unit_gives_gates_that_depend_on_the_image() -> None:
    gates = SEBlock(16, 64, generator=torch.Generator().manual_seed(0)).gate(torch.randn(32, 16, 4, 4))
    assert gates.std(0).max() > 0


@pytest.mark.parametrize("shape", [(32, 16, 8, 8), (3, 5, 7, 7), (1, 256, 14, 14), (4, 8, 1, 3)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_average_is_pytorchs_mean_to_the_last_bit_and_so_is_its_gradient(
    shape: tuple[int, ...], channels_last: bool
) -> None:
    draw = torch.Generator().manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x_BCHW = torch.randn(shape, generator=draw).contiguous(memory_format=layout).requires_grad_()
    weight_BC11 = torch.randn(*shape[:2], 1, 1, generator=draw)
    found = []
    for average in (SQUEEZES["avg"], lambda x: x.mean((2, 3), keepdim=True)):
        z_BC11 = average(x_BCHW)
        found.append((z_BC11, *torch.autograd.grad(z_BC11, x_BCHW, weight_BC11)))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True))


def test_the_average_of_half_precision_does_not_overflow() -> None:
    x_BCHW = torch.full((1, 1, 64, 64), 100.0, dtype=torch.float16)  # the sum is 409,600; the largest number is 65,504
    assert SQUEEZES["avg"](x_BCHW).item() == 100


def test_biases_start_at_zero_and_add_one_weight_for_each_output() -> None:
    se = SEBlock(32, 4, bias=True)
    assert sum(w.numel() for w in se.parameters()) == 2 * 32 * 8 + 8 + 32
    assert not se.fc1.bias.any()
    assert not se.fc2.bias.any()


def test_weights_are_drawn_after_he_by_fan_in() -> None:
    se = SEBlock(1024, 4, generator=torch.Generator().manual_seed(0))
    assert se.fc1.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.02)
    assert se.fc2.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.02)
    assert se.fc1.weight.mean().item() == pytest.approx(0, abs=0.001)


def test_weights_come_from_the_generator_that_is_given() -> None:
    first, again, other = (SEBlock(16, 4, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first.fc1.weight, again.fc1.weight)
    assert torch.equal(first.fc2.weight, again.fc2.weight)
    assert not torch.equal(first.fc1.weight, other.fc1.weight)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ({"squeeze": "mean"}, ["se.squeeze", "'mean'", "avg, max, none"]),
        ({"excitation": "Sigmoid"}, ["se.excitation", "'Sigmoid'", "sigmoid, softmax, tanh, relu"]),
        ({"reduction": 0}, ["se.reduction", "0"]),
        ({"reduction": 2.5}, ["se.reduction", "2.5"]),
    ],
)
def test_mistakes_are_named(mistake: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^se\.") as error:
        SEBlock(16, **mistake)
    for word in words:
        assert word in str(error.value)
