"""Benchmarks of designs: what they answer beside the files that they are made of, and what other tools read of them."""

from __future__ import annotations

import csv
import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from test_benchmark_samplers import trials as made_up

import senet_lab as lab
from senet_lab.__main__ import main
from senet_lab.config import UserError
from senet_lab.reports.trials import canonical
from senet_lab.studies import bench_files
from senet_lab.studies.bench import PER_EPOCH, Bench
from senet_lab.studies.bench_files import every_point, open_bench

ROOT = Path(__file__).parents[1]
SEARCH = ROOT / "results/digits/resnet8-tabular_ema/tabular_sigmoid"
POINT = {"se.reduction.2": "4", "se.reduction.3": "off", "se.reduction.4": "16", "se.squeeze": "max"}


@pytest.fixture(scope="module")
def digits() -> Bench:
    return open_bench(SEARCH)


def lines_of(name: str) -> list[dict[str, str]]:
    with (SEARCH / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_query_is_what_the_files_say(digits: Bench) -> None:
    trials = {(line["row"], line["seed"]): line for line in lines_of("trials.csv")}
    seconds = {line["trial_id"]: float(line["seconds"]) for line in lines_of("runs.csv")}
    for line in lines_of("curves.csv")[::97]:
        epoch, trial = int(line["epoch"]), trials[line["row"], line["seed"]]
        found = digits.query(line["row"], int(line["seed"]), epoch)
        assert {name: found[name] for name in PER_EPOCH} == {name: float(line[name]) for name in PER_EPOCH}
        assert found["elapsed"] == pytest.approx(seconds[line["trial_id"]] * epoch / 24)
        assert (found["params"], found["macs"]) == (int(trial["params"]), int(trial["macs"]))
        assert found.get("test_error") == (float(trial["test_error"]) if epoch == 24 else None), "read once, at the end"
    tested = digits.results["test_error"].notna().groupby("epoch").mean()
    assert tested.to_dict() == {epoch: float(epoch == 24) for epoch in range(1, 25)}
    design = next(line for line in trials.values() if all(line[key] == level for key, level in POINT.items()))
    of_design = [float(trials[design["row"], str(seed)]["test_error"]) for seed in range(3)]
    assert digits.query({**POINT, "se.position": design["se.position"]})["test_error"] == pytest.approx(
        np.mean(of_design)
    )


def test_the_one_that_comes_with_the_lab_is_its_search(digits: Bench) -> None:
    shipped = lab.bench("digits-resnet8")
    pd.testing.assert_frame_equal(shipped.results, digits.results, check_index_type=False)
    pd.testing.assert_frame_equal(shipped.designs, digits.designs, check_dtype=False)
    pd.testing.assert_frame_equal(shipped.trust(), digits.trust())
    assert repr(shipped) == "<Bench digits-resnet8: 261 designs, 3 seeds, 24 epochs>"


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # syne-tune's
def test_syne_tune_reads_the_same_numbers(digits: Bench, tmp_path: Path) -> None:
    from syne_tune.blackbox_repository.blackbox_tabular import deserialize

    bench_files.write_syne_tune(digits, tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    (theirs,) = deserialize(str(tmp_path)).values()
    assert {key: each.categories for key, each in theirs.configuration_space.items()} == {
        key: list(map(str, levels)) for key, levels in digits.space.varied.items()
    }
    points = every_point(digits)
    assert len(theirs.all_configurations()) == len(points) == 3**3 * 2 * 5, "a scheduler may ask for any"
    for number, point in enumerate(points[::11]):
        seed, epoch = number % 3, 1 + number % 24
        config = {key: str(level) for key, level in point.items()}
        found = theirs.objective_function(config, {"epoch": epoch}, seed=seed)
        at_end = found.pop("test_error_at_end")
        ours = digits.query(point, seed, epoch)
        assert found == pytest.approx({name: ours[name] for name in found}, rel=1e-6)
        assert at_end == pytest.approx(digits.query(point, seed)["test_error"], rel=1e-6)


def test_optunahub_loads_the_same_numbers(digits: Bench, tmp_path: Path) -> None:
    import optunahub

    bench_files.write_optunahub(digits, tmp_path / "benchmarks" / "se_bench")
    package = optunahub.load_local_module("benchmarks/se_bench", registry_root=str(tmp_path))
    problem = package.Problem()
    for point in every_point(digits):
        ours = digits.query(point)
        assert problem.evaluate(point) == pytest.approx((ours["val_loss"], ours["params"]), rel=1e-5), (
            "as in curves.csv"
        )
    study = optuna.create_study(directions=problem.directions)
    study.optimize(problem, n_trials=3)
    assert [len(trial.values) for trial in study.trials] == [2, 2, 2]
    assert package.Problem(["macs"]).evaluate(every_point(digits)[0]) == digits.query("no SE")["macs"]
    with pytest.raises(ValueError, match="no objective 'test_error'; there are val_error"):
        package.Problem(["test_error"])


def test_optuna_finds_the_best_and_prunes_by_epochs(digits: Bench) -> None:
    every = optuna.samplers.GridSampler({key: list(levels) for key, levels in digits.space.varied.items()}, seed=0)
    study = optuna.create_study(sampler=every)
    study.optimize(digits.objective("val_loss"))
    assert len(study.trials) == len(every_point(digits))
    assert study.best_trial.user_attrs["label"] == digits.designs.set_index("label")["val_loss"].idxmin()
    assert study.best_trial.intermediate_values == pytest.approx(
        {epoch: digits.query(study.best_trial.user_attrs["label"], epoch=epoch)["val_loss"] for epoch in range(1, 25)}
    )
    halving = optuna.create_study(pruner=optuna.pruners.SuccessiveHalvingPruner(), sampler=every)
    halving.optimize(digits.objective("val_loss", seed=1), n_trials=30)
    states = [trial.state for trial in halving.trials]
    assert 0 < states.count(optuna.trial.TrialState.PRUNED) < 30
    both = optuna.create_study(directions=["minimize"] * 2)
    both.optimize(digits.objective("val_error", "params", seed=2), n_trials=2)
    label = both.trials[0].user_attrs["label"]
    assert both.trials[0].values == pytest.approx(
        [digits.query(label, seed=2)[name] for name in ("val_error", "params")], rel=1e-5
    )


def test_a_replay_is_what_the_comparison_of_samplers_published(digits: Bench) -> None:
    published = pd.read_csv(SEARCH / "samplers.csv").set_index(["sampler", "seed"])
    for sampler in ("random", "nsga2", "tpe", "local"):
        shares = digits.replay(sampler, seed=3)["share"]
        assert shares.round(6).tolist() == published.loc[(sampler, 3), "share"].tolist()
    whole = digits.replay("enumerate", trials=1000)
    assert len(whole) == whole["label"].nunique() == 261
    assert whole["share"].iloc[-1] == pytest.approx(1)


def simulated(designs: int, spread: float, noise: float) -> tuple[Bench, np.ndarray[Any, Any]]:
    """Designs of known true errors, four seeds."""
    draw = np.random.default_rng(0)
    side = int(designs**0.5)
    truth = 50 + spread * draw.normal(size=designs)
    lines = []
    constant = made_up().iloc[0].to_dict()
    for number, (a, b) in enumerate(itertools.product(range(1, side + 1), repeat=2)):
        for seed in range(4):
            own = {"row": f"{a}/{b}", "seed": seed, "trial_id": f"{number}-{seed}", "asked": str(number + 1)}
            levels = {"se.reduction.2": str(a), "se.reduction.3": str(b)}
            found = {"val_error": truth[number] + noise * draw.normal(), "test_error": truth[number]}
            lines.append(constant | own | levels | found)
    trials = canonical(pd.DataFrame(lines)).assign(test_loss=math.nan, seconds=1.0)
    return Bench("simulated", trials, pd.DataFrame(columns=["row", "seed", "epoch", *PER_EPOCH])), truth


def test_the_noise_ceiling_is_what_the_truth_correlates_with_the_means() -> None:
    bench, truth = simulated(400, spread=1, noise=1.5)
    trust = bench.trust().set_index("result").loc["val_error"]
    seen = np.corrcoef(bench.designs["val_error"], truth)[0, 1]
    assert trust["noise_ceiling"] == pytest.approx(seen, abs=0.03)
    assert trust["reliability_one_seed"] == pytest.approx(1 / (1 + 1.5**2), abs=0.04)
    assert trust["sd_seeds"] == pytest.approx(1.5, rel=0.05)
    assert bench.trust().set_index("result").loc["test_error", "noise_ceiling"] == 1, "no noise at all"


def test_a_design_that_failed_is_told_as_failed() -> None:
    frame = made_up().assign(test_loss=math.nan, seconds=1.0)
    frame.loc[frame["row"] == "4/16 tanh", ["val_error", "test_error"]] = math.nan
    bench = Bench("made up", frame, pd.DataFrame(columns=["row", "seed", "epoch", *PER_EPOCH]))
    assert math.isnan(bench.query("4/16 tanh")["val_error"])
    assert bench.replay("tpe", trials=25)["share"].iloc[-1] == pytest.approx(1)
    study = optuna.create_study(directions=["minimize"] * 2)
    study.enqueue_trial({"se.reduction.2": "off"})
    study.enqueue_trial({"se.reduction.2": 4, "se.reduction.3": 16, "se.excitation": "tanh"})
    study.optimize(bench.objective("val_error", "params"), n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]


def test_a_space_with_other_factors_is_read_as_it_was_searched() -> None:
    keys = "se.reduction.2 se.reduction.3 se.squeeze se.excitation se.position recipe.lr"
    parts = []
    for place, lr in enumerate(("0.1", "1e-3")):
        part = made_up().assign(test_loss=math.nan, seconds=1.0, factors=keys).assign(**{"recipe.lr": lr})
        part = part.assign(
            row=part["row"] + f", lr {lr}", asked=[str(int(each) + 25 * place) for each in part["asked"]]
        )
        parts.append(part.assign(val_error=part["val_error"] + 100 * place, network=part["asked"]))
    frame = pd.concat(parts).assign(trial_id=range(100)).astype({"trial_id": str})
    bench = Bench("made up", frame, pd.DataFrame(columns=["row", "seed", "epoch", *PER_EPOCH]))
    assert bench.space.levels["recipe.lr"] == (0.1, 0.001)
    assert bench.space.distinct() == len(bench.labels) == 50
    assert [bench.labels[bench.design({"recipe.lr": lr})] for lr in (0.1, 0.001)] == [
        "off/off sigmoid, lr 0.1",
        "off/off sigmoid, lr 1e-3",
    ]
    assert bench.best().endswith("lr 0.1")
    with pytest.raises(ValueError, match="different numbers of epochs"):
        Bench("made up", frame.assign(epochs=frame["recipe.lr"].map({"0.1": 4, "1e-3": 8})), bench.curves)


def test_the_command_writes_all_three_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--to", str(tmp_path / "own"), "--syne-tune", str(tmp_path / "own"), "--optunahub", str(tmp_path / "hub")]
    assert main(["bench", str(SEARCH), *words]) == 0
    told = capsys.readouterr().out
    assert "261 designs of resnet8 on digits, 3 seeds, 24 epochs" in told
    assert "val_loss" in told
    assert "0.723" in told, "as in samplers.md, 0.72"
    assert max(len(line) for line in told.splitlines() if not line.startswith("written: ")) <= 80
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert len(written) == 3 + 6 + 3
    own = open_bench(tmp_path / "own")
    assert own.query("no SE") == pytest.approx(open_bench(SEARCH).query("no SE"), nan_ok=True)


WRONG = [
    (lambda bench: bench.query("no such"), "no design 'no such'; there are no SE, "),
    (lambda bench: bench.query({"se.ratio": 4}), "no 'se.ratio'; it has se.reduction.2, "),
    (lambda bench: bench.query({"se.reduction.2": 8}), "se.reduction.2 has no level 8; it has off, 16, 4"),
    (lambda bench: bench.query("no SE", seed=3), "no seed 3; it has 0, 1, 2"),
    (lambda bench: bench.query("no SE", epoch=0), "no epoch 0; it has 1 to 24"),
    (lambda bench: bench.objective("test_error"), "no 'test_error'; there are val_error, "),
    (lambda bench: bench.objective("val_loss", seed=7), "no seed 7; it has 0, 1, 2"),
    (lambda bench: bench.replay("cmaes"), "no 'cmaes'; there are enumerate, random, "),
    (lambda bench: open_bench("imagenet"), "no benchmark 'imagenet'; there are digits-resnet8, and the folder"),
    (lambda bench: open_bench(ROOT / "results/digits/resnet8-quick/ratio"), "these are not the trials of a search"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_not_there_is_named_in_one_line(digits: Bench, call: Any, message: str) -> None:
    with pytest.raises(UserError) as raised:
        call(digits)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_damaged_files_and_a_missing_library_are_one_line(tmp_path: Path) -> None:
    for file in (ROOT / "results/benches/digits-resnet8").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "curves.parquet").write_bytes((tmp_path / "curves.parquet").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"curves\.parquet cannot be read"):
        open_bench(tmp_path)
    (tmp_path / "bench.json").write_text("{")
    with pytest.raises(UserError, match=r"bench\.json"):
        open_bench(tmp_path)
    code = (
        "import sys; sys.modules['pyarrow'] = None; from senet_lab.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "bench", "digits-resnet8"], cwd=ROOT, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (1, 'error: parquet needs pyarrow: pip install "senet-lab[bench]"\n')
