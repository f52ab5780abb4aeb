"""`python -m senet_lab export …`: a trained network as ONNX, to be used without this lab.

The model takes normalised images, `images` (batch, channels, size, size), and answers with `logits` (batch, classes).
How an image is normalised, and what the classes are called, stands in the file's metadata.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from senet_lab.config import RunError, UserError, first_line
from senet_lab.files import atomic_path
from senet_lab.models.static import static
from senet_lab.naming import Composed
from senet_lab.studies.trained_network import TrainedNetwork, compose_words, load_trained, network_data, weights_of
from senet_lab.training import checkpoints
from senet_lab.training import data as images
from senet_lab.training.feeds import Feed
from senet_lab.training.gate_stats import evaluating
from senet_lab.training.lit import SENet
from senet_lab.training.transforms import channels_of, short_side, statistics_of

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18  # what PyTorch's exporter writes of itself; onnxruntime reads it since 1.14
TOLERANCE = 1e-4
BATCHES = (1, 2, 5)  # images that the written model is tried on at once


def write_onnx(arguments: argparse.Namespace) -> None:
    """Write the network of a checkpoint as ONNX, once it has been compared with the original.

    Raises:
        UserError: a file that is there already, a library that is missing, and as `trained`.
        RunError: if the model cannot be made or written, or answers something else than the network.
    """
    for name in LIBRARIES:
        check_library(name)
    chosen = compose_words(arguments.words, "export")
    network = load_trained(arguments, arguments.words, chosen)
    path = arguments.to or (arguments.results or Path("results/local")) / "export" / f"{network.path.stem}.onnx"
    if path.exists() and not arguments.overwrite:
        raise UserError(f"{path} is there already; --overwrite replaces it")
    console = Console()
    if arguments.static:
        network = made_static(arguments, network, chosen, console)
    samples = samples_of(network)
    say = sys.stderr.isatty()
    if say:
        print("exporting …", end="", file=sys.stderr, flush=True)  # half a minute for a deep network
    try:
        with atomic_path(path) as part:
            save_onnx(network, part)
            difference = logit_difference(samples, part)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if say:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    channels, size = channels_of(network.description.reading), network.description.reading.size
    console.print(
        f"{network.module.hparams['backbone']} as ONNX, opset {OPSET}: images (batch, {channels}, {size}, {size}) → "
        f"logits (batch, {network.module.hparams['classes']})\n"
        f"largest difference from PyTorch on {sum(BATCHES)} random images: {difference:.1e}",
        markup=False,
        highlight=False,
    )
    if network.description.classes is None:
        console.print("the names of the classes are not known (data=… and data.root=… tell), so they are not in it")
    console.print(f"written: {path}", soft_wrap=True, markup=False, highlight=False)


def made_static(
    arguments: argparse.Namespace, network: TrainedNetwork, chosen: Composed, console: Console
) -> TrainedNetwork:
    """The network with its gates folded into their neighbours; its test error is printed beside the original's.

    Raises:
        UserError: for gates that cannot be folded, and where the images are not there.
    """
    path, record = weights_of(arguments)
    data = network_data(arguments.words, chosen, record)
    checkpoints.check_fit(network.module, data)
    splits = images.load_splits(data)
    errors = [test_error(network.module, splits.test)]
    try:
        network.module.net = static(network.module.net, (x for x, _ in splits.train.batches(64)))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    errors.append(test_error(network.module, splits.test))
    console.print(
        f"test error {errors[1]:.2f}% with static gates, {errors[0]:.2f}% as trained, on {len(splits.test):,} images",
        markup=False,
        highlight=False,
    )
    return network


def test_error(module: SENet, test: Feed) -> float:
    """Percent of the test images that the network gets wrong."""
    with evaluating(module):
        wrong = sum(int((module(x).argmax(1) != y).sum()) for x, y in test.batches(64))
    return 100 * wrong / len(test)


def check_library(name: str) -> None:
    """A UserError that says how to install it, unless a library of the extra can be imported."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"export needs {name}: pip install {' '.join(LIBRARIES)} (the extra of this lab: pip install '.[export]')"
        ) from error


def save_onnx(network: TrainedNetwork, path: Path) -> None:
    """Write the network as one ONNX file with its metadata."""
    import onnx

    reading = network.description.reading
    example_BCHW = torch.zeros(2, channels_of(reading), reading.size, reading.size)
    with evaluating(network.module.net), exporter_silenced():
        try:
            program = torch.onnx.export(
                network.module.net,
                (example_BCHW,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        except Exception as error:  # of a network of the user's own; what the exporter raises has no common class
            raise RunError(f"the network of {network.path} cannot be exported: {first_line(error)}") from error
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, metadata(network))
    for node in model.graph.node:  # the exporter notes where in whose files each operation was called
        for entry in list(node.metadata_props):
            if entry.key != "namespace":  # by which viewers group operations
                node.metadata_props.remove(entry)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def metadata(network: TrainedNetwork) -> dict[str, str]:
    """What a user of the file needs to know, as ONNX keeps it: text, here in JSON where it is no plain word."""
    reading, hparams = network.description.reading, network.module.hparams
    mean, std = statistics_of(reading)
    colours = "RGB" if len(mean) == 3 else "grey"
    values: dict[str, Any] = {
        "backbone": hparams["backbone"],
        "se": json.dumps(hparams["se"]),
        "colours": colours,
        "resize": json.dumps(short_side(reading)),
        "size": json.dumps(reading.size),
        "mean": json.dumps(list(mean)),
        "std": json.dumps(list(std)),
        "preprocessing": f"{colours}; short side to `resize` pixels (bilinear, antialiased); centre of `size` pixels; "
        f"divide by 255; subtract `mean`, divide by `std`",
        "output": "logits: a softmax makes them probabilities",
    }
    if network.description.classes is not None:
        values["classes"] = json.dumps(list(network.description.classes), ensure_ascii=False)
    return values


def samples_of(network: TrainedNetwork) -> list[tuple[Tensor, Tensor]]:
    """Random images in batches of several sizes, and the network's logits; raises as `Trained.logits`."""
    generator = torch.Generator().manual_seed(0)
    reading = network.description.reading
    samples = []
    with evaluating(network.module):
        for batch in BATCHES:
            x_BCHW = torch.randn(batch, channels_of(reading), reading.size, reading.size, generator=generator)
            samples.append((x_BCHW, network.logits(x_BCHW)))
    return samples


def logit_difference(samples: Sequence[tuple[Tensor, Tensor]], path: Path) -> float:
    """The largest difference of the file's logits, relative to the largest logit where that is above 1 (float32 keeps
    no more than seven digits of it).

    Raises:
        RunError: if it is more than `TOLERANCE`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for x_BCHW, ours_BK in samples:
        theirs_BK = torch.from_numpy(session.run(["logits"], {"images": x_BCHW.numpy()})[0])
        largest = max(largest, ((ours_BK - theirs_BK).abs().max() / ours_BK.abs().max().clamp(min=1)).item())
    if not largest <= TOLERANCE:  # not so for nan
        raise RunError(f"the ONNX model differs from the network by {largest:.1e}, more than {TOLERANCE:g}: not kept")
    return largest


@contextmanager
def exporter_silenced() -> Iterator[None]:
    """Inside, the exporter keeps what it has to say of its own steps to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
