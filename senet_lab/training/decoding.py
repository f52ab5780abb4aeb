"""From the file of an image to its pixels, 8 bits a channel."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from senet_lab.config import Data, RunError
from senet_lab.training.contents import state
from senet_lab.training.transforms import channels_of

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of a TIFF, and a value of the second


def opened(path: str, mode: str, known: bytes = b"") -> Any:
    """A file as a PIL image of 8 bits.

    Args:
        path: the file.
        mode: PIL's word for the colours that are wanted, `L` or `RGB`.
        known: what the file was when the study began (`contents.state`); empty does not ask.

    Raises:
        RunError: in one line that names the file, if it cannot be decoded, holds numbers of no known range, or has
            changed.
    """
    from PIL import Image

    try:
        with open(path, "rb") as file:  # noqa: PTH123
            if known and state(os.fstat(file.fileno())) != known:
                raise RunError(f"the image {path} has changed since the study began; start it again")
            with Image.open(file) as image:
                return in_eight_bits(image).convert(mode)
    except (MemoryError, RunError):
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error …: no common class
        raise RunError(f"the image {path} cannot be read: {error}") from error


def in_eight_bits(image: Any) -> Any:
    """A PIL image of 8 bits a channel, which PIL brings to the wanted colours. Those of 16 bits it would clip: they are
    scaled, so that a level of 8 bits that was stored in 16 (times 257) is that level again.

    Raises:
        ValueError: for numbers whose range is not known: whole ones of 32 bits, and floating-point ones.
    """
    from PIL import Image

    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    bits = image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0] if image.format == "TIFF" else 16
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")) or bits > 16:
        raise ValueError(f"its mode is {image.mode}: the range of its numbers is not known; convert it to 8 or 16 bits")
    levels = np.asarray(image).astype(np.uint32) * 255
    full = 2**bits - 1
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        levels = 255 * full - levels  # as PIL does with 8 bits
    return Image.fromarray(((levels + full // 2) // full).astype(np.uint8))


def mode_of(data: Data) -> str:
    """PIL's word for the colours of the images that a network sees."""
    return "L" if channels_of(data) == 1 else "RGB"
