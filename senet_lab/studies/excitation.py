"""`python -m senet_lab excitation …`: measures the gates of a trained network and writes what they say."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from senet_lab.compose import Composed, compose
from senet_lab.config import Data, UserError
from senet_lab.reports import excitation, gate_figures
from senet_lab.studies.plan import device_of
from senet_lab.studies.store import FAILED, Store
from senet_lab.training import checkpoints, classes, gates
from senet_lab.training import data as images

SHOWN_WORDS = ("data", "backbone", "training.device")  # and fields of data: all that these gates can depend on


def draw(arguments: argparse.Namespace) -> None:
    """Measure the gates of a trained network, and write and show what they say."""
    words = arguments.words + [word for word in arguments.classes or () if "=" in word]
    wanted = [word for word in arguments.classes or () if "=" not in word]
    for word in words:
        key = word.partition("=")[0]
        if key not in SHOWN_WORDS and not key.startswith("data."):
            raise UserError(f"'{word}': excitation takes a checkpoint and words about its data (data=…, data.root=…)")
    if arguments.images < 1:
        raise UserError(f"--images: {arguments.images} is not a number of images of at least 1")
    if len(wanted) > gate_figures.MOST:
        raise UserError(f"--classes: {gate_figures.MOST} at most can be told apart in one figure")
    composed = compose(words)
    path, record = weights_of(arguments)
    device = device_of(composed.config.training.device)
    module = checkpoints.load(path, own=[composed.config.backbone, *([record["config"]["backbone"]] if record else [])])
    data = data_of(words, composed, record, arguments.data_root)
    facts = checkpoints.check_fit(module, data)
    test = images.load(data).test
    names = classes.names_of(data, facts)
    counts = np.bincount(classes.labels_of(test), minlength=len(names))
    figure = classes.choose(wanted or None, names, facts, counts)
    console = Console()
    place = Path(data.root).resolve().name if data.name == "folder" else data.name
    title = f"{module.hparams['backbone']}, {place}"
    console.print(f"{title}: gates on {len(test):,} test images", markup=False, highlight=False)
    if record and record["config"]["identity"] != facts.identity:
        console.print("these are not the images that the trial was trained with: names, sizes or contents differ")
    measured = gates.measure(
        module.net.to(device),
        test.batches(64),
        names,
        figure,
        images_a_class=arguments.images,
        every=arguments.every_block,
        report=progress(len(test)),
    )
    folder = arguments.to or (arguments.results or Path("results/local")) / "excitation" / path.stem
    written = excitation.write(folder, measured.gates, measured.blocks, title)
    console.print()
    excitation.terminal(excitation.summarise(measured.gates, measured.blocks), console)
    console.print(f"\nwritten: {folder}/ ({', '.join(path.name for path in written)})", soft_wrap=True)


def weights_of(arguments: argparse.Namespace) -> tuple[Path, dict[str, Any] | None]:
    """The checkpoint that is meant, and the record of its trial, if there is one."""
    path = Path(arguments.what)
    by_id = not path.is_file() and path.name == arguments.what and not path.suffix
    results = arguments.results or (path.parent.parent if path.parent.name == "checkpoints" else Path("results/local"))
    if by_id:
        path = results / "checkpoints" / f"{arguments.what}.ckpt"
    elif not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    url = arguments.storage or f"sqlite:///{results}/lab.db"
    record = Store(url, create=False).read([path.stem]).get(path.stem)
    if path.is_file():
        return path, record
    if record is None:
        raise UserError(f"there is neither a trial {arguments.what} in {url} nor a checkpoint of that name")
    if record["state"] == FAILED:
        raise UserError(f"trial {arguments.what} failed, so it has no weights: {record['reason']}")
    raise UserError(
        f"the weights of trial {arguments.what} were not kept: to train it again with training.keep=last, "
        f"delete its record (python -m senet_lab store forget {arguments.what})"
    )


def data_of(words: list[str], composed: Composed, record: dict[str, Any] | None, root: Path | None) -> Data:
    """The data set: the recorded one, or else the one that the words name; single fields of the words on top of it."""
    data = composed.config.data
    keys = [word.partition("=")[0] for word in words]
    if record and "data" not in keys:
        named = {key.removeprefix("data."): getattr(data, key.removeprefix("data.")) for key in keys if "data." in key}
        data = Data(**{**record["config"]["data"], "download": False, **named})
    if root is not None:
        data.root = str(root)
    return data


def progress(total: int) -> Callable[[int], None]:
    """Says how many images are done, on standard error, once it has taken 2 s: in one line that renews itself on a
    terminal, elsewhere in a line every 10 s."""
    started = time.monotonic()
    patience = 0.2 if sys.stderr.isatty() else 10.0
    shown = started + 2 - patience
    begin, pad, end = ("\r", "  ", "") if sys.stderr.isatty() else ("", "", "\n")

    def report(done: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < patience:
            return
        shown = now
        left = (now - started) * (total - done) / done
        print(
            f"{begin}{done:,} of {total:,} images, about {left:.0f} s left{pad}", end=end, file=sys.stderr, flush=True
        )
        if done == total and begin:
            print(file=sys.stderr)

    return report
