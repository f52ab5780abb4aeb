"""The columns of a study's table, declared once for all its forms: adding a column is one line in `COLUMNS`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from senet_lab.reports.aim import DIGITS
from senet_lab.reports.looks import LOOKS, kind
from senet_lab.reports.paper import gflops_digits
from senet_lab.reports.rows import Row, Table
from senet_lab.reports.statistics import Sample

MINUS = "−"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: its header in the CSV, with the unit; empty if the CSV does not have it.
        head: its header in the other forms; empty if they do not have it.
        value: the number or text in a row; None leaves the cell empty.
        show: how a value reads; in the CSV this applies to fractions only.
        words: whether it is text rather than numbers, aligned to the left.
        drop: the terminal leaves out columns with the highest number first until the table fits; 0 stays always, and
            None is never on the terminal.
        wrap: the terminal and the LaTeX break longer words into lines of so many characters where they must.
        page: whether the LaTeX has it, too, whose page is narrow.
    """

    name: str
    head: str
    value: Callable[[Row], Any]
    show: Callable[[Any], str] = str
    words: bool = False
    drop: int | None = None
    wrap: int | None = None
    page: bool = True


def fixed(digits: int) -> Callable[[float], str]:
    """Numbers with this many digits behind the point."""
    return lambda value: f"{value:.{digits}f}"


def scaled(unit: float, digits: int) -> Callable[[float], str]:
    """Counts in units of `unit`."""
    return lambda value: f"{value / unit:.{digits}f}"


def printed_gflops(value: float) -> str:
    """The paper's GFLOPs, as precise as it prints them."""
    return f"{value:.{gflops_digits(value)}f}"


def significant(value: float) -> str:
    """A small number in four significant digits."""
    return f"{value:.4g}"


def p_value(p: float) -> str:
    """A p as people write it: two digits, three below 0.1."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text[1:]


def rounded_up(value: float, digits: int) -> str:
    """A bound, so that it still holds as it reads."""
    return f"{math.ceil(value * 10**digits - 1e-6) / 10**digits:.{digits}f}"


def count(value: int) -> str:
    """Parameters or multiply-adds in k, M or G."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.4g} {letter}"
    return str(value)


def error_cell(row: Row) -> str | None:
    """ "2.13 ± 0.40 (3)"; a row whose trials all failed says so."""
    if row.top1 is None:
        return "failed" if row.failures else None
    return f"{mean_cell(row.top1, DIGITS['error'])} ({row.top1.n})"


def mean_cell(sample: Sample, digits: int) -> str:
    """ "2.13 ± 0.40", over the seeds."""
    half = "" if sample.half_width is None else f" ± {sample.half_width:.{digits}f}"
    return f"{sample.mean:.{digits}f}{half}"


def loss_cell(row: Row) -> str | None:
    """ "0.0713 ± 0.0102", where verdicts are about the loss."""
    return mean_cell(row.loss, DIGITS["loss"]) if row.metric == "loss" and row.loss is not None else None


def crossed_cell(row: Row) -> str | None:
    """ "± 0.85": the row's error, or its loss, over seeds and test images."""
    sample = row.loss if row.metric == "loss" else row.top1
    half = None if sample is None else sample.half_crossed
    return None if half is None else f"± {half:.{DIGITS[row.metric]}f}"


def delta_cell(row: Row) -> str | None:
    """ "+0.28 [−0.10, +0.66]", and how many pairs where a failure left fewer than seeds."""
    if row.delta is None:
        return None
    d = row.delta
    interval = "" if d.low is None or d.high is None else f" {interval_cell(d.low, d.high, row)}"
    return signed(d.delta, DIGITS[row.metric]) + interval + (f" ({d.n} pairs)" if d.n < len(row.seeds) else "")


def interval_cell(low: float, high: float, row: Row) -> str:
    """ "[−0.10, +0.66]"."""
    return f"[{signed(low, DIGITS[row.metric])}, {signed(high, DIGITS[row.metric])}]"


def delta_crossed(side: int) -> Callable[[Row], float | None]:
    """The end of Δ's interval over seeds and test images on this side, −1 or 1."""

    def value(row: Row) -> float | None:
        half = None if row.delta is None else row.delta.half_crossed
        return None if row.delta is None or half is None else row.delta.delta + side * half

    return value


def delta_crossed_cell(row: Row) -> str | None:
    """ "[−0.51, +1.07]", over seeds and test images."""
    low, high = delta_crossed(-1)(row), delta_crossed(1)(row)
    return None if low is None or high is None else interval_cell(low, high, row)


def share(source: str) -> Callable[[Row], float | None]:
    """The share of the variance of Δ that is from a source, `seeds`, `images` or `rest`."""

    def value(row: Row) -> float | None:
        if row.delta is None or row.delta.crossed is None or not row.delta.crossed.variance:
            return None
        return row.delta.crossed.shares[source] / row.delta.crossed.variance

    return value


def shares_cell(row: Row) -> str | None:
    """ "12 / 80 / 8": percent of the variance of Δ."""
    found = [share(source)(row) for source in ("seeds", "images", "rest")]
    return None if None in found else " / ".join(f"{100 * (each or 0):.0f}" for each in found)


def within_cell(row: Row) -> str | None:
    """ "±0.42"."""
    within = None if row.verdict is None else row.verdict.within
    return None if within is None else f"±{rounded_up(within, DIGITS[row.metric])}"


def in_its_unit(path: str) -> Callable[[Row], str | None]:
    """A number of the verdict in the digits of the metric."""

    def value(row: Row) -> str | None:
        number = pick("verdict", path)(row)
        return None if number is None else f"{number:.{DIGITS[row.metric]}f}"

    return value


def verdict_cell(row: Row) -> str | None:
    """The verdict in words; the baseline, a row that is its trainings and one that is not tested say so."""
    if not row.baseline:
        return f"baseline, {row.untested}" if row.untested else "baseline"
    if row.same_as == row.baseline:
        return "same network"
    if row.untested:
        return row.untested
    return None if row.verdict is None else row.verdict.word


def pick(*path: str) -> Callable[[Row], Any]:
    """The value at a path of attributes, None where one of them is."""

    def value(row: Row) -> Any:
        at: Any = row
        for name in path:
            at = None if at is None else getattr(at, name)
        return at

    return value


COLUMNS: tuple[Column, ...] = (
    Column("row", "row", pick("label"), words=True, drop=0, wrap=18),
    Column("paper_row", "", pick("printed", "name")),
    Column("paper_top1_percent", "paper top-1 %", pick("printed", "top1"), fixed(2), drop=4),
    Column("paper_top5_percent", "paper top-5 %", pick("printed", "top5"), fixed(2), drop=8),
    Column("paper_delta_points", "", pick("printed_delta"), fixed(2)),
    Column("paper_gflops", "paper GFLOPs", pick("printed", "gflops"), printed_gflops, drop=9),
    Column("paper_params_million", "paper params M", pick("printed", "params_m"), fixed(1), drop=7),
    Column("", "recomputed GFLOPs", pick("paper_macs"), scaled(1e9, 3), drop=11),
    Column("recomputed_macs", "", pick("paper_macs")),
    Column("", "recomputed params M", pick("paper_params"), scaled(1e6, 3), drop=10),
    Column("recomputed_params", "", pick("paper_params")),
    Column("params", "", pick("params")),
    Column("", "our params", pick("params"), count, drop=5),
    Column("macs", "", pick("macs")),
    Column("", "our multiply-adds", pick("macs"), count, drop=12, page=False),
    Column("hidden", "", pick("hidden")),
    Column("", "our error %", error_cell, drop=0),
    Column("n", "", pick("top1", "n")),
    Column("error_percent", "", pick("top1", "mean"), fixed(4)),
    Column("error_sd", "", pick("top1", "sd"), fixed(4)),
    Column("error_half_width", "", pick("top1", "half_width"), fixed(4)),
    Column("error_half_width_crossed", "", pick("top1", "half_crossed"), fixed(4)),
    Column("loss", "", pick("loss", "mean"), fixed(6)),
    Column("loss_sd", "", pick("loss", "sd"), fixed(6)),
    Column("loss_half_width", "", pick("loss", "half_width"), fixed(6)),
    Column("loss_half_width_crossed", "", pick("loss", "half_crossed"), fixed(6)),
    Column("", "our loss", loss_cell, drop=2),
    Column("", "± over seeds and images", crossed_cell, drop=8, page=False),
    Column("top5_error_percent", "our top-5 %", pick("top5", "mean"), fixed(2), drop=13, page=False),
    Column("top5_error_half_width", "", pick("top5", "half_width"), fixed(4)),
    Column("failed", "", lambda row: len(row.failures)),
    Column("baseline", "", lambda row: row.baseline or row.label),
    Column("", "Δ [95%]", delta_cell, drop=1),
    Column("pairs", "", pick("delta", "n")),
    Column("metric", "", pick("metric")),
    Column("delta", "", pick("delta", "delta"), fixed(4)),
    Column("delta_sd", "", pick("delta", "sd"), fixed(4)),
    Column("delta_low", "", pick("delta", "low"), fixed(4)),
    Column("delta_high", "", pick("delta", "high"), fixed(4)),
    Column("delta_low_crossed", "", delta_crossed(-1), fixed(4)),
    Column("delta_high_crossed", "", delta_crossed(1), fixed(4)),
    Column("", "Δ over seeds and images", delta_crossed_cell, drop=5),
    Column("share_seeds", "", share("seeds"), fixed(4)),
    Column("share_images", "", share("images"), fixed(4)),
    Column("share_rest", "", share("rest"), fixed(4)),
    Column("", "from seeds / images / rest %", shares_cell, drop=9, page=False),
    Column("floor", "", pick("verdict", "floor"), fixed(4)),
    Column("", "floor", in_its_unit("floor"), drop=7),
    Column("p_uncorrected", "", pick("delta", "p"), significant),
    Column("p_holm", "", pick("verdict", "p"), significant),
    Column("", "p (Holm)", pick("verdict", "p"), p_value, drop=4),
    Column("p_crossed_uncorrected", "", pick("delta", "p_crossed"), significant),
    Column("p_crossed_holm", "", pick("verdict", "p_crossed"), significant),
    Column("p_sign_flips_holm", "", pick("verdict", "p_flips"), significant),
    Column("", "p (sign flips)", pick("verdict", "p_flips"), p_value, drop=14),
    Column("within", "", pick("verdict", "within"), fixed(4)),
    Column("", "within", within_cell, drop=3),
    Column("verdict", "verdict", verdict_cell, words=True, drop=0, wrap=19),
    Column("verdict_kind", "", pick("verdict", "kind")),
    Column("more_seeds", "", pick("verdict", "more_seeds")),
    Column("more_images", "", pick("verdict", "more_images")),
    Column("could_show", "", pick("verdict", "could_show"), fixed(4)),
    Column("", "could show", in_its_unit("could_show"), drop=6),
    Column("same_network_as", "", pick("same_as")),
)


def cell(column: Column, row: Row) -> str:
    """What a column shows in a row; empty without a value."""
    value = column.value(row)
    return "" if value is None or value == "" else column.show(value)


def plain(column: Column, row: Row) -> str:
    """What the CSV holds: fractions as `show` has them, whole numbers and text as they are."""
    value = column.value(row)
    return "" if value is None else column.show(value) if isinstance(value, float) else str(value)


def shown(table: Table) -> list[Column]:
    """The columns of the readable forms: those with a head and at least one cell that is not empty."""
    return [column for column in COLUMNS if column.head and any(cell(column, row) for row in table.rows)]


def text_cell(column: Column, row: Row, table: Table) -> str:
    """`cell`, with its symbol before a verdict and a star behind the label of a row that the paper does not have."""
    text = cell(column, row)
    if column.name == "verdict" and text:
        text = f"{LOOKS[kind(row)].mark} {text}".lstrip()
    return f"{text} *" if column.name == "row" and table.printed is not None and row.printed is None else text
