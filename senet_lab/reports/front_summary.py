"""From a search's trials to its front: means over the seeds, and what nothing else is better than."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from senet_lab.reports import front
from senet_lab.reports.front_rows import LEVELS, TITLES, Found, Front
from senet_lab.reports.statistics import Sample, sample

FACTS = ("data", "backbone", "recipe", "epochs", "device", "torch", "sampler", "spent", "classes", "channels", "words")
Confirmed = tuple[Sample | None, float | None]  # test error over fresh seeds, chance of being on the front


def is_search(trials: pd.DataFrame) -> bool:
    """Whether the trials are those of a search."""
    return "objectives" in trials.columns


def summarise(trials: pd.DataFrame) -> Front:
    """The front of a search's trials.

    Args:
        trials: in canonical form.

    Raises:
        ValueError: where they are not those of one search.
    """
    for name in (*FACTS, "objectives", "asked", "reference", "part", "val_images"):
        if name not in trials.columns:
            raise ValueError(f"column missing: {name}; these are not the trials of a search")
    objectives = tuple(str(trials["objectives"].iloc[0]).split())
    unknown = [name for name in objectives if name not in TITLES]
    if unknown or (trials["objectives"] != trials["objectives"].iloc[0]).any():
        raise ValueError(f"objectives: {' '.join(unknown) or 'mixed'}; there are {', '.join(TITLES)}")
    if "latency_ms" in trials.columns:
        trials = trials.assign(latency_ms=pd.to_numeric(trials["latency_ms"], errors="coerce"))
    again = trials[trials["part"] == "confirmation"]
    trials = trials[trials["part"] == "search"]
    confirmed = confirm(again, objectives)
    designs = [
        design(label, group, objectives, confirmed.get(str(label), (None, None)))
        for label, group in trials.groupby("row", sort=False)
    ]
    inside = [each for each in designs if each.values is not None and each.asked is not None]
    best = front.on_front(np.array([each.values for each in inside])) if inside else np.array([], dtype=bool)
    winners = {each.label for each, wins in zip(inside, best, strict=True) if wins}
    found = tuple(Found(**{**vars(each), "on_front": each.label in winners}) for each in designs)
    first = trials.iloc[0]
    seeds = sorted({len(group) for _, group in trials.groupby("row")})
    facts = {name: str(first[name]) for name in FACTS}
    facts["seeds"] = "–".join(map(str, seeds))
    return Front(
        str(first["study"]), str(first["title"]), objectives, facts, found, warnings_of(trials, found, max(seeds))
    )


def design(label: Any, group: pd.DataFrame, objectives: tuple[str, ...], confirmed: Confirmed) -> Found:
    """One design, from its trials of the search and what confirmed it."""
    done = group[group["status"] == "done"]
    values = None
    if len(done) == len(group):
        values = tuple(float(done[TITLES[name][1]].astype(float).mean()) for name in objectives)
    asked = str(group["asked"].iloc[0])
    costs = {name: float(group[name].iloc[0]) for name in ("params", "macs")}
    if "latency_ms" in group.columns and not pd.isna(group["latency_ms"].iloc[0]):
        costs["latency_ms"] = float(group["latency_ms"].iloc[0])
    return Found(
        label=str(label),
        asked=int(asked) if asked else None,
        reference=str(group["reference"].iloc[0]),
        levels={str(name): str(group[name].iloc[0]) for name in group.columns if str(name).startswith(LEVELS)},
        values=values,
        val_error=sample(list(done["val_error"]), int(group["val_images"].iloc[0])),
        test_error=sample(list(done["test_error"]), int(group["test_images"].iloc[0])),
        confirmed=confirmed[0],
        chance=confirmed[1],
        costs=costs,
        on_front=False,
    )


def confirm(trials: pd.DataFrame, objectives: tuple[str, ...]) -> dict[str, Confirmed]:
    """Test errors of the designs that were trained again, and their chances of being on the front.

    Args:
        trials: with fresh seeds.
        objectives: of the search; those that take a training are the test error here.
    """
    done = trials[trials["status"] == "done"]
    errors = done.pivot(index="row", columns="seed", values="test_error").dropna()
    if errors.empty:
        return {}
    costs = [TITLES[name][1] for name in objectives if not name.startswith("val_")]
    fixed = done.groupby("row")[costs].first().loc[errors.index] if costs else pd.DataFrame(index=errors.index)
    found = front.chances(errors.to_numpy(dtype=float), fixed.to_numpy(dtype=float))
    images = int(done["test_images"].iloc[0])
    lines = zip(errors.index, errors.to_numpy(dtype=float), found, strict=True)
    return {str(label): (sample(list(line), images), float(chance)) for label, line, chance in lines}


def warnings_of(trials: pd.DataFrame, found: tuple[Found, ...], seeds: int) -> tuple[str, ...]:
    """What is particular about these trials."""
    said = []
    failed = trials[trials["status"] != "done"]
    if len(failed):
        reasons = failed["reason"].value_counts()
        said.append(f"{len(failed)} trainings failed ({reasons.index[0]}); their designs are not on the front.")
    if seeds < 3 and all(each.confirmed is None for each in found):
        said.append(f"{seeds} seed{'s' * (seeds > 1)} a design: neighbours on the front may owe their place to chance.")
    return tuple(said)
