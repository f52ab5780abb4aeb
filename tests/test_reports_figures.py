"""The figure: no label hides another, shapes tell the verdicts apart, the files carry no dates."""

from __future__ import annotations

import dataclasses
import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text
from rich.console import Console
from test_reports_conclusions import drawn as with_images
from test_reports_page import learned
from test_reports_roundtrip import RATIO, made_up
from test_reports_tables import PAIRS, pairs, plain_cells

from senet_lab.reports import curve_figures, curves, drawing, figures, fragments, tables
from senet_lab.reports.results import FinishedStudy
from senet_lab.reports.verdict_styles import STYLES

POSITION = {"standard": "SE", "pre": "SE-PRE", "post": "SE-POST", "identity": "SE-Identity"}
MOBILE = ["MobileNet", "SE-MobileNet", "ShuffleNet", "SE-ShuffleNet"]
WRN = ["ResNet-110", "SE-ResNet-110", "WRN-16-8", "SE-WRN-16-8"]
SPREAD = [place for place in (83_000, 80_000, 78_500, 77_700, 77_400, 77_000) for _ in range(3)]


def drawn(table: tables.Table) -> Figure:
    with drawing.lab_style():
        return figures.figure_of(table)


@pytest.mark.parametrize("failed", [(), (("r = 4", 0), ("r = 4", 1), ("r = 4", 2), ("no SE", 1))])
@pytest.mark.parametrize("seed", range(4))
def test_labels_of_points_hide_nothing(seed: int, failed: tuple[tuple[str, int], ...]) -> None:
    trials = made_up(params=SPREAD, failed=failed)
    trials["test_error"] += [100 / 360 * ((7 * seed + 3 * i) % 5) for i in range(len(trials))]
    figure = drawn(tables.summarise_study(trials))
    figure.draw_without_rendering()
    ours, theirs = figure.axes
    for axes, expected in ((ours, 5 if failed else 6), (theirs, 6)):
        notes = [child for child in axes.get_children() if isinstance(child, Annotation)]
        assert {note.get_text() for note in notes} >= {"r = 2", "no SE"}
        assert len(notes) == expected
        boxes = [Text.get_window_extent(note) for note in notes]  # without the line to the point
        frame = axes.get_window_extent()
        for i, box in enumerate(boxes):
            assert frame.x0 <= box.x0
            assert box.x1 <= frame.x1
            assert frame.y0 <= box.y0
            assert box.y1 <= frame.y1
            assert not any(box.overlaps(other) for other in boxes[:i])
            for line in axes.get_lines():
                for x, y in axes.transData.transform(line.get_xydata()):
                    assert not box.contains(x, y), "a label covers a marker or the cap of an interval"


def test_rows_with_nearly_equal_parameters_stand_in_a_list() -> None:
    trials = made_up(POSITION, baseline="standard", paper_table="table14", failed=tuple(("post", s) for s in range(3)))
    figure = drawn(tables.summarise_study(trials))
    ours, theirs = figure.axes
    assert [tick.get_text() for tick in ours.get_yticklabels()] == list(POSITION)
    assert ours.get_ylim() == theirs.get_ylim() == (3.5, -0.5)  # the same order, from the top
    assert [text.get_text().strip() for text in ours.texts] == ["failed", "error (n)"]
    assert [text.get_text().strip() for text in theirs.texts] == ["error"]


def test_each_row_of_pairs_stands_beside_its_own_baseline() -> None:
    """In a list, whatever the parameters are: points of several networks against them would be a cloud."""
    made = tables.summarise_study(pairs(paper_table=["table3"] * 4, paper_row=MOBILE, params=[1, 2, 5, 9]))
    ours, theirs = drawn(made).axes
    assert [tick.get_text() for tick in ours.get_yticklabels()] == list(PAIRS)
    for axes, column in ((ours, "delta"), (theirs, "paper_delta_points")):
        values = [float(row[column] or 0) for row in plain_cells(made).values()]
        assert [x for x, _ in markers(axes)] == pytest.approx(values, abs=6e-5)
        assert values[1] < -0.5
    assert ours.get_title() == "here: digits, 2 networks, n = 3"
    assert theirs.get_title() == "paper: ImageNet-1k, single runs"
    assert ours.get_xlabel() == "Δ to the row's baseline: top-1 error (points)"


def markers(axes: Axes) -> dict[tuple[float, float], str]:
    """Where markers of rows stand → their shape; the caps of intervals are markers, too."""
    shown = [line for line in axes.get_lines() if len(line.get_xdata()) == 1 and line.get_marker() not in "|_"]
    return {(float(line.get_xdata()[0]), float(line.get_ydata()[0])): str(line.get_marker()) for line in shown}


def bars(axes: Axes) -> dict[float, list[tuple[float, float]]]:
    """Width → the (low, high) of the intervals of a list with this width, from the top."""
    found: dict[float, list[tuple[float, float]]] = {}
    for child in axes.get_children():
        if isinstance(child, LineCollection):
            for path in child.get_paths():
                found.setdefault(float(child.get_linewidth()[0]), []).append(tuple(path.vertices[:, 0].tolist()))
    return found


@pytest.mark.parametrize("metric", ["error", "loss"])
def test_what_verdicts_are_about_with_both_intervals_and_the_margin(metric: str) -> None:
    """Against the table's own file: Δ, its interval over seeds (thick) and over seeds and images (thin)."""
    shifts = {"base": 0.0, "low": -1.0, "high": 0.4, "same": 0.01}
    made = tables.summarise_study(
        *with_images(shifts, 5, 1000, metric=metric, margin=5.0 if metric == "error" else 0.075)
    )
    rows = list(plain_cells(made).values())
    (axes,) = drawn(made).axes
    compared = rows[1:]
    assert [x for x, _ in markers(axes)] == pytest.approx([0, *(float(row["delta"]) for row in compared)], abs=6e-5)
    thin, thick = sorted(bars(axes))
    for width, ends in ((thick, ("delta_low", "delta_high")), (thin, ("delta_low_crossed", "delta_high_crossed"))):
        expected = [tuple(float(row[end]) for end in ends) for row in compared]
        for bar, pair in zip(bars(axes)[width], expected, strict=True):
            assert bar == pytest.approx(pair, abs=6e-5)
    assert [row["verdict_kind"] for row in compared] == ["better", "worse", "equivalent"]
    assert list(markers(axes).values()) == ["s", "v", "^", "o"]
    (band,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx(
        (-5, 5) if metric == "error" else (-0.075, 0.075)
    )
    low, high = axes.get_xlim()
    assert low < band.get_x()
    assert high > -band.get_x()
    (legend,) = axes.figure.legends
    what, unit = ("top-1 error", "points") if metric == "error" else ("test loss", "nats")
    assert axes.get_xlabel() == f"Δ to base: {what} ({unit})"
    assert [text.get_text() for text in legend.get_texts()] == [
        "baseline",
        "better",
        "worse",
        "equivalent",
        f"margin, ±{-band.get_x():g} {unit}",
        "95% over seeds, uncorrected",
        "over seeds and images",
    ]


def test_what_is_compared_with_nothing_shows_its_error() -> None:
    made = tables.summarise_study(made_up({"x": ""}, baseline="x", paper_table=""))
    (axes,) = drawn(made).axes
    assert made.rows[0].top1 is not None
    assert [x for x, _ in markers(axes)] == pytest.approx([made.rows[0].top1.mean])
    assert axes.get_xlabel() == "top-1 error (%)"


def test_the_legend_says_of_the_paper_what_is_known() -> None:
    for table, rows, meaning in (("table3", MOBILE, "paper, single run"), ("table4", WRN, "paper")):
        (legend,) = drawn(tables.summarise_study(pairs(paper_table=[table] * 4, paper_row=rows))).legends
        assert [text.get_text() for text in legend.get_texts()][-2] == meaning


def test_a_study_of_ones_own_has_one_panel_and_a_paper_row_that_is_not_there_says_so() -> None:
    assert len(drawn(tables.summarise_study(made_up({"x": "", "y $ z": ""}, baseline="x", paper_table=""))).axes) == 1
    rows = {"sigmoid": "Sigmoid", "softmax": ""}
    figure = drawn(tables.summarise_study(made_up(rows, baseline="sigmoid", paper_table="table12")))
    assert [text.get_text().strip() for text in figure.axes[1].texts] == ["not in the paper", "error"]


def test_verdicts_differ_in_shape() -> None:
    assert len({(style.marker, style.filled) for style in figures.STYLES.values()}) == len(figures.STYLES)
    assert len({look.mark for look in STYLES.values()}) == len(STYLES)


def test_a_verdict_looks_the_same_in_every_form() -> None:
    made = tables.summarise_study(
        *with_images({"base": 0.0, "low": -1.0, "high": 0.4, "same": 0.01}, 5, 1000, margin=5.0)
    )
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    tables.print_table(made, console)
    assert isinstance(console.file, io.StringIO)
    study = FinishedStudy(Path("x"), "x", made, made_up(), None)
    text, page = tables.markdown(made), fragments.table_html(study)
    found = set()
    for row in made.rows:
        look, word = row.look, row.verdict.word if row.verdict else "baseline"
        found.add(look.meaning)
        assert f"| {look.mark} {word} |" in text
        assert plain_cells(made)[row.label]["verdict"] == word
        assert f'{look.tone} words"><span class="mark" aria-hidden="true">{look.mark}</span> {word}</td>' in page
        if look.colour:
            red, green, blue = bytes.fromhex(look.colour[1:])
            assert f"\x1b[38;2;{red};{green};{blue}m{look.mark} {word[:5]}" in console.file.getvalue()
    assert found == {"baseline", "better", "worse", "equivalent"}
    low, high = (f"{float(plain_cells(made)[row]['delta']):+.2f}".replace("-", "−") for row in ("low", "high"))
    assert fragments.finding_sentence(study) == (
        f"▼ low ({low}) is better than base; ▲ high ({high}) is worse than base; "
        "● same is equivalent to base within ±5 points"
    )


def test_files_carry_no_dates_and_are_what_they_say() -> None:
    files = figures.render_study(tables.summarise_study(made_up(RATIO, 1)))
    assert list(files) == ["figure.svg", "figure.png", "figure.pdf"]
    svg, png, pdf = files.values()
    assert ET.fromstring(svg).tag.endswith("svg")
    assert b"<dc:date>" not in svg
    assert png.startswith(b"\x89PNG")
    assert b"tIME" not in png
    assert b"tEXt" not in png
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf


@pytest.fixture
def another_dejavu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose DejaVu Sans is another one."""
    other = next(font for font in fontManager.ttflist if font.name == "DejaVu Serif")
    monkeypatch.setattr(fontManager, "ttflist", [dataclasses.replace(other, name="DejaVu Sans")])
    fontManager._findfont_cached.cache_clear()
    yield
    fontManager._findfont_cached.cache_clear()


def test_the_fonts_and_settings_of_the_machine_change_nothing(request: pytest.FixtureRequest) -> None:
    table = tables.summarise_study(made_up(RATIO, 1))
    before = figures.render_study(table)
    request.getfixturevalue("another_dejavu")
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": "another"}):
        assert figures.render_study(table) == before


def test_labels_in_any_script_and_of_any_length() -> None:
    labels = {"压缩比 16": "", "x" * 300: "", "\\frac{$": ""}
    assert figures.render_study(tables.summarise_study(made_up(labels, baseline="压缩比 16", paper_table="")))[
        "figure.svg"
    ]


def test_one_wide_interval_does_not_flatten_the_others() -> None:
    trials = made_up(POSITION, baseline="standard", paper_table="table14", failed=(("post", 0),))
    trials.loc[(trials["row"] == "post") & (trials["seed"] == 1), "test_error"] = 9.0
    table = tables.summarise_study(trials)
    low, high = drawn(table).axes[0].get_xlim()
    assert table.rows[2].top1 is not None
    assert (table.rows[2].top1.half_width or 0) > 30  # two seeds, six points apart
    assert high - low < 25


def panels(made: tables.Table, known: pd.DataFrame) -> dict[str, Axes]:
    """The panels of the figure of curves by title."""
    with drawing.lab_style():
        figure = curve_figures.figure_of(made, *curve_figures.rows_and_curves(made, known))
    figure.draw_without_rendering()
    return {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("metric", ["error", "loss"])
def test_curves_are_means_and_deviations_beside_the_baseline(metric: str, validation: bool) -> None:
    """Each row against its own baseline, by the file's numbers; a failed seed is left out, as is a twin."""
    trials = made_up({"a": "", "SE-a": "", "b": "", "SE-b": "", "twin": ""}, 4, "a", "", failed=(("SE-b", 1),))
    trials["baseline"] = ["a"] * 8 + ["b"] * 12
    trials.loc[trials["row"] == "twin", "trial_id"] = list(trials.loc[trials["row"] == "b", "trial_id"])
    trials["metric"] = metric
    if metric == "loss":
        trials["test_loss"] = trials["test_error"] / 10
    known = learned(trials)
    if not validation:
        known[["val_loss", "val_error"]] = np.nan
    found = panels(tables.summarise_study(trials), known)
    assert list(found) == ["SE-a, n = 4", "SE-b, n = 3"]
    parts = ["val", "train"] if validation else ["train"]
    for axes, labels in zip(found.values(), (("a", "SE-a"), ("b", "SE-b")), strict=True):
        lines, bands = (
            iter(axes.get_lines()),
            iter(each for each in axes.collections if isinstance(each, PolyCollection)),
        )
        for label in labels:
            seeds = [known[known["row"] == label].groupby("epoch")[f"{part}_{metric}"] for part in parts]
            for part in seeds:
                line = next(lines)
                assert list(line.get_xdata()) == [1, 2, 3, 4]
                assert list(line.get_ydata()) == pytest.approx(list(part.mean()), rel=1e-5)
            low, high = (seeds[0].mean() + sign * seeds[0].std() for sign in (-1, 1))
            (path,) = next(bands).get_paths()
            reached = {(x, round(y, 2)) for x, y in path.vertices}
            assert reached == {(e, round(y, 2)) for end in (low, high) for e, y in end.items()}
        assert not [*lines, *bands]


def test_curves_of_one_network_and_of_none() -> None:
    trials = made_up({"x": ""}, 1, baseline="x", paper_table="")
    made, known = tables.summarise_study(trials), learned(trials).assign(train_error=0.0)  # no place on such an axis
    assert list(panels(made, known)) == ["x, n = 1"]
    assert list(curve_figures.render_curves(made, known)) == ["curves.svg", "curves.pdf"]
    assert curve_figures.render_curves(made, curves.curves_of_records(trials, {})) == {}
