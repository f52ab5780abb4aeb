"""What a search says before anything trains: its space, its cheapest and its dearest design, what there is to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from senet_lab.counting import duration
from senet_lab.studies.asking import ENUMERATE, LISTED
from senet_lab.studies.plan import Plan, say
from senet_lab.studies.space import Design, amount, label

if TYPE_CHECKING:
    from senet_lab.studies.search import Search


def show(search: Search, fixed: Plan, seconds: float, rough: bool, workers: int, console: Console) -> None:
    """Print the plan of a search.

    Args:
        search: it.
        fixed: the references outside of its space.
        seconds: expected of one training.
        rough: whether no record tells.
        workers: how many train side by side.
        console: where to.
    """
    space, config = search.priced.space, search.config
    assert config.search is not None
    say(console, f"{fixed.title}: {config.backbone} on {search.composed.data}, recipe {search.composed.recipe}", "bold")
    levels = Table(box=None, pad_edge=False, header_style="bold")
    levels.add_column("factor", no_wrap=True)
    levels.add_column("levels")
    for key, found in space.levels.items():
        levels.add_row(key, " ".join(map(str, found)))
    console.print(levels)
    distinct = space.distinct()
    say(console, f"{space.size:,} points build {distinct:,} different networks")
    costs = Table(box=None, pad_edge=False, header_style="bold")
    costs.add_column("design", max_width=44)
    for heading in ("params", "multiply-adds", *(["latency\nms"] if search.stopwatch else [])):
        costs.add_column(heading, justify="right", no_wrap=True)
    for name, design in extremes(search).items():
        cost = search.cost(design)
        row = [f"{name}: {label(space, design)}", f"{cost['params']:,.0f}", f"{cost['macs']:,.0f}"]
        costs.add_row(*row, *([f"{cost['latency']:.3f}"] if search.stopwatch else []))
    console.print(costs)
    for metric, limit in search.limits.items():
        say(console, f"budget: {metric} at most {amount(limit)}")
    if search.limits and space.size <= LISTED and search.stopwatch is None:
        within = sum(search.asker.feasible(design) for design in space.designs())
        say(console, f"{within:,} of {distinct:,} designs are within it; the others are never trained")
    facts, epochs = fixed.facts, config.recipe.epochs
    say(
        console,
        f"{facts.train:,} training, {facts.validation:,} validation, {facts.test:,} test images; "
        f"{epochs} epoch{'s' * (epochs > 1)}; {workers} worker{'s' * (workers > 1)} on {search.device}",
    )
    for remark in facts.remarks:
        say(console, remark, "yellow")
    show_work(search, fixed, seconds, rough, workers, console)


def extremes(search: Search) -> dict[str, Design]:
    """The cheapest and the dearest design, by parameters or by whatever cost the search looks at."""
    space = search.priced.space
    assert search.config.search is not None
    wanted = [name for name in (*search.config.search.objectives, *search.limits, "params") if name in space.plain]
    return {
        "cheapest": space.extreme(wanted[0]),
        "dearest": space.extreme(wanted[0], dearest=True),
    }


def show_work(search: Search, fixed: Plan, seconds: float, rough: bool, workers: int, console: Console) -> None:
    """Print what would be trained, and for how long."""
    assert search.config.search is not None
    asked, goals = search.config.search, ", ".join(search.config.search.objectives)
    seeds = f"{search.seeds} seed{'s' * (search.seeds > 1)}"
    if search.asker.listed is not None:
        why = "" if asked.sampler == ENUMERATE else f" ({asked.sampler} is not needed for so few)"
        designs = [design for design in search.priced.space.designs() if search.asker.feasible(design)]
        say(console, f"every one is trained with {seeds}{why}; objectives: {goals}")
        total = len(designs) * search.seeds + len(fixed.cells)
        cells = [cell for design in designs for cell in search.trainings(search.priced.row(design))]
        recorded = len(search.store.read(cell.trial_id for cell in cells)) + len(fixed.recorded)
    else:
        say(
            console,
            f"{asked.sampler} proposes up to {asked.trials:,} of them, trained with {seeds}; objectives: {goals}",
        )
        total, recorded = search.asker.trials * search.seeds + len(fixed.cells), len(fixed.recorded)
    for row in search.references:
        say(console, f"trained beside them, for comparison: {row.label}")
    if recorded == total:
        say(console, f"all {total:,} trials are recorded: nothing to train")
        return
    about = duration(seconds * (total - recorded) / workers)
    why = " (rough: from a few steps of the dearest)" if rough else ""
    least = "" if search.asker.listed is not None else ", less what is recorded already"
    say(console, f"{total - recorded:,} of {total:,} trials to train{least}: about {about}{why}")
