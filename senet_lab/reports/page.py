"""The report: every study on one HTML page that needs no network, with interactive plots.

Tables and notes are plain HTML; the plots are drawn in the browser from numbers that lie in the page, by the scripts in
`web/` beside this file (hover, zoom, filters, light and dark). They are SVG by hand rather than plotly, whose script
alone is 4.5 MB: a page of a thousand trainings takes a few hundred kB and a fraction of a second to open.

The page allows itself no address at all, and no script but its own (Content-Security-Policy with the script's hash): a
label that got through every escape could still not run. The same studies give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

import pandas as pd

from senet_lab.reports import curves, fragments, render
from senet_lab.reports.cells import present
from senet_lab.reports.columns import STUDY
from senet_lab.reports.pooled import PooledTable
from senet_lab.reports.results import FinishedStudy, Gates
from senet_lab.reports.table import Table, TableRow
from senet_lab.reports.verdict_styles import STYLES

SCRIPTS = ("axes.js", "plots.js", "marks.js", "page.js", "tables.js")  # one after the other, in one scope
FACETS = ("data", "backbone", "study")  # filters, in this order
COPIED = 100  # rows of a table that has buttons to copy it
DIGITS = 4  # significant, of a point of a curve: more than a pixel can show


def render_page(
    studies: Sequence[FinishedStudy], gates: Sequence[Gates] = (), pooled: Sequence[PooledTable] = ()
) -> bytes:
    """The whole page.

    Raises:
        ValueError: where measured gates are damaged, in one line.
    """
    studies = sorted(studies, key=order)
    ids = identifiers(studies)
    settings: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, study in enumerate(studies):
        settings[study.setting].append(place)
    sections = "".join(section(each, places, studies, ids) for each, places in settings.items())
    content = {
        "facets": list(FACETS),
        "studies": [data(study, name) for study, name in zip(studies, ids, strict=True)],
        "settings": [overview(places, studies) for places in settings.values()],
        "looks": {
            name: [look.marker, look.tone + " open" * (not look.filled), look.meaning] for name, look in STYLES.items()
        },
    }
    script = "\n".join(asset(name) for name in SCRIPTS)
    return (
        Template(asset("template.html"))
        .substitute(
            hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            style=asset("page.css"),
            script=script,
            counts=escape(count_summary(studies)),
            filters=filters(studies),
            index=fragments.scroll_box(fragments.index(studies, ids), "All studies"),
            sections=sections,
            pooled=fragments.pooled_html(pooled),
            excitation=role_of_excitation(studies, gates),
            data=script_json(content),
        )
        .encode("utf-8", "replace")
    )


def order(study: FinishedStudy) -> tuple[Any, ...]:
    """Settings by name; in each the paper's tables first, in its order."""
    number = study.table.printed.number if study.table.printed else ""
    return (*study.setting, not number, int(number or 0), study.table.study, study.name, str(study.folder))


def identifiers(studies: Sequence[FinishedStudy]) -> list[str]:
    """A name for each study that an address can end in, unique on the page."""
    taken: dict[str, int] = defaultdict(int)
    out = []
    for study in studies:
        name = "study-" + (re.sub(r"[^a-z0-9]+", "-", study.name.lower()).strip("-") or "x")
        taken[name] += 1
        out.append(name if taken[name] == 1 else f"{name}--{taken[name]}")
    return out


def count_summary(studies: Sequence[FinishedStudy]) -> str:
    """ "8 studies, 57 designs, 205 trainings"; what several studies share counts once."""
    trials = pd.concat([study.trials[["trial_id", "status"]] for study in studies]).drop_duplicates("trial_id")
    failed = int((trials["status"] == "failed").sum())
    rows = sum(len(study.table.trained) for study in studies)
    words = [plural(len(studies), "study", "studies"), plural(rows, "row"), plural(len(trials), "training")]
    return ", ".join(words) + (f" ({failed:,} failed)" if failed else "")


def plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def facets(study: FinishedStudy) -> tuple[list[str], ...]:
    """A study's values for the filters, in the order of `FACETS`; it may have several backbones."""
    return tuple(present(study.trials[name]) for name in FACETS)


def filters(studies: Sequence[FinishedStudy]) -> str:
    """A group of buttons for each facet that tells studies apart."""
    groups = []
    for place, name in enumerate(FACETS):
        values = list(dict.fromkeys(value for study in studies for value in facets(study)[place]))
        if len(values) == 1:
            continue
        buttons = "".join(
            f'<button type="button" class="chip" aria-pressed="false" data-facet="{place}" '
            f'data-value="{escape(value)}">{escape(value)}</button>'
            for value in values
        )
        label = "data set" if name == "data" else name
        groups.append(
            f'<div class="group"><span class="what" id="facet-{place}">{label}</span>'
            f'<div class="chips" role="group" aria-labelledby="facet-{place}">{buttons}</div></div>'
        )
    return "".join(groups)


def section(
    setting: tuple[str, str, str], places: list[int], studies: Sequence[FinishedStudy], ids: Sequence[str]
) -> str:
    """The studies of one setting, below what all of their designs cost and reach."""
    data, backbone, recipe = (escape(word) for word in setting)
    articles = "".join(article(studies[place], ids[place]) for place in places)
    return (
        f'<section class="setting"><h2>{data} <span>{backbone}, recipe {recipe}</span></h2>'
        '<div class="plot overview" data-kind="overview"></div>'
        f"{articles}</section>"
    )


def article(study: FinishedStudy, name: str) -> str:
    table = study.table
    number = f' <span class="number">table {escape(table.printed.number)} of the paper</span>' if table.printed else ""
    return (
        f'<article class="study" id="{name}"><h3>{escape(table.title)}{number}</h3>'
        f'<p class="finding">{escape(fragments.finding_sentence(study))}</p>'
        f"{fragments.warnings_html(table)}"
        f"{fragments.scroll_box(fragments.table_html(study), f'Table: {table.title} ({study.name})')}"
        f"{copy_buttons(study)}"
        f"{fragments.remarks_html(table)}"
        '<div class="plots"><div class="plot" data-kind="rows"></div>'
        + ('<div class="plot" data-kind="curves"></div>' if study.curves is not None and len(study.curves) else "")
        + f"</div><details><summary>What these numbers mean</summary>{fragments.notes_html(table)}</details>"
        f"{fragments.commands_html(study)}"
        f'<p class="source">{escape(study.folder.as_posix())}/</p></article>'
    )


def copy_buttons(study: FinishedStudy) -> str:
    """Buttons that copy the table in a form for another document; one that is too long for a document has none."""
    if len(study.table.rows) > COPIED:
        return ""
    forms = {"CSV": render.csv_text, "LaTeX": render.latex, "Markdown": render.markdown}
    buttons = "".join(
        f' <button type="button">{name}</button><template>{escape(form(study.table))}</template>'
        for name, form in forms.items()
    )
    return f'<p class="copy">Copy the table as{buttons}<span role="status"></span></p>'


# --------------------------------------------------------------------------------------------------------------------
# Numbers for the plots


def data(study: FinishedStudy, name: str) -> dict[str, Any]:
    """A study as the scripts take it."""
    table = study.table
    validated = study.trials[study.trials["status"] == "done"].groupby("row")["val_error"].mean()
    return {
        "id": name,
        "facets": facets(study),
        "title": table.title,
        "baseline": fragments.baseline_name(table),
        "metric": "test loss" if table.aim.metric == "loss" else "top-1 test error",
        "unit": table.aim.unit,
        "margin": table.aim.margin,
        "interval": "repeated 95%" if table.aim.settles else "95%",
        "front": None if study.front is None else [row.label in study.front for row in table.rows],
        "rows": [row_data(row, row.label in table.compared_with, validated.get(row.label)) for row in table.rows],
        "curves": {} if study.curves is None else curve_data(table, study.curves),
    }


def row_data(row: TableRow, compared: bool, validated: float | None) -> dict[str, Any]:
    """One design: `at` is its error and half its intervals over seeds, and over seeds and images (`wide`), its
    difference likewise, validation error, params and macs; None is none.

    Args:
        row: of the table.
        compared: whether other rows are compared with it.
        validated: its mean validation error, percent.
    """
    top1, delta = row.top1, row.delta
    return {
        "label": row.label,
        "at": {
            "error": None if top1 is None else rounded(top1.mean),
            "half": None if top1 is None else rounded(top1.half_width),
            "wide": None if top1 is None else rounded(top1.half_crossed),
            "delta": None if delta is None else rounded(delta.delta),
            "delta_half": None if delta is None or delta.high is None else rounded(delta.high - delta.delta),
            "delta_wide": None if delta is None else rounded(delta.half_crossed),
            "val": rounded(validated),
            "params": row.params,
            "macs": row.macs,
        },
        "style": "baseline" if compared else row.kind if row.baseline else "",
        "tip": [(c.tip, text) for c in STUDY if c.tip and (text := c.exactly(row))],
    }


def curve_data(made: Table, table: pd.DataFrame) -> dict[str, Any]:
    """Row number → epochs `x`, seeds `n`, and for each metric that the file has mean, min and max."""
    out: dict[str, Any] = {}
    summaries = curves.row_curves(table)
    for place, row in enumerate(made.rows):
        if row.label in summaries:
            curve = summaries[row.label]
            counts = sorted({min(curve.n), max(curve.n)})
            out[str(place)] = {
                "x": curve.epochs,
                "n": "–".join(map(str, counts)),
                **{
                    metric: [[rounded(value) for value in share] for share in values[:3].tolist()]
                    for metric, values in curve.values.items()
                },
            }
    return out


def overview(places: list[int], studies: Sequence[FinishedStudy]) -> list[dict[str, Any]]:
    """The networks of one setting, each once: those that several studies share are one point that names them all."""
    points: dict[Any, dict[str, Any]] = {}
    for place in places:
        for number, row in enumerate(studies[place].table.rows):
            if row.top1 is None:
                continue
            key = row.trainings or (place, number)
            point = points.setdefault(key, {"of": [], "plain": not row.hidden})
            point["of"].append([place, number])
    return list(points.values())


def rounded(value: float | None) -> float | None:
    """A number in as many digits as a screen can show."""
    return None if value is None or math.isnan(value) else float(f"{value:.{DIGITS}g}")


# --------------------------------------------------------------------------------------------------------------------


def role_of_excitation(studies: Sequence[FinishedStudy], gates: Sequence[Gates]) -> str:
    """The networks whose gates were measured; nothing where there are none."""
    if not gates:
        return ""
    trained: dict[str, str] = {}
    of: dict[str, list[list[int]]] = defaultdict(list)
    for place, study in enumerate(studies):
        numbers = {row.label: number for number, row in enumerate(study.table.rows)}
        for name, label, seed in zip(*(study.trials[column] for column in ("trial_id", "row", "seed")), strict=True):
            trained.setdefault(name, f"{study.table.title}: {label}, seed {seed} ({', '.join(study.setting[:2])})")
            of[name].append([place, numbers[label]])
    articles = "".join(
        fragments.excitation_html(each, trained.get(each.name, each.name), script_json(of[each.name])) for each in gates
    )
    return f'<section id="excitation"><h2>The role of excitation</h2>{articles}</section>'


def asset(name: str) -> str:
    """A file of the page, from the package."""
    return resources.files("senet_lab.reports").joinpath("web", name).read_text(encoding="utf-8")


def script_json(content: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
