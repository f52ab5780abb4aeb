"""Pieces of the HTML page: a study's table, its notes, the list of all studies, the role of excitation.

Every text that comes from a user or a file goes through `html.escape`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import pandas as pd

from senet_lab.config import first_line
from senet_lab.reports.aim import DIGITS
from senet_lab.reports.columns import Column, delta_cell, delta_crossed_cell, shown, signed, text_cell
from senet_lab.reports.looks import LOOKS, kind
from senet_lab.reports.notes import listed
from senet_lab.reports.rows import Row, Table
from senet_lab.reports.sources import Gates, Study

FIRST = 6  # columns that a terminal keeps about as long are shown at once (`Column.drop`), the others on demand
STAR = "*"  # begins the note that says what a star in the table means
NAMED = 4  # rows that a finding names; the others are counted


def table(study: Study) -> str:
    """A study's table, in the columns of its other forms; a search's front is marked."""
    made = study.table
    columns = shown(made)
    heads = "".join(f'<th scope="col"{_class(column)}>{escape(column.head)}</th>' for column in columns)
    lines = "".join(
        f'<tr data-row="{place}">{"".join(_cell(column, row, study) for column in columns)}</tr>'
        for place, row in enumerate(made.rows)
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def _class(column: Column, *more: str) -> str:
    names = [*more, "words" * column.words, "more" * (column.drop is None or column.drop > FIRST)]
    names = [name for name in names if name]
    return f' class="{" ".join(names)}"' if names else ""


def _cell(column: Column, row: Row, study: Study) -> str:
    text = text_cell(column, row, study.table)
    if column.name == "verdict" and study.front is not None and not row.baseline:
        text = text if row.label in {other.baseline for other in study.table.rows} else ""  # a search may have none
    if column.name == "row":
        mark = '<span class="mark" title="on the front">●</span> ' if row.label in (study.front or ()) else ""
        return f'<th scope="row">{mark}{escape(text)}</th>'
    mark, _, words = text.partition(" ")
    if column.name == "verdict" and mark and mark == LOOKS[kind(row)].mark:
        sign = f'<span class="mark" aria-hidden="true">{mark}</span> '
        return f"<td{_class(column, LOOKS[kind(row)].tone)}>{sign}{escape(words)}</td>"
    return f"<td{_class(column)}>{escape(text)}</td>"


def notes(made: Table) -> str:
    """What the columns mean and what the numbers stand for."""
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in made.notes[1:]) + "</ul>"


def warnings(made: Table) -> str:
    """What a reader must know about these trials in particular."""
    said = [warning for warning in made.warnings if not warning.startswith(STAR)]
    return "".join(f'<p class="warning">{escape(warning)}</p>' for warning in said)


def remarks(made: Table) -> str:
    """Below the table: what a star in it means, and what the trials were."""
    said = [*(warning for warning in made.warnings if warning.startswith(STAR)), *made.notes[:1]]
    return "".join(f'<p class="source">{escape(remark)}</p>' for remark in said)


def baseline_of(made: Table) -> str:
    """The row that the others are compared with; "the row's own baseline" where there are several."""
    named = list(dict.fromkeys(row.baseline for row in made.rows if row.baseline))
    return named[0] if len(named) == 1 else "the row's own baseline" if named else ""


def finding(study: Study) -> str:
    """What a study found, in a sentence: which rows are better or worse than the baseline, by how much, which are
    equivalent, and what is open; of a search, its front."""
    made = study.table
    said = []
    if study.front is not None:
        said.append(f"● {sum(row.label in study.front for row in made.rows)} of {len(made.rows)} designs on the front")
    rows = {each: [row for row in made.rows if row.baseline and kind(row) == each] for each in LOOKS}
    for each in ("better", "worse", "better here", "worse here"):
        largest = sorted(rows[each], key=lambda row: -abs(row.delta.delta) if row.delta else 0)
        named = [f"{row.label} ({signed(row.delta.delta, DIGITS[row.metric])})" for row in largest if row.delta]
        if named:
            word, here = each.split()[0], " on these images" * each.endswith("here")
            said.append(f"{LOOKS[each].mark} {_are(named)} {word} than {baseline_of(made)}{here}")
    if rows["equivalent"]:
        named = [row.label for row in rows["equivalent"]]
        to = f"to {baseline_of(made)} within ±{made.aim.margin:g} {made.aim.unit}"
        said.append(f"{LOOKS['equivalent'].mark} {_are(named)} equivalent {to}")
    if rows["open"]:
        said.append(f"{LOOKS['open'].mark} {_are([row.label for row in rows['open']])} open")
    if rows["failed"] and study.front is None:
        said.append(f"{LOOKS['failed'].mark} {_are([row.label for row in rows['failed']])} not tested, after failures")
    single = any(row.top1 is not None and row.top1.n == 1 for row in made.rows)
    return "; ".join(said) or ("one seed: no verdict" if single else "no verdict")


def _are(names: Sequence[str]) -> str:
    """ "a is", "a and b are"."""
    return f"{listed(_few(names))} {'are' if len(names) > 1 else 'is'}"


def _few(names: Sequence[str]) -> list[str]:
    """The first of some names; the others are counted."""
    return [*names[:NAMED], *([f"{len(names) - NAMED} more"] if len(names) > NAMED else [])]


def index(studies: Sequence[Study], ids: Sequence[str]) -> str:
    """All studies at a glance, a line each."""
    heads = ("study", "what was found", "data", "backbone", "recipe", "rows", "seeds", "failed")
    words = range(5)
    lines = []
    for study, name in zip(studies, ids, strict=True):
        made = study.table
        failed = sum(len(row.failures) for row in made.rows)
        cells = [finding(study), *study.setting, str(len(made.rows)), seeds(made), str(failed) if failed else ""]
        link = f'<th scope="row"><a href="#{name}">{escape(made.title)}</a></th>'
        lines.append(
            f'<tr data-study="{name}">{link}'
            + "".join(
                f"<td{' class=words' * (place in words)}>{escape(text)}</td>"
                for place, text in enumerate(cells, start=1)
            )
            + "</tr>"
        )
    header = "".join(
        f'<th scope="col"{" class=words" * (place in words)}>{head}</th>' for place, head in enumerate(heads)
    )
    return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def seeds(made: Table) -> str:
    """ "10", or "2–3" where rows have different numbers of them."""
    counts = [len(row.seeds) for row in made.rows]
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}–{max(counts)}"


def tip(row: Row) -> list[tuple[str, str]]:
    """What a point says of its design: names and values, plain text."""
    paper = row.printed
    said = [
        ("error", "" if row.top1 is None else _interval(row)),
        ("Δ", delta_cell(row) or ""),
        ("over seeds and images", delta_crossed_cell(row) or ""),
        ("verdict", row.untested or ("baseline" if not row.baseline else row.verdict.word if row.verdict else "")),
        ("params", "" if row.params is None else f"{row.params:,}"),
        ("multiply-adds", "" if row.macs is None else f"{row.macs:,}"),
        ("SE widths", row.hidden),
        ("same network as", row.same_as),
        ("failed", ", ".join(f"seed {failure.seed}" for failure in row.failures[:6])),
        ("paper top-1", "" if paper is None else f"{paper.top1:.2f} %"),
    ]
    return [(name, text) for name, text in said if text]


def _interval(row: Row) -> str:
    assert row.top1 is not None
    half = "" if row.top1.half_width is None else f" ± {row.top1.half_width:.2f}"
    return f"{row.top1.mean:.2f}{half} %, n = {row.top1.n}"


def excitation(measured: Gates, trained: str, of: str) -> str:
    """Both figures of one network's gates, what the numbers say, and the numbers.

    Args:
        measured: where they lie.
        trained: what network it is.
        of: the rows that it is a training of, for the filters: JSON.

    Raises:
        ValueError: in one line, for files that are damaged or missing.
    """
    from senet_lab.reports import excitation as role  # with them comes matplotlib, which nothing else here needs
    from senet_lab.reports.gate_figures import FIGURES

    try:
        blocks = pd.read_csv(measured.folder / "blocks.csv", dtype={"block": str})
        said = role.observations(blocks)
        lines = [_block(block) for _, block in blocks.iterrows()]
        pictures = {name: (measured.folder / f"{name}.svg").read_bytes() for name in FIGURES}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise ValueError(f"{measured.folder}: the gates cannot be read ({reason})") from None
    about = {FIGURES[0]: "Mean gate by class", FIGURES[1]: "Gates within a class, mean ± standard deviation"}
    figures = "".join(
        f'<figure><img loading="lazy" alt="{escape(about[name])}: {escape(trained)}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"></figure>'
        for name, picture in pictures.items()
    )
    heads = ("block", "channels", "mean gate", "between / within", "gates > 0.95", "gates < 0.05", "SE of the stage")
    return (
        f'<article class="excitation" data-of="{escape(of)}"><h3>{escape(trained)}</h3>'
        f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in said)}</ul>"
        f'<div class="pictures">{figures}</div>'
        f"{scrolling(_plain(heads, lines), f'Gates of {trained}')}"
        f'<p class="source">{escape(str(measured.folder))}/</p></article>'
    )


def _block(block: pd.Series[Any]) -> list[str]:
    number = {name: float(block[name]) for name in ("mean", "specificity", "high", "low", "saved_percent")}
    return [
        str(block["block"]),
        f"{int(block['channels']):,}",
        f"{number['mean']:.3g}",
        "–" if pd.isna(number["specificity"]) else f"{number['specificity']:.3g}",
        f"{100 * number['high']:.1f} %",
        f"{100 * number['low']:.1f} %",
        f"{int(block['stage_se_params']):,} ({number['saved_percent']:.2f} %)",
    ]


def _plain(heads: Iterable[str], lines: Iterable[Sequence[str]]) -> str:
    header = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(text)}</td>" for text in others)}</tr>'
        for first, *others in lines
    )
    return f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"


def scrolling(inside: str, label: str) -> str:
    """A box that scrolls by itself, reached by the keyboard, too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{inside}</div>'
