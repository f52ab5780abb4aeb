"""The plan: what it says before anything trains, and that it leaves nothing behind."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from launching import TINY, WORDS, Lab
from PIL import Image
from rich.console import Console

from senet_lab.compose import compose
from senet_lab.counting import duration
from senet_lab.run import main
from senet_lab.studies import calibration, forecast
from senet_lab.studies.forecast import Expectation, expect
from senet_lab.studies.plan import Cell, Plan, look_up, make_plan
from senet_lab.studies.plan_text import show_rows, show_total
from senet_lab.studies.progress import Progress
from senet_lab.studies.store import Store
from senet_lab.training.images import Files


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What plan=true prints; nothing is written."""
    before = sorted(Path.cwd().rglob("*"))
    assert main([*words, "plan=true"]) == 0
    assert sorted(Path.cwd().rglob("*")) == before
    seen = capsys.readouterr()
    assert seen.err == ""
    return seen.out


def test_a_plan_shows_the_study_and_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = planned(capsys, "+ablation=ratio", "data.download=true", "retry=true")
    lines = out.splitlines()
    assert lines[0] == "Reduction ratio: resnet8 on digits, recipe quick"
    assert [line.split()[:3] for line in lines if line.startswith("r = 16")] == [["r", "=", "16"]]
    assert "75,674" in out
    assert "28.07 M" in out
    assert "718 training, 180 validation, 899 test images; 30 epochs" in out
    assert "18 of 18 trials to train: about" in out
    assert "(rough: by a few steps of each network)" in out
    assert all(len(line) <= 80 for line in lines if "images" not in line)


@pytest.mark.slow
def test_the_plan_of_a_large_study_needs_no_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = planned(capsys, "+ablation=ratio", "backbone=resnet50", "data=cifar10", "data.download=true")
    assert "before it can train: cifar10: there is no folder data/cifar-10-batches-py" in out
    assert "45,000 training, 5,000 validation, 10,000 test images" in out
    assert "18 of 18 trials to train: about" in out


def test_a_plan_of_a_finished_study_has_nothing_to_do(
    copy: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copy.folder)
    out = planned(capsys, *WORDS)
    assert "0 of 2" in out
    assert "all 6 trials are recorded: nothing to train" in out
    assert "rough" not in out


def test_expectations_come_from_records_of_the_same_network(copy: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.folder)
    seconds = {record["trial_id"]: record["seconds"] for record in copy.records()}
    store = Store("sqlite:///results/local/lab.db", create=False)
    monkeypatch.setattr(calibration, "calibrate", lambda *_: 1.0)
    more = look_up(make_plan(compose([*WORDS, "seeds=3"])), store)
    expectation = expect(more, store, 1)
    assert not expectation.rough
    for cell in more.todo:
        twins = [seconds[other.trial_id] for other in more.cells if other.row is cell.row and other.seed < 2]
        assert expectation.seconds[cell.trial_id] == pytest.approx(sum(twins) / 2)
    assert expectation.total(1) == pytest.approx(sum(expectation.seconds.values()))
    assert expectation.total(100) == max(expectation.seconds.values())

    other = look_up(make_plan(compose([*WORDS, "recipe.epochs=9"])), store)
    expectation = expect(other, store, 1)
    assert expectation.rough, "other epochs take another time"
    cell = other.todo[0]
    epochs = 3 * other.facts.train * 9 + other.facts.validation * 9 + other.facts.test
    overhead = 9 * (forecast.EPOCH_SECONDS + 7 * forecast.STEP_SECONDS)  # 200 images in batches of 32
    assert expectation.seconds[cell.trial_id] == cell.row.cost.macs * epochs + overhead


def test_the_calibration_is_of_the_right_size(here: Path) -> None:
    """Multiply-adds a second: more than a pocket calculator, less than any processor has."""
    study = make_plan(compose([]))
    assert 1e6 < calibration.calibrate(study, study.todo[0]) < 1e14


def test_a_driver_without_a_gpu_calibrates_on_few_images(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though trials are to run on a cluster's GPUs: a GPU's batch would keep its processor busy for minutes."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    seen: list[int] = []
    loss = calibration.F.cross_entropy
    monkeypatch.setattr(calibration.F, "cross_entropy", lambda x, y: seen.append(len(y)) or loss(x, y))
    study = make_plan(compose(["executor=ray", "executor.gpus_per_trial=0.5", "recipe.batch_size=2000"]))
    assert study.device == "cuda"
    calibration.calibrate(study, study.todo[0])
    assert set(seen) == {calibration.PIXELS["cpu"] // 8**2}


@pytest.mark.parametrize(
    ("words", "workers", "seconds", "once"),
    [
        ("training.feed=files data.workers=0", 1, 3 * 18 * 2 + 3 * 2 * 2 + 8 * 5, 0),
        ("training.feed=files data.workers=2", 1, 160 / 2, 0),
        ("training.feed=files data.workers=99", 1, 160 / 8, 0),
        ("training.feed=files data.workers=2", 4, 160 / 2, 0),
        ("training.feed=files data.workers=2", 8, 160, 0),
        ("training.feed=files data.workers=0 data.crops=10", 1, 160, 0),
        ("training.feed=memory data.workers=0", 1, 0, 18 * 2 + 2 * 2 + 8 * 5),
        ("training.feed=memory data.workers=4", 2, 0, 80 / 4),
        ("training.feed=memory data.workers=1 data.crops=10", 1, 8 * 5, 18 * 2 + 2 * 2),
        ("training.feed=memory data.workers=1 data.augment=imagenet", 1, 0, 80),
    ],
)
def test_the_decoding_of_images_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, words: str, workers: int, seconds: float, once: float
) -> None:
    """On 8 cores, by a clock that only the opening of an image moves: 2 s for one of the training tree, 5 s for one of
    the test tree. The 20 images of the former train (18) and validate, 3 epochs long."""
    for number in range(28):
        folder = here / "tree" / ("train" if number < 20 else "val") / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), (number, 0, 0)).save(folder / f"{number}.png")
    now = [0.0]

    def opened(files: Files, place: int) -> Any:
        now[0] += 2.0 if "train" in Path(files.paths[place]).parts else 5.0
        return read(files, place)

    read = Files.picture
    monkeypatch.setattr(Files, "picture", opened)
    monkeypatch.setattr(calibration, "time", SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0]))
    monkeypatch.setattr(calibration, "calibrate", lambda *_: 1e30)
    monkeypatch.setattr(forecast, "default_workers", lambda _: 8)
    study = make_plan(
        compose(["data=folder", f"data.root={here}/tree", "data.size=8", "recipe.epochs=3", *words.split()])
    )
    found = expect(study, Store("sqlite:///nowhere.db", create=False), workers)
    (cell,) = study.todo
    assert found.seconds[cell.trial_id] == pytest.approx(seconds + forecast.overhead(cell, study.facts))
    assert found.once == pytest.approx(once)
    assert found.total(1) == pytest.approx(found.seconds[cell.trial_id] + once)
    assert now[0] <= 2 * (2 + 2 + 5), "of images that take long two are tried"


def test_nothing_is_decoded_where_images_lie_in_memory(here: Path) -> None:
    study = make_plan(compose([]))
    assert calibration.decodings(study, study.todo, 1) == {}


def test_a_record_tells_nothing_of_images_that_are_read_otherwise(here: Path) -> None:
    keys = [
        forecast.pace_key(make_plan(compose(words)).todo[0].spec.config())
        for words in ([], ["data.root=elsewhere"], ["data.workers=5"], ["data.augment=none"])
    ]
    assert keys[0] == keys[1]
    assert len({*keys}) == 3


@pytest.mark.parametrize(
    ("seconds", "workers", "total"),
    [
        ([], 2, 0),
        ([5, 5, 5], 2, 10),
        ([5, 5, 5], 1, 15),
        ([5, 5, 5], 9, 5),
        ([9, 1, 1, 1, 1], 2, 9),
        ([1, 1, 9], 2, 10),
    ],
)
def test_a_trial_is_not_shared_by_workers(seconds: list[float], workers: int, total: float) -> None:
    """Each worker takes the next trial when it is free."""
    expectation = Expectation({str(number): each for number, each in enumerate(seconds)}, rough=False)
    assert expectation.total(workers) == total


def test_a_study_of_many_networks_is_not_kept_waiting(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the time for calibration is over, networks go at the mean rate of those before."""
    rates = [2.0, 6.0]

    def calibrate(*_: object) -> float:
        if len(rates) == 1:
            monkeypatch.setattr(calibration, "PROBING", 0.0)
        return rates.pop(0)

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    study = make_plan(compose(["+ablation=ratio", "seeds=2"]))
    found = expect(study, Store("sqlite:///nowhere.db", create=False), 1).seconds
    for cell, rate in zip(study.todo, [2, 6, 3, 3, 3, 3] * 2, strict=True):
        overhead = forecast.overhead(cell, study.facts)
        assert overhead < 3
        images = 30 * (3 * study.facts.train + study.facts.validation) + study.facts.test  # a step is three passes
        assert found[cell.trial_id] == pytest.approx(cell.row.cost.macs * images / rate + overhead)


@pytest.mark.parametrize(
    ("rates", "again", "found"),
    [
        ([5, 6, 2, 5, 6, 6], [5], [5, 6, 5, 5, 6, 6]),  # it was the machine
        ([5, 6, 2, 5, 6, 6], [1], [5, 6, 2, 5, 6, 6]),  # it is the network
        ([5, 6, 5, 5, 6, 6], [], [5, 6, 5, 5, 6, 6]),
    ],
)
def test_a_network_that_seems_slow_is_tried_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, rates: list[float], again: list[float], found: list[float]
) -> None:
    study = make_plan(compose(["+ablation=ratio", "seeds=1"]))
    reached = [*rates, *again]
    order = []

    def calibrate(_: object, cell: Cell) -> float:
        order.append(cell.row.label)
        return reached.pop(0)

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    labels = [cell.row.label for cell in study.todo]
    assert [*calibration.calibrated_rates(study, {cell.row.label: cell for cell in study.todo}).values()] == found
    assert not reached
    assert order == labels + [labels[2]] * len(again)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1 s"),
        (0.4, "1 s"),
        (12.4, "12 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (569, "9.5 min"),
        (571, "10 min"),
        (3600, "60 min"),
        (7200, "2.0 h"),
        (86400 * 3, "3.0 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


AWKWARD = "[red] a label that goes on and on, :smile: and on, wider than any terminal has been"


@pytest.mark.parametrize("width", [120, 80, 70])
def test_the_plan_and_the_progress_fit_the_terminal(here: Path, width: int) -> None:
    (here / "sweeps/ablation").mkdir(parents=True)
    (here / "sweeps/ablation/tiny.yaml").write_text(TINY.replace("r = 8", f'"{AWKWARD}"'))
    study = make_plan(compose(list(WORDS)))
    output = io.StringIO()
    console = Console(
        file=output, width=width, force_terminal=True, color_system=None, markup=False, highlight=False, emoji=False
    )
    expectation = Expectation({cell.trial_id: 60.0 for cell in study.todo}, rough=True)
    show_rows(study, console)
    show_total(study, expectation, 2, console)
    if width >= 80:
        assert AWKWARD[:20] in output.getvalue(), "a label is shown as it is"
    progress = Progress(study, expectation, 2, console)
    for cell in study.todo[:3]:
        progress.start(cell)
        progress.epoch(cell, {"epoch": 7, "val_error": 100 - 12.345}, 60.0)
    console.print(progress.display())
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    shown = [line for line in lines if "epoch 7/8, val accuracy 12.3%" in line]
    assert len(shown) == 3, "one line a trial"


def tiny(here: Path) -> Plan:
    """Six trials of 8 epochs: three rows, two seeds."""
    (here / "sweeps/ablation").mkdir(parents=True, exist_ok=True)
    (here / "sweeps/ablation/tiny.yaml").write_text(TINY)
    return make_plan(compose(list(WORDS)))


def probing(here: Path, takes: Callable[[int], float], set_up: float = 0.0) -> tuple[str, int]:
    """What is told by the first epochs, and after how many of them, of six trials of 8 epochs that are expected to take
    80 s each, on two workers, of which the second starts two epochs later. `takes`: training trials → seconds an epoch.
    """
    study = tiny(here)
    said = io.StringIO()
    expectation = Expectation({cell.trial_id: 80.0 for cell in study.todo}, rough=True)
    progress = Progress(study, expectation, 2, Console(file=said))
    first, second, *_ = study.todo
    progress.start(first)
    progress.start(second)
    alone = set_up + 2 * takes(1)
    for epoch in range(1, 9):
        together = max(0, epoch - 2) * takes(2)
        progress.epoch(
            first, {"epoch": epoch, "val_error": 50.0}, alone + together if together else set_up + epoch * takes(1)
        )
        if together:
            progress.epoch(second, {"epoch": epoch - 2, "val_error": 50.0}, set_up + together)
        if said.getvalue():
            return said.getvalue(), epoch
    return "", 8


def test_a_trial_that_trains_alone_tells_no_pace(here: Path) -> None:
    """Of workers that start one after the other the first has the machine to itself."""
    alike = probing(here, lambda training: 10.0)
    assert alike == ("about 3.7 min left, by the first epochs\n", 4), (
        "40 s of one, 60 s of the other, then two of 80 s each"
    )
    assert probing(here, lambda training: 10.0 if training == 2 else 8.0) == alike


def test_nothing_is_told_by_a_moment(here: Path) -> None:
    """Each of the first trials is timed for 3 s, however many epochs that is."""
    assert probing(here, lambda training: 0.5) == ("", 8)
    assert probing(here, lambda training: 1.0)[1] == 6
    assert probing(here, lambda training: 2.0)[1] == 5


def test_every_trial_is_set_up_first(here: Path) -> None:
    """What the first epochs took beyond the pace of the others, the trials to come will take, too."""
    told, _ = probing(here, lambda training: 10.0, set_up=60.0)
    assert told == "about 5.7 min left, by the first epochs\n", "60 s of the one that began last, then two of 140 s"


def test_a_training_that_a_search_stops_tells_the_pace(here: Path) -> None:
    """Trainings of 8 epochs of 10 s, expected, that take 5 s; those that the search adds are not expected at all."""
    study = tiny(here)
    first, second, *others = study.todo
    expectation = Expectation({cell.trial_id: 80.0 for cell in [first, *others]}, rough=True)
    progress = Progress(study, expectation, 1, Console(file=io.StringIO()))
    progress.learn([second], recorded=0)
    for cell, seconds in ((first, 5.0), (second, 500.0)):
        progress.start(cell)
        entries = [{"epoch": epoch, "val_error": 50.0} for epoch in (1, 2, 3, 4)]
        for entry in entries:
            progress.epoch(cell, entry, seconds * entry["epoch"])
        assert progress.left() == pytest.approx(len(others) * 40 + (20 if cell is first else 0))
        progress.stop(cell, entries)
        assert progress.left() == pytest.approx(len(others) * 40)


def test_the_time_left_is_honest(here: Path) -> None:
    """Six trials expected to take 80 s each, on two workers, that take half of it, and 8 s to be set up."""
    study = tiny(here)
    expectation = Expectation({cell.trial_id: 80.0 for cell in study.todo}, rough=True)
    said = io.StringIO()
    progress = Progress(study, expectation, 2, Console(file=said))
    assert progress.left() == pytest.approx(240)

    first, second, *others = study.todo
    progress.start(first)
    progress.start(second)
    assert progress.left() == pytest.approx(240)
    for epoch in (1, 2, 3, 4):  # the second had been half done before
        progress.epoch(first, {"epoch": epoch, "val_error": 50.0}, 8 + 5.0 * epoch)
        progress.epoch(second, {"epoch": epoch + 4, "val_error": 50.0}, 8 + 5.0 * epoch)
        assert ("by the first epochs" in said.getvalue()) == (epoch > 1)
    assert said.getvalue() == "about 2.1 min left, by the first epochs\n", "40 - 10 s of the first, then two of 48 s"
    assert progress.left() == pytest.approx(20 + 48 + 48), "the first goes on, and two follow it; two, the second"

    progress.start(first)  # its worker was killed: the next one begins anew, where this one was
    progress.epoch(first, {"epoch": 5, "val_error": 50.0}, 13.0)
    progress.epoch(first, {"epoch": 6, "val_error": 50.0}, 18.0)
    assert progress.left() == pytest.approx(10 + 48 + 48)

    done = {"state": "done", "metrics": {"test_error": 1.0}}
    progress.end(first, {**done, "seconds": 48.0, "resumed": False})
    progress.end(second, {**done, "seconds": 20.0, "resumed": True})
    other_rows, same_row = 3, 1
    assert len(others) == other_rows + same_row
    assert progress.left() == pytest.approx(4 / 2 * 48), "what was resumed measures nothing"
    for cell in others[:-1]:
        progress.start(cell)
        progress.end(cell, {"state": "failed", "reason": "diverged"})
    assert progress.left() == pytest.approx(48), "one trial cannot be shared by two workers"
