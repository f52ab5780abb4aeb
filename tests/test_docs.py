"""The documentation: its commands and its Python run, its site builds without a network and finds every key."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import senet_lab as lab
from senet_lab import run
from senet_lab.__main__ import main, parser
from senet_lab.compose import compose_all
from senet_lab.help import list_keys

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in ROOT.glob("docs/*.md") if path.stem != "architecture")  # its walks have their own test
READ = [*PAGES, ROOT / "README.md"]
RUN = ["python", "-m", "senet_lab.run"]
HERE = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}

# How commands are run here: in little, in one folder, and as a plan where images or a cluster are elsewhere.
SMALL = {"recipe.epochs": "1", "data.subset": "60", "executor.workers": "1", "tracking": "off"}
SMALLER = {
    "seeds=settle": {"settle.max": "3"},
    "search=": {"search.trials": "3"},
    "search.confirm=": {"search.confirm": "2"},
    "search.rungs=": {"search.rungs": "[1,2]", "recipe.epochs": "3"},
}
ELSEWHERE = {
    "/data": "data",
    "/nfs/lab": "shared",
    "postgresql+psycopg://user@host/lab": "sqlite:///shared.db",
    "executor.address=auto": "plan=true",
    "data.download=true": "plan=true",
}
NOT_RUN = (
    *("timm:resnet50", "timm:legacy_senet154"),  # pretrained weights, of which there is no plan
    *("benchmarks.", "make chaos", "make test"),  # have tests of their own, or are the tests
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """The commands of a page, without their comments: what a shell would run."""
    lines = [line for block in blocks(page, "(?:bash)?") for line in block.replace("\\\n", "").splitlines()]
    found = [re.sub("^exec ", "", re.sub("^senet-lab run", shlex.join(RUN), line.strip())) for line in lines]
    return [shlex.join(shlex.split(line, comments=True)) for line in found if line.startswith(("python -m", "make "))]


def in_folder(page: Path, folder: Path) -> None:
    """Write the files that a page tells the reader to write."""
    if page.stem == "tutorial":
        (folder / "mynets.py").write_text(blocks(page, "python")[0])
    for text in blocks(page, "yaml"):
        name = re.search("name: (.*)", text)
        place = folder / "sweeps" / ("ablation" if text.startswith("# @package") else "recipe")
        place.mkdir(parents=True, exist_ok=True)
        assert name
        (place / f"{name[1]}.yaml").write_text(text)


@pytest.mark.parametrize("page", READ, ids=lambda page: page.stem)
def test_commands_are_understood(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    in_folder(page, tmp_path)
    targets = (ROOT / "Makefile").read_text()
    for command in commands(page):
        words = shlex.split(command)
        if words[:3] == RUN:
            if "--help" not in words:
                assert compose_all(words[3:]), command
        elif words[:3] == ["python", "-m", "senet_lab"]:
            parser().parse_args(words[3:])
        elif words[0] == "make":
            assert re.search(rf"^{re.sub('sweep-.*', 'sweep-%', words[1])}:", targets, re.MULTILINE), command
    for kind, name in {(path.parent.name, path.stem) for path in tmp_path.glob("sweeps/*/*.yaml")}:
        assert compose_all([f"{'+' * (kind == 'ablation')}{kind}={name}"])
    assert blocks(page, r"\w*"), "a page without an example"


# ------------------------------------------------------------------------------------------------------------ are run


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of somebody who follows the pages: with the files that they tell of, data sets of a few images, two
    trained networks and a study."""
    import timm
    import torch
    import torchvision
    from test_data_files import write_cifar
    from test_datasets import MADE

    folder = tmp_path_factory.mktemp("desk")
    draw = np.random.RandomState(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        for page in PAGES:
            in_folder(page, folder)
        patch.setattr(torchvision.datasets.SVHN, "split_list", dict(torchvision.datasets.SVHN.split_list))
        for place in (
            "DIR/{split}/{label}",
            "data/imagenette/{split}/{label}",
            "data/flowers/{split}/{label}",
            "DIR/eurosat/2750/{label}",
            "images",
        ):
            for number in range(40):
                path = folder / place.format(split=("train", "val")[number % 2], label=number // 4) / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.randint(0, 256, (9, 9, 3)).astype(np.uint8)).save(path)
        shutil.copy(folder / "images/0.png", folder / "photo.jpg")
        torch.save(timm.create_model("resnet18").state_dict(), folder / "FILE")
        for name in ("SVHN", "EMNIST"):
            MADE[name](folder / "DIR")
        write_cifar(folder / "data", "cifar10", patch)
        assert run.main(run_here("python -m senet_lab.run training.keep=last seeds=2")[3:]) == 0
        for name, path in zip(("NET", "NET2"), folder.glob("results/local/checkpoints/*.ckpt"), strict=True):
            shutil.copy(path, folder / f"{name}.ckpt")
        assert run.main(run_here("make sweep-ratio")[3:]) == 0
        yield folder


def run_here(command: str) -> list[str]:
    """The words of a command as it is run here."""
    if command.startswith("make "):
        words = [*command.split(), "-n", "-o", ".venv/ready", "--no-print-directory"]  # also where make runs the tests
        command = subprocess.check_output(words, cwd=ROOT, text=True).strip()
    for word, here in ELSEWHERE.items():
        command = command.replace(word, here)
    words = [name for word in shlex.split(command) for name in (map(str, ROOT.glob(word)) if "*" in word else [word])]
    if "seeds=settle" in command:  # each command may plan the same rows otherwise, as no two of one folder may
        words = with_keys(words, {"settle.name": f"plan{zlib.crc32(command.encode())}"})
    if words[2] == "senet_lab.run" and ("plan=true" in words or re.search(" data=(?!digits)", command)):
        return with_keys(words, {"plan": "true"})
    if words[2] == "senet_lab.run":
        smaller = [less for word, less in SMALLER.items() if word in command]
        return with_keys(words, {key: value for less in (SMALL, *smaller) for key, value in less.items()})
    if words[3] in ("dashboard", "table"):
        return with_keys(words, SMALL)  # the study that is shown was small
    return [*words, "--overwrite"] if words[3] == "export" else words


def with_keys(words: list[str], values: dict[str, str]) -> list[str]:
    return [word for word in words if word.split("=")[0] not in values] + [f"{k}={v}" for k, v in values.items()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of libraries: in a process of its own they stop nothing
@pytest.mark.parametrize("page", READ, ids=lambda page: page.stem)
def test_commands_run(page: Path, desk: Path) -> None:
    for command in commands(page):
        if not any(word in command for word in NOT_RUN):
            words = run_here(command)
            program = run.main if words[2] == "senet_lab.run" else main
            assert program(words[3:]) == 0, shlex.join(words)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in READ if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_runs(page: Path, desk: Path) -> None:
    """The Python of a page, from its top to its end."""
    little = 'lab.study("ratio", recipe={"epochs": 1}, data={"subset": 60}, settle={"max": 3}, tracking="off", '
    script = "".join(blocks(page, "python")).replace('lab.study("ratio", seeds="settle", ', f'{little}seeds="settle", ')
    (desk / "page.py").write_text(script)
    done = subprocess.run([sys.executable, "page.py"], cwd=desk, env=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built strictly: every link leads somewhere."""
    place = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--strict", "-q", "--site-dir", str(place)]
    subprocess.run([sys.executable, *words], cwd=ROOT, env=HERE, check=True)
    return place


def test_the_site(site: Path) -> None:
    """It loads nothing from elsewhere, and has every name of the package as a heading."""
    pages = [path.read_text() for path in site.rglob("*.html")]
    assert len(pages) >= len(PAGES)
    loaded = re.compile(r"""<(?:script|link|img)[^>]+(?:src|href)=["'](https?:)?//""")
    assert [match[0] for page in pages for match in loaded.finditer(page)] == []
    titles = " ".join(entry["title"] for entry in json.loads((site / "search/search_index.json").read_text())["docs"])
    names = {*lab.__all__, "plan", "front", "gates"} - {"models"}  # a module, of which the page has some functions
    assert [name for name in names if not re.search(rf"[.>]{name}[(<]", titles)] == []


@pytest.mark.slow
def test_the_search_finds_every_key(site: Path) -> None:
    """Typed into the site as it opens from its folder, without a server."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = "key => [...document.querySelectorAll('.md-search-result__article')].some(a => a.textContent.includes(key))"
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.goto((site / "index.html").as_uri())
        for key, _, _ in list_keys():
            tab.fill(".md-search__input", key)
            tab.press(".md-search__input", "End")
            tab.wait_for_function(found, arg=key)
        browser.close()
