"""The outcome of each trial on each test image, checked against its line in `trials.csv`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from senet_lab import outputs
from senet_lab.outputs import Outputs

NEAR = 1e-3  # of one test image: an error in percent has no more rounding than that


def check_outputs(trials: pd.DataFrame, found: Mapping[str, Outputs]) -> dict[str, Outputs]:
    """The outputs of finished trials, as far as they are known. A line with an empty digest has none.

    Args:
        trials: in canonical form.
        found: trial id → outputs; those of other trials are left aside.

    Raises:
        ValueError: in one line that names the trial, for outputs of another number of images, of another digest than
            its line has, or of another error.
    """
    out = {}
    done = trials[trials["status"] == "done"]
    digests = done["outputs"] if "outputs" in done else [None] * len(done)  # of an earlier lab
    for name, images, error, digest in zip(
        done["trial_id"], done["test_images"], done["test_error"], digests, strict=True
    ):
        if name in found and name not in out and digest != "":
            out[name] = _of_this_trial(found[name], f"the outputs of trial {name}", int(images), float(error), digest)
    return out


def _of_this_trial(one: Outputs, what: str, images: int, error: float, digest: str | None) -> Outputs:
    if len(one.right) != images:
        raise ValueError(f"{what} are of {len(one.right):,} test images, and there are {images:,}")
    if digest and outputs.outputs_digest(one.packed()) != digest:
        raise ValueError(f"{what} are not those that it left: their digest is not {digest} (another trial or order?)")
    counted = 100 * float(np.mean(~one.right))
    if abs(counted - error) * images > NEAR * 100:
        raise ValueError(f"{what} have an error of {counted:.4f}%, and its test_error is {error:.4f}%")
    return one


def outcomes(one: Outputs, metric: str) -> NDArray[np.float32]:
    """(N,) of each test image: an error of 100 or 0 percent, or the loss."""
    return np.where(one.right, np.float32(0), np.float32(100)) if metric == "error" else one.loss.astype(np.float32)
