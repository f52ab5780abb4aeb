"""Loads trained networks from checkpoints. A file is read as weights and plain values; nothing in it is executed.

A checkpoint holds how its network reads an image and the names of its classes, so that it can be used without the
records and the data set.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from senet_lab.config import Data, UserError, first_line
from senet_lab.models import kinds
from senet_lab.models.gates import SEBlock
from senet_lab.models.library import is_users_code
from senet_lab.training import data as images
from senet_lab.training.faults import NetworkError
from senet_lab.training.lit import SENet
from senet_lab.training.transforms import channels_of, in_files

READING = ("size", "resize", "crops", "scales", "mean", "std")  # fields of Data: how a test image is read


@dataclass(frozen=True)
class Description:
    """The input of a network and its classes."""

    reading: Data  # how the file of an image is brought to its input: a `folder` of which only `READING` matters
    classes: tuple[str, ...] | None  # what they are called, in the order of their labels; None where it is not known


def describe(data: Data, known: images.DataFacts | images.Splits) -> dict[str, Any]:
    """The description of a network that is trained on `data`, as plain values for its checkpoint."""
    reading = asdict(in_files(data.tested))
    return {**{name: reading[name] for name in READING}, "classes": images.names_of(data, known)}


def description(module: SENet, path: Path) -> Description | None:
    """The description in a checkpoint; None if it has none, as in earlier versions.

    Raises:
        UserError: if that cannot be, or does not fit its network.
    """
    saved = module.images
    if not saved:
        return None
    names = saved.get("classes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: what it says of its classes is damaged")
    try:
        reading = Data(name="folder", **{name: saved[name] for name in READING})
        images.check_data(reading)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: what it says of its images is damaged ({type(error).__name__}: {error})") from error
    described = Description(reading, tuple(names))
    check_description(module, described, str(path))
    return described


def check_description(module: SENet, found: Description, whose: str) -> None:
    """A UserError if a data set's channels or classes do not fit the network."""
    channels, count = module.hparams["channels"], module.hparams["classes"]
    if channels_of(found.reading) != channels or (found.classes is not None and len(found.classes) != count):
        theirs = count_text(len(found.classes), "class") if found.classes is not None else "any number of classes"
        raise UserError(
            f"the network was trained on images of {count_text(channels, 'channel')} and {count_text(count, 'class')}; "
            f"{whose} has {count_text(channels_of(found.reading), 'channel')} and {theirs}: name its data set (data=…)"
        )


def load_network(path: Path, own: Collection[str] = ()) -> SENet:
    """The trained network of a checkpoint. Nothing in the file is executed.

    Args:
        path: a Lightning checkpoint of `SENet`.
        own: builders `package.module:function` and gates `package.module:Class` that the user vouches for; a file alone
            may not have one imported.

    Raises:
        UserError: if the file is missing, or no such checkpoint.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"the checkpoint {path} cannot be read: {error.strerror or error}") from error
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what another kind of file makes of the reader (OSError, too) has no common class
        raise UserError(f"{path} is not a checkpoint, is damaged, or holds more than weights") from error
    settings = saved.get("hyper_parameters") if isinstance(saved, dict) else None
    if not isinstance(settings, Mapping) or "backbone" not in settings or "state_dict" not in saved:
        raise UserError(f"{path} is not a checkpoint of a network that this lab has trained")
    se, description = settings.get("se"), saved.get("images")
    for key, name in {"backbone": settings["backbone"], "se.kind": (se or {}).get("kind", "se")}.items():
        if is_users_code(str(name)) and name not in (*own, *kinds.names()):
            raise UserError(f"{path} names code of its own; if you trust it, say {key}={name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's, of what is done on purpose
            module = SENet(**settings, images=description if isinstance(description, Mapping) else None)
        module.load_state_dict(saved["state_dict"])
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, NetworkError) else error
        raise UserError(f"the network of {path} cannot be built again: {first_line(cause)}") from error
    return module


def check_gates(module: SENet, path: Path) -> None:
    """A UserError if the network has no SE block."""
    if not any(isinstance(part, SEBlock) for part in module.modules()):
        raise UserError(f"the network of {path} has no SE blocks, so it has no gates to show")


def check_fit(module: SENet, data: Data) -> images.DataFacts:
    """The facts of the data set, if its images fit the network.

    Raises:
        UserError: if it has another number of channels or classes than the network was trained on; as
            `data.data_facts`.
    """
    facts = images.data_facts(data)
    check_description(module, Description(data, facts.classes), data.name)
    return facts


def count_text(count: int, word: str) -> str:
    plural = "es" if word.endswith("s") else "s"
    return f"{count} {word}{plural * (count != 1)}"
