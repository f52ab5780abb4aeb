"""write and show a study's table again, without training"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet_lab.config import UserError

EXAMPLES = (
    "table ratio                      from the store, as the study was run by default",
    "table ratio data=cifar10 seeds=5 from the store, for these settings",
    "table +vary=recipe.lr 'levels=[0.05,0.1]'   from the store, of levels without a file",
    "table results/digits/resnet8-quick/ratio/trials.csv",
    "table FILE failures=chance           what failed counts as guessing",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", help="a study's name, +vary=KEY (with levels=[…]), or the path of a trials.csv")
    parser.add_argument("--partial", action="store_true", help="of a study that was stopped: what there is, marked so")
    parser.add_argument("words", nargs="*", help="further trials.csv files, or the study's overrides (key=value)")


def main(arguments: argparse.Namespace) -> None:
    """Tables from files of trials, or one from the store."""
    if not arguments.what.endswith(".csv"):
        from senet_lab.studies.study import table_from_store  # torch comes with it

        named = arguments.what if "=" in arguments.what else f"+ablation={arguments.what}"
        table_from_store([named, *arguments.words], arguments.partial)
        return
    key = "failures="
    texts = [word.removeprefix(key) for word in arguments.words if word.startswith(key)]
    for path in (arguments.what, *(word for word in arguments.words if not word.startswith(key))):
        regenerate(Path(path), Path(path).parent, texts[-1] if texts else None)


def regenerate(source: Path, folder: Path, failures: str | None = None) -> None:
    """Write the table of a trials.csv, or a search's front, into a folder, and show it; `failures` says anew what its
    failed trials are."""
    from rich.console import Console

    from senet_lab.reports import aim, tables
    from senet_lab.reports.curves import read_curves
    from senet_lab.reports.front import is_search

    try:
        trials, known = tables.read_study(source)
        beside = source.with_name("curves.csv")
        curves = read_curves(beside) if beside.is_file() and not is_search(trials) else None
        if failures is not None:
            planned = aim.aim_of(trials)
            if planned.settles and failures != planned.failures:
                raise ValueError(f"failures={failures}: {source} has seeds that settled by failures={planned.failures}")
            trials["failures"] = failures
        tables.write_table(folder, trials, curves=curves, known=known)
        tables.show_table(trials, Console(), known)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"written: {folder}/\n")
