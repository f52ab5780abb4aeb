"""`python -m senet_lab store …`: whether a store is whole, and how its records get into another one.

What is taken over are the records of trials that have ended, and the notes (a search's space, latencies). A record that
is there already stays as it is: of one trial there is one result. Optuna's tables are a mirror of the records: copied
where both stores are databases, and otherwise written by the next run of each study.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import lzma
import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import sqlalchemy as sa

from senet_lab import files, outputs
from senet_lab.config import SE, Data, Recipe, RunError, UserError
from senet_lab.reports import curves
from senet_lab.reports.cells import read_cells
from senet_lab.reports.trials import read_trials
from senet_lab.studies import settling
from senet_lab.studies.owners import is_dead
from senet_lab.studies.store import DONE, FAILED, RUNNING, STALE_SECONDS, Record, Store, parse, records
from senet_lab.training.faults import is_no_result
from senet_lab.training.spec import GONE, Spec

RECORD = "record"  # column of an export that holds the whole record as JSON
OUTPUTS = "outputs"  # and of one that holds its outputs in base64; exports of earlier versions lack it
NOTE = "note"  # status of a line that is one of the notes
SHOWN = ("label", "backbone", "data", "recipe", "seed", "test_error", "val_error")  # beside it, to be read by people


@dataclass(frozen=True)
class Ended:
    """A trial that has ended, as a row of the store; `state` is `done` or `failed`, `heartbeat` when it ended (seconds
    since 1970), `record` JSON, `packed` its outputs, if it has any."""

    trial_id: str
    state: str
    heartbeat: float
    record: str
    packed: bytes | None = None


# --------------------------------------------------------------------------------------------------------------- check


def check(url: str) -> None:
    """Read every record of a store, print what it holds, and what is wrong with it: also which failures an earlier
    version has recorded that a machine was to blame for.

    Raises:
        UserError: if it cannot be opened.
        RunError: if anything in it is damaged.
    """
    store = opened(url)
    counts: Counter[str] = Counter()
    wrong: list[tuple[str, str]] = []
    no_results: list[tuple[str, str]] = []
    with store.transaction() as connection:
        for row in connection.execute(sa.select(records).order_by(records.c.trial_id)).yield_per(500):
            counts[row.state] += 1
            said = fault(store, row) or unfit(store.outputs([row.trial_id]).get(row.trial_id))
            if said:
                wrong.append((row.trial_id, said))
            elif row.state == FAILED and is_no_result(reason := str(store.parse(row)["reason"])):
                no_results.append((row.trial_id, reason))
            elif row.state == RUNNING:
                silent = time.time() - row.heartbeat > STALE_SECONDS
                counts["dead" if silent or is_dead(row.owner) else "alive"] += 1
    for name, text in store.noted().items():
        try:
            json.loads(text)
        except ValueError as error:
            wrong.append((f"note {name}", f"it is no JSON ({error})"))
    for name, said in wrong:
        print(f"{name}: {said}")
    print(f"{store.name}: {counts[DONE]:,} done, {counts[FAILED]:,} failed, {counts['alive']:,} running")
    if counts["dead"]:
        print(f"{counts['dead']:,} claimed by drivers that have ended: whoever needs them takes them over")
    if no_results:
        for name, reason in no_results:
            print(f"{name}: failed, and that is no result of its network: {reason}")
        names = " ".join(name for name, _ in no_results)
        print(f"to train them again: python -m senet_lab store forget {names} --storage {shlex.quote(store.name)}")
    if wrong:
        trials = [name for name, _ in wrong if not name.startswith("note ")]
        cure = f"; python -m senet_lab store forget {trials[0]} deletes one" if trials else ""
        raise RunError(f"{len(wrong)} of its entries {'is' if len(wrong) == 1 else 'are'} damaged, see above{cure}")


def fault(store: Store, row: sa.Row[Any]) -> str:
    """What is wrong with a row of the store; empty if nothing is."""
    if row.state == RUNNING:
        return "" if row.record is None else "it is running and has a record"
    if row.state not in (DONE, FAILED):
        return f"its state is '{row.state}'; there are {RUNNING}, {DONE}, {FAILED}"
    try:
        record = store.parse(row)
    except UserError:
        return "its record is cut off, or no record"
    numbers = [value for value in record.get("metrics", {}).values() if isinstance(value, (int, float))]
    if not all(map(math.isfinite, numbers)):
        return "a metric is not a number"
    if "imported" in record:
        return ""  # of what a trials.csv says, there is no whole configuration to compare with
    try:
        if any(record["config"].get(name, default) != default for name, default in GONE.items()):
            return ""  # of a training that this version cannot name
        named = spec_of(record["config"]).trial_id
    except (AttributeError, KeyError, TypeError, ValueError):
        return "its configuration is not whole"
    if named != row.trial_id:
        return f"its configuration is that of trial {named}"
    epochs = record["config"]["recipe"]["epochs"]
    if row.state == DONE and [entry.get("epoch") for entry in record["epochs"]] != list(range(1, epochs + 1)):
        return f"it does not have the {epochs} epochs that it was trained for"
    return ""


def unfit(packed: bytes | None) -> str:
    """What is wrong with a trial's outputs; empty if nothing is, or it has none."""
    try:
        outputs.Outputs.unpacked(packed or b"")
    except ValueError as error:
        return f"its outputs are damaged ({error})"
    return ""


def spec_of(config: dict[str, Any]) -> Spec:
    """The training that a record's configuration is of. Fields that are newer than the record have their defaults, and
    those that are gone (`GONE`) are left out."""
    parts = {"se": SE, "data": Data, "recipe": Recipe}
    built = {name: kind(**config[name]) for name, kind in parts.items() if config[name] is not None}
    return Spec(**{name: value for name, value in {**config, **built}.items() if name not in GONE})


# ---------------------------------------------------------------------------------------------------------------- copy


def copy(source: str, target: str) -> None:
    """Add what a store has and another one lacks to the other; their kinds may differ (SQLite, PostgreSQL)."""
    ours, theirs = opened(source), Store(target)
    if parse(source) == parse(target):
        raise UserError(f"{ours.name} cannot be copied to itself")
    noted = ours.noted()
    added, other = add(theirs, ended(ours))
    for name, value in noted.items():
        theirs.note_once(name, json.loads(value))
    studies = copy_studies(ours, theirs)
    print(f"{theirs.name}: {added:,} records added, {len(noted):,} notes, {studies:,} of Optuna's studies")
    tell_others(other)


def copy_studies(ours: Store, theirs: Store) -> int:
    """Copy Optuna's studies that the other store lacks; how many."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    urls = [store.engine.url.render_as_string(hide_password=False) for store in (ours, theirs)]
    with ours.transaction() as connection:
        if not sa.inspect(connection).has_table("studies"):
            return 0
    there, here = (optuna.get_all_study_names(storage=url) for url in urls)
    missing = [name for name in there if name not in set(here)]
    for name in missing:
        optuna.copy_study(from_study_name=name, from_storage=urls[0], to_storage=urls[1])
    return len(missing)


def opened(url: str) -> Store:
    """A store that is there."""
    store = Store(url, create=False)
    if store.empty:
        raise UserError(f"storage={store.name} holds no records")
    return store


def ended(store: Store) -> Iterator[Ended]:
    """Every trial of a store that has ended, the oldest first."""
    query = sa.select(records).where(records.c.state.in_((DONE, FAILED))).order_by(records.c.heartbeat)
    with store.transaction() as connection:
        for rows in connection.execute(query).yield_per(500).partitions():
            packed = store.outputs(row.trial_id for row in rows)
            for row in rows:
                store.parse(row)  # damage is not spread
                yield Ended(row.trial_id, row.state, row.heartbeat, row.record, packed.get(row.trial_id))


def add(store: Store, trials: Iterable[Ended]) -> tuple[int, list[str]]:
    """Add trials that a store lacks.

    Returns:
        How many were added, and the ids of those that it has with another result.
    """
    added, other = 0, []
    for trial in trials:
        if store.add(trial.trial_id, trial.state, trial.heartbeat, trial.record, trial.packed):
            added += 1
        elif outcome(store.text(trial.trial_id)) != outcome(trial.record):
            other.append(trial.trial_id)
    return added, other


def outcome(text: str | None) -> Any:
    """What two records of one trial should agree in."""
    record = json.loads(text) if text else {}
    return record.get("metrics", {}).get("test_error"), "reason" in record


def tell_others(trial_ids: list[str]) -> None:
    if trial_ids:
        print(
            f"{len(trial_ids)} of them were there with another result, or are running, and stay so: {trial_ids[0]}, …",
            file=sys.stderr,
        )


# ------------------------------------------------------------------------------------------------------------- to CSV


def export(url: str, path: Path) -> None:
    """Write every record of a store to a CSV file that `read_in` reads, one line a trial, the oldest first; compressed
    where its name ends in .xz."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial_id", "status", "ended", *SHOWN, OUTPUTS, RECORD])
    trials = list(ended(opened(url)))
    noted = opened(url).noted()
    for key, value in noted.items():
        writer.writerow([key, NOTE, repr(0.0), *[""] * len(SHOWN), "", value])
    for trial in trials:
        record = json.loads(trial.record)
        config, metrics = record["config"], record.get("metrics", {})
        shown = [record.get("label"), config.get("backbone"), name(config, "data"), name(config, "recipe")]
        shown += [config.get("seed"), metrics.get("test_error"), metrics.get("val_error")]
        packed = base64.b64encode(trial.packed or b"").decode()
        writer.writerow([trial.trial_id, trial.state, repr(trial.heartbeat), *shown, packed, trial.record])
    content = out.getvalue().encode()
    files.replace_all(path.parent, {path.name: lzma.compress(content) if path.suffix == ".xz" else content})
    print(f"written: {path} ({len(trials):,} trials, {len(noted):,} notes)")


def name(config: dict[str, Any], part: str) -> Any:
    return (config.get(part) or {}).get("name")


def read_in(url: str, paths: list[Path]) -> None:
    """Add what CSV files hold to a store: an export of another store, or the `trials.csv` of a study, with the
    `curves.csv`, `runs.csv` and `outputs.npz` beside it. All files are read before anything is written.

    Raises:
        UserError: for a file that is neither, in one line.
    """
    found: list[Ended] = []
    noted: dict[str, Any] = {}
    for path in paths:
        try:
            whole = RECORD in read_cells(path).columns
            trials, notes = exported(path) if whole else published(path)
        except (ValueError, OSError) as error:
            raise UserError(str(error)) from error
        found += trials
        noted |= notes
    store = Store(url)
    for key, value in noted.items():
        store.note_once(key, value)
    added, other = add(store, found)
    print(f"{store.name}: {added:,} of {len(found):,} records added; studies that need them train them no more")
    tell_others(other)


def exported(path: Path) -> tuple[list[Ended], dict[str, Any]]:
    """The trials of an export, and its notes."""
    found, noted = [], {}
    for number, line in enumerate(read_cells(path).to_dict("records"), start=2):
        try:
            value = json.loads(line[RECORD])
            if line["status"] == NOTE:
                noted[line["trial_id"]] = value
                continue
            if line["status"] not in (DONE, FAILED):
                raise ValueError(f"its status is '{line['status']}'")
            packed = base64.b64decode(line.get(OUTPUTS) or "", validate=True) or None
            if packed:
                outputs.Outputs.unpacked(packed)
            found.append(Ended(line["trial_id"], line["status"], float(line["ended"]), line[RECORD], packed))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: line {number} is no trial of an export ({error})") from None
    return found, noted


def published(path: Path) -> tuple[list[Ended], dict[str, Any]]:
    """The trials of a study's `trials.csv`, as records, and the plan of one whose seeds were added until its verdicts
    were in, as a note. They say where they are from, because they know no more of their configuration than the table
    does."""
    trials = read_trials(path)
    by_id: dict[str, list[dict[str, Any]]] = {}
    if (path.parent / "curves.csv").is_file():
        for line in curves.read_curves(path.parent / "curves.csv").to_dict("records"):
            entry = {key: line[key] for key in curves.PER_EPOCH}
            by_id.setdefault(str(line["trial_id"]), []).append(entry)
    measured: dict[str, dict[Any, Any]] = {}
    if (path.parent / "runs.csv").is_file():
        measured = {str(line["trial_id"]): line for line in read_cells(path.parent / "runs.csv").to_dict("records")}
    kept = path.parent / outputs.FILE
    packed = {name: each.packed() for name, each in outputs.read_file(kept).items()} if kept.is_file() else {}
    found = []
    for number, line in enumerate(trials.to_dict("records")):
        if not line["trial_id"]:
            raise ValueError(f"{path}: line {number + 2} has no trial_id")
        record = of_line(line, measured.get(line["trial_id"], {})) | {"imported": str(path.name)}
        if line["status"] == DONE:
            record["epochs"] = by_id.get(line["trial_id"], [])
        text = json.dumps(record, sort_keys=True, allow_nan=False)
        found.append(Ended(line["trial_id"], line["status"], float(number), text, packed.get(line["trial_id"])))
    plan = settling.of_table(trials, path.resolve().parent)
    once = list({trial.trial_id: trial for trial in found}.values())  # one that several rows share stands once
    return once, {plan["plan"]: plan} if plan else {}


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
