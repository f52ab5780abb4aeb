"""The paper's ablation tables (10 to 16 of arXiv 1709.01507) as data, read from `paper.yaml` beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml


@dataclass(frozen=True)
class PaperRow:
    """One line of a table as printed; None is what that table did not print.

    Attributes:
        name: the row's name in the paper.
        top1: top-1 error on ImageNet-1k's validation images, percent.
        top5: top-5 error, percent.
        gflops: 10^9 multiply-adds of one image.
        params_m: parameters in millions.
    """

    name: str
    top1: float
    top5: float
    gflops: float | None = None
    params_m: float | None = None


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper, its caption in our own words.

    Attributes:
        id: `table10` … `table16`.
        caption: what the table varies.
        rows: the lines by name, in the paper's order.
        note: what is particular about this table; empty if nothing is.
    """

    id: str
    caption: str
    rows: dict[str, PaperRow]
    note: str = ""

    @property
    def number(self) -> str:
        """The table's number as text, "10" for `table10`."""
        return self.id.removeprefix("table")

    def row(self, name: str) -> PaperRow:
        """The line called `name`; a ValueError that lists the lines there are otherwise."""
        if name not in self.rows:
            raise ValueError(f"the paper's table {self.number} has no row '{name}'; it has {', '.join(self.rows)}")
        return self.rows[name]


@dataclass(frozen=True)
class Paper:
    """All tables, and the three texts that stand under every one of ours.

    Attributes:
        about: what the paper's errors stand for.
        gflops: which operations are counted.
        params: why recomputed parameters differ from the printed ones.
        tables: by id.
    """

    about: str
    gflops: str
    params: str
    tables: dict[str, PaperTable]

    def table(self, name: str) -> PaperTable:
        """The table with this id; a ValueError that lists the ids there are otherwise."""
        if name not in self.tables:
            raise ValueError(f"paper_table: '{name}' is not one of {', '.join(self.tables)}")
        return self.tables[name]


@cache
def load() -> Paper:
    """The package's `paper.yaml`, read once."""
    text = resources.files("senet_lab.reports").joinpath("paper.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    tables = {
        name: PaperTable(
            id=name,
            caption=entry["caption"],
            rows={label: PaperRow(label, **numbers) for label, numbers in entry["rows"].items()},
            note=entry.get("note", ""),
        )
        for name, entry in document["tables"].items()
    }
    return Paper(document["about"], document["gflops"], document["params"], tables)
