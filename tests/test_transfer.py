"""`python -m senet_lab store …` on real stores: what is damaged is named, and records arrive elsewhere as they were."""

from __future__ import annotations

import json
import shlex
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from in_process import trained_here
from launching import ROOT, WORDS, Lab, one_line

from senet_lab.__main__ import main
from senet_lab.run import main as run
from senet_lab.studies.records import load_records
from senet_lab.studies.store import Store

PUBLISHED = ROOT / "results/digits/resnet8-quick/conv3x3"
NOWHERE = "sqlite:///results/local/other.db"


@pytest.fixture
def here(copy: Lab, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which the tiny study has run, and which may be damaged."""
    monkeypatch.chdir(copy.folder)
    return copy.folder


def change(statement: str, *values: object) -> None:
    with sqlite3.connect("results/local/lab.db") as connection:
        connection.execute(statement, values)
    connection.close()


def first() -> str:
    return str(load_records("results/local/lab.db")["trial_id"][0])


def kept(url: str = "sqlite:///results/local/lab.db") -> dict[str, bytes]:
    """The outputs of all trials of a store."""
    return Store(url).outputs(load_records(url)["trial_id"])


def edited(trial_id: str, **changes: object) -> None:
    text = Store("sqlite:///results/local/lab.db").text(trial_id)
    assert text is not None
    change("UPDATE records SET record = ? WHERE trial_id = ?", json.dumps(json.loads(text) | changes), trial_id)


def test_a_whole_store_is_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change("INSERT INTO records VALUES ('0123456789abcdef', 'running', 'elsewhere/1/1', 0, NULL)")
    assert main(["store", "check"]) == 0
    counts, dead = capsys.readouterr().out.splitlines()
    assert (
        counts
        == f"sqlite:///results/local/lab.db: {len(load_records('results/local/lab.db'))} done, 0 failed, 0 running"
    )
    assert dead.startswith("1 claimed by drivers that have ended")


def test_what_is_damaged_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = list(load_records("results/local/lab.db")["trial_id"])
    whole = Store("sqlite:///results/local/lab.db").text(ids[0])
    assert whole is not None
    config = json.loads(whole)["config"]
    damages = [
        ({"config": config | {"seed": 99}}, "its configuration is that of trial "),
        ({"config": {}}, "its configuration is not whole"),
        ({"epochs": []}, "it does not have the 8 epochs that it was trained for"),
        ({"metrics": {"test_error": float("nan"), "val_error": 1.0}}, "a metric is not a number"),
        ({"metrics": {}}, "its record is cut off, or no record"),
    ]
    for changes, said in damages:
        edited(ids[0], **changes)
        assert main(["store", "check"]) == 1
        shown = capsys.readouterr()
        assert shown.out.startswith(f"{ids[0]}: {said}")
        assert shown.err == (
            f"error: 1 of its entries is damaged, see above; python -m senet_lab store forget {ids[0]} deletes one\n"
        )
        change("UPDATE records SET record = ? WHERE trial_id = ?", whole, ids[0])
    change("UPDATE records SET record = substr(record, 1, 50), state = 'failed' WHERE trial_id = ?", ids[0])
    change("UPDATE records SET state = 'lost' WHERE trial_id = ?", ids[1])
    assert main(["store", "check"]) == 1
    shown = capsys.readouterr()
    assert f"{ids[0]}: its record is cut off" in shown.out
    assert f"{ids[1]}: its state is 'lost'; there are running, done, failed" in shown.out
    assert "2 of its entries are damaged" in shown.err


@pytest.mark.parametrize("fused", [False, True])
def test_a_record_of_an_earlier_version_is_whole(fused: bool, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says in its configuration whether the ends of blocks were fused, which cannot be asked any more."""
    text = Store("sqlite:///results/local/lab.db").text(first())
    assert text is not None
    edited(first(), config=json.loads(text)["config"] | {"fused_blocks": fused})
    assert main(["store", "check"]) == 0
    assert "done, 0 failed, 0 running" in capsys.readouterr().out
    assert len(load_records("results/local/lab.db")) > 1


def test_a_copy_has_everything_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(load_records("results/local/lab.db"))
    assert main(["store", "copy", "sqlite:///results/local/lab.db", NOWHERE]) == 0
    assert f"other.db: {count} records added" in capsys.readouterr().out
    pd.testing.assert_frame_equal(load_records("results/local/lab.db"), load_records("results/local/other.db"))
    assert kept(NOWHERE) == kept() != {}
    assert main(["store", "copy", "sqlite:///results/local/lab.db", NOWHERE]) == 0
    assert "other.db: 0 records added, 0 notes, 0 of Optuna's studies" in capsys.readouterr().out
    assert run([*WORDS, "tracking=off", f"storage={NOWHERE}", "results=elsewhere"]) == 0
    assert "nothing to train" in capsys.readouterr().out

    trial = first()
    edited(trial, metrics={"test_error": 50.0, "val_error": 50.0})
    assert main(["store", "copy", "sqlite:///results/local/lab.db", NOWHERE]) == 0
    assert trial in capsys.readouterr().err
    assert load_records("results/local/other.db")["test_error"][0] != 50, "what was there stays"


def test_a_store_of_an_earlier_version_has_less(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change("DROP TABLE notes")
    change("DROP TABLE outputs")
    assert main(["store", "check"]) == 0
    assert main(["store", "copy", "sqlite:///results/local/lab.db", NOWHERE]) == 0
    assert "records added, 0 notes" in capsys.readouterr().out


def test_an_export_is_read_back_as_it_was(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "export", "all.csv.xz"]) == 0
    assert main(["store", "import", "all.csv.xz", "--storage", NOWHERE]) == 0
    pd.testing.assert_frame_equal(load_records("results/local/lab.db"), load_records("results/local/other.db"))
    assert kept(NOWHERE) == kept() != {}
    assert main(["store", "check", "--storage", NOWHERE]) == 0
    assert run([*WORDS, "tracking=off", f"storage={NOWHERE}", "results=elsewhere"]) == 0
    (again,) = Path("elsewhere").glob("*/*/tiny/table.md")
    (table,) = Path("results/local").glob("*/*/tiny/table.md")
    assert again.read_bytes() == table.read_bytes()
    assert again.with_name("outputs.npz").read_bytes() == table.with_name("outputs.npz").read_bytes()


def test_outputs_are_published_imported_and_forgotten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trials,) = Path("results/local").glob("*/*/tiny/trials.csv")
    assert main(["publish", "--to", "results"]) == 0
    assert (
        main(["store", "import", str(Path("results") / trials.relative_to("results/local")), "--storage", NOWHERE]) == 0
    )
    assert kept(NOWHERE) == kept()
    trial = first()
    assert main(["store", "forget", trial, "--storage", NOWHERE]) == 0
    assert kept(NOWHERE).keys() == kept().keys() - {trial}
    change("UPDATE outputs SET packed = ? WHERE trial_id = ?", b"ab", trial)
    assert main(["store", "check"]) == 1
    assert f"{trial}: its outputs are damaged" in capsys.readouterr().out


def test_outputs_may_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with trained_here():
        assert run(["data.subset=100", "recipe.epochs=1", "tracking=off", "results=off", "training.outputs=off"]) == 0
    assert len(load_records("off/lab.db")) == 1
    assert kept("sqlite:///off/lab.db") == {}
    assert not list(Path("off").rglob("outputs.npz"))


def test_a_published_study_is_trained_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["store", "import", str(PUBLISHED / "trials.csv")]) == 0
    assert main(["store", "check"]) == 0
    assert run(["+ablation=conv3x3", "seeds=settle", "settle.max=40", "margin=0.5", "tracking=off"]) == 0
    assert "nothing to train" in capsys.readouterr().out
    made = tmp_path / "results/local/digits/resnet8-quick/conv3x3"
    assert (made / "figure.svg").read_bytes() == (PUBLISHED / "figure.svg").read_bytes()
    for name in ("trials.csv", "curves.csv", "outputs.npz", "table.md"):
        assert (made / name).read_bytes() == (PUBLISHED / name).read_bytes(), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "--storage", NOWHERE], "storage=sqlite:///results/local/other.db holds no records"),
        (["copy", "sqlite:///results/local/lab.db", "sqlite:///results/local/lab.db"], "cannot be copied to itself"),
        (["import", "nowhere.csv"], "nowhere.csv"),
        (["import", "half.csv", "--storage", NOWHERE], "half.csv: line 2 is no trial of an export"),
        (["import", "other.csv", "--storage", NOWHERE], "other.csv: columns missing: study"),
        (["export", "all.csv", "--storage", NOWHERE], "holds no records"),
        (["sweep"], "invalid choice: 'sweep'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    Path("half.csv").write_text('trial_id,status,ended,record\n0123456789abcdef,done,1.0,"{"\n')
    Path("other.csv").write_text("a,b\n1,2\n")
    assert main(["store", *words]) == 2
    shown = capsys.readouterr().err
    assert one_line(shown)
    assert said in shown
    assert not Path("results/local/other.db").exists()
    assert not Path("all.csv").exists()


def test_failures_that_a_machine_is_to_blame_for_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An earlier version recorded them as results."""
    monkeypatch.chdir(tmp_path)
    store = Store("sqlite:///results/local/lab.db")
    for trial_id, reason in {"a": "diverged: train_loss was nan", "b": "OSError: No space left on device"}.items():
        store.claim(trial_id)
        store.finish(trial_id, "failed", {"config": {}, "reason": reason, "imported": "trials.csv"})
    assert main(["store", "check"]) == 0
    _, named, cure = capsys.readouterr().out.splitlines()
    assert named == "b: failed, and that is no result of its network: OSError: No space left on device"
    assert main(shlex.split(cure.removeprefix("to train them again: python -m senet_lab "))) == 0
    assert list(store.read(["a", "b"])) == ["a"]
