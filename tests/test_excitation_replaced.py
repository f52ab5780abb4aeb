"""Gates replaced: known gates, so that the errors follow by hand; the factor of every kind; the command."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from kept import Kept
from torch import Tensor, nn

from senet_lab.__main__ import main
from senet_lab.config import SE
from senet_lab.models import create
from senet_lab.models.gate_factors import all_gates, gate_factor
from senet_lab.models.gated import Gated
from senet_lab.models.kinds import made, names
from senet_lab.reports.replacement import summarise_replacement
from senet_lab.training import gate_replacement
from senet_lab.training.lit import SENet

ADDING = ("timm:gca", "timm:nl")


class MeanGate(nn.Module):
    """Multiplies a map by its mean."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True)


class Threshold(nn.Module):
    """Class 1 where the mean of the map is above 2.5."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(2.5))

    def forward(self, x: Tensor) -> Tensor:
        mean_B = x.mean((1, 2, 3))
        return torch.stack([self.at.expand_as(mean_B), mean_B], 1)


def images(*classes: int) -> list[tuple[Tensor, Tensor]]:
    """Images of 1 for class 0, of 2 for class 1. Gated they are 1 and 4."""
    y_B = torch.tensor(classes)
    return [((1.0 + y_B)[:, None, None, None].expand(-1, 1, 3, 3), y_B)]


TEST = images(0, 1, 1, 0, 1, 0)


@pytest.mark.parametrize(
    ("how", "training", "wrong"),
    [
        ("one", (), [0, 1, 1, 0, 1, 0]),  # 1 and 2
        ("mean", (0, 1), [0, 0, 0, 0, 0, 0]),  # a mean gate of 1.5: 1.5 and 3
        ("mean", (0, 0, 0, 0, 1), [0, 1, 1, 0, 1, 0]),  # of 1.2: 1.2 and 2.4
        ("class", (0, 0, 0, 0, 1), [0, 0, 0, 0, 0, 0]),  # 1 and 4, as trained
        ("shuffled", (), [0, 1, 0, 0, 1, 0]),  # 2 of a 2 whose gate is that of the 1 before it
    ],
)
def test_errors_of_known_gates_follow_by_hand(how: str, training: tuple[int, ...], wrong: list[int]) -> None:
    net = nn.Sequential(Gated(nn.Identity(), MeanGate(), "after"), Threshold())
    means = gate_replacement.mean_factors(net, images(*training), 2) if training else None
    found = gate_replacement.replaced_outcomes(net, TEST, how, means)
    assert found[""].tolist() == [0] * 6
    assert found["0.se"].tolist() == wrong
    assert isinstance(net[0].se, MeanGate), "the network is as it was"


def test_stages_are_replaced_one_by_one_and_together() -> None:
    """Against the same with the gates of those stages taken out of the network."""
    net = create("resnet8", SE(2), 3, in_channels=1, seed=0).eval()
    x_BCHW = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y_B = torch.arange(40) % 3
    found = gate_replacement.replaced_outcomes(net, [(x_BCHW, y_B)], "one", None)
    assert list(found) == ["", "2", "3", "4", "all"]
    for stage, paths in {"3": ["layer2.0.bn2"], "all": [f"layer{n}.0.bn2" for n in (1, 2, 3)]}.items():
        bare = create("resnet8", SE(2), 3, in_channels=1, seed=0).eval()
        for path in paths:
            bare.get_submodule(path).se = nn.Identity()
        assert found[stage].tolist() == (bare(x_BCHW).argmax(1) != y_B).tolist()


@pytest.mark.parametrize("kind", names())
def test_every_kind_that_multiplies_has_a_factor(kind: str) -> None:
    gate = made(SE(4, kind=kind), 16, 4).eval()
    x_BCHW = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    if kind in ADDING:
        with pytest.raises(ValueError, match="does not multiply its map by a factor"):
            gate_factor(gate, x_BCHW)
    else:
        torch.testing.assert_close(x_BCHW * gate_factor(gate, x_BCHW), gate(x_BCHW))
        assert kind in ("simam", "timm:cbam", "timm:lcbam", "timm:coord", "timm:scoord", "timm:ela", "timm:strip") or (
            gate_factor(gate, x_BCHW).shape == (3, 16, 1, 1)
        )


def test_intervals_are_over_images_and_over_seeds() -> None:
    trained = [{"": np.array([0.0, 0, 1, 0]), "2": np.array([1.0, 0, 1, 0])} for _ in range(2)]
    trained[1] = {"": np.array([0.0, 0, 0, 0]), "2": np.array([1.0, 1, 0, 0])}
    plain, stage = summarise_replacement(trained).to_dict("records")
    assert (plain["stage"], plain["error"], stage["error"], stage["delta"]) == ("as trained", 12.5, 50, 37.5)
    over_images, over_seeds = np.array([100, 50, 0, 0]), np.array([25, 50])  # points
    assert stage["images"] == pytest.approx(3.18245 * over_images.std(ddof=1) / 2, rel=1e-4)
    assert stage["seeds"] == pytest.approx(12.7062 * over_seeds.std(ddof=1) / 2**0.5, rel=1e-4)


def test_the_command_takes_several_trained_networks(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    shutil.copytree(kept.results, results)
    first = results / "checkpoints" / f"{kept.trial_id}.ckpt"
    shutil.copy(first, second := tmp_path / "second.ckpt")
    words = ["excitation", str(first), str(second), "--replace", "mean", "--to", str(tmp_path / "out")]
    assert main([*words, "--results", str(results), "data=digits"]) == 0
    table = pd.read_csv(tmp_path / "out" / "replaced_mean.csv")
    assert table["stage"].tolist() == ["as trained", "2", "3", "4", "all"]
    assert (table["networks"] == 2).all()
    assert (table["replaced_by"] == "their mean over the training images").all()
    assert (table["seeds"].dropna() == 0).all(), "it is the same network twice"
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".csv", ".svg", ".png", ".pdf"}
    module = SENet("resnet8", None, classes=10, channels=1)
    content = {"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict()}
    torch.save(content, plain := tmp_path / "plain.ckpt")
    adding = SENet("resnet8", SE(kind="timm:gca"), classes=10, channels=1)
    content = {"hyper_parameters": dict(adding.hparams), "state_dict": adding.state_dict()}
    torch.save(content, added := tmp_path / "added.ckpt")
    capsys.readouterr()
    for words, said in {
        (str(plain), "--replace", "one"): "has no gates to replace",
        (str(added), "--replace", "one"): "a GlobalContext does not multiply its map by a factor",
        (str(first), "--replace", "two"): "invalid choice: 'two'",
        (str(first), str(second)): "excitation takes a checkpoint and words about its data",
    }.items():
        assert main(["excitation", *words, "data=digits", "--results", str(results), "--to", str(tmp_path / "no")]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1
        assert not (tmp_path / "no").exists()


def test_networks_without_gates_have_none_to_replace() -> None:
    assert all_gates(create("resnet8", None, 3)) == {}
