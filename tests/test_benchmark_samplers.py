"""Samplers replayed on a made-up table: what is read from it, and what is said of it."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import samplers
from senet_lab.reports.statistics import reliability
from senet_lab.reports.trials import canonical, read_trials
from senet_lab.studies.designs_table import read_designs

CONSTANT = {
    "study": "made up",
    "title": "",
    "paper_table": "",
    "paper_row": "",
    "baseline": "",
    "status": "done",
    "reason": "",
    "test_top5_error": 0.0,
    "val_loss": 0.1,
    "test_images": 100,
    "macs": 1,
    "paper_params": None,
    "paper_macs": None,
    "hidden": "",
    "data": "digits",
    "backbone": "resnet8",
    "recipe": "tabular",
    "epochs": 4,
    "device": "cpu",
    "torch": "",
    "objectives": "val_error params",
    "sampler": "enumerate",
    "se.position": "standard",
}


def trials() -> pd.DataFrame:
    """Two stages, three levels each, three gates: 25 designs, two seeds."""
    draw = random.Random(0)
    lines: list[dict[str, Any]] = []
    words = list(itertools.product(("off", "4", "16"), ("off", "4", "16"), ("avg",), ("sigmoid", "tanh", "relu")))
    plain, *others = [word for word in words if word[:2] != ("off", "off") or word[3] == "sigmoid"]
    for number, (a, b, squeeze, gate) in enumerate([plain, *others], start=1):
        params = 1000 + sum(0 if level == "off" else 64 // int(level) for level in (a, b))
        error = 10 - (params - 1000) / 8 + {"sigmoid": 0, "tanh": 3, "relu": 6}[gate] + draw.gauss(0, 1)
        for seed in range(2):
            found = error + draw.gauss(0, 0.3)
            own = {"row": f"{a}/{b} {gate}", "network": str(number), "trial_id": f"{number}-{seed}", "seed": seed}
            levels = {"se.reduction.2": a, "se.reduction.3": b, "se.squeeze": squeeze, "se.excitation": gate}
            results = {"val_error": found, "test_error": found, "params": params, "asked": str(number)}
            lines.append(CONSTANT | own | levels | results)
    return canonical(pd.DataFrame(lines))


def test_the_table_is_every_design_and_searches_end_with_its_front(tmp_path: Path) -> None:
    table = read_designs(trials())
    assert table.space.distinct() == len(table.values) == 25
    assert table.errors.shape == (25, 2)
    assert reliability(table.errors) > 0.9
    played = samplers.compare(table, ["nsga2"], seeds=3, trials=25, pending=2)
    whole = played[played["designs"] == 25]["share"]
    assert whole.to_numpy() == pytest.approx(1), "all designs have the whole front"
    assert (played.groupby(["sampler", "seed"])["share"].diff().dropna() >= -1e-12).all()
    text = samplers.table_text(table, played, pending=2)
    rows = [line.split(" |")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["| sampler", "| ---", "| random", "| local", "| nsga2", "| nsga2 alone"], "both controls beside"
    assert "Reliability of the mean of 2 seeds: 0.9" in text

    played.to_csv(tmp_path / "samplers.csv", index=False)
    fewer = played[~played["sampler"].str.startswith("nsga2")]
    kept = samplers.others(tmp_path / "samplers.csv", fewer)
    assert set(kept["sampler"]) == {"nsga2", "nsga2 alone"}, "which are not played again"
    assert samplers.others(tmp_path / "samplers.csv", fewer[fewer["seed"] < 2]).empty, "of other seeds they are not"


def test_how_many_designs_it_takes() -> None:
    share = np.array([0.1, 0.5, 0.5, 0.9])
    assert [samplers.needed(share, target) for target in (0.05, 0.5, 0.6, 0.95)] == [1, 2, 4, np.inf]


def test_halving_spends_fewer_epochs_on_the_same_front() -> None:
    """Where ranks after the first epoch are those at the end."""
    table = read_designs(trials())
    errors = {table.rows[design]: values[0] for design, values in table.values.items()}
    curves = pd.DataFrame({1: {row: error + 50 for row, error in errors.items()}})
    spent, share = samplers.play_halving(table, curves, "random", 0, trials=25, pending=2, rungs=[1], keep=0.5)
    assert spent[-1] < 0.8 * 25 * 4, "half of the designs go on, and those that come late to be among the best"
    assert share[-1] == pytest.approx(1)


def test_a_table_that_leaves_designs_out_is_refused(tmp_path: Path) -> None:
    frame = trials()
    with pytest.raises(ValueError, match="1 of the 25 designs of the space are not in it"):
        read_designs(frame[frame["row"] != "4/16 tanh"])
    with pytest.raises(ValueError, match="not the trials of a search"):
        read_designs(frame.drop(columns=["objectives"]))
    frame.to_csv(tmp_path / "trials.csv", index=False)
    assert read_designs(read_trials(tmp_path / "trials.csv")).values == read_designs(frame).values
