"""Cost against the paper's arithmetic, against closed forms, and against a count by hand."""

from __future__ import annotations

import itertools
import math
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import deform_conv2d

from senet_lab import SE
from senet_lab.models import BACKBONES, Cost, cost, create, fingerprint, hidden_widths
from senet_lab.models.copies import run_operator
from senet_lab.models.gates import EXCITATIONS, SQUEEZES, SEBlock
from senet_lab.models.slots import POSITIONS
from senet_lab.models.weights import build_like


def on_meta(name: str, se: SE | None = None, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create(name, se, **options)


def cost_of(name: str, se: SE | None = None, **options: Any) -> Cost:
    return cost(on_meta(name, se, **options))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("affine", [True, False])
def test_the_shapes_of_batch_norm_are_pytorchs(layout: torch.memory_format, dtype: torch.dtype, affine: bool) -> None:
    """Those that it computes on the CPU, for maps and weights of this kind."""
    x_BCHW = torch.rand(2, 3, 4, 5, dtype=dtype).to(memory_format=layout)
    given = [x_BCHW, *([torch.ones(3, dtype=dtype)] * 2 if affine else [None] * 2), *[torch.ones(3, dtype=dtype)] * 2]
    norm = torch.ops.aten._native_batch_norm_legit_no_training.default
    ours = run_operator(norm, [each if each is None else each.to("meta") for each in given] + [0.1, 1e-5], {})
    for mine, computed in zip(ours, norm(*given, 0.1, 1e-5), strict=True):
        assert mine.is_meta
        assert (mine.shape, mine.stride(), mine.dtype) == (computed.shape, computed.stride(), computed.dtype)


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


# ---------------------------------------------------------------------------------------------------------------------
# Cost does not depend on how a network is traced, wrapped, pruned or called, and what is not known is said.

SIZE = (3, 16, 16)


def small() -> nn.Module:
    return create("resnet8", SE(4, bias=True), 5, seed=0).eval()


def alike(net: nn.Module, other: nn.Module) -> None:
    """All numbers, and those of the stages; tracing merges and splits operators that count nothing."""
    one, two = (cost(each, SIZE) for each in (net, other))
    for mine, theirs in [(one, two), *((one.stages[stage], two.stages[stage]) for stage in one.stages)]:
        for name in vars(mine).keys() - {"stages", "operations"}:
            assert getattr(mine, name) == getattr(theirs, name), name


TRACED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "fx": torch.fx.symbolic_trace,
    "pickled": lambda net: pickle.loads(pickle.dumps(torch.fx.symbolic_trace(net))),
    "feature extractor": lambda net: create_feature_extractor(net, ["fc"]),
    "in another": lambda net: nn.Sequential(torch.fx.symbolic_trace(net)).eval(),
    "exported": lambda net: torch.export.export(net, (torch.zeros(1, *SIZE),)).module(),
    "averaged": AveragedModel,
    "for devices": nn.DataParallel,
    "compiled": torch.compile,
}


@pytest.mark.parametrize("design", [SE(4), SE(4, "none", position="pre")], ids=str)
@pytest.mark.parametrize("how", TRACED)
def test_a_network_that_was_traced_or_wrapped_costs_the_same(how: str, design: SE) -> None:
    net = create("resnet8", design, 5, seed=0).eval()
    alike(net, TRACED[how](net))


def kept(net: nn.Module) -> None:
    net.layer1[0].register_forward_hook(lambda module, given, out: setattr(module, "latest", [out]))
    net(torch.zeros(1, *SIZE))


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "pruned": lambda net: prune.l1_unstructured(net.layer1[0].conv1, "weight", 0.5),
    "gate pruned": lambda net: prune.l1_unstructured(net.layer1[0].bn2.se.fc1, "weight", 0.5),
    "spectral norm": lambda net: nn.utils.spectral_norm(net.layer1[0].conv1),
    "spectral norm as parametrization": lambda net: nn.utils.parametrizations.spectral_norm(net.layer1[0].conv1),
    "an activation is kept": kept,
    "forward replaced": lambda net: setattr(net.layer1[0], "forward", net.layer1[0].forward),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_whose_weights_are_made_or_that_keeps_something_costs_the_same(change: str) -> None:
    net = small()
    CHANGES[change](net)
    alike(net, small())


class Lambda(nn.Module):
    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 3, 3, 3))
        for name, part in parts.items():
            setattr(self, name, part)
        self.call = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT


LAYERS: dict[str, tuple[int, Lambda]] = {
    "functional": (8 * 27 * 14 * 14, Lambda(lambda net, x: F.conv2d(x, net.weight))),
    "transposed": (3 * 8 * 4 * 256, Lambda(lambda net, x: net.a(x), a=nn.ConvTranspose2d(3, 8, 2, 2))),
    "einsum": (8 * 3 * 256, Lambda(lambda net, x: torch.einsum("bchw,dc->bdhw", x, net.weight[:, :, 0, 0]))),
    "matmul": (256 * 256 * 3, Lambda(lambda net, x: tokens(x) @ tokens(x).mT)),
    "a vector": (27 * 8, Lambda(lambda net, x: net.weight.flatten(1) @ x.flatten()[:27])),
    "attention": (2 * 256 * 256 * 3, Lambda(lambda net, x: F.scaled_dot_product_attention(*[tokens(x)] * 3))),
    "LSTM": (9 * 4 * 4 * (3 + 4), Lambda(lambda net, x: net.a(tokens(x)[:, :9])[0], a=nn.LSTM(3, 4, batch_first=True))),
    "GRU": (9 * 3 * 4 * (3 + 4), Lambda(lambda net, x: net.a(tokens(x)[:, :9])[0], a=nn.GRU(3, 4, batch_first=True))),
    "twice": (2 * 9 * 256, Lambda(lambda net, x: net.a(net.a.forward(x)), a=nn.Conv2d(3, 3, 1))),
    "values decide": (24 * 256, Lambda(lambda net, x: net.a(x) if x.sum().item() > 0 else x, a=nn.Conv2d(3, 8, 1))),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_multiply_adds_of_layers_however_they_are_called(layer: str) -> None:
    macs, net = LAYERS[layer]
    assert cost(net, SIZE).macs == macs


UNKNOWN = {
    "_trilinear": Lambda(lambda net, x: net.a(x.mean((2, 3)), x.mean((2, 3))), a=nn.Bilinear(3, 3, 5)),
    "_fft_c2c": Lambda(lambda net, x: torch.fft.fft2(x).real),
    "deform_conv2d": Lambda(lambda net, x: deform_conv2d(x, x.new_zeros(1, 18, 14, 14), net.weight)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_operators_that_multiply_nobody_knows_how_much_are_named(name: str) -> None:
    with pytest.warns(UserWarning, match=rf"cost: how much \w+\.{name}\.default multiplies is not known"):
        cost(UNKNOWN[name], SIZE)


class Called(nn.Module):
    """Its stages and its gate are called by their forward, or not at all."""

    def __init__(self, inlined: bool) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False))
        self.layer2 = nn.ModuleList([nn.Conv2d(4, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)])
        self.se = SEBlock(8, 2)
        self.inlined = inlined

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1.forward(x)
        for part in self.layer2:
            x = part.forward(x)
        if self.inlined:
            return x * self.se.fc2(self.se.fc1(x.mean((2, 3), keepdim=True)))
        return self.se.forward(x)


def test_parts_that_are_called_by_their_forward_are_counted_where_they_are() -> None:
    found = cost(Called(inlined=False), SIZE)
    assert {stage: part.macs for stage, part in found.stages.items()} == {2: 12 * 256, 3: (32 + 64) * 256}
    assert (found.se_params, found.se_macs) == (64, 64 + 2 * 8 * 256)


def test_gates_whose_layers_are_called_from_outside_are_counted_as_others() -> None:
    one, two = cost(Called(inlined=True), SIZE), cost(Called(inlined=False), SIZE)
    assert (one.se_params, one.se_macs, one.backbone_macs) == (two.se_params, two.se_macs, two.backbone_macs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_scripted_stages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^cost: the network is scripted and does not say"):
        cost(torch.jit.script(small()), SIZE)


def test_se_of_timm_is_se() -> None:
    found = [cost(net, (3, 64, 64)) for net in (timm.create_model("seresnet18"), build_like("seresnet18"))]
    assert [(each.params, each.se_params, each.macs, each.se_macs) for each in found] == [
        (11_779_624, 90_112, found[1].macs, found[1].se_macs)
    ] * 2


@pytest.mark.parametrize("size", [(3, 0, 0), (3, -1, 8), (0, 8, 8), ()])
def test_an_image_without_pixels_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^cost: an image of size .* has no pixels$"):
        cost(small(), size)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_no_classes_cost_nothing() -> None:
    assert cost(create("resnet8", SE(4), 10), SIZE).macs - cost(create("resnet8", SE(4), 0), SIZE).macs == 640


def test_cost_leaves_a_network_as_it_is_that_cannot_be_copied() -> None:
    net = Lambda(lambda net, x: setattr(net, "latest", x) or net.a(x), a=nn.Conv2d(3, 8, 1))  # type: ignore[func-returns-value]
    net.lock = threading.Lock()
    before = {name: (module.training, dict(vars(module))) for name, module in net.named_modules()}
    assert cost(net, SIZE).macs == 24 * 256
    assert {name: (module.training, dict(vars(module))) for name, module in net.named_modules()} == before


def test_what_a_gate_stands_before_is_no_part_of_it() -> None:
    """The 1×1 convolution that the gate of position conv3x3 is wrapped with."""
    net = create("resnet50", SE(position="conv3x3"))
    assert cost(net, (3, 32, 32)).se_params == 157_184
