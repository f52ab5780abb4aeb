"""every study on one HTML page: tables, interactive plots, filters"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet_lab.commands import STORAGE, path
from senet_lab.config import UserError

EXAMPLES = ("report                           all studies below results/ as one HTML page",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="*", default=[Path("results")], type=path, help="of studies (results)")
    parser.add_argument("--to", default=Path("results/local/report.html"), type=path, help="the page (%(default)s)")
    parser.add_argument(
        "--storage", default=STORAGE, help="database URL of the learning curves that have no file (%(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Write all studies below some folders on one page."""
    from senet_lab import files
    from senet_lab.reports import page, pooled, results
    from senet_lab.studies.store import Store

    try:
        studies = results.finished_studies(arguments.folders)
        if not studies:
            below = ", ".join(map(str, arguments.folders))
            raise UserError(f"there is no study below {below}; python -m senet_lab.run +ablation=NAME trains one")
        lacking = results.without_curves(studies)
        if lacking:
            store = Store(arguments.storage, create=False)
            epochs = {trial_id: record.get("epochs", []) for trial_id, record in store.read(lacking).items()}
            studies = results.with_curves(studies, epochs)
        gates = results.measured_gates(arguments.folders)
        content = page.render_page(studies, gates, pooled.pooled_tables(arguments.folders, studies))
    except ValueError as error:
        raise UserError(str(error)) from error
    if arguments.to.is_dir():
        raise UserError(f"--to: {arguments.to} is a folder, not the name of a page")
    (written,) = files.replace_all(arguments.to.parent, {arguments.to.name: content})
    print(f"written: {written} ({page.count_summary(studies)}; {len(content) / 1e6:.1f} MB)")
