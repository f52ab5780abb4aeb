"""The lab from Python: the same studies, records and messages as on the command line; in a notebook, too."""

from __future__ import annotations

import html
import os
import queue
import re
import shlex
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from in_process import trained_here
from jupyter_client.manager import KernelManager

import senet_lab as lab
from senet_lab import run
from senet_lab.api import as_words
from senet_lab.training.datasets import Named

HERE = {**os.environ, "PYTHONPATH": str(Path(lab.__file__).parents[1])}
SMALL = {"recipe": {"epochs": 1}, "data": {"subset": 60}, "seeds": 2, "tracking": "off"}


class Noise:
    """A set whose images are others each time that they are read."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int) -> tuple[Any, int]:
        return np.random.default_rng().integers(0, 256, (6, 6), dtype=np.uint8), place % 2


class Still(Noise):
    def __getitem__(self, place: int) -> tuple[Any, int]:
        return np.full((6, 6), place, np.uint8), place % 2


def of_no_file() -> Callable[..., Any]:
    """A function of a module that was made in this process."""
    sys.modules["made_here"] = module = types.ModuleType("made_here")
    exec("def function(groups, lr): pass", vars(module))
    found: Callable[..., Any] = module.function
    return found


def test_settings_are_words() -> None:
    given = {"seeds": [3, 4], "margin": 0.3, "se": None, "plan": True, "recipe": {"epochs": 2, "name": "quick"}}
    assert as_words(given) == [
        *("seeds=[3,4]", "margin=0.3", "se=null", "plan=true", "recipe.epochs=2", "recipe.name=quick"),
    ]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lab.study("rato"), "there is no study 'rato' (did you mean ratio?); there are attention, "),
        (lambda: lab.study("ratio", seds=3), "there is no key 'seds' (did you mean seeds?)"),
        (lambda: lab.study("ratio", "seeds"), "'seeds' is not of the form key=value"),
        (lambda: lab.study("all"), "one study at a time"),
        (lambda: lab.study("ratio", recipe={"lr": object()}), "recipe.lr: a object is no value"),
        (lambda: lab.study("ratio", recipe={"lr": print}), "functions and classes are of backbone, data, "),
        (lambda: lab.study("ratio", backbone=lambda num_classes: None), "at the top of a module or notebook"),
        (lambda: lab.study("ratio", se={"kind": partial(print)}), "se.kind: a partial is not found by worker"),
        (lambda: lab.study("ratio", recipe={"loss": "".join}), "recipe.loss: str.join is not found by worker"),
        (lambda: lab.study("ratio", recipe={"optimizer": of_no_file()}), "cannot import made_here, which no file"),
        (lambda: lab.study("ratio", data=(Noise(), Noise())), "read again, it gave other images"),
        (lambda: lab.study("ratio", data=(Still(), Still()), results="/dev/null"), "/dev/null/code cannot be written"),
        (lambda: lab.ablate("resnet8", {"recipe.lr": [0.1]}), "is not a list of at least two levels"),
        (lambda: lab.ablate("resnet8", {"recipe.rl": [0.1, 0.2]}), "did you mean recipe.lr?"),
        (lambda: lab.study("ratio").table(), "has 0 of the 18 trials"),
        (lambda: lab.study("ratio").report(), "run() trains it"),
        (lambda: lab.search().front(), "run() trains it"),
    ],
)
def test_bad_input_is_one_line(
    call: Callable[[], Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lab.UserError) as raised:
        call()
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_study_is_the_command_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = lab.ablate("resnet8", {"recipe.lr": [0.05, 0.1]}, **SMALL)
    plan = study.plan()
    assert plan["to_train"].tolist() == [2, 2]
    assert plan["params"].nunique() == 1
    assert not (tmp_path / "results").exists()
    with trained_here():
        table = study.run().table()
    written = pd.read_csv(study.folder / "table.csv", index_col=0)
    pd.testing.assert_frame_equal(table, written)
    assert study.plan()["recorded"].tolist() == [2, 2]
    assert len(study.figure().axes) == 1
    page = study.report().read_text()
    commands = pd.read_csv(study.folder / "commands.csv", index_col=0, keep_default_na=False).command
    assert commands[""] == study.command.replace(" tracking=off", "")  # where and how it is run is left out
    assert list(commands.index[1:]) == list(table.index)
    for command in commands:  # a row comes with its baseline, and a baseline with one that is compared with it
        assert html.escape(command) in page
        assert run.main([*shlex.split(command)[3:], "plan=true"]) == 0
        assert "all 4 trials are recorded: nothing to train" in capsys.readouterr().out
    words = study.command.split()
    assert words[:3] == ["python", "-m", "senet_lab.run"]
    assert run.main([*study.words, "plan=true"]) == 0
    assert "all 4 trials are recorded: nothing to train" in capsys.readouterr().out


def test_images_that_are_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept with their classes, and are known by their contents: another pixel is another data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    draw = np.random.default_rng(0)
    sets = [(draw.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8), np.arange(count) % 3) for count in (30, 12)]
    study = lab.ablate("resnet8", {"recipe.lr": [0.05, 0.1]}, data=tuple(sets), seeds=2)
    config = study._composed.config
    assert re.fullmatch("images_[0-9a-f]{8}:images", config.data.name)
    held = Named(config.data.name).held(config.data)
    for (images, labels), pixels in zip(sets, (held.train, held.test), strict=True):
        assert np.array_equal(pixels.images, images.transpose(0, 3, 1, 2))
        assert np.array_equal(pixels.labels, labels)
    assert study.plan()["to_train"].tolist() == [2, 2]
    sets[0][0][0, 0, 0, 0] ^= 1
    other = lab.ablate("resnet8", {"recipe.lr": [0.05, 0.1]}, data=tuple(sets))
    assert other._composed.config.data.name != config.data.name
    with pytest.raises(lab.UserError, match="the test set has 12 images and 11 labels"):
        lab.study("ratio", data=(sets[0], (sets[1][0], sets[1][1][1:])))


# ------------------------------------------------------------------------------------------------------ in a notebook

DEFINITION = """
import senet_lab as lab
from torch import nn
import torch.nn.functional as F

WIDTH = 4

class Body(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, WIDTH, 3), nn.Linear(WIDTH, classes)

    def forward(self, x):
        return self.head(F.relu(self.conv(x)).mean((2, 3)))

def build(num_classes, in_channels):
    return Body(in_channels, num_classes)
"""
CALL = """
study = lab.ablate(build, {"recipe.lr": [0.05, 0.1]}, data={"subset": 100}, seeds=2, recipe={"epochs": EPOCHS},
                   tracking="off", executor={"workers": 1})
"""
# What the lab has by name, and the same defined in a notebook: all four rows end with the same errors.
TWINS = """
import torch

class Scale(nn.Module):
    def __init__(self, channels, value=0.5):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x * self.value

class Half(Scale):
    pass

def entropy(logits, targets):
    return F.cross_entropy(logits, targets)

def descent(groups, lr):
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)

twins = lab.ablate("resnet8", {"se.kind": ["constant", Half], "recipe.optimizer": ["sgd", descent]}, seeds=2,
                   data={"subset": 100}, recipe={"epochs": 2, "loss": entropy}, tracking="off", executor={"workers": 1})
errors = twins.run().table().error_percent.dropna()
print(errors.nunique(), len(errors))
"""


class Kernel:
    """A notebook's kernel.

    Attributes:
        renewed: id and text of each output that took the place of an earlier one.
    """

    def __init__(self, folder: Path) -> None:
        self.renewed: list[tuple[str, str]] = []
        self.manager = KernelManager()
        self.manager.start_kernel(cwd=str(folder), env=HERE)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, code: str, at: str = "", then: Callable[[], None] = lambda: None) -> tuple[str, str]:
        """Run a cell, and do something as soon as it has printed a text; what it printed, and its exception."""
        asked = self.client.execute(code)
        text = ""
        until = time.monotonic() + 300
        while time.monotonic() < until:
            try:
                message = self.client.get_iopub_msg(timeout=5)
            except queue.Empty:
                continue
            content = message["content"]
            if message["msg_type"] == "update_display_data":
                self.renewed.append((content["transient"]["display_id"], content["data"]["text/plain"]))
                continue
            text += content.get("text", "") or content.get("data", {}).get("text/plain", "")
            if at and at in text:
                at = ""
                then()
                if not self.manager.is_alive():
                    return text, "ended"
            idle = message["msg_type"] == "status" and content["execution_state"] == "idle"
            if idle and message["parent_header"].get("msg_id") == asked:
                replies = iter(partial(self.client.get_shell_msg, timeout=60), None)
                reply = next(each["content"] for each in replies if each["parent_header"].get("msg_id") == asked)
                return text, f"{reply.get('ename', '')}: {reply.get('evalue', '')}" if "ename" in reply else ""
        raise AssertionError(f"no end in sight: {text}")

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernels(tmp_path: Path) -> Iterator[Callable[[], Kernel]]:
    made: list[Kernel] = []

    def start() -> Kernel:
        made.append(Kernel(tmp_path))
        return made[-1]

    yield start
    for kernel in made:
        kernel.end()


@pytest.mark.slow
def test_a_notebook(kernels: Callable[[], Kernel], tmp_path: Path) -> None:
    """A network that is defined in a notebook is trained by worker processes; a cell that was interrupted, and a kernel
    that was restarted while it trained, go on by the same call; a definition that has changed is another study."""
    first = kernels()
    call = CALL.replace("EPOCHS", "150")
    assert first.run(DEFINITION + call) == ("", "")
    said, fault = first.run("study.run()", "[1/4]", first.manager.interrupt_kernel)
    assert fault.startswith("KeyboardInterrupt")
    assert "interrupted: what has ended is recorded; the same call goes on from there" in said
    assert first.run("study.run()", "[2/4]", partial(first.manager.shutdown_kernel, now=True))[1] == "ended"

    second = kernels()
    assert second.run(DEFINITION + call) == ("", "")
    said, fault = second.run("print(study.plan().recorded.sum()); study.run(); print(study.table().shape[0])")
    assert fault == ""
    assert int(said.split()[0]) >= 2
    assert said.split()[-1] == "2"
    shown = [text for _, text in second.renewed]  # in one place: the trials done, and the epochs of the one that runs
    assert len({place for place, _ in second.renewed}) == 1
    assert any(re.search(r"\d of 4 trials .* left *\nlr = .*, seed \d .* epoch \d", text) for text in shown)
    assert re.fullmatch("4 of 4 trials +━+", shown[-1].strip())

    (kept,) = (tmp_path / "results/local/code").glob("build_*.py")
    words = [f"backbone={kept.stem}:build", "+vary=recipe.lr", "levels=[0.05,0.1]", "data.subset=100", "se=null"]
    words += ["seeds=2", "recipe.epochs=150", "plan=true"]
    shell = subprocess.run(
        [sys.executable, "-m", "senet_lab.run", *words],
        cwd=tmp_path,
        env=HERE,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "all 4 trials are recorded" in shell.stdout

    said, fault = second.run(DEFINITION.replace("WIDTH = 4", "WIDTH = 5") + call + "print(study.plan().recorded.sum())")
    assert fault == ""
    assert f"build differs from what was defined under this name before ({kept.stem}): another study" in said
    assert said.split()[-1] == "0"

    said, fault = second.run(TWINS)
    assert fault == ""
    assert said.split()[-2:] == ["1", "4"]

    for code, why in (
        ("import torch; W = torch.ones(1)\ndef build(num_classes): return nn.Linear(int(W), num_classes)", "Tensor"),
        ("def outer():\n  def build(num_classes): return None\n  return build\nbuild = outer()", "at the top"),
    ):
        said, fault = second.run(f"{code}\n{call}")
        assert fault.startswith("UserError")
        assert why in fault
        assert "\n" not in fault
