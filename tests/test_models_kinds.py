"""Every kind of gate against its formula or timm's module, in every place, and what tells its trainings from others."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_models_se import reference
from timm.layers import create_attn
from torch import Tensor, nn

from senet_lab import SE, add_se
from senet_lab.compose import compose
from senet_lab.config import UserError
from senet_lab.models import cost, create, hidden_widths
from senet_lab.models.gated import gates_in
from senet_lab.models.kinds import OF_TIMM, TIMM, made, names
from senet_lab.models.slots import POSITIONS
from senet_lab.studies import plan, rows
from senet_lab.training import checkpoints
from senet_lab.training.lit import SENet
from senet_lab.training.spec import Spec

C = 12


def drawn(kind: str, channels: int = C, **args: Any) -> nn.Module:
    """A gate in double precision whose weights are all drawn."""
    gate = made(SE(4, kind=kind, args=args), channels, 4, torch.Generator().manual_seed(0)).double().eval()
    dice = torch.Generator().manual_seed(1)
    for weight in gate.parameters():
        nn.init.normal_(weight, generator=dice)
    return gate


def simam(x: Tensor) -> Tensor:
    """The paper's listing, as it stands there."""
    n = x.shape[2] * x.shape[3] - 1
    d = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
    v = d.sum(dim=[2, 3], keepdim=True) / n
    return x * torch.sigmoid(d / (4 * (v + 1e-4)) + 0.5)


def eca(x: Tensor, weight: Tensor) -> Tensor:
    """Equations 5 and 12 of its paper: a band of a matrix over neighbouring channels, of the odd width next to
    |log2 C / 2 + 1 / 2|."""
    k = 2 * (int(abs(math.log2(C) / 2 + 0.5)) // 2) + 1
    assert weight.shape[-1] == max(k, 3)
    band = torch.zeros(C, C, dtype=x.dtype)
    for i, j in itertools.product(range(C), range(weight.shape[-1])):
        if 0 <= i + j - weight.shape[-1] // 2 < C:
            band[i, i + j - weight.shape[-1] // 2] = weight[0, 0, j]
    return x * torch.sigmoid(x.mean((2, 3)) @ band.T)[:, :, None, None]


def cbam(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Equations 2 and 3 of its paper; timm's norm behind the 7×7 begins as the identity."""

    def mlp(z: Tensor) -> Tensor:
        return torch.relu(z @ w["channel.fc1.weight"].flatten(1).T) @ w["channel.fc2.weight"].flatten(1).T

    x = x * torch.sigmoid(mlp(x.mean((2, 3))) + mlp(x.amax((2, 3))))[:, :, None, None]
    both = torch.stack([x.mean(1), x.amax(1)], 1)
    y = F.conv2d(both, w["spatial.conv.conv.weight"], padding=3) / math.sqrt(1 + 1e-5)
    return x * torch.sigmoid(y * w["spatial.conv.bn.weight"] + w["spatial.conv.bn.bias"])


FORMULAS = {
    "se": lambda gate, x: reference(x, gate),
    "constant": lambda gate, x: x / 2,
    "static": lambda gate, x: torch.einsum("nchw,c->nchw", x, 1 / (1 + (-gate.weight).exp())),
    "simam": lambda gate, x: simam(x),
    "timm:eca": lambda gate, x: eca(x, gate.conv.weight),
    "timm:ge": lambda gate, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "timm:cbam": lambda gate, x: cbam(x, gate.state_dict()),
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_kinds_compute_their_papers_formulas(kind: str) -> None:
    gate = drawn(kind)
    x_BCHW = torch.randn(3, C, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(gate(x_BCHW), FORMULAS[kind](gate, x_BCHW), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TIMM)
def test_timms_kinds_are_its_own_modules(name: str) -> None:
    """With the same weights; the hidden width is the lab's, not rounded to multiples of 8."""
    gate = drawn(OF_TIMM + name, 16)
    words = {"rd_channels": 4} if name not in ("ese", "ceca", "ela", "strip") else {}
    theirs = create_attn(name, 16, **words | TIMM[name]).double().eval()
    theirs.load_state_dict(gate.state_dict())
    x_BCHW = torch.randn(2, 16, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(gate(x_BCHW), theirs(x_BCHW), rtol=1e-6, atol=1e-6)


def test_the_controls_take_arguments_and_starts() -> None:
    x_BCHW = torch.randn(2, C, 3, 3)
    assert torch.equal(drawn("constant", value=0.25).float()(x_BCHW), x_BCHW / 4)
    for excitation, starts in {"sigmoid": (0.5, 1.0), "softmax": (1 / C, 1.0), "tanh": (0.0, 1.0)}.items():
        for one in (False, True):
            gate = made(SE(kind="static", excitation=excitation, identity_start=one), C, 16)
            torch.testing.assert_close(gate(x_BCHW), x_BCHW * starts[one])
    assert torch.equal(made(SE(kind="simam"), C, 16)(torch.ones(1, C, 1, 1)), torch.full((1, C, 1, 1), 0.5).sigmoid())


def weights_of_gates(net: nn.Module) -> list[Tensor]:
    return [weight for gate in gates_in(net).values() for weight in gate.parameters()]


# Each kind at two places, which have the same channels here; every place is met, and test_models_insert tries each.
OTHERS = itertools.cycle([position for position in POSITIONS if position != "standard"])


@pytest.mark.parametrize(("kind", "other"), [(kind, next(OTHERS)) for kind in names()])
def test_every_kind_goes_into_a_network(kind: str, other: str) -> None:
    """Into the same plain network, without a trace in the global generator, and costed."""
    plain = create("resnet8", None, 10, seed=3)
    before, without = torch.random.get_rng_state(), cost(plain, (3, 32, 32))
    for position in ("standard", other):
        net = create("resnet8", SE(4, kind=kind, position=position), 10, seed=3)
        assert len(gates_in(net)) == 3
        for name, weight in net.state_dict().items():
            assert ".se." in name or torch.equal(weight, plain.state_dict()[name.replace(".body", "")])
        net(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))).sum().backward()
        found = cost(net, (3, 32, 32))
        assert (found.backbone_macs, found.operations) == (without.macs, without.operations)
        assert found.se_params == sum(map(Tensor.numel, weights_of_gates(net))) == found.params - without.params
        assert found.se_macs > 0
        assert list(hidden_widths(net)) == [2, 3, 4]
    again, other = (weights_of_gates(create("resnet8", SE(4, kind=kind), 10, seed=seed)) for seed in (3, 4))
    first = weights_of_gates(create("resnet8", SE(4, kind=kind), 10, seed=3))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    random = [(one, two) for one, two in zip(first, other, strict=True) if len(one.unique()) > 1]
    assert not any(torch.equal(one, two) for one, two in random)
    assert torch.equal(before, torch.random.get_rng_state())


# ------------------------------------------------------------------------------------------------ what tells them apart


def spec(line: str) -> Spec:
    """Of the one trial of a network that a line of words asks for."""
    return plan.make_plan(compose([*line.split(" "), "seeds=1"])).cells[0].spec


def ids(*lines: str) -> list[str]:
    return [spec(line).trial_id for line in lines]


@pytest.mark.slow
def test_no_two_designs_share_a_name() -> None:
    lines = [f"se.kind={kind}" for kind in ("se", "constant", "static", "simam", "timm:gc", "timm:gca")]
    lines += [f"se.kind=constant {word}" for word in ("se.args={value:0.3}", "se.stages=[2]", "se.position=pre")]
    lines += ["se.kind=timm:cbam se.reduction=4", "se.kind=static se.excitation=tanh", "se.kind=static se.stages=[2,3]"]
    specs = {line: spec(line) for line in lines}
    assert len({each.trial_id for each in specs.values()}) == len(lines)
    assert spec("se.kind=se se.reduction=16").trial_id == specs["se.kind=se"].trial_id
    static = specs["se.kind=static"].trial_id
    assert spec("se.kind=static se.reduction=4").trial_id == static, "it does not look at the reduction"
    assert all(specs[line].code == "" for line in lines[:5]), "what is released needs no more to be told"


GATE = """
import torch
from torch import nn
class Gate(nn.Module):
    def __init__(self, channels, slope=1.0, reduction=4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels))
        self.slope = slope
    def forward(self, x):
        return x * (self.slope * self.weight).sigmoid()[:, None, None]
class Spread(nn.Module):
    def __init__(self, channels):
        super().__init__()
    def forward(self, x):
        return x.mean((2, 3), keepdim=True)
class Two(nn.Module):
    def __init__(self, channels):
        raise RuntimeError("no gate today")
def nothing(channels):
    return 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module with classes of the user's own."""
    name = f"gates_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(GATE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_class_of_ones_own_is_told_by_its_source_and_arguments(mine: str, tmp_path: Path) -> None:
    line = f"se.kind={mine}:Gate"
    first = spec(line)
    others = ids(line, f"{line} se.args.slope=2", f"{line} se.reduction=8", f"{line} se.position=pre")
    assert first.code
    assert others[0] == first.trial_id
    assert len(set(others)) == 4
    path = tmp_path / f"{mine}.py"
    path.write_text(GATE.replace("import torch\n", "import torch\n# a word\n"))
    assert spec(line).trial_id == first.trial_id, "a comment changes nothing"
    path.write_text(GATE.replace("self.slope * self.weight", "self.slope + self.weight"))
    assert spec(line).trial_id != first.trial_id


def test_a_file_has_no_class_imported_that_nobody_vouches_for(mine: str, tmp_path: Path) -> None:
    import pytorch_lightning as pl

    module = SENet("resnet8", SE(kind=f"{mine}:Gate", args={"slope": 2.0}), recipe={"epochs": 1})
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, max_epochs=0, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    with pytest.raises(UserError, match=f"say se.kind={mine}:Gate"):
        checkpoints.load_network(tmp_path / "net.ckpt")
    loaded = checkpoints.load_network(tmp_path / "net.ckpt", own=[f"{mine}:Gate"])
    assert {gate.slope for gate in gates_in(loaded.net).values()} == {2.0}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "sa"}, "se.kind: 'sa' is not one of se, constant, static, simam, timm:se"),
        ({"kind": "timm:sa"}, "se.kind: 'timm:sa' is not one of se, constant"),
        ({"kind": "constant", "args": {"values": 1}}, "se.args of constant: 'values' is not one of value"),
        (
            {"kind": "timm:eca", "args": {"kernel_size": 5}},
            "se.args of timm:eca: 'kernel_size' is not one of gamma",
        ),
        ({"kind": "timm:cbam", "args": {"rd_ratio": 0.5}}, "se.args of timm:cbam: 'rd_ratio' is not one of spatial_k"),
        ({"args": {"x": 1}}, "se.args of se: 'x' is not one of none"),
        ({"kind": "constant", "args": {"value": "x"}}, "the value of a constant gate is a number, not 'x'"),
        ({"kind": "constant", "args": {"value": math.nan}}, "is a number, not nan"),
        ({"kind": "constant", "args": {"value": True}}, "is a number, not True"),
        ({"kind": "constant", "args": 3}, "se.args: 3 is not a mapping"),
        ({"kind": "constant", "excitation": "tanh"}, "se.excitation: a gate of the kind constant has no excitation"),
        ({"kind": "timm:eca", "identity_start": True}, "se.identity_start: a gate of the kind timm:eca has no"),
        ({"kind": "timm:cbam", "args": {"spatial_kernel_size": "x"}}, "timm:cbam makes no gate of 16 channels: "),
        ({"kind": "nowhere:Gate"}, "se.kind: cannot import nowhere for 'nowhere:Gate'"),
        ({"kind": "mine:Missing"}, "has no Class 'Missing'; it has Gate, Spread, Two, nothing"),
        ({"kind": "mine:Two"}, "makes no gate of 16 channels: no gate today"),
        ({"kind": "mine:nothing"}, "gives a int, not a torch.nn.Module"),
        (
            {"kind": "mine:Spread"},
            "bn2: of 2 × 16 × 224 × 224 the gate makes 2 × 16 × 1 × 1, and not that shape",
        ),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_the_network(mine: str, fields: dict[str, Any], words: str) -> None:
    if str(fields.get("kind")).startswith("mine"):
        fields = fields | {"kind": fields["kind"].replace("mine", mine)}
    net = create("resnet8", None, 10, seed=0)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        add_se(net, **fields)
    assert "\n" not in str(caught.value)
    assert not gates_in(net)
    with pytest.raises(ValueError, match=re.escape(words)):
        create("resnet8", SE(**fields), 10, seed=0)


def test_a_network_that_has_a_gate_of_any_kind_gets_no_other() -> None:
    net = create("resnet8", SE(kind="constant"), 10, seed=0)
    with pytest.raises(ValueError, match=r"has SE already: layer1\.0\.bn2\.se is a Constant"):
        add_se(net)


def attention(*words: str) -> list[rows.Row]:
    return plan.make_plan(compose(["+ablation=attention", "seeds=1", *words])).rows


def test_the_attention_study_varies_the_kind_alone() -> None:
    made = attention("+study.rows.x={se.kind:constant,se.args:{value:0.3}}")
    assert {row.label: row.se and (row.se.kind, row.se.args) for row in made} == {
        "none": None,
        "constant": ("constant", None),
        "static": ("static", None),
        "SE": ("se", None),
        "ECA": ("timm:eca", None),
        "GE": ("timm:ge", None),
        "CBAM": ("timm:cbam", None),
        "SimAM": ("simam", None),
        "x": ("constant", {"value": 0.3}),
    }
    assert len({row.cost.backbone_macs for row in made}) == 1
    assert all(row.paper_cost is not None for row in made)
    with pytest.raises(UserError, match=r"'x' changes more than se\.kind"):
        attention("+study.rows.x={se.position:pre}")
