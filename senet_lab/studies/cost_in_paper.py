"""The cost of a row's design in the paper's own network, beside which ours is shown.

Those of the lab's own studies are kept in `cost_in_paper.json` beside this file, because counting them takes longer
than all else of a plan. `write_kept` counts them anew; a test compares.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import NamedTuple

import torch

from senet_lab import models
from senet_lab.config import SE, Config, Study
from senet_lab.models.cost import Cost
from senet_lab.reports import paper
from senet_lab.selection import networks
from senet_lab.training.data import DataFacts

PAPER_NETWORK, PAPER_STRIDE = "resnet50", "paper"  # the trunk of the paper's ablations (section 6)
PAPER_CHANNELS, PAPER_SIZE, PAPER_CLASSES = 3, 224, 1000
FILE = Path(__file__).with_suffix(".json")


class PaperCost(NamedTuple):
    """Parameters, and multiply-adds of one image."""

    params: int
    macs: int


def paper_cost(config: Config, study: Study | None, paper_row: str, facts: DataFacts, cost: Cost) -> PaperCost | None:
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
        return PaperCost(cost.params, cost.macs)
    asked = asked_text(backbone, config.se, size, classes)
    kept = kept_costs()
    if asked not in kept:  # kept from here on, because studies share rows
        kept[asked] = cost_in_paper(backbone, config.se, size, classes)
    return kept[asked]


def asked_text(backbone: str, se: SE | None, size: int, classes: int) -> str:
    """A network of the paper's in words: its design by what is not the default."""
    changed = {field.name: getattr(se, field.name) for field in dataclasses.fields(SE)} if se else {}
    design = {name: value for name, value in changed.items() if value != getattr(SE(), name)} if se else None
    return f"{backbone}, se={design}, {size} pixels, {classes} classes"


@functools.cache
def kept_costs() -> dict[str, PaperCost | None]:
    """`asked_text` → cost, as kept."""
    entries = json.loads(FILE.read_text(encoding="utf-8"))
    return {asked: PaperCost(*cost) if cost else None for asked, cost in entries.items()}


def cost_in_paper(backbone: str, se: SE | None, size: int, classes: int) -> PaperCost | None:
    """Cost of a network as the paper builds it; None where it has no such stage."""
    try:
        with torch.device("meta"):
            net = models.create(backbone, se, classes, stride=PAPER_STRIDE, seed=0)
        cost = models.cost(net, (PAPER_CHANNELS, size, size))
    except ValueError:
        return None
    return PaperCost(cost.params, cost.macs)
