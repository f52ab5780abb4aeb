"""Grids: main effects and interactions against linear algebra on the trials, and what becomes of incomplete ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_reports_conclusions import with_outputs
from test_reports_roundtrip import made_up
from test_reports_tables import on_terminal, plain_cells

from senet_lab.reports import figures, fragments, page, results, tables
from senet_lab.reports.statistics import deviation_of_differences, holm
from senet_lab.reports.trials import read_trials

LEVELS = {"se.reduction": ["16", "4", "2"], "se.position": ["standard", "pre"]}


def grid(errors: np.ndarray, levels: dict[str, list[str]] = LEVELS, **columns: object) -> pd.DataFrame:
    """Trials of a grid: errors are (levels of each factor …, seeds), the first cell is the baseline."""
    cells = list(itertools.product(*levels.values()))
    rows = [", ".join(cell) for cell in cells]
    trials = made_up(dict.fromkeys(rows, ""), errors.shape[-1], rows[0], "", test_images=1000, paper_params=None)
    trials["test_error"] = errors.reshape(-1)
    trials["factors"], trials["test_top5_error"] = " ".join(levels), None
    for at, name in enumerate(levels):
        trials[name] = [cell[at] for cell in cells for _ in range(errors.shape[-1])]
    return trials.assign(**columns)


def drawn(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Errors in whole images of 1000."""
    return np.random.default_rng(seed).integers(30, 60, shape) / 10


def test_effects_are_contrasts_of_means_over_the_other_factor() -> None:
    errors = drawn((3, 2, 5))
    table = tables.summarise_study(grid(errors))
    expected = {
        "reduction=4": errors[1].mean(0) - errors[0].mean(0),
        "reduction=2": errors[2].mean(0) - errors[0].mean(0),
        "position=pre": errors[:, 1].mean(0) - errors[:, 0].mean(0),
        "reduction=4 × position=pre": errors[1, 1] - errors[1, 0] - errors[0, 1] + errors[0, 0],
        "reduction=2 × position=pre": errors[2, 1] - errors[2, 0] - errors[0, 1] + errors[0, 0],
    }
    assert [row.label for row in table.rows if row.effect] == list(expected)
    assert table.tests == len(expected)
    weights = [1 / 2 * 2, 1 / 2 * 2, 1 / 3 * 2, 4, 4]  # of the squares, in how many rows' rounding is in a difference
    steps = [0.1 * np.sqrt(weight / 2) for weight in weights]
    p = [
        2 * stats.t.sf(abs(d.mean()) / (deviation_of_differences(d, step) / np.sqrt(5)), 4)
        for d, step in zip(expected.values(), steps, strict=True)
    ]
    cells = plain_cells(table)
    for (name, d), one, corrected in zip(expected.items(), p, holm(p), strict=True):
        assert float(cells[name]["delta"]) == pytest.approx(d.mean(), abs=1e-4)
        assert float(cells[name]["p_uncorrected"]) == pytest.approx(one, rel=1e-3)
        assert float(cells[name]["p_holm"]) == pytest.approx(corrected, rel=1e-3)
        assert cells[name]["verdict"]
        assert cells[name]["error_percent"] == ""
    for row in table.trained:
        assert cells[row.label]["delta"] == cells[row.label]["p_holm"] == ""
        assert cells[row.label]["effect"] == "0"
    assert cells["16, standard"]["verdict"] == "baseline"
    text = tables.markdown(table)
    assert "that of the baseline's level (reduction=16 and position=standard)" in text
    assert "corrected by Holm's method for 5 rows" in text
    assert "n = 5 seeds a row (0 to 4)" in text


def test_three_factors_have_their_effects_in_means_over_the_third() -> None:
    levels = LEVELS | {"se.excitation": ["sigmoid", "tanh", "relu"]}
    errors = drawn((3, 2, 3, 4))
    cells = plain_cells(tables.summarise_study(grid(errors, levels)))
    e = errors.mean(-1)
    main, two = e[:, :, 2].mean() - e[:, :, 0].mean(), e.mean(1)
    pair = two[1, 1] - two[1, 0] - two[0, 1] + two[0, 0]
    assert float(cells["excitation=relu"]["delta"]) == pytest.approx(main, abs=1e-4)
    assert float(cells["reduction=4 × excitation=tanh"]["delta"]) == pytest.approx(pair, abs=1e-4)
    assert len([label for label in cells if "=" in label]) == (2 + 1 + 2) + (2 + 4 + 2)


def test_an_additive_grid_has_no_interaction() -> None:
    seeds, noise = np.array([0.0, 0.4, 0.9, 1.3, 0.2]), np.random.default_rng(1).normal(0, 0.02, (2, 2, 5))
    additive = np.array([[5.0, 3.0], [4.0, 2.0]])[..., None] + seeds + noise
    cells = plain_cells(tables.summarise_study(grid(additive, {"a": ["x", "y"], "b": ["u", "v"]})))
    assert [cells[name]["verdict_kind"] for name in ("a=y", "b=v", "a=y × b=v")] == [
        "better here",
        "better here",
        "open",
    ]
    assert float(cells["a=y"]["delta"]) == pytest.approx(-1, abs=0.05)


def test_over_images_an_effect_is_that_of_each_image() -> None:
    """The interval over seeds and images of an effect is that of two rows which differ image by image as it does."""
    rng = np.random.default_rng(2)
    wrong = {label: rng.random((4, 200)) < share for label, share in (("x, u", 0.3), ("y, u", 0.1))}
    wrong |= {"x, v": wrong["x, u"], "y, v": wrong["y, u"]}  # the second factor does nothing
    trials, found = with_outputs(wrong)
    trials["factors"] = "a b"
    trials[["a", "b"]] = [row.split(", ") for row in trials["row"]]
    effect = tables.summarise_study(trials, found).rows[4]
    alone = tables.summarise_study(*with_outputs({label: wrong[label] for label in ("x, u", "y, u")})).rows[1]
    assert (effect.label, effect.baseline) == ("a=y", "a=x")
    assert effect.delta is not None
    assert alone.delta is not None
    assert effect.delta.delta == pytest.approx(alone.delta.delta)
    assert effect.delta.crossed is not None
    assert alone.delta.crossed is not None
    assert effect.delta.crossed.rest == pytest.approx(alone.delta.crossed.rest)
    assert effect.delta.crossed.image == pytest.approx(alone.delta.crossed.image)


def test_a_grid_settles_by_its_effects() -> None:
    """Each effect stops by its own looks; a cell is read up to the last stop that needs it, and not beyond."""
    rng = np.random.default_rng(3)
    errors = np.array([[9.0, 3.0], [9.02, 3.02]])[..., None] + rng.normal(0, 0.3, (2, 2, 20)).round(1)
    levels = {"a": ["x", "y"], "b": ["u", "v"]}
    plan = {"settle_min": 3, "settle_max": 20, "first_seed": 0, "margin": 0.5, "metric": "error"}
    table = tables.summarise_study(grid(errors, levels, **plan))
    rows = {row.label: row for row in table.rows}
    stops = {name: row.delta.n for name, row in rows.items() if row.effect and row.delta}
    assert stops["b=v"] < stops["a=y"], "the large difference needs fewer seeds"
    assert [rows[name].kind for name in ("b=v", "a=y")] == ["better here", "equivalent"]
    assert {len(row.seeds) for row in table.trained} == {max(stops.values())}
    alone = tables.summarise_study(grid(errors[..., : max(stops.values())], levels, **plan))
    assert tables.csv_text(alone) == tables.csv_text(table), "what was trained beyond the stops is not looked at"


def test_cells_that_failed_or_are_missing_leave_their_effects_untested() -> None:
    trials = grid(drawn((3, 2, 4)))
    lost = (trials["row"] == "2, pre") & (trials["seed"] == 1)
    failed = trials.assign(status=trials["status"].mask(lost, "failed"), test_error=trials["test_error"].mask(lost))
    cells = plain_cells(tables.summarise_study(failed))
    assert cells["reduction=2"]["verdict"] == "2, pre failed in 1 of 4"
    assert cells["reduction=4 × position=pre"]["p_holm"] != ""
    some = tables.summarise_study(trials[trials["row"] != "2, pre"].assign(study_rows=6, study_tests=5))
    assert plain_cells(some)["position=pre"]["verdict"] == "cells missing"
    assert plain_cells(some)["reduction=4 × position=pre"]["p_holm"] != ""
    assert "5 of 6 rows of the study are here; p is corrected for all that it compares (5)." in tables.markdown(some)


def test_a_grid_in_every_form(tmp_path: Path) -> None:
    trials = grid(drawn((3, 2, 4)))
    tables.write_table(tmp_path, trials)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    tables.write_table(tmp_path, read_trials(tmp_path / "trials.csv"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert before["table.tex"].count(b"\\addlinespace") == 2
    table = tables.summarise_study(trials)
    assert "reduction=2 × position=pre" in " ".join(on_terminal(table, 200).split())
    assert figures.render_study(table)["figure.svg"] == before["figure.svg"]
    text = page.render_page(results.finished_studies([tmp_path])).decode()
    assert "1 study, 6 rows, 24 trainings" in text
    assert fragments.baseline_name(table) == "the baseline's level"
    assert max(map(len, on_terminal(table, 80).splitlines())) <= 80


def test_what_rows_vary_may_differ_from_the_baseline() -> None:
    """A factor of training is in the setting; without a word of it, mixed settings are refused."""
    trials = grid(drawn((2, 2, 3)), {"backbone": ["a", "b"], "recipe.epochs": ["1", "2"]})
    mixed = trials.assign(backbone=trials["backbone"], epochs=trials["recipe.epochs"], recipe="q")
    assert "backbone a, b, recipe q, 1, 2 epochs" in tables.markdown(tables.summarise_study(mixed))
    with pytest.raises(ValueError, match="backbone is mixed in one table: a, b"):
        tables.summarise_study(mixed.drop(columns="factors"))
    with pytest.raises(ValueError, match=r"column missing: recipe\.epochs"):
        tables.summarise_study(mixed.drop(columns="recipe.epochs"))
