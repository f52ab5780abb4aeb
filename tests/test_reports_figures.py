"""The figure: no label hides another, shapes tell the verdicts apart, the files carry no dates."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Annotation, Text
from test_reports_roundtrip import RATIO, made_up
from test_reports_tables import PAIRS, pairs

from senet_lab.reports import drawing, figures, tables

POSITION = {"standard": "SE", "pre": "SE-PRE", "post": "SE-POST", "identity": "SE-Identity"}
MOBILE = ["MobileNet", "SE-MobileNet", "ShuffleNet", "SE-ShuffleNet"]
WRN = ["ResNet-110", "SE-ResNet-110", "WRN-16-8", "SE-WRN-16-8"]
SPREAD = [place for place in (83_000, 80_000, 78_500, 77_700, 77_400, 77_000) for _ in range(3)]


def drawn(table: tables.Table) -> Figure:
    with drawing.alike():
        return figures._figure(table)


@pytest.mark.parametrize("failed", [(), (("r = 4", 0), ("r = 4", 1), ("r = 4", 2), ("no SE", 1))])
@pytest.mark.parametrize("seed", range(4))
def test_labels_of_points_hide_nothing(seed: int, failed: tuple[tuple[str, int], ...]) -> None:
    trials = made_up(params=SPREAD, failed=failed)
    trials["test_error"] += [100 / 360 * ((7 * seed + 3 * i) % 5) for i in range(len(trials))]
    figure = drawn(tables.summarise(trials))
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
    figure = drawn(tables.summarise(trials))
    ours, theirs = figure.axes
    assert [tick.get_text() for tick in ours.get_yticklabels()] == list(POSITION)
    assert ours.get_ylim() == theirs.get_ylim() == (3.5, -0.5)  # the same order, from the top
    assert [text.get_text() for text in ours.texts] == ["failed"]
    assert list(theirs.texts) == []


def test_each_pair_has_the_line_of_its_own_baseline() -> None:
    """In a list, whatever the parameters are: points of several networks against them would be a cloud."""
    figure = drawn(tables.summarise(pairs(paper_table=["table3"] * 4, paper_row=MOBILE, params=[1, 2, 5, 9])))
    ours, theirs = figure.axes
    assert [tick.get_text() for tick in ours.get_yticklabels()] == list(PAIRS)
    for axes, errors in ((ours, (5.1, 9.1)), (theirs, (28.4, 32.6))):
        lines = [child for child in axes.get_children() if isinstance(child, LineCollection)]
        paths = [path.vertices for child in lines for path in child.get_paths() if len(path.vertices) == 2]
        upright = sorted((path[0, 0], *sorted(path[:, 1])) for path in paths if path[0, 0] == path[1, 0])
        assert upright == [pytest.approx((errors[0], -0.3, 1.3)), pytest.approx((errors[1], 1.7, 3.3))]
    assert ours.get_title() == "here: digits, 2 networks, n = 3"
    assert theirs.get_title() == "paper: ImageNet-1k, single runs"


def test_the_legend_says_of_the_paper_what_is_known() -> None:
    for table, rows, meaning in (("table3", MOBILE, "paper, single run"), ("table4", WRN, "paper")):
        (legend,) = drawn(tables.summarise(pairs(paper_table=[table] * 4, paper_row=rows))).legends
        assert [text.get_text() for text in legend.get_texts()][-1] == meaning


def test_a_study_of_ones_own_has_one_panel_and_a_paper_row_that_is_not_there_says_so() -> None:
    assert len(drawn(tables.summarise(made_up({"x": "", "y $ z": ""}, baseline="x", paper_table=""))).axes) == 1
    rows = {"sigmoid": "Sigmoid", "softmax": ""}
    figure = drawn(tables.summarise(made_up(rows, baseline="sigmoid", paper_table="table12")))
    assert [text.get_text() for text in figure.axes[1].texts] == ["not in the paper"]


def test_verdicts_differ_in_shape() -> None:
    assert len({(style.marker, style.filled) for style in figures.STYLES.values()}) == len(figures.STYLES)


def test_files_carry_no_dates_and_are_what_they_say(tmp_path: Path) -> None:
    paths = figures.draw(tables.summarise(made_up(RATIO, 1)), tmp_path)
    svg, png, pdf = (path.read_bytes() for path in paths)
    assert [path.name for path in paths] == ["figure.svg", "figure.png", "figure.pdf"]
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
    table = tables.summarise(made_up(RATIO, 1))
    before = figures.render(table)
    request.getfixturevalue("another_dejavu")
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": "another"}):
        assert figures.render(table) == before


def test_labels_in_any_script_and_of_any_length() -> None:
    labels = {"压缩比 16": "", "x" * 300: "", "\\frac{$": ""}
    assert figures.render(tables.summarise(made_up(labels, baseline="压缩比 16", paper_table="")))["figure.svg"]


def test_one_wide_interval_does_not_flatten_the_others() -> None:
    trials = made_up(POSITION, baseline="standard", paper_table="table14", failed=(("post", 0),))
    trials.loc[(trials["row"] == "post") & (trials["seed"] == 1), "test_error"] = 9.0
    table = tables.summarise(trials)
    low, high = drawn(table).axes[0].get_xlim()
    assert table.rows[2].top1 is not None
    assert (table.rows[2].top1.half_width or 0) > 30  # two seeds, six points apart
    assert high - low < 25
