"""What several names of one training, picked rows and trainings that failed make of verdicts and of a front."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from test_reports_roundtrip import made_up, searched

from senet_lab import __main__ as commands
from senet_lab.compose import compose
from senet_lab.reports import fragments, page, results, tables
from senet_lab.reports.columns import STUDY
from senet_lab.reports.front import front
from senet_lab.reports.statistics import ALPHA, holm
from senet_lab.reports.table import FrontDesign, Table
from senet_lab.studies import plan as plans
from senet_lab.studies import plan_text

ROWS = {"base": "", "a": "", "b": "", "c": ""}


def table(frame: pd.DataFrame) -> tuple[Table, dict[str, dict[str, str]]]:
    made = tables.summarise_study(frame)
    return made, {line["row"]: line for line in csv.DictReader(io.StringIO(tables.csv_text(made)))}


def study(failed: tuple[tuple[str, int], ...] = (), seeds: int = 5, **columns: Any) -> pd.DataFrame:
    return made_up(ROWS, seeds, "base", "", failed, **columns)


# ---------------------------------------------------------------------------------------------- twins and corrections


def test_rows_of_one_network_that_are_trained_apart_are_no_twins() -> None:
    """Seen: a factor outside the network (`recipe.lr`): equal networks, other trainings."""
    made, cells = table(study(network="one"))
    assert [cells[row]["same_network_as"] for row in ROWS] == [""] * 4
    assert all(cells[row]["p_holm"] for row in ("a", "b", "c"))
    assert "same network" not in tables.markdown(made)


def test_one_training_under_two_names_is_corrected_for_once() -> None:
    """Seen: rows that are the same trainings took two shares of the 5%."""
    frame = study()
    rows = dict(list(frame.groupby("row")))
    same = ["trial_id", "test_error"]
    frame.loc[rows["b"].index, same] = rows["a"][same].to_numpy()
    frame.loc[rows["c"].index, same] = rows["base"][same].to_numpy()
    made, cells = table(frame)
    assert made.tests == 1
    assert cells["a"]["p_holm"] == cells["b"]["p_holm"] == cells["a"]["p_uncorrected"]
    assert (cells["c"]["verdict"], cells["c"]["p_holm"]) == ("same network", "")
    assert "a and b are the same network here" in tables.markdown(made)


@pytest.mark.parametrize("settles", [False, True])
def test_rows_whose_words_changed_nothing_are_told_as_that(settles: bool) -> None:
    """Seen: the momentum of AdamW, varied, was "open: more test images needed (above 1,000,000)"."""
    frame = study(val_loss=0.1).assign(test_loss=lambda each: each["test_error"] / 7)
    if settles:
        frame = frame.assign(settle_min=3, settle_max=10, first_seed=0, margin=0.5)
    rows, outcome = dict(list(frame.groupby("row"))), ["test_error", "test_loss"]
    frame.loc[rows["a"].index, outcome] = rows["base"][outcome].to_numpy()
    frame.loc[rows["b"].index[1:], outcome] = rows["base"][outcome].to_numpy()[1:]
    made, cells = table(frame)
    assert (cells["a"]["verdict"], cells["a"]["p_holm"], float(cells["a"]["delta"])) == ("identical", "", 0)
    assert cells["b"]["verdict"] not in ("", "identical"), "one seed came out otherwise"
    assert made.tests == 3, "what is corrected for was fixed before"
    assert "a: the losses are those of base to the last digit, with every seed." in tables.markdown(made)
    assert "a is identical to base" in fragments.finding_sentence(results.FinishedStudy(Path(), "x", made, frame, None))


def test_the_page_keeps_rows_of_one_network_apart(tmp_path: Path) -> None:
    """Seen: two rows with one network and one error were one point of the overview."""
    tables.write_table(tmp_path / "x", study(network="one", test_error=5.0))
    assert len(page.overview([0], results.finished_studies([tmp_path]))) == 4


def written(folder: Path, text: str) -> None:
    place = folder / "sweeps" / "ablation"
    place.mkdir(parents=True)
    (place / "mine.yaml").write_text(f"# @package _global_\nstudy: {{name: mine, {text}}}\n")


TWINS = "r8: {se.reduction: 8}, r16: {se.reduction: 16}, again: {se.reduction: 8}, no SE: {se: null}"


@pytest.mark.parametrize(("only", "rows"), [("r8", 2), ("no SE", 2), ("again", 2), ("r16", 4)])
def test_rows_that_were_picked_are_corrected_for_all(
    only: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: `study.only` made p smaller. Twins count once, whether they were picked or not."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path, f"factor: se.reduction, baseline: r16, rows: {{{TWINS}}}")
    made = plans.make_plan(compose(["+ablation=mine", f"study.only=['{only}']"]))
    assert (len(made.rows), made.study_rows, made.study_tests) == (rows, 4, 2)


def test_a_stage_that_the_network_lacks_is_no_test() -> None:
    picked = plans.make_plan(compose(["+ablation=stages", "study.only=[all]"]))
    assert (picked.study_rows, picked.study_tests) == (6, 5)


def test_the_note_and_p_of_picked_rows() -> None:
    frame = study()
    some = frame[frame["row"].isin(["base", "a"])]
    made, cells = table(some.assign(study_rows=4, study_tests=3))
    assert float(cells["a"]["p_holm"]) == pytest.approx(min(1, 3 * float(cells["a"]["p_uncorrected"])), rel=1e-3)
    text = tables.markdown(made)
    assert "2 of 4 rows of the study are here; p is corrected for all that it compares (3)." in text
    assert "Holm's method for 3 rows" in text
    assert table(some)[0].tests == 1  # a file of an earlier lab regenerates as it is


def test_holm_counts_tests_without_a_p() -> None:
    assert holm([0.01, np.nan, 0.02], 5) == pytest.approx([0.05, np.nan, 0.08], nan_ok=True)


def test_several_tables_say_what_they_come_to(capsys: pytest.CaptureFixture[str]) -> None:
    made = plans.make_plan(compose(["+ablation=squeeze", "seeds=1"]))
    plan_text.show_alarms([made, made], Console(width=200))
    assert f"up to {1 - (1 - ALPHA) ** 2:.0%} of such runs" in capsys.readouterr().out
    plan_text.show_alarms([made], Console(width=200))
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------------------------------------------------ failures


def test_a_design_that_fails_is_no_survivor() -> None:
    """Seen: a row that diverged in some seeds was judged by the others. It counts among the tests, nonetheless."""
    made, cells = table(study((("a", 1), ("a", 3), ("b", 0), ("b", 1), ("b", 2), ("b", 3), ("b", 4))))
    assert [cells[row]["verdict"] for row in ("a", "b")] == ["failed in 2 of 5", "failed in 5 of 5"]
    assert [cells["a"][name] for name in ("p_uncorrected", "p_holm", "delta_low", "could_show")] == [""] * 4
    assert float(cells["c"]["p_holm"]) == pytest.approx(min(1, 3 * float(cells["c"]["p_uncorrected"])), rel=1e-3)
    assert "Not tested, because trainings failed: a and b." in tables.markdown(made)


def test_nothing_is_compared_with_a_baseline_that_fails() -> None:
    made, cells = table(study((("base", 2),)))
    assert [cells[row]["verdict"] for row in ROWS] == ["baseline, failed in 1 of 5"] + ["baseline failed in 1 of 5"] * 3
    assert not any(cells[row]["p_uncorrected"] for row in ROWS)
    assert "What is compared with base is not tested" in tables.markdown(made)


def test_the_page_says_what_failed(tmp_path: Path) -> None:
    """Seen: a study whose rows had failed was "no verdict" at a glance."""
    tables.write_table(tmp_path / "x", study((("a", 1),)))
    (read,) = results.finished_studies([tmp_path])
    assert "✕ a is not tested, after failures" in fragments.finding_sentence(read)
    tip = {column.tip: column.exactly(read.table.rows[1]) for column in STUDY}
    assert (tip["verdict"], tip["failed"]) == ("✕ failed in 1 of 5", "seed 1")


def test_failures_as_chance() -> None:
    frame = study((("a", 1),), failures="chance", classes=8)
    made, cells = table(frame)
    errors = frame[frame["row"] == "a"]["test_error"].fillna(87.5)
    assert (cells["a"]["n"], cells["a"]["pairs"]) == ("5", "5")
    assert float(cells["a"]["error_percent"]) == pytest.approx(errors.mean(), abs=1e-4)
    assert cells["a"]["p_holm"] != ""
    assert "1 trial failed and counts as guessing, an error of 87.5%: a, seed 1" in tables.markdown(made)


def test_failures_are_said_anew_of_a_file_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trials.csv"
    tables.write_table(tmp_path, study((("a", 1),), classes=10))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert commands.main(["table", str(file), "failures=chance"]) == 0
    assert commands.main(["table", str(file)]) == 0
    assert "counts as guessing" in (tmp_path / "table.md").read_text()
    assert commands.main(["table", str(file), "failures=untested"]) == 0
    assert (tmp_path / "table.md").read_bytes() == before["table.md"]
    assert commands.main(["table", str(file), "failures=nothing"]) == 2
    assert "failures: there is no 'nothing'; there are untested, chance" in capsys.readouterr().err
    tables.write_table(tmp_path, study((("a", 1),)))
    assert commands.main(["table", str(file), "failures=chance"]) == 2
    assert "needs the column classes" in capsys.readouterr().err


def designs(made: Table) -> list[FrontDesign]:
    return [row.design for row in made.rows if row.design]


@pytest.mark.parametrize("seed", [0, 2])
def test_a_design_that_fails_is_not_on_the_front(seed: int) -> None:
    """Seen: one that failed with fresh seeds stayed on the front, without a word."""
    made = front(searched({("middle", seed): "the loss is NaN"}))
    assert [row.label for row in made.front] == ["cheap", "dear"]
    text = tables.markdown(made)
    assert "failed in 1 of " in text
    assert "their designs are not on the front" in text or "fresh seeds failed: middle (failed in 1 of 5)" in text


def test_failures_as_chance_on_a_front() -> None:
    made = front(searched({("dear", 2): "NaN", ("middle", 0): "NaN"}, failures="chance"))
    _, middle, dear = designs(made)
    assert ([*middle.values.values()], middle.on_front) == ([90.0, 200.0], False)
    assert dear.confirmed is not None
    assert dear.confirmed.mean == pytest.approx((11 + 90 + 10 + 11 + 12) / 5)
    assert "2 trainings failed (NaN); they count as guessing, 90% error" in tables.markdown(made)


# --------------------------------------------------------------------------------------------------------- calibration


def test_chances_are_told_from_five_seeds() -> None:
    few = front(searched({}, 4))
    assert {each.chance for each in designs(few)} == {None}
    assert "told from 5 fresh seeds; here are 4" in tables.markdown(few)
    assert {each.chance for each in designs(front(searched({})))} == {1.0}


# --------------------------------------------------------------------------------------------------------------- LaTeX
