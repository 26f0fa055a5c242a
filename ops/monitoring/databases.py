"""What each database and node says of itself, as samples: read by its owner, in statements of their own.

Each statement has a time limit, and is a snapshot of a moment: none holds vacuum up. What a statement fails
to bring is missing alone. Labels are bounded: of tables, partitions, slots and statements the largest are
named, and the others are one, `other`.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ops.fleet import Member, open_watched
from ops.partitions.metrics import Sample, months_ahead
from ops.ports import address_of
from ops.replicas.nodes import PRIMARY_NODE, NodeRow, NodeWatcher, nodes_of
from ops.shards.service import archive_tables, live_tables
from partitions.archive import read_backlog
from partitions.archive_policy import ArchivePolicy
from partitions.bounds import Month
from partitions.catalog import PartitionedTable, read_catalog
from partitions.errors import PartitionError
from partitions.policy import MonthlyRange, Policy
from partitions.sql import relation
from readreplica.errors import one_line
from readreplica.wal import SELECT_SLOT_WAL
from sharding.citus.distribute import PROPAGATE_SET_LOCAL
from sharding.ids import NODES
from sharding.topology import Database, Topology

PREFIX = "mes_storage"
OTHER = "other"
"""The label of all that is not among the largest."""

TABLES_NAMED = 20
PARTITIONS_NAMED = 30
SLOTS_NAMED = 20
STATEMENTS_NAMED = 20
ID_SPACES_NAMED = 20

STATEMENT_SECONDS = 2.0
LOCK_SECONDS = 0.5
"""Sizes are read under a lock of the table, which a change of it may hold."""

_LOCK_LIMIT = f"-c lock_timeout={LOCK_SECONDS * 1000:.0f}"
_READ_ONLY = "-c default_transaction_read_only=on"

READ_ALL_STATS = "pg_read_all_stats"
READ_ALL_SETTINGS = "pg_read_all_settings"
EXTENSION = "pg_stat_statements"

HELP: Mapping[str, str] = {
    "up": "1 if the node answers.",
    "transaction_age_seconds": "Age of the oldest transaction of a client.",
    "locks_waiting": "Locks that sessions of the database wait for.",
    "connections": "Connections to the server of the node.",
    "connections_max": "Connections that the server gives to ordinary roles.",
    "disk_free_bytes": "Free space where the node's data are.",
    "disk_bytes": "Size of the file system where the node's data are.",
    "replica_lag_seconds": "How far behind its primary a replica is, at most.",
    "replica_lag_bytes": "WAL that a replica has not replayed.",
    "slot_wal_bytes": "WAL that a slot holds back.",
    "database_bytes": "Size of the database.",
    "xid_age": "Transactions since the oldest that is not frozen.",
    "transactions_total": "Transactions that ended.",
    "in_doubt_units": "Prepared transactions.",
    "in_doubt_oldest_seconds": "Age of the oldest prepared transaction.",
    "rows": "Rows of the database, as PostgreSQL estimates them.",
    "live_rows": "Rows of a table, with its partitions, as PostgreSQL estimates them.",
    "dead_rows": "Rows that vacuum can remove, likewise.",
    "autovacuum_age_seconds": "Since the last vacuum of the table or one of its partitions.",
    "partition_rows": "Rows of a partition, by its last ANALYZE.",
    "partition_bytes": "Size of a partition with its indexes.",
    "partitions_months_ahead": "Whole months after the current one that stand ready.",
    "partitions_pending_detaches": "Detaches that were cut off, whose rows are in no query.",
    "archive_waiting_rows": "Rows past the grace period, which the archive job has not moved.",
    "shard_rows": "Rows of a shard, live and archived, as PostgreSQL estimates them.",
    "shard_bytes": "Size of a shard's database.",
    "id_leases": "Node numbers of an id space that are leased.",
    "id_leases_max": "Node numbers that an id space has.",
    "statement_seconds_total": "Time spent in a statement, of those that took most.",
}
"""The metrics of this module, without their prefix."""

_SERVER = text(f"""
    SELECT pg_has_role(current_user, '{READ_ALL_STATS}', 'USAGE') AS sees_sessions,
           (SELECT sum(numbackends) FROM pg_stat_database) AS connections,
           current_setting('max_connections')::integer
               - current_setting('superuser_reserved_connections')::integer
               - coalesce(current_setting('reserved_connections', true)::integer, 0) AS connections_max,
           (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)), 0)
            FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
                AND pid <> pg_backend_pid()) AS transaction_age,
           (SELECT count(*) FROM pg_locks JOIN pg_stat_activity AS session USING (pid)
            WHERE NOT granted AND session.datname = current_database()) AS locks_waiting,
           -- no row without the right to see it
           (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS data_directory
""")

_DATABASE = text("""
    SELECT pg_database_size(own.oid) AS bytes, age(datfrozenxid) AS xid_age,
           xact_commit + xact_rollback AS transactions,
           (SELECT count(*) FROM pg_prepared_xacts WHERE database = own.datname) AS in_doubt,
           (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(prepared)), 0)
            FROM pg_prepared_xacts WHERE database = own.datname) AS in_doubt_age
    FROM pg_database AS own JOIN pg_stat_database AS stat ON stat.datid = own.oid
    WHERE own.datname = current_database()
""")

_TABLES = text("""
    SELECT coalesce(pg_partition_root(relid), relid)::regclass::text AS name,
           sum(n_live_tup) AS live, sum(n_dead_tup) AS dead,
           extract(epoch FROM clock_timestamp() - max(greatest(last_vacuum, last_autovacuum))) AS vacuum_age
    FROM pg_stat_user_tables GROUP BY 1 ORDER BY sum(n_live_tup + n_dead_tup) DESC, 1
""")

_LEASES = text("""
    SELECT id_space, count(*) FILTER (WHERE expires_at > now()) AS leases
    FROM node_leases GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :most
""")

_EXTENSION_SCHEMA = text("""
    SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace AS place ON place.oid = extnamespace
    -- created, and loaded when the server started
    WHERE extname = :name AND current_setting('pg_stat_statements.max', true) IS NOT NULL
""")

_STATEMENTS = """
    SELECT queryid::text AS queryid, sum(total_exec_time) / 1000 AS seconds
    FROM {schema}.pg_stat_statements
    WHERE queryid IS NOT NULL AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :most
"""


@dataclass
class DatabaseReading:
    """What came of one look at a database and its nodes.

    `errors` are lines about what could not be read, and `missing` the rights and extensions without which
    some metrics are left out.
    """

    database: str
    samples: list[Sample] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)

    def add(self, name: str, value: float | None, **labels: str) -> None:
        """Add a sample of the database; a value that is not known is left out."""
        if value is not None:
            self.samples.append(
                Sample(f"{PREFIX}_{name}", {"database": self.database} | labels, float(value))
            )


Read = Callable[[Connection, DatabaseReading], None]


class DatabaseReader:
    """Reads databases again and again; what it saw of their nodes before dates what it sees now.

    Parameters:
        topology: where they are.
        members: the databases that are read.
    """

    def __init__(self, topology: Topology, members: Sequence[Member]) -> None:
        self.members = {member.database.name: member for member in members}
        self._topology = topology
        self._watcher = NodeWatcher(topology, list(self.members))
        self._roles: dict[tuple[str, str], str] = {}

    def read(self, name: str, *, now: datetime) -> DatabaseReading:
        """Read a database and its nodes. Several may be read at once, each by a thread of its own.

        Parameters:
            name: of the database.
            now: the current instant, of which months are counted.
        """
        reading, database = DatabaseReading(name), self.members[name].database
        for row in list(self._watcher.judge(database, self._watcher.observe(database))):
            is_up = row.answers and self._read_node(row, reading, now)
            if not row.answers:
                reading.errors.append(f"{row.node}: {row.state}")
            reading.add("up", is_up, node=row.node, role=self._role(row))
        return reading

    def unread(self, name: str, why: str) -> DatabaseReading:
        """Return the reading of a database that was not read, for a reason of one line."""
        reading, database = DatabaseReading(name, errors=[why]), self.members[name].database
        for node in nodes_of(database):
            reading.add("up", 0, node=node, role=self._known_role(name, node))
        return reading

    def _role(self, row: NodeRow) -> str:
        """Return the role that a node has, or had when it last answered."""
        if row.answers:
            self._roles[row.database, row.node] = "replica" if row.role == "replica" else "primary"
        return self._known_role(row.database, row.node)

    def _known_role(self, database: str, node: str) -> str:
        return self._roles.get((database, node), "primary" if node == PRIMARY_NODE else "replica")

    def _read_node(self, row: NodeRow, reading: DatabaseReading, now: datetime) -> bool:
        """Read a node by one connection; return whether it has answered at all."""
        member, done = self.members[row.database], 0
        first = partial(_read_server, row, _host_of(member.database, row.node))
        steps: list[Read] = [first]
        if row.role != "replica":
            steps += _steps_of(member, now, self._topology.trees[member.database.tree].kind)
        try:
            with open_limited(self._topology, member.database, node=row.node) as connection:
                for step in steps:
                    done += _take(step, connection, reading, row.node)
                    if connection.invalidated or connection.closed:
                        break
        except DBAPIError as error:
            reading.errors.append(f"{row.node}: {one_line(error)}")
        return done > 0


@contextmanager
def open_limited(
    topology: Topology,
    database: Database,
    *,
    node: str = PRIMARY_NODE,
    read_only: bool = True,
    statement_seconds: float = STATEMENT_SECONDS,
) -> Iterator[Connection]:
    """Connect to a node as the owner; each statement is a transaction of its own, and has a time limit.

    Raises:
        DBAPIError: it refuses, or does not answer.
    """
    replica = None if node == PRIMARY_NODE else node
    url = topology.url(database, role=database.owner, replica=replica, direct=True)
    options = [f"-c statement_timeout={statement_seconds * 1000:.0f}", _LOCK_LIMIT]
    options += [_READ_ONLY] if read_only else []
    options += [PROPAGATE_SET_LOCAL] if database.is_coordinator else []
    words = {"application_name": "mesctl exporter", "options": " ".join(options)}
    with open_watched(url, words, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        yield connection


def _host_of(database: Database, node: str) -> str:
    return database.primary.host if node == PRIMARY_NODE else database.replica(node).host


def _take(step: Read, connection: Connection, reading: DatabaseReading, node: str) -> bool:
    """Take a step; what it has added before it failed stays."""
    try:
        step(connection, reading)
    except (DBAPIError, PartitionError) as error:
        reading.errors.append(f"{node}: {one_line(error)}")
        return False
    return True


def _steps_of(member: Member, now: datetime, kind: str) -> Iterator[Read]:
    """Return what is read from a primary, beside what is read from every node."""
    yield partial(_read_database, member)
    yield _read_slots
    yield partial(_read_tables, member)
    if member.tree.policies:
        yield partial(_read_partitions, member.tree.policies, now)
    yield from (partial(_read_archive, policy, now) for policy in member.tree.archives)
    if kind == "directory":
        yield _read_leases
    yield _read_statements


def _read_server(row: NodeRow, host: str, connection: Connection, reading: DatabaseReading) -> None:
    found, node = connection.execute(_SERVER).one(), row.node
    reading.add("connections", found.connections, node=node)
    reading.add("connections_max", found.connections_max, node=node)
    reading.add("locks_waiting", found.locks_waiting, node=node)
    if found.sees_sessions:
        reading.add("transaction_age_seconds", found.transaction_age, node=node)
    else:
        reading.missing.add(READ_ALL_STATS)
    if row.role == "replica":
        reading.add("replica_lag_seconds", row.lag_seconds, node=node)
        reading.add("replica_lag_bytes", row.lag_bytes, node=node)
    if found.data_directory is None:
        reading.missing.add(READ_ALL_SETTINGS)
    elif address_of(host) is not None:
        _read_disk(Path(found.data_directory), node, reading)


def _read_disk(folder: Path, node: str, reading: DatabaseReading) -> None:
    try:
        disk = shutil.disk_usage(folder)
    except OSError as error:  # a container's, which answers on this machine and has disks of its own
        reading.errors.append(f"{node}: {error}")
        return
    reading.add("disk_free_bytes", disk.free, node=node)
    reading.add("disk_bytes", disk.total, node=node)


def _read_database(member: Member, connection: Connection, reading: DatabaseReading) -> None:
    found = connection.execute(_DATABASE).one()
    reading.add("database_bytes", found.bytes)
    reading.add("xid_age", found.xid_age)
    reading.add("transactions_total", found.transactions)
    reading.add("in_doubt_units", found.in_doubt)
    reading.add("in_doubt_oldest_seconds", found.in_doubt_age)
    if member.database.is_shard:
        labels = {"tree": member.tree.name, "shard": member.database.name}
        reading.samples.append(Sample(f"{PREFIX}_shard_bytes", labels, found.bytes))


def _read_slots(connection: Connection, reading: DatabaseReading) -> None:
    for row in connection.execute(text(SELECT_SLOT_WAL), {"most": SLOTS_NAMED}):
        reading.add("slot_wal_bytes", row.bytes, slot=row.slot_name)


def _read_tables(member: Member, connection: Connection, reading: DatabaseReading) -> None:
    rows = connection.execute(_TABLES).all()
    named, others = rows[:TABLES_NAMED], rows[TABLES_NAMED:]
    for row in named:
        reading.add("live_rows", row.live, table=row.name)
        reading.add("dead_rows", row.dead, table=row.name)
        reading.add("autovacuum_age_seconds", row.vacuum_age, table=row.name)
    if others:
        reading.add("live_rows", sum(row.live for row in others), table=OTHER)
        reading.add("dead_rows", sum(row.dead for row in others), table=OTHER)
    reading.add("rows", sum(row.live for row in rows))
    if member.database.is_shard:
        ours = {relation(name) for name in (*live_tables(member.tree), *archive_tables(member.tree))}
        labels = {"tree": member.tree.name, "shard": member.database.name}
        kept = sum(row.live for row in rows if row.name in ours)
        reading.samples.append(Sample(f"{PREFIX}_shard_rows", labels, float(kept)))


def _read_partitions(
    policies: Iterable[Policy], now: datetime, connection: Connection, reading: DatabaseReading
) -> None:
    catalog = read_catalog(connection, [policy.table for policy in policies])
    for policy in policies:
        table = catalog[policy.table]
        pending = sum(each.detach_pending for each in table.partitions)
        reading.add("partitions_pending_detaches", pending, table=table.name)
        if isinstance(policy, MonthlyRange):
            ahead = months_ahead(policy, table, Month.of(now))
            reading.add("partitions_months_ahead", ahead, table=table.name)
        add_partitions(table, reading)


def add_partitions(table: PartitionedTable, reading: DatabaseReading) -> None:
    """Add the rows and sizes of the largest partitions of a table, and of all others as one."""
    largest = sorted(table.partitions, key=lambda each: (-each.size_bytes, each.name))
    named, others = largest[:PARTITIONS_NAMED], largest[PARTITIONS_NAMED:]
    sizes = [(each.name, each.rows or 0, each.size_bytes) for each in named]
    if others:
        rows = sum(each.rows or 0 for each in others)
        sizes.append((OTHER, rows, sum(each.size_bytes for each in others)))
    for name, rows, size in sizes:
        reading.add("partition_rows", rows, table=table.name, partition=name)
        reading.add("partition_bytes", size, table=table.name, partition=name)


def _read_archive(
    policy: ArchivePolicy, now: datetime, connection: Connection, reading: DatabaseReading
) -> None:
    waiting = read_backlog(connection, policy, now)
    reading.add("archive_waiting_rows", waiting.rows, table=policy.live)


def _read_leases(connection: Connection, reading: DatabaseReading) -> None:
    for row in connection.execute(_LEASES, {"most": ID_SPACES_NAMED}):
        labels = {"id_space": row.id_space}
        reading.samples += [
            Sample(f"{PREFIX}_id_leases", labels, row.leases),
            Sample(f"{PREFIX}_id_leases_max", labels, NODES),
        ]


def _read_statements(connection: Connection, reading: DatabaseReading) -> None:
    schema = connection.scalar(_EXTENSION_SCHEMA, {"name": EXTENSION})
    if schema is None:
        reading.missing.add(EXTENSION)
        return
    for row in connection.execute(text(_STATEMENTS.format(schema=schema)), {"most": STATEMENTS_NAMED}):
        reading.add("statement_seconds_total", row.seconds, queryid=row.queryid)
