"""What is published is what today's code trains: the first epoch of a trial of each published study, trained again."""

from __future__ import annotations

import csv
import os
import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch

from senet_lab.compose import compose
from senet_lab.config import UserError
from senet_lab.reports.curves import read_curves
from senet_lab.studies import plan
from senet_lab.studies.plan import Cell
from senet_lab.training import data, trial

ROOT = Path(__file__).parents[1]
# Every published study with curves, one that is added tomorrow, too.
FOLDERS = sorted(
    path.parent for path in (ROOT / "results").rglob("curves.csv") if "local" not in path.relative_to(ROOT).parts
)
LOSSES = ["train_loss", "val_loss"]
TOLERANCE = 1e-3  # other processors and versions of PyTorch add up in another order

torch.set_num_threads(1)


def cell_of(line: dict[str, str], commands: Path) -> Cell:
    """The training that a line of a published `trials.csv` tells of; older studies have no commands beside it."""
    words = [f"backbone={line['backbone']}", f"training.device={line['device']}", f"seeds={int(line['seed']) + 1}"]
    words.append(f"data.root={os.environ.get('DATA_ROOT', 'data')}")
    known = commands.is_file()
    words += ["training.layout=contiguous"] * (not known)  # in which all of them were trained
    if known:
        (whole,) = (each["command"] for each in read_rows(commands) if not each["row"])
        _, _, _, *said = shlex.split(whole)
        words += [each for each in said if not each.startswith(("data.root=", "seeds=", "settle.", "margin="))]
    elif line.get("words"):  # of a search, which tells each design's levels
        stages = {
            key.rpartition(".")[2]: r for key, r in line.items() if key.startswith("se.reduction.") and r != "off"
        }
        words += line["words"].split()
        words += [f"se.{key}={line[f'se.{key}']}" for key in ("squeeze", "excitation", "position")] if stages else []
        words.append("se.reduction={" + ",".join(f"{n}:{r}" for n, r in stages.items()) + "}" if stages else "se=null")
    else:
        words.append(f"+ablation={line['study']}")
        for group in ("data", "recipe"):  # cifar10-subset=5000
            name, *more = line[group].split("-")
            words += [f"{group}={name}", *(f"{group}.{word}" for word in more)]
    found = next((cell for cell in plan.make_plan(compose(words)).cells if cell.trial_id == line["trial_id"]), None)
    assert found, f"{' '.join(words)} is to train {line['trial_id']} ({line['row']}, seed {line['seed']}), and does not"
    return found


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT / "results")))
def test_a_published_trial_begins_as_it_did(folder: Path, tmp_path: Path) -> None:
    """By its whole recipe, whose schedule looks ahead to the last epoch; two losses, of training and of validation."""
    curves = read_curves(folder / "curves.csv")
    firsts = curves[curves["epoch"] == 1].set_index("trial_id")
    trial_id = firsts.index[-1]
    trials = pd.read_csv(folder / "trials.csv", dtype=str, keep_default_na=False).set_index("trial_id", drop=False)
    cell = cell_of(trials.loc[[trial_id]].iloc[0].to_dict(), folder / "commands.csv")
    try:
        data.check_files(cell.spec.data)
    except UserError as error:
        pytest.skip(f"{error} (the variable DATA_ROOT says where)")
    (epoch,) = trial.run_trial(cell.spec, tmp_path / "a.ckpt", lambda entry: None, until=1)["epochs"]
    trained, was = [epoch[name] for name in LOSSES], firsts.loc[[trial_id]].iloc[0]
    assert trained == pytest.approx([was[name] for name in LOSSES], rel=0, abs=TOLERANCE)
    seeds = firsts[(firsts["row"] == was["row"]) & (firsts["seed"] != was["seed"])]
    apart = (seeds[LOSSES] - trained).abs().max(axis=1)
    assert (apart > TOLERANCE).all(), "another seed begins otherwise"
