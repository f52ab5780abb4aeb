"""The paper's tables as data: complete, consistent with themselves, and with the arithmetic of the networks."""

from __future__ import annotations

import pytest

from senet_lab.reports import paper

PLAIN = 25_557_032  # trainable weights of ResNet-50
ADDED = {  # 2/r Σ N C², without biases
    ("table10", "2"): 20_119_552,
    ("table10", "4"): 10_059_776,
    ("table10", "8"): 5_029_888,
    ("table10", "16"): 2_514_944,
    ("table10", "32"): 1_257_472,
    ("table10", "original"): 0,
    ("table13", "ResNet-50"): 0,
    ("table13", "SE_Stage_2"): 24_576,
    ("table13", "SE_Stage_3"): 131_072,
    ("table13", "SE_Stage_4"): 786_432,
    ("table13", "SE_All"): 2_514_944,
    ("table15", "SE"): 2_514_944,
    ("table15", "SE_3x3"): 157_184,
    ("table16", "ResNet-50"): 0,
    ("table16", "NoSqueeze"): 2_514_944,
    ("table16", "SE"): 2_514_944,
}


def test_the_seven_tables() -> None:
    tables = paper.load().tables
    assert [table.number for table in tables.values()] == [str(n) for n in range(10, 17)]
    assert [len(table.rows) for table in tables.values()] == [6, 2, 3, 5, 4, 2, 3]
    assert all(table.caption for table in tables.values())


def test_the_standard_network_has_the_same_numbers_in_every_table() -> None:
    names = {"table10": "16", "table11": "Avg", "table12": "Sigmoid", "table13": "SE_All"}
    names |= dict.fromkeys(("table14", "table15", "table16"), "SE")
    rows = [paper.load().table(table).row(name) for table, name in names.items()]
    assert {(row.top1, row.top5) for row in rows} == {(22.28, 6.03)}
    assert {row.params_m for row in rows} == {28.1, None}
    assert {row.gflops for row in rows} == {3.87, None}
    plain = [paper.load().table(f"table{n}").row(name) for n, name in ((10, "original"), (13, "ResNet-50"))]
    assert {(row.top1, row.top5, row.params_m) for row in plain} == {(23.30, 6.55, 25.6)}


def test_exactly_five_printed_parameter_counts_differ_as_the_note_says() -> None:
    printed = {key: paper.load().table(key[0]).row(key[1]).params_m for key in ADDED}
    have = {(t.id, row.name) for t in paper.load().tables.values() for row in t.rows.values() if row.params_m}
    assert have == set(ADDED)
    differing = [key for key, added in ADDED.items() if f"{(PLAIN + added) / 1e6:.1f}" != f"{printed[key]:.1f}"]
    assert [name for _, name in differing] == ["4", "8", "32", "SE_Stage_4", "SE_3x3"]
    for key in differing:
        assert (printed[key] or 0) - round((PLAIN + ADDED[key]) / 1e6, 1) == pytest.approx(0.1)
    assert "five" in paper.load().params


def test_names_that_the_paper_does_not_have() -> None:
    with pytest.raises(ValueError, match="table 14 has no row 'SE-pre'; it has SE, SE-PRE, SE-POST, SE-Identity"):
        paper.load().table("table14").row("SE-pre")
    with pytest.raises(ValueError, match="'table2' is not one of table10"):
        paper.load().table("table2")
