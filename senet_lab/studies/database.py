"""A database that may be unreachable for a while.

If it does not answer (a server restarts, another program has locked the file), a statement is repeated for a minute. A
connection may be lost after a commit, so that the repeated statement may already have been carried out: every statement
can be repeated without harm, and its result is read from the tables.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from senet_lab.config import RunError, UserError, first_line, path_fault
from senet_lab.files import expand_home

PATIENCE_SECONDS = 60.0  # a database that does not answer is asked again for so long
QUIET_SECONDS = 3.0  # and after this the user is told so
PARTING_SECONDS = 2.0  # patience at the end of a study, when the user waits
# How long one statement may wait, because a server may vanish without closing the connection.
WAITS = {
    "sqlite": {"timeout": 2},  # s; Ctrl-C waits, too
    "postgresql+psycopg": {"connect_timeout": 10, "keepalives_idle": 10, "tcp_user_timeout": 30_000},  # s, s, ms
}
T = TypeVar("T")


class Database:
    """The tables at a SQLAlchemy URL.

    Args:
        url: e.g. `sqlite:///results/local/lab.db` or `postgresql+psycopg://user@host/lab`.
        tables: what it is to hold.
        create: whether to make the database file, and the tables in it, where there are none. Without, a table that is
            not there reads as empty.

    Raises:
        UserError: a URL that is none, or that cannot be reached, or a file that is not a database or is damaged.
    """

    def __init__(self, url: str, tables: sa.MetaData, create: bool) -> None:
        location = parse(url)
        self.url = location.render_as_string(hide_password=False)
        self.name = location.render_as_string()  # the password hidden
        self.say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
        self.back = 0.0  # when it answered again after it had not, in seconds since 1970
        is_sqlite = location.get_backend_name() == "sqlite"
        self.waits = WAITS.get("sqlite" if is_sqlite else location.drivername, {})
        in_memory = is_sqlite and location.database in (None, "", ":memory:")
        if in_memory and create:
            raise UserError(f"storage={url} keeps nothing: name a file, such as sqlite:///results/local/lab.db")
        with self.opening(location):
            if is_sqlite and not in_memory:
                path = Path(str(location.database))
                if create:
                    path.parent.mkdir(parents=True, exist_ok=True)
                elif not path.exists():
                    location = location.set(database=":memory:")
            self.engine = sa.create_engine(location, connect_args=self.waits)
            # A file that exists may be locked for a while; a server that does not answer at first is an error at once.
            self.retry(lambda: self.open(tables if create else None), PATIENCE_SECONDS if is_sqlite else 0)

    def report_to(self, say: Callable[[str], None]) -> None:
        """Call `say` with the warnings about a database that does not answer; they go to standard error otherwise."""
        self.say = say

    @contextmanager
    def opening(self, location: sa.URL) -> Iterator[None]:
        """Turn any error of opening a database in the body into a UserError of one line."""
        try:
            yield
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
            raise UserError(f"storage={self.name} is damaged, or no database: {database_message(error)}") from error
        except OSError as error:
            raise UserError(f"storage={self.name}: {path_fault(Path(location.database or ''), error)}") from error
        except (TypeError, exc.SQLAlchemyError) as error:  # TypeError: an option that the driver lacks
            raise UserError(f"storage={self.name}: {first_line(error)}") from error

    def open(self, tables: sa.MetaData | None) -> None:
        """Check the database, create the tables if asked to, and note which there are."""
        with self.engine.begin() as connection:
            is_sqlite = self.engine.dialect.name == "sqlite"
            verdict = connection.execute(sa.text("PRAGMA quick_check")).scalar() if is_sqlite else "ok"
            if verdict != "ok":
                raise UserError(f"storage={self.name}: the database is damaged ({str(verdict).splitlines()[-1]})")
        for table in tables.sorted_tables if tables is not None else []:
            self.make(table)
        self.tables = self.listed()

    def make(self, table: sa.Table) -> None:
        """Create a table unless it is there."""
        try:
            with self.engine.begin() as connection:
                connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
        except (exc.IntegrityError, exc.ProgrammingError):
            # Of drivers that find no table at the same moment, PostgreSQL lets one make it and refuses the others,
            # `if_not_exists` or not: by an index, the relation or its type, whichever the first had come to.
            if table.name not in self.listed():
                raise

    def listed(self) -> set[str]:
        """The names of the tables that are there."""
        with self.engine.begin() as connection:
            return set(sa.inspect(connection).get_table_names())

    def rows(self, query: sa.Select[Any]) -> list[sa.Row[Any]]:
        """The rows of a query; none if the table does not exist, as in a database of an earlier version."""
        if not {str(table) for table in query.get_final_froms()} <= self.tables:
            return []
        return self.transact(lambda connection: list(connection.execute(query)))

    def transact(self, act: Callable[[sa.Connection], T], patience: float = PATIENCE_SECONDS) -> T:
        """Run `act` in one transaction; repeat it if the database does not answer, even if that was after the commit.

        Raises:
            IntegrityError: what is to be inserted is there.
            RunError: the database failed (a full disk, say), or did not answer for `patience` seconds.
        """

        def once() -> T:
            with self.engine.begin() as connection:
                return act(connection)

        try:
            return self.retry(once, patience)
        except exc.IntegrityError:
            raise
        except (exc.DBAPIError, UnicodeDecodeError) as error:
            raise RunError(f"the store {self.name} failed: {database_message(error)}") from error

    def inserted(self, act: Callable[[sa.Connection], object]) -> bool:
        """Run an insertion. False if the row exists, which may be the same row."""
        try:
            self.transact(act)
            return True
        except exc.IntegrityError:
            return False

    def retry(self, act: Callable[[], T], patience: float = PATIENCE_SECONDS) -> T:
        """Run `act`, which may be repeated without harm; repeat it while the database does not answer, for at most
        `patience` seconds, and then raise its last error."""
        begun, pause, warned = time.monotonic(), 0.1, False
        while True:
            try:
                done = act()
            except Exception as error:
                waited = time.monotonic() - begun
                if not is_away(error) or waited + pause > patience:
                    raise
                if waited > QUIET_SECONDS and not warned:
                    left = f"trying again for {patience - waited:.0f} s"
                    self.say(f"the store {self.name} does not answer ({database_message(error)}); {left}")
                    warned = True
                self.back = time.time()
            else:
                if warned:
                    self.say(f"the store {self.name} answers again")
                return done
            time.sleep(pause)
            pause = min(1.0, 2 * pause)


def parse(url: str) -> sa.URL:
    """The URL of a database; a UserError if it is none."""
    try:
        location = sa.make_url(url)
        if location.get_backend_name() == "sqlite" and location.database:
            return location.set(database=expand_home(location.database))
        return location
    except (exc.ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise UserError(f"storage={url} is not a database URL such as sqlite:///results/local/lab.db") from error


def is_away(error: BaseException | None) -> bool:
    """Whether an error means that the database does not answer now but may later: its server stops, starts or cannot be
    reached, or another program has locked it. Errors that Optuna has wrapped are looked into."""
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


def database_message(error: Exception) -> str:
    """The message of the database itself."""
    if error.__cause__ is not None and not isinstance(error, exc.DBAPIError):
        return first_line(error.__cause__)
    return first_line(error.orig if isinstance(error, exc.DBAPIError) else error)
