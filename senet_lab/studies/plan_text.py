"""Prints a plan before any training: its rows, what they cost, and what there is to train."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from senet_lab.config import UserError
from senet_lab.counting import duration
from senet_lab.factors import idle_factors
from senet_lab.studies.forecast import Expectation
from senet_lab.studies.plan import Plan
from senet_lab.training import step
from senet_lab.training.memory import size_in_memory
from senet_lab.training.spec import STEP, Spec

DEVICES = {"cpu": "processes", "cuda": "GPUs"}


def show_rows(plan: Plan, console: Console) -> None:
    """Print the rows of a study: what they cost and how many trials they lack."""
    data = list(dict.fromkeys(row.data for row in plan.rows))
    recipes = list(dict.fromkeys(row.recipe for row in plan.rows))
    backbones = list(dict.fromkeys(row.config.backbone for row in plan.rows))
    what = backbones[0] if len(backbones) == 1 else f"{len(backbones)} networks"
    how = f"recipe{'s' * (len(recipes) > 1)} {', '.join(recipes)}"
    print_line(console, f"{plan.title}: {what} on {', '.join(data)}, {how}", "bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("row")
    theirs = ["paper's\nparams", "paper's\nGFLOPs"] if len(backbones) > 1 else ["ResNet-50\nparams", "at 224\nGFLOPs"]
    if not any(row.paper_cost for row in plan.rows):
        theirs = []
    for heading in ("params", "GFLOPs", *theirs, "to train"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in plan.rows:
        mine = [cell.trial_id for cell in plan.cells if cell.row is row]
        waiting = sum(trial_id not in plan.recorded for trial_id in mine)
        paper = row.paper_cost
        table.add_row(
            row.label,
            f"{row.cost.params:,}",
            f"{row.cost.macs / 1e9:#.3g}" if row.cost.macs < 1e8 else f"{row.cost.macs / 1e9:.3f}",
            *((f"{paper.params / 1e6:.2f} M", f"{paper.macs / 1e9:.3f}") if paper else ("–",) * len(theirs)),
            f"{waiting} of {len(mine)}",
        )
    console.print(table)
    for how, labels in trained_by(plan).items():
        print_line(console, f"{', '.join(labels)}: {how}")
    for line in dict.fromkeys(row.start for row in plan.rows if row.start):
        print_line(console, line)
    study = plan.config.study
    for sentence in idle_factors(study.varied if study else [], [row.config for row in plan.rows]):
        print_line(console, f"{sentence}: its rows are trained alike", "yellow")
    for labels in plan.twins:
        print_line(
            console, f"{' and '.join(labels)} build the same network here: trained once, no difference to be seen."
        )


def trained_by(plan: Plan) -> dict[str, list[str]]:
    """Recipe of comparisons → their baselines, and the rows that are trained by another recipe; empty if all rows are
    trained alike."""
    groups: dict[tuple[str, str, int], list[str]] = {}
    ways = {row.label: (row.recipe, row.data, row.config.recipe.epochs) for row in plan.rows}
    for row in plan.rows:
        if row.label == row.baseline or ways[row.label] != ways.get(row.baseline):
            groups.setdefault(ways[row.label], []).append(row.label)
    if len(groups) < 2:
        return {}
    several = len({data for _, data, _ in groups}) > 1
    return {
        f"recipe {recipe}, {epochs} epoch{'s' * (epochs > 1)}" + f", {data}" * several: labels
        for (recipe, data, epochs), labels in groups.items()
    }


def show_total(plan: Plan, expectation: Expectation, workers: int, console: Console) -> None:
    """Print what there is to train in all, and for how long."""
    print_line(console, "GFLOPs are multiply-adds of one image.", "dim")
    show_setting(plan, workers, console)
    facts = plan.facts
    if facts.validation and all(plan.facts_of(row) == facts for row in plan.rows) and plan.config.data.subset is None:
        whole = facts.train + facts.validation
        print_line(
            console, f"{facts.train:,} of {whole:,} training images are trained on; data.validation=0 trains on all"
        )
    for remark in facts.remarks:
        print_line(console, remark, "yellow")
    for how in dict.fromkeys(step_text(cell.spec) for cell in plan.cells):
        print_line(console, how) if how else None
    if plan.outdated:
        print_line(console, outdated_notice(plan), "yellow")
    failed = [record for record in plan.recorded.values() if record["state"] == "failed"]
    if failed:
        print_line(
            console, f"{len(failed)} of {len(plan.trials)} trials are recorded as failed; retry=true trains them again"
        )
    if plan.todo:
        about = duration(expectation.total(workers))
        rough = " (rough: by a few steps of each network)" if expectation.rough else ""
        print_line(console, f"{len(plan.todo)} of {len(plan.trials)} trials to train: about {about}{rough}")
    else:
        print_line(console, f"all {len(plan.trials)} trials are recorded: nothing to train")


def show_setting(plan: Plan, workers: int, console: Console) -> None:
    """Print images, epochs and workers."""
    facts, epochs = [plan.facts], [plan.config.recipe.epochs]
    if plan.rows:
        facts, epochs = [plan.facts_of(row) for row in plan.rows], [row.config.recipe.epochs for row in plan.rows]
    print_line(
        console,
        f"{range_text(each.train for each in facts)} training, "
        f"{range_text(each.validation for each in facts)} validation, "
        f"{facts[0].test:,} test images; {range_text(epochs)} epoch{'s' * (max(epochs) > 1)}; "
        f"{workers} worker{'s' * (workers > 1)} on {plan.device}",
    )


def range_text(numbers: Iterable[int]) -> str:
    """ "40", or "40 to 1,000"."""
    ordered = sorted(numbers)
    return " to ".join(f"{number:,}" for number in dict.fromkeys((ordered[0], ordered[-1])))


def show_alarms(plans: list[Plan], console: Console) -> None:
    """Print the probability that at least one of several tables shows a difference where there is none."""
    tables = sum(bool(plan.study_tests) for plan in plans)
    if tables > 1:
        from senet_lab.reports.statistics import ALPHA  # scipy comes with it

        # Independent tables would have that many, and tables that share rows have fewer (Šidák 1967).
        print_line(
            console,
            f"p is corrected within each table: where nothing differs, one of these {tables} shows a difference in up "
            f"to {1 - (1 - ALPHA) ** tables:.0%} of such runs (in 22% with the paper's seven and ten seeds).",
        )


def outdated_notice(plan: Plan) -> str:
    """A notice about trials that an earlier version has recorded and that are trained again; empty if there are
    none."""
    cell, old = plan.outdated[0]
    was, now = cell.spec.as_recorded_earlier(plan.facts.earlier), cell.spec
    what = {"code": f"the code of {now.backbone}", "identity": "the contents of the images", "threads": "its threads"}
    since = " and ".join(text for name, text in what.items() if getattr(was, name) != getattr(now, name))
    number, several = len(plan.outdated), len(plan.outdated) > 1
    return (
        f"{number} trial{'s' * several} of this {'were' if several else 'was'} recorded before {since} became part of "
        f"what a trial is, and {'are' if several else 'is'} not used: nothing tells what was trained then "
        f"(python -m senet_lab store forget {old}{' …' * several} deletes {'them' if several else 'it'})"
    )


def step_text(spec: Spec) -> str:
    """The step of a training in words; empty for the plain way."""
    parts = []
    holder = "worker" if spec.devices == 1 else "device"
    if spec.feed == "memory":
        parts.append(f"images in memory, {gibibytes(size_in_memory(spec.data))} a {holder}")
    elif spec.data.name == "folder" and spec.device == "cuda":
        parts.append(f"images from files ({gibibytes(size_in_memory(spec.data))} in memory)")
    if spec.precision != "32-true":
        parts.append(spec.precision)
    if spec.layout != STEP["layout"]:
        parts.append(spec.layout)
    if spec.fused:
        parts.append("fused optimiser")
    if spec.compile != STEP["compile"]:
        parts.append(f"compiled: {spec.compile}")
    if spec.devices > 1:
        part = -(-spec.recipe.batch_size // spec.devices)
        parts.append(f"{spec.devices} {DEVICES[spec.device]} a trial, each with {part} images of a batch")
    if spec.sync_batchnorm:
        parts.append("synchronised batch norms")
    if spec.freeze:
        parts.append(f"frozen: {spec.freeze}")
    return ", ".join(parts)


def gibibytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def check_memory(specs: list[Spec], workers: int) -> None:
    """A UserError if the free memory of the device cannot hold the images of so many workers."""
    sizes = {size_in_memory(spec.data) for spec in specs if spec.feed == "memory"}
    if not sizes:
        return
    needed, free = workers * max(sizes), step.room(specs[0].device)
    if needed > free:
        whose = f"{workers} worker{'s' * (workers > 1)}" + " on a GPU" * (specs[0].device == "cuda")
        raise UserError(
            f"training.feed=memory: the images take {gibibytes(needed)} for {whose}, and {gibibytes(free)} are free; "
            "fewer workers need less (executor.workers), training.feed=files none"
        )


def print_line(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, soft_wrap=not console.is_terminal)  # a log has lines of any length
