"""A whole ablation, from the command to the table, against the plain way: a script that is started once a trial.

    python -m benchmarks.study                      +ablation=ratio on the digits, 3 seeds: 18 trainings each way
    python -m benchmarks.study --seeds 1 recipe.epochs=10     another study of the same rows: the lab's words

The plain way is `benchmarks/plain.py`: Lightning, torchvision's transforms, DataLoader, one fresh process after the
other, each with as many threads as PyTorch takes by default. The lab is its command with tracking off: one thread a
worker, as many workers as cores. Both have the machine's cores and the same networks, images, splits and recipe; the
lab also plans, records every trial and writes the table. The plain way is run for the first half of the seeds before
the lab and for the rest after it, so that a machine that slows down or speeds up favours neither.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import Line, spread
from senet_lab import compose

GOAL = 3.0  # trials a minute, over the plain way
ROWS = {"r = 2": 2, "r = 4": 4, "r = 8": 8, "r = 16": 16, "r = 32": 32, "no SE": None}


def plain(seeds: range, words: list[str], folder: Path) -> list[Line]:
    """A process for each row and seed."""
    lines = []
    for seed in seeds:
        for row, reduction in ROWS.items():
            command = [sys.executable, "-m", "benchmarks.plain", "--seed", str(seed)]
            command += ["--reduction", str(reduction)] * (reduction is not None)
            wall, used, out = measuring.run([*command, "--words", *words], folder)
            error = json.loads(out.splitlines()[-1])["test_error"]
            lines.append({"way": "plain", "row": row, "seed": seed, "wall": wall, "processor": used, "error": error})
            print(f"plain: {row}, seed {seed}: {wall:.1f} s, test error {error:.2f}%", file=sys.stderr)
    return lines


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
        half = (given.seeds + 1) // 2
        theirs = plain(range(half), given.words, Path(place))
        wall, used, ours = lab(given.seeds, given.words, Path(place))
        theirs += plain(range(half, given.seeds), given.words, Path(place))
    write(given, theirs, ours, wall, used)
    return 0


def write(given: argparse.Namespace, theirs: list[Line], ours: list[Line], wall: float, used: float) -> None:
    """The tables of both ways."""
    count = len(ours)
    assert {(line["row"], line["seed"]) for line in ours} == {(line["row"], line["seed"]) for line in theirs}
    their_wall, their_used = (sum(line[what] for line in theirs) for what in ("wall", "processor"))
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
    whole = {"way": "lab", "row": "all", "wall": wall, "processor": used}
    measuring.write(
        "study",
        "An ablation from the command to its table, against the plain way",
        {"": lines},
        [*theirs, *ours, whole],
        [
            f"+ablation=ratio on {config.data.name}, {config.backbone}, recipe {config.recipe.name}, "
            f"{config.recipe.epochs} epochs; goal: at least {GOAL:.0f}× the trials a minute, accuracy no worse.",
            f"Test errors, lab less plain, paired by row and seed (their random numbers differ): median "
            f"{spread(differences)}.",
            f"One plain trial: {spread(one, 1)} s, start of its process included. The lab's time has everything in it: "
            "start, plan, trials, table.",
        ],
        given,
    )


if __name__ == "__main__":
    sys.exit(main())
