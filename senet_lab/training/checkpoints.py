"""Trained networks from their checkpoints. A file is read as weights and plain values; nothing in it is executed."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from senet_lab.config import Data, UserError
from senet_lab.models.se import SEBlock
from senet_lab.training import data as images
from senet_lab.training.lit import SENet


def load(path: Path, own: Collection[str] = ()) -> SENet:
    """The trained network of a checkpoint. Nothing in the file is executed.

    Args:
        path: a Lightning checkpoint of `SENet`.
        own: builders `package.module:function` that the user vouches for; a file alone may not have one imported.

    Raises:
        UserError: if the file is missing, or no such checkpoint, or its network has no SE block.
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
    builder = str(settings["backbone"])
    if ":" in builder and builder not in own:
        raise UserError(f"{path} names a builder of its own; if you trust it, say backbone={builder}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's, of what is done on purpose
            module = SENet(**settings)
        module.load_state_dict(saved["state_dict"])
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the network of {path} cannot be built again: {reason}") from error
    if not any(isinstance(part, SEBlock) for part in module.modules()):
        raise UserError(f"the network of {path} has no SE blocks, so it has no gates to show")
    return module


def check_fit(module: SENet, data: Data) -> images.DataFacts:
    """What is known of the data set, if the network can be shown its images.

    Raises:
        UserError: if it has another number of channels or classes than the network was trained on; as `images.facts`.
    """
    facts = images.facts(data)
    wanted = (module.hparams["channels"], module.hparams["classes"])
    if (facts.channels, len(facts.classes)) != wanted:
        raise UserError(
            f"the network was trained on images of {counted(wanted[0], 'channel')} and {counted(wanted[1], 'class')}; "
            f"{data.name} has {counted(facts.channels, 'channel')} and {counted(len(facts.classes), 'class')}: "
            f"name its data set (data=…)"
        )
    return facts


def counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}{'es' if word.endswith('s') else 's'}"
