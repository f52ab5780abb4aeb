"""The role of excitation: gates against a second implementation, statistics against closed forms, the command."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from kept import Kept
from rich.console import Console
from scipy import stats
from torch import Tensor, nn

from senet_lab import models
from senet_lab.__main__ import main
from senet_lab.config import SE, Data, RunError, UserError
from senet_lab.models.gates import EXCITATIONS, SQUEEZES, SEBlock
from senet_lab.reports import gate_figures, gate_summary
from senet_lab.studies import class_choice
from senet_lab.studies.store import DONE, FAILED, Store
from senet_lab.training import checkpoints, gate_stats, sources
from senet_lab.training import data as images
from senet_lab.training.lit import SENet

NAMES = ["ant", "bee", "cat"]
DIGITS = Data(name="digits", augment="crop", validation=0.2)


def network(se: SE | None = None, backbone: str = "resnet8") -> nn.Module:
    """An SE network whose gates vary: its second layers are scaled up, its norms have seen other images."""
    net = models.create(backbone, se or SE(reduction=4), 3, in_channels=1, seed=0)
    generator = torch.Generator().manual_seed(1)
    for part in net.modules():
        if isinstance(part, SEBlock):
            with torch.no_grad():
                part.fc2.weight.mul_(4)
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
    return net


def pictures(count: int = 60) -> tuple[Tensor, Tensor]:
    """Images whose brightness tells their class, of classes of unequal size."""
    generator = torch.Generator().manual_seed(2)
    y_N = torch.tensor([0, 1, 2, 2, 1, 2] * (count // 6))
    return torch.randn(count, 1, 8, 8, generator=generator) + y_N.view(-1, 1, 1, 1), y_N


def in_batches(x_NCHW: Tensor, y_N: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x_NCHW.split(size), y_N.split(size), strict=True))


def directly(net: nn.Module, x_NCHW: Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray[Any, Any]]:
    """Module path → gates (N, C), taken down by the blocks themselves while all images go through at once."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    paths = {id(part): path for path, part in net.named_modules()}

    def forward(block: SEBlock, x: Tensor) -> Tensor:
        z = SQUEEZES[block.squeeze](x)
        h = (torch.einsum("kc,nchw->nkhw", block.fc1.weight[:, :, 0, 0], z)).clamp(min=0)
        gate = EXCITATIONS[block.excitation](torch.einsum("ck,nkhw->nchw", block.fc2.weight[:, :, 0, 0], h))
        found[paths[id(block)]] = gate.detach().flatten(2).mean(2).double().numpy()
        return x * gate

    with monkeypatch.context() as patch:  # with gradients, as without them norm and gate are one pass on a CPU
        patch.setattr(SEBlock, "forward", forward)
        net.eval()(x_NCHW)
    return found


# --------------------------------------------------------------------------------------------------------------------
# Gates


@pytest.mark.parametrize(("squeeze", "excite"), list(zip([*SQUEEZES, "avg"], EXCITATIONS, strict=True)))
def test_gates_agree_with_a_second_implementation(squeeze: str, excite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(SE(reduction=4, squeeze=squeeze, excitation=excite))
    x_NCHW, y_N = pictures()
    measured = gate_stats.measure(net, in_batches(x_NCHW, y_N, 7), NAMES, [2, 0], images_a_class=8)
    expected = directly(net, x_NCHW, monkeypatch)
    frame = measured.gates
    assert list(measured.blocks["block"]) == ["SE_2_1", "SE_3_1", "SE_4_1"]
    for name, path in zip(measured.blocks["block"], measured.blocks["module"], strict=True):
        gates_NC, y = expected[path], y_N.numpy()
        for label, chosen in ((2, gates_NC[y == 2][:8]), (0, gates_NC[y == 0][:8])):
            rows = frame[(frame["block"] == name) & (frame["class"] == NAMES[label])]
            assert set(rows["images"]) == {8}
            assert list(rows["channel"]) == list(range(gates_NC.shape[1]))
            np.testing.assert_allclose(rows["mean"], chosen.mean(0), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(rows["sd"], chosen.std(0, ddof=1), rtol=1e-3, atol=1e-6)
        rows = frame[(frame["block"] == name) & (frame["class"] == gate_stats.ALL)]
        assert set(rows["images"]) == {60}
        np.testing.assert_allclose(rows["mean"], gates_NC.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(rows["sd"], gates_NC.std(0, ddof=1), rtol=1e-3, atol=1e-6)
        within = [np.var(gates_NC[y == k], axis=0, ddof=1) * (np.sum(y == k) - 1) for k in range(3)]
        np.testing.assert_allclose(rows["within"], np.sum(within, 0) / 57, rtol=1e-3, atol=1e-10)
    assert not frame[["block", "channel", "class"]].duplicated().any()


def test_gates_of_zero_weights_are_one_half() -> None:
    net = network()
    for part in net.modules():
        if isinstance(part, SEBlock):
            nn.init.zeros_(part.fc2.weight)
    measured = gate_stats.measure(net, in_batches(*pictures(), 16), NAMES, [0, 1])
    assert set(measured.gates["mean"]) == {0.5}
    assert set(measured.gates["sd"]) == {0.0}
    summary = gate_summary.summarise_gates(measured.gates, measured.blocks)
    assert set(summary["specificity"]) == {0.0}
    assert set(summary["high"] + summary["low"]) == {0.0}
    assert gate_summary.gate_notes(summary) == [
        "The same for every image: the gates of SE_2_1, SE_3_1, SE_4_1, whose hidden layer may be dead."
    ]


def test_batches_make_no_difference() -> None:
    net, (x_NCHW, y_N) = network(), pictures()
    one, other = (
        gate_stats.measure(net, in_batches(x_NCHW, y_N, size), NAMES, [1], images_a_class=5) for size in (60, 11)
    )
    numbers = one.gates.select_dtypes("number").astype(float)
    np.testing.assert_allclose(numbers, other.gates.select_dtypes("number").astype(float), rtol=1e-3, atol=1e-6)


def test_the_network_is_left_as_it_was() -> None:
    net, (x_NCHW, y_N) = network(), pictures()
    net.train()
    net.get_submodule("layer2").eval()
    modes = [part.training for part in net.modules()]
    weights = {name: value.clone() for name, value in net.state_dict().items()}

    def breaking() -> Iterator[tuple[Tensor, Tensor]]:
        yield x_NCHW, y_N
        raise RunError("an image cannot be read")

    with pytest.raises(RunError, match="cannot be read"):
        gate_stats.measure(net, breaking(), NAMES, [0])
    state = torch.get_rng_state()
    gate_stats.measure(net, [(x_NCHW, y_N)], NAMES, [0], every=True)
    assert torch.equal(state, torch.get_rng_state())
    assert [part.training for part in net.modules()] == modes
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in net.modules())
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    with gate_stats.evaluating(net):
        unwatched = net(x_NCHW)  # norm and gate in one pass
        with torch.enable_grad():
            before = net(x_NCHW)
        with gate_stats.latest_gates(gate_stats.measured_blocks(net)) as latest:
            assert torch.equal(net(x_NCHW), before)
        torch.testing.assert_close(unwatched, before)
        assert torch.equal(net(x_NCHW), unwatched)
        assert set(latest) == {"SE_2_1", "SE_3_1", "SE_4_1"}


@pytest.mark.parametrize(
    ("backbone", "se"), [("resnet20", SE(reduction={2: 8, 4: 16})), ("resnet18", SE(position="identity", bias=True))]
)
def test_saved_parameters_are_those_that_cost_counts(backbone: str, se: SE) -> None:
    with torch.device("meta"):
        net = models.create(backbone, se, 10)
    cost = models.cost(net, (3, 32, 32))
    every, last = gate_stats.measured_blocks(net, every=True), gate_stats.measured_blocks(net)
    assert {shown.stage: shown.stage_params for shown in last} == {
        stage: part.se_params for stage, part in cost.stages.items() if part.se_params
    }
    assert sum({shown.stage: shown.stage_params for shown in last}.values()) == cost.se_params
    assert len(every) == sum(isinstance(part, SEBlock) for part in net.modules())
    assert len({shown.name for shown in every}) == len(every)
    for stage in {shown.stage for shown in last}:
        mates = [other for other in every if other.stage == stage]
        count = 3 if stage == last[-1].stage else 1
        assert [shown.block for shown in last if shown.stage == stage] == [mate.block for mate in mates[-count:]]
        assert mates[-1].name == f"SE_{stage}_{len(mates)}"


def test_the_paper_network_has_the_paper_blocks() -> None:
    """The panels of its figure 6, the saturation of SE_5_2 among them."""
    with torch.device("meta"):
        net = models.create("resnet50", SE(), 1000)
    stages = {2: (3, 256, [3]), 3: (4, 512, [4]), 4: (6, 1024, [6]), 5: (3, 2048, [1, 2, 3])}
    assert [(shown.name, shown.stage_params) for shown in gate_stats.measured_blocks(net)] == [
        (f"SE_{stage}_{block}", 2 * blocks * width**2 // 16)
        for stage, (blocks, width, shown) in stages.items()
        for block in shown
    ]


def test_blocks_outside_stages_are_shown_by_their_paths() -> None:
    net = nn.Sequential(SEBlock(1, 1), nn.Conv2d(1, 4, 1), SEBlock(4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    measured = gate_stats.measure(net, [pictures()], NAMES, [0])
    assert list(measured.blocks["block"]) == ["0", "2"]
    assert list(measured.blocks["stage_se_params"]) == [2, 16]
    assert measured.gates["stage"].isna().all()


def test_gates_that_are_no_numbers_are_refused() -> None:
    net = network()
    with torch.no_grad():
        net.get_submodule("layer2").get_parameter("0.conv1.weight").fill_(torch.nan)
    with pytest.raises(RunError, match="SE_3_1"):
        gate_stats.measure(net, [pictures()], NAMES, [0])


# --------------------------------------------------------------------------------------------------------------------
# Statistics


def test_components_by_hand() -> None:
    # Classes {0, 2} and {4, 6}: within 2, mean square between 2·(4 + 4) = 16, so between (16 - 2)/2 = 7.
    within, between = gate_stats.variance_components(
        np.array([2, 2]), np.array([[1.0], [5.0]]), np.array([[2.0], [2.0]])
    )
    assert (within[0], between[0]) == (2.0, 7.0)
    within, between = gate_stats.variance_components(np.array([1, 1]), np.array([[1.0], [5.0]]), np.zeros((2, 1)))
    assert np.isnan(within[0])
    within, between = gate_stats.variance_components(np.array([3]), np.array([[1.0]]), np.array([[2.0]]))
    assert within[0] == 1.0
    assert np.isnan(between[0])


def test_components_agree_with_the_analysis_of_variance() -> None:
    random = np.random.default_rng(0)
    groups = [random.normal(k, 1 + k, (n, 5)) for k, n in enumerate((4, 9, 30))]
    tally = gate_stats.Tally(4, 5)  # the fourth class has no images
    tally.add(torch.tensor(np.concatenate(groups)), torch.tensor([0] * 4 + [1] * 9 + [2] * 30))
    frame = tally.together()
    typical = (43 - (16 + 81 + 900) / 43) / 2
    f = 1 + typical * frame["between"] / frame["within"]
    np.testing.assert_allclose(f, stats.f_oneway(*groups).statistic, rtol=1e-9)


@pytest.mark.parametrize("effect", [0.0, 0.5])
def test_specificity_is_the_ratio_of_the_true_variances(effect: float) -> None:
    """Also where classes have few images, whose means differ by chance alone; a ratio of plain variances would say
    1/5 more."""
    random = np.random.default_rng(1)
    classes, each, channels = 40, 5, 400
    gates_KNC = random.normal(0, effect, (classes, 1, channels)) + random.normal(0, 1, (classes, each, channels))
    tally = gate_stats.Tally(classes, channels)
    tally.add(torch.tensor(gates_KNC.reshape(-1, channels)), torch.arange(classes).repeat_interleave(each))
    frame = tally.together().assign(block="SE_2_1", stage=2)
    (found,) = gate_summary.summarise_gates(frame, facts(["SE_2_1"]))["specificity"]
    assert abs(found - effect**2) < 0.02


def test_saturated_gates_are_counted_on_both_sides() -> None:
    tally = gate_stats.Tally(2, 3)
    gates_BC = [[0.96, 0.95, 0.04], [0.9501, 0.05, 0.5], [1.0, 0.0, 0.0499], [0.5, 0.5, -1.0]]
    tally.add(torch.tensor(gates_BC, dtype=torch.float64), torch.tensor([0, 0, 1, 1]))
    frame = tally.together()
    assert list(frame["high"]) == [3 / 4, 0, 0]
    assert list(frame["low"]) == [0, 1 / 4, 3 / 4]
    by_class = tally.frame(["a", "b"])
    assert list(by_class["high"]) == [1, 0, 0, 1 / 2, 0, 0]
    assert list(by_class["low"]) == [0, 0, 1 / 2, 0, 1 / 2, 1]


def facts(blocks: list[str], kind: str = "sigmoid", squeeze: str = "avg") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "block": blocks,
            "stage": pd.array(range(2, 2 + len(blocks)), dtype="Int64"),
            "module": [f"layer{i}" for i in range(len(blocks))],
            "squeeze": squeeze,
            "excitation": kind,
            "stage_se_params": [100 * 4**i for i in range(len(blocks))],
            "params": 100_000,
        }
    )


def made_up(blocks: list[str], classes: list[str], channels: int = 256) -> pd.DataFrame:
    """Gates that become more class-specific from block to block."""
    random = np.random.default_rng(3)
    rows = []
    for depth, block in enumerate(blocks):
        base = random.uniform(0.1, 0.9, channels)
        for name in [*classes, gate_summary.ALL]:
            every = name == gate_summary.ALL
            one = {"block": block, "stage": depth + 2, "channel": range(channels), "class": name}
            one["mean"] = base if every else np.clip(base + random.normal(0, 0.05 * depth, channels), 0, 1)
            one |= {"sd": 0.05, "images": 10_000 if every else 50, "high": 0.1 * depth, "low": 0.0}
            one |= {"within": 0.0025, "between": (0.05 * depth) ** 2} if every else {}
            rows.append(pd.DataFrame(one))
    return pd.concat(rows, ignore_index=True).astype({"stage": "Int64"})


FOUR = ["SE_2_3", "SE_3_4", "SE_4_6", "SE_5_3"]


def test_the_three_observations_are_said_in_numbers() -> None:
    summary = gate_summary.summarise_gates(made_up(FOUR, list(NAMES)), facts(FOUR))
    np.testing.assert_allclose(summary["specificity"], [0, 1, 4, 9])
    np.testing.assert_allclose(summary["high"], [0, 0.1, 0.2, 0.3])
    np.testing.assert_allclose(summary["saved_percent"], [0.1, 0.4, 1.6, 6.4])
    specific, saturated, cost = gate_summary.observations(summary)
    assert "0.00 in SE_2_3 and 9.00 in SE_5_3; it rises" in specific
    assert "most of all: of the gates of SE_5_3, 30.0% are above 0.95 and 0.0% below" in saturated
    assert "stage 5, the last with any, the network would have 6,400 parameters fewer, 6.40%" in cost
    falling = summary.assign(specificity=[9.0, 4.0, 1.0, 0.0])
    assert "does not rise from block to block; most in SE_2_3, 9.00" in gate_summary.observations(falling)[0]
    unknown = summary.assign(specificity=np.nan)
    assert "not to be told" in gate_summary.observations(unknown)[0]
    notes = gate_summary.gate_notes(gate_summary.summarise_gates(made_up(FOUR, NAMES), facts(FOUR, "softmax", "none")))
    assert "sum to 1" in notes[0]
    assert "its mean stands for it" in notes[1]


@pytest.mark.parametrize("blocks", [FOUR, ["body.features.12.squeeze_and_excite"] * 1, [f"SE_2_{i}" for i in range(9)]])
def test_the_terminal_has_eighty_columns(blocks: list[str]) -> None:
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    gate_summary.print_gates(gate_summary.summarise_gates(made_up(blocks, NAMES, 2048), facts(blocks)), console)
    text = console.export_text()
    console.file.close()
    assert max(map(len, text.splitlines())) <= 80
    assert all(block[-19:] in text for block in blocks)


# --------------------------------------------------------------------------------------------------------------------
# Files


def test_the_same_gates_give_the_same_bytes(tmp_path: Path) -> None:
    frame = made_up(FOUR, ["goldfish", "plane", "NA", "7, or so"])
    written = gate_figures.write_gates(tmp_path / "a", frame, facts(FOUR), "resnet50, $images$")
    again = gate_figures.write_gates(
        tmp_path / "b", gate_summary.read_gates(tmp_path / "a" / "gates.csv"), facts(FOUR), "resnet50, $images$"
    )
    assert len(written) == 2 + 2 * 3
    for one, other in zip(written, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert b"<dc:date>" not in (tmp_path / "a" / "gates_by_class.svg").read_bytes()
    assert b"CreationDate" not in (tmp_path / "a" / "gates_by_class.pdf").read_bytes()
    header = (tmp_path / "a" / "gates.csv").read_text().splitlines()[0]
    assert header.startswith("block,stage,channel,class,mean,sd,images")
    read = gate_summary.read_gates(tmp_path / "a" / "gates.csv")
    pd.testing.assert_frame_equal(read, frame, check_dtype=False, rtol=1e-5)


def test_figures_show_what_the_file_holds() -> None:
    frame = made_up(FOUR, [*NAMES, "dog"])
    summary = gate_summary.summarise_gates(frame, facts(FOUR))
    figure = gate_figures.by_class(frame, summary, "resnet50, images")
    assert len(figure.axes) == 4
    for block, axes in zip(FOUR, figure.axes, strict=True):
        assert axes.get_title() == f"{block}: 50 of 256 channels"
        assert [line.get_label() for line in axes.lines] == [gate_summary.ALL, *NAMES, "dog"]
        for line in axes.lines:
            shown = frame[(frame["block"] == block) & (frame["class"] == line.get_label())].set_index("channel")["mean"]
            channels = line.get_xdata()
            assert (len(channels), channels[0], channels[-1]) == (50, 0, 255)
            assert set(np.diff(channels)) <= {5, 6}  # evenly spaced
            np.testing.assert_array_equal(line.get_ydata(), shown[channels])
    within = gate_figures.within_class(frame, summary, "resnet50, images")
    for axes in within.axes:
        assert [line.get_label() for line in axes.lines] == NAMES[:2]
        assert len(axes.collections) == 2


def test_classes_differ_without_colour() -> None:
    styles = [gate_figures.EVERY, *gate_figures.STYLES]
    assert len({(str(style.dashes), style.marker, style.width) for style in styles}) == len(styles)
    assert len({style.marker for style in styles}) == len(styles)


@pytest.mark.parametrize("count", [3, 5])
def test_nothing_of_a_figure_overlaps(count: int) -> None:
    blocks = [f"SE_{i}_1" for i in range(2, 2 + count)]
    frame = made_up(blocks, ["a class of a very long name indeed", *NAMES])
    for draw in (gate_figures.by_class, gate_figures.within_class):
        summary = gate_summary.summarise_gates(frame, facts(blocks))
        figure = draw(frame, summary, "a backbone, a data set of a long name")
        figure.draw_without_rendering()
        boxes = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
        boxes += [figure.legends[0].get_window_extent(), figure._suptitle.get_window_extent()]
        assert len(boxes) == count + 2
        for place, box in enumerate(boxes):
            assert box.x0 >= -1
            assert box.x1 <= figure.bbox.x1 + 1
            assert not any(box.overlaps(other) for other in boxes[:place])


# --------------------------------------------------------------------------------------------------------------------
# Classes


def known(classes: tuple[str, ...]) -> images.DataFacts:
    return images.DataFacts("", classes, 3, 1, 1, 1)


def test_classes_by_name_or_label() -> None:
    folders = known(("n01440764", "n02102040", "n03888257", "zebra"))
    names = images.names_of(Data(name="folder"), folders)
    assert names == ["tench", "English springer", "parachute", "zebra"]
    counts = np.array([5, 5, 5, 0])
    assert class_choice.choose_classes(["parachute", "n01440764", "1", "2"], names, folders, counts) == [2, 0, 1]
    assert class_choice.choose_classes(None, names, folders, counts) == [0, 1, 2]
    with pytest.raises(
        UserError, match=r"no class 'tensh' \(did you mean tench\?\); there are tench, English springer"
    ):
        class_choice.choose_classes(["tensh"], names, folders, counts)
    with pytest.raises(UserError, match="no test images of class 'zebra'"):
        class_choice.choose_classes(["zebra"], names, folders, counts)
    digits = known(tuple("0123456789"))
    assert class_choice.choose_classes(None, list(digits.classes), digits, np.ones(10)) == [0, 3, 6, 9]
    many = known(tuple(f"class{i}" for i in range(1000)))
    with pytest.raises(UserError) as error:
        class_choice.choose_classes(["cat"], list(many.classes), many, np.ones(1000))
    assert len(str(error.value)) < 240
    assert "1000 in all" in str(error.value)


def test_the_paper_classes_where_they_are() -> None:
    wordnet = sorted(sources.WORDNET)
    folders = known(tuple(wordnet))
    names = images.names_of(Data(name="folder"), folders)
    chosen = class_choice.choose_classes(None, names, folders, np.ones(len(names)))
    assert [names[label] for label in chosen] == list(class_choice.PAPER)
    assert [wordnet[label] for label in chosen] == ["n01443537", "n03954731", "n02110958", "n09246464"]


def test_a_class_may_be_called_like_all_of_them() -> None:
    assert gate_stats.ALL == gate_summary.ALL
    assert gate_stats.ALL not in images.names_of(Data(name="folder"), known((gate_stats.ALL, "b")))


# --------------------------------------------------------------------------------------------------------------------
# The command


@dataclasses.dataclass(frozen=True)
class Lab:
    """A results folder with a trial whose weights were kept, one whose were not, and one that failed."""

    results: Path
    kept: str
    dropped: str
    failed: str

    @property
    def checkpoint(self) -> Path:
        return self.results / "checkpoints" / f"{self.kept}.ckpt"


@pytest.fixture(scope="module")
def lab(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    results = tmp_path_factory.mktemp("lab") / "results"
    shutil.copytree(kept.results, results)
    made = Lab(results, kept.trial_id, 16 * "d", 16 * "f")
    store = Store(f"sqlite:///{results}/lab.db")
    failure = {"config": kept.record["config"], "reason": "train_loss was nan in epoch 1"}
    for trial_id, state, value in ((made.dropped, DONE, kept.record), (made.failed, FAILED, failure)):
        assert store.claim(trial_id)
        assert store.finish(trial_id, state, value)
    return made


def saved(path: Path, settings: dict[str, Any], drop: str = "") -> Path:
    """A checkpoint as Lightning writes it, for the settings of `SENet`."""
    module = SENet(**settings)
    content = {"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict()}
    torch.save({key: value for key, value in content.items() if key != drop}, path)
    return path


def test_the_command_writes_the_numbers_of_its_network(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["excitation", lab.kept, "--results", str(lab.results), "--to", str(tmp_path / "out")]
    words += ["--classes", "1", "3", "--images", "20"]
    monkeypatch.setenv("COLUMNS", "80")
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "899 test images" in out
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("written"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"gates.csv", "blocks.csv"} | {
        f"{name}.{suffix}" for name in gate_summary.FIGURES for suffix in ("svg", "png", "pdf")
    }
    module = checkpoints.load_network(lab.checkpoint)
    test = images.load_splits(DIGITS).test
    measured = gate_stats.measure(module.net, test.batches(64), list("0123456789"), [1, 3], images_a_class=20)
    read = gate_summary.read_gates(tmp_path / "out" / "gates.csv")
    assert list(read["class"].unique()) == ["1", "3", gate_summary.ALL]
    pd.testing.assert_frame_equal(read, measured.gates, check_dtype=False, rtol=1e-4, atol=1e-9)


def test_the_trained_network_is_the_one_that_is_shown(lab: Lab) -> None:
    """The gates are those of the trained weights, not of the network as it was first drawn."""
    module = checkpoints.load_network(lab.checkpoint)
    drawn = SENet(**dict(module.hparams))
    path = "net.layer3.0.bn2.se.fc1.weight"
    assert not torch.equal(module.get_parameter(path), drawn.get_parameter(path))
    saved = torch.load(lab.checkpoint, weights_only=True)["state_dict"][path]
    assert torch.equal(module.get_parameter(path), saved)


def test_the_default_place_and_the_record_tell_the_rest(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["excitation", str(lab.checkpoint), "--results", str(lab.results)]) == 0
    first = {path.name: path.read_bytes() for path in (lab.results / "excitation" / lab.kept).iterdir()}
    assert main(["excitation", lab.kept, "--results", str(lab.results), "training.device=cpu"]) == 0
    assert first == {path.name: path.read_bytes() for path in (lab.results / "excitation" / lab.kept).iterdir()}
    assert "SE_4_1" in capsys.readouterr().out
    read = gate_summary.read_gates(lab.results / "excitation" / lab.kept / "gates.csv")
    assert list(read["class"].unique()) == ["0", "3", "6", "9", gate_summary.ALL]
    assert set(read["images"]) == {50, 899}


def test_words_refine_what_the_record_says(lab: Lab, tmp_path: Path) -> None:
    arguments = ["excitation", lab.kept, "--results", str(lab.results), "--to", str(tmp_path)]
    assert main([*arguments, "--classes", "4", "data.test_subset=100"]) == 0
    assert set(gate_summary.read_gates(tmp_path / "gates.csv")["images"]) == {10, 100}


def own(num_classes: int, in_channels: int) -> nn.Module:
    """A user's own network, without stages."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3), SEBlock(8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )


PLAIN = {"backbone": "resnet8", "se": None, "classes": 10, "channels": 1}
GATED = {**PLAIN, "se": {"reduction": 4}}


def test_bad_input_is_answered_in_one_line(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (text := tmp_path / "text.ckpt").write_text("no checkpoint")
    (empty := tmp_path / "empty.ckpt").write_bytes(b"")
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(lab.checkpoint.read_bytes()[:20_000])
    torch.save([1, 2], tmp_path / "list.ckpt")
    plain = saved(tmp_path / "plain.ckpt", PLAIN)
    coloured = saved(tmp_path / "coloured.ckpt", {**GATED, "channels": 3})
    hundred = saved(tmp_path / "hundred.ckpt", {**GATED, "classes": 100})
    half = saved(tmp_path / "half.ckpt", GATED, drop="state_dict")
    foreign = saved(tmp_path / "foreign.ckpt", {**PLAIN, "backbone": "test_excitation:own"})
    torch.save({"hyper_parameters": {**GATED, "backbone": "resnet9"}, "state_dict": {}}, tmp_path / "nine.ckpt")
    trial_id = lab.kept
    for words, expected in (
        (["missing.ckpt"], "there is no checkpoint missing.ckpt"),
        (["0123456789abcdef"], "neither a trial 0123456789abcdef"),
        ([lab.dropped], "training.keep=last"),
        ([lab.failed], "failed, so it has no weights: train_loss was nan"),
        ([str(text)], "is not a checkpoint"),
        ([str(empty)], "is not a checkpoint"),
        ([str(cut)], "is not a checkpoint"),
        ([str(tmp_path / "list.ckpt")], "is not a checkpoint of a network"),
        ([str(half)], "is not a checkpoint of a network"),
        ([str(tmp_path / "nine.ckpt")], "cannot be built again: backbone: 'resnet9'"),
        ([str(plain)], "has no SE blocks"),
        ([str(coloured)], "images of 3 channels and 10 classes; digits has 1 channel and 10 classes"),
        ([str(hundred)], "images of 1 channel and 100 classes; digits has 1 channel and 10 classes"),
        ([str(foreign)], "say backbone=test_excitation:own"),
        ([trial_id, "--classes", "3", "cat"], "no class 'cat'; there are 0, 1, 2"),
        ([trial_id, "--classes", *"0123456"], "6 at most"),
        ([trial_id, "--images", "0"], "--images: 0"),
        ([trial_id, "--images", "few"], "invalid int value"),
        ([trial_id, "--bogus"], "unrecognized arguments: --bogus"),
        ([trial_id, "recipe.epochs=3"], "'recipe.epochs=3'"),
        ([trial_id, "data=mnist"], "there is no data 'mnist'"),
        ([trial_id, "data=cifar10", "--data-root", str(tmp_path)], "cifar10"),
        ([str(coloured), "data=folder", "data.root=nowhere"], "no folder"),
    ):
        code = main(["excitation", *words, "--results", str(lab.results), "--to", str(tmp_path / "out")])
        told = capsys.readouterr()
        assert (code, told.err.count("\n")) == (2, 1), (words, told.err)
        assert expected in told.err, (words, told.err)
        assert told.err.startswith("error: ")
        assert not (tmp_path / "out").exists(), words
    assert main(["excitation", str(foreign), "--to", str(tmp_path / "own"), "backbone=test_excitation:own"]) == 0
    assert set(gate_summary.read_gates(tmp_path / "own" / "gates.csv")["block"]) == {"1"}


def test_other_images_than_in_training_are_pointed_out(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts_now = dataclasses.replace(images.data_facts(DIGITS), identity="digits other")
    monkeypatch.setattr(images, "data_facts", lambda data: facts_now)
    assert main(["excitation", lab.kept, "--results", str(lab.results), "--to", str(tmp_path / "out")]) == 0
    assert "not the images" in capsys.readouterr().out
