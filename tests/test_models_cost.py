"""Cost against the paper's arithmetic, against closed forms, and against a count by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from senet_lab import SE
from senet_lab.models import BACKBONES, Cost, cost, create, fingerprint, hidden_widths
from senet_lab.models.gates import EXCITATIONS, SQUEEZES, SEBlock
from senet_lab.models.slots import POSITIONS


def on_meta(name: str, se: SE | None = None, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create(name, se, **options)


def cost_of(name: str, se: SE | None = None, **options: Any) -> Cost:
    return cost(on_meta(name, se, **options))


PLAIN, PLAIN_MACS = 25_557_032, 3_857_973_248

# ---------------------------------------------------------------------------------------------------------------------
# The paper's numbers.


@pytest.mark.parametrize(
    ("se", "params"),
    [
        (None, 25_557_032),
        (SE(2), 45_676_584),
        (SE(4), 35_616_808),
        (SE(8), 30_586_920),
        (SE(16), 28_071_976),
        (SE(32), 26_814_504),
        (SE(stages=[2]), PLAIN + 24_576),
        (SE(stages=[3]), PLAIN + 131_072),
        (SE(stages=[4]), PLAIN + 786_432),
        (SE(stages=[5]), PLAIN + 1_572_864),
        (SE(position="conv3x3"), PLAIN + 157_184),
        (SE(squeeze="none"), PLAIN + 2_514_944),
        (SE(position="post"), PLAIN + 2_514_944),
        (SE(position="identity"), PLAIN + 2_514_944),
        (SE(position="pre"), PLAIN + 2_514_944 - 523_776),  # 0.52 M fewer
        (SE(2, bias=True), PLAIN + 20_119_552 + 22_656),
        (SE(16, bias=True), PLAIN + 2_514_944 + 16_048),
        (SE(32, bias=True), PLAIN + 1_257_472 + 15_576),
    ],
)
def test_resnet50_has_the_papers_parameters(se: SE | None, params: int) -> None:
    found = cost_of("resnet50", se)
    assert found.params == params
    assert found.se_params == params - PLAIN


@pytest.mark.parametrize(
    ("se", "giga"),
    [
        (None, 3.8580),
        (SE(), 3.8715),
        (SE(squeeze="max"), 3.8715),
        (SE(stages=[2]), 3.8628),
        (SE(stages=[3]), 3.8613),
        (SE(stages=[4]), 3.8612),
        (SE(position="conv3x3"), 3.8609),
    ],
)
def test_resnet50_has_the_papers_multiply_adds(se: SE | None, giga: float) -> None:
    found = cost_of("resnet50", se)
    assert round(found.macs / 1e9, 4) == giga
    assert found.backbone_macs == PLAIN_MACS


def test_the_share_of_se_in_resnet50() -> None:
    found = cost_of("resnet50", SE())
    values = 56**2 * 256 * 3 + 28**2 * 512 * 4 + 14**2 * 1024 * 6 + 7**2 * 2048 * 3
    assert (found.fc_macs, found.pooling_macs, found.scaling_macs) == (2_514_944, values, values)
    assert found.se_macs == 2_514_944 + 2 * values
    assert found.macs == PLAIN_MACS + found.se_macs


def test_without_squeeze_the_layers_run_at_every_pixel() -> None:
    found = cost_of("resnet50", SE(squeeze="none"))
    per_stage = {2: (256, 3, 56), 3: (512, 4, 28), 4: (1024, 6, 14), 5: (2048, 3, 7)}
    assert found.fc_macs == sum(2 * c * (c // 16) * n * size**2 for c, n, size in per_stage.values())
    assert round((found.backbone_macs + found.fc_macs) / 1e9, 3) == 4.269
    assert found.pooling_macs == 0


@pytest.mark.parametrize(
    ("name", "giga"), [("resnet101", 7.5702), ("resnet152", 11.2824), ("resnext50", 4.2305), ("resnext101", 7.9700)]
)
def test_other_networks_have_the_papers_multiply_adds(name: str, giga: float) -> None:
    assert round(cost_of(name).macs / 1e9, 4) == giga


def test_torchvisions_stride_costs_more() -> None:
    assert round(cost_of("resnet50", stride="torchvision").macs / 1e9, 3) == 4.089


# ---------------------------------------------------------------------------------------------------------------------
# Closed forms and a count by hand.

# name → C_s and N_s of its stages
STAGES = {
    "resnet8": ((16, 1), (32, 1), (64, 1)),
    "resnet56": ((16, 9), (32, 9), (64, 9)),
    "wrn16_8": ((128, 2), (256, 2), (512, 2)),
    "resnet34": ((64, 3), (128, 4), (256, 6), (512, 3)),
    "resnext50": ((256, 3), (512, 4), (1024, 6), (2048, 3)),
}


@pytest.mark.parametrize(("name", "reduction"), [("resnet8", 2), *((name, 16) for name in STAGES)])
def test_se_adds_the_papers_equation_5(name: str, reduction: int) -> None:
    found = cost(on_meta(name, SE(reduction)), (3, 32, 32))
    assert found.se_params == 2 * sum(n * c**2 for c, n in STAGES[name]) // reduction
    for stage, (c, n) in enumerate(STAGES[name], start=2):
        assert found.stages[stage].se_params == 2 * n * c**2 // reduction
    assert found.params - found.se_params == sum(weight.numel() for weight in on_meta(name).parameters())


def by_hand(net: nn.Module, input_size: tuple[int, int, int]) -> dict[str, int]:
    """Multiply-adds from the shapes that each layer sees: the second implementation."""
    macs = {"backbone": 0, "fc": 0, "pooling": 0, "scaling": 0}
    fcs = {fc for module in net.modules() if isinstance(module, SEBlock) for fc in (module.fc1, module.fc2)}

    def count(module: nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            per_output = module.in_channels // module.groups * math.prod(module.kernel_size)
            macs["fc" if module in fcs else "backbone"] += out.numel() * per_output
        if isinstance(module, nn.Linear):
            macs["backbone"] += module.in_features * module.out_features
        if isinstance(module, SEBlock):
            macs["scaling"] += out.numel()
            macs["pooling"] += 0 if module.squeeze == "none" else inputs[0].numel()

    handles = [module.register_forward_hook(count) for module in net.modules()]
    with torch.no_grad():
        net.eval()(torch.empty(1, *input_size, device="meta"))
    for handle in handles:
        handle.remove()
    return macs


@pytest.mark.parametrize(
    ("name", "position", "squeeze"),
    [("resnext50", "conv3x3", "none"), *itertools.product(("resnet8", "wrn16_4"), POSITIONS, SQUEEZES)],
)
def test_macs_equal_a_count_by_hand(name: str, position: str, squeeze: str) -> None:
    net = on_meta(name, SE(4, squeeze, position=position), num_classes=10)
    found = cost(net, (3, 40, 40))
    hand = by_hand(net, (3, 40, 40))
    assert (found.backbone_macs, found.fc_macs) == (hand["backbone"], hand["fc"])
    assert (found.pooling_macs, found.scaling_macs) == (hand["pooling"], hand["scaling"])


@pytest.mark.parametrize("position", POSITIONS)
def test_stages_stem_and_classifier_make_the_whole(position: str) -> None:
    net = on_meta("resnet50", SE(position=position, stages=[3, 5]))
    found = cost(net)
    assert set(found.stages) == {2, 3, 4, 5}
    outside = 64 * 3 * 49 + 2 * 64 + 2048 * 1000 + 1000
    assert found.params == outside + sum(stage.params for stage in found.stages.values())
    assert found.macs == 112**2 * 64 * 3 * 49 + 2048 * 1000 + sum(stage.macs for stage in found.stages.values())
    for field in ("se_params", "fc_macs", "pooling_macs", "scaling_macs"):
        parts = {number: getattr(stage, field) for number, stage in found.stages.items()}
        assert getattr(found, field) == sum(parts.values())
        assert parts[2] == parts[4] == 0
        assert min(parts[3], parts[5]) > 0
    assert cost(on_meta("resnet50")).stages[4] == found.stages[4]


def test_frozen_weights_are_not_counted() -> None:
    net = on_meta("resnet8", SE(4), num_classes=10)
    before = cost(net, (3, 8, 8))
    net.fc.requires_grad_(False)
    assert cost(net, (3, 8, 8)).params == before.params - 650


class MetaOnly(TorchDispatchMode):
    """Fails where an operator makes a tensor that takes memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        assert func.is_view or all(leaf.is_meta for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)), func
        return out


def test_counting_allocates_nothing_and_leaves_the_network_alone() -> None:
    net = create("resnet8", SE(4), 10, seed=0)
    before = {name: (id(tensor), tensor.clone()) for name, tensor in net.state_dict(keep_vars=True).items()}
    with MetaOnly():
        found = cost(net, (3, 8, 8))
    assert found == cost(on_meta("resnet8", SE(4), num_classes=10), (3, 8, 8))
    assert net.training
    for name, tensor in net.state_dict(keep_vars=True).items():
        assert id(tensor) == before[name][0]
        assert torch.equal(tensor, before[name][1])


def test_double_precision_costs_the_same() -> None:
    net = create("resnet8", SE(4), 10)
    single = cost(net, (3, 8, 8))
    assert cost(net.double(), (3, 8, 8)) == single


# ---------------------------------------------------------------------------------------------------------------------
# Hidden widths and fingerprints.


def test_hidden_widths() -> None:
    assert hidden_widths(on_meta("resnet20", SE(16))) == {2: (1, 1, 1), 3: (2, 2, 2), 4: (4, 4, 4)}
    assert hidden_widths(on_meta("resnet20", SE(32))) == {2: (1, 1, 1), 3: (1, 1, 1), 4: (2, 2, 2)}
    assert hidden_widths(on_meta("resnet8", SE(position="pre", reduction={3: 4}))) == {3: (4,)}
    assert hidden_widths(on_meta("resnet20")) == {}


def print_of(
    se: SE | None = None, name: str = "resnet8", size: tuple[int, int, int] = (3, 8, 8), **options: Any
) -> str:
    return fingerprint(on_meta(name, se, num_classes=10, **options), size)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SE(64), SE(128)),  # one hidden unit everywhere
        (SE(16, stages=[2]), SE(32, stages=[2])),
        (SE(8), SE({4: 8, 3: 8, 2: 8})),
        (SE(8, stages=[2, 3]), SE({2: 8, 3: 8})),
        (SE(8, stages=[4, 2]), SE(8, stages=(2, 4))),
        (SE(stages=[]), None),
    ],
)
def test_rows_that_build_the_same_network_share_a_fingerprint(one: SE, other: SE | None) -> None:
    assert print_of(one) == print_of(other)


def test_other_networks_have_other_fingerprints() -> None:
    designs: list[SE | None] = [None, SE(2), SE(4), SE(8), SE(16), SE(32), SE(16, bias=True)]
    designs += [SE(4, *words) for words in itertools.product(SQUEEZES, EXCITATIONS, POSITIONS, ([2],))]
    designs += [SE(4, stages=stages) for stages in ([3], [2, 3])]
    prints = [print_of(design) for design in designs]
    prints += [print_of(name=name) for name in BACKBONES if name != "resnet8"]
    prints += [print_of(name="resnet50", stride="torchvision"), print_of(size=(3, 16, 16)), print_of(in_channels=1)]
    assert len(set(prints)) == len(prints)


def test_weights_and_device_change_no_fingerprint() -> None:
    nets = [create("resnet8", SE(4), 10, seed=seed) for seed in (0, 1)]
    assert {fingerprint(net, (3, 8, 8)) for net in nets} == {print_of(SE(4))}
    assert len(print_of()) == 16


def test_operators_of_the_plain_network_do_not_depend_on_se() -> None:
    plain = cost_of("resnet8", num_classes=10)
    words = itertools.cycle(zip([*SQUEEZES, "avg"], EXCITATIONS, strict=True))
    for position in POSITIONS * 4:  # every pair of them there
        gated = cost_of("resnet8", SE(4, *next(words), position), num_classes=10)
        assert gated.operations == plain.operations
        for stage, part in gated.stages.items():
            assert part.operations == plain.stages[stage].operations
    # a stage of one basic block: two convolutions, two norms, two ReLUs, one sum
    assert plain.stages[2].operations["aten.convolution.default"] == 2
    assert plain.stages[2].operations["aten.relu_.default"] == 2
    assert plain.stages[2].operations["aten.add_.Tensor"] == 1
    assert plain.operations["aten.convolution.default"] == 7
