"""The documentation: its commands and its Python run, its site builds without a network and finds every key."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import senet_lab as lab
from senet_lab.__main__ import parser
from senet_lab.compose import compose_all
from senet_lab.help import list_keys

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in ROOT.glob("docs/*.md") if path.stem != "architecture")  # its walks have their own test
RUN = "python -m senet_lab.run "
HERE = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """The lines of a page that a shell would run, without their comments."""
    lines = [line.strip() for block in blocks(page, "") for line in block.replace("\\\n", "").splitlines()]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.startswith(("python -m", "make "))]


def in_folder(page: Path, folder: Path) -> None:
    """Write the files that a page tells the reader to write."""
    if page.stem == "tutorial":
        (folder / "mynets.py").write_text(blocks(page, "python")[0])
    for text in blocks(page, "yaml"):
        name = re.search("name: (.*)", text)
        if text.startswith("# @package") and name:
            (folder / "sweeps" / "ablation").mkdir(parents=True)
            (folder / "sweeps" / "ablation" / f"{name[1]}.yaml").write_text(text)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_commands_are_understood(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    in_folder(page, tmp_path)
    targets = (ROOT / "Makefile").read_text()
    for command in commands(page):
        words = shlex.split(command)
        if command.startswith(RUN):
            if "--help" not in words:
                assert compose_all(words[3:]), command
        elif words[:3] == ["python", "-m", "senet_lab"]:
            parser().parse_args([re.sub("^<.*|…", "file", word) for word in words[3:]])
        elif words[0] == "make":
            assert re.search(rf"^{re.sub('sweep-.*', 'sweep-%', words[1])}:", targets, re.MULTILINE), command
    assert blocks(page, r"\w*"), "a page without an example"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page: Path, tmp_path: Path) -> None:
    """The Python of a page is run from its top to its end, and studies are planned: of all pages words are read, above,
    and the tutorial's are run."""
    in_folder(page, tmp_path)
    for command in commands(page):
        words = shlex.split(command)
        at_hand = not any(word.startswith("data=folder") for word in words)
        if command.startswith(RUN) and at_hand and page.stem == "tutorial":
            run([*words[1:], *["plan=true"][: "plan=true" not in words]], tmp_path)
        elif words[:4] == ["python", "-m", "senet_lab", "cost"]:
            run(words[1:], tmp_path)
    script = "".join(blocks(page, "python"))
    if script:
        (tmp_path / "page.py").write_text(script)
        run(["page.py"], tmp_path)


def run(words: list[str], folder: Path) -> None:
    done = subprocess.run([sys.executable, *words], cwd=folder, env=HERE, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"


def test_the_site(tmp_path: Path) -> None:
    """It builds strictly (every link leads somewhere), loads nothing from elsewhere, and its search finds every key."""
    words = ["-m", "mkdocs", "build", "--strict", "-q", "--site-dir", tmp_path / "site"]
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=HERE, check=True)
    pages = [path.read_text() for path in (tmp_path / "site").rglob("*.html")]
    assert len(pages) >= len(PAGES)
    loaded = re.compile(r"""<(?:script|link|img)[^>]+(?:src|href)=["'](https?:)?//""")
    assert [match[0] for page in pages for match in loaded.finditer(page)] == []
    found = json.loads((tmp_path / "site/search/search_index.json").read_text())["docs"]
    text = " ".join(entry["text"] for entry in found)
    assert [key for key, _, _ in list_keys() if key not in text] == []
    titles = " ".join(entry["title"] for entry in found)
    names = {*lab.__all__, "plan", "front", "gates"} - {"models"}  # a module, of which the page has some functions
    assert [name for name in names if not re.search(rf"[.>]{name}[(<]", titles)] == []
