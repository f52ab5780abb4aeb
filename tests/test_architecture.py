"""docs/architecture.md against the tree: its edits are all that is needed, and its tables name what is there."""

from __future__ import annotations

import ast
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
    "Add a gate": ("table.csv", "kind = double"),
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


LONGEST = 14  # files of a walk


def steps(heading: str) -> list[tuple[str, str]]:
    """File and name, line by line, of the table behind a line of the page."""
    text = (ROOT / "docs/architecture.md").read_text().split(f"{heading}\n", 1)[1]
    lines = text.strip().split("\n\n")[0].splitlines()
    return [found for line in lines for found in re.findall(r"`([\w/.]+\.(?:py|yaml)): (\w+)`", line)]


def names(file: str) -> tuple[set[str], set[str]]:
    """What a file defines, and what it calls."""
    nodes = list(ast.walk(ast.parse((ROOT / "senet_lab" / file).read_text())))
    defined = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    defined |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    return defined, {each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in called}


@pytest.mark.parametrize("heading", ["From the words to the first training:", "From the last record to the table:"])
def test_each_step_of_a_walk_is_called_by_one_above_it(heading: str) -> None:
    walked = steps(heading)
    assert 10 <= len({file for file, _ in walked}) <= LONGEST
    called: set[str] = set()
    for number, (file, name) in enumerate(walked):
        defined, calls = names(file)
        called |= calls
        assert name in defined, f"{file} does not define {name}"
        assert not number or name in called, f"nothing above {file} calls {name}"


def test_the_answers_are_where_the_page_says() -> None:
    answers = steps("## Where is …")
    assert len(answers) == 5
    for file, name in answers:
        content = (ROOT / "senet_lab" / file).read_text()
        assert re.search(rf"^\s*{name}:", content, re.M) if file.endswith(".yaml") else name in names(file)[0], file
