"""The notes under a table that tell of the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Iterable

from senet_lab.reports.cell_text import and_list
from senet_lab.reports.paper import gflops_digits
from senet_lab.reports.table import Table


def paper_notes(table: Table) -> list[str]:
    printed = table.printed
    if printed is None:
        return []
    out = [f"Paper: table {printed.number} of arXiv 1709.01507. {printed.note}".strip(), printed.about]
    out += _originals(table)
    if any(row.paper_macs for row in table.rows) or any(row.printed and row.printed.gflops for row in table.rows):
        out.append(printed.gflops)
    params = _differing(
        (row.label, getattr(row.printed, "params_m", None), row.paper_params, 1e6) for row in table.rows
    )
    if params:
        out.append(f"Parameters recomputed and printed differ for {and_list(params)}. {printed.params}")
    gflops = _differing((row.label, getattr(row.printed, "gflops", None), row.paper_macs, 1e9) for row in table.rows)
    if gflops:
        out.append(
            f"GFLOPs recomputed and printed differ for {and_list(gflops)}. `python -m senet_lab cost` shows how each "
            "printed number is counted."
        )
    return out


def _originals(table: Table) -> list[str]:
    """The errors that the paper repeats from the networks' own papers, beside its re-implementation."""
    known = [row.printed for row in table.rows if row.printed and row.printed.original_top1 is not None]
    if not known:
        return []
    errors = (f"{row.name} {row.original_top1}" + f" / {row.original_top5}" * bool(row.original_top5) for row in known)
    return [f"Errors that the networks' own papers had printed (top-1 / top-5): {and_list(errors)}."]


def _differing(numbers: Iterable[tuple[str, float | None, int | None, float]]) -> list[str]:
    """Of rows with a printed number, a recomputed one and the unit of the printed one, those where it rounds to another
    figure: "r = 4 (35.617, printed 35.7)"."""
    out = []
    for label, theirs, ours, unit in numbers:
        if theirs is None or ours is None:
            continue
        digits = gflops_digits(theirs) if unit == 1e9 else 1
        if f"{ours / unit:.{digits}f}" != f"{theirs:.{digits}f}":
            out.append(f"{label} ({ours / unit:.{digits + 2}f}, printed {theirs:.{digits}f})")
    return out
