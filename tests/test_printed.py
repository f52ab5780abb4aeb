"""What the paper prints of cost: every number against its count, and the page that shows both against the code."""

from __future__ import annotations

import copy
import dataclasses
import io
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from rich.console import Console

from senet_lab import models
from senet_lab.__main__ import main
from senet_lab.compose import compose
from senet_lab.config import SE
from senet_lab.models.cost import TERMS, convention_total
from senet_lab.models.slots import DEPTHWISE, POSITIONS
from senet_lab.reports import paper
from senet_lab.studies.paper_costs import PRINTED, UNITS, numbers, paper_network_cost, show_paper_costs

PAGE = (Path(__file__).parents[1] / "docs/networks.md").read_text()

# What no convention gives: known, and explained below the table.
DIFFERING = {
    ("table2", "ResNeXt-101", "GFLOPs"),
    ("table2", "Inception-ResNet-v2", "GFLOPs"),
    ("table2", "SE-Inception-ResNet-v2", "GFLOPs"),
    ("table3", "ShuffleNet", "GFLOPs"),
    ("table3", "SE-ShuffleNet", "GFLOPs"),
}
ROWS = [(table, row, unit) for table, rows in PRINTED.items() for row in rows for unit in UNITS]
COMPLEXITY = ("table2", "table3", "table10", "table13", "table15", "table16")


def printed_number(table: str, row: str, unit: str) -> float | None:
    line = paper.paper_table(table).row(row)
    return line.gflops if unit == "GFLOPs" else line.params_m


@pytest.mark.parametrize(("table", "row", "unit"), [key for key in ROWS if printed_number(*key) is not None])
def test_every_printed_number_is_reproduced_or_explained(table: str, row: str, unit: str) -> None:
    (number,) = [number for number in numbers(table, unit) if number.row == row]
    how = PRINTED[table][row]
    convention = how.macs if unit == "GFLOPs" else how.params
    cost = paper_network_cost(how.backbone, how.se, paper.paper_table(table).row(row).size)
    assert number.recomputed == convention_total(cost, convention) / UNITS[unit]
    digits = (2 if table != "table3" else 3) if unit == "GFLOPs" else 1
    same = round(number.recomputed, digits) == printed_number(table, row, unit)
    assert same == number.gives(number.recomputed) == ((table, row, unit) not in DIFFERING)
    assert bool(number.note) != same


def test_every_number_that_the_paper_prints_is_there() -> None:
    rows = {(t.id, row) for t in paper.paper_tables().values() for row, p in t.rows.items() if p.gflops or p.params_m}
    assert rows == {(table, row) for table, rows in PRINTED.items() for row in rows}
    assert tuple(PRINTED) == COMPLEXITY
    for table, row, unit in ROWS:
        how = PRINTED[table][row]
        assert bool(how.macs if unit == "GFLOPs" else how.params) == (printed_number(table, row, unit) is not None)


@pytest.mark.parametrize(
    ("study", "table"), [("ratio", "table10"), ("stages", "table13"), ("conv3x3", "table15"), ("nosqueeze", "table16")]
)
def test_designs_are_those_of_the_studies(study: str, table: str) -> None:
    """But for biases, which are a way of counting here."""
    rows = compose([f"+ablation={study}"]).config.study.rows.values()
    designs = {}
    for row in (row for row in rows if "paper" in row):
        fields = {key.removeprefix("se."): value for key, value in row.items() if key.startswith("se.")}
        designs[row["paper"]] = None if "se" in row else SE(**fields)
    found = {row: how.se and dataclasses.replace(how.se, bias=False) for row, how in PRINTED[table].items()}
    assert found == designs
    assert {how.backbone for how in PRINTED[table].values()} == {"resnet50"}


@pytest.mark.parametrize(
    ("backbone", "se", "size", "convention", "count"),
    [  # computed once by hand from the layer tables
        ("resnet101", None, 224, "layers, sums", 7.5791e9),
        ("resnet101", SE(), 224, "layers, pool, sums", 7.5928e9),
        ("resnet152", None, 224, "layers, sums", 11.2956e9),
        ("resnet152", SE(), 224, "layers, pool, sums", 11.3153e9),
        ("resnext50", None, 224, "layers, sums", 4.2360e9),
        ("resnext101", None, 224, "layers, sums", 7.9789e9),
        ("vgg16", SE(), 224, "layers, pool", 15.4840e9),
        ("bn_inception", SE(), 224, "layers, pool, scale", 2.0356e9),
        ("mobilenet", None, 224, "layers", 0.56874e9),
        ("mobilenet", SE(), 224, "layers, pool", 0.57193e9),
        ("mobilenet", None, 224, "weights", 4_210_088),
        ("mobilenet", SE(), 224, "weights", 4_689_832),
        ("shufflenet", None, 224, "weights", 1_841_248),
        ("shufflenet", SE(), 224, "weights", 2_410_048),
        ("resnet50", None, 224, "weights, norms", 25_557_032),
        ("resnet50", None, 224, "weights, norms, stats", 25_610_152),
        ("resnet50", SE(8, bias=True), 224, "biases", 16_992),
        ("resnet50", SE(8, bias=True), 224, "weights, norms, stats", 30_640_040),  # the notes of table 10
        ("resnet50", SE(2), 224, "weights, norms, stats", 45_729_704),
    ],
)
def test_conventions_count_what_they_say(
    backbone: str, se: SE | None, size: int, convention: str, count: float
) -> None:
    found = convention_total(paper_network_cost(backbone, se, size), convention)
    assert found == count if isinstance(count, int) else found == pytest.approx(count, abs=5e4 if count > 1e9 else 5e3)


def test_sums_are_those_of_the_shortcuts() -> None:
    values = 56**2 * 256 * 3 + 28**2 * 512 * 4 + 14**2 * 1024 * 6 + 7**2 * 2048 * 3
    found = paper_network_cost("resnet50", SE(), 224)
    assert found.sum_macs == values
    assert sum(part.sum_macs for part in found.stages.values()) == values
    assert (
        paper_network_cost("vgg16", None, 224).sum_macs == paper_network_cost("bn_inception", None, 224).sum_macs == 0
    )
    units = 3 * 240 * 28**2 + 7 * 480 * 14**2 + 3 * 960 * 7**2
    assert paper_network_cost("shufflenet", None, 224).sum_macs == units


def test_an_unknown_term_is_named() -> None:
    with pytest.raises(ValueError, match=f"convention: 'pools' is not one of {', '.join(TERMS)}"):
        convention_total(paper_network_cost("resnet50", None, 224), "layers, pools")


def test_what_notes_say_of_se_is_counted() -> None:
    for name, added, digits in (("shufflenet", 0.0019, 4), ("inception_resnet_v2", 0.0085, 4)):
        size = 299 if name == "inception_resnet_v2" else 224
        convention = "layers, pool" if name == "shufflenet" else "layers"
        gated, plain = (convention_total(paper_network_cost(name, se, size), convention) for se in (SE(), None))
        assert round((gated - plain) / 1e9, digits) == added


# ---------------------------------------------------------------------------------------------------------------------
# The command and the page.


def lines_shown() -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    show_paper_costs(console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_command_shows_every_row_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    marked = [line for line in lines if re.search(r" [=≠]  \w", line)]
    assert len(marked) == sum(printed_number(*key) is not None for key in ROWS) == 50
    assert sum("  ≠  " in line for line in lines) == len(DIFFERING)
    assert any(re.search(r"SE-ResNet-101 +7\.60 +7\.6017 +=  layers, pool, scale, sums", line) for line in lines)
    assert any("GFLOPs: 25 of 30 printed numbers are reproduced" in line for line in lines)
    assert any("params M: 20 of 20 printed numbers are reproduced" in line for line in lines)


def test_the_page_shows_what_the_command_prints() -> None:
    shown = PAGE[PAGE.index("```\nTable 2") :].split("```")[1]
    assert shown.strip("\n").splitlines() == "\n".join(lines_shown()).strip("\n").splitlines()


@cache
def listed() -> dict[str, list[str]]:
    """Backbone → the other cells of its line on the page."""
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE.partition("## Where")[0], re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def test_the_page_lists_every_network_once() -> None:
    assert list(listed()) == list(models.BACKBONES)


@pytest.mark.parametrize(
    "name",  # networks of more than a hundred layers take seconds each
    [pytest.param(name, marks=pytest.mark.slow if re.search(r"1\d\d", name) else ()) for name in models.BACKBONES],
)
def test_the_pages_numbers_are_the_codes(name: str) -> None:
    _, _, pixels, stages, gates, params, se_params, macs, se_macs, prints = listed()[name]
    size = int(pixels)
    with torch.device("meta"):
        net = models.create(name, None, 10 if size == 32 else 1000)
        found = models.stages_of(net)
        plain = models.cost(net, (3, size, size)) if size == 32 else paper_network_cost(name, None, size)
        done = models.add_se(net)
        gated = models.cost(net, (3, size, size)) if size == 32 else paper_network_cost(name, SE(), size)
    assert stages == f"{found[0]}-{found[-1]}"
    assert int(gates) == len(done)
    assert [params, se_params] == [f"{cost.params / 1e6:.3f}" for cost in (plain, gated)]
    for cell, cost in ((macs, plain), (se_macs, gated)):
        assert cell == f"{cost.macs / 1e9:.{3 if cost.macs > 1e9 else 4}f}"
    rows = [
        paper.paper_table(table).row(row)
        for table in ("table2", "table3")
        for row, how in PRINTED[table].items()
        if how.backbone == name
    ]
    assert prints == " → ".join(f"{row.gflops:.{paper.gflops_digits(row.gflops)}f}" for row in rows)


FAMILIES = {  # the beginning of a line of the page → one of its networks
    "ResNets, ResNeXts": "resnet18",
    "pre-activation": "preresnet110",
    "pre-activation and wide": "wrn16_4",
    "Shake-Shake": "shake29_2x4x64d",
    "VGG-16": "vgg16",
    "BN-Inception": "bn_inception",
    "Inception-ResNet-v2": "inception_resnet_v2",
    "MobileNet": "mobilenet_025",
    "ShuffleNet": "shufflenet",
}


DEEP = ("preresnet110", "inception_resnet_v2")  # which take seconds


@pytest.mark.parametrize(
    ("beginning", "name"),
    [pytest.param(*each, marks=[pytest.mark.slow] if each[1] in DEEP else []) for each in FAMILIES.items()],
)
def test_the_page_says_which_positions_a_network_has(beginning: str, name: str) -> None:
    with torch.device("meta"):
        plain = models.create(name, None, 10)
    has = []
    for position in (*POSITIONS, DEPTHWISE):
        net = copy.deepcopy(plain)
        try:
            models.add_se(net, position=position)
        except ValueError:
            continue
        has.append(position)
    section = PAGE.partition("## Where SE goes")[2].partition("\n\nOf the last")[0]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| {beginning}")]
    assert re.findall(r"`(\w+)`", line.split("|")[3]) == [position for position in has if position != "standard"]
    assert "standard" in has
