"""Which sampler finds a front with the fewest trainings? Searches replayed on a table of every design; nothing trains.

    python -m benchmarks.samplers results/digits/resnet8-tabular/tabular
    python -m benchmarks.samplers FOLDER --samplers random nsga2 tpe gp --seeds 20 --trials 100

The folder is what a search with `search.sampler=enumerate` has left: its `trials.csv` says what every design came to,
as a mean over its seeds. Each sampler is asked as a search asks it, for each seed of its own, and told what the table
says. A search replaces a known proposal by a neighbour of the front, so there are two controls: such neighbours alone
(`local`), and each sampler alone, without them. Shown are the share of the hypervolume of the table's own front after
so many designs, and after how many a sampler has as much as random search with the same seed has after all of them: the
median over the seeds and its 95% interval by order statistics. Written beside the trials: `samplers.md`, `samplers.csv`
and `samplers.svg`, `.png`, in which samplers that are not asked for now stay as they were.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks import measuring
from senet_lab import files
from senet_lab.config import Search
from senet_lab.reports import pareto
from senet_lab.reports.drawing import figure_files
from senet_lab.reports.statistics import reliability
from senet_lab.reports.trials import read_trials
from senet_lab.studies.designs_table import AGAIN, ALONE, DesignsTable, read_designs
from senet_lab.studies.halving import Halving
from senet_lab.studies.proposals import Proposer
from senet_lab.studies.space import Candidate

Array = NDArray[np.float64]
COLOURS = {"random": "0.5", "local": "0", "nsga2": "#0072B2", "tpe": "#D55E00", "gp": "#009E73"}


def play_halving(
    table: DesignsTable,
    curves: pd.DataFrame,
    sampler: str,
    seed: int,
    trials: int,
    pending: int,
    rungs: Sequence[int],
    keep: float,
) -> tuple[Array, Array]:
    """A search by successive halving: epochs spent when each design was complete, and the share of hypervolume then.

    Args:
        curves: what designs are compared by, by row's label and epoch, means over the seeds.
        rungs: where trainings stop.
        keep: share of the designs at a rung that goes on.
    """
    first = [table.cheapest]
    asker = Proposer(table.space, sampler, seed, len(table.objectives), trials, trials, first)
    halving = Halving(asker, rungs, keep, cost=lambda design: table.values[design][-1], pending=pending, whole=first)
    come: dict[Candidate, int] = {}
    spent, complete = [], []
    while (job := halving.next()) is not None:
        values = list(table.values[job.design])
        if job.epochs is not None:
            values[0] = float(curves.loc[table.rows[job.design], job.epochs])
        come[job.design] = job.epochs or table.epochs
        if job.epochs is None:
            spent.append(sum(come.values()))
            complete.append(job.design)
        halving.ended(job, values[0], values)
    return np.array(spent, dtype=float), table.shares(complete)


def halving_text(table: DesignsTable, curves: pd.DataFrame, played: pd.DataFrame, given: argparse.Namespace) -> str:
    """What successive halving saves, as Markdown: epochs to the same hypervolume, with and without, paired by seed."""
    share = played.pivot(index=["sampler", "seed"], columns="designs", values="share")
    last = share.columns.max()
    sampler = given.samplers[0]
    with_, without, ratios = [], [], []
    for seed in range(given.seeds):
        target = share.loc[("random", seed), last]
        plain = table.epochs * needed(share.loc[(sampler, seed)].to_numpy(), target)
        asked, rungs, keep = 10 * given.trials, given.rungs, given.keep
        spent, found = play_halving(table, curves, sampler, seed, asked, given.pending, rungs, keep)
        at = needed(found, target)
        epochs = spent[int(at) - 1] if np.isfinite(at) else np.inf
        with_.append(epochs)
        without.append(plain)
        ratios.append(epochs / plain if np.isfinite(plain) else np.nan)
    middle, low, high = measuring.median_interval([ratio for ratio in ratios if not np.isnan(ratio)])
    return (
        f"\n## Successive halving, rungs at {', '.join(map(str, given.rungs))} of {table.epochs} epochs, "
        f"{given.keep:.2g} of the designs go on\n\n"
        f"Epochs until {sampler} equals random search's {last} designs, medians over {given.seeds} seeds: "
        f"{np.median(without):.0f} without, {np.median(with_):.0f} with; paired ratio {middle:.2f} "
        f"[{low:.2f}, {high:.2f}].\n"
    )


def needed(share: Array, target: float) -> float:
    """How many designs it takes to reach a share; infinite if all of them do not."""
    reached = np.flatnonzero(share >= target - 1e-12)
    return float(reached[0] + 1) if len(reached) else np.inf


def compare(table: DesignsTable, samplers: Sequence[str], seeds: int, trials: int, pending: int) -> pd.DataFrame:
    """One line a sampler, seed and number of designs: `share` of the hypervolume, as precise as it is written; and what
    it took beside trainings."""
    lines = []
    beside = [name for sampler in samplers for name in (sampler, sampler + ALONE)]
    for sampler in dict.fromkeys(["random", "local", *beside]):
        for seed in range(seeds):
            asked, asker = table.play(sampler, seed, trials, pending)
            assert len(set(asked)) == len(asked), "a design was trained twice"
            share = table.shares(asked)
            again = {"duplicates": asker.duplicates, "drawn": asker.drawn}
            lines += [
                {"sampler": sampler, "seed": seed, "designs": at, "share": round(float(value), 6), **again}
                for at, value in enumerate(share, start=1)
            ]
            print(f"\r{sampler}, seed {seed + 1} of {seeds}   ", end="", file=sys.stderr)
    print(file=sys.stderr)
    return pd.DataFrame(lines)


def others(path: Path, played: pd.DataFrame) -> pd.DataFrame:
    """What samplers that are not played now have played before, for as many seeds and designs: `gp` takes hours."""
    if not path.is_file():
        return played[:0]
    known = pd.read_csv(path)
    alike = (known["seed"].nunique(), known["designs"].max()) == (played["seed"].nunique(), played["designs"].max())
    return known[alike & ~known["sampler"].isin(played["sampler"])]


def table_text(table: DesignsTable, played: pd.DataFrame, pending: int) -> str:
    """What the comparison says, as Markdown."""
    trials, seeds = int(played["designs"].max()), played["seed"].nunique()
    places = [place for place in (10, 20, 40, 60, 100) if place <= trials]
    share = played.pivot(index=["sampler", "seed"], columns="designs", values="share")
    lines = [
        "# How many designs a sampler needs",
        "",
        "| sampler | "
        + " | ".join(f"share after {place}" for place in places)
        + f" | designs to equal random's {trials} "
        "| asked twice | drawn |",
        "| --- | " + " | ".join("---:" for _ in places) + " | ---: | ---: | ---: |",
    ]
    for sampler in dict.fromkeys(played["sampler"]):
        own = share.loc[sampler]
        took = [needed(own.loc[seed].to_numpy(), share.loc[("random", seed), trials]) for seed in own.index]
        middle, low, high = measuring.median_interval(took)
        spent = played[played["sampler"] == sampler].groupby("seed")[["duplicates", "drawn"]].first().median()
        cells = [f"{own[place].median():.2%}" for place in places]
        cells += [f"{number(middle, trials)} [{number(low, trials)}, {number(high, trials)}]"]
        cells += [f"{spent['duplicates']:.0f}", f"{spent['drawn']:.0f}"]
        lines.append(f"| {sampler} | " + " | ".join(cells) + " |")
    whole = reliability(table.errors)
    means = table.errors.mean(axis=1)
    better = reliability(table.errors[means <= np.median(means)])
    designs, repeats = table.errors.shape
    points = np.array(list(table.values.values()))
    lines += [
        "",
        f"- {designs} designs, {', '.join(table.objectives)}; {pareto.on_front(points).sum()} of them are the "
        f"table's front. Medians over {seeds} seeds of the sampler; in brackets the 95% interval of the median by "
        "order statistics, paired: each seed against random search with the same seed.",
        f"- {pending} designs are in training at a time. Designs trained twice: 0. *Asked twice*: proposals of a "
        "design that was known, which cost nothing; *drawn*: designs drawn in place of such a proposal, which differ "
        "in one level from one of the front, or are any where there is none. *local* draws all designs so. A sampler "
        f"*alone* is asked up to {AGAIN} times in a row; then any design is drawn, next to the front or not.",
        f"- Reliability of the mean of {repeats} seeds: {whole:.2f} of its variance is between designs"
        + (" (below 0.5: this table is more chance than design)." if whole < 0.5 else ".")
        + f" Designs that hardly learn make much of it: among the better half alone it is {better:.2f}.",
    ]
    return "\n".join(lines) + "\n"


def number(value: float, most: int) -> str:
    return f"{value:.0f}" if np.isfinite(value) else f"> {most}"


def render(played: pd.DataFrame) -> dict[str, bytes]:
    """The figure's files: hypervolume against designs, median and quartiles of each sampler."""

    def draw() -> Figure:
        figure = Figure(figsize=(5.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for sampler, own in played.groupby("sampler", sort=False):
            spread = own.groupby("designs")["share"].quantile([0.25, 0.5, 0.75]).unstack() * 100
            colour, alone = COLOURS.get(str(sampler).removesuffix(ALONE)), str(sampler).endswith(ALONE)
            axes.plot(spread.index, spread[0.5], label=str(sampler), color=colour, linestyle="--" if alone else "-")
            if not alone:
                axes.fill_between(spread.index, spread[0.25], spread[0.75], color=colour, alpha=0.15, linewidth=0)
        low = played.loc[played["designs"] == 5, "share"].median() * 100 if played["designs"].max() > 5 else 0
        axes.set_ylim(max(0.0, low), 100.5)
        axes.set_xlabel("designs trained")
        axes.set_ylabel("share of the front's hypervolume (%)")
        axes.legend(frameon=False, loc="lower right")
        return figure

    made = figure_files(draw, "samplers")
    return {name: made[name] for name in ("samplers.svg", "samplers.png")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a search that trained every design")
    parser.add_argument("--samplers", nargs="+", default=["nsga2", "tpe"], help="beside random (%(default)s)")
    parser.add_argument(
        "--objective", choices=["val_error", "val_loss"], help="instead of the search's first; prints, writes nothing"
    )
    parser.add_argument("--seeds", type=int, default=20, help="of each sampler (%(default)s)")
    parser.add_argument("--trials", type=int, default=100, help="designs of each search (%(default)s)")
    parser.add_argument("--rungs", type=int, nargs="+", help="replay successive halving, too, with these rungs")
    parser.add_argument("--keep", type=float, default=Search().keep, help="share that goes on (%(default)s)")
    parser.add_argument("--pending", type=int, default=Search().pending, help="in training at a time (%(default)s)")
    given = parser.parse_args()
    try:
        trials = read_trials(given.folder / "trials.csv")
        table = read_designs(trials)
        if given.objective:
            table = read_designs(trials, [given.objective, *table.objectives[1:]])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    played = compare(table, given.samplers, given.seeds, given.trials, given.pending)
    if not given.objective:
        played = pd.concat([played, others(given.folder / "samplers.csv", played)], ignore_index=True)
    text = table_text(table, played, given.pending)
    if given.rungs:
        curves = pd.read_csv(given.folder / "curves.csv")
        means = curves.pivot_table(index="row", columns="epoch", values=table.objectives[0])
        text += halving_text(table, means, played, given)
    print(text)
    if given.objective:
        return 0
    lines = played.to_csv(index=False, lineterminator="\n").encode()
    files.replace_all(given.folder, {"samplers.md": text.encode(), "samplers.csv": lines, **render(played)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
