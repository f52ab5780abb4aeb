"""The columns of a table, declared once for all its forms: another column is one entry of `STUDY` or of `FRONT`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from senet_lab.objectives import OBJECTIVES
from senet_lab.reports.aim import DIGITS
from senet_lab.reports.paper import gflops_digits
from senet_lab.reports.statistics import Sample
from senet_lab.reports.table import Column, Table, TableRow
from senet_lab.reports.trials import PARTIAL

MINUS = "−"


# --------------------------------------------------------------------------------------------------------------------
# How values read


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


# --------------------------------------------------------------------------------------------------------------------
# What a row's cells are made from


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
    found = [share(source)(row) for source in ("seeds", "images", "rest")]
    return None if None in found else " / ".join(f"{100 * (each or 0):.0f}" for each in found)


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


STUDY: tuple[Column, ...] = (
    Column("row", "row", pick("label"), cell=lambda r: r.label + " *" * r.starred, words=True, drop=0, wrap=18),
    Column("paper_row", value=pick("printed", "name")),
    Column(
        "paper_top1_percent",
        "paper top-1 %",
        pick("printed", "top1"),
        fixed_digits(2),
        drop=4,
        paper=True,
        tip="paper top-1 %",
    ),
    Column("paper_top5_percent", "paper top-5 %", pick("printed", "top5"), fixed_digits(2), drop=8, paper=True),
    Column("paper_delta_points", value=pick("printed_delta"), exact=fixed_digits(2)),
    Column("paper_gflops", "paper GFLOPs", pick("printed", "gflops"), printed_gflops, drop=9, paper=True),
    Column("paper_params_million", "paper params M", pick("printed", "params_m"), fixed_digits(1), drop=7, paper=True),
    Column("recomputed_macs", "recomputed GFLOPs", pick("paper_macs"), show=fixed_digits(3, 1e9), drop=11, paper=True),
    Column(
        "recomputed_params", "recomputed params M", pick("paper_params"), show=fixed_digits(3, 1e6), drop=10, paper=True
    ),
    Column("params", "our params", pick("params"), show=count, drop=5, tip="params"),
    Column("macs", "our multiply-adds", pick("macs"), show=count, drop=12, page=False, tip="multiply-adds"),
    Column("hidden", value=pick("hidden"), tip="SE widths"),
    Column("", "our error %", cell=error_cell, drop=0, tip="error %"),
    Column("n", value=pick("top1", "n")),
    Column("error_percent", value=pick("top1", "mean"), exact=fixed_digits(4)),
    Column("error_sd", value=pick("top1", "sd"), exact=fixed_digits(4)),
    Column("error_half_width", value=pick("top1", "half_width"), exact=fixed_digits(4)),
    Column("error_half_width_crossed", value=pick("top1", "half_crossed"), exact=fixed_digits(4)),
    Column("loss", "our loss", pick("loss", "mean"), fixed_digits(6), cell=loss_cell, drop=2, tip="loss"),
    Column("loss_sd", value=pick("loss", "sd"), exact=fixed_digits(6)),
    Column("loss_half_width", value=pick("loss", "half_width"), exact=fixed_digits(6)),
    Column("loss_half_width_crossed", value=pick("loss", "half_crossed"), exact=fixed_digits(6)),
    Column("", "± over seeds and images", cell=crossed_cell, drop=8, page=False),
    Column("top5_error_percent", "our top-5 %", pick("top5", "mean"), fixed_digits(2), drop=13, page=False),
    Column("top5_error_half_width", value=pick("top5", "half_width"), exact=fixed_digits(4)),
    Column("failed", value=lambda row: len(row.failures), cell=failed_seeds, tip="failed"),
    Column("baseline", value=lambda row: row.baseline or row.label),
    Column("", "Δ [95%]", cell=delta_cell, drop=1, tip="Δ"),
    Column("pairs", value=pick("delta", "n")),
    Column("metric", value=pick("metric")),
    Column("delta", value=pick("delta", "delta"), exact=fixed_digits(4)),
    Column("delta_sd", value=pick("delta", "sd"), exact=fixed_digits(4)),
    Column("delta_low", value=pick("delta", "low"), exact=fixed_digits(4)),
    Column("delta_high", value=pick("delta", "high"), exact=fixed_digits(4)),
    Column("delta_low_crossed", value=pick("delta", "low_crossed"), exact=fixed_digits(4)),
    Column("delta_high_crossed", value=pick("delta", "high_crossed"), exact=fixed_digits(4)),
    Column("", "Δ over seeds and images", cell=delta_crossed_cell, drop=5, tip="over seeds and images"),
    Column("share_seeds", value=share("seeds"), exact=fixed_digits(4)),
    Column("share_images", value=share("images"), exact=fixed_digits(4)),
    Column("share_rest", value=share("rest"), exact=fixed_digits(4)),
    Column("", "from seeds / images / rest %", cell=shares_cell, drop=9, page=False),
    Column("floor", "floor", pick("verdict", "floor"), fixed_digits(4), cell=in_its_unit("verdict", "floor"), drop=7),
    Column("p_uncorrected", value=pick("delta", "p"), exact=significant(4)),
    Column("p_holm", "p (Holm)", pick("verdict", "p"), significant(4), p_value, drop=4),
    Column("p_crossed_uncorrected", value=pick("delta", "p_crossed"), exact=significant(4)),
    Column("p_crossed_holm", value=pick("verdict", "p_crossed"), exact=significant(4)),
    Column("p_sign_flips_holm", "p (sign flips)", pick("verdict", "p_flips"), significant(4), p_value, drop=14),
    Column("within", "within", pick("verdict", "within"), fixed_digits(4), cell=within_cell, drop=3),
    Column("verdict", "verdict", verdict_word, cell=verdict_cell, words=True, drop=0, wrap=19, tip="verdict"),
    Column("verdict_kind", value=pick("verdict", "kind")),
    Column("more_seeds", value=pick("verdict", "more_seeds")),
    Column("more_images", value=pick("verdict", "more_images")),
    Column(
        "could_show",
        "could show",
        pick("verdict", "could_show"),
        fixed_digits(4),
        cell=in_its_unit("verdict", "could_show"),
        drop=6,
    ),
    Column("same_network_as", value=pick("same_as"), tip="same network as"),
)


def study_columns(table: Table) -> tuple[Column, ...]:
    """The columns of a study's table; a grid's tell cells from effects, and those of one that was stopped say so."""
    partial = PARTIAL.match(table.title)
    part = partial[1] if partial else None
    effect = [Column("effect", value=pick("effect"))] * bool(table.factors)
    return (*STUDY, *effect, *[Column("partial", value=lambda row: part)] * bool(part))


# --------------------------------------------------------------------------------------------------------------------
# A search's front: each design in the CSV, in the order in which they were asked for


def design_label(row: TableRow) -> str:
    """A design's label, and which one everyone knows it is."""
    reference = row.design.reference if row.design else ""
    return row.label if reference in ("", row.label) else f"{row.label} ({reference})"


def sample_cell(of: str, failed: str) -> Callable[[TableRow], str]:
    """A design's sample as "2.13 ± 0.40 (3)", or how its trainings failed."""

    def cell(row: TableRow) -> str:
        sample, why = pick("design", of)(row), pick("design", failed)(row)
        return why or ("failed" if sample is None else mean_cell(sample, DIGITS["error"], n=True))

    return cell


def fresh_cell(row: TableRow) -> str:
    """The test error over fresh seeds, of designs that were confirmed by them."""
    return sample_cell("confirmed", "failed_again")(row) if row.design and row.design.again else ""


def mean(of: str) -> Callable[[TableRow], Any]:
    """The mean of a design's sample."""
    return pick("design", of, "mean")


def seeds_of(of: str) -> Callable[[TableRow], int]:
    """How many seeds a design's sample has."""
    return lambda row: pick("design", of, "n")(row) or 0


def front_columns(table: Table) -> tuple[Column, ...]:
    """The columns of a search's front, by what it varies and asks for."""
    exact, heads = significant(10), {each.column: each.heading for each in OBJECTIVES.values()}
    designs = [row.design for row in table.rows if row.design is not None]
    costs = {name: (count, 3 if name == "macs" else 1) for name in designs[0].costs} | {
        "latency_ms": (fixed_digits(3), 1)
    }
    tested = fresh_cell if any(each.again for each in designs) else sample_cell("test_error", "failed")
    return (
        Column("", "", cell=lambda row: "●" * bool(row.design and row.design.on_front), drop=0),
        Column("design", "design", pick("label"), cell=design_label, words=True, drop=0, wrap=22),
        Column("on_front", value=lambda row: int(bool(row.design and row.design.on_front))),
        Column("asked", value=pick("design", "asked")),
        *(Column(name, value=pick("design", "levels", name)) for name in designs[0].levels),
        Column("val_error", "val error %", mean("val_error"), exact, cell=sample_cell("val_error", "failed"), drop=0),
        Column("val_error_sd", value=pick("design", "val_error", "sd"), exact=exact),
        Column("", "val loss", pick("design", "values", "val_loss"), show=fixed_digits(4), drop=0),
        Column("test_error", "test error %", mean("test_error"), exact, cell=tested, drop=0),
        Column("test_error_half_width", value=pick("design", "test_error", "half_width"), exact=exact),
        Column("n", value=seeds_of("test_error")),
        Column("confirmed_test_error", value=mean("confirmed"), exact=exact),
        Column("confirmed_half_width", value=pick("design", "confirmed", "half_width"), exact=exact),
        Column("confirmed_n", value=seeds_of("confirmed")),
        Column("chance_on_front", "on front", pick("design", "chance"), exact, lambda chance: f"{chance:.0%}", drop=1),
        *(Column(f"objective_{name}", value=pick("design", "values", name), exact=exact) for name in table.objectives),
        *(
            Column(name, heads[name], pick("design", "costs", name), exact, show, drop=drop)
            for name, (show, drop) in costs.items()
            if name in designs[0].costs
        ),
    )


def visible(table: Table) -> list[Column]:
    """The columns that people read: those with a head and at least one cell that is not empty, the paper's in its
    studies alone."""
    return [
        column
        for column in table.columns
        if column.head is not None
        and (table.printed or not column.paper)
        and any(column.text(row) for row in table.visible)
    ]
