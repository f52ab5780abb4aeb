"""A table's forms: Markdown, CSV, LaTeX (booktabs) and the terminal. Labels and messages are escaped in each."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from textwrap import fill, wrap
from typing import Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from senet_lab.reports.columns import shown_first, visible
from senet_lab.reports.table import Column, Table, TableRow
from senet_lab.reports.tex import tex

LONG = 26  # characters that a page has room for in one line of words
MANY = 9  # columns; with more, the LaTeX is small and its heads have a word a line
KEPT = 3  # rather than to leave out columns up to this number (`Column.drop`), the terminal breaks long words

MARKDOWN = {c: f"\\{c}" for c in "\\`*_[]|~$#"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape(text: str) -> str:
    """Text that means nothing in Markdown."""
    return "".join(MARKDOWN.get(character, character) for character in text)


def csv_text(table: Table) -> str:
    """The table as CSV: always the same columns, numbers without decoration, empty where there is none."""
    columns = [column for column in table.columns if column.name]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    writer.writerows([column.plain(row) for column in columns] for row in table.rows)
    return out.getvalue()


def markdown(table: Table, narrow: bool = False) -> str:
    """The table as GitHub's Markdown, with all its notes; where the room is narrow, with its first columns."""
    columns = [column for column in visible(table) if shown_first(column) or not narrow]
    rules = {True: "---", False: "---:"}
    lines = [
        f"# {escape(table.heading)}",
        "",
        "|" + "".join(f" {column.head} |" if column.head else " |" for column in columns),
        "|" + "".join(f" {rules[column.words] if column.head else ':-:'} |" for column in columns),
    ]
    for row in table.visible:
        # Only words come from the user; the brackets of an interval are no link.
        cells = [escape(column.text(row)) if column.words else column.text(row) for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"- {escape(note)}" for note in table.all_notes), *table.recipe]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX float over both columns of a page; needs the package booktabs."""
    columns = [column for column in visible(table) if column.page]
    many = len(columns) > MANY
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{tex(table.heading)}}}",
        f"\\label{{tab:{''.join(c for c in table.study if c.isascii() and (c.isalnum() or c in '-:'))}}}",
        *(["\\scriptsize", "\\setlength{\\tabcolsep}{1.5pt}"] if many else ["\\small"]),
        f"\\begin{{tabular}}{{@{{}}{''.join('l' if c.words else 'r' if c.head else 'c' for c in columns)}@{{}}}}",
        "\\toprule",
        *_latex_heads([column.head or "" for column in columns], many),
        "\\midrule",
    ]
    for row in table.visible:
        lines.append(" & ".join(_latex_cell(column, column.text(row), many) for column in columns) + " \\\\")
        lines += ["\\addlinespace"] * (row.label in table.breaks)
    lines += ["\\bottomrule", "\\end{tabular}", "", "\\medskip", "\\begin{minipage}{\\textwidth}\\raggedright"]
    lines += [tex(note) + "\\par" for note in table.all_notes]
    lines += ["\\end{minipage}", "\\end{table*}"]
    return "\n".join(lines) + "\n"


def _latex_cell(column: Column, text: str, many: bool) -> str:
    """A cell; long words on several lines where many columns beside them are to fit the page."""
    if not (many and column.wrap and len(text) > LONG):
        return tex(text)
    return "\\shortstack[l]{" + " \\\\ ".join(map(tex, wrap(text, column.wrap))) + "}"


def _latex_heads(heads: list[str], many: bool) -> list[str]:
    """Heads, many of them with a word a line."""
    words = [head.replace("recomputed", "recomp.").split(" ") if many else [head] for head in heads]
    height = max(len(head) for head in words)
    padded = [[""] * (height - len(head)) + head for head in words]
    return [" & ".join(tex(head[line]) for head in padded) + " \\\\" for line in range(height)]


def print_table(table: Table, console: Console) -> None:
    """Print the table with as many columns as fit the console, what it rests on, and what is particular about it."""
    columns, wrapped = [column for column in visible(table) if column.drop is not None], False
    while (grid := _grid(table, columns, wrapped)) and width(grid, console) > console.width:
        widest = max(columns, key=lambda column: column.drop or 0)
        if not wrapped and (widest.drop or 0) <= KEPT:
            wrapped = True
        elif widest.drop:
            columns.remove(widest)
        else:
            grid = _grid(table, columns, wrapped, fold=True)  # a very narrow console: what must stay is folded
            break
    console.print(Text(table.heading, style="bold"))
    console.print(grid)
    for note in (*table.notes[:1], *table.warnings):
        console.print(Text(note))


def width(grid: Grid, console: Console) -> int:
    """Characters that a grid needs."""
    return Measurement.get(console, console.options.update(width=10_000), grid).maximum


def _grid(table: Table, columns: Sequence[Column], wrapped: bool, fold: bool = False) -> Grid:
    # Text objects rather than strings: a label such as "[red]" is no markup.
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True)
    heads = [column.head or "" for column in columns]
    two = any(" " in head for head in heads)
    for column, head in zip(columns, heads, strict=True):
        text = Text(head.replace(" ", "\n", 1) if " " in head else "\n" * two + head)
        justify: Literal["left", "right"] = "left" if column.words else "right"
        grid.add_column(text, justify=justify, vertical="top", no_wrap=not fold, overflow="fold")
    for row in table.visible:
        cells = [_screen_cell(column, row, wrapped) for column in columns]
        grid.add_row(*cells, end_section=row.label in table.breaks)
    return grid


def _screen_cell(column: Column, row: TableRow, wrapped: bool) -> Text:
    text = column.text(row)
    if wrapped and column.wrap:
        text = fill(text, column.wrap)
    return Text(text, row.look.colour if column.name == "verdict" else "")
