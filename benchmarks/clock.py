"""Whether the time that a study says it will take is the time that it takes.

    python -m benchmarks.clock                  five studies of the digits, of 6 to 12 trials, three times: 20 minutes
    python -m benchmarks.clock --rounds 1

Each study is run by its command from an empty store. The first time that it tells once training has begun, "about …
left, by the first epochs", is compared with the time from then to the end of its last trial. The studies take turns, so
that a machine that slows down for some minutes is not taken for a study that is told wrongly.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import measuring
from benchmarks.measuring import Line, spread

GOAL = 0.2  # of the time that it then takes
STUDIES = {
    "ratio": ["seeds=1"],
    "position": ["seeds=2"],
    "stages": ["seeds=2"],
    "squeeze": ["seeds=3", "recipe.epochs=15"],
    "excitation": ["seeds=3", "data.subset=400"],
}
SHORT = ["seeds=1", "recipe.epochs=2", "data.subset=64", "data.test_subset=64"]
TOLD = re.compile(r"about ([\d.]+) (s|min) left")
SECONDS = {"s": 1, "min": 60}
ENDED = re.compile(r"\[\d+/\d+\] ")


def once(name: str, words: list[str]) -> Line:
    """Run a study: what it told first, and what it took from then on."""
    command = [sys.executable, "-m", "senet_lab.run", f"+ablation={name}", *words, "tracking=off"]
    environment = {**os.environ, "PYTHONPATH": str(measuring.ROOT), "PYTHONUNBUFFERED": "1"}
    told = begun = ended = 0.0
    trials = 0
    with (
        tempfile.TemporaryDirectory() as place,
        subprocess.Popen(command, cwd=Path(place), env=environment, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            found = TOLD.search(line)
            if found and not told:
                told, begun = float(found[1]) * SECONDS[found[2]], time.perf_counter()
            if ENDED.match(line):
                trials, ended = trials + 1, time.perf_counter()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {"study": name, "words": " ".join(words), "trials": trials, "told": told, "took": ended - begun}


def main(words: list[str] | None = None) -> int:
    made = measuring.arguments(__doc__)
    made.add_argument("--rounds", type=int, default=3, help="how often each study is run (%(default)s)")
    given = made.parse_args(words)
    studies = {"position": SHORT} if given.short else STUDIES
    measured = []
    for number in range(1 if given.short else given.rounds):
        for name, more in studies.items():
            measured.append({"round": number + 1, **once(name, more)})
            print(measured[-1], file=sys.stderr)
    ratios = [each["told"] / each["took"] for each in measured]
    right = sum(abs(ratio - 1) <= GOAL for ratio in ratios)
    notes = [
        f"Goal: told over took within {GOAL:.0%} of 1. It is in {right} of {len(ratios)} runs; median "
        f"{spread(ratios)}, from {min(ratios):.2f} to {max(ratios):.2f}.",
        "Told: the first time after training has begun; took: from then to the end of the last trial. Of each study's "
        "runs, in the order in which they were made.",
    ]
    lines = [line(name, [each for each in measured if each["study"] == name]) for name in studies]
    measuring.write("clock", "The time that a study tells, and takes", {"": lines}, measured, notes, given)
    return 0


def line(name: str, runs: list[Line]) -> Line:
    """What one study told and took, in all its runs."""
    return {
        "study": f"`+ablation={name} {runs[0]['words']}`",
        "trials": runs[0]["trials"],
        "told, s": ", ".join(f"{each['told']:.0f}" for each in runs),
        "took, s": ", ".join(f"{each['took']:.0f}" for each in runs),
        "told over took": ", ".join(f"{each['told'] / each['took']:.2f}" for each in runs),
    }


if __name__ == "__main__":
    sys.exit(main())
