"""what a trained network takes images for

Prints the likeliest classes of each image with their probabilities. Images are resized, cut and normalised as in the
test of the network's training.
"""

from __future__ import annotations

import argparse

from senet_lab.commands import ABOUT, add_checkpoint

EXAMPLES = ("predict NET.ckpt photo.jpg FOLDER --json",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument(
        "words", nargs="*", metavar="image", help=f"files; of a folder all images in it, at any depth; {ABOUT}"
    )
    parser.add_argument("--top", default=5, type=int, help="classes to show of each image (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print a list of objects: image, top (class, label, …)")


def main(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.predictions import show_predictions  # torch comes with it

    show_predictions(arguments)
