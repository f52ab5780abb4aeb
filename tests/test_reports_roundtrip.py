"""trials.csv: written, read and written again it is equal byte for byte; what is damaged is refused in one line."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from senet_lab import files
from senet_lab.reports import tables
from senet_lab.reports.cells import clean_text, csv_bytes
from senet_lab.reports.trials import COLUMNS, canonical

RATIO = {"r = 2": "2", "r = 4": "4", "r = 8": "8", "r = 16": "16", "r = 32": "32", "no SE": "original"}
PAPER_PARAMS = dict(zip(RATIO.values(), (45676584, 35616808, 30586920, 28071976, 26814504, 25557032), strict=True))
FILES = {"trials.csv", "table.md", "table.csv", "table.tex", "figure.svg", "figure.png", "figure.pdf"}


def made_up(
    rows: dict[str, str] = RATIO,
    seeds: int = 3,
    baseline: str = "r = 16",
    paper_table: str = "table10",
    failed: tuple[tuple[str, int], ...] = (),
    **columns: Any,
) -> pd.DataFrame:
    """Trials that nobody ran: rows by label with their names in the paper; `columns` replaces whole columns."""
    rng = np.random.default_rng(11)
    lines: list[dict[str, Any]] = []
    for place, (label, paper_row) in enumerate(rows.items()):
        for seed in range(seeds):
            bad = (label, seed) in failed
            error = 100 * int(rng.integers(6, 12)) / 360
            lines.append(
                {
                    "study": "ratio",
                    "title": "Reduction ratio",
                    "paper_table": paper_table,
                    "row": label,
                    "paper_row": paper_row,
                    "baseline": baseline,
                    "seed": seed,
                    "trial_id": f"{place:08x}{seed:08x}",
                    "status": "failed" if bad else "done",
                    "reason": "the loss is NaN in epoch 3" if bad else "",
                    "test_error": None if bad else error,
                    "test_top5_error": None if bad else error / 10,
                    "val_error": None if bad else error + 1,
                    "val_loss": None if bad else error / 7,
                    "test_images": None if bad else 360,
                    "params": 77_000 + 1000 * place,
                    "macs": 1_234_567 + place,
                    "paper_params": PAPER_PARAMS.get(paper_row),
                    "paper_macs": 3_871_500_000 if paper_row in PAPER_PARAMS else None,
                    "hidden": "2:1 3:2 4:4",
                    "network": f"n{place}",
                    "data": "digits",
                    "backbone": "resnet8",
                    "recipe": "quick",
                    "epochs": 30,
                    "device": "cpu",
                    "torch": "2.11.0",
                }
            )
    frame = pd.DataFrame(lines, columns=list(COLUMNS))
    for name, values in columns.items():
        frame[name] = values
    return frame


def searched(failed: dict[tuple[str, int], str], confirmed: int = 5, **columns: Any) -> pd.DataFrame:
    """A search of three designs, each better than the cheaper one, with one seed and so many fresh ones."""
    lines = []
    for place, label in enumerate(("cheap", "middle", "dear")):
        for seed in range(1 + confirmed):
            line = {"row": label, "seed": seed, "part": "search" if seed == 0 else "confirmation", "asked": place + 1}
            error = 30.0 - 10 * place + seed % 3
            bad = failed.get((label, seed), "")
            line |= {"test_error": error, "val_error": error} if not bad else {"reason": bad}
            lines.append(line | {"status": "failed" if bad else "done", "params": 100 * (place + 1), "macs": 5})
    made = pd.DataFrame(lines).assign(study="s", title="S", baseline="", paper_table="", paper_row="", trial_id="")
    fixed = dict.fromkeys(("test_top5_error", "val_loss", "paper_params", "paper_macs", "hidden", "network"), "")
    fixed |= {"data": "digits", "backbone": "r", "recipe": "q", "epochs": 1, "device": "cpu", "torch": "2"}
    fixed |= {"objectives": "val_error params", "sampler": "nsga2", "spent": "1/1", "reference": "", "classes": 10}
    fixed |= {"channels": 1, "val_images": 100, "test_images": 100, "words": "", "reason": made.get("reason", "")}
    return canonical(made.assign(**fixed, **columns))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("failed", [(), (("r = 4", 1), ("no SE", 0), ("no SE", 1), ("no SE", 2))])
def test_write_read_write_gives_the_same_bytes(tmp_path: Path, failed: tuple[tuple[str, int], ...]) -> None:
    trials = made_up(failed=failed)
    runs = pd.DataFrame({"trial_id": ["a"], "row": ["r = 2"], "seed": [0], "seconds": [1.5], "host": [None]})
    shuffled = trials.iloc[np.random.default_rng(0).permutation(3)].reset_index(drop=True)  # seeds in any order
    shuffled = pd.concat([shuffled, trials[3:]], ignore_index=True)
    written = tables.write_table(tmp_path / "a", shuffled, runs)
    assert {path.name for path in written} == FILES | {"runs.csv"}
    assert (tmp_path / "a" / "runs.csv").read_text() == "trial_id,row,seed,seconds,host\na,r = 2,0,1.5,\n"
    tables.write_table(tmp_path / "b", tables.read_trials(tmp_path / "a" / "trials.csv"))
    assert contents(tmp_path / "b") == {k: v for k, v in contents(tmp_path / "a").items() if k != "runs.csv"}
    assert all(b"202" not in v for k, v in contents(tmp_path / "b").items() if k in ("table.md", "table.tex"))


def test_another_process_writes_the_same_bytes_without_torch(tmp_path: Path) -> None:
    tables.write_table(tmp_path / "a", made_up())
    script = (
        "import sys; from senet_lab.reports import tables\n"
        "tables.write_table(sys.argv[2], tables.read_trials(sys.argv[1]))\n"
        "bad = {'torch', 'torchvision', 'pytorch_lightning', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    (tmp_path / "matplotlibrc").write_text("font.size: 20\naxes.grid: True\n")  # a user's own settings change nothing
    environment["MATPLOTLIBRC"] = str(tmp_path / "matplotlibrc")
    root = Path(__file__).parents[1]
    environment["PYTHONPATH"] = str(root)
    command = [sys.executable, "-c", script, str(tmp_path / "a" / "trials.csv"), str(tmp_path / "b")]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=120)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_numbers_and_odd_text_survive(tmp_path: Path) -> None:
    rows = {'a "b", c': "2", "ö × 3|4": "16"}
    trials = made_up(rows, baseline="ö × 3|4", failed=(('a "b", c', 0),), val_loss=0.1 + 0.2)
    trials["reason"] = (
        trials["reason"].astype(object).where(trials["status"] == "done", "line one\nline two\x1b[31m,\ud800 end")
    )
    trials["mine"] = [0.1, None, 3, 4, 5, 6]
    tables.write_table(tmp_path, trials)
    back = tables.read_trials(tmp_path / "trials.csv")
    assert list(back["row"].unique()) == list(rows)
    assert back["reason"][0] == "line one line two [31m,? end"
    assert list(back["val_loss"]) == [0.1 + 0.2] * 6
    assert str(back["test_images"].dtype) == "Int64"
    assert back["test_images"].isna().tolist() == [True] + [False] * 5
    assert list(back["mine"]) == ["0.1", "", "3.0", "4.0", "5.0", "6.0"]
    assert b"360.0" not in (tmp_path / "trials.csv").read_bytes()


def test_clean_text() -> None:
    assert [clean_text(v) for v in (None, float("nan"), pd.NA, 3, "a\tb\r\n c")] == ["", "", "", "3", "a b c"]


def drop(name: str) -> Any:
    return lambda t: t.drop(columns=name)


def put(name: str, at: int, value: Any) -> Any:
    def change(t: pd.DataFrame) -> pd.DataFrame:
        t = t.astype(object)
        t.loc[at, name] = value
        return t

    return change


BAD_TABLES = {
    "a missing column": (drop("test_images"), r"column missing: test_images"),
    "two missing columns": (lambda t: t.drop(columns=["seed", "torch"]), r"columns missing: seed, torch"),
    "a duplicate seed": (put("seed", 1, 0), r"line 3: seed 0 appears twice in row 'r = 2'"),
    "two data sets": (put("data", 4, "cifar10"), r"data is mixed in one table: digits, cifar10"),
    "two recipes": (put("recipe", 4, "cifar"), r"recipe is mixed in one table: quick, cifar"),
    "two backbones": (put("backbone", 4, "resnet20"), r"backbone is mixed in one table: resnet8, resnet20"),
    "two numbers of epochs": (put("epochs", 4, 3), r"epochs is mixed in one table: 30, 3"),
    "two studies": (put("study", 4, "position"), r"study is mixed in one table: ratio, position"),
    "two test sets": (put("test_images", 4, 100), r"test_images is mixed in one table: 360, 100"),
    "two baselines in a row": (put("baseline", 4, "r = 2"), r"row 'r = 4' has more than one baseline"),
    "no such baseline": (
        lambda t: t.assign(baseline="r = 7"),
        r"the baseline 'r = 7' is not among the rows: r = 2, r = 4, r = 8, r = 16, r = 32, no SE",
    ),
    "no trials": (lambda t: t[:0], r"no trials"),
    "a status": (put("status", 2, "running"), r"line 4: status is 'running', not one of done, failed"),
    "no error": (put("test_error", 2, None), r"line 4: test_error of a finished trial is empty"),
    "a word for a number": (put("test_error", 2, "low"), r"line 4: test_error is 'low', not a finite number"),
    "nan": (put("val_loss", 2, "inf"), r"line 4: val_loss is 'inf', not a finite number"),
    "half a seed": (put("seed", 2, 1.5), r"line 4: seed is '1.5', not a whole number"),
    "above 100": (put("test_error", 2, 101.0), r"line 4: test_error is 101, not between 0 and 100 percent"),
    "a negative error": (put("val_error", 2, -1), r"line 4: val_error is -1, not between 0 and 100 percent"),
    "no test images": (lambda t: t.assign(test_images=0), r"test_images is below 1"),
    "no label": (put("row", 2, ""), r"line 4: row is empty"),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good table in it."""
    folder = tmp_path_factory.mktemp("published")
    tables.write_table(folder, made_up())
    return folder


@pytest.mark.parametrize("case", BAD_TABLES)
def test_what_makes_no_table_is_refused_and_nothing_is_overwritten(tmp_path: Path, published: Path, case: str) -> None:
    change, message = BAD_TABLES[case]
    before = contents(published)
    bad = change(made_up())
    with pytest.raises(ValueError, match=rf"^{message}$"):
        tables.write_table(published, bad)
    assert contents(published) == before
    with pytest.raises(ValueError, match=rf"^{message}$"):
        tables.summarise_study(bad)
    path = tmp_path / "bad.csv"
    path.write_bytes(csv_bytes(bad))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: {message}$"):
        tables.read_trials(path)


BAD_FILES = {
    "empty": (lambda b: b"", "empty"),
    "header only": (lambda b: b.splitlines(keepends=True)[0], "no trials"),
    "cut off in a line": (lambda b: b[:-4], "damaged, its last line is cut off"),
    "a line too short": (
        lambda b: b.replace(b",cpu,2.11.0\n", b"\n", 1),
        "damaged, line 2 has 25 cells and the header 27",
    ),
    "an open quote": (lambda b: b.replace(b"digits", b'"digits', 1), "damaged, line 19: unexpected end of data"),
    "not text": (lambda b: b"\x89PNG\xff\xfe" + b, "damaged, it is not UTF-8 text"),
    "a column twice": (lambda b: b.replace(b"torch\n", b"device\n", 1), "column missing: torch"),
    "zeros": (lambda b: b"\0" * 100 + b"\n", "columns missing: study, title"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    change, message = BAD_FILES[case]
    path = tmp_path / "trials.csv"
    path.write_bytes(change(csv_bytes(canonical(made_up()))))
    with pytest.raises(ValueError, match=r"trials\.csv") as caught:
        tables.read_trials(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.csv: cannot be read \(No such file"):
        tables.read_trials(tmp_path / "nowhere.csv")


def test_a_full_disk_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.write_table(tmp_path, made_up())
    before = contents(tmp_path)
    write_bytes, left = Path.write_bytes, [3]

    def full(self: Path, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return write_bytes(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        tables.write_table(tmp_path, made_up(seeds=5))
    assert contents(tmp_path) == before


def test_a_disk_that_fills_up_in_a_figure_is_one_line_and_leaves_all_as_it_was(tmp_path: Path) -> None:
    """In the command itself: no file may grow beyond what the figure's PNG needs."""
    tables.write_table(tmp_path, made_up())
    before = contents(tmp_path)
    (tmp_path / "trials.csv").write_bytes(csv_bytes(made_up(seeds=5)))
    others = max(path.stat().st_size for path in tmp_path.iterdir() if path.suffix in (".csv", ".md", ".tex", ".pdf"))
    size = (others + len(before["figure.png"])) // 2
    done = subprocess.run(
        [sys.executable, "-m", "senet_lab", "table", str(tmp_path / "trials.csv")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True,
        text=True,
    )
    assert done.returncode in (1, 2)
    assert len(done.stderr.splitlines()) == 1
    assert "File too large" in done.stderr
    (tmp_path / "trials.csv").unlink()
    assert contents(tmp_path) == {name: content for name, content in before.items() if name != "trials.csv"}


def test_files_appear_with_the_usual_permissions(tmp_path: Path) -> None:
    (path,) = files.replace_all(tmp_path / "new" / "folder", {"a.txt": b"x"})
    usual = tmp_path / "usual"
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.slow
def test_ten_thousand_records(tmp_path: Path) -> None:
    """A thousand rows of ten seeds: every mean equals pandas' own."""
    labels = {f"row {i}": "" for i in range(1000)}
    trials = made_up(labels, seeds=10, baseline="row 0", paper_table="")
    (tmp_path / "trials.csv").write_bytes(csv_bytes(trials))
    read = tables.read_trials(tmp_path / "trials.csv")
    table = tables.summarise_study(read)
    expected = trials.groupby("row", sort=False)["test_error"].mean()
    assert [row.top1.mean for row in table.rows if row.top1] == pytest.approx(list(expected))
    assert len(tables.csv_text(table).splitlines()) == 1001
    assert set(contents(tmp_path)) < {path.name for path in tables.write_table(tmp_path, read)}
