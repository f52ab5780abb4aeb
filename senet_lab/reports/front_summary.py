"""From a search's trials to its front: means over the seeds, and what nothing else is better than."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from senet_lab.objectives import OBJECTIVES
from senet_lab.reports import front
from senet_lab.reports.front_rows import LEVELS, Found, Front
from senet_lab.reports.statistics import Sample, sample
from senet_lab.reports.trials import guessing, present

FACTS = ("data", "backbone", "recipe", "epochs", "device", "torch", "sampler", "spent", "classes", "channels", "words")
TOLD_FROM = 5  # fresh seeds; of fewer, chances of being on the front are not told: they would be too far off


@dataclass(frozen=True)
class Confirmed:
    """What fresh seeds said of a design: its test error, its chance of being on the front, and how often it failed."""

    test_error: Sample | None = None
    chance: float | None = None
    failed: str = ""


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
    unknown = [name for name in objectives if name not in OBJECTIVES]
    if unknown or (trials["objectives"] != trials["objectives"].iloc[0]).any():
        raise ValueError(f"objectives: {' '.join(unknown) or 'mixed'}; there are {', '.join(OBJECTIVES)}")
    if "latency_ms" in trials.columns:
        trials = trials.assign(latency_ms=pd.to_numeric(trials["latency_ms"], errors="coerce"))
    counted = as_guessed(trials)
    again, counted = (counted[counted["part"] == part] for part in ("confirmation", "search"))
    everything, trials = trials, trials[trials["part"] == "search"]
    confirmed = confirm(again, objectives)
    designs = [
        design(label, group, objectives, confirmed.get(str(label), Confirmed()))
        for label, group in counted.groupby("row", sort=False)
    ]
    inside = [each for each in designs if not (each.failed or each.failed_again) and each.asked is not None]
    best = front.on_front(np.array([each.values for each in inside])) if inside else np.array([], dtype=bool)
    winners = {each.label for each, wins in zip(inside, best, strict=True) if wins}
    found = tuple(replace(each, on_front=each.label in winners) for each in designs)
    first = trials.iloc[0]
    seeds = sorted({len(group) for _, group in trials.groupby("row")})
    facts = {name: str(first[name]) for name in FACTS}
    facts["seeds"] = "–".join(map(str, seeds))
    return Front(
        str(first["study"]), str(first["title"]), objectives, facts, found, warnings_of(everything, found, max(seeds))
    )


def design(label: Any, group: pd.DataFrame, objectives: tuple[str, ...], confirmed: Confirmed) -> Found:
    """One design, from its trials of the search and what confirmed it."""
    done = group[group["status"] == "done"]
    values, failed = None, failures(group)
    if not failed:
        values = tuple(float(done[OBJECTIVES[name].column].astype(float).mean()) for name in objectives)
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
        confirmed=confirmed.test_error,
        chance=confirmed.chance,
        failed=failed,
        failed_again=confirmed.failed,
        costs=costs,
        on_front=False,
    )


def confirm(trials: pd.DataFrame, objectives: tuple[str, ...]) -> dict[str, Confirmed]:
    """Test errors of the designs that were trained again, and their chances of being on the front.

    Args:
        trials: with fresh seeds.
        objectives: of the search; those that take a training are the test error here.
    """
    failed = {str(label): failures(group) for label, group in trials.groupby("row", sort=False)}
    lost = {label: Confirmed(failed=text) for label, text in failed.items() if text}
    done = trials[~trials["row"].isin(lost)]
    errors = done.pivot(index="row", columns="seed", values="test_error").dropna()
    if errors.empty:
        return lost
    costs = [OBJECTIVES[name].column for name in objectives if not name.startswith("val_")]
    fixed = done.groupby("row")[costs].first().loc[errors.index] if costs else pd.DataFrame(index=errors.index)
    values, images = errors.to_numpy(dtype=float), int(done["test_images"].iloc[0])
    told: list[float | None] = [None] * len(values)
    if values.shape[1] >= TOLD_FROM:
        told = list(map(float, front.chances(values, fixed.to_numpy(dtype=float))))
    lines = zip(errors.index, values, told, strict=True)
    return lost | {str(label): Confirmed(sample(list(line), images), chance) for label, line, chance in lines}


def as_guessed(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials, those that failed as if they had ended by guessing, if that is how failures count."""
    guess = guessing(trials)
    if guess is None:
        return trials
    loss = math.log(int(present(trials["classes"])[0]))
    failed = trials["status"] != "done"
    filled = {"test_error": guess, "val_error": guess, "val_loss": loss, "status": "done"}
    return trials.assign(**{name: trials[name].mask(failed, value) for name, value in filled.items()})


def failures(trials: pd.DataFrame) -> str:
    """ "failed in 1 of 5"; empty where none did."""
    failed = int((trials["status"] != "done").sum())
    return f"failed in {failed} of {len(trials)}" if failed else ""


def warnings_of(trials: pd.DataFrame, found: tuple[Found, ...], seeds: int) -> tuple[str, ...]:
    """What is particular about these trials."""
    said = []
    guess = guessing(trials)
    failed = trials[(trials["status"] != "done") & ((trials["part"] == "search") | (guess is not None))]
    if len(failed):
        reasons = failed["reason"].value_counts()
        how = "their designs are not on the front" if guess is None else f"they count as guessing, {guess:.4g}% error"
        said.append(f"{len(failed)} training{'s' * (len(failed) > 1)} failed ({reasons.index[0]}); {how}.")
    again = [f"{each.label} ({each.failed_again})" for each in found if each.failed_again]
    if again:
        said.append(f"Not on the front, because trainings with fresh seeds failed: {'; '.join(again)}.")
    few = max((each.confirmed.n for each in found if each.confirmed), default=TOLD_FROM)
    if few < TOLD_FROM:
        said.append(f"Chances of being on the front are told from {TOLD_FROM} fresh seeds; here are {few}.")
    if seeds < 3 and all(each.confirmed is None for each in found):
        said.append(f"{seeds} seed{'s' * (seeds > 1)} a design: neighbours on the front may owe their place to chance.")
    return tuple(said)
