"""a data set as a tree of PNGs, which data=folder reads

Writes <DIR>/train/<class>/*.png and <DIR>/val/<class>/*.png, and says by which words data=folder reads them to the same
tensors: data.size and data.resize of the images' own size, so that nothing is resized, their data.mean and data.std
(one number each reads grey images), and data.augment=cifar or crop.
"""

from __future__ import annotations

import argparse

EXAMPLES = ("images cifar10 --root DIR --to cifar10-png",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="name", help="of the data set, as in data=…: cifar10, torchvision:SVHN …")
    parser.add_argument("words", nargs="*", metavar="word", help="data.root=DIR, data.download=true, data.subset=… …")
    parser.add_argument("--to", required=True, help="a new or empty folder", metavar="DIR")
    parser.add_argument("--root", help="the folder that holds the data set (as data.root=…)", metavar="DIR")


def main(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.image_tree import write_image_tree  # torch comes with it

    write_image_tree(arguments)
