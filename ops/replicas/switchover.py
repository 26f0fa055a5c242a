"""A planned switch-over of a database to one of its replicas: check, drain, catch up, promote.

`default_transaction_read_only` is a default for transactions that begin: one that had begun writes on, and
may take its id only then. So every transaction that was under way when it came into force has to end. Nor
does it bind those that say READ WRITE themselves, and COMMIT PREPARED is no write to it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from ops.connect import ServerUnresponsive, connected
from ops.errors import ExitStatus, OpsError
from ops.fleet import connect_line
from ops.replicas.nodes import PRIMARY_NODE, NodeWatcher
from ops.waiting import wait_until
from readreplica.errors import one_line
from readreplica.poller import connect_arguments
from readreplica.wal import SELECT_HAS_REPLAYED, SELECT_IN_RECOVERY, SELECT_RECORD_END
from sharding.topology import Database, Topology

MAX_LAG_BYTES = 16 << 20
"""A replica that is further behind is not switched to: the writes would be held up for too long."""

FENCE = "ALTER SYSTEM SET default_transaction_read_only = on"

UNFENCE = "ALTER SYSTEM RESET default_transaction_read_only"

RELOAD = "SELECT pg_reload_conf()"

# The postmaster signals its children before it starts another: asked over a new connection, `on` means that
# every process was signalled, and each one reads the setting before its next command.
IN_FORCE = "SELECT current_setting('default_transaction_read_only')::boolean"

NOW = "SELECT clock_timestamp()::text"

# One message may hold several transactions (CALL, or a simple query with COMMIT in it), and settings are read
# between messages: so the statement's begin counts beside the transaction's. A session that hides what
# it does (track_activities = off) counts always. Autovacuum's writes are no client's.
UNDER_WAY = """
    SELECT concat('pid ', pid, ' of ', usename, ' (', coalesce(state, backend_type), ' since ',
                  to_char(coalesce(xact_start, query_start), 'HH24:MI:SS'), ')') AS who
    FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND backend_type NOT IN ('autovacuum worker', 'walsender')
    AND (xact_start < {fence} OR (query_start < {fence} AND state <> 'idle')
         OR backend_xid IS NOT NULL OR state = 'disabled')
    UNION ALL
    SELECT concat('prepared transaction ', quote_literal(gid), ' in ', database) FROM pg_prepared_xacts
"""

# Past every id that a finished transaction had. Reading may write WAL too (pruning, hint bits), and has none.
IDS = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"

EXCEPTED = """
    SELECT concat_ws(' in ', rolname, datname)
    FROM pg_db_role_setting
    LEFT JOIN pg_roles ON pg_roles.oid = setrole LEFT JOIN pg_database ON pg_database.oid = setdatabase,
    unnest(setconfig) AS setting
    WHERE setting LIKE 'default_transaction_read_only=%' AND NOT split_part(setting, '=', 2)::boolean
"""
"""Whose own setting outweighs the server's."""

PROMOTE = "SELECT pg_promote(true, 60)"


class SwitchoverError(OpsError):
    """Base of the ways in which a switch-over does not happen."""

    def __init__(self, database: str, fault: str, message: str) -> None:
        self.database = database
        self.fault = fault
        super().__init__(message)


class SwitchoverRefused(SwitchoverError):
    """A check says that the switch-over would go wrong; nothing was changed."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, database: str, fault: str) -> None:
        super().__init__(database, fault, f"{database} is not switched over: {fault}")


class SwitchoverGivenUp(SwitchoverError):
    """The switch-over was begun and taken back: the old primary takes writes again."""

    def __init__(self, database: str, fault: str) -> None:
        message = f"{database} was not switched over: {fault}; its primary takes writes again"
        super().__init__(database, fault, message)


class SwitchoverUnfinished(SwitchoverError):
    """The switch-over was begun, and is neither done nor taken back: the old primary refuses writes."""

    def __init__(self, database: str, *, old: str, fault: str) -> None:
        self.old = old
        line = " ".join(fault.split())
        super().__init__(
            database,
            line,
            f"{database}: {line}; {old} stays read-only, for two could take writes otherwise: "
            'docs/runbooks/failover.md, "A switch-over did not end"',
        )


@dataclass(frozen=True, slots=True)
class Switchover:
    """A planned switch-over: from which node to which, and the superuser that does it."""

    database: Database
    old: str
    new: str
    superuser: str


def switch_over(
    topology: Topology, plan: Switchover, *, timeout_seconds: float, report: Callable[[str], None]
) -> None:
    """Hold writes back on the primary, let the replica catch up, and promote it.

    Every process that writes through the library gets 25006 from the old primary meanwhile, gives its pool
    up, and finds the new primary by its role. The old one stays fenced: it is on an older timeline now.

    Parameters:
        topology: where the database is.
        plan: what `plan_switchover` gave.
        timeout_seconds: how long transactions under way, then replay, then the promotion may take.
        report: is called with a line for each step.

    Raises:
        SwitchoverGivenUp: they took longer; writes go on where they were.
        SwitchoverUnfinished: no node takes writes until an administrator has resolved it.
    """
    steps = _Steps(topology, plan, timeout_seconds, report)
    with connect_node(topology, plan.database, plan.new, role=plan.superuser) as new:
        with steps.fenced():
            ids = steps.catch_up(new)
            report(f"{plan.new} is promoted")
        # From here on two would take writes if the fence were taken back: a promotion cannot be.
        steps.promote(new)
    steps.report_late_writes(ids)


@dataclass(frozen=True)
class _Steps:
    """The steps of one switch-over."""

    topology: Topology
    plan: Switchover
    timeout_seconds: float
    report: Callable[[str], None]

    @contextmanager
    def fenced(self) -> Iterator[None]:
        """Hold writes back, and let them go again where the block ends with an error."""
        database, old = self.plan.database.name, self.plan.old
        self.report(f"{old} takes no new writes")
        try:
            self._set_fence(FENCE)
            yield
        except BaseException as error:
            try:
                self._set_fence(UNFENCE)
            except psycopg.Error as fault:
                raise SwitchoverUnfinished(database, old=old, fault=f"{error}; then {fault}") from error
            if isinstance(error, psycopg.Error):
                raise SwitchoverGivenUp(database, one_line(error)) from error
            raise

    def catch_up(self, new: psycopg.Connection) -> str:
        """Wait until the replica has all that the primary will have written; give the primary's next id."""
        self._wait(self._open)
        with self._connect(self.plan.old) as old:
            fence = query_value(old, NOW)
            reported: set[str] = set()

            def under_way() -> str:
                found = query_column(old, UNDER_WAY, fence=fence)
                for who in sorted({*found} - reported):
                    self.report(f"waits for {who}")
                reported.update(found)
                return f"under way: {', '.join(found)}" if found else ""

            self._wait(under_way)
            self.report(f"{self.plan.new} replays what {self.plan.old} has written")
            ids = ""

            def behind() -> str:
                nonlocal ids
                ids, position = query_value(old, IDS), query_value(old, SELECT_RECORD_END)
                if not query_value(new, SELECT_HAS_REPLAYED, position=position):
                    return under_way() or f"{self.plan.new} had not replayed {position}"
                # Who takes himself out of the fence is seen here, before it is too late.
                return under_way() or ("" if query_value(old, IDS) == ids else "others went on to write")

            self._wait(behind)
            return ids

    def promote(self, new: psycopg.Connection) -> None:
        """Promote the replica, and see it done: what was asked for goes on without us."""
        database, old, name = self.plan.database.name, self.plan.old, self.plan.new
        fault = f"{name} was to be promoted, and has not come out of recovery"
        try:
            try:
                done = query_value(new, PROMOTE)
            except psycopg.Error as error:
                done, fault = False, f"{fault}; pg_promote ended with: {error}"
            if not done and not wait_until(self._is_promoted, timeout_seconds=self.timeout_seconds):
                raise SwitchoverUnfinished(database, old=old, fault=fault)
        except KeyboardInterrupt as error:
            fault = f"interrupted while the promotion of {name} went on"
            raise SwitchoverUnfinished(database, old=old, fault=fault) from error

    def report_late_writes(self, ids: str) -> None:
        """Report transactions that the old primary has finished behind the position that was replayed."""
        old = self.plan.old
        try:
            with self._connect(old) as connection:
                count = int(query_value(connection, IDS)) - int(ids)
        except psycopg.Error as error:
            self.report(f"look: {old} did not tell whether it has written since: {error}")
            return
        if count:
            self.report(
                f"look: {old} has finished up to {count} transactions that {self.plan.new} may lack: "
                "autovacuum's, or of who takes himself out of the fence; compare before you rewind it"
            )

    def _wait(self, in_the_way: Callable[[], str]) -> None:
        found = ""

        def is_free() -> bool:
            nonlocal found
            found = in_the_way()
            return not found

        if not wait_until(is_free, timeout_seconds=self.timeout_seconds):
            fault = f"{found}, still after {self.timeout_seconds:g} s"
            raise SwitchoverGivenUp(self.plan.database.name, fault)

    def _set_fence(self, change: str) -> None:
        # A connection for itself: another one may be what has failed.
        with self._connect(self.plan.old) as connection:
            connection.execute(change.encode())
            connection.execute(RELOAD)

    def _open(self) -> str:
        with self._connect(self.plan.old) as connection:
            return "" if query_value(connection, IN_FORCE) else f"{self.plan.old} did not become read-only"

    def _is_promoted(self) -> bool:
        try:
            with self._connect(self.plan.new) as connection:
                return not query_value(connection, SELECT_IN_RECOVERY)
        except psycopg.Error:
            return False

    def _connect(self, node: str) -> AbstractContextManager[psycopg.Connection]:
        return connect_node(self.topology, self.plan.database, node, role=self.plan.superuser)


def query_column(connection: psycopg.Connection, query: str, **values: str) -> list[Any]:
    """Return the first column of the answer to a query, with values at its {names}."""
    text = query.format(**{name: f"%({name})s" for name in values}) if values else query
    return [row[0] for row in connection.execute(text.encode(), values or None).fetchall()]


def query_value(connection: psycopg.Connection, query: str, **values: str) -> Any:
    """Return the one value that a query answers."""
    [value] = query_column(connection, query, **values)
    return value


@contextmanager
def connect_node(
    topology: Topology, database: Database, node: str, *, role: str
) -> Iterator[psycopg.Connection]:
    """Connect to a node itself: a pooler's connections would not show a new setting.

    Raises:
        psycopg.OperationalError: it cannot be reached, or no longer answers; the message names database and
            node.
    """
    replica = None if node == PRIMARY_NODE else node
    url = topology.url(database, role=role, replica=replica, direct=True)
    is_open = False
    try:
        with connected(**connect_arguments(url, application_name="mesctl")) as connection:
            is_open = True
            yield connection
    except psycopg.OperationalError as error:
        if is_open and not isinstance(error, ServerUnresponsive):
            raise  # an error of a statement, or of another node
        raise psycopg.OperationalError(f"{database.name}: {node}: {error}") from error


def plan_switchover(topology: Topology, name: str, *, to: str, superuser: str = "postgres") -> Switchover:
    """Check that a database can be switched over to a replica.

    Raises:
        SwitchoverRefused: it cannot, or had better not.
        UnknownDatabase: there is no such database.
    """
    rows = {row.node: row for row in NodeWatcher(topology, [name]).poll()}
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
    plan = Switchover(topology.database(name), old, to, superuser)
    with connect_node(topology, plan.database, old, role=superuser) as connection:
        excepted = ", ".join(query_column(connection, EXCEPTED))
    if excepted:
        fault = f"default_transaction_read_only is off for {excepted}, whose writes nothing would hold back"
        raise SwitchoverRefused(name, f"{fault}; ALTER ROLE or ALTER DATABASE ... RESET it")
    return plan


def switchover_script(topology: Topology, plan: Switchover) -> str:
    """Return what `switch_over` does as a script for psql.

    Where `switch_over` waits, the script looks once and stops: run again, it goes on.
    """
    old, new = (_connect_line(topology, plan, node) for node in (plan.old, plan.new))
    who = _on_one_line(UNDER_WAY.format(fence=":'fence'"))
    nobody = _or_stop(f"SELECT count(*) = 0 AS nobody FROM ({who}) AS who", "nobody")
    position = f"SELECT position FROM ({_on_one_line(SELECT_RECORD_END)}) AS server(position)"
    replayed = SELECT_HAS_REPLAYED.format(position=":'position'")
    unchanged = f"SELECT ({IDS}) = :'ids' AS unchanged"
    parts = [
        f"\\set ON_ERROR_STOP on\n-- {plan.old} takes no new writes.\n",
        f"-- Before pg_promote, and never after it, this takes it back: {UNFENCE}; {RELOAD};\n",
        f"{old}{FENCE};\n{RELOAD};\n",
        f"{old}{_or_stop(f'{IN_FORCE} AS in_force', 'in_force')}{NOW} AS fence \\gset\n",
        f"-- who has begun before that may write still\n{who};\n{nobody}",
        f"{IDS} AS ids \\gset\n{position} \\gset\n",
        f"-- {plan.new} has all of it, and nothing was written behind it\n",
        f"{new}{_or_stop(f'{replayed} AS replayed', 'replayed')}",
        f"{old}{nobody}{_or_stop(unchanged, 'unchanged')}",
        f"{new}{PROMOTE};\n",
        f"-- f: look who has written on {plan.old} since, before it is rewound\n{old}{unchanged};\n",
    ]
    return "".join(parts)


def _or_stop(query: str, name: str) -> str:
    """Return lines that stop the script unless a query is true."""
    stop = f"\\echo 'not {name}: run this again, or take the fence back'\n\\quit\n"
    return f"{query} \\gset\n\\if :{name}\n\\else\n{stop}\\endif\n"


def _on_one_line(query: str) -> str:
    return " ".join(query.split())


def _connect_line(topology: Topology, plan: Switchover, node: str) -> str:
    database = plan.database
    if node != PRIMARY_NODE:
        database = database.model_copy(update={"primary": database.replica(node)})
    return connect_line(topology, database, role=plan.superuser)
