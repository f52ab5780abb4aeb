"""The README says what the published results say; the page of studies names every choice that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from senet_lab import models
from senet_lab.compose import choices
from senet_lab.models.gates import EXCITATIONS, SQUEEZES
from senet_lab.models.slots import POSITIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
STUDIES = (ROOT / "docs/studies.md").read_text()


def published(study: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / f"results/digits/resnet8-quick/{study}/table.csv", index_col=0)


def test_what_was_found_is_what_is_published() -> None:
    """Each sentence, by the tables: which gates are worse and by how much, and that all else is equivalent."""
    gates = published("excitation")
    for row, verdict in (("ReLU", "worse"), ("softmax", "worse"), ("tanh", "worse on these images")):
        assert gates.verdict[row] == verdict
        assert re.search(rf"{row}[^.]*?\(\+{gates.delta[row]:.2f}\b", README)
    for study in ("ratio", "position", "conv3x3", "squeeze", "stages", "nosqueeze"):
        assert sorted(set(published(study).verdict)) == ["baseline", "equivalent within ±0.5"], study
    assert {"r = 2", "r = 32", "no SE"} <= {*published("ratio").index}


@pytest.mark.parametrize("word", [*SQUEEZES, *EXCITATIONS, *POSITIONS])
def test_choices_are_named(word: str) -> None:
    assert f"`{word}`" in STUDIES


@pytest.mark.parametrize("group", ["ablation", "data", "recipe"])
def test_files_are_named(group: str) -> None:
    assert [name for name in choices(group) if f"`{name}`" not in STUDIES] == []


def test_backbones_are_named() -> None:
    """Families are abbreviated: `resnet8 20 32` names three."""
    (line,) = [line for line in STUDIES.splitlines() if line.startswith("| `backbone` |")]
    named = set()
    for family in re.findall(r"`([^`]+)`", line.split("|")[2]):
        first, *others = family.split()
        stem = first.rstrip("0123456789")
        named |= {first, *(other if other.startswith(stem) else stem + other for other in others)}
    assert set(models.BACKBONES) <= named


def test_links_and_files_are_there() -> None:
    for target in re.findall(r'\]\(([^)]+)\)|(?:src|srcset)="([^"]+)"', README):
        (name,) = filter(None, target)
        assert name.startswith("https://") or (ROOT / name).exists(), name
