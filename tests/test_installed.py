"""The package as users install it: from its wheel, without the repository, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*words: object, folder: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(word) for word in words], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel(tmp_path: Path) -> None:
    """It holds the commands, the studies, the digits and the page; neither git nor a home is needed."""
    run(
        sys.executable,
        *["-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w"],
        tmp_path / "dist",
        folder=ROOT,
    )
    (wheel,) = (tmp_path / "dist").glob("senet_lab-*.whl")
    place, folder = tmp_path / "venv", tmp_path / "empty"
    folder.mkdir()
    venv.create(place)
    python = place / "bin" / "python"
    # The libraries are this environment's: PyTorch is not installed a second time.
    (own,) = place.glob("lib/python*/site-packages")
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        *["install", "-q", "--no-deps", "--no-index"],
        wheel,
        folder=folder,
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GIT"))}
    env |= {"HOME": str(tmp_path / "missing"), "PATH": str(place / "bin"), "MPLCONFIGDIR": str(tmp_path / "mpl")}

    said = run("senet-lab", "run", "+ablation=ratio", "recipe.epochs=2", folder=folder, env=env)
    study = "results/local/digits/resnet8-quick-epochs=2/ratio"
    assert f"written: {study}/" in said
    table = (folder / study / "table.md").read_bytes()
    (folder / study / "table.md").unlink()
    run("senet-lab", "table", "ratio", "recipe.epochs=2", folder=folder, env=env)
    assert (folder / study / "table.md").read_bytes() == table
    said = run(python, "-m", "senet_lab.run", "+ablation=ratio", "recipe.epochs=2", "plan=true", folder=folder, env=env)
    assert "all 18 trials are recorded" in said
    run("senet-lab", "report", "results", folder=folder, env=env)
    assert b"r = 32" in (folder / "results/local/report.html").read_bytes()
    assert {path.name for path in folder.iterdir()} == {"results"}
