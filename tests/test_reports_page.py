"""The report's HTML, without a browser: its tables are the other forms', its numbers the trials', its text escaped."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from launching import ROOT, Lab, one_line
from scipy import stats
from test_reports_roundtrip import RATIO, made_up, searched

from senet_lab.__main__ import main
from senet_lab.reports import curves, gate_figures, gate_summary, page, results, tables
from senet_lab.reports.cells import csv_bytes

NASTY = """<script>window.ran = 1</script>"><img src=x onerror="window.ran = 2"> & '$x$' \\ </script><!--"""
RESULTS = ROOT / "results"


class Read(HTMLParser):
    """What a page holds: its elements in order, the text of each table's cells, and the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.scripts: list[str] = []
        self.inside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self.inside:
            self.scripts[-1] += data
        elif "td" in self.inside or "th" in self.inside:
            self.tables[-1][-1][-1] += data


def learned(trials: pd.DataFrame, epochs: int = 4) -> pd.DataFrame:
    """Curves that nobody trained, of the trials that did not fail."""
    rng = np.random.default_rng(5)
    done = trials[trials["status"] == "done"]["trial_id"]
    entries = [dict(zip(curves.METRICS, rng.uniform(1, 50, 4), strict=True)) for _ in range(epochs)]
    known = {name: [{"epoch": e + 1, **entry} for e, entry in enumerate(entries)] for name in done}
    for name, lines in known.items():
        for line in lines:
            line["val_error"] += int(name[-1], 16)  # seeds differ
    return curves.curves_of_records(trials, known)


def put(folder: Path, trials: pd.DataFrame, learn: bool = True) -> Path:
    """A study's folder as a run leaves it, but for its figures."""
    folder.mkdir(parents=True)
    (folder / "trials.csv").write_bytes(csv_bytes(trials))
    if learn:
        (folder / "curves.csv").write_bytes(curves.curves_csv(learned(trials)))
    return folder


def data_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Read(text).scripts[0])
    return found


def rendered(*folders: Path) -> str:
    return page.render_page(results.finished_studies(folders), results.measured_gates(folders)).decode()


@cache
def published() -> tuple[list[results.FinishedStudy], str]:
    """All studies that are published, and their page; which takes seconds."""
    studies = results.finished_studies([RESULTS])
    return studies, page.render_page(studies, results.measured_gates([RESULTS])).decode()


def test_the_tables_are_those_of_the_markdown(tmp_path: Path) -> None:
    """Cell by cell, for every published table; a search has a front instead."""
    studies, text = published()
    shown = [table for table in Read(text).tables[1:] if table[0][0] == "row"]
    assert len(shown) == len(studies)
    pairs = zip(shown, sorted(studies, key=page.order), strict=True)
    tables = [pair for pair in pairs if not (pair[1].folder / "front.md").exists()]
    assert len(tables) >= 8
    for cells, study in tables:
        lines = (study.folder / "table.md").read_text().splitlines()
        expected = [re.split(r" ?(?<!\\)\| ?", line.strip("|"))[:] for line in lines if line.startswith("| ")]
        expected = [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in line] for line in expected]
        assert cells == [expected[0], *expected[2:]]


def test_every_note_of_the_markdown_is_there() -> None:
    studies, text = published()
    text = unescape(text)
    for study in studies:
        for note in (*study.table.notes, *study.table.warnings):
            assert f">{note}<" in text


def test_the_plots_numbers_are_those_of_the_trials(tmp_path: Path) -> None:
    """Error, interval and paired difference against scipy on the file itself."""
    folder = put(tmp_path / "d" / "n-r" / "ratio", made_up(seeds=4))
    trials = pd.read_csv(folder / "trials.csv")
    (study,) = data_of(rendered(tmp_path))["studies"]
    errors = trials.pivot(index="seed", columns="row", values="test_error")
    assert [row["label"] for row in study["rows"]] == list(RATIO)
    for row in study["rows"]:
        mine, base = errors[row["label"]], errors["r = 16"]
        low, high = stats.t.interval(0.95, 3, mine.mean(), stats.sem(mine))
        assert row["at"]["error"] == pytest.approx(mine.mean(), rel=1e-3)
        assert row["at"]["half"] == pytest.approx((high - low) / 2, rel=1e-3)
        if row["label"] != "r = 16":
            assert row["at"]["delta"] == pytest.approx((mine - base).mean(), rel=1e-3, abs=1e-9)
    first = dict(study["rows"][0]["tip"])
    assert first["params"] == "77,000"
    assert first["error %"].startswith(f"{errors['r = 2'].mean():.2f} ± ")
    assert first["SE widths"] == "2:1 3:2 4:4"


def test_curves_are_means_and_ranges_over_the_seeds(tmp_path: Path) -> None:
    trials = made_up(failed=(("r = 4", 1),))
    put(tmp_path / "ratio", trials)
    (study,) = data_of(rendered(tmp_path))["studies"]
    file = pd.read_csv(tmp_path / "ratio" / "curves.csv")
    for place, label in enumerate(RATIO):
        curve, seeds = study["curves"][str(place)], file[file["row"] == label].groupby("epoch")["val_error"]
        assert curve["n"] == ("2" if label == "r = 4" else "3")
        assert curve["x"] == [1, 2, 3, 4]
        for shown, expected in zip(curve["val_error"], (seeds.mean(), seeds.min(), seeds.max()), strict=True):
            assert shown == pytest.approx(list(expected), rel=1e-3)


def test_pairs_have_their_own_baselines(tmp_path: Path) -> None:
    rows = {"a": "", "SE-a": "", "b": "", "SE-b": ""}
    trials = made_up(rows, baseline="a", paper_table="")
    trials["baseline"] = ["a"] * 6 + ["b"] * 6
    trials["test_error"] = [5.0, 5.5, 6.0, 3.0, 3.5, 4.0, 7.0, 7.5, 8.0, 9.0, 9.5, 10.0]
    put(tmp_path / "pairs", trials)
    text = rendered(tmp_path)
    (study,) = data_of(text)["studies"]
    assert [row["style"] for row in study["rows"]] == ["baseline", "better here", "baseline", "worse here"]
    assert (
        "▽ SE-a (−2.00) is better than the row&#x27;s own baseline on these images; △ SE-b (+2.00) is worse than"
        in text
    )


def test_a_search_shows_its_front(tmp_path: Path) -> None:
    """Which designs are on the front, and their validation errors, are the trials'; nothing there is a baseline."""
    trials = searched({("middle", 0): "NaN"})
    put(tmp_path / "search", trials, learn=False)
    text = rendered(tmp_path)
    (study,) = data_of(text)["studies"]
    assert study["front"] == [True, False, True]
    expected = trials.groupby("row", sort=False)["val_error"].mean()
    assert [row["at"]["val"] for row in study["rows"]] == pytest.approx(list(expected), rel=1e-3)
    assert "● 2 of 3 designs on the front" in text
    assert [line[0] for line in Read(text).tables[1][1:]] == ["● cheap", "middle", "● dear"]
    assert "baseline</td>" not in text
    (tmp_path / "search/trials.csv").write_bytes(csv_bytes(trials.assign(baseline="cheap")))
    assert "■</span> baseline" in rendered(tmp_path)


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    trials = made_up({"a": ""}, seeds=2, baseline="a", paper_table="")
    whole = learned(trials, epochs=1000)
    kept = curves.row_curves(whole)["a"]
    assert (len(kept.epochs), kept.epochs[0], kept.epochs[-1], set(kept.n)) == (curves.POINTS, 1, 1000, {2})
    at = whole[whole["epoch"] == kept.epochs[77]]["train_loss"]
    assert kept.values["train_loss"][:, 77] == pytest.approx([at.mean(), at.min(), at.max(), at.std()])


def test_curves_survive_their_file(tmp_path: Path) -> None:
    made = learned(made_up(failed=(("no SE", 0),)))
    (tmp_path / "curves.csv").write_bytes(curves.curves_csv(made))
    read = curves.read_curves(tmp_path / "curves.csv")
    pd.testing.assert_frame_equal(read, made, check_dtype=False, rtol=1e-5)
    assert curves.curves_csv(read) == (tmp_path / "curves.csv").read_bytes()
    assert "no SE" in set(read["row"])
    nothing = curves.curves_of_records(made_up(), {})
    (tmp_path / "curves.csv").write_bytes(curves.curves_csv(nothing))
    assert len(curves.read_curves(tmp_path / "curves.csv")) == 0


BAD_CURVES = {
    "cut off": (lambda text: text[:-5], "damaged, its last line is cut off"),
    "no epochs": (lambda text: text.replace("epoch", "step"), "column missing: epoch"),
    "no number": (lambda text: text.replace("\n", "x\n").replace("x\n", "\n", 1), "line 2: val_error is '"),
    "not finite": (lambda text: re.sub(r",[^,\n]*\n", ",nan\n", text).replace(",nan", ",val_error", 1), "line 2: "),
    "an epoch twice": (
        lambda text: text + text.splitlines()[-1] + "\n",
        "this epoch of its row and seed appears twice",
    ),
}


@pytest.mark.parametrize("file", ["trials.csv", *BAD_CURVES])
def test_damaged_files_are_named_and_the_page_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    put(tmp_path / "whole" / "ratio", made_up())
    out = tmp_path / "out" / "report.html"
    assert main(["report", str(tmp_path / "whole"), "--to", str(out)]) == 0
    before = out.read_bytes()
    folder = put(tmp_path / "whole" / "other", made_up())
    if file == "trials.csv":
        (folder / file).write_bytes((folder / file).read_bytes()[:-9])
        name, message = file, "damaged, its last line is cut off"
    else:
        change, message = BAD_CURVES[file]
        name = "curves.csv"
        (folder / name).write_text(change((folder / name).read_text()))
    capsys.readouterr()
    assert main(["report", str(tmp_path / "whole"), "--to", str(out)]) == 2
    assert one_line(capsys.readouterr().err, f"{folder / name}: ", message)
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_other_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 2
    assert one_line(capsys.readouterr().err, "there is no folder results")
    (tmp_path / "results").mkdir()
    assert main(["report"]) == 2
    assert one_line(capsys.readouterr().err, "there is no study below results", "+ablation=NAME")
    assert [path.name for path in tmp_path.rglob("*")] == ["results"]
    put(tmp_path / "results" / "ratio", made_up(), learn=False)
    assert main(["report", "--to", "results"]) == 2
    assert one_line(capsys.readouterr().err, "--to: results is a folder")
    assert main(["report", "--storage", "nonsense"]) == 2
    assert one_line(capsys.readouterr().err, "storage=nonsense is not a database URL")
    assert main(["report", "--to", "/proc/nothing/x.html"]) == 1
    assert one_line(capsys.readouterr().err, "/proc/nothing")
    gates = tmp_path / "results" / "local" / "excitation" / "abc"
    gates.mkdir(parents=True)
    (gates / "gates.csv").write_text("x\n")
    assert main(["report"]) == 2
    assert one_line(capsys.readouterr().err, f"{gates.relative_to(tmp_path)}: the gates cannot be read")
    assert not list(tmp_path.rglob("*.html"))


def test_text_of_users_is_text(tmp_path: Path) -> None:
    rows = {NASTY: "2", "plain": "16"}
    trials = made_up(rows, baseline="plain", failed=((NASTY, 0),), title=NASTY, data=NASTY, backbone=NASTY)
    trials["reason"] = trials["reason"].where(trials["status"] == "done", NASTY)
    put(tmp_path / "a" / "ratio", trials)
    put(tmp_path / "b" / "ratio", made_up())
    text = rendered(tmp_path)
    read = Read(text)
    assert [tag for tag, _ in read.elements].count("script") == 2
    assert not {tag for tag, _ in read.elements} & {"img", "iframe", "i", "object", "base"}
    assert not [attributes for _, attributes in read.elements if any(name.startswith("on") for name in attributes)]
    assert any(cell.startswith(NASTY) for table in read.tables for line in table for cell in line)
    assert "</script><!--" not in text.replace("&lt;", "")
    assert [NASTY] in [facet for study in data_of(text)["studies"] for facet in study["facets"]]
    latex = tables.latex(tables.summarise_study(trials))
    assert "$<$script$>$window.ran = 1$<$/script$>$" in latex
    assert "\\textbackslash{}" in latex


def test_the_role_of_excitation(tmp_path: Path) -> None:
    """The figures are those of the files, the sentences and numbers those of the command, the network is named."""
    trials = made_up()
    put(tmp_path / "results" / "ratio", trials)
    classes = ["cat", "<b>dog</b>", gate_summary.ALL]
    gates = pd.DataFrame(
        [
            {"block": "SE_2_1", "stage": 2, "channel": channel, "class": name, "images": 4, "mean": 0.1 * channel + 0.2,
             "sd": 0.1, "high": 0.25, "low": 0.5, "within": 0.04, "between": 0.02 * channel}
            for channel in range(3)
            for name in classes
        ]
    )  # fmt: skip
    block = {"block": "SE_2_1", "stage": 2, "squeeze": "avg", "excitation": "sigmoid"}
    blocks = pd.DataFrame([{**block, "stage_se_params": 50, "params": 1000}])
    folder = tmp_path / "results" / "local" / "excitation" / trials["trial_id"][4]
    gate_figures.write_gates(folder, gates, blocks, "a network")
    read = Read(rendered(tmp_path / "results"))
    pictures = [attributes for tag, attributes in read.elements if tag == "img"]
    for picture, name in zip(pictures, gate_summary.FIGURES, strict=True):
        kind, _, content = str(picture["src"]).partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert base64.b64decode(content) == (folder / f"{name}.svg").read_bytes()
        assert str(picture["alt"]).endswith("Reduction ratio: r = 4, seed 1 (digits, resnet8)")
    (place,) = [attributes["data-of"] for _, attributes in read.elements if "data-of" in attributes]
    assert json.loads(str(place)) == [[0, 1]]
    assert read.tables[-1][1] == ["SE_2_1", "3", "0.3", "0.50", "25.0%", "50.0%", "50", "5.00%"]


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    """No address in any attribute but data and places on the page; the policy allows the one script by its hash."""
    _, text = published()
    read = Read(text)
    for tag, attributes in read.elements:
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert "url(" not in text.replace("`url(#${this.id})`", "")
    assert "@import" not in text
    (policy,) = [a["content"] for tag, a in read.elements if tag == "meta" and a.get("http-equiv")]
    assert str(policy).startswith("default-src 'none'")


def test_the_same_studies_give_the_same_bytes_and_need_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from senet_lab.__main__ import main\n"
        "code = main(['report', sys.argv[1], '--to', sys.argv[2]])\n"
        "bad = {'torch', 'torchvision', 'pytorch_lightning', 'optuna', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else code)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    few = RESULTS / "digits/resnet8-quick/conv3x3"
    command = [sys.executable, "-W", "error", "-c", script, str(few), str(tmp_path / "a.html")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.html").read_text() == rendered(few)
    assert re.fullmatch(r"written: \S+a\.html \(1 study, \d+ rows, [\d,]+ trainings; \d\.\d MB\)\n", done.stdout)


def test_what_was_published_as_it_is_counts_once(tmp_path: Path) -> None:
    for place in ("results/d/n-r/ratio", "results/local/d/n-r/ratio", "results/local/d/n-r/other"):
        put(tmp_path / place, made_up())
    put(tmp_path / "results/local/e/n-r/ratio", made_up(seeds=2))
    found = results.finished_studies([tmp_path / "results"])
    assert [(study.name, "local" in study.folder.parts) for study in found] == [
        ("d/n-r/ratio", False),
        ("d/n-r/other", True),
        ("e/n-r/ratio", True),
    ]
    assert len(results.finished_studies([tmp_path / "results", tmp_path / "results" / "local"])) == 3


def test_curves_come_from_the_file_or_the_store(copy: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study that was run has its epochs in curves.csv, as the store's records have them; without the file, the report
    has them from the store; published, the file goes along."""
    monkeypatch.chdir(copy.folder)
    written = (copy.table / "curves.csv").read_bytes()
    file = pd.read_csv(copy.table / "curves.csv")
    records = {record["trial_id"]: record["epochs"] for record in copy.records()}
    assert len(file) == sum(map(len, records.values())) > 0
    for trial_id, lines in file.groupby("trial_id"):
        for name in curves.PER_EPOCH:
            assert list(lines[name]) == pytest.approx([entry[name] for entry in records[str(trial_id)]], rel=1e-5)
    assert main(["report"]) == 0
    with_file = data_of(Path("results/local/report.html").read_text())
    assert with_file["studies"][0]["curves"]
    tables_before = copy.bytes()
    (copy.table / "curves.csv").unlink()
    assert main(["report"]) == 0
    from_store = data_of(Path("results/local/report.html").read_text())
    assert from_store["studies"][0]["curves"].keys() == with_file["studies"][0]["curves"].keys()
    for place, curve in from_store["studies"][0]["curves"].items():
        for metric in curves.METRICS:
            expected = with_file["studies"][0]["curves"][place][metric]
            assert np.ravel(curve[metric]) == pytest.approx(np.ravel(expected), rel=1e-3)
    assert main(["report", "--storage", "sqlite:///nowhere.db"]) == 0
    assert data_of(Path("results/local/report.html").read_text())["studies"][0]["curves"] == {}
    assert not Path("nowhere.db").exists()
    assert main(["table", "tiny", "seeds=2", "recipe.epochs=8", "data.subset=200"]) == 0
    assert copy.bytes() == tables_before
    assert (copy.table / "curves.csv").read_bytes() == written
    assert main(["publish"]) == 0
    published = Path("results") / copy.table.relative_to(copy.folder / "results/local")
    for name, content in (("curves.csv", written), ("curves.svg", (copy.table / "curves.svg").read_bytes())):
        assert (published / name).read_bytes() == content
