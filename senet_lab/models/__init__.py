"""What is trained: plain networks, the SE block, where it goes, and what it costs. Knows torch only."""

from __future__ import annotations

from senet_lab.config import SE
from senet_lab.models.backbones import BACKBONES, create, with_se
from senet_lab.models.cost import Cost, convention_total, cost, fingerprint, hidden_widths
from senet_lab.models.detection import faster_rcnn
from senet_lab.models.gates import SEBlock
from senet_lab.models.identity import code
from senet_lab.models.insert import add_se, stages_of
from senet_lab.models.latency import latency
from senet_lab.models.seeding import seed_others
from senet_lab.models.static import static
from senet_lab.models.weights import load_weights, pretrained, timm_state_dict

__all__ = [
    "BACKBONES",
    "SE",
    "Cost",
    "SEBlock",
    "add_se",
    "code",
    "convention_total",
    "cost",
    "create",
    "faster_rcnn",
    "fingerprint",
    "hidden_widths",
    "latency",
    "load_weights",
    "pretrained",
    "seed_others",
    "stages_of",
    "static",
    "timm_state_dict",
    "with_se",
]
