"""Everything whose only purpose is speed, behind one function.

`folded` computes what the modules compute, but for rounding, in fewer passes over memory, or answers that the modules
are to be run. `Gated` alone asks it, so that it can be measured, and deleted, as one folder.
"""

from __future__ import annotations

from senet_lab.models.speed.folding import folded

__all__ = ["folded"]
