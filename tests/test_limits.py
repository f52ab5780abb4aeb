"""What a trial may take, memory that suffices for one only, and studies that cannot work. Real processes throughout."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import SEARCH, Ended, Lab, one_line

from senet_lab.compose import compose
from senet_lab.config import Config, UserError
from senet_lab.run import main
from senet_lab.studies import limits, plan_text, pool, ray, rows
from senet_lab.studies import workers as workers_of
from senet_lab.studies.limits import Limits
from senet_lab.training import faults, step
from senet_lab.training.data import data_facts
from senet_lab.training.sampling import mix_seed

# A network of the user's own: the lab's, with a classifier that does in its first step what the file of its seed says.
NETS = """
import ctypes
import time
from pathlib import Path
import torch
from torch import nn
from senet_lab import models

def wait_for(pattern, count):
    while len(list(Path("deeds").glob(pattern))) < count:
        time.sleep(0.02)

def do(deed, mine):
    if deed in ("company", "company, hang"):
        wait_for("crowded", 1)
    if deed in ("hang", "company, hang"):
        ctypes.PyDLL(None).sleep(600)  # with Python's lock, as a broken extension does: no thread of it can run
    if deed == "grow":
        hoard = bytearray(b"x") * 3 * 2**29
        time.sleep(600)
    if deed == "later":
        wait_for("failed", 1)
        time.sleep(3)  # so that the driver has heard of it
    if deed == "fail":
        Path("deeds", "failed").touch()
        raise RuntimeError("a fault of its own")
    if deed == "memory":
        raise MemoryError("made up")
    if deed == "beside":  # as long as another one trains
        wait_for("*.began", 2)
        Path("deeds", "crowded").touch()
        raise torch.OutOfMemoryError("made up")

class Head(nn.Linear):
    deed = None
    def forward(self, x):
        if self.training and x.device.type != "meta" and self.deed is None:
            mine = Path("deeds", str(torch.initial_seed()))
            self.deed = mine.read_text() if mine.exists() else ""
            if self.deed in ("beside", "company"):
                mine.unlink()
            mine.with_suffix(".began").touch()
            do(self.deed, mine)
        return super().forward(x)

def make(num_classes, in_channels):
    net = models.create("resnet8", None, num_classes, in_channels=in_channels)
    net.fc = Head(net.fc.in_features, num_classes)
    return net
"""
SMALL = ("recipe.epochs=1", "data.subset=60", "data.test_subset=60")
OWN = ("backbone=nets:make", "se=null", *SMALL)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab with a network of its own, which this process, too, imports from there."""
    lab = Lab(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "deeds").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return lab


def have(lab: Lab, **deeds: str) -> None:
    """What the trainings of the seeds `s0`, `s1`, … are to do."""
    for seed, deed in deeds.items():
        (lab.folder / "deeds" / str(mix_seed(int(seed[1:]), 0))).write_text(deed)


def inside(capsys: pytest.CaptureFixture[str], *words: str) -> Ended:
    """The command in this process (its workers are processes all the same): spares the import of torch."""
    code = main([*words, "tracking=off"])
    seen = capsys.readouterr()
    return Ended(code, seen.out, seen.err)


def by_seed(lab: Lab) -> dict[int, dict[str, Any]]:
    return {record["seed"]: record for record in lab.records()}


# -------------------------------------------------------------------------------------------------------------- limits


LIMITS = ("executor.time_limit=0.2", "executor.memory_limit=1.25")


def check_over(records: dict[int, dict[str, Any]]) -> None:
    assert [records[seed]["state"] for seed in range(3)] == ["failed", "failed", "done"]
    assert records[0]["reason"] == "its training took longer than executor.time_limit=0.2 (minutes)"
    assert records[1]["reason"] == "its process took more memory than executor.memory_limit=1.25 (GiB)"


@pytest.mark.slow
def test_a_trial_that_hangs_fails_and_one_that_had_no_room_beside_it_is_trained_alone(
    own: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    have(own, s0="beside", s1="company, hang")
    done = inside(capsys, *OWN, "seeds=2", "executor.workers=2", "executor.time_limit=0.3")
    assert (done.code, done.err) == (0, ""), done
    records = by_seed(own)
    assert (records[0]["state"], records[0]["attempts"]) == ("done", 2)
    assert (records[1]["state"], records[1]["attempts"]) == ("failed", 1)
    assert records[1]["reason"] == "its training took longer than executor.time_limit=0.3 (minutes)"
    assert "seed 0: out of memory (made up); once more alone, when nothing else trains" in done.out
    (began,) = (own.folder / "deeds").glob(f"{mix_seed(1, 0)}.began")
    assert records[0]["started"] - began.stat().st_mtime > 0.3 * 60 - 5, "not before the one that hung was ended"
    assert not multiprocessing.active_children()
    assert not list((own.folder / "results/local/checkpoints").iterdir())


@pytest.mark.slow
def test_a_trial_over_a_limit_fails_alone_and_even_if_it_hangs(own: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    have(own, s0="hang", s1="grow")
    done = inside(capsys, *OWN, "seeds=3", "executor.workers=2", *LIMITS)
    assert (done.code, done.err) == (0, ""), done
    check_over(by_seed(own))
    assert not multiprocessing.active_children()
    assert not list((own.folder / "results/local/checkpoints").iterdir())


def test_the_memory_of_a_process_is_what_it_has_written_to() -> None:
    before = limits.resident(os.getpid())
    with mmap.mmap(-1, 2**26) as hoard:  # pages of its own, none that the process had before
        asked = limits.resident(os.getpid()) - before
        for at in range(0, len(hoard), mmap.PAGESIZE):
            hoard[at] = 1
        grown = limits.resident(os.getpid()) - before
    assert asked < 2**22
    assert 2**26 <= grown + 2**22 < 2**27
    assert limits.resident(2**22 + 1) == 0, "no such process"
    assert not Limits(gibibytes=0.001).large(None)
    assert "memory_limit=0.001 (GiB)" in Limits(gibibytes=0.001).large(os.getpid())
    assert not Limits(gibibytes=1000).large(os.getpid())


def test_the_clock_runs_from_the_beginning_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.time, "monotonic", lambda: 1000.0)
    assert not Limits(minutes=2).late(None), "it has not begun"
    assert not Limits(minutes=2).late(880.0)
    assert "time_limit=2 (minutes)" in Limits(minutes=2).late(879.9)
    assert not Limits().late(0.0)


@pytest.mark.slow
def test_the_same_holds_on_ray(own: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    monkeypatch.setenv("HOME", str(own.folder))
    have(own, s0="hang", s1="grow", s3="memory")
    done = own.run(*OWN, "executor=ray", "executor.workers=2", "seeds=4", *LIMITS)
    assert (done.code, done.err) == (0, ""), done
    check_over(by_seed(own))
    assert by_seed(own)[3]["reason"] == "out of memory, also alone: made up"
    assert own.left() == []


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.slow
def test_a_trial_that_is_out_of_memory_is_trained_once_more_alone(own: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Seed 0 has no room beside seed 1, and seed 2 has none anywhere."""
    have(own, s0="beside", s1="company", s2="memory")
    done = inside(capsys, *OWN, "seeds=4", "executor.workers=2")
    assert (done.code, done.err) == (0, ""), done
    records = by_seed(own)
    assert Counter(record["state"] for record in records.values()) == {"done": 3, "failed": 1}
    assert records[2]["reason"] == "out of memory, also alone: made up"
    assert [records[seed]["attempts"] for seed in range(4)] == [2, 1, 2, 1]
    assert "seed 0: out of memory (made up); once more alone, when nothing else trains" in done.out
    alone = records[0]
    assert records[1]["started"] + records[1]["seconds"] <= alone["started"], "not before the other has ended"
    assert alone["started"] + alone["seconds"] <= records[3]["started"], "nothing else is begun meanwhile"
    assert "another driver" not in done.out


def test_what_pytorch_says_of_the_hosts_memory_is_known() -> None:
    """It is no MemoryError."""
    with pytest.raises(RuntimeError) as caught, faults.network_errors():
        torch.empty(2**50, dtype=torch.uint8)
    assert faults.classify_failure(caught.value)[0] == "memory"


# ------------------------------------------------------------------------------------------------------- max_failures


@pytest.mark.slow
def test_a_study_that_cannot_work_is_stopped_and_stays_so_until_it_is_asked_again(
    own: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    have(own, s0="fail", s1="fail", s2="fail")
    words = (*OWN, "executor.workers=1", "max_failures=2")
    done = inside(capsys, *words, "seeds=5")
    said = "error: 2 trials failed and none ended well (max_failures=2), the first: RuntimeError: a fault of its own; "
    assert done.code == 1
    assert one_line(done.err, said, "retry=true trains them again"), done.err
    assert Counter(record["state"] for record in own.records()) == {"failed": 2}
    done = inside(capsys, *words, "seeds=5")
    assert (done.code, one_line(done.err, said)) == (1, True)
    assert Counter(record["state"] for record in own.records()) == {"failed": 2}


@pytest.mark.slow
def test_one_that_ends_well_is_enough(own: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    have(own, s0="fail", s1="fail", s3="fail")
    words = (*OWN, "executor.workers=1")
    done = inside(capsys, *words, "max_failures=null", "seeds=3")
    assert (done.code, done.err) == (0, "")
    assert Counter(record["state"] for record in own.records()) == {"failed": 2, "done": 1}
    done = inside(capsys, *words, "max_failures=1", "seeds=5")
    assert (done.code, done.err) == (0, "")
    assert Counter(record["state"] for record in own.records()) == {"failed": 3, "done": 2}


@pytest.mark.slow
def test_what_is_in_training_may_yet_show_that_a_study_works(own: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    have(own, s0="later", s1="fail", s2="fail")
    done = inside(capsys, *OWN, "executor.workers=2", "max_failures=1", "seeds=4")
    assert (done.code, done.err) == (0, ""), done
    assert "1 trial failed and none ended well (max_failures=1); no more are started unless one of those" in done.out
    assert "another driver" not in done.out
    (began,) = (own.folder / "deeds").glob(f"{mix_seed(2, 0)}.began")
    first = by_seed(own)[0]
    assert began.stat().st_mtime > first["started"] + first["seconds"], "none is started meanwhile"


@pytest.mark.slow
def test_a_search_that_cannot_work_is_stopped(own: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (own.folder / "sweeps/search").mkdir()
    (own.folder / "sweeps/search/small.yaml").write_text(SEARCH)
    have(own, s0="fail")
    words = ("+search=small", "backbone=nets:make", *SMALL, "executor.workers=1")
    done = inside(capsys, *words, "max_failures=2")
    assert done.code == 1
    assert one_line(done.err, "error: 2 trials failed and none ended well (max_failures=2), the first: RuntimeError: a")
    assert Counter(record["state"] for record in own.records()) == {"failed": 2}


# ------------------------------------------------------------------------------------------------------------- packing


@pytest.mark.parametrize(("gpus", "per_gpu", "workers"), [(1, 1, 1), (1, 4, 4), (2, 3, 6), (8, 1, 8), (0, 4, 0)])
def test_there_are_so_many_workers_a_gpu(gpus: int, per_gpu: int, workers: int) -> None:
    assert workers_of.default_workers("cuda", per_gpu, gpus) == workers
    dealt = Counter(pool.gpu_of(slot, gpus) for slot in range(workers))
    assert dealt == dict.fromkeys(range(gpus) if workers else (), per_gpu)
    assert workers_of.default_workers("cpu", per_gpu, gpus) == workers_of.default_workers("cpu")


@pytest.mark.parametrize(("gpus", "workers"), [(1, 3), (2, 1), (2, 5), (3, 8), (8, 17)])
def test_those_that_share_a_gpu_are_counted(gpus: int, workers: int) -> None:
    """However workers are dealt out, the fullest GPU has so many."""
    dealt = Counter(pool.gpu_of(slot, gpus) for slot in range(workers))
    assert workers_of.sharing("cuda", workers, gpus) == max(dealt.values())
    assert workers_of.sharing("cpu", workers, gpus) == workers


@pytest.mark.parametrize(("share", "most"), [(1.0, 1), (0.5, 2), (0.25, 4), (0.3, 3), (0.1, 10)])
def test_those_that_share_a_gpu_on_ray_are_counted(share: float, most: int) -> None:
    assert ray.Share(1.0, share).of_a_gpu == most


def test_room_on_a_gpu_is_needed_for_all_that_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs with room for three sets of images each."""
    composed = compose([])
    ((row,), _) = rows.build_rows(composed, data_facts(composed.config.data))
    spec = replace(row.spec(data_facts(composed.config.data), 0, "cpu"), feed="memory", device="cuda")
    monkeypatch.setattr(plan_text, "size_in_memory", lambda data: 2**30)
    monkeypatch.setattr(step, "room", lambda device: 3.0 * 2**30)
    plan_text.check_memory([spec], workers_of.sharing("cuda", 6, gpus=2))
    with pytest.raises(UserError, match=r"take 4\.00 GiB for 4 workers on a GPU, and 3\.00 GiB are free; fewer"):
        plan_text.check_memory([spec], workers_of.sharing("cuda", 7, gpus=2))


# --------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("executor.time_limit=0", "executor.time_limit=0.0 is not between 1e-09 and"),
        ("executor.time_limit=nan", "executor.time_limit=nan is not between"),
        ("executor.memory_limit=-1", "executor.memory_limit=-1.0 is not between"),
        ("executor.memory_limit=8GB", "executor.memory_limit: Value '8GB'"),
        ("max_failures=0", "max_failures=0 is not between 1 and"),
        ("max_failures=some", "max_failures: Value 'some'"),
        ("executor.per_gpu=0", "executor.per_gpu=0 is not between 1 and"),
        ("executor.per_gpu=4 training.device=cpu", "executor.per_gpu=4: there is no GPU here to share; on a CPU, "),
        ("executor=ray executor.per_gpu=4", "executor.per_gpu is for executor=local; on Ray, executor.gpus_per_trial="),
    ],
)
def test_words_that_cannot_be(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), "tracking=off"]) == 2
    assert one_line(capsys.readouterr().err, said)


def test_limits_are_off_unless_asked_for() -> None:
    config = Config()
    assert limits.limits_of(config.executor) == Limits(None, None)
    assert config.executor.per_gpu == 1


def test_the_memory_of_what_a_process_has_started_counts() -> None:
    """Several devices train a trial in processes of their own."""
    large = "kept = b'x' * (200 * 2**20); print(flush=True); input()"
    small = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {large!r}])"
    with subprocess.Popen([sys.executable, "-c", small], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as it:
        assert it.stdout is not None
        it.stdout.readline()
        (child,) = limits.children(it.pid)
        assert limits.resident(it.pid) < 100 * 2**20 < 200 * 2**20 < limits.resident(child)
        assert "executor.memory_limit" in Limits(gibibytes=100 / 1024).large(it.pid)
        assert not Limits(gibibytes=300 / 1024).large(it.pid)
        it.communicate(b"\n")
