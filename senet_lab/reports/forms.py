"""A table's four forms: Markdown, CSV, LaTeX (booktabs) and the terminal. Labels and messages are escaped in each."""

from __future__ import annotations

import csv
import io
from textwrap import fill, wrap
from typing import Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from senet_lab.reports.columns import COLUMNS, Column, plain, shown, text_cell
from senet_lab.reports.looks import LOOKS, kind
from senet_lab.reports.notes import facts
from senet_lab.reports.rows import Table
from senet_lab.reports.tex import tex
from senet_lab.reports.trials import PARTIAL

LONG = 26  # characters that a page has room for in one line of words
KEPT = 3  # rather than to leave out columns up to this number (`Column.drop`), the terminal breaks long words

MARKDOWN = {c: f"\\{c}" for c in "\\`*_[]|~$#"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape(text: str, characters: dict[str, str]) -> str:
    """`text` with each character replaced that means something in a form."""
    return "".join(characters.get(character, character) for character in text)


def heading(table: Table) -> str:
    """ "Reduction ratio (table 10 of the paper)"."""
    return table.title + (f" (table {table.printed.number} of the paper)" if table.printed else "")


def all_notes(table: Table) -> list[str]:
    """Every note: what the numbers rest on, what is particular about them (a star, too), what the columns mean."""
    return [*table.notes[:1], *table.warnings, *table.notes[1:]]


def csv_text(table: Table) -> str:
    """The table as CSV: always the same columns, numbers without decoration, empty where there is none."""
    columns = [column for column in COLUMNS if column.name]
    partial = PARTIAL.match(table.title)
    if partial:
        columns.append(Column("partial", "", lambda row: partial[1]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    writer.writerows([plain(column, row) for column in columns] for row in table.rows)
    return out.getvalue()


def markdown(table: Table) -> str:
    """The table as GitHub's Markdown, with all its notes."""
    columns = shown(table)
    lines = [
        f"# {escape(heading(table), MARKDOWN)}",
        "",
        "| " + " | ".join(column.head for column in columns) + " |",
        "| " + " | ".join("---" if column.words else "---:" for column in columns) + " |",
    ]
    for row in table.rows:
        cells = [text_cell(column, row, table) for column in columns]
        # Only words come from the user; the brackets of an interval are no link.
        cells = [escape(text, MARKDOWN) if c.words else text for c, text in zip(columns, cells, strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"- {escape(note, MARKDOWN)}" for note in all_notes(table))]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX float over both columns of a page; needs the package booktabs."""
    columns = [column for column in shown(table) if column.page]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{tex(heading(table))}}}",
        f"\\label{{tab:{''.join(c for c in table.study if c.isascii() and (c.isalnum() or c in '-:'))}}}",
        "\\scriptsize",
        "\\setlength{\\tabcolsep}{1.5pt}",
        f"\\begin{{tabular}}{{@{{}}{''.join('l' if column.words else 'r' for column in columns)}@{{}}}}",
        "\\toprule",
        *_latex_heads([column.head for column in columns]),
        "\\midrule",
    ]
    for row in table.rows:
        lines.append(" & ".join(_latex_cell(column, text_cell(column, row, table)) for column in columns) + " \\\\")
        lines += ["\\addlinespace"] * (row.label in table.breaks)
    lines += ["\\bottomrule", "\\end{tabular}", "", "\\medskip", "\\begin{minipage}{\\textwidth}\\raggedright"]
    lines += [tex(note) + "\\par" for note in all_notes(table)]
    lines += ["\\end{minipage}", "\\end{table*}"]
    return "\n".join(lines) + "\n"


def _latex_cell(column: Column, text: str) -> str:
    """A cell; long words on several lines, so that the columns beside them fit the page."""
    if not column.wrap or len(text) <= LONG:
        return tex(text)
    return "\\shortstack[l]{" + " \\\\ ".join(map(tex, wrap(text, column.wrap))) + "}"


def _latex_heads(heads: list[str]) -> list[str]:
    """Heads with a word a line, so that many columns fit a page."""
    words = [head.replace("recomputed", "recomp.").split(" ") for head in heads]
    height = max(len(head) for head in words)
    padded = [[""] * (height - len(head)) + head for head in words]
    return [" & ".join(tex(head[line]) for head in padded) + " \\\\" for line in range(height)]


def terminal(table: Table, console: Console) -> None:
    """Print the table with as many columns as fit the console, what it rests on, and what is particular about it."""
    columns, wrapped = [column for column in shown(table) if column.drop is not None], False
    while (grid := _grid(table, columns, wrapped)) and _width(grid, console) > console.width:
        widest = max(columns, key=lambda column: column.drop or 0)
        if not wrapped and (widest.drop or 0) <= KEPT:
            wrapped = True
        elif widest.drop:
            columns.remove(widest)
        else:
            grid = _grid(table, columns, wrapped, fold=True)  # a very narrow console: what must stay is folded
            break
    console.print(Text(heading(table), style="bold"))
    console.print(grid)
    for note in (facts(table), *table.warnings):
        console.print(Text(note))


def _width(grid: RichTable, console: Console) -> int:
    return Measurement.get(console, console.options.update(width=10_000), grid).maximum


def _grid(table: Table, columns: list[Column], wrapped: bool, fold: bool = False) -> RichTable:
    # Text objects rather than strings: a label such as "[red]" is no markup.
    grid = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True)
    two = any(" " in column.head for column in columns)
    for column in columns:
        head = Text(column.head.replace(" ", "\n", 1) if " " in column.head else "\n" * two + column.head)
        justify: Literal["left", "right"] = "left" if column.words else "right"
        grid.add_column(head, justify=justify, vertical="top", no_wrap=not fold, overflow="fold")
    for row in table.rows:
        cells = [text_cell(column, row, table) for column in columns]
        if wrapped:
            cells = [fill(text, c.wrap) if c.wrap else text for c, text in zip(columns, cells, strict=True)]
        styles = [LOOKS[kind(row)].colour if column.name == "verdict" else "" for column in columns]
        grid.add_row(*map(Text, cells, styles), end_section=row.label in table.breaks)
    return grid
