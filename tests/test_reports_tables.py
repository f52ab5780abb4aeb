"""A table's numbers, notes and forms, on trials whose numbers can be worked out by hand."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from test_reports_roundtrip import RATIO, made_up

from senet_lab.reports import tables
from senet_lab.reports.cell_text import count, p_value, signed
from senet_lab.reports.columns import STUDY
from senet_lab.reports.table import Table
from senet_lab.reports.tex import tex

AWKWARD = "a|b_c & 100% <i>$x$</i> [red] #1 ~^\\{}*"


def errors(rows: dict[str, list[float]], **columns: object) -> pd.DataFrame:
    """Trials with these test errors by row and seed, the first row being the baseline of the others."""
    trials = made_up(dict.fromkeys(rows, ""), len(next(iter(rows.values()))), next(iter(rows)), "", **columns)
    trials["test_error"] = [error for row in rows.values() for error in row]
    return trials


def plain_cells(table: Table) -> dict[str, dict[str, str]]:
    return {row["row"]: row for row in csv.DictReader(io.StringIO(tables.csv_text(table)))}


def on_terminal(table: Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    tables.print_table(table, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_table_by_hand() -> None:
    """Differences 1, 2, 3 of one row: Δ 2; a variance of 1 and of the 0.1² / 6 of rounding to one of 1,000 images, so
    that t = 2√(3 / 1.001667) and p = 1 − √(12 / (12 + 2 × 1.001667)); over one comparison."""
    trials = errors({"base": [2.0, 2.0, 5.0], "other": [3.0, 4.0, 8.0]}, test_images=1000)
    trials["test_top5_error"] = [0.0, 0.0, 0.0, 0.5, 1.0, 1.5]
    table = tables.summarise_study(trials)
    cells = plain_cells(table)["other"]
    assert (cells["n"], cells["error_percent"], cells["error_sd"]) == ("3", "5.0000", "2.6458")
    assert (cells["top5_error_percent"], cells["top5_error_half_width"]) == ("1.00", "1.2421")  # 4.30 × 0.5 / √3
    assert (cells["delta"], cells["delta_sd"], cells["pairs"]) == ("2.0000", "1.0008", "3")
    assert (cells["delta_low"], cells["delta_high"]) == ("-0.4862", "4.4862")
    assert (cells["p_uncorrected"], cells["p_holm"]) == ("0.07429", "0.07429")
    assert (cells["verdict"], cells["baseline"]) == ("open: about 5 more seeds", "base")
    assert cells["within"] == "3.6873"  # 2 + 2.92 √(1.001667 / 3)
    assert plain_cells(table)["base"]["verdict"] == "baseline"
    text = tables.markdown(table)
    assert "| 5.00 ± 6.57 (3) |" in text
    assert "| +2.00 [−0.49, +4.49] | 0.074 | ±3.69 | ○ open: about 5 more seeds |" in text


def test_pairs_are_the_seeds_that_both_have() -> None:
    trials = errors({"base": [2.0, 2.5, 4.0, 0.0], "other": [3.0, 4.0, 6.0, 50.0]})
    left = trials[(trials["row"] != "base") | (trials["seed"] != 3)]
    cells = plain_cells(tables.summarise_study(left))["other"]
    assert (cells["n"], cells["pairs"], cells["delta"]) == ("4", "3", "1.5000")


def test_better_and_worse_are_corrected_for_the_rows() -> None:
    base = [5.0, 5.2, 5.1, 5.3, 5.4]
    rows = {"base": base, "low": [e - 1 - i / 100 for i, e in enumerate(base)], "high": [e + 1 for e in base]}
    rows["same"] = [e + d for e, d in zip(base, (-0.3, 0.3, 0.0, 0.2, -0.2), strict=True)]
    cells = plain_cells(tables.summarise_study(errors(rows, test_images=10_000)))
    assert [cells[row]["verdict"] for row in rows] == [
        "baseline",
        "better on these images",
        "worse on these images",
        "open: 1000 or more seeds",
    ]
    assert float(cells["low"]["p_holm"]) == pytest.approx(2 * float(cells["low"]["p_uncorrected"]), rel=1e-3)
    assert float(cells["high"]["p_holm"]) == pytest.approx(3 * float(cells["high"]["p_uncorrected"]), rel=1e-3)
    assert cells["low"]["more_seeds"] == ""
    assert cells["same"]["more_seeds"] == "1000"


def test_a_failed_seed_drops_its_pair_and_is_named() -> None:
    trials = made_up(failed=(("r = 4", 1), ("r = 16", 2), ("r = 8", 0), ("r = 8", 1), ("r = 8", 2)))
    table = tables.summarise_study(trials)
    cells = plain_cells(table)
    assert [(cells[row]["n"], cells[row]["pairs"]) for row in ("r = 2", "r = 4", "r = 16")] == [
        ("3", "2"),
        ("2", "1"),
        ("2", ""),
    ]
    assert cells["r = 4"]["verdict"] == "failed in 1 of 3"  # a difference, but no interval and no p
    assert cells["r = 4"]["delta"] != ""
    assert cells["r = 4"]["delta_low"] == ""
    assert (cells["r = 8"]["failed"], cells["r = 8"]["error_percent"]) == ("3", "")
    text = tables.markdown(table)
    assert "5 trials failed and are not in the means: r = 4, seed 1: the loss is NaN in epoch 3; r = 8, seed 0" in text
    assert "(2 pairs)" in text
    assert "| failed |" in text
    assert "n = 0 to 3 seeds a row (0 to 2)" in text


def test_numbers_of_a_trial_that_failed_count_for_nothing() -> None:
    """As of one that failed after its last epoch: it is as if it had left none."""
    failed = (("r = 4", 1), ("r = 16", 2))
    trials = made_up(failed=failed)
    left = made_up()
    left["status"], left["reason"] = trials["status"], trials["reason"]
    left.loc[left["status"] == "failed", ["test_error", "test_top5_error", "val_error"]] += 50
    assert tables.csv_text(tables.summarise_study(left)) == tables.csv_text(tables.summarise_study(trials))


def test_all_failed_still_makes_a_table() -> None:
    table = tables.summarise_study(made_up({"r = 2": "2", "r = 16": "16"}, 1, failed=(("r = 2", 0), ("r = 16", 0))))
    assert table.test_images is None
    assert "2 trials failed" in tables.markdown(table)
    assert "n = 0 seeds a row" in tables.markdown(table)


def test_a_single_seed_has_no_interval_and_no_verdict() -> None:
    table = tables.summarise_study(made_up(seeds=1))
    text = tables.markdown(table)
    assert "n = 1 for every row: a single run has no interval and allows no verdict." in text
    table_lines = [line for line in text.splitlines() if line.startswith("|")]
    assert not any(word in line for line in table_lines for word in ("±", "p (Holm)", "could show", "better", "worse"))
    assert {row.verdict for row in table.rows} == {None}


def test_rows_of_one_network_are_pointed_out_and_not_tested() -> None:
    trials = made_up()
    trials["trial_id"] = (
        trials["seed"].map("{:x}".format).where(trials["row"].isin(["r = 16", "r = 32"]), trials["trial_id"])
    )
    table = tables.summarise_study(trials)
    cells = plain_cells(table)
    assert (cells["r = 32"]["verdict"], cells["r = 32"]["p_holm"]) == ("same network", "")
    assert cells["r = 32"]["same_network_as"] == "r = 16"
    text = tables.markdown(table)
    assert "r = 16 and r = 32 are the same network here" in text
    assert "Holm's method for 4 rows" in text


def test_the_paper_stands_beside_ours_with_the_reasons_for_differences() -> None:
    table = tables.summarise_study(made_up())
    text = tables.markdown(table)
    assert "| r = 4 | 22.25 | 6.09 | 35.7 | 3.872 | 35.617 |" in text  # no printed GFLOPs in this table
    assert "differ for r = 4 (35.617, printed 35.7), r = 8 (30.587, printed 30.7) and r = 32 (26.815, printed" in text
    assert "single runs without repeats" in text
    assert "The paper prints no GFLOPs in this table." in text
    assert (
        "Data digits (360 test images), backbone resnet8, recipe quick, 30 epochs; n = 3 seeds a row (0 to 2)" in text
    )
    assert plain_cells(table)["no SE"]["paper_delta_points"] == "1.02"


def test_rows_that_the_paper_does_not_have_are_marked() -> None:
    table = tables.summarise_study(made_up({**RATIO, "r = 64": ""}))
    assert "| r = 64 \\* |" in tables.markdown(table)
    assert "\\* Not in the paper: r = 64." in tables.markdown(table)
    assert "r = 64 *" in on_terminal(table, 80)
    own = tables.markdown(tables.summarise_study(made_up({"x": "", "y": ""}, baseline="x", paper_table="")))
    assert "\\*" not in own
    assert "paper" not in own


@pytest.mark.parametrize(
    ("rows", "paper_table", "message"),
    [
        (
            {"r = 64": "64"},
            "table10",
            "row 'r = 64': the paper's table 10 has no row '64'; it has 2, 4, 8, 16, 32, orig",
        ),
        ({"r = 2": "2"}, "table9", "paper_table: 'table9' is not one of table2, table3"),
        ({"r = 2": "2"}, "", "row 'r = 2': paper_row is '2', but paper_table is empty"),
    ],
)
def test_a_row_or_table_that_the_paper_lacks(rows: dict[str, str], paper_table: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        tables.summarise_study(made_up(rows, baseline=next(iter(rows)), paper_table=paper_table))


def test_a_row_has_one_network() -> None:
    trials = made_up()
    trials.loc[1, "params"] = 5
    with pytest.raises(ValueError, match=r"row 'r = 2' has more than one value of params: 77000, 5"):
        tables.summarise_study(trials)


def test_equal_differences_are_floored_and_the_note_says_so() -> None:
    step = 100 / 360
    table = tables.summarise_study(errors({"a": [2 * step, 5 * step, 9 * step], "b": [3 * step, 6 * step, 10 * step]}))
    assert plain_cells(table)["b"]["delta_sd"] == f"{step / 3**0.5:.4f}"
    assert "All seeds give the same difference for b. One test image weighs 0.278 points" in tables.markdown(table)


def test_the_permutation_test_appears_from_eight_seeds() -> None:
    assert "sign flips" not in tables.markdown(tables.summarise_study(made_up(seeds=7)))
    assert "| p (sign flips) |" in tables.markdown(tables.summarise_study(made_up(seeds=8)))
    assert "is run for n = 8 to 20 only" in tables.markdown(tables.summarise_study(made_up(seeds=21)))


def test_markdown_escapes_and_keeps_its_columns() -> None:
    rows = {AWKWARD: "2", "r = 16": "16"}
    trials = made_up(rows, title=AWKWARD, failed=((AWKWARD, 0),), reason=AWKWARD)
    text = tables.markdown(tables.summarise_study(trials))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert r"a\|b\_c &amp; 100% &lt;i&gt;\$x\$&lt;/i&gt; \[red\] \#1 \~^" in lines[2]
    assert "<i>" not in text


def test_latex_escapes_and_keeps_its_columns() -> None:
    trials = made_up({AWKWARD: "2", "[x] 3×3": "4", "r = 16": "16"}, title=AWKWARD)
    text = tables.latex(tables.summarise_study(trials))
    columns = re.search(r"\\begin{tabular}{@{}([lr]+)@{}}", text)
    assert columns is not None
    body = text[text.index("\\toprule") : text.index("\\bottomrule")].splitlines()
    lines = [line for line in body if line.endswith(r" \\")]
    assert len(lines) == 3 + 3  # heads of three words
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns[1])}
    assert r"a$|$b\_c \& 100\% $<$i$>$\$x\$$<$/i$>$ {[}red] \#1 \textasciitilde{}\textasciicircum{}" in text
    assert "\n{[}x] 3$\\times$3 & " in text  # a bare bracket would be an argument of the line break before it
    unescaped = re.sub(r"\\[&%$#_{}\\]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    assert unescaped.count("$") % 2 == 0
    assert text.isascii()


@pytest.mark.skipif(not (shutil.which("pdflatex") or shutil.which("tectonic")), reason="no LaTeX here")
def test_latex_compiles(tmp_path: Path) -> None:
    trials = made_up({AWKWARD: "2", "[x] 3×3": "4", "r = 16": "16"}, 8, title=AWKWARD, failed=(("r = 16", 1),))
    source = "\\documentclass[twocolumn]{article}\n\\usepackage{booktabs}\n\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "t.tex").write_text(source % tables.latex(tables.summarise_study(trials)))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error"] if shutil.which("pdflatex") else ["tectonic"]
    subprocess.run([*command, "t.tex"], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "t.pdf").stat().st_size > 1000


@pytest.mark.parametrize("width", [80, 120, 250])
@pytest.mark.parametrize("seeds", [1, 3, 10])
def test_the_terminal_shows_as_many_columns_as_fit(width: int, seeds: int) -> None:
    table = tables.summarise_study(made_up({**RATIO, "all but the last": ""}, seeds))
    text = on_terminal(table, width)
    assert max(len(line) for line in text.splitlines()) <= width
    for row in table.rows:
        (line,) = [line for line in text.splitlines() if line.startswith(f" {row.label} ")]
        assert row.top1 is not None
        assert f"{row.top1.mean:.2f}" in line
        words = row.verdict.word if row.verdict else ""
        assert (words if width == 250 else words.split(":")[0]) in line
    assert ("could" in text.splitlines()[1]) == (width > 120 and seeds > 1)
    assert "backbone resnet8" in text


def test_the_terminal_takes_labels_literally_and_wraps_when_narrow() -> None:
    table = tables.summarise_study(made_up({"[red]x[/red]": "2", "r = 16": "16"}))
    assert "[red]x[/red]" in on_terminal(table, 80)
    assert max(len(line) for line in on_terminal(table, 30).splitlines()) <= 30


def test_columns_without_a_number_are_left_out_except_in_the_csv() -> None:
    table = tables.summarise_study(made_up({"x": "", "y": ""}, baseline="x", paper_table="", paper_params=None))
    assert "paper" not in tables.markdown(table)
    header = tables.csv_text(table).splitlines()[0].split(",")
    assert header == [column.name for column in STUDY if column.name]
    assert len(set(header)) == len(header)


def test_how_numbers_read() -> None:
    assert [count(v) for v in (12, 1500, 77_962, 1_234_567, 25_557_032, 3_857_973_248)] == [
        "12",
        "1.5 k",
        "77.96 k",
        "1.235 M",
        "25.56 M",
        "3.858 G",
    ]
    assert [signed(v) for v in (0.284, -0.284, 0.001, -0.001)] == ["+0.28", "−0.28", "0.00", "0.00"]
    assert [p_value(v) for v in (0.0001, 0.0123, 0.5, 1.0)] == ["< 0.001", "0.012", "0.50", "1.00"]


# ------------------------------------------------------------------------------------------------ several comparisons

PAIRS = {"A": [5.0, 5.2, 5.1], "SE-A": [4.0, 4.1, 4.3], "B": [9.0, 9.1, 9.2], "SE-B": [9.0, 9.4, 8.9]}


def pairs(**columns: Sequence[object]) -> pd.DataFrame:
    """Two networks, each plain and with SE, three seeds; columns are given by row."""
    trials = errors(PAIRS)
    for name, values in ({"baseline": "AABB", "backbone": ["resnet20"] * 2 + ["wrn"] * 2} | columns).items():
        trials[name] = [each for each in values for _ in range(3)]
    return trials


def test_each_pair_has_its_own_baseline_and_all_share_the_correction() -> None:
    table = tables.summarise_study(pairs())
    cells = plain_cells(table)
    assert {row: each["baseline"] for row, each in cells.items()} == {"A": "A", "SE-A": "A", "B": "B", "SE-B": "B"}
    assert (cells["SE-A"]["delta"], cells["SE-B"]["delta"]) == ("-0.9667", "0.0000")
    alone = {row: tables.summarise_study(pairs()[lambda t, b=row: t["baseline"] == b]) for row in "AB"}
    for row, first in (("SE-A", True), ("SE-B", False)):
        p = float(plain_cells(alone[row[-1]])[row]["p_uncorrected"])
        assert float(cells[row]["p_uncorrected"]) == p
        assert float(cells[row]["p_holm"]) == pytest.approx(min(1, p * (2 if first else 1)), rel=1e-3)
    assert [cells[row]["verdict"] for row in ("A", "B")] == ["baseline", "baseline"]
    text = tables.markdown(table)
    assert "Δ: error minus that of the row's own baseline (A and B) in percentage points" in text
    assert "corrected by Holm's method for 2 rows" in text


def test_the_note_names_what_each_pair_has_of_its_own() -> None:
    def note(**columns: Sequence[object]) -> str:
        return tables.markdown(tables.summarise_study(pairs(**columns)))

    own = "backbones resnet20, wrn in the order of the pairs"
    assert f"- Data digits (360 test images), recipe quick, 30 epochs; {own}; n = 3 seeds" in note()
    text = note(recipe=["cifar"] * 2 + ["wrn"] * 2, epochs=[182, 182, 1, 1])
    assert f"images); {own}; A: recipe cifar, 182 epochs; B: recipe wrn, 1 epoch; n = 3" in text
    text = note(data=["digits"] * 2 + ["digits-cutout=2"] * 2)
    assert f"- 360 test images, recipe quick, 30 epochs; {own}; A: data digits; B: data digits-cutout=2; n" in text
    text = note(backbone=["wrn"] * 4, recipe=["a"] * 2 + ["b"] * 2)
    assert "- Data digits (360 test images), backbone wrn, 30 epochs; A: recipe a; B: recipe b; n" in text
    alone = pairs(baseline="ABCD", backbone="abcd", recipe="xxyx")
    alone["row"] = alone["baseline"]
    assert "A, B and D: recipe x; C: recipe y; n = 3" in tables.markdown(tables.summarise_study(alone))


@pytest.mark.parametrize("name", ["data", "backbone", "recipe", "epochs"])
def test_a_pair_is_of_one_network_and_recipe(name: str) -> None:
    values = [1, 1, 1, 2] if name == "epochs" else ["a", "a", "a", "b"]
    with pytest.raises(ValueError, match=f"^{name} is mixed in what is compared with 'B': {values[0]}, {values[3]}$"):
        tables.summarise_study(pairs(**{name: values}))
    with pytest.raises(ValueError, match="test_images is mixed in one table: 1, 2"):
        tables.summarise_study(pairs(test_images=[1, 1, 2, 2]))


def test_pairs_stand_apart() -> None:
    table = tables.summarise_study(pairs())
    lines = tables.latex(table).splitlines()
    assert [n for n, line in enumerate(lines) if line == "\\addlinespace"] == [
        next(n for n, line in enumerate(lines) if line.startswith("B &")) - 1
    ]
    screen = [line.strip() for line in on_terminal(table, 80).splitlines()]
    assert screen[screen.index("") + 1].startswith("B ")
    assert "" not in [line.strip() for line in on_terminal(tables.summarise_study(errors(PAIRS)), 80).splitlines()]


def test_the_papers_rows_of_pairs() -> None:
    rows = ["MobileNet", "SE-MobileNet", "ShuffleNet", "SE-ShuffleNet"]
    table = tables.summarise_study(
        pairs(
            paper_table=["table3"] * 4,
            paper_row=rows,
            paper_params=[4_231_976, 4_711_720, 1_865_728, 2_476_144],
            paper_macs=[568_740_352, 571_930_000, 137_500_000, 141_300_000],
        )
    )
    cells = plain_cells(table)
    assert [cells[row]["paper_gflops"] for row in PAIRS] == ["0.569", "0.572", "0.140", "0.142"]
    assert [cells[row]["paper_delta_points"] for row in PAIRS] == ["", "-3.10", "", "-1.60"]
    text = tables.markdown(table)
    assert "B (0.13750, printed 0.140) and SE-B (0.14130, printed 0.142)" in text
    assert "papers had printed (top-1 / top-5): MobileNet 29.4 and ShuffleNet 32.6." in text
    assert "recipe for mobile networks" in text
    assert "ResNet-50" not in text


LABELS = (
    "λ=0",
    "A → B ≈ ✓",
    "Ω ≥ 1, Δµ·σ² ∈ ℝ",
    "naïve Ångström ŭ",
    "α₂ ½ ﬁ ① 𝛽 „x“ €",
    "🚀 Жук 通 ✗ ■ ‰ \u200b",
    "ΆΣς ß þ",
)


def test_labels_in_any_script_are_latex() -> None:
    assert tex("λ → ≈ ✓ x² α₂ é Α") == ("$\\lambda$ $\\rightarrow$ $\\approx$ $\\surd$ x$^2$ $\\alpha$$_2$ \\'{e} A")
    assert tex("🚀 通") == "(rocket) (U+901A)"
    assert all(tex(label).isascii() for label in LABELS)
    assert tex("".join(map(chr, range(0xA0, 0x3000)))).isascii()


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_labels_in_any_script_compile(tmp_path: Path) -> None:
    trials = made_up(dict.fromkeys(LABELS, ""), 3, LABELS[0], "")
    every = tex("".join(map(chr, (*range(0xA0, 0x600), *range(0x1E00, 0x2800), 0x1D6FC, 0x1F680))))
    source = "\\documentclass[twocolumn]{article}\n\\usepackage{booktabs}\n\\begin{document}\n%s\n%s\\end{document}\n"
    (tmp_path / "t.tex").write_text(source % (every, tables.latex(tables.summarise_study(trials))), encoding="ascii")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-1500:]
