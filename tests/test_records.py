"""`senet_lab.load_records`: a real store as a table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from launching import Lab

import senet_lab
from senet_lab.config import UserError
from senet_lab.studies.store import DONE, FAILED, Store


def test_a_finished_study_is_a_table_of_its_trials(finished: Lab) -> None:
    path = finished.folder / "results/local/lab.db"
    frame = senet_lab.load_records(path)
    published = {trial["trial_id"]: trial for trial in finished.trials()}
    assert set(frame["trial_id"]) == set(published)
    assert frame["trial_id"].is_unique
    assert set(frame["state"]) == {"done"}
    for _, trial in frame.iterrows():
        row = published[trial["trial_id"]]
        for name in ("test_error", "test_top5_error", "val_error", "val_loss"):
            assert trial[name] == pytest.approx(float(row[name])), name
        for name in ("seed", "params", "macs", "epochs"):
            assert trial[name] == int(row[name]), name
        for name in ("backbone", "device", "torch"):
            assert trial[name] == row[name], name
        assert (trial["data"], trial["data.subset"], trial["recipe"]) == ("digits", 200, "quick")
    assert str(frame["started"].dt.tz) == "UTC"
    assert (frame["seconds"] > 0).all()
    assert set(frame["recipe.batch_size"]) == {32}  # the quick recipe


def store_of(folder: Path, **records: tuple[str, dict[str, object]]) -> Path:
    store = Store(sa.URL.create("sqlite", database=str(folder / "lab.db")).render_as_string())
    for name, (state, record) in records.items():
        assert store.claim(name)
        assert store.finish(name, state, record)
    assert store.claim("running")
    return folder / "lab.db"


ENDED = {"epochs": [], "metrics": {"test_error": 1.5, "val_error": 2.0}, "seconds": 3.0, "resumed": False}


def test_designs_can_be_grouped_by(tmp_path: Path) -> None:
    """One number where stages agree, text where they do not, nothing for a plain network; a trial that is running has
    left no record."""
    config = {"backbone": "resnet8", "seed": 0, "hidden": {"2": [1], "4": [4, 4]}}
    same, other = {"reduction": {"2": 8, "4": 8}, "squeeze": "max"}, {"reduction": {"2": 16, "4": 8}}
    folder = tmp_path / "what? a%20path"
    folder.mkdir()
    path = store_of(
        folder,
        a=(DONE, {"config": {**config, "se": same}, **ENDED}),
        b=(DONE, {"config": {**config, "se": other}, **ENDED}),
        c=(DONE, {"config": {**config, "se": None, "hidden": {}}, **ENDED}),
        d=(FAILED, {"config": {**config, "se": same}, "reason": "diverged"}),
    )
    frame = senet_lab.load_records(str(path)).set_index("trial_id")
    assert list(frame.index) == ["a", "b", "c", "d"]
    assert list(frame["state"]) == ["done", "done", "done", "failed"]
    assert frame.loc["a", "se.reduction"] == 8
    assert frame.loc["b", "se.reduction"] == "2:16 4:8"
    assert frame.loc["a", "hidden"] == "2:1 4:4/4"
    assert (frame.loc["a", "se.squeeze"], frame.loc["b", "se.squeeze"]) == ("max", "avg")  # the default stands for it
    assert frame.loc["c", ["se.reduction", "se.squeeze", "se.position"]].isna().all()
    assert frame.loc["d", "reason"] == "diverged"
    assert pd.isna(frame.loc["d", "test_error"])
    assert frame.groupby("se.squeeze")["test_error"].count().to_dict() == {"avg": 1, "max": 1}


def test_a_url_is_taken_too(tmp_path: Path) -> None:
    path = store_of(tmp_path, a=(DONE, {"config": {"se": None}, **ENDED}))
    pd.testing.assert_frame_equal(senet_lab.load_records(path), senet_lab.load_records(f"sqlite:///{path}"))


@pytest.mark.parametrize("url", [False, True])
def test_a_store_that_is_not_there_is_named(tmp_path: Path, url: bool) -> None:
    path = tmp_path / "other.db"
    with pytest.raises(UserError, match=r"other\.db"):
        senet_lab.load_records(f"sqlite:///{path}" if url else path)
    assert not path.exists()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    path = store_of(tmp_path, broken=(DONE, {"config": {}}))
    with pytest.raises(UserError, match="trial broken is damaged"):
        senet_lab.load_records(path)


def test_it_comes_without_torch(tmp_path: Path) -> None:
    path = store_of(tmp_path, a=(DONE, {"config": {"se": None}, **ENDED}))
    code = "import sys, senet_lab; print(len(senet_lab.load_records(sys.argv[1])), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["1", "False"]
