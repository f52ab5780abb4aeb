"""a trained network as ONNX

Writes a trained network as ONNX, compared with the original by onnxruntime on random images. It takes normalised images
and answers with logits; how to normalise, and the classes' names, are in its metadata.
"""

from __future__ import annotations

import argparse

from senet_lab.commands import ABOUT, add_checkpoint, path

EXAMPLES = ("export NET.ckpt --to net.onnx",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("words", nargs="*", metavar="word", help=ABOUT)
    parser.add_argument("--to", type=path, help="file to write to (results/local/export/<name>.onnx)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")


def main(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.export import write  # torch comes with it

    write(arguments)
