"""parameters and multiply-adds of a network by stage, without training"""

from __future__ import annotations

import argparse

EXAMPLES = (
    "cost                             the paper's costs, printed and recomputed",
    "cost backbone=resnet50 se.reduction=8",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        help="the network (backbone=… se.reduction=… data.size=…); without any, all that the paper prints of cost "
        "(tables 2, 3, 10, 13, 15 and 16) beside what is counted here",
    )


def main(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    if not arguments.words:
        from senet_lab.studies import paper_costs  # torch comes with it

        paper_costs.show_paper_costs(Console())
        return
    from senet_lab.compose import compose
    from senet_lab.studies import network_cost  # torch comes with it

    network_cost.show_cost(compose(arguments.words), arguments.words, Console())
