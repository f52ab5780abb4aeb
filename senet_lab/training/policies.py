"""RandAugment and TrivialAugment of batches in memory, by torchvision's functions (Cubuk et al. 2020, Müller and Hutter
2021).

As torchvision has them, each image gets operations of its own; here the images of a batch that get the same one are
changed together, on the device where they lie. What is random is drawn on the CPU (`augment`), and stays there: which
images belong together is decided without waiting for the device.

Shapes: B batch, C colour channels, H W pixels; n operations an image.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from senet_lab.config import UserError, first_line, near

POLICIES: dict[str, Callable[..., Any]] = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}
BINS = 31  # magnitudes that there are, if nothing else is said


def sheared(x: Tensor, x_level: float, y_level: float) -> Tensor:
    angles = [math.degrees(math.atan(level)) for level in (x_level, y_level)]
    found: Tensor = F.affine(x, angle=0.0, translate=[0, 0], scale=1.0, shear=angles, center=[0, 0])
    return found


def moved(x: Tensor, right: float, down: float) -> Tensor:
    found: Tensor = F.affine(x, angle=0.0, translate=[int(right), int(down)], scale=1.0, shear=[0.0, 0.0])
    return found


# What is done to images of bytes at a magnitude, in torchvision's order, and whether that may be negative, too.
OPERATIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], bool]] = {
    "Identity": (lambda x, level: x, False),
    "ShearX": (lambda x, level: sheared(x, level, 0.0), True),
    "ShearY": (lambda x, level: sheared(x, 0.0, level), True),
    "TranslateX": (lambda x, level: moved(x, level, 0.0), True),
    "TranslateY": (lambda x, level: moved(x, 0.0, level), True),
    "Rotate": (lambda x, level: F.rotate(x, angle=level), True),
    "Brightness": (lambda x, level: F.adjust_brightness(x, 1.0 + level), True),
    "Color": (lambda x, level: F.adjust_saturation(x, 1.0 + level), True),
    "Contrast": (lambda x, level: F.adjust_contrast(x, 1.0 + level), True),
    "Sharpness": (lambda x, level: F.adjust_sharpness(x, 1.0 + level), True),
    "Posterize": (lambda x, level: F.posterize(x, int(level)), False),
    "Solarize": (lambda x, level: F.solarize(x, 255.0 * level), False),
    "AutoContrast": (lambda x, level: F.autocontrast(x), False),
    "Equalize": (lambda x, level: F.equalize(x), False),
}
# Largest magnitude of each operation, for RandAugment and for TrivialAugment; translations in pixels, of which
# RandAugment takes a share of the image.
LARGEST = {
    "randaugment": {"Shear": 0.3, "Translate": 150.0 / 331.0, "Rotate": 30.0, "": 0.9},
    "trivialaugment": {"Shear": 0.99, "Translate": 32.0, "Rotate": 135.0, "": 0.99},
}
LOST_BITS = {"randaugment": 4, "trivialaugment": 6}  # by posterising at most


class BatchPolicy:
    """A policy for batches of bytes.

    Args:
        name: a key of `POLICIES`.
        arguments: of torchvision's class: `num_ops`, `magnitude` (RandAugment), `num_magnitude_bins`.
    """

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self.name = name
        self.bins = int(arguments.get("num_magnitude_bins", BINS))
        self.magnitude = int(arguments.get("magnitude", 9)) if name == "randaugment" else None
        self.count = int(arguments.get("num_ops", 2)) if name == "randaugment" else 1

    def draw(self, B: int, generator: torch.Generator) -> Tensor:
        """Operation, magnitude's number, and whether it is negative: (B, n, 3), on the CPU."""
        shape = (B, self.count)
        operations_Bn = torch.randint(len(OPERATIONS), shape, generator=generator)
        drawn_Bn = torch.randint(self.bins, shape, generator=generator)
        magnitudes_Bn = drawn_Bn if self.magnitude is None else torch.full(shape, self.magnitude)
        negative_Bn = torch.randint(2, shape, generator=generator)
        return torch.stack([operations_Bn, magnitudes_Bn, negative_Bn], 2)

    def apply(self, x_BCHW: Tensor, numbers_Bn3: Tensor) -> Tensor:
        """The images, changed; the numbers are on the CPU."""
        for numbers_B3 in numbers_Bn3.unbind(1):
            kinds_K3, kind_B = torch.unique(numbers_B3, dim=0, return_inverse=True)
            for kind, (operation, number, negative) in enumerate(kinds_K3.tolist()):
                name = list(OPERATIONS)[operation]
                if name == "Identity":
                    continue
                change, signed = OPERATIONS[name]
                level = self.level(name, number, x_BCHW.shape[2], x_BCHW.shape[3])
                places = (kind_B == kind).nonzero()[:, 0].to(x_BCHW.device)
                changed = change(x_BCHW[places], -level if signed and negative else level)
                x_BCHW = x_BCHW.index_copy(0, places, changed)
        return x_BCHW

    def level(self, name: str, number: int, height: int, width: int) -> float:
        """The magnitude of a number, as torchvision's tables have it."""
        if name == "Posterize":
            return float((8 - torch.arange(self.bins) / ((self.bins - 1) / LOST_BITS[self.name])).round()[number])
        if name == "Solarize":
            return float(torch.linspace(1.0, 0.0, self.bins)[number])
        largest = next(value for word, value in LARGEST[self.name].items() if name.startswith(word))
        if name.startswith("Translate") and self.name == "randaugment":
            largest *= width if name == "TranslateX" else height
        return float(torch.linspace(0.0, largest, self.bins)[number])


def check_policy(name: str, arguments: Any) -> None:
    """A UserError for a policy that is not there, or for arguments that it does not take."""
    if name != "none" and name not in POLICIES:
        raise UserError(
            f"data.policy: there is no '{name}'{near(name, POLICIES)}; there are {', '.join(['none', *POLICIES])}"
        )
    if arguments is None:
        return
    if name == "none" or not isinstance(arguments, dict):
        form = "data.policy=none takes none" if name == "none" else "no mapping: {magnitude: 6}"
        raise UserError(f"data.policy_args={arguments}: {form}")
    takes = [word for word in inspect.signature(POLICIES[name]).parameters if word not in ("interpolation", "fill")]
    wrong = [word for word in arguments if word not in takes]
    if wrong:
        raise UserError(f"data.policy_args: {name} takes no '{wrong[0]}'; it takes {', '.join(takes)}")
    try:
        tried = BatchPolicy(name, arguments)
        picture = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        POLICIES[name](**arguments)(picture)
        tried.apply(picture, tried.draw(1, torch.Generator()))
        assert tried.magnitude is None or 0 <= tried.magnitude < tried.bins, f"magnitude is not below {tried.bins}"
        assert all(type(value) is int and value > 0 for value in arguments.values()), "whole numbers of at least 1"
    except Exception as error:  # torchvision's, of what its class refuses
        raise UserError(f"data.policy_args={arguments}: {name}: {first_line(error)}") from error
