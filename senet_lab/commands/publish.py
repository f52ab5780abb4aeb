"""copy finished tables from results/local to where they are committed"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet_lab.commands import path
from senet_lab.commands.table import regenerate
from senet_lab.config import UserError

EXAMPLES = ("publish digits/resnet8-quick/ratio",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("studies", nargs="*", help="folders below results/local; all finished tables if none is named")
    parser.add_argument("--results", default="results/local", type=path, help="where studies were run (%(default)s)")
    parser.add_argument("--to", default="results", type=path, help="where tables are committed (%(default)s)")


def main(arguments: argparse.Namespace) -> None:
    """Copy finished tables: their trials.csv and what was measured once; everything else is made anew from them."""
    from senet_lab.reports import kept_tables
    from senet_lab.reports.cells import COMMANDS, read_cells

    root: Path = arguments.results
    tables = [path for path in root.rglob("trials.csv") if not kept_tables.is_partial(path)]
    finished = sorted(str(path.parent.relative_to(root)) for path in tables)
    names = arguments.studies or finished
    if not names:
        raise UserError(f"there is no finished table below {root}")
    for name in names:
        if str(Path(name)) not in finished:
            raise UserError(f"there is no finished table in {root / name}; there are {', '.join(finished) or 'none'}")
    for name in names:
        kept = kept_tables.make_room(arguments.to / name, read_cells(root / name / "trials.csv")["trial_id"])
        if kept:
            print(f"the table of other trials that was there is kept: {kept}/")
        regenerate(root / name / "trials.csv", arguments.to / name)
        for measured in ("runs.csv", "curves.csv", "rungs.csv", "outputs.npz", COMMANDS):
            if (root / name / measured).is_file():
                (arguments.to / name / measured).write_bytes((root / name / measured).read_bytes())
