"""the store's studies in a browser, by Optuna's dashboard"""

from __future__ import annotations

import argparse

from senet_lab.commands import STORAGE

EXAMPLES = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", default=8080, type=int, help="of this machine (%(default)s; 0 takes a free one)")
    parser.add_argument("--storage", default=STORAGE, help="database URL (%(default)s)")


def main(arguments: argparse.Namespace) -> None:
    from senet_lab.studies import optuna_browser  # SQLAlchemy comes with it

    optuna_browser.serve_dashboard(arguments.storage, arguments.port)
