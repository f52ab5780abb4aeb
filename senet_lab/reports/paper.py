"""The paper's tables (2 to 6 and 10 to 16 of arXiv 1709.01507) as data, read from `paper.yaml` beside this file."""

from __future__ import annotations

from collections.abc import Collection
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
        top1: top-1 error, percent.
        top5: top-5 error, percent.
        gflops: 10^9 multiply-adds of one image.
        params_m: parameters in millions.
        size: height and width of that image, in pixels.
        original_top1, original_top5: errors that the network's own paper had printed, beside the re-implementation's.
    """

    name: str
    top1: float
    top5: float | None = None
    gflops: float | None = None
    params_m: float | None = None
    size: int = 224
    original_top1: float | None = None
    original_top5: float | None = None


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper, its caption in our own words.

    Attributes:
        id: `table2` … `table6`, `table10` … `table16`.
        caption: what the table varies.
        rows: the lines by name, in the paper's order.
        setting: the data set, and the network if it is one, in a few words.
        trunk: backbone of the one network that the table varies; empty where each row is a network of its own.
        classes: of the data set.
        note: what is particular about this table; empty if nothing is.
        about: what its errors stand for.
        gflops: which operations are counted.
        params: why recomputed parameters differ from the printed ones.
    """

    id: str
    caption: str
    rows: dict[str, PaperRow]
    setting: str
    trunk: str
    classes: int
    note: str
    about: str
    gflops: str
    params: str

    @property
    def number(self) -> str:
        """The table's number as text, "10" for `table10`."""
        return self.id.removeprefix("table")

    def row(self, name: str) -> PaperRow:
        """The line called `name`; a ValueError that lists the lines there are otherwise."""
        if name not in self.rows:
            raise ValueError(f"the paper's table {self.number} has no row '{name}'; it has {', '.join(self.rows)}")
        return self.rows[name]


def gflops_digits(gflops: float) -> int:
    """Digits behind the point that the paper prints: hundredths of a G, and whole M for networks that have less."""
    return 2 if gflops >= 1 else 3


@dataclass(frozen=True)
class PrintedResult:
    """An error of one network that tables 8 and 9 print, percent, of one crop of ImageNet's validation images.

    Attributes:
        sizes: side of the crop in pixels; table 8 has 320 or 299 in one column.
        library_names: what timm or torchvision call the network; empty where they have none of it.
    """

    table: int
    name: str
    sizes: tuple[int, ...]
    top1: float
    top5: float
    library_names: tuple[str, ...]


@cache
def printed_results() -> list[PrintedResult]:
    """The rows of tables 8 and 9, in the paper's order; a row of two sizes is two results."""
    document = yaml.safe_load(resources.files("senet_lab.reports").joinpath("paper.yaml").read_text(encoding="utf-8"))
    return [
        PrintedResult(number, name, tuple(result["size"]), error[0], error[1], tuple(row.get("library", ())))
        for number, rows in document["results"].items()
        for name, row in rows.items()
        for result in row["printed"]
        for error in [result["error"]]
    ]


@cache
def paper_tables() -> dict[str, PaperTable]:
    """All tables by id, from the package's `paper.yaml`, read once."""
    text = resources.files("senet_lab.reports").joinpath("paper.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return {name: _table(name, entry, document) for name, entry in document["tables"].items()}


def paper_table(name: str) -> PaperTable:
    """The table with this id; a ValueError that lists the ids there are otherwise."""
    if name not in paper_tables():
        raise ValueError(f"paper_table: '{name}' is not one of {', '.join(paper_tables())}")
    return paper_tables()[name]


def _table(name: str, entry: dict[str, Any], document: dict[str, Any]) -> PaperTable:
    size = {"size": entry["size"]} if "size" in entry else {}
    rows = {label: PaperRow(label, **(size | numbers)) for label, numbers in entry["rows"].items()}
    return PaperTable(
        id=name,
        caption=entry["caption"],
        rows=rows,
        setting=entry["setting"],
        trunk=entry.get("trunk", ""),
        classes=entry.get("classes", 1000),
        note=entry.get("note", "").strip(),
        about=entry.get("about", document["about"]).strip(),
        gflops=_gflops(document, rows.values()),
        params=entry.get("params", document["params"]).strip(),
    )


def _gflops(document: dict[str, Any], rows: Collection[PaperRow]) -> str:
    """The text with the size of the image in it: the first row's, and the rows that have another."""
    size = next(iter(rows)).size
    plain = [row for row in rows if not row.name.startswith("SE-")]  # the row with SE has the same
    others = [f"{row.name}: {row.size} × {row.size}" for row in plain if row.size != size]
    image = f"{size} × {size}" + (f" ({', '.join(others)})" if others else "")
    text: str = document["gflops"]
    return text.strip().replace("{image}", image)
