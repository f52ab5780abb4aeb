"""Faults at random moments, in studies of the digits that two drivers train on one PostgreSQL store.

    make chaos                                   # 100 faults
    make chaos ARGS="--faults 10 --seed 3 --to results"

Each study is small, and is disturbed until it is complete: a driver, a worker, the database's server or a node of a Ray
cluster is killed with -9, a driver gets SIGTERM or Ctrl-C; whoever was killed is started again. Then the study must be
what it is undisturbed:

- lost: trials without a record of their end. None may be.
- twice: trials whose last epoch was trained to its end by two trainings. Every checkpoint that is put in its place is
  written down by the training process, with its epoch, so that what is counted is what was trained and not what the
  store says of it.
- the table, in all of its forms, has the bytes of that of a study without faults.
- no process is left, no driver ended otherwise than it was made to, and Optuna's tables have each trial once.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from launching import SAME_BYTES, Lab, ended, wait_for
from ray_nodes import Nodes

from benchmarks import measuring, reliability
from benchmarks.postgres import BINARIES, Postgres

EPOCHS, SEEDS, ROWS = 16, 4, 3
WORDS = ("+ablation=tiny", "backbone=nets:make", f"seeds={SEEDS}", f"recipe.epochs={EPOCHS}", "data.subset=300")
LOCAL, RAY = "workers", "Ray"
KINDS = {  # what is done to a study, by who trains
    LOCAL: ("driver killed", "worker killed", "server killed", "SIGTERM", "Ctrl-C"),
    RAY: ("node killed", "node killed", "driver killed", "server killed", "SIGTERM", "Ctrl-C"),
}
MOST = 8  # faults in one study
MOST_WORKERS = 2  # one whose worker was killed three times stops its study, as it should
PAUSE = (0.5, 8.0)  # seconds between faults
PATIENCE = 300  # seconds without a fault in which a study must be complete
NETS = """
import os, sys
from pathlib import Path
from senet_lab import models

def note(event, args):
    if event == "os.rename" and str(args[1]).endswith(".ckpt"):
        import torch
        epoch = torch.load(args[0], weights_only=True)["epoch"]
        place = Path(args[1])
        with (place.parents[1] / "saved").open("a") as file:
            file.write(f"{place.stem} {epoch}\\n")

if not hasattr(sys, "noting"):
    sys.noting = True
    sys.addaudithook(note)

def make(num_classes, in_channels):
    return models.create("resnet8", None, num_classes, in_channels=in_channels)
"""

Start = Callable[[], "subprocess.Popen[str]"]


@dataclass
class Fault:
    """What was done, and when: seconds since the study's beginning, or since the fault before it."""

    number: int
    study: int
    trained_by: str
    kind: str
    seconds: float
    answer_seconds: float  # from a signal to the driver's end; 0 if it was none


@dataclass
class Study:
    """What became of a study."""

    number: int
    trained_by: str
    faults: int = 0
    seconds: float = 0.0
    lost: int = 0
    twice: int = 0
    epochs_twice: int = 0
    same_tables: bool = False
    optuna: int = 0  # trials too many or too few in Optuna's tables
    left: int = 0  # processes
    waited: int = 0  # drivers that met a server that was away when they opened the store, and were started again
    by_ray: int = 0  # drivers that Ray's own checks ended; they were started again
    wrong: list[str] = field(default_factory=list)  # ends of drivers that nobody had asked for

    @property
    def good(self) -> bool:
        return self.same_tables and not (self.lost or self.twice or self.optuna or self.left or self.wrong)


class Chaos:
    """Disturbs studies, one after another."""

    def __init__(self, folder: Path, seed: int, count: int, ray_every: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.count = count
        self.ray_every = ray_every
        self.faults: list[Fault] = []
        self.studies: list[Study] = []
        self.drivers: list[subprocess.Popen[str]] = []
        self.begun = time.monotonic()
        self.server: Postgres
        self.nodes: Nodes | None = None
        self.like: dict[str, bytes] = {}
        self.trials: set[str] = set()

    def run(self) -> None:
        """Until so many faults were injected."""
        with ExitStack() as stack:
            self.server = stack.enter_context(Postgres())
            stack.callback(self.kill_drivers)
            lab, url = self.lab("undisturbed"), self.server.empty()
            done = ended(lab.start(*WORDS, "executor.workers=2", f"storage={url}"), PATIENCE)
            assert (done.code, done.err) == (0, ""), done
            self.like, self.trials = table_of(lab), set(self.records(url))
            saved = saves(lab)
            assert len(self.trials) == ROWS * SEEDS == len(saved) / EPOCHS, "each epoch is written down once"
            say(f"undisturbed: {len(self.trials)} trials, {time.monotonic() - self.begun:.0f} s")
            while len(self.faults) < self.count:
                by = RAY if self.ray_every and (len(self.studies) + 1) % self.ray_every == 0 else LOCAL
                if by == RAY and self.nodes is None:
                    self.nodes = stack.enter_context(Nodes())
                self.disturb(Study(len(self.studies) + 1, by))

    def lab(self, name: str) -> Lab:
        made = Lab(self.folder / name)
        (made.folder / "nets.py").write_text(NETS)
        return made

    def disturb(self, study: Study) -> None:
        """One study, from its beginning to its end."""
        lab, url, begun = self.lab(f"study {study.number}"), self.server.empty(), time.monotonic()
        words = [*WORDS, f"storage={url}"]
        secret: dict[str, str] = {}
        if study.trained_by == RAY:
            assert self.nodes is not None
            self.nodes.start("b", f"--address={self.nodes.address}")
            words += ["executor=ray", f"executor.address={self.nodes.address}"]
            secret = {**self.nodes.secret, "HOME": str(lab.folder)}
        else:
            words += ["executor.workers=1"]

        def start() -> subprocess.Popen[str]:
            return lab.start(*words, environment=secret)

        self.drivers = [start(), start()]
        last, until = time.monotonic(), time.monotonic() + PATIENCE
        due = last + self.chance.uniform(*PAUSE)
        while any(driver.poll() != 0 for driver in self.drivers):
            if time.monotonic() > until:
                study.wrong.append(f"not complete {PATIENCE} s after the last fault")
                break
            for number, driver in enumerate(self.drivers):
                if driver.poll() not in (None, 0):
                    self.drivers[number] = self.again(study, driver, start)
            more = len(self.faults) < self.count and study.faults < MOST
            if more and time.monotonic() > due and (kind := self.possible(study, lab)):
                answered = self.inject(kind, study, lab, start)
                if answered is not None:
                    now = time.monotonic()
                    study.faults += 1
                    self.faults.append(
                        Fault(len(self.faults) + 1, study.number, study.trained_by, kind, now - last, answered)
                    )
                    say(f"[{len(self.faults)}/{self.count}] study {study.number}: {kind} after {now - last:.1f} s")
                    last, until = now, now + PATIENCE
                    due = now + self.chance.uniform(*PAUSE)
            time.sleep(0.05)
        for driver in self.drivers:
            if driver.poll() not in (None, 0):
                study.wrong.append(how(driver))
        self.check(study, lab, url)
        study.seconds = time.monotonic() - begun
        self.studies.append(study)
        say(f"study {study.number} of {study.trained_by}: {told(study)}, {study.seconds:.0f} s")
        self.kill_drivers()
        if study.trained_by == RAY and self.nodes:
            self.nodes.kill("b")
        if study.good:
            shutil.rmtree(lab.folder)

    def again(self, study: Study, driver: subprocess.Popen[str], start: Start) -> subprocess.Popen[str]:
        """Start a driver again that has ended by itself. It may if the server was away when it opened the store, and
        Ray ends the whole process where it meets a state that it holds to be impossible."""
        said = how(driver)
        if "cannot be opened: " in said:
            study.waited += 1
        elif study.trained_by == RAY and "likely discovered a bug in Ray" in said:
            study.by_ray += 1
        else:
            study.wrong.append(said)
        return start()

    def possible(self, study: Study, lab: Lab) -> str:
        """A kind of fault that can be injected now; empty if the one that was drawn cannot."""
        kind = self.chance.choice(KINDS[study.trained_by])
        killed = sum(fault.study == study.number and fault.kind == "worker killed" for fault in self.faults)
        return "" if kind == "worker killed" and (killed == MOST_WORKERS or not lab.workers()) else kind

    def inject(self, kind: str, study: Study, lab: Lab, start: Start) -> float | None:
        """Do it; seconds from a signal to the driver's end, or 0. None if there was nobody to do it to."""
        alive = [number for number, driver in enumerate(self.drivers) if driver.poll() is None]
        if not alive:
            return None
        number = self.chance.choice(alive)
        driver, begun = self.drivers[number], time.monotonic()
        if kind == "server killed":
            self.server.kill()
            time.sleep(self.chance.uniform(0, 5))
            self.server.start()
        elif kind == "worker killed":
            try:
                os.kill(self.chance.choice(lab.workers()), signal.SIGKILL)
            except (IndexError, ProcessLookupError):
                return None
        elif kind == "node killed":
            assert self.nodes is not None
            self.nodes.kill("b")
            self.nodes.start("b", f"--address={self.nodes.address}")
        elif kind == "driver killed":
            driver.kill()
            driver.communicate()
            self.drivers[number] = start()
        else:
            if kind == "SIGTERM":
                driver.send_signal(signal.SIGTERM)
            else:
                os.killpg(driver.pid, signal.SIGINT)
            try:
                done = ended(driver, 60)
            except subprocess.TimeoutExpired:
                study.wrong.append(f"{kind}: not ended after 60 s")
                done = None
            waited = time.monotonic() - begun
            if done and done.code == 0 and not done.err:
                return None  # it was complete
            code, word = (0, "ended by SIGTERM: ") if kind == "SIGTERM" else (130, "interrupted: ")
            early = done and done.code in (
                -signal.SIGTERM,
                -signal.SIGINT,
            )  # it was Python that was starting, not the lab
            if done and not early and (done.code != code or not done.err.startswith(word)):
                study.wrong.append(f"{kind}: exit code {done.code}, {done.err.strip()!r}")
            self.drivers[number] = start()
            return waited
        return 0.0

    def check(self, study: Study, lab: Lab, url: str) -> None:
        """Count what is wrong with a study that is said to be complete."""
        with suppress(AssertionError):
            wait_for(lambda: not lab.left(), seconds=10)
        study.left = len(lab.left())
        records = self.records(url)
        study.lost = sum(records.get(trial) != "done" for trial in self.trials)
        saved = saves(lab)
        study.epochs_twice = sum(count - 1 for count in saved.values())
        study.twice = sum(count > 1 for (_, epoch), count in saved.items() if epoch == EPOCHS - 1)
        study.same_tables = table_of(lab) == self.like
        mirrored = self.server.ask("SELECT count(*) AS count FROM trials", url.rpartition("/")[2])
        study.optuna = abs(mirrored[0].count - len(self.trials))

    def records(self, url: str) -> dict[str, str]:
        """Trial → state, of what is recorded."""
        rows = self.server.ask("SELECT trial_id, state FROM records", url.rpartition("/")[2])
        return {row.trial_id: row.state for row in rows}

    def kill_drivers(self) -> None:
        for driver in self.drivers:
            with suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
            driver.communicate()
        self.drivers = []

    # ------------------------------------------------------------------------------------------------------- summary

    def summary(self, command: str) -> str:
        """What was done and what became of it, as Markdown."""
        studies = self.studies
        kinds = Counter(fault.kind for fault in self.faults if fault.study <= len(studies))
        answers = sorted(fault.answer_seconds for fault in self.faults if fault.answer_seconds)
        same = sum(study.same_tables for study in studies)
        waits = f"{answers[len(answers) // 2]:.1f}, {answers[-1]:.1f}" if answers else ""
        rows = {
            "studies, of so many trials": f"{len(studies)}, {ROWS * SEEDS}",
            "faults": f"{kinds.total()} ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))})",
            "trials lost": sum(study.lost for study in studies),
            "trials trained twice to the end": sum(study.twice for study in studies),
            "epochs trained twice": sum(study.epochs_twice for study in studies),
            "tables with the bytes of the undisturbed one": f"{same} of {len(studies)}",
            "trials too many or too few in Optuna's tables": sum(study.optuna for study in studies),
            "processes left": sum(study.left for study in studies),
            "drivers that ended otherwise than asked": sum(len(study.wrong) for study in studies),
            "drivers that found no server at their start": sum(study.waited for study in studies),
            "drivers that Ray's own checks ended": sum(study.by_ray for study in studies),
            "seconds from a signal to the driver's end, median and most": waits,
            "minutes": f"{(time.monotonic() - self.begun) / 60:.0f}",
        }
        lines = ["# Faults", "", f"`{command}`", "", "| | |", "| --- | ---: |"]
        lines += [f"| {name} | {value} |" for name, value in rows.items()]
        return "\n".join([*lines, "", f"- {measuring.machine('cpu')}; {measuring.commit()}.", ""])

    def write(self, to: Path, command: str) -> None:
        """The summary and every fault, and with them the page of all that was measured of reliability."""
        folder = to / "reliability"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "chaos.md").write_text(self.summary(command))
        with (folder / "chaos.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(Fault.__dataclass_fields__), lineterminator="\n")
            writer.writeheader()
            for fault in self.faults:
                rounded = {"seconds": f"{fault.seconds:.2f}", "answer_seconds": f"{fault.answer_seconds:.2f}"}
                writer.writerow({**asdict(fault), **rounded})
        reliability.page(to)


def saves(lab: Lab) -> Counter[tuple[str, int]]:
    """How often the checkpoint of a trial's epoch was put in its place."""
    path = lab.folder / "results/local/saved"
    words = (line.split() for line in path.read_text().splitlines()) if path.is_file() else ()
    return Counter((trial, int(epoch)) for trial, epoch in words)


def table_of(lab: Lab) -> dict[str, bytes]:
    """The table's files; none if there is no table."""
    folders = list((lab.folder / "results/local").glob("digits*/*/tiny"))
    files = [folder / name for folder in folders for name in SAME_BYTES]
    return {path.name: path.read_bytes() for path in files if path.is_file()}


def how(driver: subprocess.Popen[str]) -> str:
    """How a driver ended."""
    _, err = driver.communicate()
    return f"exit code {driver.returncode}, {err.strip()!r}"


def told(study: Study) -> str:
    if study.good:
        return f"as undisturbed, after {study.faults} faults"
    wrong = "".join(f"; {each}" for each in study.wrong)
    return f"{study.lost} lost, {study.twice} twice, same tables {study.same_tables}, {study.left} left{wrong}"


def say(text: str) -> None:
    print(text, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=100, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is done when (%(default)s)")
    parser.add_argument("--ray-every", type=int, default=4, metavar="N", help="each Nth study on Ray; 0: none")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="where reliability/chaos.md and .csv are written, and reliability.md anew",
    )
    arguments = parser.parse_args(argv)
    if not BINARIES:
        print("error: there is no PostgreSQL here (Debian's postgresql)", file=sys.stderr)
        return 2
    words = f"--faults {arguments.faults} --seed {arguments.seed} --ray-every {arguments.ray_every}"
    command = f'make chaos ARGS="{words}"'
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        chaos = Chaos(Path(folder), arguments.seed, arguments.faults, arguments.ray_every)
        say(f"{arguments.faults} faults, seed {arguments.seed}")
        cut_off = False
        try:
            chaos.run()
        except KeyboardInterrupt:
            cut_off = True
        if chaos.studies:
            say(f"\n{chaos.summary(command)}")
            if arguments.to:
                chaos.write(arguments.to, command)
    if cut_off:
        print("interrupted: the summary is of the studies before", file=sys.stderr)
        return 130
    return 0 if all(study.good for study in chaos.studies) else 1


if __name__ == "__main__":
    sys.exit(main())
