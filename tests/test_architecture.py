"""The walks of docs/architecture.md, made for real: each edit that it names, in a copy, is all that it takes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT

# Walk → what then stands in the terminal's table, or in a file of the study: its name, and a text in it.
WALKS = {
    "Add an excitation": ("table.csv", "excitation = hardsigmoid"),
    "Vary the learning rate": ("table.csv", "lr = 0.05"),
    "Add an objective": ("front.csv", "se_params"),
    "Add a column": ("table.md", "| epochs |"),
}


def walk(name: str) -> tuple[str, str]:
    """The edit of a walk, and its command."""
    text = (ROOT / "docs/architecture.md").read_text()
    part = text.split(f"### {name}\n", 1)[1].split("\n### ", 1)[0]
    edit = re.search(r"```diff\n(.*?)```", part, re.DOTALL)
    command = re.search(r"```\n(python .*?)\n```", part)
    assert command, name
    return edit[1] if edit else "", command[1]


def edited(root: Path, edit: str) -> None:
    """Put the lines marked + behind the lines before them, which stand in the file once."""
    file, *lines = edit.splitlines()
    path = root / file
    before = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
    after = "".join(f"{line[1:]}\n" for line in lines)
    text = path.read_text()
    assert text.count(before) == 1, f"{file} has changed: the walk of docs/architecture.md has not"
    path.write_text(text.replace(before, after))


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKS)
def test_a_walk_takes_what_it_says(name: str, tmp_path: Path) -> None:
    for folder in ("senet_lab", "sweeps"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    edit, command = walk(name)
    if edit:
        edited(tmp_path, edit)
    words = shlex.split(command.replace("python", sys.executable, 1))
    done = subprocess.run(
        [*words, "tracking=off"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    file, expected = WALKS[name]
    (made,) = (tmp_path / "results").rglob(file)
    assert expected in made.read_text()
