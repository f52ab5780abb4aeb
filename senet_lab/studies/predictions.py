"""`python -m senet_lab predict …`: what a trained network takes images for."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from senet_lab.config import Data, RunError, UserError
from senet_lab.counting import counting
from senet_lab.studies.plan import device_of
from senet_lab.studies.trained_network import TrainedNetwork, compose_words, is_word, load_trained
from senet_lab.training.feeds import FolderFeed
from senet_lab.training.folder import IMAGE_SUFFIXES, images_below
from senet_lab.training.gate_stats import evaluating
from senet_lab.training.images import Files, pil_mode

BATCH = 32


@dataclass(frozen=True)
class Guess:
    """A class that an image may show.

    Attributes:
        label: its number.
        name: what it is called; None where that is not known.
        probability: what the network gives it, from 0 to 1.
    """

    label: int
    name: str | None
    probability: float


def show_predictions(arguments: argparse.Namespace) -> None:
    """Print the likeliest classes of each image. Nothing is printed before all of them are read.

    Raises:
        UserError: an image that is missing or does not decode, and as `trained`.
    """
    words = [word for word in arguments.words if is_word(word) and not Path(word).exists()]
    files = image_files([word for word in arguments.words if word not in words])
    if arguments.top < 1:
        raise UserError(f"--top: {arguments.top} is not a number of classes of at least 1")
    chosen = compose_words(words, "predict")
    device = device_of(chosen.config.training.device)
    network = load_trained(arguments, words, chosen)
    guesses = predict(network, files, arguments.top, device)
    if network.description.classes is None:
        print("the names of the classes are not known (data=… and data.root=… tell): labels instead", file=sys.stderr)
    if arguments.json:
        print(json.dumps(prediction_json(files, guesses), indent=1, ensure_ascii=False))
    else:
        Console().print(prediction_table(files, guesses))


def image_files(places: Sequence[str]) -> list[str]:
    """The files that are meant; of a folder all images in it, at any depth, in the order of their names.

    Raises:
        UserError: for one that is not there, and a folder without images.
    """
    if not places:
        raise UserError("predict takes a checkpoint and at least one image, or a folder of images")
    files = []
    for place in places:
        if Path(place).is_dir():
            try:
                below = images_below(Path(place))
            except OSError as error:
                raise UserError(f"{error.filename} cannot be read: {error.strerror or error}") from error
            if not below:
                raise UserError(f"{place} holds no images (looked for {'/'.join(IMAGE_SUFFIXES)})")
            files += below
        elif Path(place).is_file():
            files.append(place)
        else:
            raise UserError(f"there is no image {place}")
    return files


def predict(network: TrainedNetwork, files: Sequence[str], top: int, device: str) -> list[list[Guess]]:
    """The `top` likeliest classes of each image, the likeliest first.

    The images are shown as in the test of the training: where that averages over several views, so does this.

    Raises:
        UserError: for an image that does not decode.
    """
    module, names = network.module.to(device), network.description.classes
    report = counting(len(files), "images")
    guesses: list[list[Guess]] = []
    with torch.inference_mode(), evaluating(module):
        for x in image_batches(files, network.description.reading):
            logits_BK = network.logits(x.to(device))
            best = logits_BK.double().softmax(1).topk(min(top, logits_BK.shape[1]), dim=1)
            for values, labels in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                pairs = zip(values, labels, strict=True)
                guesses.append([Guess(label, names[label] if names else None, p) for p, label in pairs])
            report(len(guesses))
    return guesses


def image_batches(files: Sequence[str], reading: Data) -> Iterator[Tensor]:
    """The images in batches, (B, C, H, W), or (B, V, C, H, W) where the test of the training averages over views."""
    feed = FolderFeed(Files(list(files), np.zeros(len(files), np.int64), pil_mode(reading)), reading)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of oddities in files that it reads all the same
            for x, _ in feed.test_batches(BATCH):
                yield x
    except RunError as error:
        raise UserError(str(error)) from error


def prediction_json(files: Sequence[str], guesses: Sequence[Sequence[Guess]]) -> list[dict[str, Any]]:
    """The guesses as plain values: a list with one entry an image."""
    return [
        {
            "image": path,
            "top": [{"class": guess.name, "label": guess.label, "probability": guess.probability} for guess in best],
        }
        for path, best in zip(files, guesses, strict=True)
    ]


def prediction_table(files: Sequence[str], guesses: Sequence[Sequence[Guess]]) -> Table:
    """The guesses for the terminal: one line a class, the image's name beside the first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability %", justify="right", no_wrap=True)
    for path, best in zip(files, guesses, strict=True):
        for place, guess in enumerate(best):
            style = "bold" if place == 0 and len(best) > 1 else ""
            image = Text(path if place == 0 else "")
            table.add_row(
                image, Text(guess.name or str(guess.label), style), Text(f"{100 * guess.probability:.2f}", style)
            )
    return table
