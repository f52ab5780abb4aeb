"""The benchmark of fused blocks: that it runs, and what it counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import fused

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_its_short_form_runs_without_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.fused", "--short", "--device", "cpu", "--to", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"fused.md", "fused.csv"}
    text = (tmp_path / "fused.md").read_text()
    assert "| modules | " in text
    assert "| fused | " in text
    assert len((tmp_path / "fused.csv").read_text().splitlines()) == 1 + 4 * 2


@pytest.mark.parametrize("name", ["resnet49", "vgg16"])
def test_a_network_without_such_blocks_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fused", "--backbone", name])
    assert fused.main() == 2
    assert capsys.readouterr().err.startswith(f"error: --backbone: '{name}' is not one of resnet8, ")


def test_se_adds_no_pass_to_fused_blocks() -> None:
    """Eleven maps with and without it, what is B × C aside; called one by one, the modules move 29 and 16."""
    pytest.importorskip("triton")
    moved, kept = {}, {}
    for se in (None, fused.SE()):
        with torch.device("meta"):
            (last, shape), *_ = fused.lasts(fused.models.create("resnet8", se, seed=0), batch=4, size=32)
        for name, end in fused.ends(se is not None).items():
            lines = list(fused.passes(end, last, shape, torch.bfloat16))
            one_map = 2 * torch.Size(shape).numel()
            moved[name] = sum(read + written for way, _, read, written in lines if way != "kept") / one_map
            kept[name] = sum(written for way, _, _, written in lines if way == "kept") / one_map
    assert moved == {
        "no SE, modules": pytest.approx(16, rel=0.02),
        "no SE, fused": pytest.approx(11, rel=0.02),
        "SE, modules": pytest.approx(29, rel=0.02),
        "SE, fused": pytest.approx(11, rel=0.02),
    }
    assert kept == {
        "no SE, modules": pytest.approx(2, rel=0.02),
        "no SE, fused": pytest.approx(2, rel=0.02),
        "SE, modules": pytest.approx(3, rel=0.02),
        "SE, fused": pytest.approx(2, rel=0.02),
    }
