"""The store: which trials are claimed, by whom, and what the finished ones left.

One table of ours, `records`, beside Optuna's in the same database (SQLite by default; any that SQLAlchemy speaks to). A
claim is one INSERT, or one conditional UPDATE, on the trial's id: any number of drivers, in the same study or in
different ones, train a trial exactly once. The owner renews its heartbeat; a claim whose owner is dead, or silent for
too long, may be taken over.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from senet_lab.config import RunError, UserError

RUNNING, DONE, FAILED = "running", "done", "failed"
STALE_SECONDS = 60.0  # a silent owner on another machine is taken to be dead after this
HEARTBEAT_SECONDS = 10.0

metadata = sa.MetaData()
records = sa.Table(
    "records",
    metadata,
    sa.Column("trial_id", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("heartbeat", sa.Double, nullable=False),  # seconds since 1970
    sa.Column("record", sa.Text),  # JSON, once the trial has ended
)


def this_process() -> str:
    """This process as an owner: host, process id and start time (ids are used again)."""
    pid = os.getpid()
    return f"{platform.node()}/{pid}/{start_ticks(pid)}"


def start_ticks(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty if it is gone, or where there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def is_dead(owner: str) -> bool:
    """Whether the owner is known to be gone: a process of this machine that has ended."""
    host, pid, ticks = owner.split("/")
    return host == platform.node() and ticks != "" and start_ticks(int(pid)) != ticks


class Store:
    """The table of records at a SQLAlchemy URL.

    Args:
        url: e.g. `sqlite:///results/local/lab.db` or `postgresql+psycopg://user@host/lab`.
        create: whether to make an SQLite file that is not there.

    Raises:
        UserError: a URL that is none, or that cannot be reached, or a file that is not a database or is damaged.
    """

    def __init__(self, url: str, create: bool = True) -> None:
        self.url = url
        self.owner = this_process()
        try:
            location = sa.make_url(url)
            if not create and is_missing_file(location):
                location = sa.make_url("sqlite://")  # nothing is recorded: an empty one in memory
            if location.get_backend_name() == "sqlite" and location.database:
                Path(location.database).parent.mkdir(parents=True, exist_ok=True)
            self.patience = {"timeout": 60} if location.get_backend_name() == "sqlite" else {}
            self.engine = sa.create_engine(location, connect_args=self.patience)
            with self.engine.begin() as connection:
                if location.get_backend_name() == "sqlite":
                    verdict = connection.execute(sa.text("PRAGMA quick_check")).scalar()
                    if verdict != "ok":
                        raise UserError(f"storage={url}: the database is damaged ({str(verdict).splitlines()[-1]})")
                metadata.create_all(connection)
        except exc.ArgumentError as error:
            raise UserError(f"storage={url} is not a database URL such as sqlite:///results/local/lab.db") from error
        except exc.NoSuchModuleError as error:
            raise UserError(f"storage={url}: SQLAlchemy knows no such database: {error}") from error
        except ModuleNotFoundError as error:
            raise UserError(f"storage={url}: its driver is not installed ({error.name})") from error
        except exc.OperationalError as error:
            raise UserError(f"storage={url} cannot be opened: {first_line(error.orig)}") from error
        except exc.DatabaseError as error:
            raise UserError(f"storage={url} is damaged, or no database: {first_line(error.orig)}") from error
        except OSError as error:
            raise UserError(f"storage={url}: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction; a database that fails in the middle of a study (a full disk, say) ends it with one line."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except exc.IntegrityError:
            raise
        except exc.DatabaseError as error:
            raise RunError(f"the store {self.url} failed: {first_line(error.orig)}") from error

    # ------------------------------------------------------------------------------------------------------- claims

    def claim(self, trial_id: str) -> bool:
        """Make the trial ours. False if it has ended, or is somebody else's who is alive."""
        mine = {"state": RUNNING, "owner": self.owner, "heartbeat": time.time()}
        try:
            with self.transaction() as connection:
                connection.execute(records.insert().values(trial_id=trial_id, record=None, **mine))
            return True
        except exc.IntegrityError:
            pass  # somebody has, or had, it
        with self.transaction() as connection:
            row = connection.execute(sa.select(records).where(records.c.trial_id == trial_id)).one_or_none()
            if row is None:
                return False  # given back this very moment; the next round gets it
            abandoned = row.state == RUNNING and (is_dead(row.owner) or row.heartbeat < time.time() - STALE_SECONDS)
            if not abandoned:
                return False
            # Conditional on what was read: of two drivers that saw the same dead owner, one gets it.
            taken = connection.execute(
                records.update()
                .where(records.c.trial_id == trial_id, records.c.state == RUNNING)
                .where(records.c.owner == row.owner, records.c.heartbeat == row.heartbeat)
                .values(**mine)
            )
            return bool(taken.rowcount == 1)

    def beat(self) -> None:
        """Say that this process is alive, on all of its claims."""
        with self.transaction() as connection:
            connection.execute(
                records.update()
                .where(records.c.owner == self.owner, records.c.state == RUNNING)
                .values(heartbeat=time.time())
            )

    def release(self, trial_id: str) -> None:
        """Give a claim back, unfinished."""
        with self.transaction() as connection:
            connection.execute(
                records.delete().where(
                    records.c.trial_id == trial_id, records.c.owner == self.owner, records.c.state == RUNNING
                )
            )

    def forget(self, trial_ids: Iterable[str], states: Sequence[str] = (FAILED,)) -> int:
        """Delete records, by default of failed trials only, so that they can be trained again; how many there were."""
        chosen = records.c.trial_id.in_(list(trial_ids)) & records.c.state.in_(states)
        with self.transaction() as connection:
            return int(connection.execute(records.delete().where(chosen)).rowcount)

    # ------------------------------------------------------------------------------------------------------ records

    def finish(self, trial_id: str, state: str, record: dict[str, Any]) -> bool:
        """Record how our trial ended (`done` or `failed`), once. False if the claim was taken from us meanwhile."""
        text = json.dumps(record, sort_keys=True, allow_nan=False)
        with self.transaction() as connection:
            written = connection.execute(
                records.update()
                .where(records.c.trial_id == trial_id, records.c.owner == self.owner, records.c.state == RUNNING)
                .values(state=state, record=text, heartbeat=time.time())
            )
            return bool(written.rowcount == 1)

    def read(self, trial_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The records of those of the trials that have ended, with their `trial_id` and `state`.

        Raises:
            UserError: a record that is damaged, by the trial's id. It is not dropped: a lost row is a wrong table.
        """
        wanted = list(trial_ids)
        found = {}
        with self.transaction() as connection:
            for start in range(0, len(wanted), 500):  # SQLite's limit on variables is 999 in old versions
                chunk = wanted[start : start + 500]
                query = sa.select(records).where(records.c.trial_id.in_(chunk), records.c.state.in_((DONE, FAILED)))
                for row in connection.execute(query):
                    found[row.trial_id] = self.parse(row)
        return {trial_id: found[trial_id] for trial_id in wanted if trial_id in found}

    def all(self) -> list[dict[str, Any]]:
        """Every record, ordered by trial id; raises as `read` does."""
        with self.transaction() as connection:
            rows = connection.execute(
                sa.select(records).where(records.c.state.in_((DONE, FAILED))).order_by(records.c.trial_id)
            ).all()
        return [self.parse(row) for row in rows]

    def parse(self, row: Any) -> dict[str, Any]:
        try:
            record = json.loads(row.record)
            if row.state == DONE:
                record["metrics"]["test_error"], record["epochs"], record["seconds"]
            else:
                record["reason"]
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(
                f"storage={self.url}: the record of trial {row.trial_id} is damaged ({error!r}); "
                f"delete it with: python -m senet_lab store forget {row.trial_id}"
            ) from error
        return {**record, "trial_id": row.trial_id, "state": row.state}


def is_missing_file(location: sa.URL) -> bool:
    is_file = location.get_backend_name() == "sqlite" and location.database not in (None, "", ":memory:")
    return is_file and not Path(str(location.database)).exists()


def first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
