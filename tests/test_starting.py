"""Trainings that start from given weights (`init`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from in_process import trained_here
from kept import DIGITS, Kept
from launching import one_line
from test_models_library import NAMES
from torch import Tensor, nn

from senet_lab.compose import compose
from senet_lab.config import SE, RunError, UserError
from senet_lab.models import create, starting
from senet_lab.models.library_weights import names_and_shapes, published
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
            noise = torch.rand(tensor.shape, generator=dice)
            tensor.copy_(tensor * (0.8 + 0.4 * noise) + 0.2 * noise * (tensor.dim() == 1))
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
    words = [f"results={tmp_path}", "tracking=off", "data.subset=100", "data.test_subset=50"]
    with trained_here():
        main([*words, "se=null", "recipe.epochs=3", "training.keep=last"])
        (kept,) = (tmp_path / "checkpoints").glob("*.ckpt")
        capsys.readouterr()
        main([*words, "+ablation=finetune", f"init={kept}", "recipe.epochs=1", "recipe.lr=1e-9", "seeds=1"])
    assert f"starts from {kept}, classifier included" in capsys.readouterr().out
    (commands,) = (tmp_path / "digits-subset=100-test_subset=50").rglob("finetune/commands.csv")
    assert "+ablation=finetune init=FILE recipe.epochs=1" in commands.read_text()
    errors = {each["label"]: each["metrics"]["test_loss"] for each in Store(f"sqlite:///{tmp_path}/lab.db").latest(4)}
    assert errors["SE from identity"] == pytest.approx(errors["none"], abs=1e-5)
    assert abs(errors["SE"] - errors["none"]) > 1e-2
    assert abs(errors["static"] - errors["none"]) > 1e-2


# ---------------------------------------------------------------------------------------------------------------------
# Networks and weights of timm and torchvision


def without_gates(net: nn.Module) -> nn.Module:
    """timm's network with nothing in the place of its SE."""
    for path, module in list(net.named_modules()):
        if type(module).__name__ in ("SqueezeExcite", "SEModule"):
            net.get_submodule(path.rpartition(".")[0]).se = nn.Identity()
    return net


@pytest.mark.parametrize(
    ("name", "stride", "make", "gates"),
    [
        ("timm:resnet18", "paper", lambda: timm.create_model("resnet18", num_classes=5), 0),
        ("resnet50", "torchvision", lambda: torchvision.models.resnet50(num_classes=5), 0),
        ("torchvision:mobilenet_v2", "paper", lambda: torchvision.models.mobilenet_v2(num_classes=5), 0),
        ("timm:mobilenetv3_small_050", "paper", lambda: timm.create_model("mobilenetv3_small_050", num_classes=5), 36),
        ("timm:seresnet18", "paper", lambda: timm.create_model("seresnet18", num_classes=5), 32),  # our names for gates
    ],
)
def test_a_librarys_file_gives_the_librarys_network(
    name: str, stride: str, make: Callable[[], nn.Module], gates: int, tmp_path: Path
) -> None:
    """With gates that start at 1, the logits are the library's own; its SE, where it has some, is left out."""
    theirs = drawn(make()).eval()
    torch.save({"state_dict": {f"module.{key}": each for key, each in theirs.state_dict().items()}}, tmp_path / "a.pth")
    ours = create(name, SE(identity_start=True), 5, stride=stride, seed=0).eval()
    fit = starting.fit(ours, starting.read_start(str(tmp_path / "a.pth")).state)
    assert (fit.head, fit.without) == ("", gates)
    ours.load_state_dict(fit.weights, strict=False)
    x_BCHW = torch.rand(2, 3, 64, 64)
    assert torch.equal(ours(x_BCHW), without_gates(theirs)(x_BCHW))


def test_gates_of_timm_come_with_its_weights_where_ours_are_alike(tmp_path: Path) -> None:
    theirs = drawn(timm.create_model("seresnet50", num_classes=5)).eval()
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "a.safetensors")
    ours = create("resnet50", SE(bias=True), 5, stride="torchvision", seed=0).eval()
    fit = starting.fit(ours, starting.read_start(str(tmp_path / "a.safetensors")).state)
    ours.load_state_dict(fit.weights, strict=False)
    x_BCHW = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ours(x_BCHW), theirs(x_BCHW), rtol=1e-3, atol=1e-4)


WITHOUT_WEIGHTS = {
    f"timm:{name}"
    for name in ("cs3darknet_s", "ghostnet_050", "mnasnet_050", "nf_regnet_b0", "semnasnet_050", "seresnet18")
}
AUXILIARY = {"torchvision:googlenet", "torchvision:inception_v3"}  # their weights have classifiers of inner maps


@pytest.mark.slow
def test_every_network_of_a_library_starts_from_its_own_weights() -> None:
    """By names and shapes, with gates put in and ten classes in place of those of the weights."""
    faults = {}
    for name in NAMES:
        library, _, network = name.partition(":")
        try:
            with warnings.catch_warnings(action="ignore"), torch.device("meta"):
                net = create(name, SE(), 10)
            fit = starting.fit(net, names_and_shapes(published(library, network)))
            assert fit.classes[0] == 10
        except ValueError as error:
            faults[name] = str(error)
    assert {name for name, fault in faults.items() if "has no weights for" in fault} == WITHOUT_WEIGHTS
    assert {name for name, fault in faults.items() if "left over: " in fault} == AUXILIARY
    assert len(faults) == len(WITHOUT_WEIGHTS | AUXILIARY), faults


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The caches of timm and torchvision, in which a file of ResNet-18's weights lies under the name of each: word →
    file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = torchvision.models.ResNet18_Weights.DEFAULT
    snapshot = tmp_path / "hub" / "models--timm--resnet18.a1_in1k" / "snapshots" / "0123"
    files = {
        "timm:resnet18": snapshot / "model.safetensors",
        "torchvision:ResNet18_Weights.IMAGENET1K_V1": tmp_path / "torch/hub/checkpoints" / Path(source.url).name,
    }
    for seed, file in enumerate(files.values()):
        file.parent.mkdir(parents=True)
        state = drawn(torchvision.models.resnet18(), seed).state_dict()
        save = safetensors.torch.save_file if file.suffix == ".safetensors" else torch.save
        save(state, file)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name)
    return files


def tree_words(digit_files: Path, *words: str) -> list[str]:
    return ["data=folder", f"data.root={digit_files}", "data.size=32", "se=null", *words]


def test_a_librarys_name_means_the_weights_in_its_cache(caches: dict[str, Path], digit_files: Path) -> None:
    """So that a trial of a name and one of the file, wherever it lies, are the same."""
    ids = set()
    for word, file in caches.items():
        words = tree_words(digit_files, "backbone=resnet18")
        cell, same = cell_of(*words, f"init={word}"), cell_of(*words, f"init={file}")
        assert cell.row.start == f"starts from {word}; its classifier, fc, is new: 10 classes for 1,000"
        assert cell.trial_id == same.trial_id
        assert cell.spec.init == word
        assert starting.read_start(word).digest == cell.spec.weights
        ids.add(cell.trial_id)
    assert len(ids) == 2


def test_a_plan_needs_no_weights_and_a_training_asks_before_it_fetches_them(
    caches: dict[str, Path], digit_files: Path
) -> None:
    words = tree_words(digit_files, "backbone=timm:mobilenetv3_small_050", "init=timm:mobilenetv3_small_050")
    row = cell_of(*words, "plan=true", "init_download=true").row
    assert "its classifier, classifier, is new: 10 classes for 1,000; 36 tensors of its own SE" in row.start
    assert row.start.endswith("its weights are not here: what is recorded of them is known when they were fetched")
    line = refusal(*words)
    assert (
        "init: the weights of timm:mobilenetv3_small_050.lamb_in1k are not in the cache of timm; init_download" in line
    )


def test_a_file_that_does_not_fit_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With exit code 2 and one line, and nothing is written."""
    torch.save(create("resnet20", None, 10, in_channels=1).state_dict(), tmp_path / "deeper.pt")
    assert main([f"init={tmp_path / 'deeper.pt'}", f"results={tmp_path / 'results'}"]) == 2
    assert one_line(capsys.readouterr().err, "init: the weights do not fit the network: ")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("init", "backbone", "line"),
    [
        ("timm:resnet18.nope", "resnet18", "init: timm:resnet18 has no weights 'nope'; there are a1_in1k, "),
        ("timm:resnet19", "resnet18", "init: timm has no network 'resnet19'; near are resnet18"),
        ("torchvision:ResNet51_Weights", "resnet50", "no weights 'ResNet51_Weights'; near are ResNet50_Weights"),
        ("timm:seresnet18", "timm:seresnet18", "init: timm has no weights for seresnet18; give a file"),
        ("timm:resnetaa50", "resnet50", "init: timm:resnetaa50.a1h_in1k is for backbone=timm:resnetaa50; resnet50 was"),
        ("timm:resnet50", "timm:resnetaa50", "is for backbone=timm:resnet50 or resnet50; timm:resnetaa50 was asked"),
        ("timm:legacy_seresnet50", "resnet50", "is for backbone=timm:legacy_seresnet50; resnet50 was asked for"),
        ("timm:resnet50", "resnet50", "is of a resnet50 with stride=torchvision; stride=paper was asked for"),
    ],
)
def test_names_that_fit_no_network_are_refused(init: str, backbone: str, line: str, digit_files: Path) -> None:
    """Also where the keys are the same: a pool against aliasing, and a stride, have no weights."""
    assert line in refusal(*tree_words(digit_files, f"backbone={backbone}", f"init={init}", "plan=true"))


# ---------------------------------------------------------------------------------------------------------------------
# What tells a trial


def test_a_trials_id_means_the_weights_that_were_kept_of_it(kept: Kept) -> None:
    named = cell_of(*DIGITS, f"init={kept.trial_id}", f"results={kept.results}")
    assert named.trial_id == cell_of(*DIGITS, f"init={kept.checkpoint}").trial_id
    assert named.spec.init == str(kept.checkpoint)


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


def test_weights_and_no_weights_are_levels_of_a_factor(tmp_path: Path) -> None:
    for seed in (1, 2):
        torch.save(
            drawn(create("resnet8", None, 10, in_channels=1, seed=0), seed).state_dict(), tmp_path / f"{seed}.pt"
        )
    words = ["se=null", "seeds=1"]
    made = plan.make_plan(compose([*words, "+vary=init", f"levels=[null,{tmp_path}/1.pt,{tmp_path}/2.pt]"]))
    alone = [cell_of(*words), *(cell_of(*words, f"init={tmp_path}/{seed}.pt") for seed in (1, 2))]
    assert [cell.trial_id for cell in made.cells] == [cell.trial_id for cell in alone]
    assert len(made.trials) == 3


def test_a_training_that_is_cut_off_ends_as_one_that_is_not(tmp_path: Path) -> None:
    """From its checkpoint, not from the first weights again; and what is frozen stays as it was given."""
    first = drawn(create("resnet8", None, 10, in_channels=1, seed=0))
    torch.save(first.state_dict(), tmp_path / "net.pt")
    words = ["recipe.epochs=2", "data.subset=40", "data.test_subset=20", "training.freeze=[layer1]"]
    spec = cell_of(*words, f"init={tmp_path / 'net.pt'}").spec
    whole = trial.run_trial(spec, tmp_path / "whole.ckpt", lambda entry: None)
    trial.run_trial(spec, tmp_path / "cut.ckpt", lambda entry: None, until=1)
    cut = trial.run_trial(spec, tmp_path / "cut.ckpt", lambda entry: None)
    assert cut["resumed"]
    assert cut["epochs"] == whole["epochs"]
    assert cut["metrics"] == whole["metrics"]
    trained, given = load_network(tmp_path / "whole.ckpt").net.state_dict(), first.state_dict()
    for key in given:
        ours = key if key in trained else f"{key.rpartition('.')[0]}.body.{key.rpartition('.')[2]}"
        assert torch.equal(trained[ours], given[key]) is key.startswith("layer1."), key


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
    assert "nowhere.pt; weights are a file's, timm:NAME.TAG or torchvision:NAME.TAG" in refusal("init=nowhere.pt")
