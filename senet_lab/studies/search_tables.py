"""What a search leaves beside the tables of every study: its columns of `trials.csv`, and `rungs.csv`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from senet_lab.compose import words_of
from senet_lab.reports.cells import csv_bytes
from senet_lab.studies import pricing
from senet_lab.studies.plan import Cell
from senet_lab.studies.proposals import ENUMERATE
from senet_lab.studies.record_tables import rungs_frame
from senet_lab.studies.space import Level

if TYPE_CHECKING:
    from senet_lab.studies.search import SearchDesign


def columns(search: SearchDesign, cell: Cell) -> dict[str, Any]:
    """The levels of a cell's design, when it was asked for, and what the search was. The search must have ended."""
    number, design = search.numbers.get(cell.row.label, ("", None))
    space, facts, stopwatch = search.priced.space, search.priced.facts, search.worth.stopwatch
    params: dict[str, Level] = {} if design is None else space.params(design)
    return {
        "study": search.asked.name,
        "baseline": pricing.NO_SE if any(row.label == pricing.NO_SE for row in search.rows.values()) else "",
        "objectives": " ".join(search.asked.objectives),
        "part": "search" if cell.seed < search.seeds else "confirmation",
        "sampler": search.asked.sampler if search.asker.listed is None else ENUMERATE,
        "spent": search.spent,
        "asked": str(number),
        "reference": next((name for name, network in search.known.items() if network == cell.row.network), ""),
        **({"factors": " ".join(space.levels)} if space.others else {}),
        **{key: params.get(key, "") for key in space.levels},
        "latency_ms": "" if stopwatch is None else stopwatch.milliseconds(cell.row),
        **search.worth.columns(cell.row.cost),
        "classes": len(facts.classes),
        "channels": facts.channels,
        "val_images": facts.validation,
        "words": words_of(search.config),
    }


def rung_files(search: SearchDesign) -> dict[str, bytes]:
    """`rungs.csv`: one line a design, seed and epoch of the trainings that were stopped at a rung."""
    stopped = [
        (number, cell, search.reached[cell.trial_id])
        for number, design in enumerate(search.asker.asked, start=1)
        for cell in search.cells[design]
        if cell.trial_id not in search.records and cell.trial_id in search.reached
    ]
    return {"rungs.csv": csv_bytes(rungs_frame(stopped))}


def spent(search: SearchDesign) -> str:
    """Epochs that the designs' trainings have come to, whoever trained them, of those that whole trainings have."""
    cells = [cell for design in search.asker.asked for cell in search.cells[design]]
    epochs = [
        cell.spec.recipe.epochs if cell.trial_id in search.records else len(search.reached.get(cell.trial_id, []))
        for cell in cells
    ]
    return f"{sum(epochs)}/{sum(cell.spec.recipe.epochs for cell in cells)}"
