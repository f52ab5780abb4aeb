"""The fast way to train and the plain one: the same numbers, other trial ids, checkpoints that know of neither."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_data_feeds import make_tree
from test_training_trial import DIGITS, RECIPE, SPEC, CutOffError, make_spec, outcome, silent, stop_after
from torch import Tensor, fx, nn

from senet_lab import models
from senet_lab.compose import compose
from senet_lab.config import SE, Data, Recipe, Training, UserError
from senet_lab.models.backbones import BACKBONES
from senet_lab.studies import plan_text, rows
from senet_lab.studies.store_check import spec_of as spec_from
from senet_lab.training import step, trial
from senet_lab.training.data import data_facts
from senet_lab.training.spec import STEP, Spec, Step
from senet_lab.training.step import FAST, PLAIN, choose_step, compiled_blocks, prepare

DOUBLE = dataclasses.replace(SPEC, precision="64-true", recipe=dataclasses.replace(RECIPE, epochs=1))
FOLDER = Data(name="folder", size=16, augment="imagenet")
EAGER = step.prepare


@pytest.fixture
def untranslated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured and differentiated as they are for the compiler, and run as they are."""
    monkeypatch.setattr(trial, "prepare", lambda net, how, network: EAGER(net, how, network, "aot_eager"))


def weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


# ---------------------------------------------------------------------------------------------------------------------
# The same training


@pytest.mark.usefixtures("untranslated")
@pytest.mark.parametrize(
    "fast",
    [{"compile": "blocks"}, {"layout": "channels_last", "fused": True, "compile": "whole"}],
    ids=str,
)
def test_fast_steps_are_plain_steps(tmp_path: Path, fast: dict[str, Any]) -> None:
    """An epoch in double precision: losses, weights and the test agree to 1e-9."""
    records = [
        trial.run_trial(dataclasses.replace(DOUBLE, **way), tmp_path / name / "a.ckpt", silent)
        for name, way in (("plain", {}), ("fast", fast))
    ]
    for name, value in records[0]["metrics"].items():
        assert records[1]["metrics"][name] == pytest.approx(value, abs=1e-9), name
    mine, theirs = (weights(tmp_path / name / "a.ckpt") for name in ("plain", "fast"))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(theirs[name], value, atol=1e-9, rtol=0, msg=name)


def test_a_tree_in_memory_trains_as_from_files(tmp_path: Path) -> None:
    """Where nothing is drawn the images are the same, and so is the training, to the last bit."""
    data = dataclasses.replace(make_tree(tmp_path / "tree", {"a": 12, "b": 12}), augment="none")
    spec = make_spec(SE(reduction=4), data=data, recipe=dataclasses.replace(RECIPE, epochs=2, batch_size=8))
    seen = [
        trial.run_trial(dataclasses.replace(spec, feed=feed), tmp_path / f"{feed}.ckpt", silent)
        for feed in ("files", "memory")
    ]
    assert seen[0]["epochs"] == seen[1]["epochs"]
    assert seen[0]["metrics"] == seen[1]["metrics"]


@pytest.mark.usefixtures("untranslated")
def test_the_fast_way_goes_on_as_if_it_had_not_been_cut_off(tmp_path: Path) -> None:
    data = make_tree(tmp_path / "tree", {"a": 12, "b": 12})
    spec = make_spec(SE(reduction=4), data=data, recipe=dataclasses.replace(RECIPE, epochs=3, batch_size=8))
    spec = dataclasses.replace(spec, feed="memory", layout="channels_last", fused=True, compile="blocks")
    expected = outcome(trial.run_trial(spec, tmp_path / "a.ckpt", silent))
    with pytest.raises(CutOffError):
        trial.run_trial(spec, tmp_path / "b.ckpt", stop_after(1))
    torch.rand(3)
    assert outcome(trial.run_trial(spec, tmp_path / "b.ckpt", silent)) == expected


@pytest.mark.slow
def test_trained_to_the_end_both_ways_err_alike(tmp_path: Path) -> None:
    """Means over five seeds, on all digits: no further apart than three times the standard error of their difference.
    The blocks are translated by the compiler here."""
    fast: dict[str, Any] = {"layout": "channels_last", "fused": True, "compile": "blocks"}
    recipe = Recipe(epochs=12, batch_size=32, lr=0.05, weight_decay=5e-4)
    spec = make_spec(SE(reduction={2: 4, 3: 4, 4: 4}), data=Data(augment="crop", validation=0.2), recipe=recipe)
    errors: list[list[float]] = []
    for way in ({}, fast):
        errors.append([])
        for seed in range(5):
            one = dataclasses.replace(spec, seed=seed, **way)
            path = tmp_path / f"{len(errors)}-{seed}.ckpt"
            errors[-1].append(trial.run_trial(one, path, silent)["metrics"]["test_error"])
    spread = (sum(statistics.variance(each) for each in errors) / 5) ** 0.5
    assert statistics.mean(errors[0]) < 6
    assert abs(statistics.mean(errors[0]) - statistics.mean(errors[1])) < 3 * spread


# ---------------------------------------------------------------------------------------------------------------------
# What is compiled


RUN: Counter[str] = Counter()


def counting(name: str) -> Callable[[fx.GraphModule, list[Tensor]], Callable[..., Any]]:
    """A compiler that counts what it is given, and how often that runs."""

    def compiler(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        RUN[f"{name} made"] += 1

        def run(*args: Any) -> Any:
            RUN[f"{name} run"] += 1
            return graph.forward(*args)

        return run

    return compiler


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the compiler's own, quiet in a trial
def test_blocks_alike_are_compiled_once() -> None:
    """ResNet-20 has nine blocks of five kinds: three widths, of which two begin with another stride."""
    net = models.create("resnet20", SE(reduction=4), 10, in_channels=1, seed=0)
    blocks = list(compiled_blocks(net))
    assert len(blocks) == 9
    RUN.clear()
    prepare(net, Step(compile="blocks"), "resnet20", counting("a"))  # type: ignore[arg-type]
    for _ in range(3):
        net(torch.rand(4, 1, 8, 8))
    assert (RUN["a made"], RUN["a run"]) == (5, 27)
    assert net.state_dict().keys() == models.create("resnet20", SE(reduction=4), 10, in_channels=1).state_dict().keys()


def test_full_batches_of_training_alone_are_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """96 images in batches of 40 are two full ones and one of 16; all else is evaluation."""
    monkeypatch.setattr(trial, "prepare", lambda net, how, network: prepare(net, how, network, counting("b")))  # type: ignore[arg-type]
    RUN.clear()
    spec = dataclasses.replace(SPEC, compile="whole", recipe=dataclasses.replace(RECIPE, batch_size=40, epochs=3))
    trial.run_trial(spec, tmp_path / "a.ckpt", silent)
    assert (RUN["b made"], RUN["b run"]) == (1, 6)


@pytest.mark.parametrize(("backbone", "count"), [("resnet8", 3), ("resnet50", 16), ("wrn16_4", 6), ("vgg16", 0)])
@pytest.mark.parametrize("position", [None, "post"])
def test_blocks_are_found_with_se_and_without(backbone: str, count: int, position: str | None) -> None:
    with torch.device("meta"):
        net = models.create(backbone, SE(position=position) if position and count else None, 10)
    assert len(list(compiled_blocks(net))) == count


def test_a_network_without_blocks_is_compiled_whole() -> None:
    RUN.clear()
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
    prepare(net, Step(compile="blocks"), "plain", counting("c"))  # type: ignore[arg-type]
    net(torch.rand(1, 1, 2, 2))
    assert RUN["c run"] == 1


# ---------------------------------------------------------------------------------------------------------------------
# What the words come to


def test_on_a_cpu_all_is_plain() -> None:
    assert (
        choose_step(Training(), FOLDER, "cpu", "resnet8")
        == choose_step(Training(), Data(), "cpu", "resnet8")
        == PLAIN
        == FAST["cpu"]
    )
    assert {name: SPEC.config()[name] for name in STEP} == STEP


def test_a_cpu_has_the_layout_that_trains_sooner() -> None:
    """Of the networks that are listed, from their size on; a word, or the plain way, says otherwise. Images of 8 pixels
    are laid out as ever, so that their records stay."""
    for backbone, size, layout in (
        ("resnet20", 32, "channels_last"),
        ("resnet20", 31, "contiguous"),
        ("resnet8", 8, "contiguous"),
        ("mobilenet_050", 96, "channels_last"),
        ("mobilenet_050", 64, "contiguous"),
        ("resnet50", 224, "contiguous"),
        ("mine:resnet20", 32, "contiguous"),
    ):
        data = Data(size=size)
        assert choose_step(Training(), data, "cpu", backbone) == Step(layout=layout), (backbone, size)
        assert choose_step(Training(path="plain"), data, "cpu", backbone) == PLAIN
        assert choose_step(Training(layout="contiguous"), data, "cpu", backbone) == PLAIN
    assert all(backbone in BACKBONES and size > 8 for backbone, size in step.CHANNELS_LAST.items())


def test_a_gpu_is_given_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "size_in_memory", lambda data: step.ROOM)
    fast = Step(feed="memory", layout="channels_last", fused=True, compile="off")
    for data in (FOLDER, Data()):
        assert choose_step(Training(), data, "cpu", "resnet8") == PLAIN == FAST["cpu"]
    assert choose_step(Training(), Data(), "cuda", "resnet8") == dataclasses.replace(fast, feed="files")
    assert choose_step(Training(path="plain"), FOLDER, "cuda", "resnet8") == PLAIN
    assert choose_step(Training(path="plain", compile="graphs"), FOLDER, "cuda", "resnet8") == Step(compile="graphs")
    monkeypatch.setattr(step, "size_in_memory", lambda data: step.ROOM + 1)
    assert choose_step(Training(), FOLDER, "cuda", "resnet8") == dataclasses.replace(fast, feed="files")
    assert choose_step(Training(feed="memory"), FOLDER, "cuda", "resnet8") == fast


@pytest.mark.parametrize(
    ("training", "data", "word"),
    [
        (Training(compile="graphs"), FOLDER, "training.compile=graphs needs a GPU"),
        (Training(feed="files"), Data(), "training.feed=files: digits is no tree of images"),
    ],
)
def test_what_cannot_be(training: Training, data: Data, word: str) -> None:
    with pytest.raises(UserError, match=word):
        choose_step(training, data, "cpu", "resnet8")


@pytest.mark.parametrize(
    ("word", "value"), [("path", "fast"), ("feed", "disk"), ("layout", "NHWC"), ("optimiser", "x"), ("compile", "yes")]
)
def test_words_that_there_are_not(word: str, value: str) -> None:
    with pytest.raises(UserError, match=f"training.{word}: there is no '{value}'; there are auto, "):
        compose([f"training.{word}={value}"])


def spec_of(*words: str) -> Spec:
    composed = compose(words)
    known = data_facts(composed.config.data)
    ((row,), _) = rows.build_rows(composed, known)
    return row.spec(known, seed=0, device="cpu")


def test_each_way_has_its_own_id() -> None:
    words = ["training.layout=channels_last", "training.optimiser=fused", "training.compile=blocks"]
    words += ["training.compile=whole"]
    ids = {word: spec_of(word).trial_id for word in words}
    same = {spec_of().trial_id, spec_of("training.path=plain", "training.compile=off", "training.feed=memory").trial_id}
    assert len(same) == 1
    assert len({*ids.values(), *same}) == 5


def test_the_optimiser_is_recorded_under_the_name_that_it_has_in_trials_of_old() -> None:
    composed = compose(["training.precision=32-true"])
    known = data_facts(composed.config.data)
    ((row,), _) = rows.build_rows(composed, known)
    spec = row.spec(known, 0, "cuda")
    assert spec.determinants()["fused"] is spec.config()["fused"] is True
    assert spec_from(json.loads(json.dumps(spec.config()))).trial_id == spec.trial_id
    assert "fused optimiser" in plan_text.step_text(spec)


def test_the_plan_says_how_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_tree(tmp_path, {"a": 12, "b": 12})
    words = ["data=folder", f"data.root={data.root}", "data.size=16", "training.feed=memory"]
    held = spec_of(*words, "training.compile=whole")
    assert plan_text.step_text(held) == "images in memory, 0.00 GiB a worker, compiled: whole"
    assert plan_text.step_text(spec_of(*words[:3])) == ""
    assert held.trial_id != spec_of(*words[:3]).trial_id
    plan_text.check_memory([held, spec_of()], 4)
    monkeypatch.setattr(step, "room", lambda device: 1000.0)
    with pytest.raises(
        UserError, match=r"training\.feed=memory: the images take 0\.00 GiB for 4 workers, and 0\.00 GiB"
    ):
        plan_text.check_memory([held], 4)


def test_free_memory_is_a_number_of_bytes() -> None:
    assert 2**20 < step.room("cpu") < 2**50


@pytest.mark.usefixtures("untranslated")
def test_a_checkpoint_does_not_depend_on_the_way(tmp_path: Path) -> None:
    """One of a training that was fast goes on and is loaded plainly, and the reverse."""
    fast = dataclasses.replace(SPEC, layout="channels_last", fused=True)
    trial.run_trial(fast, tmp_path / "a.ckpt", silent)
    loaded = trial.SENet.load_from_checkpoint(tmp_path / "a.ckpt")
    assert loaded.step == PLAIN
    short = dataclasses.replace(RECIPE, epochs=2)
    for name, ways in (("a", (fast, SPEC)), ("b", (SPEC, fast))):
        first, then = (dataclasses.replace(way, recipe=short) for way in ways)
        trial.run_trial(first, tmp_path / f"{name}.ckpt", silent, until=1)
        assert trial.run_trial(then, tmp_path / f"{name}.ckpt", silent)["resumed"] is True
    assert SPEC.data == DIGITS
