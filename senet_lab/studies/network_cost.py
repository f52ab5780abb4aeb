"""`python -m senet_lab cost …`: what a network costs, stage by stage, without any weights (paper, section 4).

Beside the parameters that are counted stands the paper's closed form (equation 5), 2/r Σ N_s C_s², with N_s blocks of
C_s channels in stage s: it is exact where r divides C and SE has no biases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from senet_lab import models
from senet_lab.config import SE, UserError
from senet_lab.models.gated import Inserted
from senet_lab.naming import Composed
from senet_lab.training import data as images

PAPER_INPUT, PAPER_CLASSES = (3, 224, 224), 1000


def closed_form(gates: list[Inserted], se: SE, available: tuple[int, ...]) -> dict[int, Fraction]:
    """Equation 5 by stage: 2 C² / r, summed over the blocks of the stage that have a gate."""
    ratios = se.by_stage(available)
    sums: dict[int, Fraction] = defaultdict(Fraction)
    for gate in gates:
        assert gate.stage is not None, gate  # stages_of refuses a network that does not tell
        sums[gate.stage] += Fraction(2 * gate.channels**2, ratios[gate.stage])
    return dict(sums)


def show_cost(composed: Composed, words: list[str], console: Console) -> None:
    """Print the cost of the network that the words describe; ImageNet's images if they name no data set.

    Raises:
        UserError: for a network that cannot be built, or is too deep for the size of its images.
    """
    config = composed.config
    if any(word.startswith("data=") for word in words):
        data = images.resolve_data(config.data)
        facts = images.data_facts(data)
        input_size, classes = (facts.channels, data.size, data.size), len(facts.classes)
    else:
        sized = any(word.startswith("data.size=") for word in words)
        size = config.data.size if sized else PAPER_INPUT[1]
        input_size, classes = (3, size, size), PAPER_CLASSES
    try:
        with torch.device("meta"):
            net = models.create(config.backbone, None, classes, in_channels=input_size[0], stride=config.stride, seed=0)
        stages = models.stages_of(net)
        gates = models.with_se(net, config.backbone, config.se)
        cost = models.cost(net, input_size)
    except ValueError as error:
        raise UserError(str(error)) from error
    of_se = config.se is None or config.se.kind == SE().kind
    expected = None if not of_se else closed_form(gates, config.se, stages) if config.se else {}
    name = "SE" if of_se else "gates"
    design = "plain" if config.se is None else f"with {'SE' if of_se else config.se.kind}"
    console.print(
        f"[bold]{config.backbone}[/] {design}, {input_size[0]} × {input_size[1]} × {input_size[2]}", highlight=False
    )
    console.print(cost_table(cost, gates, expected))
    if cost.se_params:
        plain, last = cost.params - cost.se_params, cost.stages[max(cost.stages)].se_params
        console.print(
            f"{'SE adds' if of_se else 'Gates add'} {cost.se_params / plain:.2%} to the plain network's {plain:,} "
            f"parameters; without the last stage {(cost.se_params - last) / plain:.2%}.\n"
            f"Multiply-adds of {name}: layers {cost.fc_macs / 1e6:.3f} M, pooling {cost.pooling_macs / 1e6:.3f} M, "
            f"scaling {cost.scaling_macs / 1e6:.3f} M.",
            highlight=False,
        )
    console.print("All stages and stem and classifier; trainable weights; multiply-adds of one image.", style="dim")


def cost_table(cost: models.Cost, gates: Sequence[Inserted], expected: Mapping[int, Any] | None) -> Table:
    """A line a stage, and one for all; `expected` are the parameters of SE by equation 5, by stage; None for gates of
    another kind."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage")
    closed = ["2/r Σ N C²"] if expected is not None else []
    name = "SE" if closed else "gates"
    for heading in ("blocks\nwith SE", "params", "of SE", *closed, "share\nof SE", "multiply-adds\nM", "of SE\nM"):
        table.add_column(heading.replace("SE", name), justify="right")
    for stage, part in cost.stages.items():
        table.add_row(
            str(stage),
            str(sum(gate.stage == stage for gate in gates)),
            f"{part.params:,}",
            f"{part.se_params:,}",
            *(f"{float((expected or {}).get(stage, 0)):,.0f}" for _ in closed),
            f"{part.se_params / cost.se_params:.1%}" if cost.se_params else "–",
            f"{part.macs / 1e6:,.2f}",
            f"{part.se_macs / 1e6:,.3f}",
        )
    table.add_row(
        "all",
        str(len(gates)),
        f"{cost.params:,}",
        f"{cost.se_params:,}",
        *(f"{float(sum((expected or {}).values())):,.0f}" for _ in closed),
        "100.0%" if cost.se_params else "–",
        f"{cost.macs / 1e6:,.2f}",
        f"{cost.se_macs / 1e6:,.3f}",
        style="bold",
    )
    return table
