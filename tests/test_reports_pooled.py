"""Pooling over settings: closed forms, a second implementation, how often intervals hold, and the published trials."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from test_reports_roundtrip import contents, made_up

from senet_lab import __main__ as commands
from senet_lab.reports import page, pooled, results
from senet_lab.reports.cells import csv_bytes
from senet_lab.reports.random_effects import pool

ROOT = Path(__file__).parents[1] / "results"
DIGITS = ROOT / "digits" / "resnet8-quick" / "ratio"
CIFAR = ROOT / "cifar10-subset=5000" / "resnet8-quick-epochs=15" / "ratio"


def test_settings_as_precise_as_each_other_are_a_sample_for_student() -> None:
    """Then τ² = s² of the differences − σ², and the interval is that of their mean; that for one more true difference
    is wider than with τ taken for the true one, and around the mean."""
    d, sigma = np.array([-1.0, 0.5, 2.0, 4.0]), 0.3
    found, t, s = pool(d, [sigma] * 4), stats.t.ppf(0.975, 3), d.std(ddof=1)
    assert found.mean == pytest.approx(d.mean())
    assert found.tau == pytest.approx(np.sqrt(s**2 - sigma**2))
    assert found.half == pytest.approx(t * s / 2)
    assert found.prediction is not None
    low, high = found.prediction
    assert (low + high) / 2 == pytest.approx(d.mean())
    assert high - low > 2 * t * np.sqrt(s**2 - sigma**2 + s**2 / 4)
    assert found.weights == pytest.approx([0.25] * 4)
    assert pool([0, 3], [0.1, 0.1]).half == pytest.approx(stats.t.ppf(0.975, 1) * 1.5)
    assert pool([0, 3], [0.1, 0.1]).prediction is None


def test_settings_that_agree_are_weighted_by_their_precision() -> None:
    """τ = 0, and the interval is that of the weighted mean with the settings' own errors, not narrower."""
    found = pool([1.0, 1.1, 0.9], [1.0, 2.0, 4.0])
    w = np.array([1, 1 / 4, 1 / 16])
    assert found.tau == 0
    assert found.mean == pytest.approx((1 + 1.1 / 4 + 0.9 / 16) / w.sum())
    assert found.half == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(w.sum()))


def test_unequal_settings_against_a_search_for_the_variance() -> None:
    d, s = np.array([-2.0, 0.1, 0.7, 3.0, 0.2]), np.array([0.5, 0.2, 1.0, 0.8, 0.4])

    def q(tau2: float) -> float:
        w = 1 / (s**2 + tau2)
        return float((w * (d - (w * d).sum() / w.sum()) ** 2).sum())

    tau2 = optimize.minimize_scalar(lambda t: (q(t) - 4) ** 2, bounds=(0, 9), options={"xatol": 1e-12}).x
    w = 1 / (s**2 + tau2)
    found = pool(d, s)
    assert found.tau**2 == pytest.approx(tau2, rel=1e-4)
    assert found.half == pytest.approx(stats.t.ppf(0.975, 4) / np.sqrt(w.sum()), rel=1e-4)


def test_intervals_hold_as_often_as_they_say() -> None:
    """Settings of unequal precision whose true differences deviate: the mean, and that of a new setting."""
    draw, mean, new = np.random.default_rng(0), 0, 0
    rounds, s = 200, np.array([0.2, 0.3, 0.4, 0.6, 0.8])
    for _ in range(rounds):
        found = pool(0.3 + 0.5 * draw.standard_normal(5) + s * draw.standard_normal(5), s)
        mean += abs(found.mean - 0.3) <= found.half
        low, high = found.prediction or (0, 0)
        new += low <= 0.3 + 0.5 * draw.standard_normal() <= high
    assert 0.92 <= mean / rounds <= 0.99
    assert 0.92 <= new / rounds <= 0.99


def test_a_study_that_settled_counts_with_the_seeds_it_had_planned() -> None:
    """Its first three from seed 3 on, by hand; one whose seeds are fixed with all of them."""
    (table,) = pooled.pooled_tables([DIGITS, CIFAR])
    for path, first in ((DIGITS, [3, 4, 5]), (CIFAR, [0, 1, 2])):
        trials = pd.read_csv(path / "trials.csv")
        of = {row: group.set_index("seed")["test_error"] for row, group in trials.groupby("row")}
        rows = [r for r in table.rows if r.label.startswith(trials["data"][0]) and isinstance(r, pooled.PooledRow)]
        assert len(rows) == 5
        for row in rows:
            assert row.mean == pytest.approx((of[row.of] - of["r = 16"])[first].mean())
    assert sum(row.label == pooled.POOLED for row in table.rows) == 5
    assert any("Over seeds alone" in warning and "cifar10" in warning for warning in table.warnings)


def made_in(folder: Path, **columns: object) -> Path:
    """A study that nobody ran, of a setting."""
    folder.mkdir(parents=True)
    trials = made_up(**columns)
    (folder / "trials.csv").write_bytes(csv_bytes(trials))
    return folder


def test_what_is_shared_is_said_and_the_same_trainings_count_once(tmp_path: Path) -> None:
    ids = lambda letter: [f"{letter}{number}" for number in range(18)]  # noqa: E731
    made_in(tmp_path / "a", data="digits", trial_id=ids("a"))
    made_in(tmp_path / "b", data="digits-subset=100", trial_id=ids("b"), backbone="other")
    made_in(tmp_path / "copy", data="elsewhere", trial_id=ids("a"))
    made_in(
        tmp_path / "loss", data="third", trial_id=ids("c"), metric="loss", test_loss=[0.1 + i / 99 for i in range(18)]
    )
    (table,) = pooled.pooled_tables([tmp_path])
    assert sum(row.label == pooled.POOLED for row in table.rows) == 5
    assert any("Not independent" in warning and "(digits)" in warning for warning in table.warnings)
    assert sum("the same trainings" in warning for warning in table.warnings) == 1
    assert not any("third" in row.label for row in table.rows)


def test_the_command_writes_the_same_bytes_and_the_page_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pool", str(DIGITS), str(CIFAR / "trials.csv"), "--to"]
    assert [commands.main([*words, str(tmp_path / place)]) for place in "ab"] == [0, 0]
    one, two = (contents(tmp_path / place / "ratio") for place in "ab")
    assert one == two
    assert set(one) == {f"pooled.{form}" for form in ("md", "csv", "tex", "svg", "png", "pdf")}
    written = pd.read_csv(tmp_path / "a" / "ratio" / "pooled.csv")
    assert written.groupby("row")["weight_percent"].sum().round(3).eq(100).all()
    assert capsys.readouterr().out.count("2 settings pooled") == 2
    html = page.render_page(results.finished_studies([CIFAR]), (), pooled.pooled_tables([DIGITS, CIFAR])).decode()
    assert "Over several settings" in html
    assert html.count("<td>pooled</td>") + html.count('<td class="words">pooled</td>') == 5


def test_nothing_to_pool_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["pool", str(CIFAR), "--to", str(tmp_path / "to")]) == 2
    assert commands.main(["pool", str(tmp_path / "missing"), "--to", str(tmp_path / "to")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "error"]
    assert "stands in two settings" in lines[0]
    assert not (tmp_path / "to").exists()
