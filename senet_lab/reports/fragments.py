"""Pieces of the HTML page: a study's table, its notes, the list of all studies, the role of excitation.

Every text that comes from a user or a file goes through `html.escape`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from senet_lab.config import first_line
from senet_lab.reports import gate_summary as role
from senet_lab.reports.aim import DIGITS
from senet_lab.reports.cell_text import and_list, signed
from senet_lab.reports.columns import shown_first, visible
from senet_lab.reports.pooled import PooledTable
from senet_lab.reports.results import FinishedStudy, Gates
from senet_lab.reports.table import IDENTICAL, Column, Table, TableRow
from senet_lab.reports.verdict_styles import STYLES

STAR = "*"  # begins the note that says what a star in the table means
NAMED = 4  # rows that a finding names; the others are counted

Cell = tuple[str, str]  # its classes, and what is in it, as HTML


def element(heads: Iterable[Cell], lines: Iterable[tuple[str, Sequence[Cell]]]) -> str:
    """A table; each line has the attributes of its element, and its first cell is its name."""
    header = "".join(f'<th scope="col"{_class(names)}>{head}</th>' for names, head in heads)
    body = "".join(
        f'<tr{attributes}><th scope="row">{name}</th>'
        f"{''.join(f'<td{_class(names)}>{inside}</td>' for names, inside in cells)}</tr>"
        for attributes, ((_, name), *cells) in lines
    )
    return f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"


def _class(names: str) -> str:
    return f' class="{names.strip()}"' if names.strip() else ""


def table_html(study: FinishedStudy) -> str:
    """A study's table, in the columns of its other forms; a search's front is marked."""
    columns = visible(study.table)
    heads = [(_names(column), escape(column.head or "")) for column in columns]
    lines = [
        (f' data-row="{place}"', [_cell(column, row, study) for column in columns])
        for place, row in enumerate(study.table.rows)
    ]
    return element(heads, lines)


def plain_table_html(table: Table) -> str:
    """A table as it is, a row below the other."""
    columns = visible(table)
    lines = [("", [(_names(column), escape(column.text(row))) for column in columns]) for row in table.rows]
    return element([(_names(column), escape(column.head or "")) for column in columns], lines)


def picture(svg: bytes, alt: str) -> str:
    """An SVG that lies in the page."""
    code = base64.b64encode(svg).decode()
    return f'<figure><img loading="lazy" alt="{escape(alt)}" src="data:image/svg+xml;base64,{code}"></figure>'


def _names(column: Column) -> str:
    return "words " * column.words + "more" * (not shown_first(column))


def _cell(column: Column, row: TableRow, study: FinishedStudy) -> Cell:
    text = column.text(row)
    if column.name == "row":
        on_front = row.label in (study.front or ())
        return "", '<span class="mark" title="on the front">●</span> ' * on_front + escape(text)
    if column.name != "verdict":
        return _names(column), escape(text)
    if study.front is not None and not row.baseline and row.label not in study.table.compared_with:
        text = ""  # a search may have no baseline
    mark, _, words = text.partition(" ")
    if not mark or mark != row.look.mark:
        return _names(column), escape(text)
    return f"{row.look.tone} {_names(column)}", f'<span class="mark" aria-hidden="true">{mark}</span> {escape(words)}'


def notes_html(made: Table) -> str:
    """The notes of a table as HTML."""
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in made.notes[1:]) + "</ul>"


def commands_html(study: FinishedStudy) -> str:
    """The command of a study and of each of its rows, which a click marks as a whole; nothing where none is known."""
    if not study.commands:
        return ""
    lines = "".join(
        f"<dt>{escape(row or 'all rows')}</dt><dd><code>{escape(command)}</code></dd>"
        for row, command in study.commands.items()
    )
    return f"<details><summary>The command of each row</summary><dl>{lines}</dl></details>"


def warnings_html(made: Table) -> str:
    """The warnings of a table as HTML."""
    lines = [warning for warning in made.warnings if not warning.startswith(STAR)]
    return "".join(f'<p class="warning">{escape(warning)}</p>' for warning in lines)


def remarks_html(made: Table) -> str:
    """Below the table: what a star in it means, and what the trials were."""
    lines = [*(warning for warning in made.warnings if warning.startswith(STAR)), *made.notes[:1]]
    return "".join(f'<p class="source">{escape(remark)}</p>' for remark in lines)


def baseline_name(made: Table) -> str:
    """The row that the others are compared with; "the row's own baseline" where there are several."""
    named = made.compared_with
    if made.factors:
        return "the baseline's level"
    return named[0] if len(named) == 1 else "the row's own baseline" if named else ""


def finding_sentence(study: FinishedStudy) -> str:
    """What a study found, in a sentence: which rows are better or worse than the baseline, by how much, which are
    equivalent, and what is open; of a search, its front."""
    table = study.table
    parts = []
    if study.front is not None:
        parts.append(
            f"● {sum(row.label in study.front for row in table.rows)} of {len(table.rows)} designs on the front"
        )
    rows = {each: [row for row in table.rows if row.baseline and row.kind == each] for each in STYLES}
    for each in ("better", "worse", "better here", "worse here"):
        largest = sorted(rows[each], key=lambda row: -abs(row.delta.delta) if row.delta else 0)
        named = [f"{row.label} ({signed(row.delta.delta, DIGITS[row.metric])})" for row in largest if row.delta]
        if named:
            word, here = each.split()[0], " on these images" * each.endswith("here")
            parts.append(f"{STYLES[each].mark} {_are(named)} {word} than {baseline_name(table)}{here}")
    endings = {
        "equivalent": f" equivalent to {baseline_name(table)} within ±{table.aim.margin or 0:g} {table.aim.unit}",
        "open": " open",
        IDENTICAL: f" identical to {baseline_name(table)}: nothing that trains was varied",
        "failed": " not tested, after failures",
    }
    for each, ending in endings.items():
        if rows[each] and not (each == "failed" and study.front is not None):
            parts.append(f"{STYLES[each].mark} {_are([row.label for row in rows[each]])}{ending}")
    single = any(row.top1 is not None and row.top1.n == 1 for row in table.rows)
    return "; ".join(parts) or ("one seed: no verdict" if single else "no verdict")


def _are(names: Sequence[str]) -> str:
    """ "a is", "a and b are"; the first of many names, the others are counted."""
    few = [*names[:NAMED], *([f"{len(names) - NAMED} more"] if len(names) > NAMED else [])]
    return f"{and_list(few)} {'are' if len(names) > 1 else 'is'}"


def index(studies: Sequence[FinishedStudy], ids: Sequence[str]) -> str:
    """All studies at a glance, a line each."""
    heads = ("study", "what was found", "data", "backbone", "recipe", "rows", "seeds", "failed")
    classes = ["words"] * 5 + [""] * 3
    lines = []
    for study, name in zip(studies, ids, strict=True):
        table = study.table
        failed = sum(len(row.failures) for row in table.rows)
        few, many = table.seeds
        texts = [
            finding_sentence(study),
            *study.setting,
            str(len(table.trained)),
            f"{few}" if few == many else f"{few}–{many}",
        ]
        cells = [f'<a href="#{name}">{escape(table.title)}</a>', *map(escape, texts), str(failed or "")]
        lines.append((f' data-study="{name}"', list(zip(classes, cells, strict=True))))
    return element(zip(classes, heads, strict=True), lines)


def excitation_html(measured: Gates, trained: str, of: str) -> str:
    """Both figures of one network's gates, what the numbers say, and the numbers.

    Args:
        measured: where they lie.
        trained: what network it is.
        of: the rows that it is a training of, for the filters: JSON.

    Raises:
        ValueError: in one line, for files that are damaged or missing.
    """
    try:
        blocks = pd.read_csv(measured.folder / "blocks.csv", dtype={"block": str})
        sentences = role.observations(blocks)
        lines = [[cell(block) for cell in role.COLUMNS.values()] for _, block in blocks.iterrows()]
        pictures = {name: (measured.folder / f"{name}.svg").read_bytes() for name in role.FIGURES}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise ValueError(f"{measured.folder}: the gates cannot be read ({reason})") from None
    figures = "".join(picture(svg, f"{role.FIGURES[name]}: {trained}") for name, svg in pictures.items())
    cells = [("", [("", escape(text)) for text in line]) for line in lines]
    blocks_table = element([("", escape(head)) for head in role.COLUMNS], cells)
    return (
        f'<article class="excitation" data-of="{escape(of)}"><h3>{escape(trained)}</h3>'
        f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"
        f'<div class="pictures">{figures}</div>'
        f"{scroll_box(blocks_table, f'Gates of {trained}')}"
        f'<p class="source">{escape(str(measured.folder))}/</p></article>'
    )


def scroll_box(inside: str, label: str) -> str:
    """A scrollable box that the keyboard reaches, too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{inside}</div>'


def pooled_html(tables: Sequence[PooledTable]) -> str:
    """The studies that stand in several settings, pooled; nothing where there are none."""
    if not tables:
        return ""
    from senet_lab.reports.pool_figures import forest_files  # matplotlib comes with it

    articles = "".join(
        f"<article><h3>{escape(table.heading)}</h3>{warnings_html(table)}"
        f'<div class="pictures">{picture(forest_files(table, ("svg",))["pooled.svg"], table.heading)}</div>'
        f"{scroll_box(plain_table_html(table), f'Table: {table.heading}')}{remarks_html(table)}"
        f"<details><summary>What these numbers mean</summary>{notes_html(table)}</details></article>"
        for table in tables
    )
    return f'<section id="pooled"><h2>Over several settings</h2>{articles}</section>'
