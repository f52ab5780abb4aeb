"""The columns of a table, declared once for all its forms: another column is one entry of `STUDY` or of `FRONT`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from senet_lab.objectives import OBJECTIVES
from senet_lab.reports.aim import DIGITS
from senet_lab.reports.cell_text import (
    count,
    crossed_cell,
    delta_cell,
    delta_crossed_cell,
    error_cell,
    failed_seeds,
    fixed_digits,
    in_its_unit,
    loss_cell,
    mean_cell,
    p_value,
    pick,
    printed_gflops,
    share,
    shares_cell,
    significant,
    verdict_cell,
    verdict_word,
    within_cell,
)
from senet_lab.reports.table import Column, Table, TableRow
from senet_lab.reports.trials import PARTIAL

FIRST = 6  # columns that a terminal keeps about as long (`Column.drop`) are shown where there is no room for all

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


def shown_first(column: Column) -> bool:
    """Whether a column is shown at once where there is no room for all."""
    return column.drop is not None and column.drop <= FIRST
