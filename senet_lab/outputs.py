"""The outputs of a trained network for each test image: whether its first guess was right, and −log p of the right
class.

Beside an error in percent they say which images it comes from, so that two networks can be compared image by image, and
an error's variance over images can be told from that over seeds. A trial's are kept as bytes beside its record (2.1 an
image); a study's as `outputs.npz`. Images stand in the fixed order of their data set.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = "outputs.npz"


@dataclass(frozen=True)
class Outputs:
    """Of one trial, for each of N test images."""

    right: NDArray[np.bool_]  # whether the first guess was right
    loss: NDArray[np.float16]  # −log of the probability of the right class: at most 65,504

    def packed(self) -> bytes:
        """The bytes that are stored: a bit an image, then two bytes an image."""
        return np.packbits(self.right).tobytes() + self.loss.astype("<f2").tobytes()

    @classmethod
    def unpacked(cls, data: bytes) -> Outputs:
        """What `packed` gave.

        Raises:
            ValueError: for what it cannot have given.
        """
        images = 8 * len(data) // 17
        bits = -(-images // 8)
        if len(data) != bits + 2 * images:
            raise ValueError(f"{len(data)} bytes are not the outputs of any number of images")
        right = np.unpackbits(np.frombuffer(data, np.uint8, bits), count=images).astype(bool)
        return cls(right, np.frombuffer(data, "<f2", offset=bits).astype(np.float16))


def outputs_digest(packed: bytes) -> str:
    """Digest of a trial's outputs, which depends on the images and their order."""
    return hashlib.sha256(packed).hexdigest()[:12]


def merge_batches(parts: Sequence[Sequence[NDArray[np.floating[Any]]]]) -> Outputs:
    """Merge the outputs of batches into those of the whole test set.

    Args:
        parts: for each of the processes that tested together, the (2, B) right and loss of its own images of each
            batch. Each process had every image of its number's turn: the first, say, images 0, 2, 4, … of two.
    """
    batches = []
    for of_batch in zip(*parts, strict=True):
        whole_2B = np.empty((2, sum(part.shape[1] for part in of_batch)))
        for number, part in enumerate(of_batch):
            whole_2B[:, number :: len(of_batch)] = part
        batches.append(whole_2B)
    whole_2N = np.concatenate(batches, axis=1)
    return Outputs(whole_2N[0] > 0, np.minimum(whole_2N[1], np.finfo(np.float16).max).astype(np.float16))


def file_bytes(packed: Mapping[str, bytes], images: int | None) -> bytes:
    """The outputs of several trials of one test set, by trial id, as a compressed NumPy file: the same bytes for the
    same outputs. Its arrays: `trial_id` (T), `right` (T, N / 8; bits) and `loss` (T, N; float16), and `images`, N.

    Raises:
        ValueError: where a trial has the outputs of another number of images.
    """
    by_trial = {trial_id: Outputs.unpacked(data) for trial_id, data in packed.items()}
    for trial_id, outputs in by_trial.items():
        count = len(outputs.right)
        if count != images:
            raise ValueError(f"trial {trial_id} has outputs of {count} test images, and there are {images}")
    out = io.BytesIO()
    np.savez_compressed(
        out,
        trial_id=np.array(list(by_trial)),
        images=np.array(images),
        right=np.stack([np.packbits(outputs.right) for outputs in by_trial.values()]),
        loss=np.stack([outputs.loss for outputs in by_trial.values()]),
    )
    return out.getvalue()


def read_file(path: str | Path) -> dict[str, Outputs]:
    """Trial id → outputs, as `file_bytes` wrote them.

    Raises:
        ValueError: in one line that names the file, where it is damaged or no such file.
    """
    try:
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as held:
            images = int(held["images"])
            right_TN = np.unpackbits(held["right"], axis=1, count=images).astype(bool)
            ids, loss_TN = held["trial_id"].tolist(), held["loss"]
            if right_TN.shape != (len(ids), images) or loss_TN.shape != (len(ids), images):
                raise ValueError("its arrays do not fit each other")
            return {name: Outputs(*each) for name, *each in zip(ids, right_TN, loss_TN, strict=True)}
    except Exception as error:  # what a damaged file makes of the reader has no common class
        raise ValueError(f"{path}: no outputs of trials ({str(error) or type(error).__name__})") from None
