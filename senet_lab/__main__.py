"""`python -m senet_lab <command>`: what is done with a study's records once it has run.

Training is `python -m senet_lab.run`; nothing here trains, and tables are regenerated without torch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from senet_lab.config import RunError, UserError


class Parser(argparse.ArgumentParser):
    """Bad words are answered with one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (python -m senet_lab --help shows the commands)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Words may also stand behind options, where argparse leaves them over."""
        found, rest = super().parse_known_args(args, namespace)
        if hasattr(found, "words"):
            found.words = [*found.words, *(word for word in rest if not word.startswith("-"))]
            rest = [word for word in rest if word.startswith("-")]
        return found, rest


def parser() -> Parser:
    made = Parser(
        prog="python -m senet_lab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m senet_lab table ratio                      from the store, as the study was run by default\n"
        "  python -m senet_lab table ratio data=cifar10 seeds=5 from the store, for these settings\n"
        "  python -m senet_lab table results/digits/resnet8-quick/ratio/trials.csv\n"
        "  python -m senet_lab cost backbone=resnet50 se.reduction=8\n"
        "  python -m senet_lab publish digits/resnet8-quick/ratio\n"
        "  python -m senet_lab excitation 0123456789abcdef      the gates of a trial trained with training.keep=last\n"
        "  python -m senet_lab excitation NET.ckpt data=cifar10 data.root=DIR --classes cat dog ship truck\n",
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    table = commands.add_parser("table", help="write and show a study's table again, without training")
    table.add_argument("what", help="a study's name, or the path of a trials.csv")
    table.add_argument("words", nargs="*", help="further trials.csv files, or the study's overrides (key=value)")
    table.set_defaults(run=make_tables)
    publish = commands.add_parser("publish", help="copy finished tables from results/local to where they are committed")
    publish.add_argument("studies", nargs="*", help="folders below results/local; all finished tables if none is named")
    publish.add_argument("--results", default="results/local", type=Path, help="where studies were run (%(default)s)")
    publish.add_argument("--to", default="results", type=Path, help="where tables are committed (%(default)s)")
    publish.set_defaults(run=publish_tables)
    cost = commands.add_parser("cost", help="parameters and multiply-adds of a network by stage, without training")
    cost.add_argument("words", nargs="*", help="the network (backbone=… se.reduction=… data.size=…)")
    cost.set_defaults(run=show_cost)
    excitation = commands.add_parser("excitation", help="the gates of a trained network, class by class")
    excitation.add_argument("what", help="a checkpoint, or the id of a trial that was trained with training.keep=last")
    excitation.add_argument("words", nargs="*", help="its data set, where no record tells (data=NAME data.root=DIR …)")
    excitation.add_argument("--classes", nargs="+", help="names or labels (the paper's four, else four spread evenly)")
    excitation.add_argument("--images", default=50, type=int, help="test images of each of them (%(default)s)")
    excitation.add_argument("--every-block", action="store_true", help="not only the last SE block of each stage")
    excitation.add_argument("--data-root", type=Path, help="where the data set lies now")
    excitation.add_argument("--results", type=Path, help="where it was trained (results/local)")
    excitation.add_argument("--storage", help="database URL of the records (that of --results)")
    excitation.add_argument("--to", type=Path, help="where to write to (results/local/excitation/<name>)")
    excitation.set_defaults(run=draw_excitation)
    store = commands.add_parser("store", help="delete single records, so that their trials are trained again")
    store.add_argument("action", choices=["forget"])
    store.add_argument("trial_ids", nargs="+", metavar="trial_id")
    store.add_argument("--storage", default="sqlite:///results/local/lab.db", help="database URL (%(default)s)")
    store.set_defaults(run=forget_records)
    return made


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code: 0, 1 where it failed, 2 for bad input."""
    try:
        arguments = parser().parse_args(argv)
        arguments.run(arguments)
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def make_tables(arguments: argparse.Namespace) -> None:
    """Tables from files of trials, or one from the store."""
    if not arguments.what.endswith(".csv"):
        from senet_lab.studies.study import table_from_store  # torch comes with it

        table_from_store([f"+ablation={arguments.what}", *arguments.words])
        return
    for path in (arguments.what, *arguments.words):
        regenerate(Path(path), Path(path).parent)


def regenerate(source: Path, folder: Path) -> None:
    """Write the table of a trials.csv, or a search's front, into a folder, and show it."""
    from rich.console import Console

    from senet_lab.reports import fronts, tables

    try:
        trials = tables.read_trials(source)
        report = fronts if fronts.is_search(trials) else tables
        report.write(folder, trials)
        report.show(trials, Console())
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"written: {folder}/\n")


def publish_tables(arguments: argparse.Namespace) -> None:
    """Copy finished tables: their trials.csv, runs.csv and a search's curves; everything else made anew from them."""
    root: Path = arguments.results
    names = arguments.studies or sorted(str(path.parent.relative_to(root)) for path in root.rglob("trials.csv"))
    if not names:
        raise UserError(f"there is no finished table below {root}")
    for name in names:
        source = root / name
        if not (source / "trials.csv").is_file():
            finished = sorted(str(path.parent.relative_to(root)) for path in root.rglob("trials.csv"))
            raise UserError(f"there is no finished table in {source}; there are {', '.join(finished) or 'none'}")
    for name in names:
        regenerate(root / name / "trials.csv", arguments.to / name)
        for measured in ("runs.csv", "curves.csv", "rungs.csv"):
            if (root / name / measured).is_file():
                (arguments.to / name / measured).write_bytes((root / name / measured).read_bytes())


def draw_excitation(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.excitation import draw  # torch comes with it

    draw(arguments)


def show_cost(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from senet_lab.compose import compose
    from senet_lab.studies import costing  # torch comes with it

    costing.show(compose(arguments.words), arguments.words, Console())


def forget_records(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.store import DONE, FAILED, Store

    gone = Store(arguments.storage, create=False).forget(arguments.trial_ids, (DONE, FAILED))
    if gone == 0:
        raise UserError(f"{arguments.storage} has no record of {', '.join(arguments.trial_ids)}")
    print(f"{gone} record{'s' * (gone > 1)} deleted; the studies that need them will train them again")


if __name__ == "__main__":
    sys.exit(main())
