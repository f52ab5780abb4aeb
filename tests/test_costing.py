"""The cost command: the paper's shares of section 4, and its closed form beside what is counted."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from senet_lab import models
from senet_lab.__main__ import main
from senet_lab.compose import compose
from senet_lab.config import SE
from senet_lab.studies.network_cost import closed_form, show_cost


def printed(*words: str) -> str:
    console = Console(file=io.StringIO(), width=80)
    show_cost(compose(words), list(words), console)
    return console.file.getvalue()


def lines_of(text: str) -> dict[str, list[str]]:
    """First word of a line → its other words."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}


def test_the_papers_shares() -> None:
    """Section 4: 2.5 M more parameters, about 10%; without the last stage about 4%."""
    text = printed("backbone=resnet50")
    lines = lines_of(text)
    for stage, blocks, weights, share in (
        ("2", "3", "24,576", "1.0%"),
        ("3", "4", "131,072", "5.2%"),
        ("4", "6", "786,432", "31.3%"),
        ("5", "3", "1,572,864", "62.5%"),
        ("all", "16", "2,514,944", "100.0%"),
    ):
        assert lines[stage][0] == blocks
        assert lines[stage][2:5] == [weights, weights, share], "counted weights, closed form, share"
    assert "SE adds 9.84% to the plain network's 25,557,032 parameters" in text
    assert re.search(r"without the last\s+stage 3\.69%", text)
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize("position", ["standard", "pre", "conv3x3"])
def test_the_closed_form_is_what_is_counted(position: str) -> None:
    """Exact where r divides C, whatever is gated."""
    se = SE(reduction={2: 2, 4: 8}, position=position)
    net = models.create("resnet20", None, 10, seed=0)
    stages = models.stages_of(net)
    gates = models.add_se(net, se)
    counted = {stage: part.se_params for stage, part in models.cost(net, (3, 8, 8)).stages.items() if part.se_params}
    assert closed_form(gates, se, stages) == counted


def test_where_r_does_not_divide_the_closed_form_is_not_whole() -> None:
    """C = 16 and r = 32: half a hidden unit by the formula, one in the network."""
    se = SE(reduction=32, stages=[2])
    net = models.create("resnet8", None, 10, seed=0)
    stages = models.stages_of(net)
    gates = models.add_se(net, se)
    assert closed_form(gates, se, stages) == {2: 16}
    assert models.cost(net, (3, 8, 8)).se_params == 32


def test_the_plain_network_and_the_users_data() -> None:
    assert "100.0%" not in printed("backbone=resnet18", "se=null")
    assert "resnet8 with SE, 1 × 8 × 8" in printed("data=digits")
    assert "3 × 64 × 64" in printed("backbone=resnet18", "data.size=64")


def test_images_that_are_too_small_are_one_line_with_the_smallest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "backbone=vgg16", "data.size=31"]) == 2
    seen = capsys.readouterr()
    assert (seen.out, seen.err) == (
        "",
        "error: images of 31 × 31 pixels are too small: the network takes 32 × 32 and larger\n",
    )


@pytest.mark.parametrize("word", ["backbone=resnt50", "se.reduction=0", "se.reducton=4", "data.size=0"])
def test_bad_words_are_one_line(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", word]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("error: ")
    assert seen.err.count("\n") == 1
