"""What the lab takes beside training: to start, for each trial, and as the store grows.

    python -m benchmarks.overhead                     at 100, 1,000 and 10,000 trials: ten to thirty minutes
    python -m benchmarks.overhead --trials 100 1000
    python -m benchmarks.overhead --root DIR          a tree of images, too: its digest at a first and at a later start

- The command line is started in fresh processes (the files are in the system's cache): `--help`, and the plan of the
  digits study. So is what every worker imports before its first trial.
- A tree of images is digested in fresh processes with a cache of their own, first empty, then filled.
- A study of many seeds is run from an empty store to its table by the lab's own driver, store and Optuna mirror, with
  tracking off. Only its trials are made up: instead of worker processes, one object answers each trial at once with a
  record and the outputs of the test images, as a training leaves them, its 30 epochs told before. So its time is all
  bookkeeping, less what the pipe to a worker takes. Once so many trials are recorded a copy of it is given a hundred
  more. The copies of all sizes take turns, and the growth is told within a turn, so that a machine that slows down for
  some minutes has no part in it. The time on the wall has the disk in it, that of the processor has not.
- A trial as a worker does it, but of a single epoch of 16 images: the set-up of a training.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measuring
from benchmarks.measuring import Line, spread
from senet_lab.outputs import Outputs

ROWS = 6  # of the study, Table 10
MORE = 100  # trials that a time per trial is the median of
TURNS = 5
EPOCHS = 30
Taken = tuple[float, float]  # seconds on the wall, and of the processor
# Seconds; of growth, 10,000 trials over 100.
GOALS = {"--help": 1.5, "plan": 15.0, "bookkeeping": 0.05, "growth": 2.0, "first": 10.0, "again": 1.0}
FACTS = """import sys, time
from senet_lab.config import Data
from senet_lab.training import data
begun = time.perf_counter(), time.process_time()
data.data_facts(Data(name="folder", root=sys.argv[1], size=64))
print(time.perf_counter() - begun[0], time.process_time() - begun[1])"""


class Answering:
    """What stands in the workers' place: every trial has ended as soon as it is submitted, with a made-up record.

    Args:
        told: whether it tells of each of its epochs before it ends, as a worker does.
        at_once: how many trials are held at any moment, of which the oldest ends.
        images: how many test images their outputs are of.
        report: told how many have ended, after each.
    """

    def __init__(self, told: bool, at_once: int, images: int, report: Callable[[int], None]) -> None:
        self.told = told
        self.at_once = at_once
        self.images = images
        self.report = report
        self.waiting: list[Any] = []
        self.draw = np.random.default_rng(0)
        self.ended: list[Taken] = []  # when each trial was answered: wall, processor

    @property
    def free(self) -> int:
        return self.at_once - len(self.waiting)

    def submit(self, spec: Any, checkpoint: Path, until: int | None = None) -> None:
        self.waiting.append(spec)

    def events(self, timeout: float) -> list[Any]:
        from senet_lab.studies.pool import ELAPSED, Event

        self.ended.append((time.perf_counter(), time.process_time()))
        self.report(len(self.ended))
        spec = self.waiting.pop(0)
        record = self.record(spec)
        entries = [{**entry, ELAPSED: 0.01 * entry["epoch"]} for entry in record["epochs"] if self.told]
        epochs = [Event("epoch", spec.trial_id, entry) for entry in entries]
        return [*epochs, Event("done", spec.trial_id, record)]

    def rest(self) -> None:
        pass

    def stop(self) -> None:
        self.waiting.clear()

    def record(self, spec: Any) -> dict[str, Any]:
        loss_N = self.draw.exponential(0.1, self.images).astype(np.float16)
        right_N = loss_N < 0.4
        error = 100 * float(1 - right_N.mean())
        losses = {f"{split}_{what}": error for split in ("train", "val") for what in ("loss", "error", "top5_error")}
        return {
            "config": spec.config(),
            "epochs": [{"epoch": epoch + 1, **losses} for epoch in range(EPOCHS)],
            "metrics": {**losses, "test_loss": error, "test_error": error, "test_top5_error": error / 10},
            "seconds": 10.0,
            "resumed": False,
            "started": time.time(),
            "peak_memory_mib": 500.0,
            "device_name": "made up",
            "host": "made up",
            "versions": {"torch": "0"},
            "outputs": Outputs(right_N, loss_N).packed(),
        }


def starts(repeats: int, folder: Path) -> dict[str, list[Taken]]:
    """Command → wall and processor seconds of each start."""
    python = [sys.executable, "-m", "senet_lab.run"]
    commands = {"--help": [*python, "--help"], "plan": [*python, "+ablation=ratio", "plan=true"]}
    commands["worker"] = [sys.executable, "-c", "import senet_lab.training.trial"]
    return {name: [measuring.run(words, folder)[:2] for _ in range(repeats)] for name, words in commands.items()}


def digests(root: Path, folder: Path, turns: int) -> dict[str, list[Taken]]:
    """What it takes to know a tree of images, without the imports: at a first start, and at a second one."""
    found: dict[str, list[Taken]] = {"first": [], "again": []}
    for number in range(turns):
        for taken in found.values():
            words = [sys.executable, "-c", FACTS, str(root.resolve())]
            _, _, printed = measuring.run(words, folder, XDG_CACHE_HOME=str(folder / f"cache{number}"))
            wall, used = map(float, printed.split()[-2:])
            taken.append((wall, used))
    return found


def grown(
    trials: int, folder: Path, *more: str, recorded: int = 0, told: bool = False, at_once: int = 1
) -> tuple[list[float], list[float]]:
    """Wall and processor seconds of every trial of a study of about so many, run to its table from an empty store, or
    one that has some.

    Args:
        trials: how many there are to be.
        recorded: how many there are already, in a store that this function has filled.
        folder: of the results.
        more: further words of the command.
        told, at_once: of `Answering`.
    """
    from senet_lab import compose
    from senet_lab.counting import counting
    from senet_lab.studies import study
    from senet_lab.studies import workers as local
    from senet_lab.training import data

    made: list[Answering] = []
    seeds, there = -(-trials // ROWS), -(-recorded // ROWS)

    def workers(count: int, *how: Any) -> Answering:
        report = counting((seeds - there) * ROWS, "made-up trials")
        made.append(Answering(told, min(at_once, count), images, report))
        return made[0]

    print(f"{trials - recorded:,} made-up trials{f' after {recorded:,}' * bool(recorded)} …", file=sys.stderr)
    composed = compose.compose(["+ablation=ratio", f"seeds={seeds}", "tracking=off", f"results={folder}", *more])
    images = data.data_facts(composed.config.data).test
    real, local.Workers = local.Workers, workers  # type: ignore[assignment, misc]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            assert study.run_studies([composed]) == 0
    finally:
        local.Workers = real  # type: ignore[misc]
    ends = made[0].ended[1:]
    walls, cpus = zip(*ends, strict=True)
    return differences(walls), differences(cpus)


def differences(times: tuple[float, ...]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


def timed(task: Callable[[], object]) -> Taken:
    """Wall and processor seconds of a call."""
    begun, before = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - begun, time.process_time() - before


def after_all(folder: Path) -> dict[str, Callable[[], object]]:
    """What is done with a store or a table that has grown."""
    import pandas as pd

    from senet_lab.reports import tables
    from senet_lab.studies.records import load_records
    from senet_lab.studies.store import Store

    (source,) = folder.glob("*/*/ratio/trials.csv")
    trials = tables.read_trials(source)
    url = f"sqlite:///{folder}/lab.db"
    packed = Store(url).outputs(trials["trial_id"])
    return {
        "open the store": lambda: Store(url),
        "read every record": lambda: load_records(url),
        "write the table": lambda: tables.write_table(folder / "again", trials, pd.DataFrame(), None, packed),
    }


def bare(folder: Path, repeats: int) -> list[Taken]:
    """Wall and processor seconds of a training of one epoch of 16 images, as a warm worker runs it."""
    import torch

    from senet_lab import compose
    from senet_lab.studies import plan
    from senet_lab.training import silence, trial

    torch.set_num_threads(1)
    silence.without_advice()
    words = ["recipe.epochs=1", "recipe.batch_size=16", "data.subset=16", "data.test_subset=16"]
    spec = plan.make_plan(compose.compose([*words, "training.device=cpu"])).cells[0].spec
    checkpoint = folder / "bare.ckpt"
    taken = []
    for _ in range(repeats + 1):
        taken.append(timed(lambda: trial.run_trial(spec, checkpoint, lambda entry: None)))
        checkpoint.unlink()
    return taken[1:]


def line(what: str, taken: list[Taken], goal: str = "", digits: int = 3) -> Line:
    walls, cpus = zip(*taken, strict=True)
    return {"what": what, "wall s": spread(walls, digits), "processor s": spread(cpus, digits), "goal": goal}


def main(words: list[str] | None = None) -> int:
    made = measuring.arguments(__doc__)
    made.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10_000], help="recorded (%(default)s)")
    made.add_argument("--root", type=Path, help="a tree of images with train/ and val/, to be digested")
    given = made.parse_args(words)
    if given.short:
        given.trials = [12, 24]
    repeats = 1 if given.short else 7
    with tempfile.TemporaryDirectory() as place:
        print("starting the command line …", file=sys.stderr)
        fixed = {**starts(repeats, Path(place)), "set-up of a training": bare(Path(place), repeats)}
        stores = {count: Path(place) / str(count) for count in given.trials}
        for count, folder in stores.items():
            grown(count, folder)
        turns, more = (1, ROWS) if given.short else (TURNS, MORE)
        known = digests(given.root, Path(place), turns) if given.root else {}
        booked = [turn(stores, more, Path(place) / "copy") for _ in range(turns)]
        later: dict[str, dict[int, list[Taken]]] = {}
        for count, folder in stores.items():
            for name, task in after_all(folder).items():
                later.setdefault(name, {})[count] = [timed(task) for _ in range(max(1, repeats // 2))]
    per_trial = {count: [taken for each in booked for taken in each[count]] for count in stores}
    by_turn = [ratio(each) for each in booked]
    start_lines = [
        line("`--help`", fixed["--help"], f"at most {GOALS['--help']} s", 2),
        line("`+ablation=ratio plan=true`", fixed["plan"], f"at most {GOALS['plan']:.0f} s", 2),
        line("what a worker imports", fixed["worker"], digits=2),
        line("set-up of a training", fixed["set-up of a training"]),
        *(
            line(f"digest of {given.root.name}, {name}", taken, f"at most {GOALS[name]:.0f} s")
            for name, taken in known.items()
        ),
    ]
    growth = [growing("a trial's bookkeeping", per_trial, spread(by_turn))]
    growth += [growing(what, by_count, f"{ratio(by_count):.2f}") for what, by_count in later.items()]
    measured = [rawly(what, "", "", taken) for what, times in {**fixed, **known}.items() for taken in times]
    for number, each in enumerate(booked):
        measured += [
            rawly("a trial's bookkeeping", count, number + 1, taken) for count, times in each.items() for taken in times
        ]
    for what, by_count in later.items():
        measured += [rawly(what, count, "", taken) for count, times in by_count.items() for taken in times]
    measuring.write(
        "overhead",
        "What the lab takes beside training",
        {"To start": start_lines, "As trials are recorded (seconds on the wall)": growth},
        measured,
        notes(given),
        given,
    )
    return 0


def turn(stores: dict[int, Path], more: int, copy: Path) -> dict[int, list[Taken]]:
    """What each of so many trials more takes with copies of these stores."""
    found = {}
    for count, folder in stores.items():
        shutil.copytree(folder, copy)
        walls, cpus = grown(count + more, copy, recorded=count, told=True)
        found[count] = list(zip(walls, cpus, strict=True))
        shutil.rmtree(copy)
    return found


def rawly(what: str, trials: int | str, turn: int | str, taken: Taken) -> Line:
    return {"what": what, "trials": trials, "turn": turn, "wall": taken[0], "processor": taken[1]}


def growing(what: str, by_count: dict[int, list[Taken]], growth: str) -> Line:
    """A line of what takes its time with the number of trials that are recorded."""
    walls = {f"{count:,}": spread([wall for wall, _ in taken], 4) for count, taken in by_count.items()}
    return {"what": what, **walls, f"processor, {max(by_count):,} over {min(by_count):,}": growth}


def ratio(by_count: dict[int, list[Taken]]) -> float:
    """How many times as long the processor takes where the most trials are recorded as where the fewest are."""
    few, many = (statistics.median(used for _, used in by_count[count]) for count in (min(by_count), max(by_count)))
    return many / few


def notes(given: argparse.Namespace) -> list[str]:
    return [
        "Medians, and their 95% intervals by order statistics. Starts are fresh processes, their files in the system's "
        "cache.",
        f"A trial's bookkeeping: driver, store and Optuna mirror, tracking off, with its {EPOCHS} epochs and the "
        f"outputs of its test images, but without the pipe to a worker; of {MORE} trials more of a study that has so "
        f"many, {TURNS} times by turns; its growth is the median over the turns. Goals: at most "
        f"{GOALS['bookkeeping']} s, and at 10,000 trials at most {GOALS['growth']:.0f} times as long as at 100.",
        "Set-up of a training: one epoch of 16 digits in a warm worker, from the specification to the record.",
    ]


if __name__ == "__main__":
    sys.exit(main())
