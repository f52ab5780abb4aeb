"""The trained network that a command is given: by its checkpoint, or by the id of its trial.

What is known of its data set comes from the words of the command, then from the checkpoint, then from the record.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from senet_lab.compose import compose
from senet_lab.config import Data, RunError, UserError, first_line, storage_in
from senet_lab.naming import Composed
from senet_lab.studies.store import FAILED, Store
from senet_lab.training import checkpoints
from senet_lab.training import data as images
from senet_lab.training.checkpoints import Description
from senet_lab.training.lit import SENet
from senet_lab.training.transforms import in_files

WORDS = ("data", "backbone", "se.kind", "training.device")  # and fields of data: all that such a command may be told


def is_word(text: str) -> bool:
    """Whether it is key=value of what a command may be told of a trained network."""
    key, equals, _ = text.partition("=")
    return bool(equals) and (key in WORDS or key.startswith("data."))


def compose_words(words: Sequence[str], command: str) -> Composed:
    """What the words say; a UserError for one that concerns no trained network."""
    for word in words:
        if not is_word(word):
            raise UserError(f"'{word}': {command} takes a checkpoint and words about its data (data=…, data.root=…)")
    return compose(words)


def weights_of(arguments: argparse.Namespace) -> tuple[Path, dict[str, Any] | None]:
    """The checkpoint that is meant, and the record of its trial, if there is one."""
    path = Path(arguments.what)
    by_id = not path.is_file() and path.name == arguments.what and not path.suffix
    results = arguments.results or (path.parent.parent if path.parent.name == "checkpoints" else Path("results/local"))
    if by_id:
        path = results / "checkpoints" / f"{arguments.what}.ckpt"
    elif not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    url = arguments.storage or storage_in(results)
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


def network_of(path: Path, chosen: Composed, record: dict[str, Any] | None) -> SENet:
    """The network of a checkpoint; code of the user's own is called if the words or the record name it."""
    own = [chosen.config.backbone, chosen.config.se.kind if chosen.config.se else ""]
    if record:
        own += [record["config"]["backbone"], (record["config"]["se"] or {}).get("kind", "")]
    return checkpoints.load_network(path, own=own)


def network_data(
    words: Sequence[str], chosen: Composed, record: dict[str, Any] | None, root: Path | str | None = None
) -> Data:
    """The data set: the recorded one, or else the one that the words name; single fields of the words on top of it."""
    data = chosen.config.data
    if record and not names_data(words):
        data = Data(**{**record["config"]["data"], "download": False, **fields_of(words, data)})
    if root is not None:
        data.root = str(root)
    images.check_data(data)
    return data if record and not names_data(words) else images.resolve_data(data)


def names_data(words: Sequence[str]) -> bool:
    """Whether the words name a data set."""
    return any(word.partition("=")[0] in ("data", "data.name") for word in words)


def fields_of(words: Sequence[str], data: Data) -> dict[str, Any]:
    """The single fields of the data set that the words name, from what they were composed to."""
    keys = [word.partition("=")[0] for word in words]
    return {key.removeprefix("data."): getattr(data, key.removeprefix("data.")) for key in keys if "data." in key}


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network, ready to be used.

    Attributes:
        path: of its checkpoint.
        module: the network.
        description: how it is shown an image, and what its classes are called.
    """

    path: Path
    module: Any  # SENet, or what can be called as it is and has its `over_views`
    description: Description

    def logits(self, x: Tensor) -> Tensor:
        """What the network, which should be in evaluation mode, answers to images (B, C, H, W), or to several views of
        each (B, V, C, H, W): (B, K).

        Raises:
            UserError: for a size that the network cannot take.
            RunError: if the answers are not all numbers, or memory does not suffice.
        """
        try:
            logits_BK: Tensor = self.module(x) if x.ndim == 4 else self.module.over_views(x)
        except torch.OutOfMemoryError as error:
            raise RunError(f"the memory does not suffice for {len(x)} images at once") from error
        except (RuntimeError, AssertionError) as error:  # of a map that is smaller than its kernel, of a fixed size
            raise UserError(
                f"the network cannot take images of {x.shape[-1]} pixels (data.size): {first_line(error)}"
            ) from error
        if not logits_BK.isfinite().all():
            raise RunError(f"the outputs of {self.path} are not all numbers: the training must have diverged")
        return logits_BK


def load_trained(arguments: argparse.Namespace, words: Sequence[str], chosen: Composed) -> TrainedNetwork:
    """The network that a command is given, and what is known of its images and classes.

    Raises:
        UserError: if there is none, or it is not known how it is shown an image, or the data set does not fit.
    """
    path, record = weights_of(arguments)
    module = network_of(path, chosen, record)
    named = names_data(words)
    description = checkpoints.description(module, path)
    if description and not named:
        reading = replace(description.reading, **fields_of(words, chosen.config.data)).tested
        images.check_data(reading)
        described = Description(reading, description.classes)
        checkpoints.check_description(module, described, "what is said of its data")
        return TrainedNetwork(path, module, described)
    if not named and not record:
        raise UserError(f"{path} does not say what images it was trained on: name its data set (data=…, data.root=…)")
    data = network_data(words, chosen, record)
    try:
        images.check_files(data)
        names = tuple(images.names_of(data, images.data_facts(data)))
    except UserError:
        if named:
            raise
        names = None  # its data set is no longer where it was
    described = Description(in_files(data.tested), names)
    checkpoints.check_description(module, described, data.name)
    return TrainedNetwork(path, module, described)
