"""How long the report of a thousand trainings takes to write and to open, and how large it is.

    python -m benchmarks.report

Makes up studies of seven rows and three seeds with 30 epochs each, in a temporary folder; times `python -m senet_lab
report` on them as a whole command; then opens the page in Chromium, with a new profile each time: until something is
painted, until the list of studies is on the screen, until a click on a filter has hidden the other studies, and until a
plot is drawn that is scrolled to. Whatever the console says is an error.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import measuring
from benchmarks.measuring import Line, spread
from senet_lab.reports import tables
from senet_lab.reports.cells import csv_bytes
from senet_lab.reports.curves import METRICS
from senet_lab.reports.trials import COLUMNS

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
TRIALS, ROWS, SEEDS, EPOCHS = 1000, 7, 3, 30
GOALS = {
    "written": "under 10 s",
    "processor": "",
    "size": "at most 5 MB",
    "first paint": "",
    "list of studies": "under 2 s",
    "a click on a filter": "",
    "a plot that is scrolled to": "",
}


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


def opened(page: Path, studies: int) -> dict[str, float]:
    """Seconds: from asking for the page until the first paint, and until the list; of a click, and of a plot."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = driver.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=ARGUMENTS, viewport={"width": 1280, "height": 900}
        )
        tab = browser.pages[0]
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        began = time.perf_counter()
        tab.goto(page.as_uri(), wait_until="commit")
        tab.locator("#studies table").wait_for()
        times = [time.perf_counter() - began]
        chip = tab.get_by_role("button", name="net1", exact=True)
        began = time.perf_counter()
        chip.click()
        tab.locator("#shown", has_text=f"{studies // 3} of {studies} studies").wait_for()
        times.append(time.perf_counter() - began)
        shown = tab.locator("article.study:not([hidden])")
        assert shown.count() == studies // 3, "the filter shows other studies than its own"
        began = time.perf_counter()
        shown.locator(".plot").first.scroll_into_view_if_needed()
        shown.locator(".plot .canvas svg .tick").first.wait_for()
        times.append(time.perf_counter() - began)
        painted = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
        assert said == [], said
        browser.close()
    return dict(zip([*GOALS][3:], (painted, *times), strict=True))


def main(words: list[str] | None = None) -> int:
    given = measuring.arguments(__doc__).parse_args(words)
    studies = 12 if given.short else -(-TRIALS // (ROWS * SEEDS * 12)) * 12
    taken: dict[str, list[float]] = {name: [] for name in GOALS}
    with tempfile.TemporaryDirectory() as place:
        folder, page = Path(place) / "results", Path(place) / "report.html"
        for number in range(studies):
            make_up(folder, number)
        command = [sys.executable, "-m", "senet_lab", "report", str(folder), "--to", str(page)]
        for _ in range(1 if given.short else 7):
            wall, processor, _ = measuring.run(command, Path(place))
            times = opened(page, studies)
            for name, value in {"written": wall, "processor": processor, **times}.items():
                taken[name].append(value)
        taken["size"] = [page.stat().st_size / 1e6]
    lines: list[Line] = [
        {"what": name, "median": spread(values) + (" MB" if name == "size" else " s"), "goal": GOALS[name]}
        for name, values in taken.items()
    ]
    notes = [
        f"{studies * ROWS * SEEDS:,} trainings of {EPOCHS} epochs in {studies} studies, made up.",
        "Medians over fresh processes and browser profiles, and their 95% intervals by order statistics; `processor` "
        "is that of writing. The console of the browser said nothing.",
    ]
    measured = [{"what": name, "value": value} for name, values in taken.items() for value in values]
    measuring.write("report", "The page of a thousand trainings", {"": lines}, measured, notes, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
