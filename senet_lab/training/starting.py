"""Puts the weights that a training starts from into its network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from senet_lab.config import RunError
from senet_lab.models import starting
from senet_lab.training.spec import Spec


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


def check_start(net: nn.Module, init: str | None) -> tuple[str, str]:
    """The digest of the weights that a network, on the meta device, is to start from, and a line that says what of it
    they leave; both empty without any.

    Raises:
        ValueError: if they are not there, or do not fit.
    """
    if init is None:
        return "", ""
    found = starting.names_and_shapes(init)
    fit = starting.fit(net, found.state)
    ours, theirs = fit.classes
    new = f"; its classifier, {fit.head}, is new: {ours:,} classes for {theirs:,}" if fit.head else ""
    return found.digest, f"starts from {init}{new}"


def located(init: str | None) -> str | None:
    """`init` as any process of this machine finds it, wherever it runs."""
    return None if init is None else str(Path(init).expanduser().absolute())
