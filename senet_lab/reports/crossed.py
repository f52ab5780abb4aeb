"""What an error generalises over: its variance over seeds, over test images, and what is left.

A row's outcome y[s, i] is that of the training with seed s on the test image i: wrong or right in percent, or a loss. A
difference between two rows is of the same form. Seeds and images are crossed, and both are samples:

    y[s, i] = μ + seed_s + image_i + rest_{s,i}

An interval over seeds alone, with these very images, takes the variance of the seeds' means: it is Student's
(`statistics.half_width`). One over seeds and images adds what other images would have given. The variance of the mean
is σ²_seed / n + σ²_image / N + σ²_rest / (n N); the three are estimated by the mean squares of the two-way analysis of
variance, so that it is (MS_seed + MS_image − MS_rest) / (n N), with Satterthwaite's degrees of freedom (1946). A
component below zero counts as zero, and degrees of freedom are never fewer than the seeds alone would have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Components:
    """The mean of crossed outcomes and where its variance comes from, in the outcomes' own unit (points).

    Attributes:
        seeds, images: how many, n and N.
        mean: over all.
        seed, image, rest: variances of one seed's effect, of one image's and of what is left; none is below zero.
        freedom: Satterthwaite's degrees of freedom of the mean's variance.
    """

    seeds: int
    images: int
    mean: float
    seed: float
    image: float
    rest: float
    freedom: float

    @property
    def variance(self) -> float:
        """Of the mean, over other seeds and other images."""
        return sum(self.shares.values())

    @property
    def shares(self) -> dict[str, float]:
        """What each source adds to the variance of the mean."""
        return {
            "seeds": self.seed / self.seeds,
            "images": self.image / self.images,
            "rest": self.rest / (self.seeds * self.images),
        }

    def half_width(self, confidence: float = 0.95) -> float:
        """Half of the interval of the mean over seeds and images."""
        return float(stats.t.ppf((1 + confidence) / 2, self.freedom)) * math.sqrt(self.variance)

    def p(self) -> float:
        """Two-sided p that the mean over seeds and images is 0."""
        if self.mean == 0:
            return 1.0
        error = math.sqrt(self.variance)
        return float(2 * stats.t.sf(abs(self.mean) / error, self.freedom)) if error else 0.0

    def floor(self, confidence: float = 0.95) -> float:
        """Half of the interval that any number of seeds would leave: the smallest difference that so many test images
        can show."""
        return float(stats.norm.ppf((1 + confidence) / 2)) * math.sqrt(self.image / self.images)


def components(outcomes: ArrayLike) -> Components:
    """Variance components of crossed outcomes.

    Args:
        outcomes: (seeds, images), at least two of each.

    Raises:
        ValueError: for fewer.
    """
    y_SI = np.asarray(outcomes, dtype=float)
    if y_SI.ndim != 2 or min(y_SI.shape) < 2:
        raise ValueError(f"outcomes: {y_SI.shape} is not at least two seeds by two images")
    n, images = y_SI.shape
    mean = float(y_SI.mean())
    over_seeds, over_images = y_SI.mean(1) - mean, y_SI.mean(0) - mean
    seed_square = images * float((over_seeds**2).sum()) / (n - 1)
    image_square = n * float((over_images**2).sum()) / (images - 1)
    rest_S = [float(((y - mean - effect - over_images) ** 2).sum()) for y, effect in zip(y_SI, over_seeds, strict=True)]
    rest_square = sum(rest_S) / ((n - 1) * (images - 1))
    squares = [(seed_square, n - 1), (image_square, images - 1), (rest_square, (n - 1) * (images - 1))]
    spread = sum(square**2 / freedom for square, freedom in squares)
    total = seed_square + image_square - rest_square
    return Components(
        seeds=n,
        images=images,
        mean=mean,
        seed=max(0.0, seed_square - rest_square) / images,
        image=max(0.0, image_square - rest_square) / n,
        rest=rest_square,
        freedom=max(float(n - 1), total**2 / spread) if spread else math.inf,
    )
