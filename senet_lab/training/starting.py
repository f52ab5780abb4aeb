"""Puts the weights that a training starts from into its network."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from senet_lab.config import Config, RunError
from senet_lab.models import starting
from senet_lab.models.library import library_of
from senet_lab.models.library_weights import NotHereError
from senet_lab.training.spec import Spec

NOT_FETCHED = "not fetched"  # in place of a digest, in a plan


def start(net: nn.Module, spec: Spec) -> None:
    """Put the weights of `spec.init` into a network that was just built; what they leave stays as it is.

    Raises:
        RunError: if they are not there, or are not those that the trial's id names.
    """
    if spec.init is None:
        return
    try:
        found = starting.read_start(spec.init)
    except ValueError as error:
        raise RunError(str(error)) from error
    if found.digest != spec.weights:
        raise RunError(f"init={spec.init}: the weights have changed since the study began; start it again")
    net.load_state_dict(starting.fit(net, found.state).weights, strict=False)


def check_start(net: nn.Module, config: Config) -> tuple[str, str]:
    """The digest of the weights that a network, on the meta device, is to start from, and a line that says what of it
    they leave; both empty without any. A plan fetches nothing.

    Raises:
        ValueError: if they are not there, or do not fit.
    """
    init = located(config)
    if init is None:
        return "", ""
    later = ""
    try:
        found = starting.start_shapes(init, config.init_download and not config.plan)
    except NotHereError as error:
        if not config.plan:
            raise ValueError(f"{error}; init_download=true has it fetch them") from error
        found = starting.shapes_without_file(init)
        later = "; its weights are not here: what is recorded of them is known when they were fetched"
    starting.check_network(init, found, config.backbone, config.stride)
    fit = starting.fit(net, found.state)
    ours, theirs = fit.classes
    head = (
        f"; its classifier, {fit.head}, is new: {ours:,} classes for {theirs:,}"
        if fit.head
        else ", classifier included"
    )
    out = f"; {fit.without} tensors of its own SE, which was taken out, are left out" if fit.without else ""
    return found.digest or NOT_FETCHED, f"starts from {config.init}{head}{out}{later}"


def located(config: Config) -> str | None:
    """`init` as any process finds it, wherever it runs; of the id of a trial, the weights that were kept of it."""
    init = config.init
    if init is None or library_of(init):
        return init
    path = Path(init).expanduser()
    if re.fullmatch(r"[0-9a-f]{16}", init) and not path.is_file():
        path = Path(config.results) / "checkpoints" / f"{init}.ckpt"
    return str(path.absolute())
