"""the gates of a trained network, class by class; and what they are worth"""

from __future__ import annotations

import argparse

from senet_lab.commands import add_checkpoint, path

EXAMPLES = (
    "excitation 0123456789abcdef      the gates of a trial trained with training.keep=last",
    "excitation NET.ckpt NET2.ckpt --replace mean      errors with the gates replaced, stage by stage",
    "excitation NET.ckpt data=cifar10 data.root=DIR --classes cat dog ship truck",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("words", nargs="*", help="its data set, where no record tells (data=NAME data.root=DIR …)")
    parser.add_argument(
        "--replace",
        choices=("one", "mean", "class", "shuffled"),
        help="errors with each gate replaced: by 1, its mean over the training images, the mean of its class (an "
        "oracle), or another image's; of several checkpoints (seeds) together",
    )
    parser.add_argument("--classes", nargs="+", help="names or labels (the paper's four, else four spread evenly)")
    parser.add_argument("--images", default=50, type=int, help="test images of each of them (%(default)s)")
    parser.add_argument(
        "--every-block",
        action="store_true",
        help="not only the last SE block of each stage (and the last three of all)",
    )
    parser.add_argument("--data-root", type=path, help="where the data set lies now")
    parser.add_argument("--to", type=path, help="where to write to (results/local/excitation/<name>)")


def main(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.gate_measurement import measure_gates, replace_gates  # torch comes with it

    (replace_gates if arguments.replace else measure_gates)(arguments)
