"""What the benchmarks share: timing in turn, ratios with their spread, and the files that are written.

Things that are compared are timed in turn, in an order that moves on with every round, so that what slows the machine
down for a while slows all of them down; a ratio is the median over the rounds, with its 95% interval by order
statistics. On a CPU the time is that of the processor in this process, on one thread, which others on the machine
disturb less than the clock on the wall; on a GPU it is that of CUDA's own events.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from senet_lab import files

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "benchmarks"
LIBRARIES = ("torch", "torchvision", "timm", "pytorch-lightning", "optuna", "sqlalchemy", "numpy")

Line = dict[str, Any]


def arguments(text: str | None, device: bool = False) -> argparse.ArgumentParser:
    """What every benchmark can be told."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--short", action="store_true", help="little of everything: shows that it runs, measures nothing")
    made.add_argument("--to", type=Path, default=RESULTS, help="folder of the table (results/benchmarks)")
    if device:
        made.add_argument(
            "--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s: a GPU if any)"
        )
    return made


def chosen(device: str) -> str:
    """The device that a word of `--device` means."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def compiled(net: Any, **how: Any) -> Any:
    """A network by torch.compile, for the one size of batch that it is given, however many were compiled before.

    The compiler keeps what it made for all networks in one place, and by default leaves the ninth as it is, with a word
    in a log.
    """
    import torch

    from senet_lab.training.step import VARIANTS

    torch._dynamo.config.recompile_limit = VARIANTS
    return torch.compile(net, dynamic=False, **how)


def in_turn(tasks: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds that each task takes in each round, after one round that is not counted."""
    names = list(tasks)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, rounds):
        for at in range(len(names)):
            name = names[(number + at) % len(names)]
            seconds = once(tasks[name], device)
            if number >= 0:
                taken[name].append(seconds)
    return taken


def once(task: Callable[[], object], device: str) -> float:
    """Seconds of one call: of the processor, or on the GPU."""
    if device == "cpu":
        begun = time.process_time()
        task()
        return time.process_time() - begun
    import torch

    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    first.record()
    task()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3


def median_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Median, and its interval by order statistics: exact whatever the distribution, censored values included.

    Args:
        values: (n,). With fewer than six the interval is from the least to the greatest, and covers less.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    outside = stats.binom.cdf(np.arange(n // 2), n, 0.5)  # of the median being below the value at each place
    place = max(int((outside <= (1 - confidence) / 2).sum()) - 1, 0)
    return float(np.median(ordered)), float(ordered[place]), float(ordered[n - 1 - place])


def ratio(taken: Sequence[float], over: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios round by round, and its 95% interval."""
    return median_interval([mine / theirs for mine, theirs in zip(taken, over, strict=True)])


def spread(values: Sequence[float], digits: int = 2, factor: float = 1.0) -> str:
    """A median with its 95% interval; a single value by itself."""
    middle, low, high = (f"{factor * value:.{digits}f}" for value in median_interval(values))
    return middle if len(values) == 1 else f"{middle} [{low}, {high}]"


def within(triple: tuple[float, float, float], digits: int = 3) -> str:
    middle, low, high = (f"{value:.{digits}f}" for value in triple)
    return f"{middle} [{low}, {high}]"


def run(words: Sequence[str], folder: Path, **more: str) -> tuple[float, float, str]:
    """A command in a fresh process, with more of an environment: seconds on the wall, seconds of the processor in it
    and in its children, and what it printed. Several may run side by side.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    began, environment = time.perf_counter(), {**os.environ, "PYTHONPATH": str(ROOT), **more}
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)  # of this process alone, whichever others end meanwhile
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, printed)
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, printed


# --------------------------------------------------------------------------------------------------------------------
# Written


def machine(device: str) -> str:
    """What it ran on and with, in a line."""
    from senet_lab.training.machine import processor

    if device == "cuda":
        import torch

        place = torch.cuda.get_device_name()
    else:
        cores = len(os.sched_getaffinity(0))
        place = f"{processor()}, {cores} {'core' if cores == 1 else 'cores'}"
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    return f"{place}; load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, {', '.join(versions)}"


def commit() -> str:
    """The commit that was measured."""
    from senet_lab.studies.driver import git_commit

    told = git_commit()
    return f"commit {told['commit'][:12]}{' and changes' * told['dirty']}" if told["commit"] else "no commit"


def markdown(lines: Sequence[Line]) -> str:
    """Lines as a Markdown table, numbers to the right."""
    columns = list(dict.fromkeys(name for line in lines for name in line))
    right = {name for name in columns if any(str(line.get(name, ""))[:1].isdigit() for line in lines)}
    rule = " | ".join("---:" if name in right else "---" for name in columns)
    body = [" | ".join(str(line.get(name, "")) for name in columns) for line in lines]
    return "\n".join(f"| {text} |" for text in (" | ".join(columns), rule, *body))


def write(
    name: str,
    title: str,
    tables: Mapping[str, Sequence[Line]],
    measured: Sequence[Line],
    notes: Sequence[str],
    given: argparse.Namespace,
    device: str = "cpu",
) -> None:
    """Print a benchmark's tables and write them: `<name>.md`, and `<name>.csv` with every single measurement.

    Files that hold these very measurements already are left as they are: their last line says where those were made.

    Args:
        tables: heading → lines; the heading of a single table may be empty.
        measured: one line a measurement.
        notes: what is to be known to read it.
        given: the benchmark's arguments.
    """
    parts = [f"# {title}"]
    for heading, lines in tables.items():
        parts += [f"## {heading}"] * bool(heading) + [markdown(lines)]
    small = ["The short form: it shows that the benchmark runs; its numbers mean nothing."] * given.short
    parts.append("\n".join(f"- {note}" for note in [*small, *notes, f"{machine(device)}; {commit()}."]))
    text = "\n\n".join(parts) + "\n"
    print(text)
    content = pd.DataFrame(measured).to_csv(index=False, lineterminator="\n", float_format="%.6g")
    if stands(given.to / f"{name}.md", text) and (given.to / f"{name}.csv").read_bytes() == content.encode():
        print(f"nothing new was measured: {given.to / name}.md and .csv are left as they are")
        return
    for path in files.replace_all(given.to, {f"{name}.md": text.encode(), f"{name}.csv": content.encode()}):
        print(f"written: {path}")


def stands(path: Path, text: str) -> bool:
    """Whether this text is there, but for its last line: that of the machine."""
    return path.is_file() and path.read_text().splitlines()[:-1] == text.splitlines()[:-1]
