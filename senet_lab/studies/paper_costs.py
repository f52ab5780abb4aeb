"""`python -m senet_lab cost` without words: what the paper's tables print of cost, beside what is counted here.

Which operations and which parameters the paper counts it does not say, and no one way of counting gives all of its
numbers. So every number has a convention of its own here, the terms of `models.cost` that its count is the sum of:
the one of our own tables where that gives the printed digits, otherwise the nearest that does.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from senet_lab import models
from senet_lab.compose import choices, compose
from senet_lab.config import SE
from senet_lab.models.cost import Cost, convention_total
from senet_lab.reports import paper
from senet_lab.studies import cost_in_paper
from senet_lab.studies.plan import make_plan


class CountedRow(NamedTuple):
    """How a printed row is counted.

    Attributes:
        backbone: its network, a key of `BACKBONES`.
        se: its design; None is the plain network.
        macs, params: the convention of each number that is printed.
        note: why it is not the printed number, where it is not.
    """

    backbone: str
    se: SE | None
    macs: str = ""
    params: str = ""
    note: str = ""


UNITS = {"GFLOPs": 1e9, "params M": 1e6}
USUAL = {"GFLOPs": "layers, pool, scale", "params M": "weights, biases, norms"}

PLAIN, POOLED, OURS = "layers", "layers, pool", USUAL["GFLOPs"]
TRAINED, STORED = "weights, norms", "weights, norms, stats"  # what has gradients; what a file of weights holds
DESIGN, BIASED = SE(), SE(bias=True)

NEAREST = "the print is 0.01 above what any of these conventions gives"
OTHER_NETWORK = (
    "counted is the network that its authors released; which version of it the print is of is not known. SE adds "
    "0.0085 here, 0.01 in print."
)
NOMINAL = "the print has the nominal 140 M of ShuffleNet's article; SE adds 1.9 M here, 2 M in print."

# Table → row → how it is counted.
PRINTED: dict[str, dict[str, CountedRow]] = {
    "table2": {
        "ResNet-50": CountedRow("resnet50", None, PLAIN),
        "SE-ResNet-50": CountedRow("resnet50", DESIGN, OURS),
        "ResNet-101": CountedRow("resnet101", None, "layers, sums"),
        "SE-ResNet-101": CountedRow("resnet101", DESIGN, "layers, pool, scale, sums"),
        "ResNet-152": CountedRow("resnet152", None, "layers, sums"),
        "SE-ResNet-152": CountedRow("resnet152", DESIGN, OURS),
        "ResNeXt-50": CountedRow("resnext50", None, "layers, sums"),
        "SE-ResNeXt-50": CountedRow("resnext50", DESIGN, "layers, pool, scale, sums"),
        "ResNeXt-101": CountedRow("resnext101", None, "layers, sums", note=NEAREST),
        "SE-ResNeXt-101": CountedRow("resnext101", DESIGN, "layers, pool, scale, sums"),
        "VGG-16": CountedRow("vgg16", None, PLAIN),
        "SE-VGG-16": CountedRow("vgg16", DESIGN, POOLED),
        "BN-Inception": CountedRow("bn_inception", None, PLAIN),
        "SE-BN-Inception": CountedRow("bn_inception", DESIGN, OURS),
        "Inception-ResNet-v2": CountedRow("inception_resnet_v2", None, PLAIN, note=OTHER_NETWORK),
        "SE-Inception-ResNet-v2": CountedRow("inception_resnet_v2", DESIGN, PLAIN, note=OTHER_NETWORK),
    },
    "table3": {
        "MobileNet": CountedRow("mobilenet", None, PLAIN, TRAINED),
        "SE-MobileNet": CountedRow("mobilenet", DESIGN, POOLED, TRAINED),
        "ShuffleNet": CountedRow("shufflenet", None, PLAIN, "weights", NOMINAL),
        "SE-ShuffleNet": CountedRow("shufflenet", DESIGN, POOLED, "weights", NOMINAL),
    },
    "table10": {
        "2": CountedRow("resnet50", SE(2), params=STORED),
        **{
            str(r): CountedRow("resnet50", SE(r, bias=True), params="weights, biases, norms, stats")
            for r in (4, 8, 16, 32)
        },
        "original": CountedRow("resnet50", None, params=STORED),
    },
    "table13": {
        "ResNet-50": CountedRow("resnet50", None, PLAIN, STORED),
        **{f"SE_Stage_{n}": CountedRow("resnet50", SE(stages=[n]), OURS, STORED) for n in (2, 3, 4)},
        "SE_All": CountedRow("resnet50", DESIGN, OURS, STORED),
    },
    "table15": {
        "SE": CountedRow("resnet50", DESIGN, OURS, STORED),
        "SE_3x3": CountedRow("resnet50", SE(position="conv3x3"), OURS, STORED),
    },
    "table16": {
        "ResNet-50": CountedRow("resnet50", None, PLAIN, STORED),
        "NoSqueeze": CountedRow("resnet50", SE(squeeze="none"), OURS, STORED),
        "SE": CountedRow("resnet50", DESIGN, OURS, STORED),
    },
}

NOTES = {
    "table10": "No one convention gives all rows: with biases r = 2 would have 45.752 M, without them r = 8 30.640 M. "
    "r = 4 to 32 are older than r = 2, which only the last version of the paper has.",
}

LEGEND = (
    "=: equal at the printed precision; ≠: not, for the reason given. Counted are, of multiply-adds: layers "
    "(convolutions and linear layers, those of SE included), pool and scale (those of SE), sums (additions of "
    "shortcuts); of parameters: weights (those of layers), biases (of SE), norms (scales and shifts), stats (running "
    "means and variances)."
)


@dataclass(frozen=True)
class PrintedNumber:
    """One printed number and what is counted for it.

    Attributes:
        table: id of the table.
        row: its row there.
        unit: `GFLOPs` (10^9 multiply-adds) or `params M` (millions).
        printed: as the paper has it.
        recomputed: as counted here, by `convention`, in the same unit.
        convention: the terms that are counted.
        usual: the same by the convention of our own tables.
        digits: behind the point in print.
        note: why the two differ; empty where they do not.
    """

    table: str
    row: str
    unit: str
    printed: float
    recomputed: float
    convention: str
    usual: float
    digits: int
    note: str

    def gives(self, count: float) -> bool:
        """Whether a count is the printed number at the printed precision."""
        return f"{count:.{self.digits}f}" == f"{self.printed:.{self.digits}f}"


def show_paper_costs(console: Console) -> None:
    """Print every table as soon as it is counted."""
    shown: list[PrintedNumber] = []
    for name in PRINTED:
        for unit in UNITS:
            block = numbers(name, unit)
            if block:
                shown += block
                show_block(block, console)
        if name in NOTES:
            console.print(f"{NOTES[name]}\n", style="dim", highlight=False)
    console.print(LEGEND, style="dim", highlight=False)
    for unit in UNITS:
        all_of_it = [number for number in shown if number.unit == unit]
        reproduced = sum(number.gives(number.recomputed) for number in all_of_it)
        usual = sum(number.gives(number.usual) for number in all_of_it)
        console.print(
            f"{unit}: {reproduced} of {len(all_of_it)} printed numbers are reproduced; {usual} are by the one "
            f"convention of our own tables ({USUAL[unit]}).",
            highlight=False,
        )


def show_block(block: list[PrintedNumber], console: Console) -> None:
    """The numbers of one table in one unit, and why some differ."""
    table, unit = paper.paper_table(block[0].table), block[0].unit
    console.print(f"[bold]Table {table.number}[/], {unit}: {table.caption}", highlight=False)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("row", no_wrap=True)
    grid.add_column("printed", justify="right")
    grid.add_column("recomputed", justify="right")
    grid.add_column("")
    grid.add_column("counted", no_wrap=True)
    for number in block:
        grid.add_row(
            number.row,
            f"{number.printed:.{number.digits}f}",
            f"{number.recomputed:.{number.digits + 2}f}",
            "=" if number.gives(number.recomputed) else "≠",
            number.convention,
        )
    console.print(grid)
    for note in dict.fromkeys(number.note for number in block if number.note):
        labels = ", ".join(number.row for number in block if number.note == note)
        console.print(f"≠ {labels}: {note}", style="dim", highlight=False)
    console.print()


def numbers(table: str, unit: str) -> list[PrintedNumber]:
    """What one of the paper's tables prints in one unit, and what is counted for it; empty if it prints nothing."""
    found = []
    for label, how in PRINTED[table].items():
        row = paper.paper_table(table).row(label)
        printed, convention = (row.gflops, how.macs) if unit == "GFLOPs" else (row.params_m, how.params)
        if printed is None:
            continue
        digits = paper.gflops_digits(printed) if unit == "GFLOPs" else 1
        cost = paper_network_cost(how.backbone, how.se, row.size)
        count, usual = (convention_total(cost, terms) / UNITS[unit] for terms in (convention, USUAL[unit]))
        number = PrintedNumber(table, label, unit, printed, count, convention, usual, digits, how.note)
        found.append(dataclasses.replace(number, note="") if number.gives(count) else number)
    return found


def paper_network_cost(backbone: str, se: SE | None, size: int) -> Cost:
    """Cost of a network on square images; each is counted once, because tables share them."""
    key = (backbone, repr(se), size)
    if key not in COSTS:
        with torch.device("meta"):
            net = models.create(backbone, se, seed=0)
        COSTS[key] = models.cost(net, (3, size, size))
    return COSTS[key]


COSTS: dict[tuple[str, str, int], Cost] = {}


def write_kept(path: Path = cost_in_paper.FILE) -> None:
    """Count what the rows of the lab's own studies of SE cost in the paper's network, and keep it in a file."""
    kept = cost_in_paper.kept_costs()
    kept.clear()
    for name in choices("ablation"):
        if not name.startswith("networks"):
            make_plan(compose([f"+ablation={name}"]))
    path.write_text("{\n" + ",\n".join(f"{json.dumps(asked)}: {json.dumps(kept[asked])}" for asked in kept) + "\n}\n")
