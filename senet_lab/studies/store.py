"""The store: which trials are claimed, by which process, and the records of finished ones.

Tables of ours beside Optuna's in the same database (SQLite by default; any that SQLAlchemy speaks to). A claim is one
INSERT, or one conditional UPDATE, on the trial's id: any number of drivers, in the same study or in different ones,
train a trial exactly once. The owner renews its heartbeat; a claim whose owner is dead, or silent for too long, may be
taken over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from senet_lab.config import UserError, first_line
from senet_lab.studies.database import PARTING_SECONDS, PATIENCE_SECONDS, Database
from senet_lab.studies.owners import is_dead, this_process

RUNNING, DONE, FAILED = "running", "done", "failed"
STALE_SECONDS = 60.0  # a silent owner on another machine is taken to be dead after this
HEARTBEAT_SECONDS = 10.0
SOME = 500  # trials that are looked up at once; SQLite's limit on variables is 999 in old versions

Record = dict[str, Any]
# What a record must have to be one.
REQUIRED = {DONE: ("config", "epochs", "metrics", "seconds", "resumed"), FAILED: ("config", "reason")}

TABLES = sa.MetaData()
records = sa.Table(
    "records",
    TABLES,
    sa.Column("trial_id", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("heartbeat", sa.Double, nullable=False),  # seconds since 1970
    sa.Column("record", sa.Text),  # JSON, once the trial has ended
)
# What is decided or measured once beside the trials: a search's space, a network's latency.
notes = sa.Table(
    "notes",
    TABLES,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),  # JSON
)
# Each trained network's outputs for the test images (`senet_lab.outputs`).
outputs = sa.Table(
    "outputs",
    TABLES,
    sa.Column("trial_id", sa.String(64), primary_key=True),
    sa.Column("packed", sa.LargeBinary, nullable=False),
)
HAS_ENDED = records.c.state.in_((DONE, FAILED))


class Store(Database):
    """The records at a SQLAlchemy URL.

    Args:
        url: e.g. `sqlite:///results/local/lab.db` or `postgresql+psycopg://user@host/lab`.
        create: whether to make the database file, and the tables in it, where there are none. Without, such a store
            reads as empty and nothing is written.

    Raises:
        UserError: a URL that is none, or that cannot be reached, or a file that is not a database or is damaged.
    """

    def __init__(self, url: str, create: bool = True) -> None:
        super().__init__(url, TABLES, create)
        self.owner = this_process()

    @property
    def empty(self) -> bool:
        """Whether there has never been a study."""
        return records.name not in self.tables

    # ------------------------------------------------------------------------------------------------------- claims

    def claim(self, trial_id: str) -> bool:
        """Claim the trial for this process. False if it has ended, or is claimed by a live process or already by this
        one."""
        mine = {"state": RUNNING, "owner": self.owner, "heartbeat": time.time()}
        row = self.claimed(trial_id)  # a look first: a trial of another driver needs no write
        if row is None:
            first = records.insert().values(trial_id=trial_id, **mine)
            won = self.inserted(lambda connection: connection.execute(first))
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
        # Another driver was first; or this one was, and the connection was lost before the answer came.
        now = self.claimed(trial_id)
        return now is not None and (now.state, now.owner) == (RUNNING, self.owner)

    def claimed(self, trial_id: str) -> sa.Row[Any] | None:
        """A trial's state, owner and heartbeat; None if it is neither claimed nor recorded."""
        look = sa.select(records.c.state, records.c.owner, records.c.heartbeat).where(records.c.trial_id == trial_id)
        return next(iter(self.rows(look)), None)

    def is_silent(self, row: sa.Row[Any]) -> bool:
        """Whether the owner of a claim has not renewed its heartbeat for `STALE_SECONDS`. After the database was
        unreachable, owners first get the time to renew it."""
        now = time.time()
        return bool(row.heartbeat < now - STALE_SECONDS) and now - self.back > 2 * HEARTBEAT_SECONDS

    def beat(self) -> None:
        """Renew the heartbeat of all claims of this process. A failure is not repeated: the next heartbeat follows
        soon."""
        ours = records.update().where(records.c.owner == self.owner, records.c.state == RUNNING)
        self.transact(lambda connection: connection.execute(ours.values(heartbeat=time.time())), patience=0)

    def release(self, trial_id: str, patience: float = PATIENCE_SECONDS) -> None:
        """Release the claim of an unfinished trial."""
        ours = (records.c.trial_id == trial_id, records.c.owner == self.owner, records.c.state == RUNNING)
        self.transact(lambda connection: connection.execute(records.delete().where(*ours)), patience)

    def release_all(self) -> None:
        """Release all claims of this process at its end, including one that was being made when it was interrupted.
        Waits only briefly for the database, because others take over the claims of an ended process in any case."""
        ours = records.delete().where(records.c.owner == self.owner, records.c.state == RUNNING)
        self.transact(lambda connection: connection.execute(ours), PARTING_SECONDS)

    def forget(self, trial_ids: Iterable[str], states: Sequence[str] = (FAILED,)) -> int:
        """Delete records, by default of failed trials only, so that they can be trained again; how many there were."""
        if self.empty:
            return 0
        wanted = list(trial_ids)

        def act(connection: sa.Connection) -> int:
            gone = 0
            for name in wanted:
                ours = (records.c.trial_id == name, records.c.state.in_(states))
                count = connection.execute(records.delete().where(*ours)).rowcount
                if count and outputs.name in self.tables:
                    keep(connection, name, None)
                gone += count
            return gone

        return self.transact(act)

    # ------------------------------------------------------------------------------------------------------ records

    def finish(self, trial_id: str, state: str, record: Record, packed: bytes | None = None) -> bool:
        """Record how a trial of this process ended (`done` or `failed`), with its outputs, once. False if another
        process has taken the claim over."""
        text, now = json.dumps(record, sort_keys=True, allow_nan=False), time.time()
        ours = (records.c.trial_id == trial_id, records.c.owner == self.owner)
        write = records.update().where(*ours, records.c.state == RUNNING)
        written = sa.select(records.c.owner).where(*ours, records.c.state == state, records.c.heartbeat == now)

        def act(connection: sa.Connection) -> bool:
            if connection.execute(write.values(state=state, record=text, heartbeat=now)).rowcount == 1:
                keep(connection, trial_id, packed)
                return True
            # The claim is another's; or this is the second try after a lost connection, and the first had written it.
            return connection.execute(written).one_or_none() is not None

        return self.transact(act)

    def add(self, trial_id: str, state: str, heartbeat: float, text: str, packed: bytes | None = None) -> bool:
        """Add a record of another store as it is, with its outputs. False if the trial is claimed or recorded here."""
        values = {"trial_id": trial_id, "state": state, "owner": self.owner, "heartbeat": heartbeat, "record": text}

        def act(connection: sa.Connection) -> None:
            connection.execute(records.insert().values(values))
            keep(connection, trial_id, packed)

        return self.inserted(act)

    def of(self, query: sa.Select[Any], trial_ids: Iterable[str]) -> Iterator[sa.Row[Any]]:
        """What a query finds of some trials, in their order."""
        wanted = list(dict.fromkeys(trial_ids))
        for start in range(0, len(wanted), SOME):
            some = wanted[start : start + SOME]
            rows = {row.trial_id: row for row in self.rows(query.where(query.selected_columns.trial_id.in_(some)))}
            yield from (rows[trial_id] for trial_id in some if trial_id in rows)

    def read(self, trial_ids: Iterable[str]) -> dict[str, Record]:
        """The records of those of the trials that have ended, with their `trial_id` and `state`.

        Raises:
            UserError: a record that is damaged, by the trial's id. It is not dropped: a lost row is a wrong table.
        """
        return {row.trial_id: self.parse(row) for row in self.of(sa.select(records).where(HAS_ENDED), trial_ids)}

    def outputs(self, trial_ids: Iterable[str]) -> dict[str, bytes]:
        """Trial id → its outputs (`senet_lab.outputs`), of those of the trials that have them."""
        return {row.trial_id: row.packed for row in self.of(sa.select(outputs), trial_ids)}

    def finished(self, trial_ids: Iterable[str]) -> set[str]:
        """Those of the trials that have ended."""
        return {row.trial_id for row in self.of(sa.select(records.c.trial_id).where(HAS_ENDED), trial_ids)}

    def text(self, trial_id: str) -> str | None:
        """A trial's record as it stands here; None if it has none."""
        texts: list[str | None] = [row.record for row in self.of(sa.select(records), [trial_id])]
        return texts[0] if texts else None

    def latest(self, count: int) -> list[Record]:
        """The records of the trials that were finished last, the newest first; raises as `read` does."""
        return self.ended(records.c.state == DONE, count)

    def ended(self, which: sa.ColumnElement[bool] = HAS_ENDED, count: int | None = None) -> list[Record]:
        """The records of trials that have ended, the newest first."""
        query = sa.select(records).where(which, HAS_ENDED).order_by(records.c.heartbeat.desc()).limit(count)
        return [self.parse(row) for row in self.rows(query)]

    def parse(self, row: sa.Row[Any]) -> Record:
        """The record of a row of `records`; a UserError if it is damaged."""
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

    # -------------------------------------------------------------------------------------------------------- notes

    def note(self, name: str) -> Any:
        """The value noted under a name; None if there is none."""
        text = self.noted(notes.c.name == name).get(name)
        return None if text is None else json.loads(text)

    def noted(self, *which: sa.ColumnElement[bool]) -> dict[str, str]:
        """Name → value as JSON, of all notes or some."""
        return {row.name: row.value for row in self.rows(sa.select(notes).where(*which))}

    def note_once(self, name: str, value: Any) -> Any:
        """Note a value unless one is noted under that name; returns the value that is noted then."""
        line = notes.insert().values(name=name, value=json.dumps(value, allow_nan=False))
        self.inserted(lambda connection: connection.execute(line))  # or it is there: by us, or another driver
        return self.note(name)


def keep(connection: sa.Connection, trial_id: str, packed: bytes | None) -> None:
    """Replace the outputs of a trial; None deletes them."""
    connection.execute(outputs.delete().where(outputs.c.trial_id == trial_id))
    if packed is not None:
        connection.execute(outputs.insert().values(trial_id=trial_id, packed=packed))
