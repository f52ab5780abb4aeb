"""The table of an evaluation: errors of given networks with intervals over images, the paper's rows beside them.

Intervals are those of `crossed` for fixed networks: ± 1.96 √(V / N + 2 / N²), where V is the variance over images and
two images are added, because few errors say little of how many other images would give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console
from rich.table import Table

from senet_lab.outputs import Outputs
from senet_lab.reports.paper import PrintedResult, printed_results

Z = 1.959964  # of a two-sided 95% interval


@dataclass(frozen=True)
class Evaluated:
    """One network on N test images.

    Attributes:
        name: as it was asked for.
        outputs: its first guesses and losses.
        wrong5: whether none of its first five guesses was right, (N,); None where a file of outputs does not say.
        size: side of the input, in pixels; None likewise.
        data: what the images are (`DataFacts.identity`); empty likewise.
        protocol: which part of an image it saw (`transforms.protocol_text`); empty likewise.
    """

    name: str
    outputs: Outputs
    wrong5: np.ndarray[tuple[int], np.dtype[np.bool_]] | None = None
    size: int | None = None
    data: str = ""
    protocol: str = ""


def mean_and_half(outcomes_N: ArrayLike, counted: bool = True) -> tuple[float, float]:
    """The mean over images, and half of its 95% interval; of counted outcomes in percent, one image weighs 100 / N."""
    x = np.asarray(outcomes_N, dtype=float)
    step = 100 / len(x) if counted else 0.0
    return float(x.mean()), Z * math.sqrt(x.var() / len(x) + 2 * step**2)


def evaluation_lines(networks: Sequence[Evaluated]) -> list[dict[str, str]]:
    """Column → text, a line a network; differences are to the first one, image by image."""
    lines = []
    first = 100.0 * ~networks[0].outputs.right
    for place, each in enumerate(networks):
        wrong = 100.0 * ~each.outputs.right
        line = {"network": each.name, "images": str(len(wrong)), "data": each.data, "protocol": each.protocol}
        line |= _cells("top1_error", *mean_and_half(wrong))
        line |= {} if each.wrong5 is None else _cells("top5_error", *mean_and_half(100.0 * each.wrong5))
        line |= _cells("loss", *mean_and_half(each.outputs.loss, counted=False))
        line |= _cells("delta", *mean_and_half(wrong - first)) if place else {}
        lines.append(line)
    return lines


def _cells(name: str, mean: float, half: float) -> dict[str, str]:
    return {name: f"{mean:.4f}", f"{name}_half": f"{half:.4f}"}


def print_evaluation(networks: Sequence[Evaluated], console: Console) -> None:
    """The table on the terminal."""
    heads = {"top1_error": "top-1 error %", "top5_error": "top-5 error %", "loss": "loss (nats)", "delta": "Δ points"}
    lines = evaluation_lines(networks)
    shown = [name for name in heads if any(name in line for line in lines)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("network", overflow="fold")
    for name in shown:
        table.add_column(heads[name], justify="right")
    for line in lines:
        cells = [f"{float(line[n]):.2f} ± {float(line[f'{n}_half']):.2f}" if n in line else "" for n in shown]
        table.add_row(line["network"], *cells)
    console.print(table)
    paired = f"; Δ to {networks[0].name}, paired by image" if len(networks) > 1 else ""
    protocol = next((f", {each.protocol}" for each in networks if each.protocol), "")
    console.print(f"{lines[0]['images']} test images{protocol}; 95% intervals over images{paired}.", soft_wrap=True)
    unsure = ", ".join(each.name for each in networks if not (each.data and each.protocol))
    if unsure and paired:
        said = f"It is not recorded which images {unsure} saw, and which part of each: Δ holds if these are the same."
        console.print(said, soft_wrap=True)


def print_paper(networks: Sequence[Evaluated], console: Console) -> None:
    """Tables 8 and 9 of the paper, and what these networks reach at the same size; rows of others stay empty."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("paper's table", "network", "size", "printed top-1 / top-5 %", "here"):
        table.add_column(head)
    for printed in printed_results():
        here = next((each for each in networks if _is(each, printed)), None)
        found = ""
        if here is not None and here.wrong5 is not None:
            found = f"{100 * float(np.mean(~here.outputs.right)):.2f} / {100 * float(np.mean(here.wrong5)):.2f}"
        sizes, numbers = " or ".join(map(str, printed.sizes)), f"{printed.top1:.2f} / {printed.top5:.2f}"
        table.add_row(str(printed.table), printed.name, sizes, numbers, found)
    console.print(table)


def _is(network: Evaluated, printed: PrintedResult) -> bool:
    """Whether this is the paper's network, at its size, told by its library's name without the tag of its weights."""
    library_name = network.name.partition(":")[2].partition(".")[0]
    return library_name in printed.library_names and network.size in printed.sizes
