"""the same rows of several data sets, networks and recipes side by side, and pooled

Writes `pooled.md`, `.csv`, `.tex` and a forest plot of each study that stands in two settings or more: each Δ with its
interval, the mean over settings, and where the Δ of a new setting is to be expected.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet_lab.commands import path
from senet_lab.config import UserError

EXAMPLES = ("pool results/*/*/excitation      one study in several settings: forest plot, pooled Δ, prediction",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="*", default=[Path("results")], type=path, help="of studies (results)")
    parser.add_argument(
        "--to",
        default=Path("results/local/pooled"),
        type=path,
        help="a folder for each study is made there (%(default)s)",
    )


def main(arguments: argparse.Namespace) -> None:
    """Pool, show and write."""
    from rich.console import Console

    from senet_lab.reports import pooled, render
    from senet_lab.reports.pool_figures import write_pooled

    try:
        folders = [each.parent if each.name == "trials.csv" else each for each in arguments.folders]
        tables = pooled.pooled_tables(folders)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not tables:
        below = ", ".join(map(str, arguments.folders))
        raise UserError(f"nothing to pool: no study below {below} stands in two settings with the same row")
    for table in tables:
        render.print_table(table, Console())
        folder = arguments.to / (table.study + "-loss" * (table.aim.metric == "loss"))
        write_pooled(folder, table)
        print(f"written: {folder}/\n")
