"""The README shows what the published results say, and names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from senet_lab import models
from senet_lab.compose import choices
from senet_lab.models.gates import EXCITATIONS, SQUEEZES
from senet_lab.models.slots import POSITIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHOWN = ("row", "paper top-1 %", "recomputed params M", "our error %", "Δ [95%]", "verdict")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n").split("|")]


def test_the_table_is_the_published_one() -> None:
    lines = (ROOT / "results/digits/resnet8-quick/ratio/table.md").read_text().splitlines()
    table = [cells(line) for line in lines if line.startswith("| ")]
    columns = [table[0].index(name) for name in SHOWN]
    for row in [table[0], *table[2:]]:
        assert f"| {' | '.join(row[column] for column in columns)} |" in README


@pytest.mark.parametrize("word", [*SQUEEZES, *EXCITATIONS, *POSITIONS])
def test_choices_are_named(word: str) -> None:
    assert f"`{word}`" in README


@pytest.mark.parametrize("group", ["ablation", "data", "recipe"])
def test_files_are_named(group: str) -> None:
    assert [name for name in choices(group) if f"`{name}`" not in README] == []


def test_backbones_are_named() -> None:
    """Families are abbreviated: `resnet8 20 32` names three."""
    (line,) = [line for line in README.splitlines() if line.startswith("| `backbone` |")]
    named = set()
    for family in re.findall(r"`([^`]+)`", line.split("|")[2]):
        first, *others = family.split()
        stem = first.rstrip("0123456789")
        named |= {first, *(other if other.startswith(stem) else stem + other for other in others)}
    assert set(models.BACKBONES) <= named


def test_links_and_files_are_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
