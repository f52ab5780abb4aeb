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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from senet_lab.config import RunError, UserError

RUNNING, DONE, FAILED = "running", "done", "failed"
STALE_SECONDS = 60.0  # a silent owner on another machine is taken to be dead after this
HEARTBEAT_SECONDS = 10.0

Record = dict[str, Any]
# What a record must have to be one.
REQUIRED = {DONE: ("config", "epochs", "metrics", "seconds", "resumed"), FAILED: ("config", "reason")}

records = sa.Table(
    "records",
    sa.MetaData(),
    sa.Column("trial_id", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("heartbeat", sa.Double, nullable=False),  # seconds since 1970
    sa.Column("record", sa.Text),  # JSON, once the trial has ended
)

# What is decided or measured once beside the trials: a search's space, a network's latency.
notes = sa.Table(
    "notes",
    records.metadata,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),  # JSON
)


def this_machine() -> str:
    """This machine, and in it the container: process ids mean something within one namespace only."""
    try:
        return f"{platform.node()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def this_process() -> str:
    """This process as an owner: machine, process id and start time (ids are used again)."""
    pid = os.getpid()
    return f"{this_machine()}/{pid}/{start_ticks(pid)}"


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
    machine, _, process = owner.partition("/")
    pid, _, ticks = process.partition("/")
    return machine == this_machine() and pid.isdecimal() and ticks != "" and start_ticks(int(pid)) != ticks


class Store:
    """The table of records at a SQLAlchemy URL.

    Args:
        url: e.g. `sqlite:///results/local/lab.db` or `postgresql+psycopg://user@host/lab`.
        create: whether to make the database file, and the table in it, where there is none. Without, such a store
            reads as empty and nothing is written.

    Raises:
        UserError: a URL that is none, or that cannot be reached, or a file that is not a database or is damaged.
    """

    def __init__(self, url: str, create: bool = True) -> None:
        self.url = url
        self.owner = this_process()
        location = parse(url)
        self.name = location.render_as_string()  # the password hidden
        is_sqlite = location.get_backend_name() == "sqlite"
        self.patience = {"timeout": 60} if is_sqlite else {}
        in_memory = is_sqlite and location.database in (None, "", ":memory:")
        if in_memory and create:
            raise UserError(f"storage={url} keeps nothing: name a file, such as sqlite:///results/local/lab.db")
        try:
            if is_sqlite and not in_memory:
                path = Path(str(location.database))
                if create:
                    path.parent.mkdir(parents=True, exist_ok=True)
                elif not path.exists():
                    location = location.set(database=":memory:")
            self.engine = sa.create_engine(location, connect_args=self.patience)
            with self.engine.begin() as connection:
                verdict = connection.execute(sa.text("PRAGMA quick_check")).scalar() if is_sqlite else "ok"
                if verdict != "ok":
                    raise UserError(f"storage={self.name}: the database is damaged ({str(verdict).splitlines()[-1]})")
            if create:
                # Of two drivers that find no table at the same moment, PostgreSQL refuses one, `if_not_exists` or not.
                for table in (records, notes):
                    with suppress(exc.IntegrityError), self.engine.begin() as connection:
                        connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
            with self.engine.begin() as connection:
                self.empty = not sa.inspect(connection).has_table(records.name)
        except exc.NoSuchModuleError as error:
            raise UserError(
                f"storage={self.name}: there is no database '{location.drivername}' here; "
                "there are sqlite, postgresql+psycopg and whatever else SQLAlchemy has a driver for"
            ) from error
        except ModuleNotFoundError as error:
            raise UserError(f"storage={self.name}: its driver is not installed ({error.name})") from error
        except exc.OperationalError as error:
            raise UserError(f"storage={self.name} cannot be opened: {first_line(error.orig)}") from error
        except (exc.DBAPIError, UnicodeDecodeError) as error:  # names of tables that are no UTF-8 any more
            raise UserError(f"storage={self.name} is damaged, or no database: {said_by(error)}") from error
        except (OSError, TypeError, exc.SQLAlchemyError) as error:  # TypeError: an option that the driver lacks
            raise UserError(f"storage={self.name}: {first_line(error)}") from error

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction; a database that fails in the middle of a study (a full disk, say) ends it with one line."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except exc.IntegrityError:
            raise
        except (exc.DBAPIError, UnicodeDecodeError) as error:
            raise RunError(f"the store {self.name} failed: {said_by(error)}") from error

    # ------------------------------------------------------------------------------------------------------- claims

    def claim(self, trial_id: str) -> bool:
        """Make the trial ours. False if it has ended, or is somebody else's who is alive."""
        mine = {"state": RUNNING, "owner": self.owner, "heartbeat": time.time()}
        look = sa.select(records.c.state, records.c.owner, records.c.heartbeat).where(records.c.trial_id == trial_id)
        with self.transaction() as connection:  # a look first: what is another driver's costs no write
            row = connection.execute(look).one_or_none()
        if row is None:
            try:
                with self.transaction() as connection:
                    connection.execute(records.insert().values(trial_id=trial_id, **mine))
                return True
            except exc.IntegrityError:
                return False  # another driver was quicker
        silent = row.heartbeat < time.time() - STALE_SECONDS
        if row.state != RUNNING or not (silent or is_dead(row.owner)):
            return False
        with self.transaction() as connection:
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
        if self.empty:
            return 0
        with self.transaction() as connection:
            chosen = [records.delete().where(records.c.trial_id == name) for name in trial_ids]
            return sum(connection.execute(each.where(records.c.state.in_(states))).rowcount for each in chosen)

    # ------------------------------------------------------------------------------------------------------ records

    def finish(self, trial_id: str, state: str, record: Record) -> bool:
        """Record how our trial ended (`done` or `failed`), once. False if the claim was taken from us meanwhile."""
        text = json.dumps(record, sort_keys=True, allow_nan=False)
        with self.transaction() as connection:
            written = connection.execute(
                records.update()
                .where(records.c.trial_id == trial_id, records.c.owner == self.owner, records.c.state == RUNNING)
                .values(state=state, record=text, heartbeat=time.time())
            )
            return bool(written.rowcount == 1)

    def add(self, trial_id: str, state: str, heartbeat: float, text: str) -> bool:
        """Take a record over as it stands elsewhere, JSON and all. False if the trial is claimed or recorded here."""
        values = {"state": state, "owner": self.owner, "heartbeat": heartbeat, "record": text}
        try:
            with self.transaction() as connection:
                connection.execute(records.insert().values(trial_id=trial_id, **values))
            return True
        except exc.IntegrityError:
            return False

    def text(self, trial_id: str) -> str | None:
        """A trial's record as it stands here; None if it has none."""
        with self.transaction() as connection:
            found: str | None = connection.execute(
                sa.select(records.c.record).where(records.c.trial_id == trial_id)
            ).scalar()
        return found

    def read(self, trial_ids: Iterable[str]) -> dict[str, Record]:
        """The records of those of the trials that have ended, with their `trial_id` and `state`.

        Raises:
            UserError: a record that is damaged, by the trial's id. It is not dropped: a lost row is a wrong table.
        """
        wanted = list(trial_ids)
        found = {}
        for start in range(0, len(wanted), 500):  # SQLite's limit on variables is 999 in old versions
            for record in self.ended(records.c.trial_id.in_(wanted[start : start + 500])):
                found[record["trial_id"]] = record
        return {trial_id: found[trial_id] for trial_id in wanted if trial_id in found}

    def latest(self, count: int) -> list[Record]:
        """The records of the trials that were finished last, the newest first; raises as `read` does."""
        return self.ended(records.c.state == DONE, count)

    def ended(self, which: sa.ColumnElement[bool], count: int | None = None) -> list[Record]:
        """The records of trials that have ended, the newest first."""
        if self.empty:
            return []
        query = sa.select(records).where(which, records.c.state.in_((DONE, FAILED)))
        with self.transaction() as connection:
            rows = connection.execute(query.order_by(records.c.heartbeat.desc()).limit(count)).all()
        return [self.parse(row) for row in rows]

    # -------------------------------------------------------------------------------------------------------- notes

    def note(self, name: str) -> Any:
        """The value noted under a name; None if there is none."""
        text = self.noted(notes.c.name == name).get(name)
        return None if text is None else json.loads(text)

    def noted(self, *which: sa.ColumnElement[bool]) -> dict[str, str]:
        """Name → value as JSON, of all notes or some; a store of an earlier version has none."""
        with self.transaction() as connection:
            if not sa.inspect(connection).has_table(notes.name):
                return {}
            return {row.name: row.value for row in connection.execute(sa.select(notes).where(*which))}

    def note_once(self, name: str, value: Any) -> Any:
        """Note a value, unless there is one of that name already; the one that is noted then."""
        try:
            with self.transaction() as connection:
                connection.execute(notes.insert().values(name=name, value=json.dumps(value, allow_nan=False)))
        except exc.IntegrityError:
            pass  # noted before, or by another driver
        return self.note(name)

    def parse(self, row: sa.Row[Any]) -> Record:
        try:
            record = json.loads(row.record)
            missing = [name for name in REQUIRED[row.state] if name not in record]
            if row.state == DONE and not missing:
                missing = [name for name in ("test_error", "val_error") if name not in record["metrics"]]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
            return {**record, "trial_id": row.trial_id, "state": row.state}
        except (TypeError, ValueError) as error:
            raise UserError(
                f"storage={self.name}: the record of trial {row.trial_id} is damaged ({first_line(error)}); "
                f"delete it with: python -m senet_lab store forget {row.trial_id}"
            ) from error


def parse(url: str) -> sa.URL:
    """The URL of a database; a UserError if it is none."""
    try:
        location = sa.make_url(url)
        location.get_backend_name()
        return location
    except (exc.ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise UserError(f"storage={url} is not a database URL such as sqlite:///results/local/lab.db") from error


def said_by(error: Exception) -> str:
    """What the database itself said."""
    return first_line(error.orig if isinstance(error, exc.DBAPIError) else error)


def first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
