"""How the values of a table's row read: numbers, intervals and verdicts as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from senet_lab.reports.aim import DIGITS
from senet_lab.reports.paper import gflops_digits
from senet_lab.reports.statistics import Sample
from senet_lab.reports.table import TableRow

MINUS = "−"


def and_list(words: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def fixed_digits(digits: int, unit: float = 1) -> Callable[[float], str]:
    """Numbers, in units of `unit`, with this many digits behind the point."""
    return lambda value: f"{value / unit:.{digits}f}"


def printed_gflops(value: float) -> str:
    """The paper's GFLOPs, as precise as it prints them."""
    return f"{value:.{gflops_digits(value)}f}"


def significant(digits: int) -> Callable[[float], str]:
    """Numbers in so many significant digits."""
    return lambda value: f"{value:.{digits}g}"


def p_value(p: float) -> str:
    """A p as people write it: two digits, three below 0.1."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text[1:]


def count(value: float) -> str:
    """Parameters or multiply-adds in k, M or G."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.4g} {letter}"
    return str(int(value))


def mean_cell(sample: Sample, digits: int, n: bool = False) -> str:
    """ "2.13 ± 0.40", over the seeds, and how many these are: " (3)"."""
    half = "" if sample.half_width is None else f" ± {sample.half_width:.{digits}f}"
    return f"{sample.mean:.{digits}f}{half}" + f" ({sample.n})" * n


def pick(*path: str) -> Callable[[TableRow], Any]:
    """The value at a path of attributes and keys, None where one of them is."""

    def value(row: TableRow) -> Any:
        at: Any = row
        for name in path:
            at = at.get(name) if isinstance(at, dict) else None if at is None else getattr(at, name)
        return at

    return value


def in_its_unit(*path: str) -> Callable[[TableRow], str | None]:
    """The number at a path in the digits of the row's metric."""

    def cell(row: TableRow) -> str | None:
        number = pick(*path)(row)
        return None if number is None else f"{number:.{DIGITS[row.metric]}f}"

    return cell


def error_cell(row: TableRow) -> str | None:
    """ "2.13 ± 0.40 (3)"; a row whose trials all failed says so."""
    if row.top1 is None:
        return "failed" if row.failures else None
    return mean_cell(row.top1, DIGITS["error"], n=True)


def failed_seeds(row: TableRow) -> str:
    """ "seed 1, seed 3", the first few."""
    return ", ".join(f"seed {failure.seed}" for failure in row.failures[:6])


def loss_cell(row: TableRow) -> str | None:
    """ "0.0713 ± 0.0102", where verdicts are about the loss."""
    return mean_cell(row.loss, DIGITS["loss"]) if row.metric == "loss" and row.loss is not None else None


def crossed_cell(row: TableRow) -> str | None:
    """ "± 0.85": the row's error, or its loss, over seeds and test images."""
    half = in_its_unit("sample", "half_crossed")(row)
    return half and f"± {half}"


def delta_cell(row: TableRow) -> str | None:
    """ "+0.28 [−0.10, +0.66]", and how many pairs where a failure left fewer than seeds."""
    if row.delta is None:
        return None
    d = row.delta
    interval = "" if d.low is None or d.high is None else f" {interval_cell(d.low, d.high, row)}"
    return signed(d.delta, DIGITS[row.metric]) + interval + (f" ({d.n} pairs)" if d.n < len(row.seeds) else "")


def interval_cell(low: float, high: float, row: TableRow) -> str:
    """ "[−0.10, +0.66]"."""
    return f"[{signed(low, DIGITS[row.metric])}, {signed(high, DIGITS[row.metric])}]"


def delta_crossed_cell(row: TableRow) -> str | None:
    """ "[−0.51, +1.07]", over seeds and test images."""
    low, high = pick("delta", "low_crossed")(row), pick("delta", "high_crossed")(row)
    return None if low is None or high is None else interval_cell(low, high, row)


def share(source: str) -> Callable[[TableRow], float | None]:
    """The share of the variance of Δ that is from a source, `seeds`, `images` or `rest`."""

    def value(row: TableRow) -> float | None:
        crossed = None if row.delta is None else row.delta.crossed
        return None if crossed is None or not crossed.variance else crossed.shares[source] / crossed.variance

    return value


def shares_cell(row: TableRow) -> str | None:
    """ "12 / 80 / 8": percent of the variance of Δ."""
    parts = [share(source)(row) for source in ("seeds", "images", "rest")]
    return None if None in parts else " / ".join(f"{100 * (each or 0):.0f}" for each in parts)


def within_cell(row: TableRow) -> str | None:
    """ "±0.42", rounded up: a bound that still holds as it reads."""
    within, unit = pick("verdict", "within")(row), 10 ** DIGITS[row.metric]
    return None if within is None else f"±{math.ceil(within * unit - 1e-6) / unit:.{DIGITS[row.metric]}f}"


def verdict_word(row: TableRow) -> str | None:
    """The verdict in words; the baseline, a row that is its trainings and one that is not tested say so."""
    if not row.baseline:
        return f"baseline, {row.untested}" if row.untested else "baseline"
    if row.same_as == row.baseline:
        return "same network"
    if row.untested:
        return row.untested
    return None if row.verdict is None else row.verdict.word


def verdict_cell(row: TableRow) -> str | None:
    """The verdict behind its symbol."""
    word = verdict_word(row)
    return word and f"{row.look.mark} {word}".lstrip()
