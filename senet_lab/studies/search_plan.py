"""Prints the plan of a search: its space, its cheapest and most expensive design, and what there is to train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from senet_lab.config import UserError
from senet_lab.counting import duration
from senet_lab.studies.plan import Plan
from senet_lab.studies.plan_text import print_line, show_setting, step_text
from senet_lab.studies.proposals import ENUMERATE, LISTED
from senet_lab.studies.space import Candidate, amount, design_text

if TYPE_CHECKING:
    from senet_lab.studies.forecast import Expectation
    from senet_lab.studies.search import SearchDesign

# Of a search; with another one it is another study.
IDENTITY = ("objectives", "sampler", "seed", "pending", "rungs", "keep", "strata")


def show_search(search: SearchDesign, forecast: Expectation, workers: int, console: Console) -> None:
    """Print the space, its cheapest and its dearest design, and what there is to train on so many workers."""
    (fixed,), (spec,) = search.plans, search.specs()
    space, config = search.priced.space, search.config
    print_line(
        console, f"{fixed.title}: {config.backbone} on {search.composed.data}, recipe {search.composed.recipe}", "bold"
    )
    levels = Table(box=None, pad_edge=False, header_style="bold")
    levels.add_column("factor", no_wrap=True)
    levels.add_column("levels")
    for key, found in space.levels.items():
        levels.add_row(key, " ".join(map(str, found)))
    console.print(levels)
    distinct = space.distinct()
    print_line(console, f"{space.size:,} points build {distinct:,} different networks")
    costs = Table(box=None, pad_edge=False, header_style="bold")
    costs.add_column("design", max_width=44)
    for heading in ("params", "multiply-adds", *(["latency\nms"] if search.worth.stopwatch else [])):
        costs.add_column(heading, justify="right", no_wrap=True)
    for name, design in extremes(search).items():
        cost = search.worth.cost(design)
        row = [f"{name}: {design_text(space, design)}", f"{cost['params']:,.0f}", f"{cost['macs']:,.0f}"]
        costs.add_row(*row, *([f"{cost['latency']:.3f}"] if search.worth.stopwatch else []))
    console.print(costs)
    for metric, limit in search.worth.limits.items():
        print_line(console, f"budget: {metric} at most {amount(limit)}")
    if search.worth.limits and space.size <= LISTED and search.worth.stopwatch is None:
        within = sum(search.asker.feasible(design) for design in space.designs())
        print_line(console, f"{within:,} of {distinct:,} designs are within it; the others are never trained")
    show_setting(fixed, workers, console)
    for remark in fixed.facts.remarks:
        print_line(console, remark, "yellow")
    show_work(search, fixed, forecast, workers, console)
    print_line(console, step_text(spec)) if step_text(spec) else None


def extremes(search: SearchDesign) -> dict[str, Candidate]:
    """The cheapest and the dearest design, by parameters or by whatever cost the search looks at."""
    space = search.priced.space
    wanted = [name for name in (*search.asked.objectives, *search.worth.limits, "params") if name in space.metrics]
    return {
        "cheapest": space.extreme(wanted[0]),
        "dearest": space.extreme(wanted[0], dearest=True),
    }


def show_work(search: SearchDesign, fixed: Plan, forecast: Expectation, workers: int, console: Console) -> None:
    """Print what would be trained, and for how long."""
    asked, objectives = search.asked, ", ".join(search.asked.objectives)
    seeds = f"{search.seeds} seed{'s' * (search.seeds > 1)}"
    total, recorded = search.asker.trials * search.seeds + len(fixed.cells), len(fixed.recorded)
    if search.asker.listed is not None:
        why = "" if asked.sampler == ENUMERATE else f" ({asked.sampler} is not needed for so few)"
        designs = [design for design in search.priced.space.designs() if search.asker.feasible(design)]
        print_line(console, f"every one is trained with {seeds}{why}; objectives: {objectives}")
        cells = [cell for design in designs for cell in search.trainings(search.priced.row(design))]
        total = len(cells) + len(fixed.cells)
        recorded += len(search.store.read(cell.trial_id for cell in cells))
    else:
        proposes = f"{asked.sampler} proposes up to {asked.trials:,} of them"
        print_line(console, f"{proposes}, trained with {seeds}; objectives: {objectives}")
    for row in search.references:
        print_line(console, f"trained beside them, for comparison: {row.label}")
    if recorded == total:
        print_line(console, f"all {total:,} trials are recorded: nothing to train")
        return
    about = duration(forecast.unasked[0] * (total - recorded) / workers)
    why = " (rough: from a few steps of the dearest)" if forecast.rough else ""
    least = "" if search.asker.listed is not None else ", less what is recorded already"
    print_line(console, f"{total - recorded:,} of {total:,} trials to train{least}: about {about}{why}")


def check_budget(search: SearchDesign) -> None:
    """A UserError if no design is within the budget; it names the cheapest one."""
    space = search.priced.space
    if not search.worth.limits:
        return
    if space.size <= LISTED and search.worth.stopwatch is None:
        if any(search.asker.feasible(design) for design in space.designs()):
            return
    elif all(search.asker.feasible(space.extreme(metric)) for metric in search.worth.limits if metric in space.metrics):
        if "latency" not in search.worth.limits:
            return
        if any(search.asker.feasible(design) for design in quickest(search)):
            return
    limits = []
    for metric, limit in search.worth.limits.items():
        if metric == "latency":
            design = min(quickest(search), key=lambda each: search.worth.cost(each)["latency"])
        else:
            design = space.extreme(metric)
        value = search.worth.cost(design)[metric]
        cheapest = f"the cheapest design ({design_text(space, design)}) has {amount(value)}"
        limits.append(f"{metric}: at most {amount(limit)}, and {cheapest}")
    raise UserError("no design is within the budget; " + "; ".join(limits))


def quickest(search: SearchDesign) -> list[Candidate]:
    """The designs that cost least by each count, the plain one if it is there: to time them all would take too long."""
    space = search.priced.space
    return list(dict.fromkeys(space.extreme(metric) for metric in space.metrics))


def identity(search: SearchDesign) -> dict[str, Any]:
    """The settings that determine a search's designs."""
    config = search.config
    levels = {key: list(found) for key, found in search.priced.space.levels.items()}
    own = {f"search.{name}": getattr(search.asked, name) for name in IDENTITY}
    if search.asker.listed is not None and not search.asked.rungs:  # every design, whatever the rest says
        own = {"search.objectives": own["search.objectives"], "search.sampler": ENUMERATE}
    else:
        own["seeds"] = search.seeds
    budget = {f"budget.{metric}": limit for metric, limit in vars(config.budget).items()}
    return {**{f"the space's {key}": found for key, found in levels.items()}, **own, **budget}


def check_same(search: SearchDesign, write: bool = False) -> None:
    """A UserError if the store has another search under this name. Where it has none, this one is noted by `write`."""
    name, mine = f"search {search.composed.folder}", identity(search)
    theirs = search.store.note(name)
    if write and theirs is None:
        theirs = search.store.note_once(name, mine)
    if theirs is None or theirs == mine:
        return
    key = next(key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key))
    word = search.asked.name
    raise UserError(
        f"search {word}: {key} was {theirs.get(key)} in {search.store.name}, and is {mine.get(key)} now; "
        f"search.name={word}2 starts a new search, which takes over whatever is trained already"
    )
