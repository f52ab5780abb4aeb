"""A front's four forms: Markdown, CSV, LaTeX (booktabs) and the terminal. Labels are escaped in each."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from senet_lab.objectives import OBJECTIVES
from senet_lab.reports.columns import count
from senet_lab.reports.forms import MARKDOWN, escape
from senet_lab.reports.front_rows import Found, Front
from senet_lab.reports.statistics import Sample
from senet_lab.reports.tex import tex


@dataclass(frozen=True)
class Column:
    """One column: its head, the cell of a design, whether it is text, and whether a narrow console has it, too."""

    head: str
    cell: Callable[[Found], str]
    words: bool = False
    narrow: bool = True


def named(each: Found) -> str:
    """A design's label, and which one everyone knows it is."""
    return each.label if each.reference in ("", each.label) else f"{each.label} ({each.reference})"


def spread(value: Sample | None) -> str:
    """ "2.13 ± 0.40 (3)"."""
    if value is None:
        return "failed"
    half = "" if value.half_width is None else f" ± {value.half_width:.2f}"
    return f"{value.mean:.2f}{half} ({value.n})"


def columns(front: Front) -> list[Column]:
    """The columns that a front has."""
    found = [
        Column("design", named, words=True),
        Column("val error %", lambda each: each.failed or spread(each.val_error)),
    ]
    if "val_loss" in front.objectives:
        at = front.objectives.index("val_loss")
        found.append(Column("val loss", lambda each: "" if each.values is None else f"{each.values[at]:.4f}"))
    found += [
        *tested(front),
        Column("params", lambda each: count(int(each.costs["params"]))),
        Column("multiply-adds", lambda each: count(int(each.costs["macs"])), narrow="macs" in front.objectives),
    ]
    if any("latency_ms" in each.costs for each in front.found):
        found.append(Column("latency ms", lambda each: f"{each.costs['latency_ms']:.3f}"))
    return found


def tested(front: Front) -> list[Column]:
    """Test errors: over fresh seeds, where the front was confirmed by them."""
    if not any(each.confirmed or each.failed_again for each in front.found):
        return [Column("test error %", lambda each: each.failed or spread(each.test_error))]
    cells = [Column("test error %", lambda each: spread(each.confirmed) if each.confirmed else each.failed_again)]
    if any(each.chance is not None for each in front.found):
        cells.append(Column("on front", lambda each: "" if each.chance is None else f"{each.chance:.0%}"))
    return cells


def shown(front: Front) -> list[Found]:
    """The lines of the readable forms: the front, and what everyone knows beside it."""
    best = front.best
    beside = [each for each in front.found if each.reference or each.confirmed or each.failed_again]
    others = [each for each in beside if not each.on_front]
    return best + sorted(others, key=lambda each: each.costs["params"])


def heading(front: Front) -> str:
    return f"{front.title or front.study}: {', '.join(OBJECTIVES[name].heading for name in front.objectives)}"


def notes(front: Front) -> list[str]:
    """What the numbers rest on."""
    f = front.facts
    number = sum(each.asked is not None for each in front.found)
    said = [
        f"{f['data']}, {f['backbone']}, recipe {f['recipe']}, {f['epochs']} epoch{'s' * (f['epochs'] != '1')}, "
        f"{f['device']}, torch {f['torch']}; "
        f"{number} designs, {f['seeds']} seed{'s' * (f['seeds'] != '1')} each, sampler {f['sampler']}.",
        *halved(front),
        *front.warnings,
        f"On the front: no other design that was trained is as good in every one of {', '.join(front.objectives)} and "
        "better in one, by the means over the seeds on the validation images.",
        "Errors are means ± 95% t interval over the seeds (n). Validation errors of designs that were chosen by them "
        "are better than they would be again; test errors chose nothing.",
    ]
    if any(not each.on_front for each in shown(front)):
        said.append("Without a mark: for comparison, not on the front.")
    if any(each.confirmed for each in front.found):
        said.append("Test errors are those of trainings with fresh seeds, that chose nothing.")
    if any(each.chance is not None for each in front.found):
        said.append(
            "On front: the chance that the design's true test error, which its seeds tell only roughly, puts it on the "
            "front of these designs (10,000 draws from the errors that the seeds leave possible)."
        )
    return said


def halved(front: Front) -> list[str]:
    """What successive halving has saved, where there was any."""
    spent, _, whole = front.facts["spent"].partition("/")
    if spent == whole:
        return []
    share = 1 - int(spent) / int(whole)
    return [f"Successive halving trained {int(spent):,} of {int(whole):,} epochs, {share:.0%} less."]


def marked(each: Found) -> str:
    return "●" if each.on_front else ""


def csv_text(front: Front) -> str:
    """Every design, in the order in which they were asked for, numbers without decoration."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    levels = list(next((each.levels for each in front.found), {}))
    costs = list(next((each.costs for each in front.found), {}))
    writer.writerow(
        [
            "design",
            "on_front",
            "asked",
            *levels,
            "val_error",
            "val_error_sd",
            "test_error",
            "test_error_half_width",
            "n",
            "confirmed_test_error",
            "confirmed_half_width",
            "confirmed_n",
            "chance_on_front",
        ]
        + [f"objective_{name}" for name in front.objectives]
        + costs
    )
    for each in front.found:
        val, test, sure = each.val_error, each.test_error, each.confirmed
        writer.writerow(
            [each.label, int(each.on_front), "" if each.asked is None else each.asked]
            + [each.levels[name] for name in levels]
            + ([number(val.mean), number(val.sd)] if val else ["", ""])
            + ([number(test.mean), number(test.half_width), test.n] if test else ["", "", 0])
            + ([number(sure.mean), number(sure.half_width), sure.n] if sure else ["", "", 0])
            + [number(each.chance)]
            + [number(value) for value in each.values or [None] * len(front.objectives)]
            + [number(each.costs[name]) for name in costs]
        )
    return out.getvalue()


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


def markdown(front: Front) -> str:
    """The front as GitHub's Markdown, with its notes."""
    made = columns(front)
    lines = [
        f"# {escape(heading(front), MARKDOWN)}",
        "",
        "| | " + " | ".join(column.head for column in made) + " |",
        "| :-: | " + " | ".join("---" if column.words else "---:" for column in made) + " |",
    ]
    for each in shown(front):
        cells = [escape(column.cell(each), MARKDOWN) if column.words else column.cell(each) for column in made]
        lines.append(f"| {marked(each)} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {escape(note, MARKDOWN)}" for note in notes(front))]
    return "\n".join([*lines, *recipe_of(front)]) + "\n"


def recipe_of(front: Front) -> list[str]:
    """The most accurate design on the front, as a command and as a call."""
    at = next(at for at, name in enumerate(front.objectives) if name.startswith("val_"))
    best = min(front.best, key=lambda each: (each.values or ())[at:], default=None)
    if best is None or not best.levels:
        return []
    facts = front.facts
    head = "se.reduction."
    ratios = {key.removeprefix(head): level for key, level in best.levels.items() if key.startswith(head)}
    on = {stage: level for stage, level in ratios.items() if level != "off"}
    words = [word for word in shlex.split(facts["words"]) if word.partition("=")[0] not in best.levels]
    if on:
        words.append(f"se.reduction={{{','.join(f'{stage}:{level}' for stage, level in on.items())}}}")
        words += [f"{key}={level}" for key, level in best.levels.items() if not key.startswith(head)]
        said = dict(word.removeprefix("se.").split("=", 1) for word in words if word.startswith("se."))
        said["reduction"] = f"{{{', '.join(f'{stage}: {level}' for stage, level in on.items())}}}"
        design = f"lab.SE({', '.join(f'{key}={value(text)}' for key, text in said.items())})"
    else:
        words = [*(word for word in words if not word.startswith("se.")), "se=null"]
        design = "None"
    return [
        "",
        f"The best of them by {escape(front.objectives[at], MARKDOWN)}, {escape(best.label, MARKDOWN)}: to be trained, "
        "and as a network.",
        "",
        "```",
        f"python -m senet_lab.run backbone={facts['backbone']} {shlex.join(words)}",
        "```",
        "",
        "```python",
        "import senet_lab as lab",
        "",
        "net = lab.models.create(",
        f'    "{facts["backbone"]}",',
        f"    se={design},",
        f"    num_classes={facts['classes']},",
        f"    in_channels={facts['channels']},",
        ")",
        "```",
    ]


def value(text: str) -> str:
    """A word of the command line as Python writes it: true, sigmoid → True, "sigmoid"."""
    meant = yaml.safe_load(text)
    return f'"{meant}"' if isinstance(meant, str) else text if isinstance(meant, dict) else repr(meant)


def latex(front: Front) -> str:
    """The front as a LaTeX float; needs the package booktabs."""
    made = columns(front)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{tex(heading(front))}}}",
        f"\\label{{tab:{''.join(c for c in front.study if c.isascii() and (c.isalnum() or c in '-:'))}}}",
        "\\small",
        f"\\begin{{tabular}}{{@{{}}c{''.join('l' if column.words else 'r' for column in made)}@{{}}}}",
        "\\toprule",
        " & " + " & ".join(tex(column.head) for column in made) + " \\\\",
        "\\midrule",
    ]
    for each in shown(front):
        mark = "$\\bullet$" if each.on_front else ""
        lines.append(f"{mark} & " + " & ".join(tex(column.cell(each)) for column in made) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", "", "\\medskip", "\\begin{minipage}{\\textwidth}\\raggedright"]
    lines += [tex(note) + "\\par" for note in notes(front)]
    return "\n".join([*lines, "\\end{minipage}", "\\end{table*}"]) + "\n"


def terminal(front: Front, console: Console) -> None:
    """Print the front with the columns that fit."""
    made = columns(front)
    console.print()
    console.print(Text(heading(front), style="bold"))
    grid = _grid(front, made)
    if console.measure(grid, options=console.options.update(width=10_000)).maximum > console.width:
        grid = _grid(front, [column for column in made if column.narrow])
    console.print(grid)
    for note in notes(front)[: 1 + len(halved(front)) + len(front.warnings)]:
        console.print(Text(note))


def _grid(front: Front, made: Sequence[Column]) -> RichTable:
    grid = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True)
    grid.add_column("")
    for column in made:
        justify: Literal["left", "right"] = "left" if column.words else "right"
        grid.add_column(
            Text(column.head.replace(" ", "\n", 1)), justify=justify, vertical="bottom", no_wrap=not column.words
        )
    for each in shown(front):
        cells: list[Any] = [Text(column.cell(each)) for column in made]  # a label is no markup
        grid.add_row(marked(each), *cells)
    return grid
