"""a search of every design as a benchmark: what it can tell, and files for other tools

A benchmark answers in place of a training: from Python, lab.bench(NAME) queries it, replays searches on it, and is an
objective of Optuna's.
"""

from __future__ import annotations

import argparse

from senet_lab.commands import path

EXAMPLES = (
    "bench digits-resnet8             how far a benchmark tells designs apart",
    "bench FOLDER --to DIR            of a search with search.sampler=enumerate: parquet and JSON",
    "bench FOLDER --syne-tune DIR     the same as a blackbox of syne-tune; --optunahub DIR for OptunaHub",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="name", help="of a benchmark, or the folder of a search of every design")
    parser.add_argument("--to", type=path, metavar="DIR", help="write trials.parquet, curves.parquet and bench.json")
    parser.add_argument("--syne-tune", type=path, metavar="DIR", help="write the six files of a tabular blackbox")
    parser.add_argument("--optunahub", type=path, metavar="DIR", help="write a package of OptunaHub's registry")


def main(arguments: argparse.Namespace) -> None:
    """Show, and write what is asked for."""
    from rich.console import Console
    from rich.table import Table

    from senet_lab.studies import bench_files

    bench = bench_files.open_bench(arguments.what)
    console = Console()
    facts = bench.trials.iloc[0]
    console.print(
        f"{bench.name}: {len(bench.labels)} designs of {facts['backbone']} on {facts['data']}, "
        f"{len(bench.seeds)} seeds, {bench.epochs} epochs",
        highlight=False,
    )
    shown = Table("result", box=None, pad_edge=False)
    for name in ("sd over seeds", "reliability", "of one seed", "noise ceiling", "better half"):
        shown.add_column(name, justify="right")
    for line in bench.trust().to_dict("records"):
        shown.add_row(*(each if isinstance(each, str) else f"{each:.3g}" for each in line.values()))
    console.print(shown)
    console.print(
        "reliability: the share of the variance of the means over the seeds that is between designs; noise ceiling: "
        "their correlation with the designs' true values; better half: reliability of the better designs alone.",
        highlight=False,
    )
    for folder, write in (
        (arguments.to, bench_files.write_bench),
        (arguments.syne_tune, bench_files.write_syne_tune),
        (arguments.optunahub, bench_files.write_optunahub),
    ):
        if folder is not None:
            write(bench, folder)
            print(f"written: {folder}/")
