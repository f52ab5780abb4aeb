"""Finds studies (by `trials.csv`) and measured gates (by `gates.csv`) below results folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from senet_lab.reports.cells import COMMANDS, read_cells, require, with_file_name
from senet_lab.reports.curves import curves_of_records, read_curves
from senet_lab.reports.front import front, is_search
from senet_lab.reports.summary import summarise_study
from senet_lab.reports.table import Table
from senet_lab.reports.trials import read_study

LOCAL = "local"  # the folder of runs that are not published, below `results`


@dataclass(frozen=True)
class FinishedStudy:
    """One finished study.

    Attributes:
        folder: where it lies.
        name: its folder's name below the results, `digits/resnet8-quick/ratio`.
        table: its table.
        trials: in canonical form.
        curves: columns of `curves.COLUMNS`; None where they are not known.
        front: the rows that a search chose; None where the study is no search.
        commands: row → the command that trains it, and "" → that of the study; empty where they are not known.
    """

    folder: Path
    name: str
    table: Table
    trials: pd.DataFrame
    curves: pd.DataFrame | None
    front: frozenset[str] | None = None
    commands: Mapping[str, str] = field(default_factory=dict)

    @property
    def setting(self) -> tuple[str, str, str]:
        """Data set, backbone and recipe: the errors of studies that share all three can be compared."""
        facts = self.table.facts
        return facts["data"], facts["backbone"], facts["recipe"]


@dataclass(frozen=True)
class Gates:
    """The measured gates of one trained network.

    Attributes:
        folder: where they lie, with `gates.csv`, `blocks.csv` and both figures.
        name: of the checkpoint: a trial's id, if it was trained here.
    """

    folder: Path
    name: str


def finished_studies(roots: Iterable[Path]) -> list[FinishedStudy]:
    """The studies below folders, published ones first; one that was published as it is counts once.

    Raises:
        ValueError: in one line, for a folder that is missing or a file that is damaged (which, and how).
    """
    studies: list[FinishedStudy] = []
    seen: set[tuple[str, bytes]] = set()
    for name, path in below(roots, "trials.csv"):
        known = (name, path.read_bytes())
        if known not in seen:
            seen.add(known)
            studies.append(finished_study(path, name))
    return studies


def finished_study(path: Path, name: str) -> FinishedStudy:
    """The study of a `trials.csv`."""
    trials, known = read_study(path)
    with with_file_name(path):
        table = summarise_study(trials, known)
        chosen = frozenset(row.label for row in front(trials, table).front) if is_search(trials) else None
    beside = path.with_name("curves.csv")
    curves = read_curves(beside) if beside.is_file() else None
    return FinishedStudy(path.parent, name, table, trials, curves, chosen, commands_of(path.with_name(COMMANDS)))


def commands_of(path: Path) -> dict[str, str]:
    """What a file of commands says; nothing where there is none.

    Raises:
        ValueError: in one line, where it is damaged.
    """
    if not path.is_file():
        return {}
    cells = read_cells(path)
    with with_file_name(path):
        require(("row", "command"), list(cells.columns))
    return dict(zip(cells["row"], cells["command"], strict=True))


def without_curves(found: Iterable[FinishedStudy]) -> list[str]:
    """The finished trials of studies that have no `curves.csv`."""
    return [
        trial_id
        for each in found
        if each.curves is None
        for trial_id, status in zip(each.trials["trial_id"], each.trials["status"], strict=True)
        if trial_id and status == "done"
    ]


def with_curves(found: Iterable[FinishedStudy], epochs: dict[str, list[dict[str, Any]]]) -> list[FinishedStudy]:
    """The studies, those without a `curves.csv` with what is known of their trials: trial id → a mapping an epoch."""
    out = []
    for each in found:
        if each.curves is None and any(trial_id in epochs for trial_id in each.trials["trial_id"]):
            each = replace(each, curves=curves_of_records(each.trials, epochs))
        out.append(each)
    return out


def measured_gates(roots: Iterable[Path]) -> list[Gates]:
    """The measured gates below folders; those of the same name count once."""
    by_name: dict[str, Gates] = {}
    for _, path in below(roots, "gates.csv"):
        by_name.setdefault(path.parent.name, Gates(path.parent, path.parent.name))
    return list(by_name.values())


def below(roots: Iterable[Path], file: str) -> Iterator[tuple[str, Path]]:
    """Name of a folder and the file of this name in it, those below `local` last; nothing below hidden folders."""
    places: dict[Path, tuple[bool, str, Path]] = {}
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"there is no folder {root}")
        for path in root.rglob(file):
            parts = path.parent.relative_to(root).parts
            if any(part.startswith(".") for part in parts):
                continue  # a checkout's, an editor's or a notebook's
            local = parts[:1] == (LOCAL,)
            name = "/".join(parts[local:]) or path.parent.absolute().name
            places.setdefault(path.absolute(), (local, name, path))
    for _, name, path in sorted(places.values()):
        yield name, path
