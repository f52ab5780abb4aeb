"""How long the report of a thousand trainings takes to write and to open, and how large it is.

    python benchmarks/report.py [--trials 1000] [--runs 5]

Makes up studies of seven rows and three seeds with 30 epochs each, in a temporary folder; times `python -m senet_lab
report` on them as a whole command; then opens the page in Chromium (a new profile each time) until a click on a filter
has hidden the other studies. What must hold: under 10 s, under 5 MB, under 2 s. Prints the median and the range of the
runs. Without Chromium at /usr/bin/chromium, or without playwright, the page is not opened, and that is said.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from senet_lab.reports import tables
from senet_lab.reports.cells import csv_bytes
from senet_lab.reports.curves import METRICS
from senet_lab.reports.trials import COLUMNS

ROOT = Path(__file__).parents[1]
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ROWS, SEEDS, EPOCHS = 7, 3, 30


def make_up(folder: Path, number: int) -> None:
    """A study that nobody ran: its `trials.csv` and `curves.csv`."""
    rng = np.random.default_rng(number)
    data, backbone = f"data{number % 4}", f"net{number // 4 % 3}"
    lines, curves = [], []
    for row in range(ROWS):
        for seed in range(SEEDS):
            error = 100 * int(rng.integers(50, 90)) / 1000
            line = {
                "study": f"study{number // 12}",
                "title": f"Study {number // 12}",
                "row": f"row {row}",
                "baseline": "row 3",
                "seed": seed,
                "trial_id": f"{number:06x}{row:05x}{seed:05x}",
                "status": "done",
                "test_error": error,
                "test_top5_error": error / 10,
                "val_error": error,
                "val_loss": error / 30,
                "test_images": 1000,
                "params": 75_000 + 900 * row + number,
                "macs": 750_000 + 2000 * row + number,
                "hidden": "2:1 3:2 4:4",
                "network": f"n{number}-{row}",
                "data": data,
                "backbone": backbone,
                "recipe": "quick",
                "epochs": EPOCHS,
                "device": "cpu",
                "torch": "2.15.0",
            }
            lines.append(line)
            for epoch in range(1, EPOCHS + 1):
                values = error + 80 * np.exp(-epoch / 6) + rng.normal(0, 1, len(METRICS))
                metrics = dict(zip(METRICS, values, strict=True))
                shared = {name: line[name] for name in ("trial_id", "row", "seed")}
                curves.append({**shared, "epoch": epoch, **metrics})
    place = folder / data / f"{backbone}-quick" / f"study{number // 12}"
    place.mkdir(parents=True)
    (place / "trials.csv").write_bytes(csv_bytes(pd.DataFrame(lines, columns=list(COLUMNS))))
    tables.read_trials(place / "trials.csv")
    (place / "curves.csv").write_bytes(csv_bytes(pd.DataFrame(curves)))


def write(folder: Path, page: Path) -> tuple[float, float]:
    """Seconds that the command takes, and seconds of the processor in it."""
    began, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "senet_lab", "report", str(folder), "--to", str(page)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, used


def opened(page: Path, studies: int) -> tuple[float, float]:
    """Seconds until a click on a filter is answered: from asking for the page, and of the click alone."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver, tempfile.TemporaryDirectory() as profile:
        browser = driver.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=ARGUMENTS, viewport={"width": 1280, "height": 900}
        )
        tab = browser.pages[0]
        shown = "document.querySelectorAll('article.study:not([hidden])').length"
        began = time.perf_counter()
        tab.goto(page.as_uri(), wait_until="commit")
        chip = tab.get_by_role("button", name="net1", exact=True)
        chip.wait_for()
        clicked = time.perf_counter()
        chip.click()
        tab.wait_for_function(f"{shown} < {studies}")
        ended = time.perf_counter()
        assert tab.evaluate(shown) == studies // 3, "the filter shows other studies than its own"
        browser.close()
    return ended - began, ended - clicked


def spread(values: list[float], unit: str = "s") -> str:
    return f"{float(np.median(values)):.2f} {unit} ({min(values):.2f} to {max(values):.2f}, {len(values)} runs)"


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--trials", default=1000, type=int, help="at least so many (%(default)s)")
    made.add_argument("--runs", default=5, type=int, help="of each measurement (%(default)s)")
    arguments = made.parse_args()
    studies = -(-arguments.trials // (ROWS * SEEDS * 12)) * 12
    with tempfile.TemporaryDirectory() as place:
        folder, page = Path(place) / "results", Path(place) / "report.html"
        for number in range(studies):
            make_up(folder, number)
        print(f"{studies * ROWS * SEEDS:,} trainings of {EPOCHS} epochs in {studies} studies; {os.cpu_count()} cores")
        written = [write(folder, page) for _ in range(arguments.runs)]
        print(f"written in   {spread([whole for whole, _ in written])}")
        print(f"of processor {spread([used for _, used in written])}")
        print(f"size         {page.stat().st_size / 1e6:.2f} MB")
        try:
            import playwright  # noqa: F401
        except ImportError:
            print("not opened: playwright is not installed")
            return
        if not CHROMIUM.exists():
            print(f"not opened: there is no {CHROMIUM}")
            return
        times = [opened(page, studies) for _ in range(arguments.runs)]
        print(f"usable after {spread([whole for whole, _ in times])}, the click alone {spread([c for _, c in times])}")


if __name__ == "__main__":
    main()
