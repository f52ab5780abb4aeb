"""The fused end of residual blocks: its formulas, its kernels, and networks that it is switched on in."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from fused_ends import Case, apart, cases, made, values
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

from senet_lab import models
from senet_lab.config import SE
from senet_lab.models.fused import block_end
from senet_lab.models.insert import POSITIONS
from senet_lab.models.se import SQUEEZES
from senet_lab.training.gates import blocks_of, watched

ROOT = Path(__file__).parents[1]
EXACT = 1e-9  # in double precision


# --------------------------------------------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_the_formulas_are_what_the_modules_compute(case: Case) -> None:
    assert apart(values(case, "reference"), values(case, None)) < EXACT


@pytest.mark.parametrize("training", [True, False])
def test_its_gradient_is_that_of_finite_differences(training: bool) -> None:
    norm, se, (x, shortcut, _) = made(Case((2, 3, 2, 2), "softmax", training=training))
    assert torch.autograd.gradcheck(lambda x, shortcut: block_end(x, shortcut, norm, se), (x, shortcut))


def test_gates_of_one_leave_the_norm_the_shortcut_and_the_relu() -> None:
    norm, se, (x, shortcut, _) = made(Case(from_one=True))
    nn.init.zeros_(se.fc2.weight)
    nn.init.zeros_(se.fc2.bias)
    assert torch.allclose(block_end(x, shortcut, norm, se), torch.relu(norm(x) + shortcut), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shift", [2, 1e4])
def test_single_precision_also_where_a_mean_is_large_beside_its_spread(shift: float) -> None:
    """Its error there is that of numbers of this size, 5e-4 beside a spread of 3; a mean of squares less the square of
    the mean would have an error of 8 in a variance of 9."""
    exact = values(Case(), None, shift=shift)
    assert apart(values(Case(), "reference", torch.float32, shift), exact) < (1e-6 if shift == 2 else 3e-4)


def test_half_precision_is_as_close_to_double_as_the_modules_are() -> None:
    exact, ours, theirs = (
        values(Case(), passes, dtype)
        for passes, dtype in ((None, torch.float64), ("reference", torch.bfloat16), (None, torch.bfloat16))
    )
    assert ours["y"].dtype == ours["d x"].dtype == ours["d shortcut"].dtype == torch.bfloat16
    assert apart(ours, exact) < 1.5 * apart(theirs, exact) < 0.02


def test_autocast_does_not_reach_the_gates() -> None:
    norm, se, (x, shortcut, dy) = made(Case(), torch.float32)
    plain = block_end(x, shortcut, norm, se)
    with torch.autocast("cpu", torch.bfloat16):
        cast = block_end(x, shortcut, norm, se)
    weight = se.fc1.weight
    assert torch.equal(cast, plain)
    assert torch.equal(*(torch.autograd.grad(y, weight, dy)[0] for y in (cast, plain)))


@pytest.mark.parametrize("last", [True, False])
def test_maps_keep_the_memory_format_of_the_branch(last: bool) -> None:
    norm, se, (x, shortcut, dy) = made(Case(last=last))
    other = torch.contiguous_format if last else torch.channels_last
    y = block_end(x, shortcut.contiguous(memory_format=other), norm, se)
    grads = torch.autograd.grad(y, [x], dy.contiguous(memory_format=other))
    for map_BCHW in (y, *grads):
        assert map_BCHW.is_contiguous(memory_format=torch.channels_last) == last
    assert torch.allclose(y, torch.relu(se(norm(x)) + shortcut), rtol=1e-12, atol=1e-12)


def test_one_value_a_channel_is_no_batch() -> None:
    norm, se, (x, shortcut, _) = made(Case((1, 3, 1, 1)))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(x)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block_end(x, shortcut, norm, se)
    with pytest.raises(ValueError, match="passes: 'cuda' is not one of reference, triton"):
        block_end(x, shortcut, norm, se, "cuda")


# ---------------------------------------------------------------------------------------------------------- the kernels


@pytest.fixture(scope="module")
def interpreter() -> dict[str, Any]:
    """What `fused_ends.py` finds of the kernels, run by Triton's interpreter."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fused_ends.py"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_kernels_compute_what_the_modules_do(interpreter: dict[str, Any]) -> None:
    double = {name: found for name, found in interpreter["apart"].items() if "tile" in name}
    assert len(double) > len(list(cases()))
    assert {name: found for name, found in double.items() if not found < EXACT} == {}


def test_the_kernels_are_precise_in_other_types(interpreter: dict[str, Any]) -> None:
    interpreted = interpreter["apart"]
    for last in (True, False):
        assert interpreted[f"single shift=2 last={last}"] < 1e-6
        assert interpreted[f"single shift=10000.0 last={last}"] < 3e-4
    assert interpreted["half"] < 0.01
    assert interpreted["nan"] == 0, "a NaN is lost in the ReLU, or spreads"


def test_the_kernels_read_and_write_each_map_once(interpreter: dict[str, Any]) -> None:
    """In either memory format: as many elements as the maps have, and none of them twice."""
    expected = {"moments": (1, 0), "finish": (2, 1), "sums": (3, 1), "spread": (2, 1), "spread in evaluation": (1, 1)}
    for touched in interpreter["touched"]:
        assert touched == {name: [read, read, written, written] for name, (read, written) in expected.items()}


COMPILE = """
from types import SimpleNamespace
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction
from senet_lab.models import fused_kernels as kernels

h100 = SimpleNamespace(
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
    get_current_target=lambda: GPUTarget("cuda", 90, 32),
)
triton.runtime.driver.set_active(h100)

def instead_of_a_launch(kernel, grid):
    def compiled(*given, **options):
        made = kernel.warmup(*given, grid=grid, **options)
        print(kernel.__name__, len(made.asm["cubin"]) > 0, "ld.global.v4.b32" in made.asm["ptx"])
    return compiled

JITFunction.__getitem__ = instead_of_a_launch
for layout in (torch.channels_last, torch.contiguous_format):
    dy, y, x, shortcut = (torch.zeros(2, 64, 8, 8).bfloat16().contiguous(memory_format=layout) for _ in range(4))
    numbers = torch.zeros(4, 2, 64)
    kernels.moments(x)
    kernels.finish(x, shortcut, *numbers[:3])
    kernels.sums(dy, y, x, numbers[0])
    kernels.spread(dy, x, *numbers)
    kernels.spread(dy, x, *numbers[:3], None)
"""


@pytest.mark.slow  # compiles ten kernels
def test_the_kernels_compile_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    """As the operators call them, for an H100, down to machine code and without a warning; only the launch is left out.
    Maps are read 16 bytes at a time in both memory formats."""
    pytest.importorskip("triton.backends.nvidia")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMPILE],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 10
    assert all(line.endswith("True True") for line in lines), done.stdout


# ------------------------------------------------------------------------------------------------------ whole networks


def trained(net: nn.Module, x_BCHW: Tensor, steps: int = 2) -> dict[str, Tensor]:
    """Outputs, gradients, weights and statistics of a network, in so many steps of training and then in evaluation."""
    found: dict[str, Tensor] = {}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        y = net.train()(x_BCHW)
        y.square().mean().backward()
        found |= {f"{step} y": y.detach()} | {f"{step} d {name}": p.grad.clone() for name, p in net.named_parameters()}
        optimizer.step()
    found["evaluated"] = net.eval()(x_BCHW).detach()
    return found | {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "size", "design", "blocks"),
    [
        ("resnet8", 9, {}, 3),
        ("resnet20", 8, {"excitation": "softmax", "bias": True, "reduction": {2: 4, 4: 64}}, 6),
        ("resnet50", 33, {"excitation": "tanh"}, 16),
    ],
)
def test_a_fused_network_trains_as_the_plain_one(name: str, size: int, design: dict[str, Any], blocks: int) -> None:
    net = models.create(name, SE(**design), 5, seed=0).double()
    fused = copy.deepcopy(net)
    found = models.fuse(fused, "reference")
    assert len(found) == models.fused_blocks(fused) == blocks
    assert models.fused_blocks(net) == 0
    assert models.fuse(fused, "reference") == found, "a second time changes nothing"
    assert list(fused.state_dict()) == list(net.state_dict())
    dice = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(3, 3, size, size, dtype=torch.float64, generator=dice)
    steps = 1 if name == "resnet50" else 2
    assert apart(trained(copy.deepcopy(fused), x_BCHW, steps), trained(net, x_BCHW, steps)) < EXACT
    fused.load_state_dict(net.state_dict())
    assert torch.allclose(fused.eval()(x_BCHW), net(x_BCHW), rtol=EXACT, atol=EXACT)


def test_blocks_without_se_are_fused_on_request() -> None:
    net = models.create("resnet8", None, 5, seed=0).double()
    fused = copy.deepcopy(net)
    assert models.fuse(fused, "reference") == []
    assert len(models.fuse(fused, "reference", ungated=True)) == 3
    x_BCHW = torch.randn(3, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert apart(trained(fused, x_BCHW), trained(net, x_BCHW)) < EXACT


@pytest.mark.parametrize("field", [*({"position": p} for p in POSITIONS), *({"squeeze": s} for s in SQUEEZES)], ids=str)
def test_other_positions_and_squeezes_stay_as_they_are(field: dict[str, str]) -> None:
    net = models.create("resnet8", SE(**field), 5, seed=0)  # type: ignore[arg-type]
    expected = 3 if field in ({"position": "standard"}, {"squeeze": "avg"}) else 0
    assert len(models.fuse(net)) == models.fused_blocks(net) == expected


def test_other_norms_and_blocks_stay_as_they_are() -> None:
    frozen = torchvision.models.ResNet(Bottleneck, (1, 1, 1, 1), norm_layer=torchvision.ops.FrozenBatchNorm2d)
    models.add_se(frozen)
    assert models.fuse(frozen) == []

    class Other(BasicBlock):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    other = torchvision.models.ResNet(Other, (1, 1, 1, 1))
    models.add_se(other, where="layer*.*.bn2")
    assert models.fuse(other) == []
    assert models.fuse(models.create("wrn16_4", num_classes=5)) == []
    with pytest.raises(ValueError, match="passes: 'fast' is not one of auto, reference, triton"):
        models.fuse(other, "fast")


def small(passes: str = "reference") -> tuple[nn.Module, nn.Module, Tensor]:
    """A plain network with SE, the same fused, and images."""
    net = models.create("resnet8", num_classes=5, seed=0).eval()
    fused = copy.deepcopy(net)
    models.fuse(fused, passes)
    return net, fused, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_on_a_cpu_the_modules_are_called() -> None:
    """Bit for bit, in training and evaluation."""
    net, fused, x_BCHW = small("auto")
    assert models.fused_blocks(fused) == 3
    expected = trained(net, x_BCHW)
    found = trained(fused, x_BCHW)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_norms_changed_afterwards_are_called_themselves() -> None:
    net, fused, x_BCHW = small()
    fused = nn.SyncBatchNorm.convert_sync_batchnorm(fused)
    assert torch.equal(fused(x_BCHW), net(x_BCHW))


def test_who_listens_to_the_gates_hears_them() -> None:
    net, fused, x_BCHW = small()
    heard = []
    for each in (net, fused):
        with watched(blocks_of(each, every=True)) as latest:
            each(x_BCHW)
            heard.append(dict(latest))
    assert len(heard[0]) == 3
    assert all(torch.equal(heard[1][name], heard[0][name]) for name in heard[0])


def test_it_works_without_gradients_and_in_another_process() -> None:
    net, fused, x_BCHW = small()
    fused = pickle.loads(pickle.dumps(fused))
    assert models.fused_blocks(fused) == 3
    with torch.inference_mode():
        assert torch.allclose(fused(x_BCHW), net(x_BCHW), atol=1e-6)


def test_a_gradient_of_its_gradient_is_refused() -> None:
    norm, se, (x, shortcut, _) = made(Case())
    (grad,) = torch.autograd.grad(block_end(x, shortcut, norm, se).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        grad.sum().backward()


def test_blocks_are_recomputed_as_they_were() -> None:
    """By activation checkpointing."""
    _, fused, x_BCHW = small()
    fused.double().train()
    x_BCHW = x_BCHW.double()
    grads = []
    for each in (fused, lambda x: checkpoint(fused, x, use_reentrant=False)):
        fused.zero_grad()
        each(x_BCHW).square().mean().backward()
        grads.append({name: p.grad for name, p in fused.named_parameters()})
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


@pytest.mark.slow  # two networks are traced
@pytest.mark.parametrize("passes", ["reference", "triton"])
def test_the_compiler_takes_a_fused_network_as_one_graph(passes: str) -> None:
    """Of the kernels it takes the operators, of which it knows the shapes; here they run in the interpreter."""
    if passes == "triton":
        pytest.importorskip("triton")
    script = f"""
import copy, sys, torch
sys.path.insert(0, {str(ROOT / "tests")!r})
from test_models_fused import small, trained, apart
torch.set_num_threads(1)
net, fused, x = small({passes!r})
fused.double(), net.double()
compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
found = trained(compiled, x.double())
print(apart({{name.replace("_orig_mod.", ""): value for name, value in found.items()}}, trained(net, x.double())))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert float(done.stdout.splitlines()[-1]) < EXACT
