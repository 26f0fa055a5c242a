"""A planned switch-over of a database to one of its replicas: drain, catch up, promote."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from ops.embedded.postgres import SUPERUSER
from ops.embedded.processes import wait_until
from ops.errors import ExitStatus, OpsError
from ops.fleet import connect_line
from ops.replicas import PRIMARY_NODE, Watcher
from readreplica.probe import connect_arguments
from sharding.topology import Database, Topology

MAX_LAG_BYTES = 16 << 20
"""A replica that is further behind is not switched to: the writes would be held up for too long."""

FENCE = "ALTER SYSTEM SET default_transaction_read_only = on"
UNFENCE = "ALTER SYSTEM RESET default_transaction_read_only"
RELOAD = "SELECT pg_reload_conf()"
PROMOTE = "SELECT pg_promote(true, 60)"
WRITERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE backend_xid IS NOT NULL AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


class SwitchoverRefused(OpsError):
    """A check says that the switch-over would go wrong; nothing was changed."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, database: str, fault: str) -> None:
        self.database = database
        self.fault = fault
        super().__init__(f"{database} is not switched over: {fault}")


class SwitchoverGivenUp(OpsError):
    """The switch-over was begun and taken back: the old primary takes writes again."""

    def __init__(self, database: str, fault: str) -> None:
        self.database = database
        self.fault = fault
        super().__init__(f"{database} was not switched over: {fault}; its primary takes writes again")


@dataclass(frozen=True, slots=True)
class Switchover:
    """A planned switch-over: from which node to which."""

    database: Database
    old: str
    new: str


def plan_switchover(topology: Topology, name: str, *, to: str) -> Switchover:
    """Check that a database can be switched over to a replica.

    Raises:
        SwitchoverRefused: it cannot, or had better not.
        UnknownDatabase: there is no such database.
    """
    rows = {row.node: row for row in Watcher(topology, [name]).look()}
    if to not in rows:
        raise SwitchoverRefused(name, f"it has no node {to!r}; it has {', '.join(rows)}")
    old = next((row.node for row in rows.values() if row.role == "primary"), None)
    if old is None:
        raise SwitchoverRefused(name, "its primary does not answer; that is a failover, not a switch-over")
    target = rows[to]
    if target.role == "primary":
        raise SwitchoverRefused(name, f"{to} is its primary already")
    if target.role != "replica" or target.state != "serves reads":
        raise SwitchoverRefused(name, f"{to} is no replica in order: {target.state}")
    if target.lag_bytes is None or target.lag_bytes > MAX_LAG_BYTES:
        raise SwitchoverRefused(name, f"{to} is {target.lag_bytes} bytes behind; wait until it has caught up")
    return Switchover(topology.database(name), old, to)


def switchover_script(topology: Topology, plan: Switchover) -> str:
    """Give what `switch_over` does as a script for psql; between the parts a person has to look."""
    old, new = (_connect_line(topology, plan.database, node) for node in (plan.old, plan.new))
    waits = "-- wait until this is 0, and until the replica has replayed what the next line gives\n"
    return (
        f"{old}{FENCE};\n{RELOAD};\n{waits}{' '.join(WRITERS.split())};\n"
        f"SELECT pg_current_wal_insert_lsn();\n{new}SELECT pg_last_wal_replay_lsn();\n{PROMOTE};\n"
    )


def switch_over(
    topology: Topology, plan: Switchover, *, timeout_seconds: float, report: Callable[[str], None]
) -> None:
    """Hold writes back on the primary, let the replica catch up, and promote it.

    Every process that writes through the library gets 25006 from the old primary meanwhile, gives its pool
    up, and finds the new primary by its role. The old one stays fenced: it is on an older timeline now.

    Parameters:
        topology: where the database is.
        plan: what `plan_switchover` gave.
        timeout_seconds: how long writes under way, and then replay, may take.
        report: is told of each step.

    Raises:
        SwitchoverGivenUp: they took longer; writes go on where they were.
    """
    database = plan.database
    with _connect(topology, database, plan.old) as old, _connect(topology, database, plan.new) as new:
        patience = Patience(database.name, timeout_seconds)
        report(f"{plan.old} takes no new writes")
        old.execute(FENCE)
        old.execute(RELOAD)
        try:
            patience.wait(old, WRITERS, lambda count: count == 0, what="writes were under way")
            lsn = _one(old, "SELECT pg_current_wal_insert_lsn()")
            report(f"{plan.new} replays up to {lsn}")
            # The insert position may stand behind the header of a page that has no record yet.
            replayed = f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn - 64"
            patience.wait(new, replayed, bool, what=f"{plan.new} had not replayed {lsn}")
            report(f"{plan.new} is promoted")
            patience.wait(new, PROMOTE, bool, what=f"{plan.new} was not promoted")
        except BaseException:
            old.execute(UNFENCE)
            old.execute(RELOAD)
            raise


@dataclass(frozen=True)
class Patience:
    """How long a step of a switch-over may take."""

    database: str
    timeout_seconds: float

    def wait(
        self, connection: psycopg.Connection, query: str, is_enough: Callable[[Any], bool], *, what: str
    ) -> None:
        """Ask until the answer is enough.

        Raises:
            SwitchoverGivenUp: it was not, in time.
        """
        if not wait_until(lambda: is_enough(_one(connection, query)), timeout_seconds=self.timeout_seconds):
            raise SwitchoverGivenUp(self.database, f"{what} still after {self.timeout_seconds:g} s")


def _one(connection: psycopg.Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


@contextmanager
def _connect(topology: Topology, database: Database, node: str) -> Iterator[psycopg.Connection]:
    url = topology.url(database, role=SUPERUSER, replica=None if node == PRIMARY_NODE else node)
    with psycopg.connect(**connect_arguments(url, application_name="mesctl")) as connection:
        yield connection


def _connect_line(topology: Topology, database: Database, node: str) -> str:
    if node == PRIMARY_NODE:
        return connect_line(topology, database, role=SUPERUSER)
    moved = database.model_copy(update={"primary": database.replica(node)})
    return connect_line(topology, moved, role=SUPERUSER)
