"""Whole trials: the same numbers however often they are cut off, and what happens when something is wrong."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import files_of_at_most
from sklearn.datasets import load_digits
from test_data_feeds import FORKS, make_tree
from torch import Tensor, nn

from senet_lab import models
from senet_lab.config import SE, Data, Recipe, RunError
from senet_lab.outputs import Outputs
from senet_lab.training import trial
from senet_lab.training.data import data_facts, load_splits
from senet_lab.training.faults import DivergedError
from senet_lab.training.lit import SENet
from senet_lab.training.spec import Spec

DIGITS = Data(augment="crop", validation=0.2, subset=96, test_subset=50)
RECIPE = Recipe(epochs=4, batch_size=32, lr=0.05, weight_decay=5e-4, warmup_steps=4)


def make_spec(
    se: SE | None = None,
    data: Data = DIGITS,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    backbone: str = "resnet8",
    precision: str = "32-true",
) -> Spec:
    known = data_facts(data)
    return Spec(
        backbone=backbone,
        network="",
        stride="paper",
        se=se,
        hidden={},
        data=data,
        identity=known.identity,
        classes=len(known.classes),
        channels=known.channels,
        recipe=recipe,
        seed=seed,
        precision=precision,
        code=models.code(backbone, se, len(known.classes), known.channels, data.size),
    )


SPEC = make_spec(SE(reduction={2: 4, 3: 4, 4: 4}))


def silent(_: dict[str, Any]) -> None:
    pass


def outcome(record: dict[str, Any]) -> dict[str, Any]:
    """What the seed determines of a record."""
    return {key: record[key] for key in ("config", "epochs", "metrics", "outputs")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of SPEC, trained without a break."""
    return trial.run_trial(SPEC, tmp_path_factory.mktemp("whole") / "a.ckpt", silent)


class CutOffError(Exception):
    """The training was cut off."""


def stop_after(epoch: int) -> Callable[[dict[str, Any]], None]:
    def report(metrics: dict[str, Any]) -> None:
        if metrics["epoch"] == epoch:
            raise CutOffError

    return report


# ---------------------------------------------------------------------------------------------------------------------
# The record


def test_what_a_record_holds(whole: dict[str, Any]) -> None:
    shown = {key: value for key, value in whole.items() if key != "outputs"}  # which are bytes
    assert json.loads(json.dumps(shown))["metrics"] == whole["metrics"]
    assert whole["config"] == SPEC.config()
    assert [entry["epoch"] for entry in whole["epochs"]] == [1, 2, 3, 4]
    last = {key: value for key, value in whole["epochs"][-1].items() if key != "epoch"}
    assert last.items() <= whole["metrics"].items()
    assert whole["metrics"].keys() - last.keys() == {"test_loss", "test_error", "test_top5_error"}
    assert whole["resumed"] is False
    assert 0 < whole["seconds"] < 60
    assert whole["peak_memory_mib"] > 100  # PyTorch alone takes more
    assert whole["versions"]["torch"] == torch.__version__.split("+")[0]
    assert whole["device_name"]
    assert whole["host"]


def test_each_epoch_is_reported_once_saved(whole: dict[str, Any], tmp_path: Path) -> None:
    path, seen = tmp_path / "deep" / "er" / "a.ckpt", []

    def report(metrics: dict[str, Any]) -> None:
        assert torch.load(path, weights_only=True)["history"][-1] == metrics
        assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]
        seen.append(dict(metrics))

    record = trial.run_trial(SPEC, path, report)
    assert seen == record["epochs"] == whole["epochs"]
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


def test_nothing_of_a_trial_reaches_the_next(whole: dict[str, Any], tmp_path: Path) -> None:
    """In a warm worker one trial follows another, also after one that failed, wherever the generators stand."""
    other = trial.run_trial(dataclasses.replace(SPEC, seed=5), tmp_path / "first.ckpt", silent)
    assert other["metrics"]["test_loss"] != whole["metrics"]["test_loss"]
    torch.manual_seed(123)
    np.random.seed(123)
    with pytest.raises(DivergedError):
        trial.run_trial(
            make_spec(recipe=dataclasses.replace(RECIPE, lr=1e30, warmup_steps=0)), tmp_path / "b.ckpt", silent
        )
    assert outcome(trial.run_trial(SPEC, tmp_path / "a.ckpt", silent)) == outcome(whole)


def scores(net: nn.Module, images: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Loss, top-1 and top-5 error in percent, image by image and in double precision."""
    net = copy.deepcopy(net).eval().double()
    losses, ranks = [], []
    with torch.no_grad():
        for image, label in zip(images, labels, strict=True):
            logits = net(torch.from_numpy((image / 255 - 0.3075) / 0.3770)[None, None])[0].numpy()
            losses.append(np.log(np.exp(logits).sum()) - logits[label])
            ranks.append(np.argsort(-logits).tolist().index(label))
    return np.mean(losses), 100 * np.mean(np.array(ranks) > 0), 100 * np.mean(np.array(ranks) > 4)


def test_the_metrics_are_those_of_the_final_weights_on_the_images_of_the_split(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, data=dataclasses.replace(DIGITS, test_subset=None))
    record = trial.run_trial(spec, tmp_path / "a.ckpt", silent)
    metrics, outputs = record["metrics"], Outputs.unpacked(record["outputs"])
    net = models.create("resnet8", SE(reduction=4), 10, in_channels=1, seed=99)
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    net.load_state_dict({key.removeprefix("net."): value for key, value in state.items()})
    bunch, held_out = load_digits(), load_splits(spec.data).validation
    pictures = {
        "test": (np.rint(bunch.images[898:] * 255 / 16), bunch.target[898:]),
        "val": (held_out.images_NCHW[:, 0].numpy(), held_out.labels_N.numpy()),
    }
    for split, (images, labels) in pictures.items():
        loss, error, top5 = scores(net, images, labels)
        assert metrics[f"{split}_loss"] == pytest.approx(loss, rel=1e-4)
        assert metrics[f"{split}_error"] == pytest.approx(error)
        assert metrics[f"{split}_top5_error"] == pytest.approx(top5)
        assert 0 < top5 < error < 90
    images, labels = pictures["test"]
    for at in (0, 1, 7, 400, 898):  # in the order of the images
        one_loss, one_error, _ = scores(net, images[at : at + 1], labels[at : at + 1])
        assert outputs.loss[at] == pytest.approx(one_loss, rel=2e-3, abs=1e-4)
        assert outputs.right[at] == (one_error == 0)
    assert 100 * np.mean(~outputs.right) == pytest.approx(metrics["test_error"])
    assert outputs.loss.astype(float).mean() == pytest.approx(metrics["test_loss"], rel=1e-3)


def test_the_last_epoch_is_recorded_however_bad_it_is(tmp_path: Path) -> None:
    """Its learning rate is forty times the others', which makes it worse than the one before by every measure."""
    recipe = dataclasses.replace(RECIPE, schedule="step", milestones=[3], factor=40)
    record = trial.run_trial(make_spec(recipe=recipe), tmp_path / "a.ckpt", silent)
    *_, better, last = record["epochs"]
    for name in ("train_loss", "train_error", "val_loss", "val_error"):
        assert record["metrics"][name] == last[name] > better[name], name


def test_the_test_images_are_read_once_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    for step in ("training_step", "validation_step", "test_step"):
        original = getattr(SENet, step)

        def spy(self: SENet, batch: Any, index: int, name: str = step, original: Any = original) -> Any:
            order.append(name)
            return original(self, batch, index)

        monkeypatch.setattr(SENet, step, spy)
    trial.run_trial(SPEC, tmp_path / "a.ckpt", silent)
    assert order == (["training_step"] * 3 + ["validation_step"]) * 4 + ["test_step"]


def test_a_checkpoint_rebuilds_its_network(whole: dict[str, Any], tmp_path: Path) -> None:
    for se in (SE(reduction={2: 4, 4: 8}, excitation="tanh", position="pre"), None):
        trial.run_trial(make_spec(se, seed=3), tmp_path / "a.ckpt", silent)
        loaded = SENet.load_from_checkpoint(tmp_path / "a.ckpt").eval()
        net = models.create("resnet8", se, 10, in_channels=1, seed=0).eval()
        state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
        net.load_state_dict({key.removeprefix("net."): value for key, value in state.items()})
        x = torch.randn(3, 1, 8, 8)
        assert torch.equal(loaded(x), net(x))
        assert loaded.recipe == RECIPE
        (tmp_path / "a.ckpt").unlink()


# ---------------------------------------------------------------------------------------------------------------------
# Rows of a study are paired


SEEN: list[str] = []


def watched(num_classes: int, in_channels: int = 3) -> nn.Module:
    """A plain network that notes the training images which it is shown."""
    net = models.create("resnet8", None, num_classes, in_channels=in_channels)

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        if module.training:
            SEEN.append(hashlib.sha256(inputs[0].numpy().tobytes()).hexdigest())

    net.register_forward_pre_hook(note)
    return net


def test_every_design_sees_the_same_batches(tmp_path: Path) -> None:
    seen = {}
    designs = {"plain": None, "standard": SE(reduction=4), "pre": SE(reduction=2, position="pre", bias=True)}
    for name, se in designs.items():
        SEEN.clear()
        trial.run_trial(make_spec(se, backbone=f"{__name__}:watched"), tmp_path / f"{name}.ckpt", silent)
        seen[name] = list(SEEN)
    assert seen["plain"] == seen["standard"] == seen["pre"]
    assert len(set(seen["plain"])) == 3 * RECIPE.epochs  # and every batch but once
    SEEN.clear()
    trial.run_trial(make_spec(seed=1, backbone=f"{__name__}:watched"), tmp_path / "other.ckpt", silent)
    assert not set(SEEN) & set(seen["plain"])


def test_every_design_starts_from_the_same_backbone(tmp_path: Path) -> None:
    """At a learning rate of almost nothing a training ends with the weights that it began with."""
    recipe = dataclasses.replace(RECIPE, epochs=1, lr=1e-30, warmup_steps=0)
    ends = {}
    for name, se in {"plain": None, "r4": SE(reduction=4), "post": SE(reduction=8, position="post")}.items():
        trial.run_trial(make_spec(se, recipe=recipe, seed=7), tmp_path / f"{name}.ckpt", silent)
        state = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["state_dict"]
        ends[name] = {
            key.replace(".body", ""): value
            for key, value in state.items()
            if ".se." not in key and "running" not in key and "tracked" not in key
        }
    expected = dict(models.create("resnet8", None, 10, in_channels=1, seed=7).named_parameters())
    for name, weights in ends.items():
        assert {key.removeprefix("net.") for key in weights} == set(expected), name
        for key, value in expected.items():
            assert (weights[f"net.{key}"] - value).abs().max() < 1e-25, (name, key)


# ---------------------------------------------------------------------------------------------------------------------
# Cut off and run again


@pytest.mark.parametrize("epochs", [[4], [1, 2, 3, 4]], ids=str)
def test_cut_off_and_run_again(whole: dict[str, Any], tmp_path: Path, epochs: list[int]) -> None:
    path = tmp_path / "a.ckpt"
    for epoch in epochs:
        with pytest.raises(CutOffError):
            trial.run_trial(SPEC, path, stop_after(epoch))
    seen: list[int] = []
    record = trial.run_trial(SPEC, path, lambda metrics: seen.append(metrics["epoch"]))
    assert seen == list(range(epochs[-1] + 1, 5))
    assert record["resumed"] is True
    assert outcome(record) == outcome(whole)


DRAWN: list[float] = []


class Drawing(nn.Module):
    """Draws a number from each global generator at every step, as dropout does, and notes it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            DRAWN.extend([torch.rand(()).item(), np.random.rand(), random.random()])
        return x


def drawing(num_classes: int, in_channels: int = 3) -> nn.Module:
    net = models.create("resnet8", None, num_classes, in_channels=in_channels)
    net.fc = nn.Sequential(Drawing(), net.fc)
    return net


def test_every_epoch_and_every_seed_draws_other_numbers(tmp_path: Path) -> None:
    DRAWN.clear()
    for seed in (0, 1):
        trial.run_trial(make_spec(seed=seed, backbone=f"{__name__}:drawing"), tmp_path / f"{seed}.ckpt", silent)
    assert len(set(DRAWN)) == len(DRAWN) == 2 * 3 * 3 * RECIPE.epochs


@FORKS
def test_a_folder_goes_on_as_if_it_had_not_been_cut_off(tmp_path: Path) -> None:
    data = dataclasses.replace(make_tree(tmp_path / "tree", {"a": 12, "b": 12}), workers=1)
    spec = make_spec(SE(reduction=4), data=data, recipe=dataclasses.replace(RECIPE, epochs=2, batch_size=8))
    expected = outcome(trial.run_trial(spec, tmp_path / "a.ckpt", silent))
    spec = dataclasses.replace(spec, data=dataclasses.replace(data, workers=0))
    with pytest.raises(CutOffError):
        trial.run_trial(spec, tmp_path / "b.ckpt", stop_after(1))
    found = outcome(trial.run_trial(spec, tmp_path / "b.ckpt", silent))
    assert found["epochs"] == expected["epochs"]
    assert found["metrics"] == expected["metrics"]


def test_killed_in_the_middle_of_an_epoch(whole: dict[str, Any], tmp_path: Path) -> None:
    """By SIGKILL, in another process, which has also left half a checkpoint."""
    path = tmp_path / "a.ckpt"
    code = f"""
import os, signal, sys, time
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]}
from test_training_trial import SENet, SPEC, Path, torch, trial
torch.set_num_threads(1)  # as in the tests: sums are then in the same order
step = SENet.training_step
def killed(self, batch, index):
    if (self.current_epoch, index) == (2, 1):
        Path({str(path)!r}).with_suffix(f".ckpt.{{os.getpid()}}.tmp").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)
SENet.training_step = killed
trial.run_trial(SPEC, Path({str(path)!r}), lambda metrics: print(metrics["epoch"], flush=True))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split() == ["1", "2"]
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    seen: list[int] = []
    record = trial.run_trial(SPEC, path, lambda metrics: seen.append(metrics["epoch"]))
    assert seen == [3, 4]
    assert outcome(record) == outcome(whole)
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


# ---------------------------------------------------------------------------------------------------------------------
# Damaged checkpoints


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(np.random.RandomState(0).bytes(5000))


def text(path: Path) -> None:
    path.write_text("no checkpoint\n")


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("something", "else")


def overwritten(path: Path) -> None:
    """A few bytes in the middle, among the weights."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 8] = b"\xff" * 8
    path.write_bytes(content)


def a_list(path: Path) -> None:
    torch.save([1, 2, 3], path)


def another_trials(path: Path) -> None:
    trial.run_trial(
        make_spec(SE(reduction={2: 4, 3: 4, 4: 4}), recipe=dataclasses.replace(RECIPE, epochs=1)), path, silent
    )


DAMAGES = (truncated, emptied, garbage, text, archive, overwritten, a_list, another_trials)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_set_aside(
    whole: dict[str, Any], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.ckpt"
    with pytest.raises(CutOffError):
        trial.run_trial(SPEC, path, stop_after(2))
    if damage is another_trials:
        path.unlink()
    damage(path)
    content, notices = path.read_bytes(), []
    record = trial.run_trial(SPEC, path, lambda value: notices.append(value["notice"]) if "notice" in value else None)
    (notice,) = notices
    assert f"the checkpoint {path} is damaged" in notice
    assert "a.damaged" in notice
    assert "\n" not in notice
    assert (tmp_path / "a.damaged").read_bytes() == content
    assert record["resumed"] is False
    assert outcome(record) == outcome(whole)


def content_of(path: Path) -> bytes:
    """Everything that a checkpoint holds, to the last bit."""
    written = io.BytesIO()
    torch.save(torch.load(path, weights_only=True), written)
    return written.getvalue()


def test_no_byte_of_a_checkpoint_changes_unseen(tmp_path: Path) -> None:
    """It is found damaged, or says the same as before: the byte was padding."""
    path, chance = tmp_path / "a.ckpt", random.Random(0)
    with pytest.raises(CutOffError):
        trial.run_trial(SPEC, path, stop_after(1))
    module = SENet("resnet8", SPEC.se, channels=1, recipe=RECIPE)
    assert trial.checkpoint_damage(path, module) == ""
    whole, before = path.read_bytes(), content_of(path)
    found = 0
    for _ in range(150):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        damaged = trial.checkpoint_damage(path, module)
        assert "\n" not in damaged
        found += bool(damaged)
        assert damaged or content_of(path) == before
    assert found > 100


# ---------------------------------------------------------------------------------------------------------------------
# What cannot go on


def refusal(spec: Spec, path: Path, report: Callable[[dict[str, Any]], None] = silent) -> str:
    with pytest.raises(RunError) as caught:
        trial.run_trial(spec, path, report)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_full_disk(whole: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with pytest.raises(CutOffError):
        trial.run_trial(SPEC, path, stop_after(2))
    with files_of_at_most(100_000):
        assert f"the checkpoint {path} cannot be written: " in refusal(SPEC, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]  # the old one, whole
    record = trial.run_trial(SPEC, path, silent)
    assert record["resumed"] is True
    assert outcome(record) == outcome(whole)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a.ckpt"
    assert f"the checkpoint {path} cannot be " in refusal(SPEC, path)


def test_a_folder_where_the_checkpoint_should_be(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").mkdir()
    assert f"the checkpoint {tmp_path / 'a.ckpt'} cannot be read: Is a directory" in refusal(SPEC, tmp_path / "a.ckpt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert f"the checkpoint {tmp_path / 'a.ckpt'} cannot be written" in refusal(SPEC, tmp_path / "a.ckpt")


def test_an_image_that_cannot_be_read_ends_the_trial_by_its_name(tmp_path: Path) -> None:
    data = make_tree(tmp_path / "tree", {"a": 12, "b": 12})
    (tmp_path / "tree" / "train" / "b" / "3.png").write_bytes(b"no image")
    spec = make_spec(data=data, recipe=dataclasses.replace(RECIPE, batch_size=4))
    assert str(tmp_path / "tree" / "train" / "b" / "3.png") in refusal(spec, tmp_path / "a.ckpt")


def test_data_that_have_gone_are_no_fault_of_the_network(tmp_path: Path) -> None:
    data = make_tree(tmp_path / "tree", {"a": 12, "b": 12})
    spec = make_spec(data=data)
    (tmp_path / "tree" / "val").rename(tmp_path / "tree" / "elsewhere")
    assert str(tmp_path / "tree" / "val") in refusal(spec, tmp_path / "a.ckpt")


@pytest.mark.parametrize("lr", [1e6, 1e30])
def test_a_training_that_diverges_says_so(tmp_path: Path, lr: float) -> None:
    recipe = dataclasses.replace(RECIPE, lr=lr, warmup_steps=0, weight_decay=1.0)
    with pytest.raises(DivergedError, match=r"^(train|val)_loss was (nan|inf) in epoch [1-4]$"):
        trial.run_trial(make_spec(recipe=recipe), tmp_path / "a.ckpt", silent)


# ---------------------------------------------------------------------------------------------------------------------
# Precision


def test_bf16_trains_nearly_as_well(whole: dict[str, Any], tmp_path: Path) -> None:
    spec = make_spec(SE(reduction={2: 4, 3: 4, 4: 4}), precision="bf16-mixed")
    record = trial.run_trial(spec, tmp_path / "a.ckpt", silent)
    assert record["config"]["precision"] == "bf16-mixed"
    loss, exact = record["epochs"][0]["train_loss"], whole["epochs"][0]["train_loss"]
    assert loss != exact
    assert loss == pytest.approx(exact, rel=0.05)
    weights = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}


def test_half_precision_is_not_replaced_by_another_in_silence(tmp_path: Path) -> None:
    assert "16-mixed needs a GPU" in refusal(make_spec(precision="16-mixed"), tmp_path / "a.ckpt")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_trial_repeats_itself_and_goes_on(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, device="cuda")
    first = trial.run_trial(spec, tmp_path / "a.ckpt", silent)
    with pytest.raises(CutOffError):
        trial.run_trial(spec, tmp_path / "b.ckpt", stop_after(2))
    assert outcome(trial.run_trial(spec, tmp_path / "b.ckpt", silent)) == outcome(first)
    assert first["device_name"] == torch.cuda.get_device_name()
    assert 0 < first["peak_memory_mib"] < 1000


def test_new_memory_is_not_filled_first(tmp_path: Path) -> None:
    """Deterministic algorithms fill it with NaN unless told otherwise: one more pass over every map."""
    seen: list[bool] = []

    def report(_: dict[str, Any]) -> None:
        assert torch.are_deterministic_algorithms_enabled()
        seen.append(bool(torch.empty(2**20).isnan().all()))

    trial.run_trial(
        dataclasses.replace(SPEC, recipe=dataclasses.replace(RECIPE, epochs=1)), tmp_path / "a.ckpt", report
    )
    assert seen == [False]
