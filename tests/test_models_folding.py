"""Norm and gate in one against the modules one by one, and when they are left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from senet_lab import SE
from senet_lab.models import create
from senet_lab.models.gated import Gated
from senet_lab.models.gates import EXCITATIONS, FROM_ONE, SQUEEZES, Descriptors, SEBlock
from senet_lab.models.speed import folded, folding

GATES = [(word, False) for word in EXCITATIONS] + [(word, True) for word in FROM_ONE]


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training small maps are folded, too."""
    monkeypatch.setattr(folding, "PAYS", 0)


def norm_of(channels: int, generator: torch.Generator) -> nn.BatchNorm2d:
    """A batch norm that was trained, so to speak, with channels that are negated or nearly off."""
    norm = nn.BatchNorm2d(channels, eps=1e-3).double().eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.copy_(torch.randn(channels, generator=generator, dtype=torch.float64))
    norm.running_var.square_().add_(1e-4)
    norm.weight.data[0] = 0
    return norm


def pair_of(excitation: str, bias: bool, from_one: bool) -> tuple[nn.BatchNorm2d, SEBlock]:
    """A norm that trains and a gate, both in double precision."""
    g = torch.Generator().manual_seed(3)
    se = SEBlock(6, 2, "avg", excitation, bias, from_one, generator=g).double()
    for weight in se.parameters():
        weight.data.normal_(generator=g)
    return norm_of(6, g).train(), se


@pytest.mark.parametrize("shape", [(1, 6, 5, 3), (3, 6, 1, 1), (4, 1, 7, 8)], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 0)])
def test_the_means_are_those_of_pytorch(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    x_BCHW = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=dtype)
    folding.shares.cache_clear()
    with torch.device("meta"):  # of no concern to what is on the CPU
        found = folding.means(x_BCHW)
    torch.testing.assert_close(found, x_BCHW.mean((2, 3)), rtol=0, atol=tolerance)


@pytest.mark.usefixtures("any_size")
def test_what_inference_has_left_serves_training() -> None:
    """PyTorch refuses tensors that were made in inference mode where a gradient is to go through them."""
    norm, se = pair_of("sigmoid", bias=False, from_one=False)
    x_BCHW = torch.randn(2, 6, 11, 13, dtype=torch.float64, requires_grad=True)
    folding.shares.cache_clear()
    with torch.inference_mode():
        in_one(norm.eval(), se, x_BCHW.detach())
    assert folding.shares.cache_info().currsize == 1
    in_one(norm.train(), se, x_BCHW).sum().backward()
    assert x_BCHW.grad is not None


@pytest.mark.parametrize("shape", [(1, 6, 5, 3), (3, 6, 1, 1), (4, 6, 7, 8)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("excitation", "from_one"), GATES)
def test_in_evaluation_it_is_what_the_modules_compute_one_by_one(
    excitation: str, from_one: bool, bias: bool, shape: tuple[int, ...]
) -> None:
    norm, se = pair_of(excitation, bias, from_one)
    norm.eval()
    x_BCHW = 3 + torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    given = x_BCHW.clone()
    with torch.no_grad():
        torch.testing.assert_close(in_one(norm, se, x_BCHW), se(norm(x_BCHW)), rtol=1e-12, atol=1e-12)
    assert torch.equal(x_BCHW, given)


def in_one(norm: nn.Module, se: nn.Module, x_BCHW: Tensor) -> Tensor:
    y_BCHW = folded(norm, se, x_BCHW)
    assert y_BCHW is not None, "the modules are to be run"
    return y_BCHW


def gradients(
    call: Callable[[], Tensor], norm: nn.BatchNorm2d, se: SEBlock, *inputs: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """What is computed, and the gradients of a weighted sum of it."""
    y_BCHW = call()
    weights_BCHW = torch.linspace(-1, 2, y_BCHW.numel(), dtype=y_BCHW.dtype).reshape(y_BCHW.shape)
    wanted = [tensor for tensor in (*inputs, *norm.parameters(), *se.parameters()) if tensor.requires_grad]
    return y_BCHW, list(torch.autograd.grad((y_BCHW * weights_BCHW).sum(), wanted))


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("shape", [(1, 6, 5, 3), (3, 6, 1, 1), (4, 6, 7, 8)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("excitation", "from_one"), GATES)
def test_in_training_it_is_what_the_modules_compute_one_by_one(
    excitation: str, from_one: bool, bias: bool, shape: tuple[int, ...]
) -> None:
    norm, se = pair_of(excitation, bias, from_one)
    other = copy.deepcopy(norm)
    x_BCHW = (3 + torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)).requires_grad_()
    one = gradients(lambda: in_one(norm, se, x_BCHW), norm, se, x_BCHW)
    two = gradients(lambda: se(other(x_BCHW)), other, se, x_BCHW)
    torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(norm.state_dict(), other.state_dict(), rtol=1e-14, atol=1e-14)


@pytest.mark.usefixtures("any_size")
def test_its_gradients_are_those_of_differences_and_so_are_theirs() -> None:
    norm, se = nn.BatchNorm2d(3).double(), SEBlock(3, 2, bias=True, generator=torch.Generator().manual_seed(1)).double()
    x_BCHW = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    inputs = [x_BCHW, *(tensor.detach().clone() for tensor in (*norm.parameters(), *se.parameters()))]
    names = [f"{part}.{name}" for part, module in (("body", norm), ("se", se)) for name, _ in module.named_parameters()]
    gated = Gated(norm, se, "after")

    def y_of(x_BCHW: Tensor, *weights: Tensor) -> Tensor:
        y_BCHW: Tensor = torch.func.functional_call(gated, dict(zip(names, weights, strict=True)), (x_BCHW,))
        return y_BCHW

    assert "Folded" in repr(y_of(x_BCHW, *(tensor.requires_grad_() for tensor in inputs[1:])).grad_fn)
    inputs[0].requires_grad_()
    assert torch.autograd.gradcheck(y_of, inputs)
    assert torch.autograd.gradgradcheck(y_of, inputs)


@pytest.mark.usefixtures("any_size")
def test_an_excitation_that_is_added_is_differentiated_by_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXCITATIONS, "sine", torch.sin)
    norm, se = pair_of("sine", bias=False, from_one=False)
    x_BCHW = torch.randn(3, 6, 4, 3, dtype=torch.float64, requires_grad=True)
    one = gradients(lambda: in_one(norm, se, x_BCHW), norm, se, x_BCHW)
    torch.testing.assert_close(one, gradients(lambda: se(norm(x_BCHW)), norm, se, x_BCHW), rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("frozen", ["input", "norm", "gate"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_its_own(frozen: str) -> None:
    norm, se = pair_of("sigmoid", bias=True, from_one=False)
    x_BCHW = torch.randn(3, 6, 4, 3, dtype=torch.float64, requires_grad=frozen != "input")
    if frozen != "input":
        {"norm": norm, "gate": se}[frozen].requires_grad_(False)
    one = gradients(lambda: in_one(norm, se, x_BCHW), norm, se, x_BCHW)
    torch.testing.assert_close(one, gradients(lambda: se(norm(x_BCHW)), norm, se, x_BCHW), rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("any_size")
def test_a_graph_can_be_gone_through_twice_and_tells_when_its_input_was_changed() -> None:
    norm, se = pair_of("sigmoid", bias=False, from_one=False)
    leaf_BCHW = torch.randn(3, 6, 4, 3, dtype=torch.float64, requires_grad=True)
    x_BCHW = leaf_BCHW.clone()
    y_BCHW = in_one(norm, se, x_BCHW)
    first = torch.autograd.grad(y_BCHW.square().sum(), leaf_BCHW, retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(y_BCHW.square().sum(), leaf_BCHW, retain_graph=True)[0])
    x_BCHW.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y_BCHW.sum().backward()


def kept(call: Callable[[], Tensor]) -> int:
    """Bytes that a call keeps for its backward."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y_BCHW = call()
    del y_BCHW
    return sum(storages.values())


@pytest.mark.usefixtures("any_size")
def test_no_map_is_kept_for_the_gate() -> None:
    norm, se = nn.BatchNorm2d(6), SEBlock(6, 2)
    x_BCHW = torch.randn(2, 6, 32, 32, requires_grad=True)
    size = x_BCHW.numel() * x_BCHW.element_size()
    assert kept(lambda: se(norm(x_BCHW))) > 2 * size  # the norm's input and its output
    assert size <= kept(lambda: in_one(norm, se, x_BCHW)) < 1.1 * size


def test_a_network_trains_as_with_its_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for size in (0, 2**60):
        monkeypatch.setattr(folding, "PAYS", size)
        net = create("resnet8", SE(4), 5, seed=1).double().train()
        assert products(net, torch.zeros(2, 3, 16, 16, dtype=torch.float64)) == (0 if size == 0 else 3)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        g = torch.Generator().manual_seed(2)
        for _ in range(3):
            x_BCHW = torch.randn(4, 3, 16, 16, generator=g, dtype=torch.float64)
            loss = nn.functional.cross_entropy(net(x_BCHW), torch.randint(5, (4,), generator=g))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        states.append(net.state_dict())
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-9)


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


@pytest.mark.usefixtures("any_size")
def test_in_training_it_is_left_alone_in_other_layouts_types_and_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    net = create("resnet8", SE(4), 5, seed=1).train()
    x_BCHW = torch.randn(2, 3, 8, 8)
    assert products(net, x_BCHW) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert products(net, x_BCHW) == 3
    assert products(copy.deepcopy(net).to(memory_format=torch.channels_last), x_BCHW) == 3
    assert products(copy.deepcopy(net).bfloat16(), x_BCHW.bfloat16()) == 3
    for design in (SE(4, squeeze="max"), SE(4, squeeze="none"), SE(4, position="pre"), SE(4, position="identity")):
        assert products(create("resnet8", design, 5).train(), x_BCHW) == 3, design
    monkeypatch.setattr(folding, "PAYS", 2 * 32 * 4 * 4)  # the second stage's maps, the smallest that are folded
    assert products(net, x_BCHW) == 1


@pytest.mark.usefixtures("any_size")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*deprecated:FutureWarning")
def test_transforms_of_functions_see_the_modules() -> None:
    norm, se = pair_of("sigmoid", bias=False, from_one=False)
    gated = Gated(norm, se, "after")
    g = torch.Generator().manual_seed(1)
    x_BCHW, v_BCHW = (torch.randn(2, 6, 3, 4, generator=g, dtype=torch.float64) for _ in range(2))
    weights, statistics = dict(gated.named_parameters()), dict(gated.named_buffers())

    def total(x_BCHW: Tensor) -> Tensor:
        known = {name: buffer.clone() for name, buffer in statistics.items()}
        y_BCHW: Tensor = torch.func.functional_call(gated, {**weights, **known}, (x_BCHW,))
        return y_BCHW.square().sum()

    slope = torch.func.grad(total)(x_BCHW)
    asked = x_BCHW.clone().requires_grad_()
    torch.testing.assert_close(slope, torch.autograd.grad(total(asked), asked)[0])
    _, along = torch.func.jvp(total, (x_BCHW,), (v_BCHW,))
    torch.testing.assert_close(along, (slope * v_BCHW).sum())
    with torch.autograd.forward_ad.dual_level():
        dual = total(torch.autograd.forward_ad.make_dual(x_BCHW, v_BCHW))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, along)


@pytest.mark.usefixtures("any_size")
def test_one_value_a_channel_is_refused_as_by_the_norm() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        Gated(nn.BatchNorm2d(6), SEBlock(6, 2), "after")(torch.randn(1, 6, 1, 1))


# ---------------------------------------------------------------------------------------------------------------------
# Whatever replaces, wraps or listens to a module is not passed by: no short cut is taken there.


def small() -> nn.Module:
    return create("resnet8", SE(4, bias=True), 5, seed=0).eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def negated(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *given: -method(*given)


def negate(module: nn.Module, method: str = "forward") -> None:
    """In this one module, as accelerate does, whose weights are there only while its own forward runs."""
    setattr(module, method, negated(getattr(module, method)))


def change(part: str, **values: object) -> Callable[[Gated], None]:
    def act(end: Gated) -> None:
        for name, value in values.items():
            setattr(end.get_submodule(part) if part else end, name, value)

    return act


# What is done to the end of a block, and whether norm and gate may still be one pass: in evaluation, in training.
CHANGES: dict[str, tuple[Callable[[Gated], object], bool, bool]] = {
    "nothing": (lambda end: None, True, True),
    "a norm is listened to": (lambda end: end.body.register_forward_hook(lambda *call: None), False, False),
    "a gate is listened to": (lambda end: end.se.register_forward_pre_hook(lambda *call: None), False, False),
    "a layer is listened to": (lambda end: end.se.fc2.register_forward_hook(lambda *call: None), False, False),
    "its sigma": (lambda end: negate(end.se, "sigma"), True, True),  # is asked for by both ways
    "another gate": (change("", se=nn.Softmax2d()), True, True),  # which multiplies nothing
    "another mode": (lambda end: end.body.train(not end.body.training), True, False),
    "no statistics": (change("", body=nn.BatchNorm2d(16, track_running_stats=False)), False, False),
    "statistics no more": (change("body", track_running_stats=False), True, False),
    "batches are not counted": (change("body", num_batches_tracked=None), True, False),
    "a mean over all batches": (change("body", momentum=None), True, False),
    "a layer over pixels": (change("se", fc1=nn.Conv2d(16, 4, 3, padding=1)), False, False),
    "a layer of groups": (change("se", fc1=nn.Conv2d(16, 4, 1, groups=4)), False, False),
    **{
        f"forward of {part}": (lambda end, part=part: negate(end.get_submodule(part)), False, False)
        for part in ("body", "se", "se.fc1", "se.fc2")
    },
    **{
        f"{method} of a gate": (lambda end, method=method: negate(end.se, method), False, False)
        for method in ("gate", "excite", "pool")
    },
}


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_what_runs(name: str, training: bool) -> None:
    act, *folds = CHANGES[name]

    def changed() -> nn.Module:
        net = create("resnet8", SE(4, bias=True), 5, seed=1).train(training)
        act(net.layer1[0].bn2)
        return net

    net, again, x_BCHW = changed(), changed(), torch.randn(2, 3, 8, 8)
    for end in (module for module in again.modules() if isinstance(module, Gated)):
        end.forward = lambda x_BCHW, end=end: end.se(end.body(x_BCHW))
    with torch.set_grad_enabled(training):
        assert products(changed(), x_BCHW) == (0 if folds[training] else 1)
        torch.testing.assert_close(net(x_BCHW), again(x_BCHW))
    torch.testing.assert_close(net.state_dict(), again.state_dict())


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *((nn.BatchNorm2d, "forward"), (nn.Conv2d, "forward"), (nn.Conv2d, "_conv_forward"), (SEBlock, "forward")),
        *((SEBlock, "gate"), (SEBlock, "excite"), (Descriptors, "forward")),
    ],
)
def test_a_method_that_was_replaced_in_its_class_runs(
    kind: type[nn.Module], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, plain = small(), small()
    monkeypatch.setattr(kind, method, negated(getattr(kind, method)))
    with torch.no_grad():
        found = net(images())
    torch.testing.assert_close(found, plain(images()).detach())  # with gradients no norm in evaluation has a short cut


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


@pytest.mark.parametrize("training", [False, True])
def test_no_images_give_no_outputs(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "PAYS", 0)
    for squeeze in SQUEEZES:
        net = create("resnet8", SE(4, squeeze), 5, seed=0).train(training)
        assert net(images(0)).shape == (0, 5)


# ---------------------------------------------------------------------------------------------------------------------
# torch.jit.script takes networks with gates.


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
@pytest.mark.parametrize(
    "design",
    [SE(4), SE(4, "max", "softmax", "pre", identity_start=True), SE(4, "none", "tanh"), SE(4, "avg", "relu", "pre")],
    ids=str,
)
def test_gates_can_be_scripted(design: SE) -> None:
    net = create("resnet8", design, 5, seed=0).eval()
    scripted = torch.jit.script(net)
    with torch.no_grad():
        torch.testing.assert_close(scripted(images()), net(images()))
