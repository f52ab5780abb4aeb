"""trained or pretrained networks on the test images of a data set, compared image by image

Tests networks by one protocol: the centre of each image, ten crops (data.crops=10), several scales (data.scales=[…]),
at any data.test_size, whatever the size of the training. Errors have intervals over images. What each network made of
each image is kept (outputs.npz), and a later call takes that file in place of a network.
"""

from __future__ import annotations

import argparse

from senet_lab.commands import path

EXAMPLES = (
    "evaluate NET.ckpt data=folder data.root=DIR data.crops=10",
    "evaluate timm:resnet50 timm:seresnet50 --download data=folder data.root=DIR data.test_size=320   image by image",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="+",
        metavar="network|word",
        help="checkpoints, ids of trials of training.keep=last, timm:NAME, torchvision:NAME, or an outputs.npz; the "
        "first is what the others are compared with. Words name the images (data=NAME data.root=DIR "
        "data.test_size=320 …)",
    )
    parser.add_argument("--weights", type=path, help="file of the weights of the timm or torchvision network")
    parser.add_argument("--download", action="store_true", help="fetch their weights that are not in their caches")
    parser.add_argument("--results", type=path, help="where trials were trained (results/local)")
    parser.add_argument("--storage", help="database URL of the records (that of --results)")
    parser.add_argument("--to", type=path, help="where to write to (results/local/evaluation/<first network>)")


def main(arguments: argparse.Namespace) -> None:
    from senet_lab.studies.evaluation import evaluate_networks  # torch comes with it

    evaluate_networks(arguments)
