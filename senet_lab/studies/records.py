"""The records of a store as a table to analyse: `senet_lab.load_records`."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from senet_lab.config import SE, Data, Recipe, UserError
from senet_lab.studies.store import Store

# Column → where its value is in a record. Those of the configuration are called as they are on the command line.
COLUMNS: dict[str, tuple[str, ...]] = {
    "trial_id": ("trial_id",),
    "state": ("state",),  # done | failed
    "reason": ("reason",),  # of a failure
    "label": ("label",),  # the row that it was trained for first
    "seed": ("config", "seed"),
    "backbone": ("config", "backbone"),
    "stride": ("config", "stride"),
    "init": ("config", "init"),  # weights that it started from, as they were called
    "se.reduction": ("config", "se", "reduction"),
    "se.squeeze": ("config", "se", "squeeze"),
    "se.excitation": ("config", "se", "excitation"),
    "se.position": ("config", "se", "position"),
    "se.bias": ("config", "se", "bias"),
    "hidden": ("config", "hidden"),  # of each SE block, by stage
    "data": ("config", "data", "name"),
    "recipe": ("config", "recipe", "name"),
    "epochs": ("config", "recipe", "epochs"),
    "test_error": ("metrics", "test_error"),  # top-1, percent
    "test_top5_error": ("metrics", "test_top5_error"),
    "val_error": ("metrics", "val_error"),
    "test_loss": ("metrics", "test_loss"),
    "val_loss": ("metrics", "val_loss"),
    "train_loss": ("metrics", "train_loss"),
    "params": ("params",),
    "macs": ("macs",),  # multiply-adds of one image
    "seconds": ("seconds",),
    "peak_memory_mib": ("peak_memory_mib",),
    "started": ("started",),
    "resumed": ("resumed",),
    "attempts": ("attempts",),
    "device": ("config", "device"),
    "precision": ("config", "precision"),
    "device_name": ("device_name",),
    "host": ("host",),
    "commit": ("commit",),
    "dirty": ("dirty",),
}
# Parts of the configuration of which every other field has a column, too. A field that was added since a trial ran has
# its default there, which is what was done before.
EXPANDED = {"se": SE, "data": Data, "recipe": Recipe}
WHOLE = ("seed", "epochs", "params", "macs", "attempts")


def load_records(storage: str | Path) -> pd.DataFrame:
    """Every trial of a store that has ended, one line each, in the order in which they ended.

    Errors are in percent, losses as they were trained on, `macs` are multiply-adds of one image, times in seconds;
    `started` is a date in UTC. What a trial of a plain network, or one that failed, has no value for is empty. Where
    stages differ, `se.reduction` and `hidden` read "stage:number …"; a stage that is not named there has no SE. Behind
    the columns of `COLUMNS` stand all other fields of the design, the data and the recipe (`recipe.lr`, `data.size`, …)
    and the versions of libraries (`torch`, …).

    Args:
        storage: path of a SQLite file, such as results/local/lab.db, or a SQLAlchemy URL.

    Raises:
        UserError: if there is no store, or it cannot be read, or a record is damaged.
    """
    url = str(storage)
    if "://" not in url:
        if not Path(url).is_file():
            raise UserError(f"storage: there is no file {url}")
        url = sa.URL.create("sqlite", database=url).render_as_string()  # a path may have what a URL must escape
    store = Store(url, create=False)
    if store.empty:
        raise UserError(f"storage={store.name} holds no records")
    ended = store.ended()
    lines = [line(record) for record in reversed(ended)]
    others = dict.fromkeys(name for each in lines for name in each if name not in COLUMNS)
    frame = pd.DataFrame(lines, columns=[*COLUMNS, *others])
    frame["started"] = pd.to_datetime(frame["started"], utc=True)
    return frame.astype(dict.fromkeys(WHOLE, "Int64"))


def line(record: Mapping[str, Any]) -> dict[str, Any]:
    """One record, flat."""
    config = dict(record["config"])
    config |= {part: {**vars(kind()), **config[part]} for part, kind in EXPANDED.items() if config.get(part)}
    values = {name: value_at({**record, "config": config}, path) for name, path in COLUMNS.items()}
    values["se.reduction"] = by_stage(values["se.reduction"])
    values["hidden"] = by_stage(values["hidden"])
    if values["started"] is not None:
        values["started"] = datetime.datetime.fromtimestamp(values["started"], datetime.UTC)
    taken = set(COLUMNS.values())
    for part in EXPANDED:
        fields = (config.get(part) or {}).items()
        values |= {f"{part}.{name}": list_text(value) for name, value in fields if ("config", part, name) not in taken}
    return {**values, **record.get("versions", {})}


def value_at(record: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """The value at a path of keys; None if a key is missing."""
    at: Any = record
    for key in path:
        at = at.get(key) if isinstance(at, Mapping) else None
    return at


def by_stage(value: Any) -> Any:
    """A number, or what a mapping has if all its stages have the same; else as text."""
    if not isinstance(value, Mapping):
        return value
    shown = {stage: list_text(each) for stage, each in value.items()}
    same = set(shown.values())
    return same.pop() if len(same) == 1 else " ".join(f"{stage}:{each}" for stage, each in shown.items())


def list_text(value: Any) -> Any:
    """A list or a mapping as text, so that lines can be grouped by it."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}:{each}" for name, each in value.items())
    return "/".join(map(str, value)) if isinstance(value, (list, tuple)) else value
