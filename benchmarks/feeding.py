"""How fast images are fed: from memory, whatever their source, and Imagenette's to trainings on two cores.

    python -m benchmarks.feeding --cifar DIR --tree DIR/imagenette-160

In memory: CIFAR-10 by name, as arrays of a function, and as torchvision's data set (without --cifar the digits, and
torchvision's made-up images). An epoch of each is fed in turn, augmented as CIFAR is, to no network; the time is that
of the processor on one thread.

From a tree: trainings as a worker trains them, each in a process of its own with one thread. A training that is never
waiting for images has its processor for all of the time on the wall, where as many cores are free as processes compute.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import measuring
from benchmarks.measuring import ratio, spread, within
from senet_lab import compose
from senet_lab.studies import plan as plans
from senet_lab.training import data as lab_data
from senet_lab.training import silence, trial
from senet_lab.training.feeds import Feed

BATCH = 128
NETWORK = "mobilenet_050"  # it computes little for an image of this size, and so asks for many a second
TREE = f"data=folder data.size=128 data.resize=160 backbone={NETWORK} recipe=cifar recipe.batch_size=64"
# What trains → words, and how many train side by side.
WAYS = {
    "two trainings, from memory": ("training.feed=memory", 2),
    "two trainings, from files": ("training.feed=files", 2),
    "one training, from files, two processes decode": ("training.feed=files data.workers=2", 1),
}
Arrays = tuple[tuple[Any, Any], tuple[Any, Any]]


def data_of(words: list[str]) -> Any:
    """The data set that the words ask for."""
    return lab_data.resolve_data(compose.compose([*words, "data.augment=cifar"]).config.data)


def arrays(name: str, root: str) -> Arrays:
    """One of the lab's data sets as a function of a user's returns it: images and labels, for training and for test."""
    train, test = lab_data.source_of(name).index(data_of([f"data={name}", f"data.root={root}"])).read()
    return (train.images, train.labels), (test.images, test.labels)


def sources(cifar: str | None) -> dict[str, list[str]]:
    """Source → words. Without CIFAR: the digits, and as many made-up images of their size."""
    name, root = ("cifar10", cifar) if cifar else ("digits", "digits")
    made_up = ["data=torchvision:FakeData", "data.args={size: 1797, image_size: [1, 8, 8]}", "data.test_share=0.5"]
    return {
        f"{name} by name": [f"data={name}", f"data.root={root}"],
        "arrays of a function": ["data=benchmarks.feeding:arrays", f"data.args={{name: {name}, root: {root}}}"],
        "torchvision's": ["data=torchvision:CIFAR10", f"data.root={root}"] if cifar else made_up,
    }


def epoch(feed: Feed) -> None:
    """An epoch of training images, fed to nothing."""
    for _ in feed.batches(BATCH, seed=0):
        pass


def from_memory(cifar: str | None, rounds: int) -> tuple[list[Any], list[Any]]:
    """The lines of the table, and every measurement."""
    feeds = {name: lab_data.load_splits(data_of(words)).train for name, words in sources(cifar).items()}
    tasks = {name: partial(epoch, feed) for name, feed in feeds.items()}
    taken = measuring.in_turn(tasks, rounds)
    speed = {name: [len(feeds[name]) / seconds for seconds in each] for name, each in taken.items()}
    first = next(iter(speed.values()))
    lines = [
        {"source": name, "images/s": spread(each, 0), "over the first": within(ratio(each, first))}
        for name, each in speed.items()
    ]
    return lines, measurements(speed, "images a second")


def train(words: list[str], report: Any) -> None:
    """Train as a worker does; after each epoch, seconds of this process's processor and on the wall are reported."""
    torch.set_num_threads(1)
    silence.without_advice()
    warnings.filterwarnings("ignore")
    spec = plans.make_plan(compose.compose(words)).cells[0].spec
    with tempfile.TemporaryDirectory() as place:
        trial.run_trial(
            spec, Path(place) / "it.ckpt", lambda entry: report.append((time.process_time(), time.perf_counter()))
        )


def busy_shares(words: list[str], count: int) -> list[float]:
    """Of `count` trainings side by side, the share of each epoch but the first that their processors computed."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        reports = [manager.list() for _ in range(count)]
        processes = [context.Process(target=train, args=(words, report)) for report in reports]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        pairs = [pair for report in reports for pair in itertools.pairwise(report)]
    return [(after[0] - before[0]) / (after[1] - before[1]) for before, after in pairs]


def from_tree(tree: str, images: int, epochs: int) -> tuple[list[Any], list[Any]]:
    """The lines of the table, and every measurement."""
    shares = {}
    for name, (words, count) in WAYS.items():
        print(f"{name} …", file=sys.stderr)
        own = [f"data.root={tree}", f"data.subset={images}", f"recipe.epochs={epochs}", "data.test_subset=64"]
        shares[name] = busy_shares([*TREE.split(), *words.split(), *own], count)
    lines = [{"trainings": name, "computing, % of the time": spread(each, 1, 100)} for name, each in shares.items()]
    return lines, measurements(shares, "computing, share of the time")


def measurements(taken: dict[str, list[float]], what: str) -> list[dict[str, Any]]:
    """One line a measurement."""
    return [
        {"way": name, "round": number, "quantity": what, "value": value}
        for name, each in taken.items()
        for number, value in enumerate(each)
    ]


def main(words: list[str] | None = None) -> int:
    made = measuring.arguments(__doc__)
    made.add_argument("--cifar", help="folder that holds CIFAR-10 as torchvision keeps it")
    made.add_argument("--tree", help="folder of Imagenette's tree (images of 160 pixels)")
    made.add_argument("--rounds", type=int, default=20, help="epochs from memory (%(default)s)")
    made.add_argument("--epochs", type=int, default=6, help="of the trainings, the first not counted (%(default)s)")
    made.add_argument("--images", type=int, default=2000, help="of such an epoch (%(default)s)")
    given = made.parse_args(words)
    if given.short:
        given.rounds, given.epochs, given.images = 2, 2, 20
    torch.set_num_threads(1)
    lines, measured = from_memory(given.cifar, given.rounds)
    tables = {"From memory": lines}
    notes = [
        f"Epochs of training images in batches of {BATCH}, augmented as CIFAR's, on one thread, fed in turn. Medians, "
        "95% intervals by order statistics."
    ]
    if given.tree:
        tables["From a tree"], every = from_tree(given.tree, given.images, given.epochs)
        measured += every
        notes.append(
            f"{NETWORK} at 128 pixels, with SE, {given.images:,} images an epoch in batches of 64. What is missing of "
            "100% is waiting, or time that another process had."
        )
    measuring.write("feeding", "Feeding, images a second", tables, measured, notes, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
