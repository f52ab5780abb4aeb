"""The role of excitation: the paper's section 7.2, its figures 6 and 7, and its three observations in numbers.

Made from the measured gates alone (a table with one line a block, channel and class), without the network:

- `gates_by_class`: the mean gate of up to 50 evenly spaced channels for a few classes and for all of them (figure 6);
- `gates_within_class`: mean ± standard deviation over the images of one class, for the first two (figure 7);
- `blocks.csv`: for each block how class-specific it is, how saturated, and what removing its stage's SE would save.

What is drawn is what `gates.csv` holds, so that the same file gives the same bytes. Classes are told apart by their
line's dashes, markers and lightness, not only by its colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

ALL = "all classes"  # in place of a class's name: the images of all of them
BOUNDED = ("sigmoid",)  # excitations whose gates lie between 0 and 1
FIGURES = {
    "gates_by_class": "Mean gate by class",
    "gates_within_class": "Gates within a class, mean ± standard deviation",
}


def summarise_gates(gates: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    """The three observations, one line a block.

    Args:
        gates: one line a block, channel and class, as `gates.csv` has it. The lines for `ALL` have, over the images of
            all classes, the shares `high` and `low` and the variances `within` and `between` classes.
        blocks: one line a block, with its stage, squeeze, excitation, stage_se_params and params.

    Returns:
        `blocks` with channels, images, mean (of all gates), within and between (variances, means over the channels),
        specificity (between over within; 0 where sampling alone explains the classes' differences, infinite where
        gates differ between classes only, NaN where images or classes are too few), high and low (shares of the gates
        above 0.95 and below 0.05), and saved_percent (the stage's SE in percent of the network's weights).
    """
    every = gates[gates["class"] == ALL].groupby("block", sort=False)
    summary = blocks.set_index("block").assign(
        channels=every.size(),
        images=every["images"].first(),
        **{name: every[name].mean() for name in ("mean", "within", "between", "high", "low")},
    )
    summary["specificity"] = [_ratio(b, w) for b, w in zip(summary["between"], summary["within"], strict=True)]
    summary["saved_percent"] = 100 * summary["stage_se_params"] / summary["params"]
    return summary.reset_index()


def _ratio(between: float, within: float) -> float:
    if math.isnan(between) or math.isnan(within):
        return math.nan
    between = max(between, 0.0)
    return between / within if within > 0 else math.inf if between > 0 else 0.0


def observations(summary: pd.DataFrame) -> list[str]:
    """A sentence for each of the paper's observations with our numbers, and caveats."""
    first, last = summary.iloc[0], summary.iloc[-1]
    known = summary[summary["specificity"].notna()]
    sentences = []
    if len(known) == 0:
        sentences.append("Class-specific: not to be told from so few images or classes.")
    elif len(summary) == 1:
        sentences.append(
            f"Class-specific: between-class over within-class variance is {_number(first['specificity'])} "
            f"in {first['block']}."
        )
    else:
        values = summary["specificity"].to_numpy()
        most = known.iloc[int(known["specificity"].argmax())]
        course = (
            "it rises from block to block, as in the paper"
            if (np.diff(values) > 0).all()
            else f"it does not rise from block to block; most in {most['block']}, {_number(most['specificity'])}"
        )
        sentences.append(
            f"Class-specific: between-class over within-class variance is {_number(first['specificity'])} in "
            f"{first['block']} and {_number(last['specificity'])} in {last['block']}; {course}."
        )
    saturated = summary["high"] + summary["low"]
    most = summary.iloc[int(saturated.argmax())]
    sentences.append(
        f"Saturated{', most of all' * (len(summary) > 1)}: of the gates of {most['block']}, "
        f"{_percent(most['high'])} are above 0.95 and {_percent(most['low'])} below 0.05."
    )
    where = f"stage {last['stage']}" if pd.notna(last["stage"]) else str(last["block"])
    sentences.append(
        f"Cost: without SE in {where}, the last with any, the network would have {last['stage_se_params']:,} "
        f"parameters fewer, {last['saved_percent']:.2f}% of its {last['params']:,}."
    )
    return sentences + gate_notes(summary)


def gate_notes(summary: pd.DataFrame) -> list[str]:
    """Caveats about these gates."""
    kinds = sorted(set(summary["excitation"]) - set(BOUNDED))
    sentences = []
    if kinds:
        range_of = {
            "softmax": "sum to 1 over the channels",
            "tanh": "lie between -1 and 1",
            "relu": "have no upper end",
        }
        words = ", ".join(f"{kind} gates {range_of.get(kind, 'have another range')}" for kind in kinds)
        sentences.append(f"0.95 and 0.05 are meant for a sigmoid: {words}.")
    still = summary[(summary["within"] == 0) & (summary["between"] == 0)]["block"]
    if len(still):
        sentences.append(f"The same for every image: the gates of {', '.join(still)}, whose hidden layer may be dead.")
    if "none" in set(summary["squeeze"]):
        sentences.append("Nothing is squeezed: a gate is a map over H × W, and its mean stands for it here.")
    return sentences


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


# Head → what stands there of a block.
COLUMNS: dict[str, Callable[[Any], str]] = {
    "block": lambda block: str(block["block"]),
    "channels": lambda block: f"{int(block['channels']):,}",
    "mean gate": lambda block: f"{float(block['mean']):.3g}",
    "between / within": lambda block: _number(block["specificity"]),
    "gates > 0.95": lambda block: _percent(block["high"]),
    "gates < 0.05": lambda block: _percent(block["low"]),
    "SE of the stage": lambda block: f"{int(block['stage_se_params']):,}",
    "of the network": lambda block: f"{float(block['saved_percent']):.2f}%",
}


# --------------------------------------------------------------------------------------------------------------------
# Files and terminal


def read_gates(source: Any) -> pd.DataFrame:
    """The gates in a `gates.csv`."""
    kinds: dict[Any, Any] = {"class": str, "block": str, "stage": "Int64"}
    return pd.read_csv(
        source,
        dtype=kinds,
        keep_default_na=False,
        na_values={name: [""] for name in ("stage", "mean", "sd", "within", "between")},
    )


def print_gates(summary: pd.DataFrame, console: Console) -> None:
    """The observations on the terminal: a table and its reading, no wider than 80 columns."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in COLUMNS:
        first, _, last = head.rpartition(" ")
        table.add_column(f"{first}\n{last}", justify="left" if head == "block" else "right")
    for _, row in summary.iterrows():
        name, *cells = (cell(row) for cell in COLUMNS.values())
        table.add_row(Text(name if len(name) <= 20 else "…" + name[-19:]), *cells)
    console.print(table)
    for sentence in observations(summary):
        console.print(sentence, markup=False, highlight=False, soft_wrap=False)
