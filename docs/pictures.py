"""The pictures of the documentation, from real runs: `make pictures`. Needs Chromium, and a few minutes.

terminal.svg      a study on the terminal, 80 columns
workspace.png     a study's W&B workspace, drawn from the file that `dashboard` writes
page-*.png        the HTML page of the published results, light and dark
gates.png         the gates of a trained network, class by class
"""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import workspace
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURES = Path(__file__).parent / "pictures"
STUDY = ["+ablation=excitation", "recipe.epochs=10", "tracking=off"]
TRACKED = ["ratio", "recipe.epochs=10"]
COLUMNS, LINES = 80, 50


def terminal(words: list[str], folder: Path) -> str:
    """What a command prints on a terminal of 80 columns, with its colours."""
    child, master = pty.fork()
    if child == 0:
        os.chdir(folder)
        env = os.environ | {"COLUMNS": str(COLUMNS), "LINES": str(LINES), "TERM": "xterm-256color"}
        os.execve(sys.executable, [sys.executable, *words], env | {"PYTHONPATH": str(ROOT)})
    seen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the command has ended
            break
        if not part:
            break
        seen += part
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit(seen.decode())
    return seen.decode()


def recorded(text: str, title: str) -> str:
    """Printed text as an SVG. The display that renewed itself while the study trained has left nothing."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        *erased, kept = line.split("\x1b[2K")
        ups = sum(part.count("\x1b[1A") for part in erased)
        del lines[max(0, len(lines) - ups) :]
        lines.append(kept.replace("\x1b[1A", "").replace("\x1b[?25l", "").replace("\x1b[?25h", "").lstrip("\r"))
    console.print(Text.from_ansi("\n".join(lines)))
    return re.sub(
        r"@font-face \{.*?\}\s*", "", console.export_svg(title=title), flags=re.DOTALL
    )  # fonts of another host


def screenshot(page: Path, name: str, scheme: str = "light", whole: bool = False) -> None:
    """The top of a page as a browser shows it, or all of it."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        shown.goto(page.as_uri())
        shown.wait_for_timeout(1000)
        shown.screenshot(path=PICTURES / name, full_page=whole)
        browser.close()


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        text = terminal(["-m", "senet_lab.run", *STUDY], folder)
        (PICTURES / "terminal.svg").write_text(recorded(text, f"python -m senet_lab.run {' '.join(STUDY)}"))

        terminal(["-m", "senet_lab.run", f"+ablation={TRACKED[0]}", *TRACKED[1:]], folder)
        terminal(["-m", "senet_lab", "dashboard", *TRACKED], folder)
        (dashboard,) = folder.glob("results/local/*/*/*/dashboard.json")
        (folder / "workspace.html").write_text(workspace.workspace_page(dashboard, folder / "results/local/wandb"))
        screenshot(folder / "workspace.html", "workspace.png", whole=True)

        published = {str(path.parents[2]) for path in ROOT.glob("results/*/*/*/trials.csv")}  # not results/local
        terminal(["-m", "senet_lab", "report", *sorted(published), "--to", str(folder / "report.html")], folder)
        for scheme in ("light", "dark"):
            screenshot(folder / "report.html", f"page-{scheme}.png", scheme)

        terminal(["-m", "senet_lab.run", "training.keep=last", "tracking=off"], folder)
        (weights,) = folder.glob("results/local/checkpoints/*.ckpt")
        terminal(["-m", "senet_lab", "excitation", str(weights), "--to", str(folder / "gates")], folder)
        shutil.copy(folder / "gates" / "gates_by_class.png", PICTURES / "gates.png")
    subprocess.run(["git", "-C", ROOT, "status", "--short", "--", PICTURES], check=True)


if __name__ == "__main__":
    main()
