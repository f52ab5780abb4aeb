"""A whole ablation, from the command to the table, against the plain way: a script that is started once a trial.

    python -m benchmarks.study                      +ablation=ratio on the digits, 3 seeds: 18 trainings each way
    python -m benchmarks.study --seeds 1 recipe.epochs=10     another study of the same rows: the lab's words

The plain way is `benchmarks/plain.py` as a careful user starts it: Lightning, torchvision's transforms, DataLoader, a
fresh process a trial, of one thread each, as many side by side as there are cores. The lab is its command with tracking
off: as many workers, of one thread each. Both have the machine's cores and the same networks, images, splits and
recipe; the lab also plans, records every trial and writes the table. The plain way is run for the first half of the
seeds before the lab and for the rest after it, so that a machine that slows down or speeds up favours neither.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import Line, spread
from senet_lab import compose

ROWS = {"r = 2": 2, "r = 4": 4, "r = 8": 8, "r = 16": 16, "r = 32": 32, "no SE": None}


def plain(seeds: range, words: list[str], folder: Path, at_once: int) -> tuple[float, list[Line]]:
    """A process of one thread for each row and seed, so many at once: wall seconds of all, and a line for each."""

    def train(seed: int, row: str) -> Line:
        command = [sys.executable, "-m", "benchmarks.plain", "--seed", str(seed)]
        command += [] if ROWS[row] is None else ["--reduction", str(ROWS[row])]
        wall, used, out = measuring.run([*command, "--words", *words], folder, OMP_NUM_THREADS="1")
        error = json.loads(out.splitlines()[-1])["test_error"]
        print(f"plain: {row}, seed {seed}: {wall:.1f} s, test error {error:.2f}%", file=sys.stderr)
        return {"way": "plain", "row": row, "seed": seed, "wall": wall, "processor": used, "error": error}

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        lines = list(pool.map(lambda each: train(*each), itertools.product(seeds, ROWS)))
    return time.perf_counter() - began, lines


def lab(seeds: int, words: list[str], folder: Path) -> tuple[float, float, list[Line]]:
    """The command: wall and processor seconds of all of it, and a line for each trial."""
    command = [sys.executable, "-m", "senet_lab.run", "+ablation=ratio", f"seeds={seeds}", "tracking=off", *words]
    wall, used, _ = measuring.run(command, folder)
    (source,) = folder.glob("results/local/*/*/ratio/trials.csv")
    with source.open(newline="") as file:
        trials = list(csv.DictReader(file))
    return (
        wall,
        used,
        [
            {"way": "lab", "row": trial["row"], "seed": int(trial["seed"]), "error": float(trial["test_error"])}
            for trial in trials
        ],
    )


def summary(way: str, count: int, wall: float, used: float, errors: list[float]) -> Line:
    return {
        "way": way,
        "trials": count,
        "wall s": f"{wall:.0f}",
        "trials a minute": f"{60 * count / wall:.2f}",
        "processor s a trial": f"{used / count:.1f}",
        "test error %": f"{sum(errors) / count:.2f}",
    }


def main(words: list[str] | None = None) -> int:
    made = measuring.arguments(__doc__)
    made.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    made.add_argument("words", nargs="*", help="for the lab, such as recipe.epochs=10")
    given = made.parse_args(words)
    if given.short:
        given.seeds = 1
        given.words = [*given.words, "recipe.epochs=1", "data.subset=64", "data.test_subset=64"]
    with tempfile.TemporaryDirectory() as place:
        half, cores = (given.seeds + 1) // 2, len(os.sched_getaffinity(0))
        before, theirs = plain(range(half), given.words, Path(place), cores)
        wall, used, ours = lab(given.seeds, given.words, Path(place))
        after, more = plain(range(half, given.seeds), given.words, Path(place), cores)
    write(given, before + after, theirs + more, ours, wall, used)
    return 0


def write(
    given: argparse.Namespace, their_wall: float, theirs: list[Line], ours: list[Line], wall: float, used: float
) -> None:
    """The tables of both ways, with the wall seconds of each as a whole."""
    count = len(ours)
    assert {(line["row"], line["seed"]) for line in ours} == {(line["row"], line["seed"]) for line in theirs}
    their_used = sum(line["processor"] for line in theirs)
    errors: dict[str, dict[Any, float]] = {
        way: {(line["row"], line["seed"]): line["error"] for line in lines}
        for way, lines in (("lab", ours), ("plain", theirs))
    }
    lines = [
        summary("plain", count, their_wall, their_used, list(errors["plain"].values())),
        summary("lab", count, wall, used, list(errors["lab"].values())),
        {
            "way": "lab over plain",
            "trials a minute": f"{their_wall / wall:.2f}×",
            "processor s a trial": f"{used / their_used:.2f}×",
            "test error %": f"{sum(errors['lab'].values()) / count - sum(errors['plain'].values()) / count:+.2f}",
        },
    ]
    config = compose.compose(given.words).config
    differences = [errors["lab"][key] - errors["plain"][key] for key in errors["plain"]]
    one = [line["wall"] for line in theirs]
    wholes = {"plain": (their_wall, their_used), "lab": (wall, used)}
    whole = [{"way": way, "row": "all", "wall": both[0], "processor": both[1]} for way, both in wholes.items()]
    measuring.write(
        "study",
        "An ablation from the command to its table, against the plain way",
        {"": lines},
        [*theirs, *ours, *whole],
        [
            f"+ablation=ratio on {config.data.name}, {config.backbone}, recipe {config.recipe.name}, "
            f"{config.recipe.epochs} epochs.",
            f"Test errors, lab less plain, paired by row and seed (their random numbers differ): median "
            f"{spread(differences)}.",
            f"Plain trials have one thread each, as many side by side as cores; one takes {spread(one, 1)} s, start of "
            "its process included. The lab's time has everything in it: start, plan, trials, table.",
        ],
        given,
    )


if __name__ == "__main__":
    sys.exit(main())
