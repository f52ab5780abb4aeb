"""How far one study reaches: several drivers on one store, ten thousand trials ahead, a thousand workers.

    python -m benchmarks.reliability                     all parts, about fifteen minutes; PostgreSQL must be there
    python -m benchmarks.reliability --parts scaling     of drivers, start, scaling

- drivers: two drivers with two workers each train 200 trials from one PostgreSQL store, tracking off. Each is one epoch
  of 16 images: all of its time is the lab's own. The network counts its trainings, in the worker processes.
- start: how long after its command a driver with 10,000 trials to run trains the first of them.
- scaling: trials an hour against the number of workers of one driver. A worker that has ended a trial waits for the
  driver, which serves one at a time: records it, hands out the next, shows it in Optuna, and has heard of every epoch.
  How long that takes is measured, with made-up records instead of trainings; so is how trials of a study differ in
  length. The rest is a simulation.

Each part writes `reliability/<part>.md` and `.csv`; `reliability.md` is all of them, with what `make chaos` wrote.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import sqlalchemy as sa
from matplotlib.figure import Figure

from benchmarks import measuring, overhead
from benchmarks.measuring import Line, spread
from benchmarks.postgres import BINARIES, Postgres
from senet_lab import files

PARTS = ("drivers", "start", "scaling")
PAGE = (*PARTS, "chaos")  # in the order of the page
GOALS = {"drivers": 10.0, "start": 10.0, "scaling": 500.0}  # trials a second; seconds; trials a minute
STUDY = """\
# @package _global_
study:
  name: nothing
  title: Trials that train nothing
  factor: se.reduction
  baseline: r = 2
  rows:
    r = 2: {se.reduction: 2}
    r = 4: {se.reduction: 4}
    r = 8: {se.reduction: 8}
    r = 16: {se.reduction: 16}
"""
NETWORK = """\
import multiprocessing, os
from senet_lab import models

def network(num_classes, in_channels):
    made = models.create("resnet8", None, num_classes, in_channels=in_channels, seed=0)
    if "worker" in multiprocessing.current_process().name:
        made.register_forward_pre_hook(count)
    return made

def count(made, images):
    if made.training:  # in the one step of a trial of NOTHING
        with open(os.environ["COUNTED"], "a") as file:
            file.write(f"{os.getpid()}\\n")
"""
NOTHING = ("recipe.epochs=1", "recipe.batch_size=16", "data.subset=16", "data.test_subset=16", "tracking=off")
DRIVERS, WORKERS = 2, 2
PUBLISHED = measuring.ROOT / "results/digits/resnet8-quick/ratio/runs.csv"  # how trials of a study differ in length
LENGTHS = {"10 s": 10.0, "1 min": 60.0, "10 min": 600.0}  # of a mean trial
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of workers


def begin(words: Sequence[str], folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    """Start the lab in a folder."""
    python_path = f"{measuring.ROOT}{os.pathsep}{folder}"
    environment = {**os.environ, "PYTHONPATH": python_path, **variables}
    command = [sys.executable, "-m", "senet_lab.run", *words]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


# --------------------------------------------------------------------------------------------------------------------
# Drivers


def drivers(given: argparse.Namespace, server: Postgres) -> None:
    """Two drivers on one study."""
    rounds, seeds = (1, 2) if given.short else (6, 50)
    measured = []
    for number in range(rounds):
        measured.append(together(server.empty(), seeds))
        print(f"drivers, {number + 1} of {rounds}: {measured[-1]}", file=sys.stderr)
    trials = 4 * seeds
    once = all(each["records"] == each["trained"] == trials and each["attempts"] == trials for each in measured)
    lines = [
        {
            "trials": trials,
            "trials a second": spread([each["a second"] for each in measured]),
            "goal": f"at least {GOALS['drivers']:g}",
            "command, s": spread([each["command"] for each in measured]),
            "each exactly once": "yes" if once else "no",
            "by either driver": ", ".join(each["by driver"] for each in measured),
        }
    ]
    notes = [
        f"`python -m benchmarks.reliability --parts drivers`: {DRIVERS} drivers with {WORKERS} workers each, one "
        f"PostgreSQL server, all on one machine; medians of {rounds} rounds with their 95% intervals by order "
        "statistics.",
        "Trials a second: from the start of the first training to the last record. The command: with the imports, the "
        "start of the workers, and the table.",
        "Exactly once: as many records, attempts and trainings that the network itself has counted in the workers.",
    ]
    part("drivers", "Two drivers, one store", lines, measured, notes, given)


def together(url: str, seeds: int) -> Line:
    """One round: what the store holds when both drivers have ended."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "sweeps" / "ablation").mkdir(parents=True)
        (folder / "sweeps" / "ablation" / "nothing.yaml").write_text(STUDY)
        (folder / "counted.py").write_text(NETWORK)
        words = ["+ablation=nothing", "backbone=counted:network", f"seeds={seeds}", *NOTHING, f"storage={url}"]
        begun = time.perf_counter()
        running = [
            begin([*words, f"executor.workers={WORKERS}"], folder, COUNTED=str(folder / "count"))
            for _ in range(DRIVERS)
        ]
        try:
            codes = [process.wait() for process in running]
        finally:  # interrupted: they are not to go on without it
            for process in running:
                process.kill()
        command = time.perf_counter() - begun
        if any(codes):
            raise SystemExit(f"a driver ended with {codes}")
        trained = len((folder / "count").read_text().split())
    query = "SELECT owner, heartbeat, record FROM records WHERE state = 'done'"
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        rows = connection.execute(sa.text(query)).all()
    found = [json.loads(row.record) for row in rows]
    window = max(row.heartbeat for row in rows) - min(record["started"] for record in found)
    by_driver = Counter(row.owner for row in rows)
    return {
        "records": len(rows),
        "attempts": sum(record["attempts"] for record in found),
        "trained": trained,
        "a second": len(rows) / window,
        "command": command,
        "by driver": " + ".join(str(count) for count in sorted(by_driver.values())),
    }


# --------------------------------------------------------------------------------------------------------------------
# Start


def start(given: argparse.Namespace, server: Postgres) -> None:
    """A driver with many trials ahead."""
    rounds, seeds = (1, 10) if given.short else (6, 1667)
    measured = []
    for number in range(rounds):
        seconds = first_trial(server.empty(), seeds)
        measured.append({"trials": overhead.ROWS * seeds, "seconds": seconds})
        print(f"start, {number + 1} of {rounds}: {seconds:.1f} s", file=sys.stderr)
    lines = [
        {
            "trials to run": f"{overhead.ROWS * seeds:,}",
            "first trial after, s": spread([each["seconds"] for each in measured]),
            "goal": f"under {GOALS['start']:g}",
        }
    ]
    notes = [
        "`python -m benchmarks.reliability --parts start`: from the command `+ablation=ratio seeds=…` on an empty "
        f"PostgreSQL store to its first claim; median of {rounds} fresh processes with its 95% interval by order "
        "statistics."
    ]
    part("start", "A driver with ten thousand trials ahead", lines, measured, notes, given)


def first_trial(url: str, seeds: int) -> float:
    """Seconds from the command to the first claim."""
    count = sa.text("SELECT count(*) FROM records WHERE state = 'running'")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with tempfile.TemporaryDirectory() as place:
        begun = time.perf_counter()
        process = begin(["+ablation=ratio", f"seeds={seeds}", "tracking=off", f"storage={url}"], Path(place))
        try:
            while process.poll() is None:
                with engine.connect() as connection:
                    there = sa.inspect(connection).has_table("records")
                    if there and connection.execute(count).scalar():
                        return time.perf_counter() - begun
                time.sleep(0.05)
            raise SystemExit(f"the driver ended with {process.returncode}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


# --------------------------------------------------------------------------------------------------------------------
# Scaling


def scaling(given: argparse.Namespace, server: Postgres) -> None:
    """One driver and up to a thousand workers."""
    trials, at_once = (60, 10) if given.short else (3000, max(COUNTS))
    with tempfile.TemporaryDirectory() as place:
        stores = {"SQLite": [], "PostgreSQL": [f"storage={server.empty()}"]}
        services = {
            store: overhead.grown(
                trials, Path(place) / store, *words, f"executor.workers={at_once}", told=True, at_once=at_once
            )[0]
            for store, words in stores.items()
        }
    relative = relative_lengths()
    measured: list[Line] = []
    for length, seconds in LENGTHS.items():
        trial_seconds = [seconds * each for each in relative]
        for store, taken in services.items():
            for count in COUNTS:
                rate = simulate(count, trial_seconds, taken, 500 if given.short else 20_000)
                measured.append({"store": store, "trial": length, "workers": count, "trials an hour": rate})
    lines = []
    for store, taken in services.items():
        mean = statistics.fmean(taken)
        lines.append(
            {
                "store": store,
                "driver's time a trial, ms": spread(taken, 1, 1e3),
                "mean, ms": f"{1e3 * mean:.1f}",
                "one driver at most, trials a minute": f"{60 / mean:,.0f}",
                "goal": f"above {GOALS['scaling']:g}",
                **{f"workers kept busy, trials of {name}": f"{at / mean + 1:,.0f}" for name, at in LENGTHS.items()},
            }
        )
    notes = [
        f"`python -m benchmarks.reliability --parts scaling`: the driver's time of {trials:,} trials of a study that "
        f"grows from nothing, {at_once:,} of them in training at any moment, each with {overhead.EPOCHS} epochs that "
        "it is told of. Their messages come from its own process: pipes, or Ray's, are not in it, and workers on the "
        "same machine would take its cores from it.",
        "One driver becomes the limit where so many workers end a trial in the time that it needs for one; a second "
        "driver on the same store, on another machine, is the way on.",
        f"Lengths of trials vary as those of `{PUBLISHED.relative_to(measuring.ROOT)}` do.",
        "The figure: `scaling.svg`, from the simulation, whose every point is in the CSV.",
    ]
    part("scaling", "Workers of one driver", lines, measured, notes, given)
    draw(measured, given.to / "reliability")


def simulate(workers: int, lengths: Sequence[float], services: Sequence[float], trials: int, seed: int = 0) -> float:
    """Trials an hour of workers that share one driver, which serves them one after the other as they end.

    Args:
        workers: how many.
        lengths: seconds that a trial takes a worker, drawn from these.
        services: seconds that a trial takes the driver, drawn from these.
        trials: how many are simulated, after those in which every worker has been served twice.
    """
    draw = random.Random(seed)
    free = 0.0  # when the driver is
    ends = [0.0] * workers
    begun = 0.0
    for number in range(trials + 2 * workers):
        if number == 2 * workers:
            begun = free
        free = max(free, heapq.heappop(ends)) + draw.choice(services)
        heapq.heappush(ends, free + draw.choice(lengths))
    return 3600 * trials / (free - begun)


def relative_lengths() -> list[float]:
    """How long each trial of a published study took, over their mean."""
    with PUBLISHED.open(newline="") as file:
        seconds = [float(line["seconds"]) for line in csv.DictReader(file)]
    return [each / statistics.fmean(seconds) for each in seconds]


def draw(measured: Sequence[Line], folder: Path) -> None:
    """The figure: trials an hour against workers."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (length, marker), grey in zip(zip(LENGTHS, "os^", strict=True), ("0", "0.35", "0.6"), strict=True):
        for store, style in (("SQLite", "-"), ("PostgreSQL", "--")):
            points = [each for each in measured if (each["trial"], each["store"]) == (length, store)]
            x, y = ([each[name] for each in points] for name in ("workers", "trials an hour"))
            label = f"trials of {length}, {store}"
            axes.loglog(x, y, style, marker=marker, color=grey, label=label, markersize=4, linewidth=1)
    axes.axhline(60 * GOALS["scaling"], color="0.8", linewidth=1, zorder=0)
    axes.annotate("500 a minute", (1, 60 * GOALS["scaling"]), va="bottom", color="0.4", fontsize=8)
    axes.set_xlabel("workers of one driver")
    axes.set_ylabel("trials an hour")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with io.BytesIO() as svg, matplotlib.rc_context({"svg.hashsalt": "senet_lab"}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
        files.replace_all(folder, {"scaling.svg": svg.getvalue()})


# --------------------------------------------------------------------------------------------------------------------
# Written


def part(
    name: str, title: str, lines: Sequence[Line], measured: Sequence[Line], notes: Sequence[str], given: Any
) -> None:
    """Write a part, and the page anew."""
    inner = argparse.Namespace(short=given.short, to=given.to / "reliability")
    measuring.write(name, title, {"": lines}, measured, notes, inner)
    page(given.to)


def page(folder: Path) -> None:
    """`reliability.md`: every part that has been written, one heading lower."""
    parts = [folder / "reliability" / f"{name}.md" for name in PAGE]
    texts = [path.read_text().replace("# ", "## ", 1) for path in parts if path.exists()]
    head = "# How far it reaches, and what it survives\n\nThe single measurements are in `reliability/`.\n"
    files.replace_all(folder, {"reliability.md": "\n".join([head, *texts]).encode()})


def main(words: list[str] | None = None) -> int:
    made = measuring.arguments(__doc__)
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    made.set_defaults(to=measuring.RESULTS.parent)
    given = made.parse_args(words)
    if not BINARIES:
        print("error: there is no PostgreSQL here (Debian's postgresql)", file=sys.stderr)
        return 2
    with Postgres() as server:
        for name in given.parts:
            {"drivers": drivers, "start": start, "scaling": scaling}[name](given, server)
    return 0


if __name__ == "__main__":
    sys.exit(main())
