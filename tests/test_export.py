"""`python -m senet_lab export`: the file against the network, used as somebody without this lab would use it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from kept import Kept, changed, predicted, refused
from launching import files_of_at_most
from PIL import Image
from test_data_feeds import picture
from test_predict import coloured

from senet_lab.__main__ import main
from senet_lab.config import SE
from senet_lab.models.gated import gates_in
from senet_lab.models.kinds import names
from senet_lab.studies import export_onnx
from senet_lab.studies.trained_network import TrainedNetwork
from senet_lab.training import checkpoints
from senet_lab.training.lit import SENet


def answer(path: Path, image: Path) -> dict[str, float]:
    """Class → probability, from the file and what it says of itself alone, for an image of the size that it wants."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    size, resize = json.loads(said["size"]), json.loads(said["resize"])
    mean, std = (np.array(json.loads(said[key])) for key in ("mean", "std"))
    pixels_HWC = np.atleast_3d(np.asarray(Image.open(image).convert("L" if said["colours"] == "grey" else "RGB")))
    assert min(pixels_HWC.shape[:2]) == resize  # so that nothing has to be resized here
    top, left = ((side - size) // 2 for side in pixels_HWC.shape[:2])
    x_HWC = (pixels_HWC[top : top + size, left : left + size] / 255 - mean) / std
    (logits_BK,) = session.run(["logits"], {"images": x_HWC.transpose(2, 0, 1)[None].astype(np.float32)})
    odds_K = np.exp(logits_BK[0].astype(float))
    return dict(zip(json.loads(said["classes"]), (odds_K / odds_K.sum()).tolist(), strict=True))


def well_exported(code: int, out: str, err: str, path: Path) -> None:
    """The command's answer, and what it leaves."""
    assert (code, err) == (0, "")
    first, second, third = out.splitlines()
    assert first == "resnet8 as ONNX, opset 18: images (batch, 1, 8, 8) → logits (batch, 10)"
    assert float(second.rpartition(":")[2]) < 1e-4
    assert third == f"written: {path}"
    assert [file.name for file in path.parent.iterdir()] == ["digits.onnx"]  # one file, weights and all


@pytest.fixture(scope="module")
def exported(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By the command in this process, which has torch."""
    path = tmp_path_factory.mktemp("exported") / "digits.onnx"
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(["export", str(kept.checkpoint), "--to", str(path)])
    well_exported(code, out.getvalue(), err.getvalue(), path)
    return path


@pytest.mark.slow
def test_a_process_of_its_own_writes_the_same_file(exported: Path, kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / "digits.onnx"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "senet_lab", "export", str(kept.checkpoint), "--to", str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    well_exported(done.returncode, done.stdout, done.stderr, path)
    assert path.read_bytes() == exported.read_bytes()


def test_the_file_answers_as_predict_does(
    exported: Path, kept: Kept, digit_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in (0, 4):
        image = sorted((digit_files / "val" / str(label)).iterdir())[0]
        (found,) = predicted(capsys, kept.checkpoint, image, "--top", 10)
        expected = {guess["class"]: guess["probability"] for guess in found["top"]}
        assert answer(exported, image) == pytest.approx(expected, abs=1e-4)


def test_any_number_of_images_at_once(exported: Path, kept: Kept) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", export_onnx.OPSET)]
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape[1:], made.name, made.shape[1:]) == ("images", [1, 8, 8], "logits", [10])
    assert isinstance(given.shape[0], str)
    assert not re.search(rb"\.py\b|site-packages|/senet_lab/", exported.read_bytes())  # nobody's folders
    net = checkpoints.load_network(kept.checkpoint).net.eval()
    x_BCHW = torch.randn(13, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = net(x_BCHW).numpy()
    for batch in (1, 13):
        (logits,) = session.run(None, {"images": x_BCHW[:batch].numpy()})
        np.testing.assert_allclose(logits, expected[:batch], atol=1e-4)


def test_colour_images_and_what_is_said_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    se = SE(reduction=4, squeeze="none", excitation="softmax", position="conv3x3")
    path, image = coloured(tmp_path / "net.ckpt", se), tmp_path / "picture.png"
    picture(2, width=24, height=18).save(image)
    assert main(["export", str(path), "--to", str(tmp_path / "new" / "net.onnx")]) == 0
    (found,) = predicted(capsys, path, image)
    expected = {guess["class"]: guess["probability"] for guess in found["top"]}
    assert answer(tmp_path / "new" / "net.onnx", image) == pytest.approx(expected, abs=1e-4)
    said = {entry.key: entry.value for entry in onnx.load(tmp_path / "new" / "net.onnx").metadata_props}
    assert (said["backbone"], json.loads(said["se"])["reduction"], said["colours"]) == ("resnet8", 4, "RGB")
    assert all(word in said["preprocessing"] for word in ("resize", "size", "mean", "std"))


FAMILIES = ["wrn16_4", "resnext50", "shake29_2x4x64d", "bn_inception", "mobilenet", "shufflenet"]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", FAMILIES)
def test_every_kind_of_network(backbone: str, tmp_path: Path) -> None:
    size = 32 if backbone.startswith(("wrn", "shake2")) else 64
    module = SENet(backbone, SE(), classes=3, channels=3, seed=0)
    # Untrained, its maps grow from block to block, and rounding with them: float32 differs from float64 by as much as
    # is tolerated of a file.
    if backbone == "shufflenet":
        settle(module.net, size)
    exports_within_tolerance(module, size, tmp_path)


@pytest.mark.slow
def test_every_kind_of_operation(tmp_path: Path) -> None:
    """With those of `test_colour_images_and_what_is_said_of_them`."""
    se = SE(squeeze="max", excitation="tanh", position="identity", bias=True)
    exports_within_tolerance(SENet("resnet8", se, classes=3, channels=3, seed=0), 32, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", names())
def test_every_kind_of_gate(kind: str, tmp_path: Path) -> None:
    module = SENet("resnet8", SE(4, kind=kind, stages=[4]), classes=3, channels=3, seed=0)
    dice = torch.Generator().manual_seed(1)
    for weight in gates_in(module.net)["layer3.0.bn2.se"].parameters():
        torch.nn.init.normal_(weight, generator=dice)  # some kinds begin as the identity
    exports_within_tolerance(module, 32, tmp_path)


def settle(net: torch.nn.Module, size: int) -> None:
    """What training does for rounding: statistics that fit the weights, and branches that add little to their sums."""
    for name, norm in net.named_modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
            if ".bn3" in name:
                torch.nn.init.constant_(norm.weight, 0.2)
    with torch.no_grad():
        net.train()(torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0)))


def exports_within_tolerance(module: SENet, size: int, folder: Path) -> None:
    how = {"size": size, "resize": 0, "crops": 1, "scales": [], "mean": [], "std": [], "classes": ["a", "b", "c"]}
    content = {"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict(), "images": how}
    torch.save(content, folder / "net.ckpt")
    assert main(["export", str(folder / "net.ckpt"), "--to", str(folder / "net.onnx")]) == 0
    assert (folder / "net.onnx").is_file()


# --------------------------------------------------------------------------------------------------------------------
# What is not written


def test_a_file_that_is_there_stays(kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"precious")
    assert "--overwrite replaces it" in refused(capsys, "export", kept.checkpoint, "--to", path)
    with files_of_at_most(10_000):
        told = refused(capsys, "export", kept.checkpoint, "--to", path, "--overwrite", code=1)
    assert f"{path} cannot be written" in told
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert path.read_bytes() == b"precious"
    assert main(["export", str(kept.checkpoint), "--to", str(path), "--overwrite"]) == 0
    onnx.checker.check_model(onnx.load(path))


def test_a_model_that_differs_is_not_kept(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's own answers are made a little wrong, as a wrong translation would make the file's."""

    def others(network: TrainedNetwork) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(x, logits + 2e-4 * logits.abs().max().clamp(min=1)) for x, logits in samples_of(network)]

    samples_of = export_onnx.samples_of
    monkeypatch.setattr(export_onnx, "samples_of", others)
    told = refused(capsys, "export", kept.checkpoint, "--to", tmp_path / "out" / "net.onnx", code=1)
    assert "differs from the network by 2.0e-04, more than 0.0001" in told
    assert not list((tmp_path / "out").iterdir())


def test_outputs_that_are_no_numbers(kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def spoil(saved: dict[str, Any]) -> None:
        saved["state_dict"]["net.conv1.weight"].fill_(torch.nan)

    path = changed(kept.checkpoint, tmp_path / "nan.ckpt", spoil)
    assert "not all numbers" in refused(capsys, "export", path, "--to", tmp_path / "out" / "net.onnx", code=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("library", export_onnx.LIBRARIES)
def test_a_missing_library_is_named(
    library: str, kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # importing it then fails, as it does where it is not installed
    told = refused(capsys, "export", kept.checkpoint, "--to", tmp_path / "out" / "net.onnx")
    assert f"export needs {library}: pip install onnx" in told
    assert not (tmp_path / "out").exists()


def test_bad_input_is_answered_in_one_line(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("none.ckpt").write_text("no checkpoint")
    changed(kept.checkpoint, Path("old.ckpt"), lambda saved: saved.pop("images"))
    for words, expected in (
        (["missing.ckpt"], "there is no checkpoint missing.ckpt"),
        (["none.ckpt"], "none.ckpt is not a checkpoint"),
        (["old.ckpt"], "does not say what images it was trained on"),
        (["old.ckpt", "data=cifar10", f"data.root={tmp_path}"], "cifar10: there is no folder"),
        ([kept.checkpoint, "net.onnx"], "'net.onnx': export takes a checkpoint and words about its data"),
        ([kept.checkpoint, "recipe.epochs=3"], "'recipe.epochs=3'"),
        ([kept.checkpoint, "--bogus"], "unrecognized arguments: --bogus"),
    ):
        assert expected in refused(capsys, "export", *words), words
    assert not Path("results").exists()


def test_static_gates_leave_the_plain_operators(kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the file answers as the network with its mean gates does, whose test error is said beside the original's."""
    path = tmp_path / "static.onnx"
    assert main(["export", str(kept.checkpoint), "--static", "--to", str(path), "--results", str(kept.results)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"test error \d+\.\d\d% with static gates, \d+\.\d\d% as trained, on 899 images", out)
    model = onnx.load(str(path))
    kinds = [node.op_type for node in model.graph.node]
    assert "Sigmoid" not in kinds
    assert (kinds.count("Conv"), kinds.count("Gemm") + kinds.count("MatMul")) == (7, 1)
