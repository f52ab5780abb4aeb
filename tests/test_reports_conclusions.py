"""Verdicts, each by numbers that can be worked out by hand, and studies whose seeds were added until one was in."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_reports_roundtrip import contents, made_up
from test_reports_tables import on_terminal, plain_cells

from senet_lab import __main__ as commands
from senet_lab import outputs
from senet_lab.outputs import Outputs, outputs_digest
from senet_lab.reports import power, results, tables
from senet_lab.reports import statistics as st
from senet_lab.reports.sequential import Looks
from senet_lab.reports.verdicts import judge, needed_seeds, settled_verdict

ROOT = Path(__file__).parents[1]
KINDS = {  # verdict → its kind
    "better": "better",
    "better on these images": "better here",
    "worse": "worse",
    "worse on these images": "worse here",
}


def with_outputs(wrong: dict[str, np.ndarray], **columns: object) -> tuple[pd.DataFrame, dict[str, Outputs]]:
    """A study by (seeds, images) of each row, the first one the baseline; a wrong image has a loss of 2, others 0.5."""
    seeds, images = next(iter(wrong.values())).shape
    trials = made_up(dict.fromkeys(wrong, ""), seeds, next(iter(wrong)), "", test_images=images)
    rows = [row for each in wrong.values() for row in each.astype(bool)]
    found = [Outputs(~row, np.where(row, 2, 0.5).astype(np.float16)) for row in rows]
    trials["test_error"] = [100 * row.mean() for row in rows]
    trials["test_loss"] = [float(each.loss.mean(dtype=float)) for each in found]
    trials["outputs"] = [outputs_digest(each.packed()) for each in found]
    for name, values in columns.items():
        trials[name] = values
    return trials, dict(zip(trials["trial_id"], found, strict=True))


def drawn(
    rows: dict[str, float], seeds: int, images: int, **columns: object
) -> tuple[pd.DataFrame, dict[str, Outputs]]:
    """Networks that are wrong where image, seed and rest come to more than a bound; each row is shifted by so much."""
    rng = np.random.default_rng(5)
    image = 1.5 * rng.standard_normal(images)
    noise = lambda: 0.1 * rng.standard_normal((seeds, 1)) + 0.5 * rng.standard_normal((seeds, images))  # noqa: E731
    return with_outputs({row: image + noise() + shift > 1.5 for row, shift in rows.items()}, **columns)


def flipped(fewer: int, more: int = 0, images: int = 900) -> np.ndarray:
    """Differences of one seed: of so many images the row gets right, and wrong, what the baseline does not."""
    return np.repeat([-100.0, 100.0, 0.0], [fewer, more, images - fewer - more])


# ------------------------------------------------------------------------------------------------------ fixed seeds


@pytest.mark.parametrize(("fewer", "word"), [(3, "better on these images"), (30, "better")])
def test_where_all_seeds_agree_the_test_over_images_is_that_of_their_number(fewer: int, word: str) -> None:
    """Then the images vary, with two of them added; the seeds have the floor that whole images set."""
    baseline = np.zeros((5, 900))
    baseline[:, :60] = 1
    row = baseline.copy()
    row[:, :fewer] = 0
    trials, found = with_outputs({"base": baseline, "row": row})
    cells = plain_cells(tables.summarise_study(trials, found))["row"]
    assert (cells["verdict"], cells["verdict_kind"]) == (word, KINDS[word])
    images, seeds = stats.sem(flipped(fewer)) ** 2 + 2 / 9**2, (1 / 9 / 5) ** 2
    error, delta = math.sqrt(images + seeds), -100 * fewer / 900
    half = lambda level: (images * stats.norm.isf(level / 2) + seeds * stats.t.isf(level / 2, 4)) / error  # noqa: E731
    ours = [float(cells[name]) for name in ("delta_low_crossed", "delta_high_crossed")]
    assert ours == pytest.approx([delta - half(0.05), delta + half(0.05)], abs=1e-4)
    assert half(float(cells["p_crossed_holm"])) == pytest.approx(abs(delta), rel=1e-3), "p: the level that ends at 0"
    shares = [float(cells[f"share_{source}"]) for source in ("seeds", "images", "rest")]
    assert shares == pytest.approx([seeds / error**2, images / error**2, 0], abs=1e-4)
    assert float(cells["floor"]) == pytest.approx(stats.norm.isf(0.025) * math.sqrt(images), abs=1e-4)
    worse, found = with_outputs({"base": row, "row": baseline})
    assert plain_cells(tables.summarise_study(worse, found))["row"]["verdict"] == word.replace("better", "worse")


def test_over_seeds_and_images_by_hand() -> None:
    """Two seeds, four images, in percent: from mean squares that are added up one by one."""
    baseline, row = np.array([[1, 1, 1, 0], [1, 0, 1, 0]]), np.array([[0, 0, 1, 0], [0, 0, 0, 1]])
    trials, found = with_outputs({"base": baseline, "row": row})
    y = 100.0 * (row - baseline)
    mean, seeds, images = y.mean(), y.mean(1), y.mean(0)
    ms_seed = sum(4 * (each - mean) ** 2 for each in seeds) / 1
    ms_image = sum(2 * (each - mean) ** 2 for each in images) / 3
    ms_rest = sum((y[s, i] - seeds[s] - images[i] + mean) ** 2 for s in range(2) for i in range(4)) / 3
    image, two = max(0, ms_image - ms_rest) / 2 / 4, 2 * 25**2
    parts = [ms_seed / 8, image + two * (image + two) / (image + ms_rest / 4 + two)]
    half = np.dot(parts, [stats.t.ppf(0.975, 1), stats.norm.ppf(0.975)]) / math.sqrt(sum(parts))
    rest = min(ms_rest / 8, parts[0])
    parts = [parts[0] - rest, parts[1], rest]
    cells = plain_cells(tables.summarise_study(trials, found))["row"]
    assert float(cells["delta"]) == pytest.approx(mean)
    assert float(cells["delta_high_crossed"]) == pytest.approx(mean + half, abs=1e-4)
    shares = [float(cells[f"share_{source}"]) for source in ("seeds", "images", "rest")]
    assert shares == pytest.approx(np.array(parts) / sum(parts), abs=1e-4)


def test_an_equivalent_row_is_within_the_margin_and_that_goes_before_better() -> None:
    d = {seed: -0.2 + shift for seed, shift in enumerate((0.01, -0.01, 0.02, -0.02, 0.0))}
    found = st.compare_pairs(d)
    assert found is not None
    within = 0.2 + stats.t.isf(0.05 / 2, 4) * np.std(list(d.values()), ddof=1) / math.sqrt(5)
    for margin, word in (
        (within + 1e-6, f"equivalent within ±{within + 1e-6:g}"),
        (within - 1e-6, "better on these images"),
    ):
        (verdict,) = judge([found], 2, margin)
        assert verdict is not None
        assert verdict.word == word
        assert verdict.within == pytest.approx(within)
    (verdict,) = judge([found], 2, 0.3)
    assert verdict is not None
    assert verdict.word == "equivalent within ±0.3"


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize(("effect", "margin"), [(0.0, 1.0), (0.5, 1.5), (2.0, 3.0)])
def test_power_of_equivalence_against_simulation(n: int, effect: float, margin: float) -> None:
    d = np.random.default_rng(n).normal(effect, 1, (100_000, n))
    mean, error = d.mean(1), d.std(1, ddof=1) / math.sqrt(n)
    both = (mean - margin) / error < stats.t.ppf(0.01, n - 1)
    both &= (mean + margin) / error > stats.t.isf(0.01, n - 1)
    assert power.equivalence_power(effect, margin, n, 0.01) == pytest.approx(both.mean(), abs=0.006)


def test_seeds_to_equate_is_the_first_n_with_the_power() -> None:
    for effect, margin in ((0.0, 1.0), (0.5, 1.0), (-0.2, 0.7)):
        n = power.seeds_to_equate(effect, margin, 0.01)
        assert n is not None
        enough, few = (power.equivalence_power(effect, margin, seeds, 0.01) for seeds in (n, n - 1))
        assert enough >= 0.8 > few
    assert power.seeds_to_equate(1.0, 1.0) is None
    assert power.seeds_to_equate(0.0, 1e-3) == power.SEEDS_LIMIT


def test_what_settles_an_open_row_is_the_cheaper_of_both_ways() -> None:
    d = np.array([0.3, -0.1, 0.25, 0.0, 0.05])
    found = st.compare_pairs(dict(enumerate(d)), st.step_percent(10_000))
    assert found is not None
    effect, sd = d.mean() / d.std(ddof=1), d.std(ddof=1)
    shown = power.seeds_to_show(effect, 0.025)
    assert needed_seeds(found, 0.025, None) == (shown, None)
    near, far = power.seeds_to_equate(effect, 0.15 / sd, 0.025), power.seeds_to_equate(effect, 1.0 / sd, 0.025)
    assert near is not None
    assert far is not None
    assert far < shown < near
    assert needed_seeds(found, 0.025, 0.15) == (shown, None)
    assert needed_seeds(found, 0.025, 1.0) == (far, None)
    verdicts = [judge([found], 2, margin)[0] for margin in (None, 0.15)]
    assert {verdict.word for verdict in verdicts if verdict} == {f"open: about {shown} more seeds"}


def test_below_the_floor_more_test_images_are_needed() -> None:
    """So many that the floor and z(80%) more standard errors make up the difference that was observed."""
    rng = np.random.default_rng(3)
    rare = rng.permutation(flipped(12, 6))  # the images' own part: they differ by 6 of 900 in every seed
    ours = {
        seed: rare + rng.choice([-100.0, 0, 100.0], 900, p=[0.0125 + seed / 200, 0.96, 0.0275 - seed / 200])
        for seed in range(4)
    }
    values = {seed: float(each.mean()) for seed, each in ours.items()}
    found = st.compare_pairs(values, st.step_percent(900), outcomes=ours)
    assert found is not None
    assert found.crossed is not None
    assert abs(found.delta) < found.crossed.floor(0.05)
    seeds, images = needed_seeds(found, 0.05, None)
    assert seeds is None
    assert images is not None
    assert images > 900
    error = math.sqrt(found.crossed.over_images * 900 / images)
    assert 0.8 <= stats.norm.cdf(abs(found.delta) / error - stats.norm.isf(0.025)) < 0.83  # rounded up to two digits
    (verdict,) = judge([found])
    assert verdict is not None
    assert verdict.word == f"open: more test images needed (about {images:,})"
    assert needed_seeds(found, 0.05, 5.0)[1] is None  # within so wide a margin, seeds show it
    for _ in range(20):  # also where the images' own part is estimated as none, because chance has made it so small
        ours = {seed: rng.choice([-100.0, 0, 100.0], 900, p=[0.01, 0.98, 0.01]) for seed in range(3)}
        values = {seed: float(each.mean()) for seed, each in ours.items()}
        found = st.compare_pairs(values, st.step_percent(900), outcomes=ours)
        assert found is not None
        images = needed_seeds(found, 0.05, None)[1]
        assert images is None or images > 900
    same = st.compare_pairs(
        dict.fromkeys(ours, 0.0), st.step_percent(900), outcomes={seed: np.zeros(900) for seed in ours}
    )
    (verdict,) = judge([same])
    assert verdict is not None
    assert verdict.word == "open: more test images needed (above 1,000,000)"


# ---------------------------------------------------------------------------------------------------------- outputs


def test_a_table_with_outputs_regenerates_and_says_what_it_lacks_without_them(tmp_path: Path) -> None:
    trials, found = drawn({"base": 0, "low": -0.4, "same": 0}, 4, 3000)
    tables.write_table(tmp_path / "a", trials, packed={name: each.packed() for name, each in found.items()})
    before = contents(tmp_path / "a")
    assert commands.main(["table", str(tmp_path / "a" / "trials.csv")]) == 0
    assert contents(tmp_path / "a") == before
    (read,) = results.finished_studies([tmp_path])
    assert {row.label: row.verdict.kind for row in read.table.rows if row.verdict} == {"low": "better", "same": "open"}
    text = before["table.md"].decode()
    assert "| ± over seeds and images |" in text
    assert (
        "Floor: the smallest difference that any number of seeds could show on 3,000 test images, at 0.05 / 2." in text
    )
    (tmp_path / "a" / "outputs.npz").unlink()
    assert commands.main(["table", str(tmp_path / "a" / "trials.csv")]) == 0
    without = (tmp_path / "a" / "table.md").read_text()
    assert "| ▽ better on these images |" in without
    assert "is not known for these rows (outputs.npz): nothing is said of other test images there" in without
    assert "seeds and images |" not in without


def test_a_row_of_which_one_trial_has_no_outputs_is_named() -> None:
    trials, found = drawn({"base": 0, "low": -0.6, "high": 0.6}, 4, 3000)
    del found[trials["trial_id"][trials["row"] == "low"].iloc[2]]
    made = tables.summarise_study(trials, found)
    assert [plain_cells(made)[row]["verdict"] for row in ("low", "high")] == ["better on these images", "worse"]
    assert "is not known for low (outputs.npz)" in tables.markdown(made)


def spoilt(found: dict[str, Outputs], name: str, what: str) -> None:
    one = found[name]
    if what == "number":
        found[name] = Outputs(one.right[:-1], one.loss[:-1])
    elif what == "order":
        found[name] = Outputs(one.right[::-1], one.loss[::-1])
    elif what == "trial":
        found[name] = found[next(other for other in found if other != name)]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("number", "are of 49 test images, and there are 50"),
        ("order", "are not those that it left"),
        ("trial", "are not those that it left"),
    ],
)
def test_outputs_that_do_not_fit_are_refused_by_name(
    what: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials, found = drawn({"base": 0, "row": 0.4}, 3, 50)
    name = trials["trial_id"][4]
    tables.write_table(tmp_path, trials)
    images = {"number": 49}.get(what, 50)
    spoilt(found, name, what)
    held = {key: Outputs(each.right[:images], each.loss[:images]) for key, each in found.items()}
    (tmp_path / "outputs.npz").write_bytes(
        outputs.file_bytes({key: each.packed() for key, each in held.items() if key == name}, images)
    )
    capsys.readouterr()
    assert commands.main(["table", str(tmp_path / "trials.csv")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: the outputs of trial {name} {message}")
    assert len(error.splitlines()) == 1


def test_outputs_of_another_error_are_refused() -> None:
    """Of a file that names no digests."""
    trials, found = drawn({"base": 0, "row": 0.4}, 3, 50)
    trials = trials.drop(columns="outputs")
    tables.summarise_study(trials, found)
    trials.loc[4, "test_error"] += 2
    with pytest.raises(
        ValueError, match=rf"trial {trials['trial_id'][4]} have an error of \d+\.\d{{4}}%, and its test_e"
    ):
        tables.summarise_study(trials, found)


def test_the_table_with_all_columns_fits_a_terminal() -> None:
    text = on_terminal(tables.summarise_study(*drawn({"base": 0, "low": -0.05, "all but the last": 0}, 10, 10_000)), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(word in text for word in ("error %", "[95%]", "verdict", "open: "))


def test_long_verdicts_are_broken_where_a_page_is_narrow() -> None:
    same = np.arange(900)[None, :] < np.array([[50], [60], [70]])
    made = tables.summarise_study(*with_outputs({"base": same, "row": same}))
    assert "| ○ open: more test images needed (above 1,000,000) |" in tables.markdown(made)
    lines = ["○ open: more test", "images needed", "(above 1,000,000)"]
    assert "\\shortstack[l]{" + " \\\\ ".join(lines).replace("○", "$\\circ$") + "}" in tables.latex(made)
    ends = [line.rstrip().split("  ")[-1].strip() for line in on_terminal(made, 80).splitlines()]
    assert lines == [line for line in ends if line in lines]


# -------------------------------------------------------------------------------------------------------------- loss


def test_verdicts_about_the_loss() -> None:
    trials, found = drawn({"base": 0, "row": -0.3}, 5, 2000, metric="loss", margin=0.5)
    made = tables.summarise_study(trials, found)
    losses = trials["test_loss"].to_numpy().reshape(2, 5)
    d = losses[1] - losses[0]
    cells = plain_cells(made)["row"]
    assert (float(cells["delta"]), float(cells["delta_sd"])) == pytest.approx((d.mean(), d.std(ddof=1)), abs=1e-4)
    assert float(cells["p_uncorrected"]) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=1e-3)
    assert (cells["metric"], cells["verdict"]) == ("loss", "equivalent within ±0.5")
    text = tables.markdown(made)
    half = stats.t.ppf(0.975, 4) * stats.sem(losses[1])
    assert f"| {losses[1].mean():.4f} ± {half:.4f} |" in text
    assert "Δ: loss minus that of base in nats" in text
    bare = tables.summarise_study(trials.drop(columns="margin"), found)
    assert plain_cells(bare)["row"]["verdict"] == "better"


def test_verdicts_about_a_loss_that_was_not_kept_are_refused() -> None:
    trials, _ = drawn({"base": 0, "row": 0.3}, 3, 50, metric="loss")
    trials.loc[4, "test_loss"] = None
    with pytest.raises(
        ValueError, match=f"metric=loss needs test_loss, which trial {trials['trial_id'][4]} does not ha"
    ):
        tables.summarise_study(trials)


# ----------------------------------------------------------------------------------------------------------- settling

SETTLE = {"settle_min": 3, "settle_max": 12, "first_seed": 0, "metric": "error"}
SHIFTS = {"base": 0.0, "low": -0.4, "same": 0.0, "high": 0.1}


def test_rows_end_where_their_looks_end() -> None:
    trials, found = drawn(SHIFTS, 12, 2000, **SETTLE, margin=1.5)
    errors = {str(row): group["test_error"].to_numpy() for row, group in trials.groupby("row")}
    made = tables.summarise_study(trials, found)
    cells = plain_cells(made)
    ends = []
    for row in ("low", "same", "high"):
        d = errors[row] - errors["base"]
        looks = Looks(0.05 / 3, 3, 12, 1.5, 100 / 2000)
        stop = looks.follow(d)
        assert stop is not None
        ends.append(stop.n)
        d = d[: stop.n]
        error = d.std(ddof=1) / math.sqrt(stop.n)
        assert (cells[row]["n"], cells[row]["pairs"]) == (str(stop.n), str(stop.n))
        assert float(cells[row]["error_percent"]) == pytest.approx(errors[row][: stop.n].mean(), abs=1e-4)
        ours = [float(cells[row][name]) for name in ("delta", "delta_low", "delta_high", "within")]
        outer, inner = (bound * error for bound in looks.bounds(stop.n))
        bounds = d.mean() - outer, d.mean() + outer, abs(d.mean()) + inner
        assert ours == pytest.approx([d.mean(), *bounds], abs=1e-4)
        assert cells[row]["verdict_kind"].split()[0] == stop.word
        assert not any(cells[row][name] for name in ("p_uncorrected", "p_holm", "p_crossed_holm", "could_show"))
    assert len(set(ends)) > 1
    assert cells["base"]["n"] == str(max(ends))
    text = tables.markdown(made)
    assert "looked at after 3 and each further one up to 12, the first of them being seed 0" in text
    assert "with its 95% repeated interval" in text
    assert "p (Holm)" not in text


def test_the_interval_over_images_is_taken_once_at_the_level_of_the_stop() -> None:
    trials, found = drawn({"base": 0, "low": -0.5}, 8, 1000, **SETTLE)
    made = tables.summarise_study(trials, found).rows[1]
    assert made.delta is not None
    assert made.delta.crossed is not None
    looks = Looks(0.05, 3, 12, None, 0.1)
    stop = looks.follow(made.delta.differences)
    assert stop is not None
    level = 2 * stats.t.sf(looks.bounds(stop.n)[0], stop.n - 1)
    half = made.delta.crossed.half_width(level)
    assert made.delta.half_crossed == pytest.approx(half)
    assert made.verdict is not None
    assert made.verdict.word == ("better" if abs(made.delta.delta) > half else "better on these images")
    assert stop.word == "better"


def test_seeds_beyond_a_stop_change_nothing() -> None:
    trials, found = drawn(SHIFTS, 12, 2000, **SETTLE, margin=1.5)
    made = tables.summarise_study(trials, found)
    last = {row.label: max(row.seeds) for row in made.rows}
    assert min(last.values()) < 11
    cut = trials[[seed <= last[row] for row, seed in zip(trials["row"], trials["seed"], strict=True)]]
    assert tables.summarise_study(cut, found) == made


def test_a_part_of_a_settling_study_is_open_and_says_how_far_it_is() -> None:
    trials, found = drawn({"base": 0, "a": 0.02, "b": 0.02, "c": 0.02}, 6, 500, **{**SETTLE, "settle_min": 5})
    gone = ((trials["row"] == "a") & (trials["seed"] == 2)) | ((trials["row"] == "b") & (trials["seed"] >= 1))
    cells = plain_cells(tables.summarise_study(trials[~gone], found))
    assert [cells[row]["verdict"] for row in "ab"] == ["open: 2 of at most 12 seeds", "open: 1 of at most 12 seeds"]
    assert (cells["a"]["delta_low"], cells["a"]["within"], cells["a"]["more_seeds"]) == ("", "", "")


def test_the_interval_of_an_open_row_holds_zero() -> None:
    rng = np.random.default_rng(7)
    looks = Looks(0.05 / 2, 3, 8, 0.5)
    kinds = set()
    for shift in np.linspace(-1, 1, 60):
        d = rng.normal(shift, 0.5, 8)
        for n in range(3, 9):
            found = st.compare_pairs(dict(enumerate(d[:n])))
            assert found is not None
            found, verdict = settled_verdict(found, looks)
            assert found.low is not None
            assert found.high is not None
            assert verdict.within is not None
            kinds.add(verdict.kind)
            assert (verdict.kind == "equivalent") == (verdict.within < 0.5)
            if verdict.kind != "equivalent":
                assert (found.low <= 0 <= found.high) == (verdict.kind == "open")
            if verdict.kind != "open" or verdict.more_seeds or verdict.more_images:
                break
    assert kinds == {"better here", "worse here", "equivalent", "open"}


def test_another_name_of_the_baseline_is_no_row_of_a_settling_study() -> None:
    """It has as many seeds as the first look, and the baseline more."""
    trials, found = drawn({"base": 0, "twin": 0, "row": 0.05}, 9, 400, **SETTLE)
    base = trials[trials["row"] == "base"]
    twin = trials["row"] == "twin"
    for name in ("trial_id", "test_error", "outputs", "test_loss"):
        trials.loc[twin, name] = base[name].to_numpy()
    trials = trials[~(twin & (trials["seed"] >= 3))]
    made = tables.summarise_study(trials, found)
    assert made.tests == 1
    assert plain_cells(made)["twin"]["verdict"] == "same network"
    assert plain_cells(made)["twin"]["n"] == "3"


def test_a_failure_in_a_settling_study_is_no_verdict() -> None:
    trials, found = drawn({"base": 0, "a": -0.5, "b": 0.5}, 6, 1000, **SETTLE)
    at = trials.index[(trials["row"] == "a") & (trials["seed"] == 1)][0]
    trials.loc[at, ["status", "reason"]] = ["failed", "the loss is NaN"]
    cells = plain_cells(tables.summarise_study(trials, found))
    assert cells["a"]["verdict"] == "failed in 1 of 6"
    assert cells["b"]["verdict_kind"].startswith("worse")


def test_what_a_failure_is_is_not_said_anew_of_seeds_that_settled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials, found = drawn({"base": 0, "a": -0.5}, 6, 500, **SETTLE, failures="untested", classes=10)
    tables.write_table(tmp_path, trials, packed={name: each.packed() for name, each in found.items()})
    before, file = contents(tmp_path), str(tmp_path / "trials.csv")
    assert commands.main(["table", file, "failures=chance"]) == 2
    assert capsys.readouterr().err == f"error: failures=chance: {file} has seeds that settled by failures=untested\n"
    assert commands.main(["table", file, "failures=untested"]) == 0
    assert contents(tmp_path) == before


def test_earlier_plans_on_these_rows_are_named() -> None:
    trials, found = drawn({"base": 0, "a": -0.5}, 6, 500, **SETTLE, earlier_plans="first of digits/x/ratio")
    text = tables.markdown(tables.summarise_study(trials, found))
    assert "Earlier plans on these rows: first of digits/x/ratio." in text


# -------------------------------------------------------------------------------------------------------------- size


@pytest.mark.slow
def test_a_large_table_with_outputs_takes_seconds(tmp_path: Path) -> None:
    """19 rows of 20 seeds on 10,000 images, in a process of its own: seconds of the processor, MB."""
    trials, found = drawn({f"row {number}": 0.01 * number for number in range(19)}, 20, 10_000)
    tables.write_table(tmp_path, trials, packed={name: each.packed() for name, each in found.items()})
    code = """if True:
        import sys, time
        from senet_lab.__main__ import main
        assert main(["table", sys.argv[1]]) == 0
        most = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
        print(time.process_time(), int(most) / 1024, file=sys.stderr)  # ru_maxrss would have that of who started it
    """
    command = [sys.executable, "-c", code, str(tmp_path / "trials.csv")]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=300, text=True)
    seconds, megabytes = map(float, done.stderr.split()[-2:])
    assert seconds < 10
    assert megabytes < 500
