"""How fast given networks are tested: evaluation by ten crops, over the bare forward passes of the same crops.

    python -m benchmarks.evaluate --tree DIR/imagenette-160

Both take the same test images, a part of them at a time, in turn. Evaluation is that of `python -m senet_lab evaluate`:
it reads the files, resizes, crops and normalises, and keeps what the network makes of each image. The bare passes have
the same crops in memory, in the same batches. Images are read in the same process, so that their time is counted, too.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import measuring
from benchmarks.measuring import ratio, spread, within
from senet_lab.compose import compose
from senet_lab.studies import evaluation
from senet_lab.studies.evaluation import Prepared
from senet_lab.studies.trained_network import TrainedNetwork
from senet_lab.training import data as images
from senet_lab.training.checkpoints import Description
from senet_lab.training.feeds import FolderFeed
from senet_lab.training.lit import SENet

WORDS = ("data=folder", "data.size=128", "data.resize=144", "data.crops=10", "data.workers=0", "data.validation=0")
# Network → images of a part. The first computes little for an image of this size: reading it counts the more.
NETWORKS = {"mobilenet_050": 100, "resnet18": 25}


def prepared(backbone: str, tree: str, classes: int) -> Prepared:
    """A network with SE, its weights drawn, and the images that it is tested on."""
    reading = compose([*WORDS, f"data.root={tree}"]).config.data
    module = SENet(backbone, {"reduction": 16}, classes=classes)
    return Prepared(backbone, TrainedNetwork(Path(backbone), module, Description(reading, None)), reading, "")


def forward(asked: Prepared, views: list[torch.Tensor]) -> None:
    """The network's passes over views (B, V, C, H, W), and nothing else."""
    with torch.inference_mode():
        for x_BVCHW in views:
            asked.network.module.net(x_BVCHW.flatten(0, 1))


def measured(asked: Prepared, test: FolderFeed, classes: int, rounds: int, count: int) -> list[dict[str, Any]]:
    """One line a measurement: seconds of each way for so many images, after a part that is not counted."""
    lines = []
    asked.network.module.eval()
    for number in range(-1, rounds):
        places = np.arange(max(0, number) * count, (max(0, number) + 1) * count)
        part = FolderFeed(test.files.take(places), asked.reading)
        views = [x for x, _ in part.test_batches(evaluation.BATCH)]
        ways = {
            "evaluation": partial(evaluation.test_network, asked, part, classes, "cpu"),
            "forward passes": partial(forward, asked, views),
        }
        for way in sorted(ways, reverse=number % 2 == 1):
            seconds = measuring.once(ways[way], "cpu")
            if number >= 0:
                lines.append({"network": asked.name, "round": number, "way": way, "images": count, "seconds": seconds})
    return lines


def main(words: list[str] | None = None) -> int:
    made = measuring.arguments(__doc__)
    made.add_argument("--tree", required=True, help="folder of Imagenette's tree (images of 160 pixels)")
    made.add_argument("--rounds", type=int, default=10, help="parts (%(default)s)")
    given = made.parse_args(words)
    if given.short:
        given.rounds = 2
    torch.set_num_threads(1)
    begun = time.process_time()
    splits = images.load_splits(compose([*WORDS, f"data.root={given.tree}"]).config.data)
    listed = time.process_time() - begun
    order = torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(0)).numpy()
    test, classes = FolderFeed(splits.test.files.take(order), splits.test.data), len(splits.classes)
    every, table = [], []
    for name, count in NETWORKS.items():
        print(f"{name} …", file=sys.stderr)
        count = 1 if given.short else count
        lines = measured(prepared(name, given.tree, classes), test, classes, given.rounds, count)
        every += lines
        taken = {way: [e["seconds"] for e in lines if e["way"] == way] for way in ("evaluation", "forward passes")}
        speed = {way: [count / seconds for seconds in each] for way, each in taken.items()}
        shown = {f"{way}, images/s": spread(each, 1) for way, each in speed.items()}
        table.append(
            {
                "network, with SE": name,
                "images": given.rounds * count,
                **shown,
                "time over the passes'": within(ratio(*taken.values())),
            }
        )
    notes = [
        f"Test images of {Path(given.tree).name}, ten crops of 128 pixels each, from 144. Medians over {given.rounds} "
        "parts, 95% intervals by order statistics.",
        "One thread and one process: an image is read, decoded and cropped when it is needed. With data.workers that "
        "is done while the network computes.",
        f"Before the first image the tree is listed and known by its contents: {listed:.2f} s.",
    ]
    measuring.write("evaluate", "Evaluation by ten crops", {"": table}, every, notes, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
