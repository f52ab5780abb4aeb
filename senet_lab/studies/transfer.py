"""`python -m senet_lab store copy | export | import`: how the records of a store get into another one.

What is taken over are the records of trials that have ended, and the notes (a search's space, latencies). A record that
is there already stays as it is: of one trial there is one result. Optuna's tables are a mirror of the records: copied
where both stores are databases, and otherwise written by the next run of each study, or by `export optuna`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import lzma
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pandas as pd

from senet_lab import files, outputs
from senet_lab.config import UserError
from senet_lab.reports import curves
from senet_lab.reports.cells import read_cells
from senet_lab.reports.trials import read_trials
from senet_lab.studies import settle_plan
from senet_lab.studies.database import parse
from senet_lab.studies.records import COLUMNS, value_at
from senet_lab.studies.store import DONE, FAILED, Record, Store
from senet_lab.studies.store_check import all_records, open_existing

RECORD = "record"  # column of an export that holds the whole record as JSON
OUTPUTS = "outputs"  # and of one that holds its outputs in base64; exports of earlier versions lack it
NOTE = "note"  # status of a line that is one of the notes
SHOWN = ("label", "backbone", "data", "recipe", "seed", "test_error", "val_error")  # beside it, to be read by people


class FinishedTrial(NamedTuple):
    """A trial that has ended, as `Store.add` takes it: `state` is `done` or `failed`, `heartbeat` when it ended, in
    seconds since 1970, `text` its record as JSON, `packed` its outputs, if it has any."""

    trial_id: str
    state: str
    heartbeat: float
    text: str
    packed: bytes | None = None


# ---------------------------------------------------------------------------------------------------------------- copy


def copy(source: str, target: str) -> None:
    """Add the records of a store that another one lacks; the kinds of databases may differ (SQLite, PostgreSQL)."""
    ours, theirs = open_existing(source), Store(target)
    if parse(source) == parse(target):
        raise UserError(f"{ours.name} cannot be copied to itself")
    noted = ours.noted()
    added, other = add_missing(theirs, ended(ours), noted)
    studies = copy_studies(ours, theirs)
    print(f"{theirs.name}: {added:,} records added, {len(noted):,} notes, {studies:,} of Optuna's studies")
    tell_others(other)


def copy_studies(ours: Store, theirs: Store) -> int:
    """Copy Optuna's studies that the other store lacks; how many."""
    if "studies" not in ours.tables:
        return 0
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    there, here = (set(optuna.get_all_study_names(storage=store.url)) for store in (ours, theirs))
    for name in sorted(there - here):
        optuna.copy_study(from_study_name=name, from_storage=ours.url, to_storage=theirs.url)
    return len(there - here)


def ended(store: Store) -> Iterator[FinishedTrial]:
    """Every trial of a store that has ended, the oldest first."""
    for row, packed in all_records(store):
        if row.state in (DONE, FAILED):
            store.parse(row)  # damaged records are not copied
            yield FinishedTrial(row.trial_id, row.state, row.heartbeat, row.record, packed)


def add_missing(store: Store, trials: Iterable[FinishedTrial], noted: Mapping[str, str]) -> tuple[int, list[str]]:
    """Add trials and notes (JSON by name) that a store lacks.

    Returns:
        How many trials were added, and the ids of those that it has with another result.
    """
    added, other = 0, []
    for trial in trials:
        if store.add(*trial):
            added += 1
        elif comparable_result(store.text(trial.trial_id)) != comparable_result(trial.text):
            other.append(trial.trial_id)
    for name, value in noted.items():
        store.note_once(name, json.loads(value))
    return added, other


def comparable_result(text: str | None) -> Any:
    """The part of a record in which two records of one trial should agree."""
    record = json.loads(text) if text else {}
    return record.get("metrics", {}).get("test_error"), "reason" in record


def tell_others(trial_ids: list[str]) -> None:
    if trial_ids:
        print(
            f"{len(trial_ids)} of them were there with another result, or are running, and stay so: {trial_ids[0]}, …",
            file=sys.stderr,
        )


# ------------------------------------------------------------------------------------------------------------- to CSV


def export_csv(url: str, path: Path) -> None:
    """Write every record of a store to a CSV file that `read_in` reads, one line a trial, the oldest first; compressed
    where its name ends in .xz."""
    store = open_existing(url)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial_id", "status", "ended", *SHOWN, OUTPUTS, RECORD])
    noted = store.noted()
    for name, value in noted.items():
        writer.writerow([name, NOTE, repr(0.0), *[""] * len(SHOWN), "", value])
    count = 0
    for count, trial in enumerate(ended(store), start=1):  # noqa: B007  # the last is how many there are
        record = json.loads(trial.text)
        shown = [value_at(record, COLUMNS[name]) for name in SHOWN]
        packed = base64.b64encode(trial.packed or b"").decode()
        writer.writerow([trial.trial_id, trial.state, repr(trial.heartbeat), *shown, packed, trial.text])
    content = out.getvalue().encode()
    files.replace_all(path.parent, {path.name: lzma.compress(content) if path.suffix == ".xz" else content})
    print(f"written: {path} ({count:,} trials, {len(noted):,} notes)")


def read_in(url: str, paths: list[Path]) -> None:
    """Add what CSV files hold to a store: an export of another store, or the `trials.csv` of a study, with the
    `curves.csv`, `runs.csv` and `outputs.npz` beside it. All files are read before anything is written.

    Raises:
        UserError: for a file that is neither, in one line.
    """
    found: list[FinishedTrial] = []
    noted: dict[str, str] = {}
    for path in paths:
        try:
            trials, notes = (read_export if RECORD in read_cells(path).columns else read_published)(path)
        except (ValueError, OSError) as error:
            raise UserError(str(error)) from error
        found += trials
        noted |= notes
    store = Store(url)
    added, other = add_missing(store, found, noted)
    print(f"{store.name}: {added:,} of {len(found):,} records added; studies that need them train them no more")
    tell_others(other)


def read_export(path: Path) -> tuple[list[FinishedTrial], dict[str, str]]:
    """The trials of an export, and its notes."""
    trials, noted = [], {}
    for number, line in enumerate(read_cells(path).to_dict("records"), start=2):
        try:
            json.loads(line[RECORD])
            if line["status"] == NOTE:
                noted[line["trial_id"]] = line[RECORD]
                continue
            if line["status"] not in (DONE, FAILED):
                raise ValueError(f"its status is '{line['status']}'")
            packed = base64.b64decode(line.get(OUTPUTS) or "", validate=True)
            outputs.Outputs.unpacked(packed)
            trials.append(
                FinishedTrial(line["trial_id"], line["status"], float(line["ended"]), line[RECORD], packed or None)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: line {number} is no trial of an export ({error})") from None
    return trials, noted


def read_published(path: Path) -> tuple[list[FinishedTrial], dict[str, str]]:
    """The trials of a study's `trials.csv` as records, and its plan as a note if seeds were added until its verdicts
    were in. The records name the file, because it holds less of the configuration than a store."""
    trials = read_trials(path)
    epochs: dict[str, list[dict[str, Any]]] = {}
    if (path.parent / "curves.csv").is_file():
        for line in curves.read_curves(path.parent / "curves.csv").to_dict("records"):
            epochs.setdefault(str(line["trial_id"]), []).append({key: line[key] for key in curves.PER_EPOCH})
    measured: dict[str, dict[Any, Any]] = {}
    if (path.parent / "runs.csv").is_file():
        measured = {str(line["trial_id"]): line for line in read_cells(path.parent / "runs.csv").to_dict("records")}
    kept = path.parent / outputs.FILE
    packed = {name: each.packed() for name, each in outputs.read_file(kept).items()} if kept.is_file() else {}
    records = {}  # a trial that several rows share stands once
    for number, line in enumerate(trials.to_dict("records")):
        trial_id = line["trial_id"]
        if not trial_id:
            raise ValueError(f"{path}: line {number + 2} has no trial_id")
        record = of_line(line, measured.get(trial_id, {})) | {"imported": str(path.name)}
        if line["status"] == DONE:
            record["epochs"] = epochs.get(trial_id, [])
        text = json.dumps(record, sort_keys=True, allow_nan=False)
        records[trial_id] = FinishedTrial(trial_id, line["status"], float(number), text, packed.get(trial_id))
    plan = settle_plan.of_table(trials, path.resolve().parent)
    return list(records.values()), {plan["plan"]: json.dumps(plan, allow_nan=False)} if plan else {}


def of_line(line: dict[Any, Any], run: dict[Any, Any]) -> Record:
    """A record from a line of a trials.csv and its line of runs.csv."""
    config = {key: line[key] for key in ("seed", "backbone", "device")}
    config |= {part: {"name": line[part]} for part in ("data", "recipe")}
    versions = dict(word.split("=", 1) for word in str(run.get("versions") or f"torch={line['torch']}").split())
    record: Record = {"config": config, "label": line["row"], "versions": versions}
    record |= {key: int(line[key]) for key in ("params", "macs")}
    record |= {key: run[key] for key in ("host", "device_name", "commit") if run.get(key)}
    if line["status"] == FAILED:
        return record | {"reason": line["reason"]}
    metrics = ("test_error", "test_top5_error", "test_loss", "val_error", "val_loss")
    record["metrics"] = {key: float(line[key]) for key in metrics if not pd.isna(line.get(key))}
    return record | {"seconds": float(run.get("seconds") or 0), "resumed": run.get("resumed") == "True"}
