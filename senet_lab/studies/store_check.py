"""`python -m senet_lab store check`: whether a store is whole."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from senet_lab import outputs
from senet_lab.config import SE, Data, Recipe, RunError, UserError
from senet_lab.studies.owners import is_dead
from senet_lab.studies.store import DONE, FAILED, RUNNING, SOME, STALE_SECONDS, Store, records
from senet_lab.training.faults import is_no_result
from senet_lab.training.spec import REMOVED_FIELDS, Spec


def check_store(url: str) -> None:
    """Read every record of a store, print what it holds, and what is wrong with it: also which failures an earlier
    version has recorded that a machine was to blame for.

    Raises:
        UserError: if it cannot be opened.
        RunError: if anything in it is damaged.
    """
    store = open_existing(url)
    counts: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    no_results: dict[str, str] = {}
    for row, packed in all_records(store):
        counts[row.state] += 1
        if found := fault(store, row, packed):
            wrong[row.trial_id] = found
        elif row.state == FAILED and is_no_result(reason := str(store.parse(row)["reason"])):
            no_results[row.trial_id] = reason
        elif row.state == RUNNING:
            silent = time.time() - row.heartbeat > STALE_SECONDS
            counts["dead" if silent or is_dead(row.owner) else "alive"] += 1
    trials = sorted(wrong)
    for name, text in store.noted().items():
        try:
            json.loads(text)
        except ValueError as error:
            wrong[f"note {name}"] = f"it is no JSON ({error})"
    for name in [*trials, *(name for name in wrong if name not in trials)]:
        print(f"{name}: {wrong[name]}")
    print(f"{store.name}: {counts[DONE]:,} done, {counts[FAILED]:,} failed, {counts['alive']:,} running")
    if counts["dead"]:
        print(f"{counts['dead']:,} claimed by drivers that have ended: whoever needs them takes them over")
    for name, reason in sorted(no_results.items()):
        print(f"{name}: failed, and that is no result of its network: {reason}")
    if no_results:
        names = " ".join(sorted(no_results))
        print(f"to train them again: python -m senet_lab store forget {names} --storage {shlex.quote(store.name)}")
    if wrong:
        cure = f"; python -m senet_lab store forget {trials[0]} deletes one" if trials else ""
        raise RunError(f"{len(wrong)} of its entries {'is' if len(wrong) == 1 else 'are'} damaged, see above{cure}")


def open_existing(url: str) -> Store:
    """A store that is there."""
    store = Store(url, create=False)
    if store.empty:
        raise UserError(f"storage={store.name} holds no records")
    return store


def all_records(store: Store) -> Iterator[tuple[sa.Row[Any], bytes | None]]:
    """Every row of the records with its outputs, the oldest first."""
    ids = [row.trial_id for row in store.rows(sa.select(records.c.trial_id).order_by(records.c.heartbeat))]
    for start in range(0, len(ids), SOME):
        some = ids[start : start + SOME]
        packed = store.outputs(some)
        for row in store.of(sa.select(records), some):
            yield row, packed.get(row.trial_id)


def fault(store: Store, row: sa.Row[Any], packed: bytes | None) -> str:
    """What is wrong with a row of the store and its outputs; empty if nothing is."""
    try:
        outputs.Outputs.unpacked(packed or b"")
    except ValueError as error:
        return f"its outputs are damaged ({error})"
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
        if any(record["config"].get(name, default) != default for name, default in REMOVED_FIELDS.items()):
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


def spec_of(config: dict[str, Any]) -> Spec:
    """The training that a record's configuration is of. Fields that are newer than the record have their defaults, and
    those that are gone (`GONE`) are left out."""
    parts = {"se": SE, "data": Data, "recipe": Recipe}
    built = {name: kind(**config[name]) for name, kind in parts.items() if config[name] is not None}
    return Spec(**{name: value for name, value in {**config, **built}.items() if name not in REMOVED_FIELDS})
