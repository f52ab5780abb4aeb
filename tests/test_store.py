"""The store: who may train a trial, and what becomes of its record. Real files, real processes."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from senet_lab.config import RunError, UserError
from senet_lab.studies import database
from senet_lab.studies.store import DONE, FAILED, HEARTBEAT_SECONDS, STALE_SECONDS, Store

RECORD = {
    "config": {},
    "epochs": [],
    "metrics": {"test_error": 1.0, "val_error": 2.0},
    "seconds": 3.0,
    "resumed": False,
}
FAILURE = {"config": {}, "reason": "diverged"}


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/lab.db"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(url_of(tmp_path))


def another(store: Store, owner: str = "elsewhere/1/1") -> Store:
    """A second driver on the same store."""
    other = Store(store.url)
    other.owner = owner
    return other


def execute(folder: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(folder / "lab.db") as connection:
        connection.execute(statement, values)
    connection.close()


def dead_owner() -> str:
    """A process of this machine that has ended, as an owner."""
    code = "from senet_lab.studies.owners import this_process; print(this_process())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


# ------------------------------------------------------------------------------------------------------------- claims


def test_a_trial_is_claimed_once_and_recorded_once(store: Store) -> None:
    assert store.claim("a")
    assert not store.claim("a")
    assert not another(store).claim("a")
    assert store.read(["a"]) == {}
    assert store.finish("a", DONE, RECORD)
    assert not store.finish("a", DONE, RECORD)
    assert not store.claim("a")
    assert store.read(["a", "b"]) == {"a": {**RECORD, "trial_id": "a", "state": DONE}}


def test_a_claim_that_is_given_back_is_free(store: Store) -> None:
    other = another(store)
    assert store.claim("a")
    other.release("a")
    assert not other.claim("a"), "only the owner can give it back"
    store.release("a")
    assert other.claim("a")
    assert not store.finish("a", DONE, RECORD), "it is not ours any more"
    assert store.read(["a"]) == {}


def test_what_has_ended_cannot_be_given_back(store: Store) -> None:
    assert store.claim("a")
    assert store.finish("a", FAILED, FAILURE)
    store.release("a")
    assert store.read(["a"])["a"]["reason"] == "diverged"


def test_the_claim_of_a_dead_process_of_this_machine_is_taken_over_at_once(store: Store) -> None:
    gone = another(store, dead_owner())
    assert gone.claim("a")
    assert store.claim("a")
    assert not gone.finish("a", DONE, RECORD)
    assert store.finish("a", DONE, RECORD)


def test_a_process_id_that_is_used_again_is_another_process(store: Store) -> None:
    machine, pid, ticks = store.owner.split("/")
    assert another(store, f"{machine}/{pid}/{int(ticks) - 1}").claim("a")
    assert store.claim("a")


@pytest.mark.parametrize("owner", ["elsewhere/1/1", "no owner at all", "a/b/c", ""])
def test_the_claim_of_another_machine_is_taken_over_when_it_is_silent(store: Store, tmp_path: Path, owner: str) -> None:
    other = another(store, owner)
    assert other.claim("a")
    assert not store.claim("a")
    late = time.time() - STALE_SECONDS - 1
    execute(tmp_path, "UPDATE records SET heartbeat = ?", late)
    other.beat()
    assert not store.claim("a"), "it has given a sign of life"
    execute(tmp_path, "UPDATE records SET heartbeat = ?", late)
    assert store.claim("a")


def test_a_process_in_another_container_is_not_taken_for_dead(store: Store) -> None:
    machine, _, process = dead_owner().partition("/")
    assert another(store, f"{machine} elsewhere/{process}").claim("a")
    assert not store.claim("a")


def claim_all(url: str, names: list[str], begin: Any, won: Any) -> None:
    begin.wait()
    store = Store(url)
    for name in names:
        if store.claim(name):
            won.put((name, os.getpid()))
            assert store.finish(name, DONE, RECORD)
    won.put(None)


def race(url: str, names: list[str]) -> None:
    """Four processes claim and finish all of these trials at once: each is one's."""
    context = mp.get_context("spawn")
    begin, won = context.Barrier(4), context.Queue()
    racers = [context.Process(target=claim_all, args=(url, names, begin, won)) for _ in range(4)]
    for racer in racers:
        racer.start()
    results = []
    while results.count(None) < len(racers):
        results.append(won.get(timeout=60))
    for racer in racers:
        racer.join(30)
        assert racer.exitcode == 0
    assert Counter(result[0] for result in results if result) == Counter(names)
    assert len(Store(url).read(names)) == len(names)


@pytest.mark.parametrize("abandoned", [False, True])
def test_of_processes_that_race_one_gets_each_trial(store: Store, abandoned: bool) -> None:
    """Free trials in a new store, and those of a dead driver."""
    names = [f"trial {number}" for number in range(40)]
    if abandoned:
        gone = another(store, dead_owner())
        assert all(gone.claim(name) for name in names)
    else:
        store.engine.dispose()
        Path(store.url.removeprefix("sqlite:///")).unlink()
    race(store.url, names)


def test_only_failed_trials_are_forgotten_unless_told(store: Store) -> None:
    for name, state, record in (("a", DONE, RECORD), ("b", FAILED, FAILURE)):
        assert store.claim(name)
        assert store.finish(name, state, record)
    assert store.claim("c")
    assert store.forget(["a", "b", "c", "d"]) == 1
    assert list(store.read(["a", "b"])) == ["a"]
    assert store.forget(["a", "c"], (DONE, FAILED)) == 1
    assert not another(store).claim("c"), "a running trial is nobody's to forget"


# ------------------------------------------------------------------------------------------------------------ records


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "",
        "null",
        "[]",
        "3",
        "{}",
        json.dumps({**RECORD, "metrics": None}),
        json.dumps({**RECORD, "metrics": {}}),
        None,
    ]
    + [json.dumps({key: value for key, value in RECORD.items() if key != lost}) for lost in RECORD],
)
def test_a_damaged_record_is_named_and_not_dropped(store: Store, tmp_path: Path, text: str | None) -> None:
    for name in ("good", "bad"):
        assert store.claim(name)
        assert store.finish(name, DONE, RECORD)
    execute(tmp_path, "UPDATE records SET record = ? WHERE trial_id = 'bad'", text)
    assert list(store.read(["good"])) == ["good"]
    with pytest.raises(
        UserError, match=r"^storage=.*the record of trial bad is damaged \(.+\); delete it with"
    ) as caught:
        store.read(["good", "bad"])
    assert "\n" not in str(caught.value)
    assert not store.claim("bad"), "it is kept until someone decides"


def test_a_record_that_is_no_number_is_not_written(store: Store) -> None:
    assert store.claim("a")
    with pytest.raises(ValueError, match="Out of range"):
        store.finish("a", DONE, {**RECORD, "seconds": float("nan")})


def test_ten_thousand_records_are_looked_up_in_a_moment(store: Store, tmp_path: Path) -> None:
    """As a large search leaves them; the newest are enough for an expectation."""
    long = json.dumps({**RECORD, "epochs": [{"epoch": epoch, "val_error": 1.0} for epoch in range(100)]})
    rows = [(f"{number:016x}", DONE, "x", float(number), long) for number in range(10_000)]
    with sqlite3.connect(tmp_path / "lab.db") as connection:
        connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()
    begun = time.perf_counter()
    newest = store.latest(200)
    assert time.perf_counter() - begun < 2
    assert [record["trial_id"] for record in newest] == [f"{number:016x}" for number in range(9_999, 9_799, -1)]
    assert len(store.read(row[0] for row in rows[:1200])) == 1200


# ----------------------------------------------------------------------------------------------------- bad databases


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "is not a database URL"),
        ("lab.db", "is not a database URL"),
        ("sqlite:/lab.db", "is not a database URL"),
        ("postgresql+psycopg://user@host:port/lab", "is not a database URL"),
        ("nosuch://user@host/lab", "there is no database 'nosuch' here"),
        ("sqlite+nosuch:///lab.db", "there is no database 'sqlite.nosuch' here"),
        ("sqlite://", "keeps nothing: name a file"),
        ("sqlite:///:memory:", "keeps nothing: name a file"),
        ("sqlite:////proc/nothing/lab.db", "No such file"),
        ("sqlite:////dev/null/lab.db", "exists|Not a directory"),
        ("sqlite:////tmp", "cannot be opened"),
    ],
)
def test_a_url_that_cannot_be_is_answered_in_one_line(url: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Store(url)
    assert str(caught.value).startswith("storage=")
    assert "\n" not in str(caught.value)


def test_a_missing_driver_is_named_and_a_password_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"user:\*\*\*@host/lab: its driver is not installed \(psycopg\)"):
        Store("postgresql+psycopg://user:secret@host/lab")


@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_no_database_is_said_so(tmp_path: Path, create: bool) -> None:
    (tmp_path / "lab.db").write_bytes(b"not a database " * 1000)
    with pytest.raises(UserError, match="is damaged, or no database: file is not a database"):
        Store(url_of(tmp_path), create)


def test_a_database_that_is_cut_off_is_said_so(store: Store, tmp_path: Path) -> None:
    rows = [(f"trial {number}", DONE, "x", 0.0, json.dumps(RECORD)) for number in range(200)]
    with sqlite3.connect(tmp_path / "lab.db") as connection:
        connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()
    store.engine.dispose()
    whole = (tmp_path / "lab.db").read_bytes()
    (tmp_path / "lab.db").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"damaged.*malformed|is damaged") as caught:
        Store(url_of(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_database_that_fails_in_the_middle_is_one_line(store: Store, tmp_path: Path) -> None:
    execute(tmp_path, "DROP TABLE records")
    for act in (lambda: store.claim("a"), store.beat, lambda: store.release("a"), lambda: store.read(["a"])):
        with pytest.raises(RunError, match=r"^the store sqlite:///.* failed: no such table: records$"):
            act()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another program is in the middle of writing."""
    other = sqlite3.connect(folder / "lab.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.rollback()
        other.close()


@pytest.mark.slow
def test_a_store_that_another_program_has_locked_is_waited_for(store: Store, tmp_path: Path) -> None:
    said: list[str] = []
    store.say = said.append
    with ExitStack() as stack:
        stack.enter_context(locked(tmp_path))
        with pytest.raises(RunError, match=r"^the store sqlite:///.* failed: database is locked$"):
            store.beat()  # soon said again, so that it does not wait
        threading.Timer(5, stack.pop_all().close).start()
        assert store.claim("a")
    away, again = said
    assert away.startswith(f"the store {store.name} does not answer (database is locked); trying again for 5")
    assert again == f"the store {store.name} answers again"
    assert store.finish("a", DONE, RECORD)


def test_patience_with_a_locked_store_ends_with_one_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store.claim("a")
    with locked(tmp_path):
        with pytest.raises(RunError, match=r"^the store sqlite:///.* failed: database is locked$"):
            store.transact(lambda connection: connection.execute(sa.text("DELETE FROM records")), patience=1)
        monkeypatch.setattr(database, "PATIENCE_SECONDS", 1)
        with pytest.raises(UserError, match=r"^storage=sqlite:///.* cannot be opened: database is locked$"):
            Store(store.url)
    assert store.finish("a", DONE, RECORD), "nothing is lost"


def test_looking_writes_nothing(tmp_path: Path) -> None:
    """Neither where there is no file, nor in a database that holds something else."""
    looked = Store(url_of(tmp_path / "nowhere"), create=False)
    assert (looked.read(["a"]), looked.latest(3), looked.forget(["a"])) == ({}, [], 0)
    assert list(tmp_path.iterdir()) == []
    execute(tmp_path, "CREATE TABLE other (x)")
    before = (tmp_path / "lab.db").read_bytes()
    looked = Store(url_of(tmp_path), create=False)
    assert (looked.read(["a"]), looked.latest(3), looked.forget(["a"])) == ({}, [], 0)
    assert (tmp_path / "lab.db").read_bytes() == before


def test_an_owner_beats_often_before_it_is_taken_for_dead() -> None:
    assert HEARTBEAT_SECONDS * 3 < STALE_SECONDS
