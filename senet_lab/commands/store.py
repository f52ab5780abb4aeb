"""whether the store is whole; its records elsewhere, or no more"""

from __future__ import annotations

import argparse

from senet_lab.commands import STORAGE, path
from senet_lab.config import UserError

EXAMPLES = (
    "store import results/digits/resnet8-quick/*/trials.csv   to train them no more",
    "store copy sqlite:///results/local/lab.db postgresql+psycopg://user@host/lab",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="action", parser_class=type(parser))
    check = actions.add_parser("check", help="read every record, and say what is wrong")
    copy = actions.add_parser("copy", help="add the records of one store to another one")
    copy.add_argument("source", metavar="from", help="database URL")
    copy.add_argument("target", metavar="to", help="database URL")
    export = actions.add_parser("export", help="every record as a line of a CSV file, compressed where it ends in .xz")
    export.add_argument("path", metavar="FILE.csv", type=path)
    take = actions.add_parser("import", help="add the records of CSV files: exports, or the trials.csv of studies")
    take.add_argument("paths", metavar="FILE.csv", nargs="+", type=path)
    forget = actions.add_parser("forget", help="delete single records, so that their trials are trained again")
    forget.add_argument("trial_ids", nargs="+", metavar="trial_id")
    for action in (check, export, take, forget):
        action.add_argument("--storage", default=STORAGE, help="database URL (%(default)s)")


def main(arguments: argparse.Namespace) -> None:
    from senet_lab.studies import store_check, transfer  # SQLAlchemy and Optuna come with it

    match arguments.action:
        case "check":
            store_check.check_store(arguments.storage)
        case "copy":
            transfer.copy(arguments.source, arguments.target)
        case "export":
            transfer.export_csv(arguments.storage, arguments.path)
        case "import":
            transfer.read_in(arguments.storage, arguments.paths)
        case "forget":
            forget(arguments.storage, arguments.trial_ids)


def forget(url: str, trial_ids: list[str]) -> None:
    """Delete records that have ended.

    Raises:
        UserError: where there is none of them.
    """
    from senet_lab.studies.store import DONE, FAILED, Store

    deleted = Store(url, create=False).forget(trial_ids, (DONE, FAILED))
    if deleted == 0:
        raise UserError(f"{url} has no record of {', '.join(trial_ids)}")
    print(f"{deleted} record{'s' * (deleted > 1)} deleted; the studies that need them will train them again")
