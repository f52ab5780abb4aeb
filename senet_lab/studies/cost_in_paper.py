"""The cost of a row's design in the paper's own network, beside which ours is shown."""

from __future__ import annotations

import torch

from senet_lab import models
from senet_lab.config import SE, Config, Study
from senet_lab.models.cost import Cost
from senet_lab.reports import paper
from senet_lab.selection import networks
from senet_lab.training.data import DataFacts

PAPER_NETWORK, PAPER_STRIDE = "resnet50", "paper"  # the trunk of the paper's ablations (section 6)
PAPER_CHANNELS, PAPER_SIZE, PAPER_CLASSES = 3, 224, 1000
# Backbone, design, pixels a side, classes → its cost in the paper: studies share rows.
IN_PAPER: dict[tuple[str, str, int, int], Cost | None] = {}


def paper_cost(config: Config, study: Study | None, paper_row: str, facts: DataFacts, cost: Cost) -> Cost | None:
    """Cost of a row's design in the paper's network, at the size of the paper's images and with its classes; None where
    that network has no such stage, and where the paper has no such network. `cost` is the row's own.

    The paper's network is the one that its table varies, or, in a table of several networks, the row's own.
    """
    backbone, size, classes = PAPER_NETWORK, PAPER_SIZE, PAPER_CLASSES
    if study and study.paper:
        table = paper.paper_table(study.paper)
        backbone, classes = table.trunk or config.backbone, table.classes
        size = table.row(paper_row).size if paper_row else size
    elif study and (networks(study) or not any(key.split(".")[0] == "se" for key in study.varied)):
        return None
    here = (config.backbone, config.stride, facts.channels, config.data.size, len(facts.classes))
    if here == (backbone, PAPER_STRIDE, PAPER_CHANNELS, size, classes):
        return cost
    key = (backbone, repr(config.se), size, classes)
    if key not in IN_PAPER:
        IN_PAPER[key] = cost_in_paper(backbone, config.se, size, classes)
    return IN_PAPER[key]


def cost_in_paper(backbone: str, se: SE | None, size: int, classes: int) -> Cost | None:
    """Cost of a network as the paper builds it; None where it has no such stage."""
    try:
        with torch.device("meta"):
            net = models.create(backbone, se, classes, stride=PAPER_STRIDE, seed=0)
        return models.cost(net, (PAPER_CHANNELS, size, size))
    except ValueError:
        return None
