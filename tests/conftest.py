"""Fixtures that several files of tests share."""

from __future__ import annotations

import fcntl
import gc
import os
import pickle
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from launching import USERS, WORDS, Lab, ended

if TYPE_CHECKING:
    from kept import Kept

Made = TypeVar("Made")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of what a script runs in its background, and all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """All modules are imported now: the garbage collector need not look through them again and again."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """At their exit libraries complain about objects of theirs that cannot be collected."""
    gc.unfreeze()


@pytest.hookimpl(tryfirst=True)  # before fixtures, which train too
def pytest_runtest_setup() -> None:
    """One thread for PyTorch in every test: several processes with a team of threads each wait for one another most of
    the time. What tests start is left as a user would have it, and who does not need PyTorch does not import it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


SECONDS = 600  # more than the tiny study takes, on a machine that is busy


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Made]) -> Made:
    """What `make` returns of a folder that it fills, once for all of pytest-xdist's processes: the first that needs it
    makes it, and the others wait. The lock ends with its process, however that ends; after one that failed, the next
    makes it anew."""
    place = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # of the whole run
    folder, made = place / name, place / f"{name}.pickle"
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            part = made.with_suffix(".part")
            part.write_bytes(pickle.dumps(make(folder)))
            part.rename(made)  # there as a whole, or not at all
    found: Made = pickle.loads(made.read_bytes())
    return found


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The tiny study, run once from beginning to end with tracking, in a folder of an awkward name, on a terminal of
    80 columns (what was seen there: `screen`), by a user with settings of W&B and a home of their own; not to be
    changed."""
    return once(tmp_path_factory, "finished", on_a_terminal)


def on_a_terminal(parent: Path) -> Lab:
    folder = parent / "an awkward,(name)='x'[y] é%20"
    folder.mkdir()
    lab = Lab(folder)
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "cols", "80", "rows", "40"], stdin=theirs, check=True)
    home = {"HOME": str(folder / "home"), "MPLCONFIGDIR": str(Path("~/.cache/matplotlib").expanduser())}
    Path(home["HOME"]).mkdir()
    process = lab.start(*WORDS, tracking="auto", stdout=theirs, stdin=theirs, environment=USERS | home)
    os.close(theirs)
    seen = b""
    until = time.monotonic() + SECONDS
    while True:
        if not select.select([ours], [], [], max(0, until - time.monotonic()))[0]:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"the tiny study had not ended after {SECONDS} s; it showed {seen!r}")
        try:
            read = os.read(ours, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not read:
            break
        seen += read
    os.close(ours)
    done = ended(process)
    assert (done.code, done.err) == (0, ""), done
    (lab.folder / "screen").write_bytes(seen)
    return lab


@pytest.fixture
def copy(finished: Lab, tmp_path: Path) -> Lab:
    """A copy of the finished study, to be changed by a test."""
    shutil.copytree(finished.folder / "results", tmp_path / "results")
    return Lab(tmp_path)


@pytest.fixture
def refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str], str], None]:
    """Checks that a study of these words ends with exit code 2 and one line that has this text, and writes nothing."""
    from senet_lab import run

    def check(words: list[str], message: str) -> None:
        monkeypatch.chdir(tmp_path)
        assert run.command(words) == 2
        line = capsys.readouterr().err
        assert message in line
        assert line.count("\n") == 1
        assert not (tmp_path / "results").exists()

    return check


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A ResNet-8 with SE, trained on the digits for one epoch; not to be changed."""
    from kept import train  # torch comes with it

    return once(tmp_path_factory, "kept", train)


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as files: what the command images makes of them; not to be changed."""
    return once(tmp_path_factory, "digits", as_files)


def as_files(parent: Path) -> Path:
    from senet_lab.__main__ import main

    assert main(["images", "digits", "--to", str(parent / "png")]) == 0
    return parent / "png"
