"""`python -m senet_lab excitation …`: measures the gates of a trained network and writes what they say."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console

from senet_lab.config import UserError
from senet_lab.counting import counting
from senet_lab.reports import gate_figures, gate_summary
from senet_lab.studies import class_choice
from senet_lab.studies.plan import device_of
from senet_lab.studies.trained_network import compose_words, network_data, network_of, weights_of
from senet_lab.training import checkpoints, gate_stats
from senet_lab.training import data as images
from senet_lab.training.folder import root_of


def measure_gates(arguments: argparse.Namespace) -> None:
    """Measure the gates of a trained network, and write and show what they say."""
    words = arguments.words + [word for word in arguments.classes or () if "=" in word]
    wanted = [word for word in arguments.classes or () if "=" not in word]
    chosen = compose_words(words, "excitation")
    if arguments.images < 1:
        raise UserError(f"--images: {arguments.images} is not a number of images of at least 1")
    if len(wanted) > gate_figures.MOST:
        raise UserError(f"--classes: {gate_figures.MOST} at most can be told apart in one figure")
    path, record = weights_of(arguments)
    device = device_of(chosen.config.training.device)
    module = network_of(path, chosen, record)
    checkpoints.check_gates(module, path)
    data = network_data(words, chosen, record, arguments.data_root)
    facts = checkpoints.check_fit(module, data)
    test = images.load_splits(data).test
    names = images.names_of(data, facts)
    counts = np.bincount(test.labels_N, minlength=len(names))
    figure = class_choice.choose_classes(wanted or None, names, facts, counts)
    console = Console()
    place = root_of(data).resolve().name if data.name == "folder" else data.name
    title = f"{module.hparams['backbone']}, {place}"
    console.print(f"{title}: gates on {len(test):,} test images", markup=False, highlight=False)
    if record and record["config"]["identity"] not in (facts.identity, facts.earlier):
        console.print("these are not the images that the trial was trained with: names, sizes or contents differ")
    measured = gate_stats.measure(
        module.net.to(device),
        test.batches(64),
        names,
        figure,
        images_a_class=arguments.images,
        every=arguments.every_block,
        report=counting(len(test), "images"),
    )
    folder = arguments.to or (arguments.results or Path("results/local")) / "excitation" / path.stem
    written = gate_figures.write_gates(folder, measured.gates, measured.blocks, title)
    console.print()
    gate_summary.print_gates(gate_summary.summarise_gates(measured.gates, measured.blocks), console)
    console.print(f"\nwritten: {folder}/ ({', '.join(path.name for path in written)})", soft_wrap=True)
