"""The front of a search: a table of its designs with means over the seeds, and which of them no other dominates.

Designs are compared by the means over their seeds on the validation images; the test images, read once by each
training, choose nothing.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import yaml

from senet_lab.objectives import COSTS, OBJECTIVES
from senet_lab.reports import pareto
from senet_lab.reports.cells import first, present
from senet_lab.reports.columns import front_columns
from senet_lab.reports.render import escape
from senet_lab.reports.statistics import Sample, sample
from senet_lab.reports.summary import summarise_study
from senet_lab.reports.table import FrontDesign, Table, TableRow
from senet_lab.reports.trials import canonical, factors_of, guessing

RATIO = "se.reduction."  # and the stage: columns of a design's levels
LEVELS = (RATIO, "se.squeeze", "se.excitation", "se.position")  # they begin so where a file does not name its factors
FACTS = ("data", "backbone", "recipe", "epochs", "device", "torch", "sampler", "spent", "classes", "channels", "words")
TOLD_FROM = 5  # fresh seeds; of fewer, chances of being on the front are not told: they would be too far off


@dataclass(frozen=True)
class Confirmation:
    """The result of a design with fresh seeds: its test error, its chance of being on the front, and how often it
    failed."""

    test_error: Sample | None = None
    chance: float | None = None
    failed: str = ""


def is_search(trials: pd.DataFrame) -> bool:
    """Whether the trials are those of a search."""
    return "objectives" in trials.columns


def front(trials: pd.DataFrame, table: Table | None = None) -> Table:
    """The front of a search's trials: every design is in its rows and in its CSV, the front in the other forms.

    Args:
        trials: one line a training.
        table: of the same trials, where it is made already.

    Raises:
        ValueError: where they are not those of one search.
    """
    trials = canonical(trials) if table is None else trials
    for name in (*FACTS, "objectives", "asked", "reference", "part", "val_images"):
        if name not in trials.columns:
            raise ValueError(f"column missing: {name}; these are not the trials of a search")
    objectives = tuple(str(trials["objectives"].iloc[0]).split())
    unknown = [name for name in objectives if name not in OBJECTIVES]
    if unknown or (trials["objectives"] != trials["objectives"].iloc[0]).any():
        raise ValueError(f"objectives: {' '.join(unknown) or 'mixed'}; there are {', '.join(OBJECTIVES)}")
    table = table or summarise_study(trials)
    by_row = front_designs(trials, objectives)
    rows = tuple(replace(row, design=by_row[row.label]) for row in table.rows if row.label in by_row)
    facts = {name: ", ".join(map(str, present(trials[name]))) for name in FACTS}
    made = replace(table, rows=rows, objectives=objectives, facts=facts)
    best = made.front
    shown = [row for row in rows if by_row[row.label].reference or by_row[row.label].again]
    others = sorted((row for row in shown if row not in best), key=lambda row: by_row[row.label].costs["params"])
    counts = sorted(set(trials[trials["part"] == "search"].groupby("row").size()))
    made = replace(
        made,
        heading=f"{table.title}: {', '.join(OBJECTIVES[name].heading for name in objectives)}",
        columns=front_columns(made),
        visible=(*best, *others),
        warnings=(*halving_saving(facts), *front_warnings(trials, rows, max(counts))),
    )
    return replace(made, notes=tuple(front_notes(made, "–".join(map(str, counts)))), recipe=tuple(recipe(made)))


def front_designs(trials: pd.DataFrame, objectives: tuple[str, ...]) -> dict[str, FrontDesign]:
    """Row → its design in the search."""
    if "latency_ms" in trials.columns:
        trials = trials.assign(latency_ms=pd.to_numeric(trials["latency_ms"], errors="coerce"))
    counted = with_guesses(trials)
    again, searched = (counted[counted["part"] == part] for part in ("confirmation", "search"))
    confirmed = confirm(again, objectives)
    factors = level_columns(trials)
    by_row = {
        str(label): front_design(group, objectives, factors, confirmed.get(str(label), Confirmation()))
        for label, group in searched.groupby("row", sort=False)
    }
    inside = [label for label, d in by_row.items() if not (d.failed or d.failed_again or d.asked is None)]
    points = [[*by_row[label].values.values()] for label in inside]
    best = {label for label, wins in zip(inside, pareto.on_front(points), strict=True) if wins}
    return {label: replace(each, on_front=label in best) for label, each in by_row.items()}


def level_columns(trials: pd.DataFrame) -> list[str]:
    """The columns of a design's levels in a search's trials."""
    return list(factors_of(trials)) or [str(name) for name in trials.columns if str(name).startswith(LEVELS)]


def front_design(
    group: pd.DataFrame, objectives: Sequence[str], factors: Sequence[str], confirmed: Confirmation
) -> FrontDesign:
    """One design, from its trials of the search and what confirmed it."""
    done = group[group["status"] == "done"]
    line, failed = group.iloc[0], failures(group)
    asked = str(line["asked"])
    known = {each.column: line.get(each.column) for name, each in OBJECTIVES.items() if name in COSTS}
    costs = {column: float(value) for column, value in known.items() if not pd.isna(value) and value != ""}
    means = {name: float(done[OBJECTIVES[name].column].astype(float).mean()) for name in objectives if not failed}
    return FrontDesign(
        asked=int(asked) if asked else None,
        reference=str(line["reference"]),
        levels={name: str(line[name]) for name in factors},
        values=means,
        failed=failed,
        failed_again=confirmed.failed,
        val_error=sample(list(done["val_error"]), int(line["val_images"])),
        test_error=sample(list(done["test_error"]), int(line["test_images"])),
        confirmed=confirmed.test_error,
        chance=confirmed.chance,
        costs=costs,
    )


def confirm(trials: pd.DataFrame, objectives: tuple[str, ...]) -> dict[str, Confirmation]:
    """Test errors of the designs that were trained again, and their chances of being on the front.

    Args:
        trials: with fresh seeds.
        objectives: of the search; those that take a training are the test error here.
    """
    failed = {str(label): failures(group) for label, group in trials.groupby("row", sort=False)}
    lost = {label: Confirmation(failed=text) for label, text in failed.items() if text}
    done = trials[~trials["row"].isin(lost)]
    errors = done.pivot(index="row", columns="seed", values="test_error").dropna()
    if errors.empty:
        return lost
    costs = [OBJECTIVES[name].column for name in objectives if name in COSTS]
    fixed = done.groupby("row")[costs].first().loc[errors.index] if costs else pd.DataFrame(index=errors.index)
    values, images = errors.to_numpy(dtype=float), int(done["test_images"].iloc[0])
    chances: list[float | None] = [None] * len(values)
    if values.shape[1] >= TOLD_FROM:
        chances = list(map(float, pareto.chances(values, fixed.to_numpy(dtype=float))))
    lines = zip(errors.index, values, chances, strict=True)
    return lost | {str(label): Confirmation(sample(list(line), images), chance) for label, line, chance in lines}


def with_guesses(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials; failed ones with the metrics of guessing if failures count so."""
    guess = guessing(trials)
    if guess is None:
        return trials
    loss = math.log(int(first(trials["classes"])))
    failed = trials["status"] != "done"
    filled = {"test_error": guess, "val_error": guess, "val_loss": loss, "status": "done"}
    return trials.assign(**{name: trials[name].mask(failed, value) for name, value in filled.items()})


def failures(trials: pd.DataFrame) -> str:
    """ "failed in 1 of 5"; empty where none did."""
    failed = int((trials["status"] != "done").sum())
    return f"failed in {failed} of {len(trials)}" if failed else ""


# --------------------------------------------------------------------------------------------------------------------
# What stands below it


def halving_saving(facts: dict[str, str]) -> list[str]:
    """A note of the epochs that successive halving saved; empty without it."""
    spent, _, whole = facts["spent"].partition("/")
    if spent == whole:
        return []
    share = 1 - int(spent) / int(whole)
    return [f"Successive halving trained {int(spent):,} of {int(whole):,} epochs, {share:.0%} less."]


def front_warnings(trials: pd.DataFrame, rows: tuple[TableRow, ...], seeds: int) -> list[str]:
    """Warnings about these trials."""
    warnings = []
    guess = guessing(trials)
    failed = trials[(trials["status"] != "done") & ((trials["part"] == "search") | (guess is not None))]
    if len(failed):
        reasons = failed["reason"].value_counts()
        how = "their designs are not on the front" if guess is None else f"they count as guessing, {guess:.4g}% error"
        warnings.append(f"{len(failed)} training{'s' * (len(failed) > 1)} failed ({reasons.index[0]}); {how}.")
    again = [f"{row.label} ({row.design.failed_again})" for row in rows if row.design and row.design.failed_again]
    if again:
        warnings.append(f"Not on the front, because trainings with fresh seeds failed: {'; '.join(again)}.")
    fresh = [row.design.confirmed.n for row in rows if row.design and row.design.confirmed]
    if fresh and max(fresh) < TOLD_FROM:
        warnings.append(f"Chances of being on the front are told from {TOLD_FROM} fresh seeds; here are {max(fresh)}.")
    if seeds < 3 and not fresh:
        warnings.append(
            f"{seeds} seed{'s' * (seeds > 1)} a design: neighbours on the front may owe their place to chance."
        )
    return warnings


def front_notes(table: Table, seeds: str) -> list[str]:
    """Notes on how the numbers were measured and what they mean."""
    f = table.facts
    known = [row.design for row in table.rows if row.design]
    number = sum(each.asked is not None for each in known)
    sentences = [
        f"{f['data']}, {f['backbone']}, recipe {f['recipe']}, {f['epochs']} epoch{'s' * (f['epochs'] != '1')}, "
        f"{f['device']}, torch {f['torch']}; "
        f"{number} designs, {seeds} seed{'s' * (seeds != '1')} each, sampler {f['sampler']}.",
        f"On the front: no other design that was trained is as good in every one of {', '.join(table.objectives)} and "
        "better in one, by the means over the seeds on the validation images.",
        "Errors are means ± 95% t interval over the seeds (n). Validation errors of designs that were chosen by them "
        "are better than they would be again; test errors chose nothing.",
    ]
    if len(table.visible) > len(table.front):
        sentences.append("Without a mark: for comparison, not on the front.")
    if any(each.confirmed for each in known):
        sentences.append("Test errors are those of trainings with fresh seeds, that chose nothing.")
    if any(each.chance is not None for each in known):
        sentences.append(
            "On front: the chance that the design's true test error, which its seeds tell only roughly, puts it on the "
            "front of these designs (10,000 draws from the errors that the seeds leave possible)."
        )
    return sentences


def recipe(table: Table) -> list[str]:
    """Lines of Markdown: the most accurate design on the front, as a command and as a call."""
    at = next(at for at, name in enumerate(table.objectives) if OBJECTIVES[name].trained)
    best = min(table.front, key=lambda row: [*row.design.values.values()][at:] if row.design else [], default=None)
    if best is None or best.design is None or not best.design.levels:
        return []
    facts, levels = table.facts, best.design.levels
    ratios = {key.removeprefix(RATIO): level for key, level in levels.items() if key.startswith(RATIO)}
    on = {stage: level for stage, level in ratios.items() if level != "off"}
    others = {key: level for key, level in levels.items() if not key.startswith(LEVELS)}
    backbone = others.pop("backbone", facts["backbone"])
    words = [word for word in shlex.split(facts["words"]) if word.partition("=")[0] not in levels]
    words += [f"{key}={level}" for key, level in others.items()]
    if on:
        words.append(f"se.reduction={{{','.join(f'{stage}:{level}' for stage, level in on.items())}}}")
        words += [f"{key}={level}" for key, level in levels.items() if key.startswith(LEVELS[1:])]
        values = dict(word.removeprefix("se.").split("=", 1) for word in words if word.startswith("se."))
        values["reduction"] = f"{{{', '.join(f'{stage}: {level}' for stage, level in on.items())}}}"
        se = f"lab.SE({', '.join(f'{key}={in_python(text)}' for key, text in values.items())})"
    else:
        words = [*(word for word in words if not word.startswith("se.")), "se=null"]
        se = "None"
    return [
        "",
        f"The best of them by {escape(table.objectives[at])}, {escape(best.label)}: to be trained, and as a network.",
        "",
        "```",
        f"python -m senet_lab.run backbone={backbone} {shlex.join(words)}",
        "```",
        "",
        "```python",
        "import senet_lab as lab",
        "",
        "net = lab.models.create(",
        f'    "{backbone}",',
        f"    se={se},",
        f"    num_classes={facts['classes']},",
        f"    in_channels={facts['channels']},",
        ")",
        "```",
    ]


def in_python(text: str) -> str:
    """A word of the command line as Python writes it: true, sigmoid → True, "sigmoid"."""
    meant = yaml.safe_load(text)
    return f'"{meant}"' if isinstance(meant, str) else text if isinstance(meant, dict) else repr(meant)
