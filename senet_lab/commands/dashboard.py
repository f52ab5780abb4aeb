"""a study's W&B workspace and report, as JSON and, with a key, saved"""

from __future__ import annotations

import argparse

from senet_lab.commands import path

EXAMPLES = ("dashboard ratio                  W&B workspace and report, to compare its rows in",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", help="a study's name, or the path of a trials.csv or of its folder")
    parser.add_argument("words", nargs="*", help="the study's overrides (key=value)")
    parser.add_argument("--to", type=path, help="where the JSON is written to (the study's folder in results/local)")


def main(arguments: argparse.Namespace) -> None:
    from senet_lab.studies import wandb_dashboards  # W&B's client comes with it

    wandb_dashboards.make_dashboards(arguments)
