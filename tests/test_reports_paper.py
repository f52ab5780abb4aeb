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
# Every number that the paper prints, entered a second time: top-1, top-5, GFLOPs, 10^6 parameters, and the top-1 and
# top-5 that the network's own paper had printed; "-" where there is none, nothing where none follows.
PRINTED = {
    "table2": """
        ResNet-50: 24.8 7.48 3.86 - 24.7 7.8; SE-ResNet-50: 23.29 6.62 3.87
        ResNet-101: 23.17 6.52 7.58 - 23.6 7.1; SE-ResNet-101: 22.38 6.07 7.6
        ResNet-152: 22.42 6.34 11.3 - 23 6.7; SE-ResNet-152: 21.57 5.73 11.32
        ResNeXt-50: 22.11 5.9 4.24 - 22.2; SE-ResNeXt-50: 21.1 5.49 4.25
        ResNeXt-101: 21.18 5.57 7.99 - 21.2 5.6; SE-ResNeXt-101: 20.7 5.01 8
        VGG-16: 27.02 8.81 15.47; SE-VGG-16: 25.22 7.7 15.48
        BN-Inception: 25.38 7.89 2.03 - 25.2 7.82; SE-BN-Inception: 24.23 7.14 2.04
        Inception-ResNet-v2: 20.37 5.21 11.75 - 19.9 4.9; SE-Inception-ResNet-v2: 19.8 4.79 11.76
    """,
    "table3": """
        MobileNet: 28.4 9.4 0.569 4.2 29.4; SE-MobileNet: 25.3 7.7 0.572 4.7
        ShuffleNet: 32.6 12.5 0.14 1.8 32.6; SE-ShuffleNet: 31 11.1 0.142 2.4
    """,
    "table4": """
        ResNet-110: 6.37; SE-ResNet-110: 5.21
        ResNet-164: 5.46; SE-ResNet-164: 4.39
        WRN-16-8: 4.27; SE-WRN-16-8: 3.88
        Shake-Shake 26 2x96d: 2.56; SE-Shake-Shake 26 2x96d: 2.12
    """,
    "table5": """
        ResNet-110: 26.88; SE-ResNet-110: 23.85
        ResNet-164: 24.33; SE-ResNet-164: 21.31
        WRN-16-8: 20.43; SE-WRN-16-8: 19.14
        Shake-Even 29 2x4x64d: 15.85; SE-Shake-Even 29 2x4x64d: 15.41
    """,
    "table6": "ResNet-152: 41.15 11.61; SE-ResNet-152: 40.37 11.01",
    "table10": """
        2: 22.29 6 - 45.7; 4: 22.25 6.09 - 35.7; 8: 22.26 5.99 - 30.7; 16: 22.28 6.03 - 28.1
        32: 22.72 6.2 - 26.9; original: 23.3 6.55 - 25.6
    """,
    "table11": "Max: 22.57 6.09; Avg: 22.28 6.03",
    "table12": "ReLU: 23.47 6.98; Tanh: 23 6.38; Sigmoid: 22.28 6.03",
    "table13": """
        ResNet-50: 23.3 6.55 3.86 25.6; SE_Stage_2: 23.03 6.48 3.86 25.6; SE_Stage_3: 23.04 6.32 3.86 25.7
        SE_Stage_4: 22.68 6.22 3.86 26.4; SE_All: 22.28 6.03 3.87 28.1
    """,
    "table14": "SE: 22.28 6.03; SE-PRE: 22.23 6; SE-POST: 22.78 6.35; SE-Identity: 22.2 6.15",
    "table15": "SE: 22.28 6.03 3.87 28.1; SE_3x3: 22.48 6.02 3.86 25.8",
    "table16": "ResNet-50: 23.3 6.55 3.86 25.6; NoSqueeze: 22.93 6.39 4.27 28.1; SE: 22.28 6.03 3.87 28.1",
}


def test_the_tables() -> None:
    tables = paper.paper_tables()
    assert [table.number for table in tables.values()] == [str(n) for n in (*range(2, 7), *range(10, 17))]
    for name, table in tables.items():
        assert table.caption
        assert table.about
        assert "{" not in table.gflops
        assert table.trunk == ("" if name in NETWORKS else "resnet50")
        assert table.classes == {"table4": 10, "table5": 100, "table6": 365}.get(name, 1000)


def test_every_printed_number_is_the_papers() -> None:
    for name, table in paper.paper_tables().items():
        entries = (entry.split(": ") for entry in PRINTED[name].strip().replace("\n", ";").split(";"))
        expected = {row.strip(): [None if n == "-" else float(n) for n in numbers.split()] for row, numbers in entries}
        assert list(table.rows) == list(expected)
        for label, numbers in expected.items():
            row = table.row(label)
            found = [row.top1, row.top5, row.gflops, row.params_m, row.original_top1, row.original_top5]
            assert found == numbers + [None] * (6 - len(numbers)), (name, label)


@pytest.mark.parametrize("name", NETWORKS)
def test_tables_of_networks_are_pairs_that_gain(name: str) -> None:
    rows = list(paper.paper_table(name).rows.values())
    for plain, se in zip(rows[::2], rows[1::2], strict=True):
        assert se.name == f"SE-{plain.name}"
        assert se.top1 < plain.top1
        assert se.size == plain.size == {"4": 32, "5": 32}.get(name[-1], 299 if "Inception-R" in plain.name else 224)
        assert (plain.gflops or 0) <= (se.gflops or 0)
        assert (plain.params_m or 0) <= (se.params_m or 0)
        assert se.original_top1 is None


def test_the_gains_of_table_2_are_those_that_it_prints_in_brackets() -> None:
    table = paper.paper_table("table2")
    assert [f"SE-{name}" for name in GAINS] == list(table.rows)[1::2]
    for name, (top1, top5) in GAINS.items():
        plain, se = table.row(name), table.row(f"SE-{name}")
        assert plain.top1 - se.top1 == pytest.approx(top1)
        assert (plain.top5 or 0) - (se.top5 or 0) == pytest.approx(top5)


def test_images_are_named_where_multiply_adds_are_counted() -> None:
    tables = paper.paper_tables()
    assert "one 224 × 224 image" in tables["table10"].gflops
    assert "one 224 × 224 (Inception-ResNet-v2: 299 × 299) image" in tables["table2"].gflops
    assert "one 32 × 32 image" in tables["table4"].gflops


def test_exactly_five_printed_parameter_counts_differ_as_the_note_says() -> None:
    printed = {key: paper.paper_table(key[0]).row(key[1]).params_m for key in ADDED}
    have = {
        (table.id, row.name)
        for table in paper.paper_tables().values()
        for row in table.rows.values()
        if table.trunk and row.params_m
    }
    assert have == set(ADDED)
    differing = [key for key, added in ADDED.items() if f"{(PLAIN + added) / 1e6:.1f}" != f"{printed[key]:.1f}"]
    assert [name for _, name in differing] == ["4", "8", "32", "SE_Stage_4", "SE_3x3"]
    for key in differing:
        assert (printed[key] or 0) - round((PLAIN + ADDED[key]) / 1e6, 1) == pytest.approx(0.1)
    assert "five" in paper.paper_table("table10").params


def test_names_that_the_paper_does_not_have() -> None:
    with pytest.raises(ValueError, match="table 14 has no row 'SE-pre'; it has SE, SE-PRE, SE-POST, SE-Identity"):
        paper.paper_table("table14").row("SE-pre")
    with pytest.raises(ValueError, match="'table7' is not one of table2, table3"):
        paper.paper_table("table7")
