"""`python -m senet_lab evaluate`: against the training's own test, and a network called by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from kept import Kept, refused
from test_data_feeds import picture
from torchvision.transforms import v2

from senet_lab import outputs
from senet_lab.__main__ import main
from senet_lab.reports import paper
from senet_lab.training.sources import SOURCES


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number, place in enumerate(["train/a", "train/b", "val/a", "val/b", "val/b"]):
        (tmp_path / "tree" / place).mkdir(parents=True, exist_ok=True)
        picture(number, width=80, height=70).save(tmp_path / "tree" / place / f"{number}.png")
    return tmp_path / "tree"


def test_a_trial_is_tested_as_it_was(kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its recorded errors; and against its own file there is no difference, within the two images that are added."""
    assert main(["evaluate", str(kept.checkpoint), "data=digits", "--to", str(tmp_path / "a")]) == 0
    (line,) = pd.read_csv(tmp_path / "a/evaluation.csv").to_dict("records")
    for column, metric in (("top1_error", "test_error"), ("top5_error", "test_top5_error"), ("loss", "test_loss")):
        assert line[column] == pytest.approx(kept.record["metrics"][metric], abs=2e-3)
    again = ["evaluate", str(tmp_path / "a/outputs.npz"), str(kept.trial_id), "--results", str(kept.results)]
    assert main([*again, "data=digits", "--to", str(tmp_path / "b")]) == 0
    one = pd.read_csv(tmp_path / "b/evaluation.csv").iloc[1]
    assert "not recorded" not in capsys.readouterr().out
    assert (one["delta"], one["delta_half"]) == (0, pytest.approx(1.96 * 2**0.5 * 100 / 899, rel=1e-3))
    table = tmp_path / "a/evaluation.csv"
    written = table.read_text()
    table.write_text(written.replace(line["data"], "digits of another hand"))
    assert "not tested on the same images" in refused(capsys, *again, "data=digits")
    for earlier in (written.replace(line["protocol"], ""), None):  # of an earlier version; of a study
        table.write_text(earlier) if earlier else table.unlink()
        assert main([*again, "data=digits", "--to", str(tmp_path / "b")]) == 0
        assert "not recorded which images" in capsys.readouterr().out


def test_another_protocol_is_no_comparison(kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of outputs that were kept, and of two networks of which each would be tested in its own way."""
    once = ["evaluate", str(kept.checkpoint), "data=digits", "data.test_size=12", "--to", str(tmp_path / "a")]
    assert main(once) == 0
    assert "899 test images, whole images of 12 pixels; 95%" in capsys.readouterr().out
    said = refused(capsys, "evaluate", str(tmp_path / "a/outputs.npz"), str(kept.checkpoint), "data=digits")
    assert (
        f"{kept.checkpoint} is tested on whole images of 8 pixels, and {kept.checkpoint} on whole images of 12" in said
    )


def test_ten_crops_of_a_file_that_timm_wrote(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = timm.create_model("resnet10t", num_classes=1000).eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    words = ["evaluate", "timm:resnet10t", "--weights", str(tmp_path / "w.pth"), "data=folder", f"data.root={tree}"]
    assert "tells 1,000 classes apart" in refused(capsys, *words, "data.size=64", "data.workers=0")
    (tmp_path / "bad.pth").write_bytes(b"x")
    assert "no file of weights" in refused(capsys, *words[:3], str(tmp_path / "bad.pth"), *words[4:])
    for number in range(998):  # as many classes
        (tree / "train" / f"c{number}").mkdir()
        picture(1).save(tree / "train" / f"c{number}" / "1.png")
    sized = [*words, "data.size=64", "data.resize=64", "data.crops=10", "data.validation=0", "data.workers=0"]
    assert main([*sized, "--to", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("SENet-154") == 3
    assert "17.28 / 3.79" in shown
    cut = v2.Compose([v2.Resize(64), v2.TenCrop(64)])
    mean, std = (torch.tensor(n)[:, None, None] for n in SOURCES["folder"].statistics)
    expected = []
    for number, label in ((2, 0), (3, 1), (4, 1)):
        crops = [torch.from_numpy(np.array(crop)).permute(2, 0, 1) / 255 for crop in cut(picture(number, 80, 70))]
        with torch.no_grad():
            p_K = net(torch.stack([(crop - mean) / std for crop in crops])).softmax(1).mean(0)
        expected.append(float(-p_K[label].log()))
    found = outputs.read_file(tmp_path / "out/outputs.npz")["timm:resnet10t"]
    assert found.loss == pytest.approx(expected, rel=2e-3)
    centre = ["evaluate", str(tmp_path / "out/outputs.npz"), *sized[1:], "data.crops=1", "data.test_size=32"]
    said = refused(capsys, *centre)
    assert (
        "is tested on the centre of 32 pixels, from 64, and timm:resnet10t on ten crops of 64 pixels, from 64" in said
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.ckpt", "data=digits"], "there is no checkpoint nowhere.ckpt"),
        (["timm:resnet5O", "data=digits"], "near are resnet50"),
        (["torchvision:resnet50.V9", "data=digits"], "no weights 'V9'; there are IMAGENET1K_V2, IMAGENET1K_V1"),
        (["nowhere.npz"], "nowhere.npz"),
        (["timm:resnet50"], "name their data set"),
        (
            ["torchvision:resnet18", "data=digits"],
            "IMAGENET1K_V1 are not in the cache of torchvision; --download fetches",
        ),
        (["data=digits"], "evaluate takes networks"),
    ],
)
def test_what_cannot_be_evaluated(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert told in refused(capsys, "evaluate", *words)


def test_tables_8_and_9_as_printed() -> None:
    found = [(r.table, r.sizes, r.top1, r.top5) for r in paper.printed_results() if r.name == "SENet-154"]
    assert found == [(8, (224,), 18.68, 4.47), (8, (320, 299), 17.28, 3.79), (9, (320,), 16.88, 3.58)]
    assert len(paper.printed_results()) == 17 + 6
