"""Trainings that start from given weights (`init`)."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from kept import DIGITS, Kept
from torch import Tensor, nn

from senet_lab.compose import compose
from senet_lab.config import SE, RunError, UserError
from senet_lab.models import create, starting
from senet_lab.models.slots import POSITIONS
from senet_lab.run import main
from senet_lab.studies import plan
from senet_lab.studies.plan import Cell
from senet_lab.studies.store import Store
from senet_lab.studies.variants import variants
from senet_lab.training import trial
from senet_lab.training.checkpoints import load_network
from senet_lab.training.starting import start


def drawn(net: nn.Module, seed: int = 1) -> nn.Module:
    """With weights and statistics that no initialisation gives."""
    dice = torch.Generator().manual_seed(seed)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=dice) + 0.1)
    return net


def digits() -> Tensor:
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def cell_of(*words: str) -> Cell:
    """The training that the words ask for."""
    (cell,) = plan.make_plan(compose(words)).cells
    return cell


def test_a_kept_network_is_where_another_training_starts(kept: Kept) -> None:
    """With its gates: it computes what the kept one does; and so does the training, as its first epoch shows."""
    spec = cell_of(*DIGITS, f"init={kept.checkpoint}").spec
    net, was = create("resnet8", spec.se, 10, in_channels=1, seed=0).eval(), load_network(kept.checkpoint).eval()
    assert not torch.equal(net(digits()), was(digits()))
    start(net, spec)
    assert torch.equal(net(digits()), was(digits()))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", ["se", "static"])
def test_with_gates_from_one_a_network_computes_at_first_what_the_plain_one_does(
    kind: str, position: str, tmp_path: Path
) -> None:
    plain = drawn(create("resnet8", None, 10, in_channels=1))
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    for training in (False, True):
        nets = [
            create("resnet8", SE(kind=kind, position=position, identity_start=from_one), 10, in_channels=1, seed=3)
            for from_one in (True, False)
        ]
        for net in nets:
            state = starting.read_start(str(tmp_path / "plain.pt")).state
            net.load_state_dict(starting.fit(net, state).weights, strict=False)
        first, usual = (net.train(training)(digits()) for net in nets)
        assert torch.equal(first, plain.train(training)(digits()))
        assert not torch.equal(first, usual)


def test_the_rows_of_fine_tuning() -> None:
    made = {row.label: (row.baseline, row.config.se) for row in variants(compose(["+ablation=finetune"]))}
    assert made == {
        "none": ("none", None),
        "SE": ("none", SE()),
        "SE from identity": ("none", SE(identity_start=True)),
        "static": ("none", SE(kind="static")),
    }


def test_a_study_starts_all_its_rows_from_the_same_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained with a learning rate of next to nothing, SE from identity ends as the plain network does."""
    words = [f"results={tmp_path}", "tracking=off", "data.subset=100", "data.test_subset=50", "executor.workers=1"]
    first = [*words, "se=null", "recipe.epochs=3", "training.keep=last"]
    main(first)
    (kept,) = (tmp_path / "checkpoints").glob("*.ckpt")
    capsys.readouterr()
    main([*words, "+ablation=finetune", f"init={kept}", "recipe.epochs=1", "recipe.lr=1e-9", "seeds=1"])
    assert f"starts from {kept}" in capsys.readouterr().out
    errors = {each["label"]: each["metrics"]["test_loss"] for each in Store(f"sqlite:///{tmp_path}/lab.db").latest(4)}
    assert errors["SE from identity"] == pytest.approx(errors["none"], abs=1e-5)
    assert abs(errors["SE"] - errors["none"]) > 1e-2
    assert abs(errors["static"] - errors["none"]) > 1e-2


# ---------------------------------------------------------------------------------------------------------------------
# What tells a trial


def test_the_weights_name_the_trial_and_their_place_does_not(tmp_path: Path) -> None:
    plain = drawn(create("resnet8", None, 10, in_channels=1))
    torch.save(plain.state_dict(), tmp_path / "one.pt")
    safetensors.torch.save_file(plain.state_dict(), tmp_path / "same.safetensors")
    ids = {name: cell_of(f"init={tmp_path / name}").trial_id for name in ("one.pt", "same.safetensors")}
    assert ids["one.pt"] == ids["same.safetensors"] != cell_of().trial_id
    (tmp_path / "one.pt").unlink()
    next(plain.parameters()).data.view(-1)[0] += 1e-6
    torch.save(plain.state_dict(), tmp_path / "one.pt")
    assert cell_of(f"init={tmp_path / 'one.pt'}").trial_id not in ids.values()


def test_weights_that_changed_since_the_plan_are_not_trained_from(tmp_path: Path) -> None:
    plain = create("resnet8", None, 10, in_channels=1)
    torch.save(plain.state_dict(), tmp_path / "net.pt")
    spec = cell_of("recipe.epochs=1", "data.subset=40", f"init={tmp_path / 'net.pt'}").spec
    torch.save(drawn(plain).state_dict(), tmp_path / "net.pt")
    with pytest.raises(RunError, match=r"init=.*net\.pt: the weights have changed since the study began"):
        trial.run_trial(spec, tmp_path / "checkpoint.ckpt", lambda entry: None)
    assert not (tmp_path / "checkpoint.ckpt").exists()


# ---------------------------------------------------------------------------------------------------------------------
# What fits, and what does not


def test_the_classifier_of_other_classes_begins_anew(tmp_path: Path) -> None:
    other = drawn(create("resnet8", None, 7, in_channels=1))
    torch.save(other.state_dict(), tmp_path / "seven.pt")
    cell = cell_of("se=null", f"init={tmp_path / 'seven.pt'}")
    assert cell.row.start.endswith("seven.pt; its classifier, fc, is new: 10 classes for 7")
    net, fresh = (create("resnet8", None, 10, in_channels=1, seed=0) for _ in range(2))
    start(net, cell.spec)
    state = net.state_dict()
    for key, tensor in other.state_dict().items():
        assert torch.equal(state[key], fresh.state_dict()[key] if key.startswith("fc.") else tensor), key


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as error:
        cell_of(*words)
    (line,) = str(error.value).splitlines()
    return line


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    """Which keys and how many, before anything is written."""
    states = {
        name: create(name, SE() if name == "resnet8" else None, 10, in_channels=1).state_dict()
        for name in ("resnet8", "resnet20")
    }
    torch.save(states["resnet20"], tmp_path / "deeper.pt")
    assert "left over" in refusal("se=null", f"init={tmp_path / 'deeper.pt'}")
    gated = states["resnet8"]
    torch.save(gated, tmp_path / "gated.pt")
    assert "6 left over" in refusal("se=null", f"init={tmp_path / 'gated.pt'}")
    gate = next(key for key in gated if key.endswith("fc1.weight"))
    torch.save({key: tensor for key, tensor in gated.items() if key != gate}, tmp_path / "some.pt")
    assert f"1 missing: {gate}" in refusal(f"init={tmp_path / 'some.pt'}")
    wide = next(key for key in gated if "fc." not in key and gated[key].dim() == 4)
    torch.save({**gated, wide: gated[wide][:, :, :1]}, tmp_path / "shape.pt")
    assert "1 of another shape" in refusal(f"init={tmp_path / 'shape.pt'}")
    (tmp_path / "text.pt").write_text("no weights")
    assert "is no file of weights" in refusal(f"init={tmp_path / 'text.pt'}")
    assert refusal("init=nowhere.pt").startswith("init: there is no file nowhere.pt")
