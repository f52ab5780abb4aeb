"""CSV files read strictly: a cut-off or edited file is an error in one line, never a line or a number less."""

from __future__ import annotations

import csv
import io
import lzma
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

COMMANDS = "commands.csv"  # beside a table: which command trains each row, and (without a row's name) all of them


def clean_text(value: Any) -> str:
    """Text as one printable line, as labels and error messages must be in files and figures."""
    if isinstance(value, str) and value.isascii() and value.isprintable() and " " not in value:
        return value  # nearly every cell, and there may be a million
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    printable = "".join(c if c.isprintable() else " " for c in str(value).encode("utf-8", "replace").decode("utf-8"))
    return " ".join(printable.split())


def whole_number(text: str) -> int:
    """`text` as a whole number; "360.0" is accepted, because pandas writes integers so beside empty cells."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def finite_number(text: str) -> float:
    """`text` as a finite number."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


PARSERS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "int": (whole_number, "Int64", "a whole number"),
    "float": (finite_number, "float64", "a finite number"),
}


@contextmanager
def with_file_name(path: str | Path) -> Iterator[None]:
    """Add the file's name to ValueErrors of the body."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_cells(path: str | Path) -> pd.DataFrame:
    """A CSV file, compressed by xz or not, as a frame of text, one column a name in its header.

    Raises:
        ValueError: in one line that names the file, where it cannot be read or is cut off.
    """
    path = Path(path)
    with with_file_name(path):
        try:
            content = path.read_bytes()
            text = (lzma.decompress(content) if path.suffix == ".xz" else content).decode("utf-8-sig")
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror})") from None
        except lzma.LZMAError:
            raise ValueError("damaged, or not compressed by xz") from None
        except UnicodeDecodeError:
            raise ValueError("damaged, it is not UTF-8 text") from None
        return _frame(text)


def _frame(text: str) -> pd.DataFrame:
    """A CSV text as a frame of text; a ValueError where lines are cut off or have too many or too few cells."""
    if not text.strip():
        raise ValueError("empty")
    if not text.endswith("\n"):
        raise ValueError("damaged, its last line is cut off")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader)
        lines = []
        for cells in reader:
            if len(cells) != len(header):
                raise ValueError(f"damaged, line {reader.line_num} has {len(cells)} cells and the header {len(header)}")
            lines.append(cells)
    except csv.Error as error:
        raise ValueError(f"damaged, line {reader.line_num}: {error}") from None
    return pd.DataFrame(lines, columns=header, dtype=object)


def require(columns: Iterable[str], names: Collection[str]) -> None:
    """A ValueError that tells which columns a file lacks, if it does."""
    missing = [name for name in columns if name not in names]
    if missing:
        raise ValueError(f"column{'s' * (len(missing) > 1)} missing: {', '.join(missing)}")


def typed_column(name: str, kind: str, cells: list[str]) -> pd.Series[Any]:
    """A column of text as what it holds, "text", "int" or "float"; a ValueError names the line that does not."""
    if kind == "text":
        return pd.Series(cells, dtype=object)
    parse, dtype, expected = PARSERS[kind]
    values: list[Any] = []
    for line, cell in enumerate(cells, start=2):
        try:
            values.append(parse(cell) if cell else None)
        except (ValueError, OverflowError):
            raise ValueError(f"line {line}: {name} is '{cell}', not {expected}") from None
    return pd.Series(values, dtype=dtype)


def present(values: Iterable[Any]) -> list[Any]:
    """The distinct values that are not empty, as they first appear."""
    return list(dict.fromkeys(value for value in values if not pd.isna(value) and value != ""))


def first(values: Iterable[Any], otherwise: Any = None) -> Any:
    """The first value that is not empty."""
    return next(iter(present(values)), otherwise)


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A frame as CSV: UTF-8, lines ended by a line feed, floats in the shortest form that reads back equal."""
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text.encode("utf-8", "replace")
