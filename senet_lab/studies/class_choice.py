"""Which classes of a data set are shown one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from senet_lab.config import UserError, near
from senet_lab.training.data import DataFacts
from senet_lab.training.gate_stats import Array

PAPER = ("goldfish", "plane", "pug", "cliff")  # classes; the first two are those of figure 7


def choose_classes(words: Sequence[str] | None, names: Sequence[str], facts: DataFacts, counts_K: Array) -> list[int]:
    """Labels of the classes to show: those that the words call by their `names` (`data.names_of`), by the data set's
    own names (folders), or by their labels; None takes the paper's four if they are all there, else four spread evenly
    over the classes that have test images.

    Raises:
        UserError: for a class that does not exist or has no test images.
    """
    if words is None:
        if set(PAPER) <= set(names) and all(counts_K[names.index(name)] for name in PAPER):
            return [names.index(name) for name in PAPER]
        present = np.flatnonzero(counts_K)
        places = np.linspace(0, len(present) - 1, min(4, len(present))).round().astype(int)
        return [int(label) for label in present[np.unique(places)]]
    known = {str(label): label for label in range(len(names))}
    known |= {name: label for called in (facts.classes, names) for label, name in enumerate(called)}
    for word in words:
        if word not in known:
            some = ", ".join(names[:10]) + (f", … ({len(names)} in all)" if len(names) > 10 else "")
            raise UserError(
                f"--classes: there is no class '{word}'{near(word, known)}; there are {some}, or by label 0 to "
                f"{len(names) - 1}"
            )
        if not counts_K[known[word]]:
            raise UserError(f"--classes: there are no test images of class '{word}'")
    return list(dict.fromkeys(known[word] for word in words))
