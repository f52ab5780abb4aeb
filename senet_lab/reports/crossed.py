"""Splits the variance of an error into parts from seeds, from test images, and the rest.

A row's outcome y[s, i] is that of the training with seed s on the test image i: wrong or right in percent, or a loss. A
difference between two rows is of the same form. Seeds and images are crossed, and both are samples:

    y[s, i] = μ + seed_s + image_i + rest_{s,i}

An interval over seeds alone, with these very images, takes the variance of the seeds' means: it is Student's
(`statistics.half_width`). One over seeds and images adds what other images would have given. With the mean squares of
the two-way analysis of variance, the variance of the mean is

    V_seeds + V_images = MS_seed / (n N) + max(0, MS_image − MS_rest) / (n N)

where V_seeds, which is that of the seeds' means, holds what is left, too. Its degrees of freedom are n − 1, those of
V_images are many; the bound is the mean of both bounds, weighted by what each adds to the variance (Cochran and Cox
1950, for two means of unequal variance):

    half width = √(V_seeds + V_images) (V_seeds t_{n−1} + V_images z) / (V_seeds + V_images)

Satterthwaite's degrees of freedom, the usual choice, cover 92% with three seeds where these have most of the variance,
because a small MS_seed, by chance, is taken for a known one; the weighted bound covers 95 to 97% there.

Where outcomes are counted, few wrong images tell little of how many other images would give: of a Poisson count X,
X ± 1.96 √X covers less than 93% below thirty and nothing at 0. X ± 1.96 √(X + 2) covers 93% or more, so that V_images
counts two images more: 2 `step`², times the share of the variance of one outcome that is of its image, if these two are
added there, too. V_seeds is at least (step / n)², as in `statistics`. `python -m benchmarks.verdicts` tells how often
these intervals hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special


@dataclass(frozen=True)
class Components:
    """The mean of crossed outcomes and where its variance comes from, in the outcomes' own unit (points).

    Attributes:
        seeds, images: how many, n and N.
        mean: over all.
        seed, image, rest: variances of one seed's effect, of one image's and of what is left; none is below zero.
        over_seeds, over_images: what other seeds and other images would each add to the variance of the mean.
    """

    seeds: int
    images: int
    mean: float
    seed: float
    image: float
    rest: float
    over_seeds: float
    over_images: float

    @property
    def variance(self) -> float:
        """Of the mean, over other seeds and other images."""
        return self.over_seeds + self.over_images

    @property
    def shares(self) -> dict[str, float]:
        """What each source adds to the variance of the mean."""
        rest = min(self.rest / (self.seeds * self.images), self.over_seeds)
        return {"seeds": self.over_seeds - rest, "images": self.over_images, "rest": rest}

    def half_width(self, level: float = 0.05) -> float:
        """Half of the interval of the mean over seeds and images, which misses it at this level."""
        if self.variance == 0:
            return 0.0
        seeds, images = -special.stdtrit(self.seeds - 1, level / 2), -special.ndtri(level / 2)
        return float((self.over_seeds * seeds + self.over_images * images) / math.sqrt(self.variance))

    def p(self) -> float:
        """Two-sided p that the mean over seeds and images is 0: the level whose interval ends there."""
        if self.mean == 0 or self.variance == 0:
            return float(self.mean == 0)

        def beyond(log_p: float) -> float:
            return self.half_width(math.exp(log_p)) - abs(self.mean)

        least = math.log(1e-300)
        return math.exp(least if beyond(least) <= 0 else float(optimize.brentq(beyond, least, 0.0)))

    def floor(self, level: float = 0.05) -> float:
        """Half of the interval that any number of seeds would leave: the smallest difference that so many test images
        can show."""
        return -float(special.ndtri(level / 2)) * math.sqrt(self.over_images)


def crossed_components(outcomes: ArrayLike, step: float = 0.0) -> Components:
    """Variance components of crossed outcomes.

    Args:
        outcomes: (seeds, images), at least two of each.
        step: what one image weighs in the mean, where outcomes are counted; 0 for losses.

    Raises:
        ValueError: for fewer.
    """
    y_SI = np.asarray(outcomes, dtype=float)
    if y_SI.ndim != 2 or min(y_SI.shape) < 2:
        raise ValueError(f"outcomes: {y_SI.shape} is not at least two seeds by two images")
    n, images = y_SI.shape
    mean = float(y_SI.mean())
    effect_S, effect_I = y_SI.mean(1) - mean, y_SI.mean(0) - mean
    seed_square = images * float((effect_S**2).sum()) / (n - 1)
    image_square = n * float((effect_I**2).sum()) / (images - 1)
    rest_S = [float(((y - mean - effect - effect_I) ** 2).sum()) for y, effect in zip(y_SI, effect_S, strict=True)]
    rest_square = sum(rest_S) / ((n - 1) * (images - 1))
    image = max(0.0, image_square - rest_square) / n
    over_images, two = image / images, 2 * step**2
    if two:
        over_images += two * (over_images + two) / (over_images + rest_square / images + two)
    return Components(
        seeds=n,
        images=images,
        mean=mean,
        seed=max(0.0, seed_square - rest_square) / images,
        image=image,
        rest=rest_square,
        over_seeds=max(seed_square / (n * images), (step / n) ** 2),
        over_images=over_images,
    )
