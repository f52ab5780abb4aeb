"""`python -m senet_lab evaluate …`: given networks on the test images of one data set (paper, section 5.4)."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from senet_lab import files, outputs
from senet_lab.config import Data, UserError, first_line
from senet_lab.counting import counting
from senet_lab.models.library import check_name, library_of, network_names
from senet_lab.models.library_weights import NotHereError, published, read_published, torchvision_weights
from senet_lab.models.state_dicts import state_dict_in, without_prefixes
from senet_lab.naming import Composed
from senet_lab.outputs import Outputs
from senet_lab.reports.evaluation import Evaluated, evaluation_lines, print_evaluation, print_paper
from senet_lab.studies.plan import device_of
from senet_lab.studies.trained_network import (
    TrainedNetwork,
    compose_words,
    fields_of,
    is_word,
    load_trained,
    names_data,
)
from senet_lab.training import checkpoints
from senet_lab.training import data as images
from senet_lab.training.checkpoints import READING, Description
from senet_lab.training.feeds import Feed
from senet_lab.training.gate_stats import evaluating
from senet_lab.training.lit import SENet, top5_hits
from senet_lab.training.transforms import protocol_text

BATCH = 64
IMAGENET_CLASSES = 1000
EVALUATION = "evaluation.csv"


def evaluate_networks(arguments: argparse.Namespace) -> None:
    """Test the networks, print their table and write what each made of each image.

    Raises:
        UserError: for a network that is not there or does not fit the images, and for networks that are tested on
            other images or by another protocol.
    """
    words = [word for word in arguments.words if is_word(word)]
    names = [word for word in arguments.words if word not in words]
    chosen = compose_words(words, "evaluate")
    if not names or len({*names}) < len(names):
        raise UserError("evaluate takes networks, each once: checkpoints, timm:NAME, torchvision:NAME or outputs.npz")
    named = [name for name in names if library_of(name)]
    if arguments.weights and len(named) != 1:
        raise UserError("--weights: the file of one timm:NAME or torchvision:NAME; there are several or none")
    if any(not name.endswith(".npz") for name in names) and not names_data(words):
        raise UserError("evaluate: on which images? name their data set (data=folder data.root=DIR …)")
    asked: list[Evaluated | Prepared] = []
    for name in names:
        asked += kept_outputs(name) if name.endswith(".npz") else [prepare(arguments, name, words, chosen)]
    check_alike(asked)  # before the first image
    device = device_of(chosen.config.training.device)
    networks = [run_test(each, device) if isinstance(each, Prepared) else each for each in asked]
    for other in networks:
        if len(other.outputs.right) != len(networks[0].outputs.right):
            raise UserError(f"{other.name} and {networks[0].name} were tested on different numbers of images")
    console = Console(markup=False, highlight=False, emoji=False)
    print_evaluation(networks, console)
    if any(each.size for each in networks) and chosen.config.data.name == "folder":
        facts = images.data_facts(images.resolve_data(chosen.config.data))
        if len(facts.classes) == IMAGENET_CLASSES:
            print_paper(networks, console)
    stem = names[0].replace(":", "_") if names[0] in named else Path(names[0]).stem
    folder = arguments.to or (arguments.results or Path("results/local")) / "evaluation" / stem
    written = write_evaluation(folder, networks)
    console.print(f"written: {folder}/ ({', '.join(path.name for path in written)})", soft_wrap=True)


def write_evaluation(folder: Path, networks: Sequence[Evaluated]) -> list[Path]:
    """Write `EVALUATION` and `outputs.npz` into a folder, both or none."""
    lines = evaluation_lines(networks)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    packed = {each.name: each.outputs.packed() for each in networks}
    kept = outputs.file_bytes(packed, len(networks[0].outputs.right))
    return files.replace_all(folder, {EVALUATION: out.getvalue().encode(), outputs.FILE: kept})


def kept_outputs(name: str) -> list[Evaluated]:
    """What an earlier evaluation, which says on which images and by which protocol, or a study has kept of its
    networks."""
    beside, known = Path(name).with_name(EVALUATION), {}
    if beside.is_file():
        with beside.open(newline="", encoding="utf-8") as file:
            known = {line["network"]: line for line in csv.DictReader(file) if line.get("network")}
    try:
        found = outputs.read_file(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    told = {network: [known.get(network, {}).get(column) or "" for column in ("data", "protocol")] for network in found}
    return [Evaluated(name, one, data=told[name][0], protocol=told[name][1]) for name, one in found.items()]


@dataclass(frozen=True)
class Prepared:
    """A network that is to be tested.

    Attributes:
        name: as it was asked for.
        network: with its weights.
        reading: the test images, and how they are read.
        data: what they are (`DataFacts.identity`).
    """

    name: str
    network: TrainedNetwork
    reading: Data
    data: str

    @property
    def protocol(self) -> str:
        return protocol_text(self.reading)


def check_alike(asked: Sequence[Evaluated | Prepared]) -> None:
    """A UserError for networks that cannot be compared image by image: tested on other images or in another way."""
    first = asked[0]
    for other in asked[1:]:
        if other.data and first.data and other.data != first.data:
            raise UserError(f"{other.name} and {first.name} were not tested on the same images")
        if other.protocol and first.protocol and other.protocol != first.protocol:
            raise UserError(
                f"{other.name} is tested on {other.protocol}, and {first.name} on {first.protocol}: data.test_size, "
                "data.resize, data.crops and data.scales make them alike"
            )


def prepare(arguments: argparse.Namespace, name: str, words: Sequence[str], chosen: Composed) -> Prepared:
    """One network and the test images of the words' data set, which are read as the network reads images where the
    words do not say it."""
    if library_of(name):
        network, reading = library_network(name, arguments.weights, arguments.download)
    else:
        network = load_trained(argparse.Namespace(**vars(arguments) | {"what": name}), [], chosen)
        reading = network.description.reading
    data = chosen.config.data
    if data.name == "folder":
        own = {field: getattr(reading, field) for field in READING}
        if any(field in fields_of(words, data) for field in ("size", "test_size", "scales")):
            own.pop("resize")  # belongs to the network's own size
        data = replace(data, **own | fields_of(words, data))
    data = images.resolve_data(data).tested
    if isinstance(network.module, SENet):
        checkpoints.check_fit(network.module, data)
    images.check_files(data)
    tested_on = images.data_facts(replace(data, validation=0.0)).identity  # which does not depend on the split
    return Prepared(name, network, data, tested_on)


def run_test(asked: Prepared, device: str) -> Evaluated:
    """What the network makes of each test image, in their order."""
    splits = images.load_splits(asked.reading, device=device)
    try:
        return test_network(asked, splits.test, len(splits.classes), device)
    finally:
        splits.close()


def test_network(asked: Prepared, test: Feed, classes: int, device: str) -> Evaluated:
    """What the network makes of each of these images of so many classes, in their order."""
    report, done = counting(len(test), "images"), 0
    parts: list[list[np.ndarray]] = []
    wrong5: list[np.ndarray] = []
    module = asked.network.module.to(device)
    with torch.inference_mode(), evaluating(module):
        for x, y_B in test.test_batches(BATCH):
            logits_BK = asked.network.logits(x.to(device)).float()
            if logits_BK.shape[1] != classes:
                where = asked.reading.root
                raise UserError(f"{asked.name} tells {logits_BK.shape[1]:,} classes apart; {where} has {classes:,}")
            y_B = y_B.to(device)
            hits = top5_hits(logits_BK, y_B)
            loss_B = F.cross_entropy(logits_BK, y_B, reduction="none")
            parts.append([torch.stack([hits[:, 0].float(), loss_B]).cpu().numpy()])
            wrong5.append((~hits.any(1)).cpu().numpy())
            done += len(y_B)
            report(done)
    one: Outputs = outputs.merge_batches([[part for (part,) in parts]])
    return Evaluated(asked.name, one, np.concatenate(wrong5), asked.reading.size, asked.data, asked.protocol)


class AveragingViews(nn.Module):
    """A network of a library, with the mean over views that ours has."""

    over_views = SENet.over_views

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        logits_BK: torch.Tensor = self.net(x_BCHW)
        return logits_BK


def library_network(named: str, weights: Path | None, download: bool) -> tuple[TrainedNetwork, Data]:
    """A network as timm or torchvision build it, with the weights of a file or else the library's own, which are
    fetched with consent alone, and how it reads an image.

    Raises:
        UserError: for an unknown name, and weights that cannot be had or do not fit.
    """
    import timm
    import torchvision
    from timm.data.config import resolve_data_config

    library, _, name = named.partition(":")
    try:
        own = published(library, name, "evaluate") if weights is None else None
        network = own.network if own else name.partition(".")[0]  # a tag of weights may follow
        check_name("evaluate", library, network, network_names(library))
        state = read_published(own, download, "evaluate") if own else None
    except NotHereError as error:
        raise UserError(f"{error}; --download fetches them, --weights FILE gives a file") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        if library == "timm":
            net = timm.create_model(name, pretrained=False)
            if state is not None:
                net.load_state_dict(state)
            given = resolve_data_config({}, model=net)  # type: ignore[no-untyped-call]
            size, mean, std = given["input_size"][1], list(given["mean"]), list(given["std"])
            resize = max(size, round(size / given["crop_pct"]))
        else:
            given = torchvision_weights(own) if own else None  # in the cache now; they decide how some are built, too
            net = torchvision.models.get_model(network, weights=given)
            size, resize, mean, std = 224, 0, [], []
            if given:
                shown = given.transforms()
                size, resize, mean, std = shown.crop_size[0], shown.resize_size[0], list(shown.mean), list(shown.std)
        if weights is not None:
            given_state, _ = state_dict_in(weights)
            net.load_state_dict(without_prefixes(given_state, net.state_dict()))
    except Exception as error:  # of a missing file, a network that cannot be reached, keys that differ: no common class
        raise UserError(f"{named} has no weights here ({first_line(error)}); --weights FILE gives a file") from error
    reading = Data(name="folder", size=size, resize=resize, mean=mean, std=std)
    return TrainedNetwork(weights or Path(name), AveragingViews(net), Description(reading, None)), reading
