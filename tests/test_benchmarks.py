"""The benchmarks run, in their short form: what they print, what they write, and that they measure what they say."""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import Lab, wait_for
from PIL import Image
from scipy import stats
from torch import nn

from benchmarks import (
    batched,
    calibration,
    clock,
    evaluate,
    feeding,
    measuring,
    overhead,
    real_images,
    recipe,
    reliability,
    report,
    se_cost,
    study,
    train,
    verdicts,
)
from benchmarks.postgres import BINARIES
from senet_lab import models, outputs
from senet_lab.config import RunError
from senet_lab.reports import page, results
from senet_lab.reports.sequential import WORDS, Looks
from senet_lab.reports.statistics import holm
from senet_lab.studies.store import Store


def check(name: str, folder: Path, run: Callable[[list[str]], int], *words: str) -> list[dict[str, str]]:
    """Run a benchmark's short form; the lines of its CSV."""
    threads = torch.get_num_threads()
    try:
        assert run(["--short", "--to", str(folder), *words]) == 0
    finally:
        torch.set_num_threads(threads)
    text = (folder / f"{name}.md").read_text()
    assert "its numbers mean nothing" in text, "a short form is never taken for a measurement"
    assert f"torch {torch.__version__.partition('+')[0]}" in text
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def small_tree(folder: Path) -> Path:
    """Twenty images that train and two that test, of two classes."""
    for number in range(22):
        place = folder / "tree" / ("train" if number < 20 else "val") / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(place / f"{number}.png")
    return folder / "tree"


@pytest.mark.slow
def test_feeding(tmp_path: Path) -> None:
    lines = check("feeding", tmp_path, feeding.main, "--tree", str(small_tree(tmp_path)))
    memory = ["digits by name", "arrays of a function", "torchvision's"]
    assert {line["way"] for line in lines} == {*memory, *feeding.WAYS}
    shares = [float(line["value"]) for line in lines if line["way"] in feeding.WAYS]
    assert len(shares) == 5, "a training has one epoch that counts"
    assert all(0 < share < 1.1 for share in shares)


@pytest.mark.slow
def test_evaluate(tmp_path: Path) -> None:
    lines = check("evaluate", tmp_path, evaluate.main, "--tree", str(small_tree(tmp_path)))
    rounds = [(line["network"], line["round"]) for line in lines if line["way"] == "evaluation"]
    assert rounds == [(network, number) for network in evaluate.NETWORKS for number in "01"]
    passes = [float(line["seconds"]) for line in lines if line["way"] == "forward passes"]
    whole = [float(line["seconds"]) for line in lines if line["way"] == "evaluation"]
    assert len(passes) == 4
    assert sum(whole) > sum(passes) > 0, "the same passes are in both"


@pytest.mark.slow
def test_overhead(tmp_path: Path) -> None:
    lines = check("overhead", tmp_path, overhead.main, "--root", str(small_tree(tmp_path)))
    assert {line["trials"] for line in lines} == {"", "12", "24"}
    assert {"first", "again", "worker"} <= {line["what"] for line in lines}
    assert all(float(line["wall"]) > 0 for line in lines)


@pytest.mark.slow
def test_the_bookkeeping_that_is_timed_has_the_outputs_in_it(tmp_path: Path) -> None:
    """As many as there are test images, in the store and in the table's folder."""
    overhead.grown(12, tmp_path)
    (path,) = tmp_path.glob("*/*/ratio/outputs.npz")
    written = outputs.read_file(path)
    assert [len(each.right) for each in written.values()] == [899] * 12
    kept = Store(f"sqlite:///{tmp_path}/lab.db").outputs(written)
    assert kept == {trial_id: each.packed() for trial_id, each in written.items()}


@pytest.mark.slow
@pytest.mark.skipif(not report.CHROMIUM.exists(), reason="there is no Chromium")
def test_report(tmp_path: Path) -> None:
    taken = {line["what"]: float(line["value"]) for line in check("report", tmp_path, report.main)}
    assert taken.keys() == report.GOALS.keys()
    assert 0 < taken["first paint"] < taken["list of studies"]
    assert taken["size"] < 5


@pytest.mark.slow
def test_a_thousand_trainings_are_a_page_of_five_megabytes_at_most(tmp_path: Path) -> None:
    for number in range(48):
        report.make_up(tmp_path, number)
    studies = results.finished_studies([tmp_path])
    assert sum(len(study.trials) for study in studies) >= report.TRIALS
    assert len(page.render_page(studies)) <= 5e6


@pytest.mark.slow
def test_recipe(tmp_path: Path) -> None:
    lines = check("recipe", tmp_path, recipe.main)
    varied = [(line["recipe.lr"], line["recipe.epochs"]) for line in lines]
    assert varied == [(lr, epochs) for epochs in "21" for lr in ("0.05", "0.1") for _ in range(2)]
    assert len({line["trial_id"] for line in lines}) == 8
    assert not any("test" in name for name in lines[0]), "no test error has a part in it"
    means = {
        each: statistics.fmean(float(line["val_loss"]) for line in lines[at : at + 2])
        for at, each in zip(range(0, 8, 2), varied[::2], strict=True)
    }
    text = (tmp_path / "recipe.md").read_text()
    assert f"lowest mean loss ({min(means.values()):.4f}: `recipe.lr={min(means, key=means.__getitem__)[0]} " in text


@pytest.mark.slow
def test_another_machine_trains_no_real_image_study_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two small steps in place of the long ones, and a second machine that has no more than the records. It leaves the
    page of the recipe as the first machine wrote it."""
    words = "data=digits recipe.epochs=1 data.subset=64 data.test_subset=64 seeds=2"
    tried = f"{words} se=null --to {tmp_path} --vary recipe.lr=0.05"
    steps = [
        real_images.Step("null", "benchmarks.recipe", tried),
        real_images.Step("{reduction:8}", "senet_lab.run", f"{words} se={{reduction:8}}"),
    ]
    monkeypatch.setattr(real_images, "STEPS", steps)
    monkeypatch.setattr(real_images, "RECORDS", tmp_path / "records.csv.xz")
    monkeypatch.setattr(real_images, "check_clean", lambda: None)  # this is code that is being changed
    for machine in ("first", "second"):
        monkeypatch.setattr(real_images, "RESULTS", tmp_path / machine)
        assert real_images.main([str(tmp_path), "--workers", "1"]) == 0
        told = capfd.readouterr().out
        assert [line for line in told.splitlines() if line.startswith("step ")] == [
            "step 1 of 2: null",
            "step 2 of 2: {reduction:8}",
        ]
        assert ("4 of 4 records added" in told) == (machine == "second")
        assert ("all 2 trials are recorded" in told) == (machine == "second")
        assert ("nothing new was measured" in told) == (machine == "second")
        assert "written" in told
    assert (tmp_path / "first").is_dir()


def test_the_recipe_of_fewest_epochs_within_a_standard_error_of_the_best_is_chosen() -> None:
    """Of seeds at ±1 around the mean the standard error is 1; the failed one is the best and the shortest."""

    def candidate(name: str, epochs: int, mean: float, failed: str = "") -> recipe.Candidate:
        return recipe.Candidate((name,), epochs, [mean - 1, mean + 1], [0.0, 0.0], failed)

    short, near, best, far = (
        candidate("short", 15, 5.9),
        candidate("near", 15, 5.8),
        candidate("best", 30, 5.0),
        candidate("far", 1, 6.1),
    )
    broken = candidate("broken", 1, 0.0, "a loss that is no number")
    assert recipe.choose([short, near, best, far, broken]) == (near, best, 1.0)
    assert recipe.choose([best, far]) == (best, best, 1.0)
    with pytest.raises(RunError, match="every candidate failed"):
        recipe.choose([broken])


def test_a_choice_at_the_edge_of_the_numbers_that_were_tried_is_told() -> None:
    tried = [
        recipe.Candidate((lr, epochs, word), 1) for lr in ("0.1", "1e-2", "1") for epochs in "12" for word in "abc"
    ]
    keys = ["lr", "epochs", "word"]
    assert recipe.at_edge(tried, keys, tried[0]) == []
    assert recipe.at_edge(tried, keys, tried[-1]) == recipe.at_edge(tried, keys, tried[6]) == ["lr"]


@pytest.mark.slow
def test_study(tmp_path: Path) -> None:
    lines = check("study", tmp_path, study.main)
    assert [line["way"] for line in lines] == ["plain"] * 6 + ["lab"] * 6 + ["plain", "lab"]
    assert {line["row"] for line in lines} == {*study.ROWS, "all"}


def test_processor_time_of_processes_side_by_side_is_each_ones_own(tmp_path: Path) -> None:
    """One computes, and then its child does; the other sleeps meanwhile."""
    (tmp_path / "busy.py").write_text("import time\nwhile time.process_time() < 0.3: pass\n")
    parent = "import subprocess, sys, busy; subprocess.run([sys.executable, 'busy.py'])"
    words = [[sys.executable, "-c", text] for text in (parent, "import time; time.sleep(1); print('slept')")]
    with ThreadPoolExecutor(2) as pool:
        (_, computed, _), (wall, slept, printed) = pool.map(lambda each: measuring.run(each, tmp_path), words)
    assert computed >= 0.6
    assert slept < 0.3
    assert wall >= 1
    assert printed == "slept\n"
    with pytest.raises(subprocess.CalledProcessError):
        measuring.run([sys.executable, "-c", "raise SystemExit(1)"], tmp_path)


@pytest.mark.slow
def test_calibration(tmp_path: Path) -> None:
    lines = check("calibration", tmp_path, calibration.main)
    shown = [line for line in lines if line["of"] == "could show"]
    assert all(0.75 < float(line["share"]) < 0.85 for line in shown)
    assert all(float(line["plugged in"]) < 0.75 for line in shown if int(line["n"]) <= 5)


@pytest.mark.slow
def test_verdicts(tmp_path: Path) -> None:
    lines = check("verdicts", tmp_path, verdicts.main)
    share = {line["test"]: int(line["any"]) / int(line["studies"]) for line in lines if line["of"] == "fixed, worst"}
    assert share["paired t, Holm"] < 0.09
    settled = {line["effect"]: float(line["seeds"]) for line in lines if (line["of"], line["margin"]) == ("settle", "")}
    assert all(settled[f"{effect:g}"] < most for effect, most in verdicts.SEEDS_GOALS.items())
    assert {line["interval"] for line in lines if line["of"] == "coverage"} == set(verdicts.INTERVALS)


def test_recorded_trainings_are_settled_with_fewer_of_them() -> None:
    """By `Looks.follow` itself: 40 trainings found three rows worse than their baseline."""
    _, (line, *_) = verdicts.replayed(30, short=True)
    assert line["verdicts"] == "worse worse worse"
    assert line["same"] >= 29
    assert 20 < line["trainings"] < 30


@pytest.mark.parametrize("margin", [None, 1.5])
def test_many_rows_at_once_stop_where_each_does_by_itself(margin: float | None) -> None:
    rng = np.random.default_rng(4)
    d_KS = np.rint(2 * rng.standard_normal((60, 12))) / 2 + rng.choice([-2, 0, 0.5, 2], (60, 1))
    looks = Looks(0.05, 3, 12, margin, step=0.5)
    stops = verdicts.followed(d_KS, looks)
    alone = [looks.follow(d) for d in d_KS]
    assert [(stop.n, stop.word) for stop in alone if stop] == [
        (n, WORDS[word]) for n, word in zip(stops.seeds, stops.word, strict=True)
    ]
    assert len({stop.word for stop in alone if stop}) >= 3


def test_rival_tests_are_those_of_scipy() -> None:
    rng = np.random.default_rng(5)
    errors_TRS = np.rint(rng.normal(100, 20, (150, 4, 5)) * [[[1], [1], [2], [1]]])
    errors_TRS[:, 1:] += rng.choice([0, 30], (150, 3, 1))
    p_welch = stats.ttest_ind(errors_TRS[:, 1:], errors_TRS[:, :1], axis=-1, equal_var=False).pvalue
    assert (verdicts.welch(errors_TRS) == (holm(p_welch) <= 0.05)).all()
    for errors_RS, shown in zip(errors_TRS[:40], verdicts.dunnett(errors_TRS), strict=False):
        p_dunnett = stats.dunnett(*errors_RS[1:], control=errors_RS[0], random_state=rng).pvalue
        sure = np.abs(p_dunnett - 0.05) > 0.005  # scipy's integral is a random one
        assert ((p_dunnett <= 0.05) == shown)[sure].all()
    one = errors_TRS[:, :2]
    for test in (verdicts.two_way, verdicts.moderated):  # with one row, all of these are the paired t-test
        assert (test(one) == verdicts.unrounded(one)).all()


def test_variances_are_shrunk_towards_their_common_one() -> None:
    """Variances drawn from the law that is assumed: their errors shrink; alike ones become one."""
    rng, freedom = np.random.default_rng(6), 3
    true = 4 / rng.chisquare(8, (200, 50)) * 8
    seen = true * rng.chisquare(freedom, true.shape) / freedom
    found, degrees = verdicts.shrunk(seen, freedom)
    assert np.median(degrees) == pytest.approx(freedom + 8, rel=0.3)
    assert np.mean(np.log(found / true) ** 2) < 0.5 * np.mean(np.log(seen / true) ** 2)
    alike = np.full((1, 6), 2.5)
    assert verdicts.shrunk(alike, freedom)[0] == pytest.approx(alike)


@pytest.mark.slow
def test_clock(tmp_path: Path) -> None:
    (line,) = check("clock", tmp_path, clock.main)
    assert (line["study"], line["trials"]) == ("position", "4")
    assert float(line["told"]) >= 1
    assert float(line["took"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("part", ["cifar", "inference"])
def test_se_cost(part: str, tmp_path: Path) -> None:
    lines = check("se_cost", tmp_path, se_cost.main, "--device", "cpu", "--parts", part)
    (case,) = se_cost.cases([part], "cpu", short=True)
    (networks,) = se_cost.groups(case, every=False).values()
    assert {line["network"] for line in lines} == {*networks, *(plain for plain, _, _ in networks.values())}


def test_train(tmp_path: Path) -> None:
    lines = check("train", tmp_path, train.main, "--device", "cpu")
    layouts = [f"{layout}, {se} SE" for se in ("with", "without") for layout in ("contiguous", "channels_last")]
    assert [line["way"] for line in lines] == ["lab", "plain", *layouts]


@pytest.mark.slow
@pytest.mark.skipif(not BINARIES, reason="there is no PostgreSQL here")
def test_reliability(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.reliability", "--short", "--to", str(tmp_path)]
    subprocess.run(words, cwd=measuring.ROOT, check=True, capture_output=True)  # its connections end with it
    text = (tmp_path / "reliability.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# How far it reaches, and what it survives",
        "## Two drivers, one store",
        "## A driver with ten thousand trials ahead",
        "## Workers of one driver",
    ]
    with (tmp_path / "reliability" / "drivers.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["records"] == line["attempts"] == line["trained"] == "8", "each exactly once"


@pytest.mark.parametrize("workers", [1, 2, 4, 5, 6, 50])
def test_workers_that_share_a_driver_end_as_many_trials_as_they_can_or_as_it_can(workers: int) -> None:
    """Of equal trials, W workers end W in the time of a trial and its service, until the driver serves all the time."""
    length, service = 8.0, 2.0
    most = min(workers / (length + service), 1 / service)
    assert reliability.simulate(workers, [length], [service], 1000) == pytest.approx(3600 * most, rel=0.01)


@pytest.mark.slow
def test_batched(tmp_path: Path) -> None:
    lines = check("batched", tmp_path, batched.main, "--device", "cpu")
    assert [line["way"] for line in lines] == [
        way for way in (batched.APART, batched.PACKED, batched.TOGETHER) for _ in "12"
    ]


def test_seeds_together_are_trained_as_each_by_itself() -> None:
    """Three steps in double precision: weights, running statistics and counts of batches."""
    seeds, dtype = range(3), torch.float64
    apart, together = batched.Apart("resnet8", seeds, "cpu", dtype), batched.Together("resnet8", seeds, "cpu", dtype)
    for step in range(3):
        given = batched.batches(range(10 * step, 10 * step + 3), 4, 8, "cpu", dtype)
        apart.step(*given)
        together.step(*given)
    for mine, theirs in zip(together.states(), apart.states(), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, atol=1e-9, rtol=0, msg=name)
    first, second, _ = (state["fc.weight"] for state in together.states())
    assert (first - second).abs().max() > 0.01


def test_every_network_with_se_is_its_plain_one_and_gates() -> None:
    """In parameters: SE of hidden widths C / 16 is all that is added; timm's and torchvision's have biases."""
    blocks = {256: 3, 512: 4, 1024: 6, 2048: 3}
    weights = sum(count * 2 * channels * (channels // 16) for channels, count in blocks.items())
    biases = sum(count * (channels + channels // 16) for channels, count in blocks.items())
    with torch.device("meta"):
        for name, (_, plain, build) in se_cost.resnet50s().items():
            added = size(build()) - size(plain())
            assert added == weights + (0 if name in (se_cost.OURS, se_cost.PAPER) else biases), name


def size(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def test_the_roofline_counts_three_times_the_forward_pass() -> None:
    """Each product has two more backward, but for the stem, whose images want no gradient."""
    found = train.products("resnet8")
    cost = models.cost(models.create("resnet8", num_classes=10, seed=0), (3, 32, 32))
    stem = 16 * 27 * 32 * 32
    forward = train.BATCH * (cost.macs - cost.pooling_macs - cost.scaling_macs)
    assert sum(macs for macs, _ in found) == 3 * forward - train.BATCH * stem


def test_every_network_is_compiled_however_many_there_are() -> None:
    """By itself the compiler leaves the ninth as it is, and the benchmark would time that."""
    made: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        made.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    limit = torch._dynamo.config.recompile_limit
    try:
        for width in range(1, 13):
            measuring.compiled(nn.Linear(width, 1), backend=backend)(torch.ones(1, width))
    finally:
        torch._dynamo.config.recompile_limit = limit
        torch.compiler.reset()
    assert len(made) == 12


def test_tasks_are_timed_in_turn() -> None:
    order: list[str] = []
    taken = measuring.in_turn({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "cab" + "abc" + "bca" + "cab"
    assert {name: len(each) for name, each in taken.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_taken_round_by_round() -> None:
    """So that a machine that slows down does not matter."""
    assert measuring.ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == (2.0, 2.0, 2.0)


def test_the_interval_of_se_cost_is_over_its_processes() -> None:
    """Ratios 1 to 9, each in all rounds of a process: by order statistics the second to the eighth."""
    (case,) = se_cost.cases(["cifar"], "cpu", short=True)
    networks = se_cost.groups(case, every=False)[case.title]
    taken = [{"ours": [2.0 * ratio, 4.0 * ratio], "ResNet-20": [2.0, 4.0]} for ratio in (3, 9, 1, 7, 5, 8, 2, 6, 4)]
    (line,) = se_cost.lines_of(case, networks, taken, "cpu")
    assert line["ratio"] == "5.000 [2.000, 8.000]"
    (line,) = se_cost.lines_of(case, networks, [{"ours": [2.0, 3.0, 8.0], "ResNet-20": [1.0, 1.0, 2.0]}], "cpu")
    assert line["ratio"] == "3.000 [2.000, 4.000]", "of a single process over its rounds"


@pytest.mark.slow
def test_a_process_of_se_cost_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    name, _, value = lab.mark.partition("=")
    words = [sys.executable, "-m", "benchmarks.se_cost", "--short", "--to", str(tmp_path)]
    how = {"cwd": measuring.ROOT, "env": {**os.environ, name: value}, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **how) as process:
        assert any(line.endswith(" …\n") for line in process.stderr), "it measures"
        process.terminate()
    wait_for(lambda: not lab.left(), seconds=30)
