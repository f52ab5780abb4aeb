"""The commands of `python -m senet_lab`: one module each, called as the command is.

A module's docstring is what `--help` says of its command, `EXAMPLES` are its lines there, `add_arguments` declares what
it takes, and `main` does it. Everything heavy is imported in `main`, so that help and typos are answered at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet_lab.files import expand_home

STORAGE = "sqlite:///results/local/lab.db"


def path(text: str) -> Path:
    """A path as it is typed."""
    return Path(expand_home(text))


def add_checkpoint(parser: argparse.ArgumentParser, name: str = "checkpoint") -> None:
    """The arguments that name a trained network."""
    parser.add_argument("what", metavar=name, help="a file, or the id of a trial of training.keep=last")
    parser.add_argument("--results", type=path, help="where it was trained (results/local)")
    parser.add_argument("--storage", help="database URL of the records (that of --results)")


# What a checkpoint that does not say what it was trained on is told by.
ABOUT = "words (data=NAME data.root=DIR …) for checkpoints that do not say what they were trained on"
