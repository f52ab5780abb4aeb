"""The plan of a study with `seeds=settle`, which stands in the store before its first training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from senet_lab.config import UserError
from senet_lab.naming import short_hash
from senet_lab.reports.aim import Aim, aim_of
from senet_lab.reports.cells import read_cells
from senet_lab.studies.plan import Cell, Plan
from senet_lab.studies.store import Store, notes

NOTE = "settle"  # begins the names of plans in the store
BLOCK = 50  # seeds that are looked up at once
SAME = ("metric", "margin", "failures", "least", "most")  # of a plan that goes on; one of before has no failures


def with_first_seeds(plans: Sequence[Plan], folders: Sequence[Path], store: Store) -> list[Plan]:
    """The plans with their first seeds and the cells of their first looks. A plan that is noted in the store keeps its
    seeds; a new one begins with the first seed that no record or table of its rows has.

    Args:
        plans: of studies, settling or not.
        folders: where the table of each is, or would be.

    Raises:
        UserError: a study that was begun as another plan.
    """
    noted = {name: json.loads(text) for name, text in store.noted(notes.c.name.like(f"{NOTE} %")).items()}
    pairs = zip(plans, folders, strict=True)
    fresh = [pair for pair in pairs if pair[0].aim.settles and note_name(pair[0]) not in noted]
    first = max((first_unseen_seed(plan, folder, store) for plan, folder in fresh), default=0)
    return [begin_plan(plan, noted, first) if plan.aim.settles else plan for plan in plans]


def begin_plan(plan: Plan, noted: Mapping[str, dict[str, Any]], first: int) -> Plan:
    """A plan with its cells, from the noted first seed or from `first`; a UserError if it is noted with other
    settings."""
    name, rows = note_name(plan), set(identities(plan).values())
    earlier = "; ".join(sorted(title(each) for each in noted.values() if rows & set(each["rows"].values())))
    if note := noted.get(name):
        if any(key in note and note[key] != getattr(plan.aim, key) for key in SAME):
            named = "another" if plan.config.settle.name else "NAME"
            raise UserError(
                f"seeds=settle: these rows were planned as {title(note)} before they were trained, and other words do "
                f"not change that; settle.name={named} plans anew, from a seed that nobody has seen"
            )
        first, earlier = note["first"], note["earlier"]
    aim = replace(plan.aim, first=first, earlier=earlier, plan=name)
    seeds = range(aim.first, aim.first + aim.least)
    return replace(plan, aim=aim, cells=[each.with_seed(seed) for seed in seeds for each in row_cells(plan).values()])


def write_down(plans: Sequence[Plan], folders: Sequence[Path], store: Store) -> bool:
    """Note new plans before the first training; returns whether another driver has just noted one with another first
    seed."""
    settles = [(plan, folder) for plan, folder in zip(plans, folders, strict=True) if plan.aim.settles]
    noted = [store.note_once(plan.aim.plan, as_note(plan.aim, identities(plan), folder)) for plan, folder in settles]
    return any(note["first"] != plan.aim.first for note, (plan, _) in zip(noted, settles, strict=True))


def as_note(aim: Aim, rows: dict[str, str], folder: Path) -> dict[str, Any]:
    """A plan as the store has it; `rows` are `identities`."""
    return {"study": "/".join(folder.parts[-3:]), "rows": rows, **asdict(aim)}


def of_table(trials: pd.DataFrame, folder: Path) -> dict[str, Any] | None:
    """The plan of a study's trials, as the store has it; None where their number was fixed."""
    rows = {str(row): str(like) for row, like in zip(trials["row"], trials.get("like", trials["row"]), strict=True)}
    aim = aim_of(trials)
    return as_note(aim, rows, folder) if aim.plan else None


def note_name(plan: Plan) -> str:
    """The name of a plan's note: its rows, whatever their labels are, and its name."""
    rows = identities(plan)
    compared = sorted((rows[row.label], rows[row.baseline]) for row in plan.rows)
    return f"{NOTE} {short_hash(repr(compared))} {plan.config.settle.name}".strip()


def identities(plan: Plan) -> dict[str, str]:
    """Label → the trial id of the row with seed 0, which identifies what it trains."""
    return {label: each.with_seed(0).trial_id for label, each in row_cells(plan).items()}


def title(note: dict[str, Any]) -> str:
    """A plan in one line."""
    margin = "" if note["margin"] is None else f" margin={note['margin']:g}"
    failures = " failures=chance" * (note.get("failures") == "chance")
    seeds = f"settle.min={note['least']} settle.max={note['most']}, seeds from {note['first']}"
    named = "".join(f"{name} of " for name in note["plan"].split(" ", 2)[2:])
    return f"{named}{note['study']} (metric={note['metric']}{margin}{failures} {seeds})"


def row_cells(plan: Plan) -> dict[str, Cell]:
    """Label → a cell of its row."""
    cells = {each.row.label: each for each in plan.cells}
    return {row.label: cells[row.label] for row in plan.rows}


def first_unseen_seed(plan: Plan, folder: Path, store: Store) -> int:
    """The first seed such that neither it nor a later one is in a record of these rows, or in the table of them in
    the folder."""
    path, shown = folder / "trials.csv", set()
    if path.is_file():
        try:
            shown = set(read_cells(path)["trial_id"])
        except (ValueError, KeyError):  # damaged: it will be moved aside, and its records are in the store
            shown = set()
    rows = row_cells(plan).values()
    first, start = 0, 0
    while True:
        ids = {each.with_seed(seed).trial_id: seed for seed in range(start, start + BLOCK) for each in rows}
        seen = [ids[trial_id] for trial_id in (shown & ids.keys()) | store.finished(ids)]
        if not seen:
            return first
        first, start = max(seen) + 1, start + BLOCK
