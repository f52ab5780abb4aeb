"""A benchmark of designs as files: parquet and JSON, syne-tune's blackbox repository, a benchmark for OptunaHub."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from senet_lab import files
from senet_lab.config import RunError, UserError
from senet_lab.objectives import OBJECTIVES
from senet_lab.reports.cells import read_cells
from senet_lab.reports.curves import read_curves
from senet_lab.reports.trials import read_trials
from senet_lab.studies.bench import COSTS, PER_EPOCH, TESTED, Bench
from senet_lab.studies.designs_table import level_keys
from senet_lab.studies.space import Level

PACKAGE = Path(__file__).parents[1]
SHIPPED = (PACKAGE.parent / "results" / "benches", PACKAGE / "benches")  # in a checkout, and in a wheel
ABOUT, TRIALS, CURVES = "bench.json", "trials.parquet", "curves.parquet"
FACTS = ("data", "backbone", "recipe", "words", "epochs", "objectives", "classes", "val_images", "test_images")
# Of trials.csv, beside the levels and the results: who reads it again (`designs_table`) needs no other.
KEPT = ("row", "seed", "trial_id", "status", "reason", "network", "asked", "factors", "latency_ms", *FACTS)
LICENSE = "Apache-2.0"
NEEDS = 'parquet needs pyarrow: pip install "senet-lab[bench]"'


def open_bench(name: str | Path) -> Bench:
    """A benchmark by its name or folder (`senet_lab.bench`).

    Raises:
        UserError: for a name that is not known, or a folder that holds none, in one line.
    """
    shipped = {each.name: each for place in SHIPPED if place.is_dir() for each in sorted(place.iterdir())}
    folder = shipped.get(str(name), Path(name))
    try:
        if (folder / ABOUT).is_file():
            return read_bench(folder)
        if (folder / "trials.csv").is_file():
            return read_search(folder)
    except (ValueError, OSError) as error:
        raise UserError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error
    known = ", ".join(shipped) or "none"
    raise UserError(f"there is no benchmark '{name}'; there are {known}, and the folder of a search of every design")


def read_search(folder: Path) -> Bench:
    """The benchmark in the folder of a search of every design.

    Raises:
        ValueError: where its trials are not those of such a search.
    """
    trials = read_trials(folder / "trials.csv").reset_index(drop=True)
    if not (folder / "curves.csv").is_file():
        raise ValueError(f"{folder}: there is no curves.csv beside its trials")
    seconds = {}
    if (folder / "runs.csv").is_file():
        seconds = dict(read_cells(folder / "runs.csv")[["trial_id", "seconds"]].itertuples(index=False, name=None))
    trials["seconds"] = [float(seconds.get(trial_id) or "nan") for trial_id in trials["trial_id"]]
    if {"asked", "part"} <= set(trials.columns):
        trials = trials[(trials["asked"] != "") & (trials["part"] == "search")]
    trials = trials.reindex(columns=[*trials.columns, *(name for name in TESTED if name not in trials)])
    curves = read_curves(folder / "curves.csv")
    return Bench(str(trials["study"].iloc[0]), trials, curves[curves["trial_id"].isin(trials["trial_id"])])


# ----------------------------------------------------------------------------------------------------- parquet and JSON


def write_bench(bench: Bench, folder: Path) -> None:
    """Write `bench.json`, `trials.parquet` and `curves.parquet`, of which `open_bench` makes the same benchmark.

    Raises:
        RunError: where pyarrow is not installed.
        OSError: where the folder cannot be written.
    """
    keys = level_keys(bench.trials)
    columns = [
        name for name in (*KEPT, *keys, *COSTS, "val_error", "val_loss", *TESTED, "seconds") if name in bench.trials
    ]
    about = {
        "name": folder.name,
        "search": bench.name,
        **{name: facts[0] for name in FACTS if len(facts := plain(bench.trials.get(name, pd.Series()))) == 1},
        "designs": len(bench.labels),
        "seeds": bench.seeds,
        "space": {key: list(levels) for key, levels in bench.space.levels.items()},
        "trust": [{key: rounded(value) for key, value in line.items()} for line in bench.trust().to_dict("records")],
        "license": LICENSE,
    }
    curves = bench.curves[["trial_id", "row", "seed", "epoch", *PER_EPOCH]]
    files.replace_all(
        folder,
        {
            TRIALS: parquet(bench.trials[columns]),
            CURVES: parquet(curves),
            ABOUT: (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode(),
        },
    )


def read_bench(folder: Path) -> Bench:
    """What `write_bench` wrote.

    Raises:
        ValueError: for files that are damaged or of another format.
        RunError: where pyarrow is not installed.
    """
    try:
        name = str(json.loads((folder / ABOUT).read_text())["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{ABOUT} is damaged ({error})") from error
    frames = []
    for file in (TRIALS, CURVES):
        try:
            frames.append(pd.read_parquet(folder / file, engine="pyarrow"))
        except ImportError as error:
            raise RunError(NEEDS) from error
        except Exception as error:  # what a damaged file makes of the reader has no common class
            raise ValueError(f"{file} cannot be read ({type(error).__name__})") from error
    return Bench(name, *frames)


def parquet(frame: pd.DataFrame) -> bytes:
    """A frame as parquet."""
    out = io.BytesIO()
    try:
        frame.to_parquet(out, index=False, engine="pyarrow", compression="gzip")
    except ImportError as error:
        raise RunError(NEEDS) from error
    return out.getvalue()


def plain(values: pd.Series) -> list[Any]:
    """The different values of a column, for JSON; some columns hold their numbers as text."""
    found = dict.fromkeys(values.astype(object).where(values.notna(), None).tolist())
    return [int(value) if str(value).isdigit() else value for value in found]


def rounded(value: Any) -> Any:
    """A number for JSON, which has no NaN."""
    return value if isinstance(value, str) else None if np.isnan(value) else round(float(value), 4)


# ------------------------------------------------------------------------------------------------------------ syne-tune


def write_syne_tune(bench: Bench, folder: Path) -> None:
    """Write the six files of a tabular blackbox of syne-tune (`blackbox_repository.blackbox_tabular`).

    Every point of the space is in it, also where several are one design: a scheduler may ask for any. Levels are
    categories, as words. Test results, which are read after the last epoch, stand at every epoch with `_at_end` behind
    their names: for what is reported of a design, not for a scheduler.

    Raises:
        RunError: where pyarrow is not installed.
        OSError: where the folder cannot be written.
    """
    space, epochs = bench.space, range(1, bench.epochs + 1)
    points = every_point(bench)
    labels = [bench.labels[space.design(point)] for point in points]
    results = bench.results
    at_end = results[list(TESTED)].groupby(["label", "seed"]).transform("last").add_suffix("_at_end")
    whole = results.drop(columns=list(TESTED)).join(at_end).dropna(axis="columns", how="all")
    names = list(whole.columns)
    asked = pd.MultiIndex.from_product([list(dict.fromkeys(labels)), bench.seeds, epochs])
    values_DSEO = whole.reindex(asked)[names].to_numpy(float).reshape(-1, len(bench.seeds), len(epochs), len(names))
    place = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    values_PSEO = values_DSEO[[place[label] for label in labels]].astype(np.float32)
    hyperparameters = pd.DataFrame([{key: str(level) for key, level in point.items()} for point in points])
    categories = {key: list(map(str, levels)) for key, levels in space.varied.items()}
    uniform = {"sampler_cls": "Uniform", "sampler_kwargs": {}}
    contents = {
        "configspace.json": {
            key: {"domain_cls": "Categorical", "domain_kwargs": {"categories": each}, **uniform}
            for key, each in categories.items()
        },
        "fidelityspace.json": {
            "epoch": {"domain_cls": "Integer", "domain_kwargs": {"lower": 1, "upper": bench.epochs}, **uniform}
        },
        "metadata.json": {
            "objectives_names": names,
            "task_names": [bench.name],
            "metric_elapsed_time": "elapsed",
            "default_metric": OBJECTIVES[bench.table().objectives[0]].column,
            "resource_attr": "epoch",
            "license": LICENSE,
        },
    }
    files.replace_all(
        folder,
        {
            "hyperparameters.parquet": parquet(hyperparameters),
            "fidelities_values.npy": npy(np.array(epochs)),
            "objectives_evaluations.npy": npy(values_PSEO[None]),  # of one task
            **{name: json.dumps(each, indent=2).encode() for name, each in contents.items()},
        },
    )


def every_point(bench: Bench) -> list[dict[str, Level]]:
    """All points of what varies in the space, in a fixed order."""
    varied = bench.space.varied
    return [dict(zip(varied, point, strict=True)) for point in itertools.product(*varied.values())]


def npy(values: np.ndarray[Any, Any]) -> bytes:
    """An array as a file of NumPy's."""
    out = io.BytesIO()
    np.save(out, values, allow_pickle=False)
    return out.getvalue()


# ------------------------------------------------------------------------------------------------------------ OptunaHub


def write_optunahub(bench: Bench, folder: Path) -> None:
    """Write a package of OptunaHub's registry, `package/benchmarks/<name>`: it needs optuna and optunahub, and not the
    lab.

    Raises:
        OSError: where the folder cannot be written.
    """
    points = every_point(bench)
    means = bench.designs.set_index("label")[["val_error", "val_loss", *COSTS]].astype(float)
    of_points = means.loc[[bench.labels[bench.space.design(point)] for point in points]]
    found = {str(name): values.tolist() for name, values in of_points.items() if values.notna().all()}
    data = {
        "name": bench.name,
        "default": list(bench.table().objectives),
        "levels": {key: list(levels) for key, levels in bench.space.varied.items()},
        "objectives": found,
    }
    default = ", ".join(f'"{name}"' for name in data["default"])
    facts = bench.trials.iloc[0]
    description = f"{len(bench.labels)} squeeze-and-excitation designs of {facts['backbone']} on {facts['data']}"
    readme = README.format(
        title=f"SE-Bench: {description}",
        description=f"A table of {description}, each trained with {len(bench.seeds)} seeds for {bench.epochs} epochs",
        folder=folder.name,
        default=default,
        known=", ".join(found),
        license=LICENSE,
    )
    problem = Path(__file__).with_name("optunahub_problem.py").read_bytes()
    named = {"README.md": readme.encode(), "data.json": json.dumps(data).encode(), "__init__.py": problem}
    files.replace_all(folder, named)


README = """---
author: senet_lab
title: "{title}"
description: "{description}."
tags: [benchmark, tabular, architecture search, squeeze-and-excitation]
optuna_versions: [5.0.0]
license: {license}
---

## Abstract

{description}. `Problem` answers with the means over the seeds: nothing trains.

## APIs

`Problem(objectives=({default},))`: what is to be small, of {known}.

## Installation

```
pip install optuna optunahub
```

## Example

```python
import optuna
import optunahub

problem = optunahub.load_module("benchmarks/{folder}").Problem()
study = optuna.create_study(directions=problem.directions)
study.optimize(problem, n_trials=50)
```
"""
