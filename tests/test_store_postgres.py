"""The store on a real PostgreSQL server, started for these tests on a port and in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from launching import ROOT, TRIALS, WORDS, Lab, ended, one_line
from test_store import FAILURE, RECORD, another, dead_owner, race

from benchmarks.postgres import BINARIES, Postgres
from senet_lab.config import RunError, UserError
from senet_lab.studies import database, transfer
from senet_lab.studies.export_optuna import open_study
from senet_lab.studies.store import DONE, FAILED, Store

pytestmark = pytest.mark.skipif(not BINARIES, reason="there is no PostgreSQL here")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as made:
        yield made


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are closed after each use, and not by the collector, which warns."""
    create = sa.create_engine

    def closing(*words: Any, **how: Any) -> sa.Engine:
        return create(*words, **{"poolclass": sa.NullPool, **how})

    monkeypatch.setattr(sa, "create_engine", closing)


@pytest.fixture
def url(server: Postgres) -> str:
    """URL of an empty database."""
    return server.empty()


def test_a_trial_is_claimed_once_and_recorded_once(url: str) -> None:
    store = Store(url)
    assert store.claim("a")
    assert not store.claim("a")
    assert not another(store).claim("a")
    assert store.finish("a", DONE, RECORD)
    assert not store.finish("a", DONE, RECORD)
    assert store.claim("b")
    assert store.finish("b", FAILED, FAILURE)
    assert store.read(["b", "a", "c"]) == {
        "b": {**FAILURE, "trial_id": "b", "state": FAILED},
        "a": {**RECORD, "trial_id": "a", "state": DONE},
    }
    assert [record["trial_id"] for record in store.latest(5)] == ["a"]
    assert store.forget(["a", "b"]) == 1


@pytest.mark.parametrize("abandoned", [False, True])
def test_of_processes_that_race_one_gets_each_trial(url: str, abandoned: bool) -> None:
    """They race for the table, too, where there is none."""
    names = [f"trial {number}" for number in range(40)]
    if abandoned:
        gone = another(Store(url), dead_owner())
        assert all(gone.claim(name) for name in names)
    race(url, names)


@pytest.mark.slow
def test_drivers_that_find_no_table_at_once_all_open_it(server: Postgres, url: str) -> None:
    """PostgreSQL refuses those that came second in one of three ways, each rare: hence the many tries."""
    begin = threading.Barrier(8)

    def opens() -> bool:
        begin.wait(60)
        return Store(url).empty

    with ThreadPoolExecutor(begin.parties) as pool:
        for _ in range(25):
            drivers = [pool.submit(opens) for _ in range(begin.parties)]
            assert not any(driver.result() for driver in drivers)
            server.ask("DROP TABLE records, notes", url.rpartition("/")[2])


def test_a_type_in_the_place_of_a_table_is_no_table(server: Postgres, url: str) -> None:
    server.ask("CREATE TYPE records AS ENUM ()", url.rpartition("/")[2])
    with pytest.raises(UserError, match='type "records" already exists'):
        Store(url)


def test_a_store_moves_from_sqlite_and_back(url: str, tmp_path: Path) -> None:
    first, back = (f"sqlite:///{tmp_path}/{name}.db" for name in ("first", "back"))
    store = Store(first)
    for name, state, record in (("a", DONE, RECORD), ("b", FAILED, FAILURE | {"reason": "„10 %“: 'ü'"})):
        assert store.claim(name)
        assert store.finish(name, state, record)
    store.note_once("latency", [1.5, None])
    assert store.claim("c"), "what runs is not moved"
    transfer.copy(first, url)
    transfer.copy(url, back)
    assert list(transfer.ended(Store(back))) == list(transfer.ended(store))
    assert Store(back).note("latency") == [1.5, None]


@pytest.mark.slow
def test_two_drivers_share_a_study(url: str, finished: Lab, tmp_path: Path) -> None:
    """It ends with the bytes that it ends with on SQLite."""
    lab = Lab(tmp_path)
    drivers = [lab.start(*WORDS[:-1], "executor.workers=1", f"storage={url}") for _ in range(2)]
    results = [ended(driver) for driver in drivers]
    assert [(done.code, done.err) for done in results] == [(0, ""), (0, "")], results
    assert lab.bytes() == finished.bytes()
    assert not (tmp_path / "results/local/lab.db").exists()
    with sa.create_engine(url).connect() as connection:
        counts = connection.execute(sa.text("SELECT state, count(*) FROM records GROUP BY state")).all()
        mirrored = connection.execute(sa.text("SELECT count(*) FROM trials")).scalar()
    assert [tuple(row) for row in counts] == [("done", TRIALS)]
    assert mirrored == TRIALS
    again = lab.run(*WORDS, f"storage={url}")
    assert (again.code, again.err) == (0, "")
    assert "nothing to train" in again.out


@pytest.mark.slow
def test_passwords_and_keys_are_written_nowhere(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    password, key = "pl4nted-passw0rd", "0123456789" * 4
    secret = url.replace("lab@", f"lab:{password}@")
    monkeypatch.setenv("WANDB_API_KEY", key)
    lab = Lab(tmp_path)
    small = ("+ablation=tiny", "seeds=1", "recipe.epochs=1", "data.subset=60", "data.test_subset=60")
    said = []
    for words, code in (
        ([*small, f"storage={secret}"], 0),
        ([*small, f"storage={secret}", "plan=true"], 0),
        ([*small, f"storage={secret}nowhere"], 2),
        ([*small, f"storage={secret.replace('127.0.0.1:', '127.0.0.1:x')}"], 2),
        ([*small, f"storage={secret.replace('127.0.0.1:', '127.0.0.1:1')}"], 2),
        ([*small, f"storage={secret}'"], 2),
        ([*small, f"storag={secret}"], 2),
        ([*small, f"{secret}"], 2),
    ):
        done = lab.run(*words, tracking="offline")
        assert done.code == code, done
        said.append(done.out + done.err)
    for action in (["check"], ["forget", "nothing"], ["export", "all.csv"], ["copy", secret, f"{secret}nowhere"]):
        storage = [] if action[0] == "copy" else ["--storage", secret]
        done = subprocess.run(
            [sys.executable, "-m", "senet_lab", "store", *action, *storage],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == (2 if action[0] in ("forget", "copy") else 0), done
        said.append(done.stdout + done.stderr)
    with sa.create_engine(url).connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            said += [str(row) for row in connection.execute(sa.text(f"SELECT * FROM {table}"))]
    written = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any("wandb" in name for name in written)
    for planted in (password, key):
        assert [text for text in said if planted in text] == []
        assert [name for name, content in written.items() if planted.encode() in content] == []


def test_a_server_that_is_not_there_or_has_no_such_database(server: Postgres) -> None:
    for wrong in (f"{server.url}/nowhere", "postgresql+psycopg://lab@127.0.0.1:1/lab"):
        with pytest.raises(UserError, match=r"^storage=.* cannot be opened: ") as caught:
            Store(wrong)
        assert "\n" not in str(caught.value)


def test_a_database_that_fails_in_the_middle_is_one_line(url: str) -> None:
    store = Store(url)
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text("DROP TABLE records"))
    with pytest.raises(RunError, match=r"^the store postgresql.* failed: ") as caught:
        store.claim("a")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------- a connection that drops


@pytest.fixture
def pooled(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store that holds its connections, as one does outside of tests."""
    monkeypatch.undo()
    store = Store(url)
    yield store
    store.engine.dispose()


@contextmanager
def cut_off_behind_a_commit(store: Store, server: Postgres) -> Iterator[None]:
    """The server commits the next transaction of the store, but the connection is lost before it says so."""
    commit = store.engine.dialect.do_commit
    cut = []

    def committed(connection: Any) -> None:
        commit(connection)
        if not cut:
            cut.append(connection)
            server.ask(f"SELECT pg_terminate_backend({connection.driver_connection.info.backend_pid})")
            connection.driver_connection.execute("SELECT 1")  # psycopg's own error

    store.engine.dialect.do_commit = committed  # type: ignore[method-assign]
    try:
        yield
    finally:
        store.engine.dialect.do_commit = commit  # type: ignore[method-assign]
    assert cut


def table(server: Postgres, store: Store) -> list[tuple[str, str, bool]]:
    """Trial, state and whether it is the store's own, of every row."""
    rows = server.ask("SELECT trial_id, state, owner FROM records ORDER BY 1", str(store.engine.url.database))
    return [(row.trial_id, row.state, row.owner == store.owner) for row in rows]


def test_what_was_committed_before_the_connection_was_lost_counts_once(
    server: Postgres, pooled: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with cut_off_behind_a_commit(pooled, server):  # the look
        assert pooled.claim("a")
    assert not pooled.claim("a"), "it is ours already, and is not trained here twice"
    other = another(pooled)
    assert not other.claim("a")
    assert other.claim("b")
    with cut_off_behind_a_commit(pooled, server):
        assert not pooled.claim("b")
    look = pooled.claimed

    def claimed(trial_id: str) -> Any:
        """The connection is lost behind the claim itself, not behind the look before it."""
        pooled.claimed = look  # type: ignore[method-assign]
        row = look(trial_id)
        stack.enter_context(cut_off_behind_a_commit(pooled, server))
        return row

    gone = another(pooled, dead_owner())
    assert gone.claim("d")
    for trial_id in ("c", "d"):  # one that is nobody's, one of a dead driver
        with ExitStack() as stack:
            pooled.claimed = claimed  # type: ignore[method-assign]
            assert pooled.claim(trial_id)
            assert not pooled.claim(trial_id)
    assert table(server, pooled) == [
        ("a", "running", True), ("b", "running", False), ("c", "running", True), ("d", "running", True)
    ]  # fmt: skip
    with cut_off_behind_a_commit(pooled, server):
        assert pooled.finish("a", DONE, RECORD), "it is recorded, and nobody has taken it over"
    assert not pooled.finish("a", DONE, RECORD)
    with cut_off_behind_a_commit(pooled, server):
        assert not pooled.finish("b", DONE, RECORD)
    with cut_off_behind_a_commit(pooled, server):
        pooled.release("c")
    with cut_off_behind_a_commit(pooled, server):
        pooled.release_all()
    assert table(server, pooled) == [("a", "done", True), ("b", "running", False)]
    with cut_off_behind_a_commit(pooled, server):
        assert pooled.note_once("latency", [1.5]) == [1.5]
    assert pooled.note_once("latency", [2.5]) == [1.5]
    with cut_off_behind_a_commit(pooled, server):
        pooled.add("e", DONE, 1.0, json.dumps(RECORD))
    assert list(pooled.read(["a", "e"])) == ["a", "e"]
    assert capsys.readouterr().err == "", "what is over at once is not worth a word"
    for each in (other, gone):
        each.engine.dispose()


def test_a_server_that_is_killed_and_started_again_is_waited_for(pooled: Store, server: Postgres) -> None:
    said: list[str] = []
    pooled.say = said.append
    study = open_study(pooled, "mirrored", ["error"])
    assert pooled.claim("a")
    server.kill()
    with pytest.raises(RunError, match=r"^the store postgresql.* failed: "):
        pooled.beat()  # soon said again, so that it does not wait
    started = threading.Timer(4, server.start)
    started.start()
    assert pooled.claim("b")
    started.join()
    away, again = said
    assert one_line(away, f"the store {pooled.name} does not answer (", "trying again for 5")
    assert again == f"the store {pooled.name} answers again"
    assert pooled.finish("a", DONE, RECORD)
    server.kill()
    server.start()
    pooled.retry(lambda: study.add_trial(optuna.trial.create_trial(value=1.0)))
    assert len(study.trials) == 1
    pooled.release("b")
    assert table(server, pooled) == [("a", "done", True)]
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]


def test_owners_have_time_to_give_a_sign_of_life_when_the_server_is_back(pooled: Store, server: Postgres) -> None:
    other = another(pooled)
    assert other.claim("a")
    server.ask("UPDATE records SET heartbeat = 0", str(pooled.engine.url.database))
    server.kill()
    server.start()
    pooled.engine.dispose()
    server.kill()
    started = threading.Timer(0.5, server.start)
    started.start()
    assert not pooled.claim("a"), "its owner could not speak, either"
    started.join()
    pooled.back -= 60
    assert pooled.claim("a")
    other.engine.dispose()


def test_patience_ends_with_one_line(url: str, server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(url)
    said: list[str] = []
    store.say = said.append
    monkeypatch.setattr(database, "QUIET_SECONDS", 0.5)
    server.stop()
    try:
        begun = time.monotonic()
        with pytest.raises(RunError, match=r"^the store postgresql.* failed: .*refused") as caught:
            store.transact(lambda connection: None, patience=2)
        assert time.monotonic() - begun < 4
        assert "\n" not in str(caught.value)
        assert len(said) == 1
    finally:
        server.start()
