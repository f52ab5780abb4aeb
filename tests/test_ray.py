"""Studies on real Ray clusters: of two nodes on this machine, of which one is killed, and Ray's own instance."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import ROOT, TRIALS, WORDS, Ended, Lab, ended, one_line, wait_for
from ray_nodes import Nodes

from senet_lab.run import main
from senet_lab.studies.executors import EXECUTORS

pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
pytestmark = pytest.mark.timeout(300)

ON_RAY = (*WORDS[:-1], "executor=ray")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster whose head is node a; tests start and kill node b."""
    with Nodes() as made:
        yield made
        assert not (made.temp / ".ray").exists(), "no token is left in the home"


def home(lab: Lab) -> Path:
    made = lab.folder / "home"
    made.mkdir(exist_ok=True)
    return made


def check_whole(lab: Lab, like: Lab, done: Ended) -> None:
    """It ended well, every trial is recorded once, and its files are those of a run on local workers."""
    assert (done.code, done.err) == (0, ""), done
    assert Counter(record["state"] for record in lab.records()) == {"done": TRIALS}
    assert done.out.count(f"/{TRIALS}]") == TRIALS
    assert lab.bytes() == like.bytes()
    assert not list((lab.folder / "results/local/checkpoints").iterdir())
    assert lab.left() == []


@pytest.mark.slow
def test_a_study_on_two_nodes_of_which_one_is_killed_ends_with_the_same_bytes(
    nodes: Nodes, finished: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.start("b", f"--address={nodes.address}")
    lab = Lab(tmp_path)
    for name, value in {**nodes.secret, "HOME": str(home(lab))}.items():
        monkeypatch.setenv(name, value)
    driver = lab.start(*ON_RAY, f"executor.address={nodes.address}", "recipe.epochs=8")

    def training_on_both() -> bool:
        return len(list((tmp_path / "results/local/checkpoints").glob("*.ckpt"))) >= 2

    wait_for(training_on_both, driver, 200)
    nodes.kill("b")
    done = ended(driver)
    check_whole(lab, finished, done)
    assert "was lost; it goes on from its last epoch" in done.out
    assert max(record["attempts"] for record in lab.records()) == 2
    assert not (home(lab) / ".ray").exists()


OWN = """
import numpy as np, torch
def squares(count=60):
    images = np.random.RandomState(0).randint(0, 60, (2 * count, 16, 16, 3)).astype(np.uint8)
    labels = np.arange(2 * count) % 3
    for image, label in zip(images, labels):
        image[4:12, 4:12, label] += 100
    return (images[:count], labels[:count]), (images[count:], labels[count:])
def small(num_classes):
    layers = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, num_classes))
class Gate(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(channels))
    def forward(self, x):
        return x * self.weight.sigmoid()[:, None, None]
def loss(logits, targets):
    return torch.nn.functional.cross_entropy(logits, targets)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("data=mine:squares", "backbone=mine:small", "se=null"),
        ("+vary=se.kind", "levels=[se,mine:Gate]"),
        ("+vary=recipe.loss", "levels=[cross_entropy,mine:loss]"),
    ],
    ids=["data and network", "gate", "loss"],
)
def test_code_of_the_users_own_is_sent_to_nodes_that_lack_it(
    nodes: Nodes, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes are on this machine, so the file is taken away once it was sent."""
    found = []
    for executor in ("executor=local", "executor=ray"):
        (tmp_path / executor).mkdir()
        lab = Lab(tmp_path / executor)
        path = lab.folder / "mine.py"
        path.write_text(OWN)
        for name, value in nodes.secret.items():
            monkeypatch.setenv(name, value)
        address = [f"executor.address={nodes.address}"] * (executor == "executor=ray")
        driver = lab.start(*words, executor, *address, "recipe.epochs=1", "data.subset=40", "seeds=2")
        if address:
            wait_for(lambda place=lab.folder: list(place.glob("results/local/checkpoints/.shared-*")), driver)  # type: ignore[misc]
            path.unlink()
        done = ended(driver)
        assert (done.code, done.err) == (0, ""), done
        found += [path.read_bytes() for path in (lab.folder / "results").rglob("trials.csv")]
    assert len(found) == 2
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_node_without_the_data_set_is_named(
    nodes: Nodes, digit_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes are on this machine, so the folder is taken away once the driver has seen it."""
    lab = Lab(tmp_path)
    shutil.copytree(digit_files, tmp_path / "images")
    for name, value in nodes.secret.items():
        monkeypatch.setenv(name, value)
    driver = lab.start(
        *("data=folder", "data.root=images", "data.size=8", "data.resize=8", "data.mean=[0.3]", "data.std=[0.4]"),
        *("data.augment=none", "recipe.epochs=1", "executor=ray", f"executor.address={nodes.address}"),
    )
    wait_for(lambda: list((tmp_path / "results/local/checkpoints").glob(".shared-*")), driver)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    done = ended(driver)
    assert done.code == 1, done
    assert one_line(done.err, "error: network, seed 0: on the node ", socket.gethostname(), str(tmp_path / "images"))


@pytest.mark.slow
def test_without_an_address_ray_trains_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle, then to the end; Ray's own instance ends with the study."""
    lab = Lab(tmp_path)
    monkeypatch.setenv("HOME", str(home(lab)))
    words = ("data.subset=60", "data.test_subset=60", "executor=ray", "executor.workers=1")
    driver = lab.start(*words, "recipe.epochs=500")
    wait_for(lab.training, driver)
    os.killpg(driver.pid, signal.SIGINT)
    asked = time.monotonic()
    done = ended(driver)
    assert done.code == 130, done
    assert one_line(done.err, "interrupted: ")
    assert time.monotonic() - asked < 30
    assert lab.left() == []
    assert not any(record["state"] == "running" for record in lab.records()), "its claims are given back"
    done = lab.run(*words, "recipe.epochs=1", "training.keep=last")
    assert (done.code, done.err) == (0, ""), done
    assert "weights kept: " in done.out
    assert lab.left() == []
    assert not list((tmp_path / "results/local/checkpoints").glob(".*"))


@pytest.mark.parametrize(
    "address",
    [pytest.param("127.0.0.1:1", marks=pytest.mark.slow), "nowhere", "127.0.0.1:x"],  # Ray waits half a minute for it
)
def test_an_address_without_a_cluster_is_one_line(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["executor=ray", f"executor.address={address}", "tracking=off"]) == 2
    assert one_line(capsys.readouterr().err, f"error: executor.address={address}")


@pytest.mark.slow
def test_an_address_where_something_else_listens_is_one_line(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with socket.socket() as other:  # it says nothing
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = ended(lab.start("executor=ray", f"executor.address={address}"), timeout=90)
    assert done.code == 2
    assert one_line(done.err, f"error: executor.address={address}: there is no Ray cluster")
    assert lab.left() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("executor=slurm", "executor: there is no executor 'slurm'; there are local, ray"),
        ("executor.name=slurm plan=true", "executor.name: there is no 'slurm'; there are local, ray"),
        ("executor.address=auto", "executor.address is for executor=ray"),
        ("executor=ray executor.gpus_per_trial=2", "executor.gpus_per_trial=2.0 is not between 0 and 1"),
        ("executor=ray executor.cpus_per_trial=0", "executor.cpus_per_trial=0.0 is not between 0.01 and"),
        ("executor=ray executor.gpus_per_trial=0.5 training.device=cpu", "exclude each other"),
    ],
)
def test_words_that_cannot_be(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert one_line(capsys.readouterr().err, said)


def test_every_executor_has_its_defaults() -> None:
    assert sorted(EXECUTORS) == sorted(path.stem for path in (ROOT / "senet_lab/conf/executor").glob("*.yaml"))


def test_without_ray_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python has it for a module that cannot be imported
    assert main(["executor=ray", "tracking=off"]) == 2
    assert one_line(capsys.readouterr().err, "executor=ray: Ray is not installed; pip install 'senet-lab[ray]'")
