"""What a search leaves: its records as the tables that are published with it, and the front made from them.

`trials.csv` (one line a training, as an ablation's, and the design's levels) and `curves.csv` (one line an epoch) hold
only what the seeds determine, and so does `outputs.npz`; `runs.csv` holds what is measured once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from senet_lab import files
from senet_lab.compose import words_of
from senet_lab.config import RunError
from senet_lab.reports import aside, fronts
from senet_lab.reports.trials import csv_bytes, read_trials
from senet_lab.studies import outcome
from senet_lab.studies.asking import ENUMERATE
from senet_lab.studies.plan import Cell, Plan
from senet_lab.studies.rows import Row

if TYPE_CHECKING:
    from senet_lab.studies.search import Search

CURVES = ("train_loss", "train_error", "val_loss", "val_error")  # of an epoch


def write(search: Search, console: Console) -> Path:
    """Write and show the front of a search whose trials have all ended; its folder."""
    folder = Path(search.config.results) / search.composed.folder
    plan = whole(search)
    try:
        packed = search.store.outputs(plan.trials)
        lines = trials(search, plan, packed)
        curves = outcome.curves(lines, search.records)
        kept = aside.make_room(folder, set(lines["trial_id"]))
        written = fronts.write(folder, lines, outcome.runs(plan, search.records), curves, packed)
        if search.config.search and search.config.search.rungs:
            written += files.replace_all(folder, {"rungs.csv": csv_bytes(rungs(search))})
    except (OSError, ValueError) as error:
        raise RunError(f"the front cannot be written to {folder}: {error}") from error
    fronts.show(read_trials(folder / "trials.csv"), console)
    console.print(f"\nwritten: {folder}/ ({', '.join(path.name for path in written)})", soft_wrap=True)
    if kept:
        console.print(f"the front of other trials that was there is kept: {kept}/", soft_wrap=True)
    return folder


def whole(search: Search) -> Plan:
    """Everything that was trained, as one plan: designs in the order in which they were asked for, then references."""
    whole = [design for design in search.asker.asked if search.complete(design)]
    rows: list[Row] = [search.rows[design] for design in whole] + search.references
    cells = [cell for row in rows for cell in search.trainings(row)] + search.confirmed
    return Plan(
        search.config,
        search.priced.facts,
        rows,
        search.device,
        cells,
        search.records,
        [],
    )


def trials(search: Search, plan: Plan, packed: Mapping[str, bytes]) -> pd.DataFrame:
    """One line a design and seed: outcome, cost, levels, and when it was asked for.

    Args:
        packed: trial id → its outputs, of those that have them.
    """
    asked = {search.rows[design].label: (number, design) for number, design in enumerate(search.asker.asked, start=1)}
    lines = []
    for cell in outcome.by_row(plan):
        line = outcome.trial(plan, cell, search.records[cell.trial_id], packed)
        lines.append(line | particular(search, cell, *asked.get(cell.row.label, (None, None))))
    return pd.DataFrame(lines).assign(words=words_of(search.config))


def particular(search: Search, cell: Cell, number: int | None, design: Any) -> dict[str, Any]:
    """What a trial of a search has beside those of a study."""
    config = search.config
    assert config.search is not None
    params = search.priced.space.params(design) if design else {}
    latency = "" if search.stopwatch is None else search.stopwatch.milliseconds(cell.row.network, cell.row.se)
    return {
        "study": config.search.name,
        "baseline": "no SE" if any(row.se is None for row in search.rows.values()) else "",
        "objectives": " ".join(config.search.objectives),
        "part": "search" if cell.seed < search.seeds else "confirmation",
        "sampler": config.search.sampler if search.asker.listed is None else ENUMERATE,
        "spent": f"{search.spent()}/{len(search.asker.asked) * search.seeds * config.recipe.epochs}",
        "asked": "" if number is None else str(number),
        "reference": next((name for name, network in search.known.items() if network == cell.row.network), ""),
        **{key: params.get(key, "") for key in search.priced.space.levels},
        "latency_ms": latency,
        "classes": len(search.priced.facts.classes),
        "channels": search.priced.facts.channels,
        "val_images": search.priced.facts.validation,
    }


def rungs(search: Search) -> pd.DataFrame:
    """One line a design, seed and epoch of the trainings that were stopped at a rung: what they had come to."""
    lines = []
    for number, design in enumerate(search.asker.asked, start=1):
        for cell in search.cells[design]:
            for entry in [] if cell.trial_id in search.records else search.reached.get(cell.trial_id, []):
                known = {"asked": number, "row": cell.row.label, "seed": cell.seed, "trial_id": cell.trial_id}
                known["epoch"] = int(entry["epoch"])
                lines.append(known | {name: entry[name] for name in CURVES})
    return pd.DataFrame(lines, columns=["asked", "row", "seed", "trial_id", "epoch", *CURVES])
