"""What is trained: plain networks, the SE block, where it goes, and what it costs. Knows torch only."""

from __future__ import annotations

from senet_lab.config import SE
from senet_lab.models.backbones import BACKBONES, create
from senet_lab.models.cost import Cost, cost, fingerprint, hidden_widths
from senet_lab.models.insert import add_se, stages_of
from senet_lab.models.se import SEBlock

__all__ = [
    "BACKBONES",
    "SE",
    "Cost",
    "SEBlock",
    "add_se",
    "cost",
    "create",
    "fingerprint",
    "hidden_widths",
    "stages_of",
]
