"""Whether a fault is a result of a network or of a machine, and processes that are started from anywhere."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from launching import ROOT, Lab, one_line, tell_place
from test_training_trial import SPEC

from senet_lab.config import RunError, first_line
from senet_lab.run import main
from senet_lab.training import faults
from senet_lab.training.processes import spawned
from senet_lab.training.trial import check_code

SMALL = ("recipe.epochs=1", "data.subset=60", "data.test_subset=60", "executor.workers=1", "tracking=off")


# ----------------------------------------------------------------------------------------------- how Python is started


@pytest.mark.parametrize("path", ["raises.py", "<stdin>", "gone/script.py", "archive.zip/__main__.py"])
def test_a_process_runs_nothing_of_the_callers_script(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: multiprocessing runs the script again: without a guard it starts the lab, and standard input is gone."""
    (tmp_path / "raises.py").write_text("raise SystemExit('run again')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    mine = ModuleType("__main__")
    mine.__file__ = path
    monkeypatch.setitem(sys.modules, "__main__", mine)
    process, pipe = spawned("a process", tell_place)
    assert pipe.poll(60)
    file, places, folder = pipe.recv()
    process.join()
    assert sys.modules["__main__"] is mine
    assert file is None
    assert folder == tmp_path
    assert places[0] == str(tmp_path), "what can be imported here can be there, also after a change of folder"


def in_a_thread(act: Callable[[], None]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


@pytest.mark.parametrize("within", [lambda act: act(), in_a_thread], ids=["main", "thread"])
def test_the_command_may_be_called_from_any_thread(
    within: Callable[[Callable[[], None]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: handlers of signals can be set in the main thread only; and the caller's are to be there afterwards."""
    monkeypatch.chdir(tmp_path)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    codes: list[int] = []
    within(lambda: codes.append(main(["se.reductoin=8"])))
    assert codes == [2]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


NETS = """
from senet_lab import models
def make(num_classes, in_channels):
    return models.create("resnet8", None, num_classes, in_channels=in_channels)
"""
SCRIPT = """
import os, sys, threading
os.chdir(sys.argv[1])
from senet_lab.run import main
from senet_lab.studies.database import parse
from senet_lab.studies.store import Store
codes = []
thread = threading.Thread(target=lambda: codes.append(main([*sys.argv[2:], "results=out"])))
thread.start()
thread.join()
print("codes", codes)
"""


@pytest.mark.slow
def test_a_study_from_standard_input_without_a_guard_in_a_thread(tmp_path: Path) -> None:
    """Seen: the lab is called as from the cell of a notebook; the network lies beside."""
    (tmp_path / "nets.py").write_text(NETS)
    done = subprocess.run(
        [sys.executable, "-", str(tmp_path), "backbone=nets:make", "se=null", *SMALL],
        input=SCRIPT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=240,
        check=True,
    )
    assert (done.stdout.splitlines()[-1], done.stderr) == ("codes [0]", ""), done
    (table,) = tmp_path.glob("out/*/*/network/trials.csv")
    assert ",done," in table.read_text()


@pytest.mark.parametrize(
    ("customised", "said"),
    [
        ("import os; os._exit(3)", "its worker could not start: it ended with exit code 3"),
        ("sys.modules['pytorch_lightning'] = None", "its worker could not start: ModuleNotFoundError: import of py"),
    ],
)
def test_a_worker_that_cannot_start_stops_the_study(
    customised: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen: what stands between a process and its training is recorded as the training's failure."""
    lab = Lab(tmp_path)
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nif 'spawn_main' in ' '.join(sys.orig_argv):\n    {customised}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert main([*SMALL, "seeds=3"]) == 1
    assert one_line(capsys.readouterr().err, f"error: network, seed 0: {said}")
    assert lab.records() == []


def test_a_network_of_the_script_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen: a class of a notebook's cell, which no other process can import."""
    monkeypatch.setattr(sys.modules["__main__"], "make", lambda num_classes, in_channels: None, raising=False)
    assert main(["backbone=__main__:make", "plan=true"]) == 2
    assert one_line(capsys.readouterr().err, "error: backbone: workers do not run the script that calls the lab; put ")


@pytest.mark.parametrize("name", ["nowhere:make", "json:make"])
def test_a_network_that_a_worker_cannot_import_is_no_result(name: str) -> None:
    """Seen: a module that only the caller can import, or that has changed since."""
    with pytest.raises(RunError, match=r"^backbone: "):
        check_code(dataclasses.replace(SPEC, backbone=name))


# --------------------------------------------------------------------------------------------------- what is no result


def system(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))


BUS = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of sh"
MACHINES: list[tuple[Exception, str]] = [
    *((system(name), "") for name in ("ENOSPC", "EIO", "EACCES", "EROFS", "ENOENT", "EPIPE", "ESTALE", "ENODEV")),
    (system("EMFILE"), "`ulimit -n` allows more, data.workers=0 needs fewer"),
    (ModuleNotFoundError("No module named 'timm'"), ""),
    (ImportError("libcudart.so.12: cannot open shared object file"), ""),
    (EOFError(), ""),
    (RuntimeError(BUS), "data.workers=0 needs no shared memory"),
    (RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly"), "data.workers=0"),
    (RuntimeError("unable to write to file </torch_1_2_0>: No space left on device (28)"), "--shm-size"),
    (RuntimeError("unable to open shared memory object </torch_7> in read-write mode"), "--shm-size"),
    (RuntimeError("Too many open files. Communication with the workers is no longer possible."), "ulimit -n"),
    (RuntimeError("can't start new thread"), ""),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), ""),
    (RuntimeError("CUDA driver initialization failed, you might not have a CUDA gpu."), ""),
    (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), ""),
    (RuntimeError("No CUDA GPUs are available"), ""),
    (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), ""),
    (torch.distributed.DistBackendError("NCCL error in: x.cpp:1"), ""),
    (torch._dynamo.exc.InternalTorchDynamoError("a fault of the compiler"), ""),
    (RunError("the checkpoint x cannot be written: disk full"), ""),
]


def raised(error: BaseException, under: BaseException | None = None) -> None:
    if under:
        try:
            raise under
        except type(under):
            raise error  # noqa: B904  # as users do
    raise error


def met(error: Exception, under: Exception | None = None, within: bool = True) -> tuple[str, str]:
    """What a study makes of an error that is raised in the network, or outside of it."""
    try:
        if within:
            with faults.network_errors():
                raised(error, under)
        raised(error, under)
    except Exception as caught:
        return faults.classify_failure(caught)
    raise AssertionError


@pytest.mark.parametrize(("error", "advice"), MACHINES, ids=lambda value: str(value)[:40] or "none")
def test_what_a_machine_does_is_no_result(error: Exception, advice: str) -> None:
    """Seen: a full disk, a library that is missing, a GPU that fails … are recorded as a design's failure."""
    for within in (True, False):
        kind, reason = met(error, within=within)
        assert kind == "halt"
        assert str(error).partition("\n")[0] in reason
        assert advice in reason
    kind, reason = met(RuntimeError("my layer cannot be used"), under=error)
    assert (kind, reason) == ("halt", "RuntimeError: my layer cannot be used"), "what it came of is the machine's"
    old = f"{type(error).__name__}: {first_line(error)}"
    assert isinstance(error, RunError) or type(error).__module__ != "builtins" or faults.is_no_result(old)


RESULTS: list[Exception] = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x64 and 32x10)"),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    *(ValueError("x"), TypeError("x"), KeyError("x"), AttributeError("x"), NotImplementedError(), RecursionError("x")),
    *(AssertionError(), ZeroDivisionError("x"), IndexError("x"), torch.linalg.LinAlgError("x")),
]


@pytest.mark.parametrize("error", RESULTS, ids=repr)
def test_what_a_network_raises_is_its_result(error: Exception) -> None:
    name, line = type(error).__name__, first_line(error)
    assert met(error) == ("failed", f"{name}: {line}")
    assert met(error, under=KeyError("handled")) == ("failed", f"{name}: {line}")
    assert met(error, within=False) == ("halt", f"{name}: {line}"), "the lab's own fault, or a library's"
    assert not faults.is_no_result(f"{name}: {line}")


@pytest.mark.parametrize("error", [MemoryError("x"), torch.OutOfMemoryError("x"), system("ENOMEM")], ids=repr)
def test_memory_that_is_short_is_tried_again_alone(error: Exception) -> None:
    assert met(error)[0] == met(error, within=False)[0] == "memory"


@pytest.mark.parametrize(
    "reason",
    [
        "its worker ended with exit code 1, 3 times",
        "its worker on the node a was lost, 3 times",
        "its node b was lost, 3 times",
        "its process 2 of 2 ended with exit code -9, 3 times",
        "ValueError: backbone: cannot import nets for 'nets:make': No module named 'nets'",
        "FileNotFoundError: [Errno 2] No such file or directory: '<stdin>'",
    ],
)
def test_old_failures_that_are_none_are_known(reason: str) -> None:
    assert faults.is_no_result(reason)


@pytest.mark.parametrize(
    "reason",
    [
        "diverged: train_loss was nan in epoch 1",
        "its training took longer than executor.time_limit=0.2 (minutes)",
        "its process took more memory than executor.memory_limit=1.25 (GiB)",
        "out of memory, also alone: CUDA out of memory. Tried to allocate 2 GiB",
    ],
)
def test_old_failures_that_are_results_stay(reason: str) -> None:
    assert not faults.is_no_result(reason)


# ------------------------------------------------------------------------------------------- messages that led astray
