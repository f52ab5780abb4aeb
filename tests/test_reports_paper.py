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


NETWORKS = ("table2", "table3", "table4", "table5", "table6")
# The gains that table 2 prints in brackets, top-1 and top-5.
GAINS = {
    "ResNet-50": (1.51, 0.86),
    "ResNet-101": (0.79, 0.45),
    "ResNet-152": (0.85, 0.61),
    "ResNeXt-50": (1.01, 0.41),
    "ResNeXt-101": (0.48, 0.56),
    "VGG-16": (1.80, 1.11),
    "BN-Inception": (1.15, 0.75),
    "Inception-ResNet-v2": (0.57, 0.42),
}


def test_the_tables() -> None:
    tables = paper.load().tables
    assert [table.number for table in tables.values()] == [str(n) for n in (*range(2, 7), *range(10, 17))]
    assert [len(table.rows) for table in tables.values()] == [16, 4, 8, 8, 2, 6, 2, 3, 5, 4, 2, 3]
    for name, table in tables.items():
        assert table.caption
        assert table.about
        assert "{" not in table.gflops
        assert table.trunk == ("" if name in NETWORKS else "resnet50")
        assert table.classes == {"table4": 10, "table5": 100, "table6": 365}.get(name, 1000)


@pytest.mark.parametrize("name", NETWORKS)
def test_tables_of_networks_are_pairs_that_gain(name: str) -> None:
    rows = list(paper.load().table(name).rows.values())
    for plain, se in zip(rows[::2], rows[1::2], strict=True):
        assert se.name == f"SE-{plain.name}"
        assert se.top1 < plain.top1
        assert se.size == plain.size == {"4": 32, "5": 32}.get(name[-1], 299 if "Inception-R" in plain.name else 224)
        assert (plain.gflops or 0) <= (se.gflops or 0)
        assert (plain.params_m or 0) <= (se.params_m or 0)
        assert se.original_top1 is None


def test_the_gains_of_table_2_are_those_that_it_prints_in_brackets() -> None:
    table = paper.load().table("table2")
    assert [f"SE-{name}" for name in GAINS] == list(table.rows)[1::2]
    for name, (top1, top5) in GAINS.items():
        plain, se = table.row(name), table.row(f"SE-{name}")
        assert plain.top1 - se.top1 == pytest.approx(top1)
        assert (plain.top5 or 0) - (se.top5 or 0) == pytest.approx(top5)


def test_images_are_named_where_multiply_adds_are_counted() -> None:
    tables = paper.load().tables
    assert "one 224 × 224 image" in paper.load().gflops == tables["table10"].gflops
    assert "one 224 × 224 (Inception-ResNet-v2: 299 × 299) image" in tables["table2"].gflops
    assert "one 32 × 32 image" in tables["table4"].gflops


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
    have = {
        (table.id, row.name)
        for table in paper.load().tables.values()
        for row in table.rows.values()
        if table.trunk and row.params_m
    }
    assert have == set(ADDED)
    differing = [key for key, added in ADDED.items() if f"{(PLAIN + added) / 1e6:.1f}" != f"{printed[key]:.1f}"]
    assert [name for _, name in differing] == ["4", "8", "32", "SE_Stage_4", "SE_3x3"]
    for key in differing:
        assert (printed[key] or 0) - round((PLAIN + ADDED[key]) / 1e6, 1) == pytest.approx(0.1)
    assert "five" in paper.load().table("table10").params


def test_names_that_the_paper_does_not_have() -> None:
    with pytest.raises(ValueError, match="table 14 has no row 'SE-pre'; it has SE, SE-PRE, SE-POST, SE-Identity"):
        paper.load().table("table14").row("SE-pre")
    with pytest.raises(ValueError, match="'table7' is not one of table2, table3"):
        paper.load().table("table7")
