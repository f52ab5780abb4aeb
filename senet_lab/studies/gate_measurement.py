"""`python -m senet_lab excitation …`: measures the gates of a trained network and writes what they say."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console

from senet_lab.config import UserError
from senet_lab.counting import counting
from senet_lab.models.gate_factors import all_gates
from senet_lab.reports import gate_figures, gate_summary
from senet_lab.reports import replacement as replacement_report
from senet_lab.studies import class_choice
from senet_lab.studies.plan import device_of
from senet_lab.studies.trained_network import compose_words, network_data, network_of, weights_of
from senet_lab.training import checkpoints, gate_replacement, gate_stats
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


def replace_gates(arguments: argparse.Namespace) -> None:
    """Measure the errors of trained networks with their gates replaced, and write and show them.

    Raises:
        UserError: for a network without gates, one whose gates do not multiply, networks of several data sets or with
            other stages.
    """
    how, words = arguments.replace, [word for word in arguments.words if "=" in word]
    chosen = compose_words(words, "excitation")
    nets = [arguments.what, *(word for word in arguments.words if "=" not in word)]
    console, outcomes, title = Console(), [], ""
    device = device_of(chosen.config.training.device)
    found = [weights_of(argparse.Namespace(**vars(arguments) | {"what": net})) for net in nets]
    folder = arguments.to or (arguments.results or Path("results/local")) / "excitation" / found[0][0].stem
    for path, record in found:
        module = network_of(path, chosen, record)
        if not all_gates(module.net):
            raise UserError(f"the network of {path} has no gates to replace")
        data = network_data(words, chosen, record, arguments.data_root)
        checkpoints.check_fit(module, data)
        splits = images.load_splits(data)
        net = module.net.to(device)
        place = root_of(data).resolve().name if data.name == "folder" else data.name
        title = title or f"{module.hparams['backbone']}, {place}"
        try:
            needed = how in ("mean", "class")
            classes = int(module.hparams["classes"])
            means = gate_replacement.mean_factors(net, splits.train.batches(64), classes) if needed else None
            batches = gate_replacement.in_random_order(splits.test)
            say = counting(len(splits.test), "images")
            outcomes.append(gate_replacement.replaced_outcomes(net, batches, how, means, say))
        except ValueError as error:
            raise UserError(f"--replace: {path}: {error}") from error
        if {*outcomes[-1]} != {*outcomes[0]} or len(outcomes[-1][""]) != len(outcomes[0][""]):
            raise UserError(f"{path} has other stages or test images than {found[0][0]}: they are no seeds of one row")
    summary = replacement_report.summarise_replacement(outcomes)
    written = replacement_report.write_replacement(folder, summary, how, title)
    console.print(
        f"{title}: {len(outcomes[0]['']):,} test images, {len(outcomes)} trained", markup=False, highlight=False
    )
    replacement_report.print_replacement(summary, how, console)
    console.print(f"written: {folder}/ ({', '.join(path.name for path in written)})", soft_wrap=True)
