"""Studies of real images, one after the other, for as long as they are given: `make real-images DATA=DIR`.

What is recorded in `results/records/` is taken over first, so that any machine goes on where another one stopped; what
is missing is trained in the order of STEPS; at the end, and after Ctrl-C or SIGTERM, all records are written there
again. DIR holds CIFAR-10 as torchvision keeps it, and Imagenette in imagenette-160/. Run it from a clean clone: records
say which commit they are of.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from benchmarks.measuring import ROOT
from senet_lab.config import RunError, UserError, storage_in

RECORDS = ROOT / "results" / "records" / "real_images.csv.xz"
RESULTS = Path("results/local/real")
CIFAR = "data=cifar10 recipe.epochs=15 recipe.batch_size=128 training.layout=channels_last"
# Chosen by the first step, which has seen the seeds 0 and 1; seed 2 beside them tells the spread. So studies that
# settle begin with seed 3.
RECIPE = "recipe.lr=0.4 recipe.weight_decay=5e-4"
# Written down when nothing but the baseline was trained. Its three seeds (the second step) err on 17.94% with a
# standard deviation of 0.11 points, so that differences of rows with independent seeds would have 0.16.
AIM = "seeds=settle settle.max=10 margin=0.5"


class Step(NamedTuple):
    """What is trained: what it is called by, the module that trains it, its words, and where its images lie in DIR."""

    title: str
    module: str
    words: str
    images: str = ""


STEPS = [
    Step(
        "the recipe of CIFAR-10, by the baseline's validation losses",
        "benchmarks.recipe",
        f"{CIFAR} seeds=2 --to results/cifar10 --vary recipe.weight_decay=5e-4 recipe.lr=0.05,0.1,0.2,0.4 "
        "--vary recipe.weight_decay=1e-4,5e-4",
    ),
    Step("three seeds of the baseline, for the spread", "senet_lab.run", f"{CIFAR} {RECIPE} seeds=3"),
    Step("no SE, no squeeze, and SE", "senet_lab.run", f"+ablation=nosqueeze {CIFAR} {RECIPE} {AIM}"),
    # The tables that need one more row each go before those that need four: their verdicts come soonest.
    Step("max in place of average pooling, and SE", "senet_lab.run", f"+ablation=squeeze {CIFAR} {RECIPE} {AIM}"),
    Step("SE inside the branch, and SE", "senet_lab.run", f"+ablation=conv3x3 {CIFAR} {RECIPE} {AIM}"),
    Step("the paper's seven tables", "senet_lab.run", f"+ablation=all {CIFAR} {RECIPE} {AIM}"),
    Step("SE-Bench", "senet_lab.run", "+search=se_bench"),
    Step(
        "a recipe for Imagenette, by the baseline's validation losses",
        "benchmarks.recipe",
        "data=folder data.size=96 backbone=mobilenet_050 recipe.epochs=40 recipe.batch_size=64 "
        "training.layout=channels_last seeds=3 --to results/imagenette --vary recipe.lr=0.025,0.05,0.1,0.2",
        "imagenette-160",
    ),
]


def main(words: list[str] | None = None) -> int:
    """Take over, train, write; the exit code."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("data", type=Path, help="folder of the images (data.root)")
    made.add_argument("--workers", type=int, default=0, help="trainings side by side (one a core)")
    given = made.parse_args(words)
    try:
        check_clean()
        return train(given)
    except KeyboardInterrupt:
        return 130  # the step has said so
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


class Ended(KeyboardInterrupt):
    """SIGTERM has come, to this process alone."""


def end(number: int, frame: FrameType | None) -> None:
    raise Ended


def check_clean() -> None:
    """Refuse code that is not that of a commit."""
    words = ["git", "status", "--porcelain", "senet_lab", "sweeps", "benchmarks"]
    changed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if changed.returncode or changed.stdout.strip():
        raise UserError("the code is not that of a commit: train from a clean clone")


def train(given: argparse.Namespace) -> int:
    """Train every step that is not recorded; the exit code of the last one."""
    from senet_lab.studies import transfer  # torch comes with it
    from senet_lab.studies.store import Store

    url, code = storage_in(RESULTS), 0
    if RECORDS.is_file():
        transfer.read_in(url, [RECORDS])
    own = [f"results={RESULTS}", f"executor.workers={given.workers}", "tracking=off"]
    try:
        for number, step in enumerate(STEPS, start=1):
            print(f"step {number} of {len(STEPS)}: {step.title}", flush=True)
            words = [f"data.root={given.data / step.images}", *own, *step.words.split()]
            if code := run([sys.executable, "-m", step.module, *words]):
                return code
    finally:
        if Store(url, create=False).latest(1):
            transfer.export_csv(url, RECORDS)
    return code


def run(words: list[str]) -> int:
    """Run a command; its exit code. It is left the time to end in good order."""
    process = subprocess.Popen(words, cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt as stopped:
        if isinstance(stopped, Ended):  # Ctrl-C has come to both
            process.terminate()
        process.wait()
        raise


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    sys.exit(main())
