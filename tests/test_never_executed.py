"""A file is read as weights and plain values; whatever else it holds is refused and never executed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from kept import Kept, Trap, changed, refused

from senet_lab import models
from senet_lab.compose import compose
from senet_lab.models.weights import pretrained
from senet_lab.studies import plan
from senet_lab.training import trial

Make = Callable[[Kept, Path, Trap], None]


def in_a_checkpoint(kept: Kept, path: Path, trap: Trap) -> None:
    """A whole checkpoint, and something more."""
    changed(kept.checkpoint, path, lambda saved: saved.update(extra=trap))


def among_the_settings(kept: Kept, path: Path, trap: Trap) -> None:
    changed(kept.checkpoint, path, lambda saved: saved["hyper_parameters"].update(backbone=trap))


def among_the_names(kept: Kept, path: Path, trap: Trap) -> None:
    changed(kept.checkpoint, path, lambda saved: saved["images"].update(classes=[trap]))


def among_the_weights(kept: Kept, path: Path, trap: Trap) -> None:
    changed(kept.checkpoint, path, lambda saved: saved["state_dict"].update({"net.extra": trap}))


def alone(kept: Kept, path: Path, trap: Trap) -> None:
    path.write_bytes(pickle.dumps(trap))


def in_the_format_before_zip(kept: Kept, path: Path, trap: Trap) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "b": trap}, path, _use_new_zipfile_serialization=False)


FILES: list[Make] = [
    *(in_a_checkpoint, among_the_settings, among_the_names, among_the_weights, alone, in_the_format_before_zip)
]


@pytest.fixture(params=FILES, ids=lambda make: make.__name__)
def trapped(request: pytest.FixtureRequest, kept: Kept, tmp_path: Path) -> Path:
    """A file that would make the file `sprung` if it were unpickled."""
    request.param(kept, tmp_path / "net.ckpt", Trap(tmp_path / "sprung"))
    return tmp_path / "net.ckpt"


def test_the_trap_works(kept: Kept, tmp_path: Path) -> None:
    for number, make in enumerate(FILES):
        make(kept, tmp_path / "net.ckpt", Trap(tmp_path / f"sprung{number}"))
        if make is alone:
            pickle.loads((tmp_path / "net.ckpt").read_bytes())
        else:
            torch.load(tmp_path / "net.ckpt", weights_only=False)
        assert (tmp_path / f"sprung{number}").exists(), make


@pytest.mark.parametrize("command", ["excitation", "predict", "export"])
def test_by_no_command(
    command: str, trapped: Path, digit_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [digit_files / "val" / "3"] if command == "predict" else ["--to", tmp_path / "out"]
    told = refused(capsys, command, trapped, *words, *(["data=digits"] if command != "predict" else []))
    assert f"{trapped} is not a checkpoint, is damaged, or holds more than weights" in told
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "out").exists()


def test_by_no_reader_of_weights(trapped: Path, tmp_path: Path) -> None:
    net = models.create("resnet8", None, 10, in_channels=1)
    for suffix in (".ckpt", ".pth", ".safetensors"):
        path = trapped.rename(tmp_path / f"net{suffix}")
        with pytest.raises(
            ValueError, match=f"net{suffix} is no file of weights, is damaged, or holds more than weights"
        ):
            models.load_weights(net, path)
        trapped = path
    with pytest.raises(ValueError, match="is no file of weights"):
        pretrained("resnet18", path)
    assert not (tmp_path / "sprung").exists()


def test_by_no_training_that_goes_on(trapped: Path, kept: Kept, tmp_path: Path) -> None:
    """A checkpoint that is none is set aside, and the training begins anew."""
    (cell,) = plan.make_plan(
        compose(["recipe.epochs=1", "se.reduction=4", "data.subset=40", "data.test_subset=20"])
    ).cells
    said: list[dict[str, object]] = []
    record = trial.run_trial(cell.spec, trapped, said.append)
    assert "moved to net.damaged, training starts anew" in str(said[0]["notice"])
    assert not record["resumed"]
    assert not (tmp_path / "sprung").exists()


def test_not_from_torchvisions_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash is compared when a file is fetched, not when it lies there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save({"fc.weight": Trap(tmp_path / "sprung")}, tmp_path / "hub" / "checkpoints" / name)
    with pytest.raises(
        ValueError,
        match=r"the file of torchvision:resnet18\.IMAGENET1K_V1 in the cache is damaged, or holds more than weights",
    ):
        pretrained("resnet18", library="torchvision")
    assert not (tmp_path / "sprung").exists()
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "hub" / "checkpoints" / name)
    net = pretrained("resnet18", library="torchvision")
    assert torch.equal(net.get_parameter("fc.weight"), state["fc.weight"])
