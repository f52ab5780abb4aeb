"""the gates of a trained network, class by class"""

from __future__ import annotations

import argparse

from senet_lab.commands import add_checkpoint, path

EXAMPLES = (
    "excitation 0123456789abcdef      the gates of a trial trained with training.keep=last",
    "excitation NET.ckpt data=cifar10 data.root=DIR --classes cat dog ship truck",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("words", nargs="*", help="its data set, where no record tells (data=NAME data.root=DIR …)")
    parser.add_argument("--classes", nargs="+", help="names or labels (the paper's four, else four spread evenly)")
    parser.add_argument("--images", default=50, type=int, help="test images of each of them (%(default)s)")
    parser.add_argument("--every-block", action="store_true", help="not only the last SE block of each stage")
    parser.add_argument("--data-root", type=path, help="where the data set lies now")
    parser.add_argument("--to", type=path, help="where to write to (results/local/excitation/<name>)")


def main(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.gate_measurement import measure_gates  # torch comes with it

    measure_gates(arguments)
