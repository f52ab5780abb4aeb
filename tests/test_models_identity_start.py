"""Gates that start at 1: the network is at first what it was, and yet the gates learn."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lab import SE, add_se
from senet_lab.models import cost, create, fingerprint, load_weights
from senet_lab.models.gates import EXCITATIONS, FROM_ONE, SQUEEZES, SEBlock
from senet_lab.models.slots import POSITIONS


def trained_once(net: nn.Module) -> nn.Module:
    """With statistics and weights that are not those of a new network."""
    dice = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data = torch.rand(tensor.shape, generator=dice) + 0.5
    return net


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def gates_of(net: nn.Module, x_BCHW: Tensor) -> list[Tensor]:
    """What the gates of a network are for images."""
    gates: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, given: gates.append(module.gate(given[0]).detach()))
        for module in net.modules()
        if isinstance(module, SEBlock)
    ]
    net(x_BCHW)
    for hook in hooks:
        hook.remove()
    return gates


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("excitation", EXCITATIONS)
def test_outputs_are_at_first_what_they_were(excitation: str, position: str) -> None:
    squeezes = itertools.cycle(SQUEEZES)
    for training, bias in itertools.product((True, False), repeat=2):
        plain = trained_once(create("resnet8", None, 5, seed=0)).train(training)
        net = copy.deepcopy(plain)
        add_se(net, SE(2, next(squeezes), excitation, position, bias=bias, identity_start=True))
        assert torch.equal(net(images()), plain(images()))
        assert all(torch.equal(gate, torch.ones_like(gate)) for gate in gates_of(net, images()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("excitation", FROM_ONE)
def test_the_gate_is_exactly_one_at_any_width_and_precision(excitation: str, dtype: torch.dtype) -> None:
    for channels in (1, 3, 49, 96, 2048):
        gate = FROM_ONE[excitation](torch.zeros(2, channels, 1, 1, dtype=dtype))
        assert torch.equal(gate, torch.ones_like(gate)), channels


def test_the_forms_are_those_that_are_documented() -> None:
    y_BCHW = torch.randn(3, 6, 2, 2, dtype=torch.float64)
    expected = {
        "sigmoid": 2 / (1 + torch.exp(-y_BCHW)),
        "softmax": 6 * torch.exp(y_BCHW) / torch.exp(y_BCHW).sum(1, keepdim=True),
        "tanh": 1 + (torch.exp(2 * y_BCHW) - 1) / (torch.exp(2 * y_BCHW) + 1),
        "relu": (1 + y_BCHW).clamp(min=0),
    }
    assert expected.keys() == FROM_ONE.keys()
    for excitation, gate in expected.items():
        torch.testing.assert_close(FROM_ONE[excitation](y_BCHW), gate)


@pytest.mark.parametrize(
    ("excitation", "position"), list(zip([*EXCITATIONS, "sigmoid"], reversed(POSITIONS), strict=True))
)
def test_gates_learn_to_leave_one_and_to_tell_images_apart(excitation: str, position: str) -> None:
    """A few steps on the gates alone: all of them move, differ between images, and lower the loss."""
    net = trained_once(create("resnet8", None, 4, seed=0)).eval()
    add_se(net, SE(2, excitation=excitation, position=position, identity_start=True))
    weights = [weight for name, weight in net.named_parameters() if ".se." in name]
    first = copy.deepcopy(weights)
    optimiser = torch.optim.SGD(weights, lr=0.5)
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(net(images()) / 10, torch.arange(4))
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 0.2)
        optimiser.step()
    assert losses[-1] < losses[0]
    assert not any(torch.equal(was, weight) for was, weight in zip(first, weights, strict=True))
    for gate_BC11 in gates_of(net, images()):
        assert (gate_BC11 - 1).abs().max() > 1e-4
        assert gate_BC11.std(0).max() > 1e-5


def test_the_plain_networks_weights_and_the_first_layers_are_those_of_any_design() -> None:
    usual, ours = (create("resnet8", SE(2, identity_start=start), 5, seed=3).state_dict() for start in (False, True))
    assert ours.keys() - usual.keys() == {name for name in ours if name.endswith(".identity_start")}
    for name, weight in usual.items():
        assert torch.equal(weight, ours[name]) == (not name.endswith("fc2.weight")), name


def test_weights_of_one_gate_do_not_pass_for_those_of_another() -> None:
    usual, ours = (create("resnet8", SE(2, identity_start=start), 5, seed=3) for start in (False, True))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*identity_start"):
        usual.load_state_dict(ours.state_dict())
    with pytest.raises(ValueError, match=r"3 left over: .*identity_start"):
        load_weights(usual, ours.state_dict())
    with pytest.raises(ValueError, match=r"3 missing: .*identity_start"):
        load_weights(ours, usual.state_dict())
    again = create("resnet8", SE(2, identity_start=True), 5, seed=4)
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again.eval()(images()), ours.eval()(images()))


def test_it_is_another_network_of_the_same_cost() -> None:
    with torch.device("meta"):
        for excitation in EXCITATIONS:
            usual, ours = (
                create("resnet8", SE(2, excitation=excitation, identity_start=start), 5) for start in (False, True)
            )
            assert fingerprint(usual) != fingerprint(ours)
            one, other = cost(usual, (3, 8, 8)), cost(ours, (3, 8, 8))
            assert (one.params, one.macs, one.se_macs) == (other.params, other.macs, other.se_macs)


def test_an_excitation_without_such_a_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXCITATIONS, "hardsigmoid", F.hardsigmoid)
    net = create("resnet8", None, 5)
    add_se(copy.deepcopy(net), excitation="hardsigmoid")
    before = str(net)
    with pytest.raises(ValueError, match=r"identity_start: 'hardsigmoid' is not one of sigmoid, softmax, tanh, relu"):
        add_se(net, excitation="hardsigmoid", identity_start=True)
    assert str(net) == before
