"""One training in several processes: what one process does, in parts; and that none of them outlives a fault."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from launching import TINY, WORDS, Lab, one_line, wait_for
from test_data_feeds import FORKS, make_tree
from test_training_trial import RECIPE, SPEC, make_spec, outcome, silent
from torch import Tensor

from senet_lab.compose import compose
from senet_lab.config import SE, Data, Recipe, Training, UserError
from senet_lab.run import main
from senet_lab.studies import pool
from senet_lab.training import distributed, trial
from senet_lab.training.data import load_splits
from senet_lab.training.faults import DivergedError
from senet_lab.training.feeds import FolderFeed, TensorFeed
from senet_lab.training.lit import SENet
from senet_lab.training.sampling import BatchShare
from senet_lab.training.step import choose_step

TWO = dataclasses.replace(SPEC, devices=2)


@pytest.fixture(scope="module", autouse=True)
def dismissed() -> Iterator[None]:
    """The processes that stay for the next training are gone when these tests are."""
    yield
    distributed.end_ranks()


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


# ---------------------------------------------------------------------------------------------------------------------
# Parts of batches


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 31])
def test_parts_are_a_partition(count: int, world: int) -> None:
    taken = [BatchShare(number, world).of(count) for number in range(world)]
    mine = [positions[:own] for positions, own in taken]
    assert sorted(at for positions in mine for at in positions) == list(range(count))
    assert max(map(len, mine)) - min(map(len, mine)) <= 1
    for positions, _ in taken:
        assert len(set(positions)) == len(positions) >= min(2, count), "no norm sees one image"


def test_a_process_alone_takes_all() -> None:
    assert BatchShare().of(5) == ([0, 1, 2, 3, 4], 5)


def together(feed: TensorFeed | FolderFeed, world: int, *words: Any) -> list[tuple[Tensor, Tensor]]:
    """The batches of all parts, put together again."""
    parts = []
    for number in range(world):
        parts.append(list(feed.batches(*words, share=BatchShare(number, world))))
        assert len(parts[-1]) == len(feed.batches(*words))
    whole = []
    for pieces in zip(*parts, strict=True):
        (count,) = {count for *_, count in pieces}
        x, y = torch.empty(count, *pieces[0][0].shape[1:]), torch.empty(count, dtype=torch.long)
        for number, (x_part, y_part, own, _) in enumerate(pieces):
            assert len(x_part) == len(y_part) == max(own, min(2, count))
            x[number::world], y[number::world] = x_part[:own], y_part[:own]
        whole.append((x, y))
    return whole


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
@pytest.mark.parametrize("world", [2, 3])
def test_parts_in_memory_are_of_the_batches_that_one_process_has(world: int, sampling: str) -> None:
    data = Data(augment="crop", cutout=2, validation=0.2, subset=79)
    feed = load_splits(data).train
    for words in ((19, 3, 5, sampling), (19,)):
        for (x, y), (u, v) in zip(feed.batches(*words), together(feed, world, *words), strict=True):
            assert torch.equal(x, u)
            assert torch.equal(y, v)


@FORKS
@pytest.mark.parametrize("workers", [0, 1])
def test_parts_from_files_are_of_the_batches_that_one_process_has(tmp_path: Path, workers: int) -> None:
    data = dataclasses.replace(make_tree(tmp_path, {"a": 7, "b": 6}), workers=workers)
    splits = load_splits(data)
    feed = splits.train
    assert isinstance(feed, FolderFeed)
    for words in ((4, 3, 5), (4,)):
        whole = list(feed.batches(*words))
        splits.close()
        for (x, y), (u, v) in zip(whole, together(feed, 2, *words), strict=True):
            assert torch.equal(x, u)
            assert torch.equal(y, v)
        splits.close()


def test_images_that_fill_a_part_up_count_for_nothing() -> None:
    module = SENet("resnet8", channels=1, recipe=Recipe(label_smoothing=0.1))
    logits_BK, y_B = torch.randn(3, 10, requires_grad=True), torch.tensor([1, 2, 3])
    loss = module.batch_loss("train", logits_BK, y_B, [2, 5])
    assert torch.equal(loss, F.cross_entropy(logits_BK[:2], y_B[:2], label_smoothing=0.1))
    (module.batch_loss("train", logits_BK, y_B, [0, 2]) + loss).backward()
    assert logits_BK.grad is not None
    assert torch.equal(logits_BK.grad[2], torch.zeros(10))
    means = module.means("train")
    assert means["train_loss"] == pytest.approx(loss.item(), rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# The same training


def test_several_processes_train_as_one(tmp_path: Path) -> None:
    """Five steps in double precision, the last of three images: two and one, which another fills up. Weights, losses
    and errors are those of one process."""
    data = Data(validation=0.2, subset=79, test_subset=51)
    recipe = Recipe(epochs=1, batch_size=19, lr=0.05, weight_decay=5e-4, label_smoothing=0.1)
    one = make_spec(SE(reduction=4), data, recipe, backbone="parted:frozen", precision="64-true")
    records = [
        trial.run_trial(dataclasses.replace(one, devices=devices), tmp_path / str(devices) / "a.ckpt", silent)
        for devices in (1, 2)
    ]
    for name, value in records[0]["metrics"].items():
        assert records[1]["metrics"][name] == pytest.approx(value, abs=1e-10), name
        if "error" in name:
            assert records[1]["metrics"][name] == value
    assert records[1]["outputs"] == records[0]["outputs"], "image by image, in the order of one process"
    mine, theirs = (weights(tmp_path / str(devices) / "a.ckpt") for devices in (1, 2))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-10, atol=1e-13)
    first = SENet(**torch.load(tmp_path / "1" / "a.ckpt", weights_only=True)["hyper_parameters"]).state_dict()
    assert not torch.allclose(mine["net.fc.weight"], first["net.fc.weight"].double(), rtol=1e-3), "it has trained"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of TWO, trained without a break."""
    return trial.run_trial(TWO, tmp_path_factory.mktemp("whole") / "a.ckpt", silent)


def test_what_a_record_says(whole: dict[str, Any]) -> None:
    assert whole["config"]["devices"] == 2
    assert whole["device_name"].startswith("2 × ")
    assert [entry["epoch"] for entry in whole["epochs"]] == [1, 2, 3, 4]


def test_stopped_at_an_epoch_it_goes_on(whole: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    seen: list[dict[str, Any]] = []
    assert trial.run_trial(TWO, path, seen.append, until=2) == {"epochs": whole["epochs"][:2]} == {"epochs": seen}
    record = trial.run_trial(TWO, path, seen.append)
    assert outcome(record) == outcome(whole)
    assert record["resumed"]
    assert seen == whole["epochs"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_damaged_checkpoint_is_set_aside_once(whole: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"no checkpoint")
    said: list[dict[str, Any]] = []
    assert outcome(trial.run_trial(TWO, path, said.append)) == outcome(whole)
    assert [("damaged" in entry.get("notice", "")) for entry in said] == [True, False, False, False, False]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.ckpt", "a.damaged"]


def test_averaged_weights_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    spec = dataclasses.replace(TWO, recipe=dataclasses.replace(RECIPE, epochs=2, ema=0.9))
    expected = outcome(trial.run_trial(spec, tmp_path / "a.ckpt", silent))
    trial.run_trial(spec, tmp_path / "b.ckpt", silent, until=1)
    assert outcome(trial.run_trial(spec, tmp_path / "b.ckpt", silent)) == expected


# ---------------------------------------------------------------------------------------------------------------------
# Faults


def killing(pids: list[int]) -> Callable[[dict[str, Any]], None]:
    """Kills the second process after the second epoch; the ids of both are noted."""

    def report(entry: dict[str, Any]) -> None:
        if entry["epoch"] == 2 and not pids:
            pids.extend(member.process.pid or 0 for member in distributed.RANKS)
            os.kill(pids[1], signal.SIGKILL)

    return report


@pytest.mark.slow
def test_a_training_goes_on_of_which_a_process_was_killed(whole: dict[str, Any], tmp_path: Path) -> None:
    pids: list[int] = []
    with pytest.raises(distributed.LostError, match=r"^its process 2 of 2 ended with exit code -9 \(Killed\)$"):
        trial.run_trial(TWO, tmp_path / "a.ckpt", killing(pids))
    assert gone(pids)
    assert distributed.RANKS == []
    record = trial.run_trial(TWO, tmp_path / "a.ckpt", silent)
    assert outcome(record) == outcome(whole)
    assert record["resumed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "kind", "reason"),
    [
        ("failing", "failed", "AwkwardError: a fault of its own, 2"),
        ("killed", "lost", "its process 2 of 2 ended with exit code -9 (Killed)"),
    ],
)
def test_what_one_process_meets_is_the_trial_s_end(tmp_path: Path, backbone: str, kind: str, reason: str) -> None:
    spec = make_spec(recipe=RECIPE, backbone=f"parted:{backbone}")
    begun = time.monotonic()
    found = pool.train_trial(dataclasses.replace(spec, devices=2), tmp_path / "a.ckpt", None, silent)
    assert found == (kind, {"reason": reason})
    assert distributed.RANKS == []
    assert time.monotonic() - begun < 120, "no process waits for another for ever"


@pytest.mark.slow
def test_diverged_in_all(tmp_path: Path) -> None:
    spec = make_spec(recipe=dataclasses.replace(RECIPE, lr=1e30, warmup_steps=0))
    with pytest.raises(DivergedError, match=r"in epoch 1$"):
        trial.run_trial(dataclasses.replace(spec, devices=2), tmp_path / "a.ckpt", silent)


# ---------------------------------------------------------------------------------------------------------------------
# Words


def test_devices_are_part_of_a_trial_s_name_where_there_are_several() -> None:
    ids = {dataclasses.replace(SPEC, **how).trial_id for how in ({}, {"devices": 2}, {"devices": 3})}
    ids.add(dataclasses.replace(SPEC, devices=2, sync_batchnorm=True).trial_id)
    assert len(ids) == 4
    assert not {"devices", "sync_batchnorm"} & SPEC.determinants().keys()
    assert compose(["training.devices=2"]).folder == "digits/resnet8-quick-devices=2/network"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["training.devices=0"], "training.devices=0 is not between 1 and 64"),
        (["training.devices=4", "recipe.batch_size=7"], "training.devices=4 needs a recipe.batch_size of at least 8"),
        (["training.devices=2", "executor=ray"], "training.devices=2 is for executor=local"),
        (["training.devices=two"], "training.devices"),
    ],
)
def test_wrong_words(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(words)
    assert one_line(str(caught.value), said)


@pytest.mark.parametrize(
    ("training", "device", "said"),
    [
        (Training(sync_batchnorm=True, devices=2), "cpu", "training.sync_batchnorm=true needs GPUs"),
        (Training(sync_batchnorm=True), "cuda", "training.sync_batchnorm=true needs a training.devices of at least 2"),
        (Training(compile="graphs", devices=2), "cuda", "training.compile=graphs is for one device"),
    ],
)
def test_what_cannot_be(training: Training, device: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_step(training, Data(), device, "resnet8")
    assert one_line(str(caught.value), said)


def test_gpus_by_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert [distributed.gpus_of(slot, 4, "cuda") for slot in range(3)] == [(0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 2, 3)]
    assert distributed.gpus_of(1, 4, "cpu") == ()
    with pytest.raises(trial.RunError, match=r"^training\.devices=9: PyTorch finds 8 GPUs here$"):
        distributed.gpus_of(0, 9, "cuda")


# ---------------------------------------------------------------------------------------------------------------------
# The command


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    lab = Lab(tmp_path)
    monkeypatch.chdir(tmp_path)
    name, _, value = lab.mark.partition("=")
    monkeypatch.setenv(name, value)
    code = main(["training.devices=2", "recipe.epochs=2", "data.subset=200", "executor.workers=1", "tracking=off"])
    done = capfd.readouterr()
    assert (code, done.err) == (0, ""), done
    assert "2 processes a trial, each with 16 images of a batch" in done.out
    assert "Gloo" not in done.out
    wait_for(lambda: not lab.left(), seconds=10)  # /proc shows the mark in those that were started with it
    (record,) = lab.records()
    assert (record["state"], record["config"]["devices"]) == ("done", 2)
    assert (tmp_path / "results/local/digits-subset=200/resnet8-quick-epochs=2-devices=2/network").is_dir()


@pytest.mark.slow
def test_no_process_outlives_a_worker_that_is_killed(tmp_path: Path) -> None:
    words = (*[word for word in WORDS if "workers" not in word], "training.devices=2", "executor.workers=1")
    lab = Lab(tmp_path / "killed", TINY)
    driver = lab.start(*words)
    wait_for(lab.training, driver)
    children = {pid: parent_of(pid) for pid in lab.workers()}
    (worker,) = (pid for pid, parent in children.items() if parent == driver.pid)
    siblings = [pid for pid, parent in children.items() if parent == worker]
    assert len(siblings) == 2
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: gone(siblings), seconds=10)
    out, err = driver.communicate(timeout=240)
    assert (driver.returncode, err) == (0, "")
    assert "its worker ended with exit code -9 (Killed); it goes on from its last epoch" in out
    wait_for(lambda: not lab.left(), seconds=10)

    undisturbed = Lab(tmp_path / "undisturbed", TINY)
    assert undisturbed.run(*words).code == 0
    table = "results/local/digits-subset=200/resnet8-quick-epochs=8-devices=2/tiny/trials.csv"
    assert (lab.folder / table).read_bytes() == (undisturbed.folder / table).read_bytes()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
