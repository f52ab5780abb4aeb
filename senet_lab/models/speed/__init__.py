"""Code whose only purpose is speed, behind one function.

`folded` computes what the modules compute, up to rounding, in fewer passes over memory, or returns None if the modules
are to run. Only `Gated` calls it, so that the folder can be measured and deleted as a whole.
"""

from __future__ import annotations

from senet_lab.models.speed.folding import folded

__all__ = ["folded"]
