"""Wrong input of every kind, made from real input by small mutations: a line that says what is wrong, and nothing lost.

Whatever is asked, a command ends with exit code 0, 1 or 2; where it refuses, it says so in at most three lines without
a traceback, and leaves the store as it was. Mutants that happen to be right are drawn again, so that the counts of
examples are counts of wrong ones.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from kept import Kept
from launching import ROOT, SEARCH, TINY, Lab

from senet_lab import __main__, run

TRIVIAL = ("seeds=1", "recipe.epochs=1", "data.subset=60", "data.test_subset=60", "executor.workers=1")
TRAIN = ("+ablation=tiny", *TRIVIAL)
REAL = (
    TRAIN,
    ("+ablation=tiny", *TRIVIAL, "se.reduction=8", "se.position=pre", "se.stages=[3,4]", "tracking=off"),
    ("+search=small", *TRIVIAL, "search.sampler=tpe", "search.trials=3", "budget.params=1.05x"),
    ("backbone=resnet8", "data=digits", "recipe=quick", "se.squeeze=max", "se.excitation=tanh", *TRIVIAL),
    ("+ablation=tiny", *TRIVIAL, "recipe.lr=0.1", "recipe.milestones=[1]", "recipe.schedule=step", "data.augment=crop"),
)
ODD = (
    *(
        "",
        "null",
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1e400",
        "99999999999999999999",
        "true",
        "[]",
        "[",
        "{",
        "{}",
        "{2:4",
    ),
    *("${x}", "é", "../../x", "a b", "'", '"', "\\", "\x00", "\n", "%s", "=", "==", "*", "avg,max", "!!python/none"),
    "x" * 2000,
)
FEW = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # a mutant is small as it is
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="module")
def place(finished: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory in which the tiny study has run."""
    lab = Lab(tmp_path_factory.mktemp("fuzz"), TINY)
    (lab.folder / "sweeps/search").mkdir()
    (lab.folder / "sweeps/search/small.yaml").write_text(SEARCH)
    shutil.copytree(finished.folder / "results", lab.folder / "results")
    with contextlib.chdir(lab.folder):
        yield lab.folder


def typo(draw: random.Random, text: str) -> str:
    """Text with one character lost, doubled, moved or changed."""
    if not text:
        return draw.choice(ODD)
    at = draw.randrange(len(text))
    kind = draw.randrange(4)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    if kind == 2:
        return text[:at] + draw.choice("qZ9.=[]{}:,'\"$ \t-#&*!%@\\é\x07") + text[at + 1 :]
    return text[:at] + text[at : at + 2][::-1] + text[at + 2 :]


def wrong_words(draw: random.Random) -> list[str]:
    """The words of a real command, one or two of them spoilt."""
    words = list(draw.choice(REAL))
    for _ in range(draw.randint(1, 2)):
        at = draw.randrange(len(words))
        key, equals, _ = words[at].partition("=")
        words[at] = draw.choice(
            [typo(draw, words[at]), key + equals + draw.choice(ODD), draw.choice(ODD) + words[at], key]
        )
    return words


def wrong_text(draw: random.Random, text: str) -> str:
    """A file of text, spoilt in one or two places."""
    for _ in range(draw.randint(1, 2)):
        lines = text.split("\n")
        at = draw.randrange(len(lines))
        kind = draw.randrange(5)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines[at] = typo(draw, lines[at])
        elif kind == 2:
            lines[at] = " " * draw.randint(1, 3) + lines[at]
        elif kind == 3:
            lines[at] = lines[at].partition(":")[0] + ": " + draw.choice(ODD)
        else:
            lines = lines[:at]
        text = "\n".join(lines)
    return text


def wrong_bytes(draw: random.Random, content: bytes) -> bytes:
    """A file, cut off, with bytes changed, or with a piece of it overwritten."""
    kind = draw.randrange(3)
    at = draw.randrange(len(content))
    if kind == 0:
        return content[:at]
    if kind == 1:
        spoilt = bytearray(content)
        for _ in range(draw.choice([1, 10, 1000])):
            spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
        return bytes(spoilt)
    return content[:at] + draw.randbytes(4096) + content[at + 4096 :]


def ended(command: str, words: list[str]) -> tuple[int, str]:
    """The exit code of a command in this process, and what it says of its error."""
    main = {"run": run.main, "lab": __main__.main}[command]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as left:  # argparse, after --help
            code = int(left.code or 0)
    return code, err.getvalue()


def well_said(code: int, said: str, words: object) -> None:
    assert code in (1, 2), (words, code, said)
    assert 1 <= len(said.strip().splitlines()) <= 3, (words, said)
    assert said.startswith("error: "), (words, said)
    assert "Traceback" not in said, (words, said)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@given(seed=st.integers(0, 2**32))
@settings(FEW, max_examples=150)
def test_wrong_words(place: Path, seed: int) -> None:
    words = wrong_words(random.Random(seed))
    before = contents(place)
    code, said = ended("run", [*words, "plan=true"])
    assume(code != 0)
    well_said(code, said, words)
    assert contents(place) == before


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@settings(FEW, max_examples=70)
def test_wrong_studies(place: Path, seed: int) -> None:
    draw = random.Random(seed)
    kind, _name, text = draw.choice([("ablation", "tiny", TINY), ("search", "small", SEARCH)])
    spoilt = wrong_text(draw, text)
    file = place / f"sweeps/{kind}/spoilt.yaml"
    file.write_text(spoilt)
    code, said = ended("run", [f"+{kind}=spoilt", *TRIVIAL, "plan=true"])
    assume(code != 0)
    well_said(code, said, spoilt)


@given(seed=st.integers(0, 2**32))
@settings(FEW, max_examples=40)
def test_wrong_tables(place: Path, seed: int) -> None:
    draw = random.Random(seed)
    (trials,) = (place / "results/local").glob("*/*/tiny/trials.csv")
    folder = place / "spoilt"
    shutil.rmtree(folder, ignore_errors=True)  # of a mutant that was right
    folder.mkdir()
    spoilt = wrong_text(draw, trials.read_text())
    (folder / "trials.csv").write_text(spoilt)
    code, said = ended(
        "lab", draw.choice([["table", "spoilt/trials.csv"], ["report", "spoilt", "--to", "spoilt.html"]])
    )
    assume(code != 0)
    well_said(code, said, spoilt)
    assert set(contents(folder)) == {str(folder / "trials.csv")}, "nothing is half-written"


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@settings(FEW, max_examples=40)
def test_wrong_stores(place: Path, seed: int) -> None:
    draw = random.Random(seed)
    whole = (place / "results/local/lab.db").read_bytes()
    spoilt = place / "spoilt.db"
    spoilt.write_bytes(wrong_bytes(draw, whole))
    before = spoilt.read_bytes()
    url = "sqlite:///spoilt.db"
    command, words = draw.choice(
        [
            ("run", [*TRAIN, f"storage={url}", "plan=true"]),
            ("lab", ["store", "check", "--storage", url]),
            ("lab", ["store", "export", "spoilt.csv", "--storage", url]),
        ]
    )
    code, said = ended(command, words)
    assume(code != 0)
    well_said(code, said, words)
    assert spoilt.read_bytes() == before


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@settings(FEW, max_examples=40)
def test_wrong_checkpoints(place: Path, kept: Kept, seed: int) -> None:
    draw = random.Random(seed)
    for left in ("excitation", "export"):  # by a mutant that was right
        shutil.rmtree(place / "results/local" / left, ignore_errors=True)
    spoilt = place / "spoilt.ckpt"
    spoilt.write_bytes(wrong_bytes(draw, kept.checkpoint.read_bytes()))
    words = draw.choice([["excitation", str(spoilt)], ["export", str(spoilt)], ["predict", str(spoilt), "nowhere.png"]])
    code, said = ended("lab", words)
    assume(code != 0)
    well_said(code, said, words)
    assert not (place / "results/local/excitation").exists()
    assert not (place / "results/local/export").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_wrong_words_in_a_process_of_their_own(place: Path, seed: int) -> None:
    draw = random.Random(seed)
    while True:  # the kernel itself takes no word with a zero in it
        words = wrong_words(draw)
        if not any("\x00" in word for word in words) and ended("run", [*words, "plan=true"])[0] != 0:
            break
    done = subprocess.run(
        [sys.executable, "-m", "senet_lab.run", *words, "plan=true"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    well_said(done.returncode, done.stderr, words)
    assert __main__.main(["store", "check"]) == 0
