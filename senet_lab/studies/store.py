"""The store: which trials are claimed, by whom, and what the finished ones left.

One table of ours, `records`, beside Optuna's in the same database (SQLite by default; any that SQLAlchemy speaks to). A
claim is one INSERT, or one conditional UPDATE, on the trial's id: any number of drivers, in the same study or in
different ones, train a trial exactly once. The owner renews its heartbeat; a claim whose owner is dead, or silent for
too long, may be taken over.

A database that does not answer (a server that is started again, a file that another program has locked) is asked again
for a minute. A connection may be lost behind a commit, so that what is asked again may have been done already: every
statement here may be said twice, and what it comes to is read off the table.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from senet_lab.config import RunError, UserError, fault_of, first_line
from senet_lab.files import at_home
from senet_lab.studies.owners import is_dead, this_process

RUNNING, DONE, FAILED = "running", "done", "failed"
STALE_SECONDS = 60.0  # a silent owner on another machine is taken to be dead after this
HEARTBEAT_SECONDS = 10.0
PATIENCE_SECONDS = 60.0  # a database that does not answer is asked again for so long
QUIET_SECONDS = 3.0  # and after this the user is told so
PARTING_SECONDS = 2.0  # patience at the end, when the user waits for it
# How long one question to it may wait. A server's machine may vanish without a word.
WAITS = {
    "sqlite": {"timeout": 2},  # s; Ctrl-C waits, too
    "postgresql+psycopg": {"connect_timeout": 10, "keepalives_idle": 10, "tcp_user_timeout": 30_000},  # s, s, ms
}

Record = dict[str, Any]
T = TypeVar("T")
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

# What each trained network made of each test image (`senet_lab.outputs`).
outputs = sa.Table(
    "outputs",
    records.metadata,
    sa.Column("trial_id", sa.String(64), primary_key=True),
    sa.Column("packed", sa.LargeBinary, nullable=False),
)


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
        self.owner = this_process()
        location = parse(url)
        self.url = location.render_as_string(hide_password=False)
        self.name = location.render_as_string()  # the password hidden
        is_sqlite = location.get_backend_name() == "sqlite"
        self.say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)  # what the user is told
        self.back = 0.0  # when it answered again after it had not, in seconds since 1970
        self.waits = WAITS.get("sqlite" if is_sqlite else location.drivername, {})
        in_memory = is_sqlite and location.database in (None, "", ":memory:")
        if in_memory and create:
            raise UserError(f"storage={url} keeps nothing: name a file, such as sqlite:///results/local/lab.db")
        path = Path(location.database or "")
        try:
            if is_sqlite and not in_memory:
                if create:
                    path.parent.mkdir(parents=True, exist_ok=True)
                elif not path.exists():
                    location = location.set(database=":memory:")
            self.engine = sa.create_engine(location, connect_args=self.waits)
            # A file is there, and may be locked; a server that does not answer yet may never, and is said so at once.
            self.patiently(lambda: self.open(create), PATIENCE_SECONDS if is_sqlite else 0)
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
        except OSError as error:
            raise UserError(f"storage={self.name}: {fault_of(path, error)}") from error
        except (TypeError, exc.SQLAlchemyError) as error:  # TypeError: an option that the driver lacks
            raise UserError(f"storage={self.name}: {first_line(error)}") from error

    def open(self, create: bool) -> None:
        """Look whether it is whole, and make the tables if they are to be made."""
        with self.engine.begin() as connection:
            is_sqlite = self.engine.dialect.name == "sqlite"
            verdict = connection.execute(sa.text("PRAGMA quick_check")).scalar() if is_sqlite else "ok"
            if verdict != "ok":
                raise UserError(f"storage={self.name}: the database is damaged ({str(verdict).splitlines()[-1]})")
        if create:
            for table in (records, notes, outputs):
                self.make(table)
        self.empty = not self.has(records)

    def make(self, table: sa.Table) -> None:
        """Create a table unless it is there."""
        try:
            with self.engine.begin() as connection:
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
        except (exc.IntegrityError, exc.ProgrammingError):
            # Of drivers that find no table at the same moment, PostgreSQL lets one make it and refuses the others,
            # `if_not_exists` or not: by an index, the relation or its type, whichever the first had come to.
            if not self.has(table):
                raise

    def has(self, table: sa.Table) -> bool:
        """Whether a table is there."""
        with self.engine.begin() as connection:
            return sa.inspect(connection).has_table(table.name)

    def transact(self, act: Callable[[sa.Connection], T], patience: float = PATIENCE_SECONDS) -> T:
        """Do something in one transaction, and again if the database does not answer, be it after it was done.

        Raises:
            IntegrityError: what is to be inserted is there.
            RunError: the database failed (a full disk, say), or did not answer for `patience` seconds.
        """

        def once() -> T:
            with self.engine.begin() as connection:
                return act(connection)

        with self.failing():
            return self.patiently(once, patience)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction that is not tried again, to read more than fits into memory."""
        with self.failing(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def failing(self) -> Iterator[None]:
        """A database that fails in the body is one line."""
        try:
            yield
        except exc.IntegrityError:
            raise
        except (exc.DBAPIError, UnicodeDecodeError) as error:
            raise RunError(f"the store {self.name} failed: {said_by(error)}") from error

    def patiently(self, act: Callable[[], T], patience: float = PATIENCE_SECONDS) -> T:
        """Do something with the database that may be done twice; again while it does not answer, for at most `patience`
        seconds, after which its last error is raised as it is."""
        begun, pause, told = time.monotonic(), 0.1, False
        while True:
            try:
                done = act()
            except Exception as error:
                waited = time.monotonic() - begun
                if not is_away(error) or waited + pause > patience:
                    raise
                if waited > QUIET_SECONDS and not told:
                    left = f"trying again for {patience - waited:.0f} s"
                    self.say(f"the store {self.name} does not answer ({said_by(error)}); {left}")
                    told = True
                self.back = time.time()
            else:
                if told:
                    self.say(f"the store {self.name} answers again")
                return done
            time.sleep(pause)
            pause = min(1.0, 2 * pause)

    # ------------------------------------------------------------------------------------------------------- claims

    def claim(self, trial_id: str) -> bool:
        """Make the trial ours. False if it has ended, or is somebody else's who is alive, or ours already."""
        mine = {"state": RUNNING, "owner": self.owner, "heartbeat": time.time()}
        row = self.claimed(trial_id)  # a look first: what is another driver's costs no write
        if row is None:
            won = self.insert(records, trial_id=trial_id, **mine)
        elif row.state != RUNNING or row.owner == self.owner or not (self.is_silent(row) or is_dead(row.owner)):
            return False
        else:
            # Conditional on what was read: of two drivers that saw the same dead owner, one gets it.
            take = (
                records.update()
                .where(records.c.trial_id == trial_id, records.c.state == RUNNING)
                .where(records.c.owner == row.owner, records.c.heartbeat == row.heartbeat)
                .values(**mine)
            )
            won = self.transact(lambda connection: bool(connection.execute(take).rowcount == 1))
        if won:
            return True
        # Another driver was quicker; or we were, and the connection was lost before we were told.
        now = self.claimed(trial_id)
        return now is not None and (now.state, now.owner) == (RUNNING, self.owner)

    def claimed(self, trial_id: str) -> sa.Row[Any] | None:
        """A trial's state, owner and heartbeat; None if it is nobody's."""
        columns = [records.c[name] for name in ("state", "owner", "heartbeat")]
        look = sa.select(*columns).where(records.c.trial_id == trial_id)
        return self.transact(lambda connection: connection.execute(look).one_or_none())

    def is_silent(self, row: sa.Row[Any]) -> bool:
        """Whether a claim's owner has given no sign of life for too long. After the database was away, owners are given
        the time to give one."""
        now = time.time()
        return bool(row.heartbeat < now - STALE_SECONDS) and now - self.back > 2 * HEARTBEAT_SECONDS

    def beat(self) -> None:
        """Say that this process is alive, on all of its claims; not again if that fails, since it is said often."""
        ours = records.update().where(records.c.owner == self.owner, records.c.state == RUNNING)
        self.transact(lambda connection: connection.execute(ours.values(heartbeat=time.time())), patience=0)

    def release(self, trial_id: str, patience: float = PATIENCE_SECONDS) -> None:
        """Give a claim back, unfinished."""
        ours = (records.c.trial_id == trial_id, records.c.owner == self.owner, records.c.state == RUNNING)
        self.transact(lambda connection: connection.execute(records.delete().where(*ours)), patience)

    def release_all(self) -> None:
        """Give all claims of this process back, at its end: also one that it was just making when it was interrupted.
        With little patience, since the claims of a process that is gone are taken over in any case."""
        ours = records.delete().where(records.c.owner == self.owner, records.c.state == RUNNING)
        self.transact(lambda connection: connection.execute(ours), PARTING_SECONDS)

    def forget(self, trial_ids: Iterable[str], states: Sequence[str] = (FAILED,)) -> int:
        """Delete records, by default of failed trials only, so that they can be trained again; how many there were."""
        if self.empty:
            return 0
        wanted, has_outputs = list(trial_ids), self.has(outputs)

        def act(connection: sa.Connection) -> int:
            gone = 0
            for name in wanted:
                ours = (records.c.trial_id == name, records.c.state.in_(states))
                count = connection.execute(records.delete().where(*ours)).rowcount
                if count and has_outputs:
                    keep(connection, name, None)
                gone += count
            return gone

        return self.transact(act)

    # ------------------------------------------------------------------------------------------------------ records

    def finish(self, trial_id: str, state: str, record: Record, packed: bytes | None = None) -> bool:
        """Record how our trial ended (`done` or `failed`), and its outputs, once. False if the claim was taken from us
        meanwhile."""
        text, now = json.dumps(record, sort_keys=True, allow_nan=False), time.time()
        ours = (records.c.trial_id == trial_id, records.c.owner == self.owner)
        write = records.update().where(*ours, records.c.state == RUNNING)
        written = sa.select(records.c.owner).where(*ours, records.c.state == state, records.c.heartbeat == now)

        def act(connection: sa.Connection) -> bool:
            if connection.execute(write.values(state=state, record=text, heartbeat=now)).rowcount == 1:
                keep(connection, trial_id, packed)
                return True
            # Not ours any more; or this is the second try, and the first had written it: at this moment, to the bit.
            return connection.execute(written).one_or_none() is not None

        return self.transact(act)

    def add(self, trial_id: str, state: str, heartbeat: float, text: str, packed: bytes | None = None) -> bool:
        """Take a record over as it stands elsewhere, JSON, outputs and all. False if the trial is claimed or recorded
        here."""
        values = {"trial_id": trial_id, "state": state, "owner": self.owner, "heartbeat": heartbeat, "record": text}

        def act(connection: sa.Connection) -> None:
            connection.execute(records.insert().values(values))
            keep(connection, trial_id, packed)

        return self.inserted(act)

    def insert(self, table: sa.Table, **values: Any) -> bool:
        """Add a row. False if there is one of its key, which may be the same one."""
        return self.inserted(lambda connection: connection.execute(table.insert().values(**values)))

    def inserted(self, act: Callable[[sa.Connection], object]) -> bool:
        """Do what inserts. False if what it inserts is there."""
        try:
            self.transact(act)
            return True
        except exc.IntegrityError:
            return False

    def outputs(self, trial_ids: Iterable[str]) -> dict[str, bytes]:
        """Trial id → its outputs (`senet_lab.outputs`), of those of the trials that have them."""
        wanted = list(trial_ids)
        if self.empty or not self.has(outputs):  # of an earlier version
            return {}
        found: dict[str, bytes] = {}
        for start in range(0, len(wanted), 500):
            query = sa.select(outputs).where(outputs.c.trial_id.in_(wanted[start : start + 500]))
            found |= {row.trial_id: row.packed for row in self.rows(query)}
        return {trial_id: found[trial_id] for trial_id in wanted if trial_id in found}

    def text(self, trial_id: str) -> str | None:
        """A trial's record as it stands here; None if it has none."""
        query = sa.select(records.c.record).where(records.c.trial_id == trial_id)
        found: str | None = self.transact(lambda connection: connection.execute(query).scalar())
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

    def known(self, trial_ids: Iterable[str]) -> set[str]:
        """Those of the trials that have ended."""
        if self.empty:
            return set()
        wanted, found = list(trial_ids), set()
        for start in range(0, len(wanted), 500):
            ours = (records.c.trial_id.in_(wanted[start : start + 500]), records.c.state.in_((DONE, FAILED)))
            found |= {row.trial_id for row in self.rows(sa.select(records.c.trial_id).where(*ours))}
        return found

    def latest(self, count: int) -> list[Record]:
        """The records of the trials that were finished last, the newest first; raises as `read` does."""
        return self.ended(records.c.state == DONE, count)

    def ended(self, which: sa.ColumnElement[bool], count: int | None = None) -> list[Record]:
        """The records of trials that have ended, the newest first."""
        if self.empty:
            return []
        query = sa.select(records).where(which, records.c.state.in_((DONE, FAILED)))
        query = query.order_by(records.c.heartbeat.desc()).limit(count)
        return [self.parse(row) for row in self.rows(query)]

    def rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """What a query finds."""
        return self.transact(lambda connection: connection.execute(query).all())

    # -------------------------------------------------------------------------------------------------------- notes

    def note(self, name: str) -> Any:
        """The value noted under a name; None if there is none."""
        text = self.noted(notes.c.name == name).get(name)
        return None if text is None else json.loads(text)

    def noted(self, *which: sa.ColumnElement[bool]) -> dict[str, str]:
        """Name → value as JSON, of all notes or some; a store of an earlier version has none."""

        def act(connection: sa.Connection) -> dict[str, str]:
            if not sa.inspect(connection).has_table(notes.name):
                return {}
            return {row.name: row.value for row in connection.execute(sa.select(notes).where(*which))}

        return self.transact(act)

    def note_once(self, name: str, value: Any) -> Any:
        """Note a value, unless there is one of that name already; the one that is noted then."""
        self.insert(notes, name=name, value=json.dumps(value, allow_nan=False))  # or it is: by us, or another driver
        return self.note(name)

    def parse(self, row: sa.Row[Any]) -> Record:
        try:
            record = json.loads(row.record)
            missing = [name for name in REQUIRED[row.state] if name not in record]
            if row.state == DONE and not missing:
                validated = record["config"].get("data", {}).get("validation") != 0
                measured = ("test_error", "val_error") if validated else ("test_error",)
                missing = [name for name in measured if name not in record["metrics"]]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
            return {**record, "trial_id": row.trial_id, "state": row.state}
        except (TypeError, ValueError) as error:
            raise UserError(
                f"storage={self.name}: the record of trial {row.trial_id} is damaged ({first_line(error)}); "
                f"delete it with: python -m senet_lab store forget {row.trial_id}"
            ) from error


def keep(connection: sa.Connection, trial_id: str, packed: bytes | None) -> None:
    """Have these outputs of a trial, or none, in place of any that are there."""
    connection.execute(outputs.delete().where(outputs.c.trial_id == trial_id))
    if packed is not None:
        connection.execute(outputs.insert().values(trial_id=trial_id, packed=packed))


def parse(url: str) -> sa.URL:
    """The URL of a database; a UserError if it is none."""
    try:
        location = sa.make_url(url)
        if location.get_backend_name() == "sqlite" and location.database:
            return location.set(database=at_home(location.database))
        return location
    except (exc.ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise UserError(f"storage={url} is not a database URL such as sqlite:///results/local/lab.db") from error


def is_away(error: BaseException | None) -> bool:
    """Whether the database does not answer at the moment, and may later: its server ends, starts or cannot be reached,
    or another program has locked it. Optuna wraps what it was told."""
    if error is not None and not isinstance(error, exc.DBAPIError):
        return is_away(error.__cause__)
    if error is None or error.connection_invalidated:
        return error is not None
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    # PostgreSQL's class of errors: connection, operator's intervention, a transaction that met another one. One that
    # could not connect has none.
    code = str(getattr(error.orig, "sqlstate", "") or "08")
    return isinstance(error, exc.OperationalError) and code[:2] in ("08", "57", "40")


def said_by(error: Exception) -> str:
    """What the database itself said."""
    if error.__cause__ is not None and not isinstance(error, exc.DBAPIError):
        return first_line(error.__cause__)
    return first_line(error.orig if isinstance(error, exc.DBAPIError) else error)
