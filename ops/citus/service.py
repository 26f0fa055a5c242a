"""What `mesctl shards citus` does: reads and changes the coordinator, and shows how far a move is."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine

from ops.fleet import connect_line, naming, open_engine
from ops.partitions.archiving import months_of
from ops.project.project import ProjectTree
from ops.shards.service import live_tables
from partitions.archive_policy import ArchivePolicy
from partitions.bounds import Month
from partitions.sql import relation
from sharding.citus import columnar, moving
from sharding.citus.catalog import ShardRange, locate, require_citus
from sharding.citus.distribute import Distribution
from sharding.citus.moving import Mode, MoveProgress, RebalanceJob
from sharding.citus.preflight import Objection, check_columnar, check_schema, check_statements, read_schema
from sharding.errors import ColumnarRefused, NotOnCitus, RebalanceFailed
from sharding.topology import Topology

Report = Callable[[str], None]

LOOK_EVERY_SECONDS = 0.5


@contextmanager
def open_coordinator(topology: Topology, tree: str, *, role: str | None = None) -> Iterator[Engine]:
    """Open an engine on the coordinator of a tree, whose statements are transactions of their own.

    Parameters:
        topology: where it is.
        tree: a sharded tree.
        role: who connects; without it the owner of the tables.

    Raises:
        NotOnCitus: the tree's backend is another.
        CitusMissing: the database has no Citus.
        DatabasesFailed: it does not answer.
    """
    if topology.trees[tree].backend != "citus":
        raise NotOnCitus(topology.trees[tree].backend)
    database = topology.coordinator_of(tree)
    with open_engine(topology, database, role=role or database.owner) as opened:
        engine = opened.execution_options(isolation_level="AUTOCOMMIT")
        with naming(database), engine.connect() as connection:
            require_citus(connection, database.name)
        yield engine


def render_script(topology: Topology, tree: str, statement: str, *, role: str | None = None) -> str:
    """Return a statement for the coordinator of a tree as a script for psql."""
    database = topology.coordinator_of(tree)
    return f"{connect_line(topology, database, role=role or database.owner)}{statement};\n"


def leading_table(tree: ProjectTree) -> str:
    """Return the table that verbs are about which name none: the first one of live rows."""
    return live_tables(tree)[0]


def locate_key(topology: Topology, tree: ProjectTree, key: int) -> ShardRange:
    """Ask Citus where a key of the leading table belongs now; after a split or an isolation only it knows."""
    with open_coordinator(topology, tree.name) as engine, engine.connect() as connection:
        return locate(connection, leading_table(tree), key)


def run_watched(engine: Engine, statement: str, *, report: Report) -> object:
    """Run a statement that moves shards, and report its progress; Ctrl-C cancels it on the server too."""
    with engine.connect() as connection, engine.connect() as watcher, ThreadPoolExecutor(1) as pool:
        running: Future[object] = pool.submit(lambda: connection.exec_driver_sql(statement).scalar())
        try:
            return _until_done(running, watcher, report)
        except BaseException:
            if not running.done():
                connection.connection.driver_connection.cancel_safe()  # type: ignore[union-attr]
            raise


def _until_done(running: Future[object], watcher: Connection, report: Report) -> object:
    started, said = time.monotonic(), ""
    while True:
        try:
            return running.result(timeout=LOOK_EVERY_SECONDS)
        except TimeoutError:
            line = progress_line(moving.read_progress(watcher), seconds=time.monotonic() - started)
            if line != said:
                report(line)
            said = line


def progress_line(progress: MoveProgress, *, seconds: float) -> str:
    """Return the progress of moves in one line: shards, bytes, rate and time left. Pure."""
    if not progress.shards:
        return "waiting for Citus to begin"
    rate = progress.copied / seconds if seconds else 0.0
    left = f", {(progress.bytes - progress.copied) / rate:.0f} s left" if rate else ""
    doing = f" ({progress.doing})" if progress.doing else ""
    return (
        f"{progress.done} of {progress.shards} tables' shards, {progress.copied / 2**20:.1f} of "
        f"{progress.bytes / 2**20:.1f} MB, {rate / 2**20:.1f} MB/s{left}{doing}"
    )


def start_rebalance(engine: Engine, mode: Mode) -> int | None:
    """Start a rebalance in the background; return the id of its job, None when there is nothing to move."""
    with engine.connect() as connection:
        job_id: int | None = connection.exec_driver_sql(moving.rebalance_statement(mode)).scalar()
        return job_id


def wait_for_job(
    engine: Engine, job_id: int, *, report: Report, sleep: Callable[[float], None] = time.sleep
) -> RebalanceJob:
    """Report the progress of a background job until it has ended.

    Raises:
        RebalanceFailed: it ended, and not well.
    """
    started, said = time.monotonic(), ""
    with engine.connect() as connection:
        while True:
            job = moving.read_job(connection, job_id)
            if job is None or job.has_ended:
                break
            seconds = time.monotonic() - started
            line = f"{job_line(job)}: {progress_line(moving.read_progress(connection), seconds=seconds)}"
            if line != said:
                report(line)
            said = line
            sleep(LOOK_EVERY_SECONDS)
    if job is None or job.state != "finished":
        raise RebalanceFailed(job.state if job else "lost", job.messages if job else ())
    return job


def job_line(job: RebalanceJob) -> str:
    """Return the progress of a job in one line, in moves. Pure."""
    return f"job {job.job_id} {job.state}, {job.counts.get('done', 0)} of {job.moves} moves"


@dataclass(frozen=True, slots=True)
class StoredAs:
    """How a month is stored, and its bytes on all nodes before and after."""

    partition: str
    access_method: str
    bytes_before: int
    bytes_after: int


def check_store(engine: Engine, tree: ProjectTree, partition: str, *, to: str, now: datetime) -> None:
    """Refuse to store a month otherwise while that would hurt.

    Raises:
        ColumnarRefused: the archive job would still write it, or it is stored so already.
        CitusMissing: citus_columnar is not there.
    """
    with engine.connect() as connection:
        stored = columnar.read_stored(connection, partition)
        policy = _archive_of(tree, stored)
        columnar.require_columnar(connection, engine.url.database or "")
        # Month and rows by the keys: what is still live will be written there.
        if policy.range_key is None:
            raise ColumnarRefused(partition, f"the policy of {policy.archive} names no range key")
        condition = stored.keys.condition(policy.range_key)
        in_month = f"SELECT count(*) FROM {relation(policy.tree)} WHERE {condition}"
        live = connection.exec_driver_sql(in_month, execution_options={"no_parameters": True}).scalar() or 0
    ended_at = _end_of(tree, policy, stored, now)
    reason = columnar.refusal(stored, to=to, ended_at=ended_at, now=now, grace=policy.grace, live_orders=live)
    if reason is not None:
        raise ColumnarRefused(partition, reason)


def _archive_of(tree: ProjectTree, stored: columnar.StoredPartition) -> ArchivePolicy:
    for policy in tree.archives:
        if stored.parent in policy.moves.values():
            return policy
    raise ColumnarRefused(stored.name, f"{stored.parent} is no table that the archive job fills")


def _end_of(
    tree: ProjectTree, policy: ArchivePolicy, stored: columnar.StoredPartition, now: datetime
) -> datetime:
    for monthly in months_of(tree, policy):
        latest = Month.of(now).later(monthly.months_ahead)
        month = (
            monthly.month_at(stored.keys.end - 1, latest=latest) if monthly.table == stored.parent else None
        )
        if month is not None:
            return month.next.start
    raise ColumnarRefused(stored.name, f"its keys are no month of {stored.parent} that has begun")


def store(engine: Engine, partition: str, *, to: str, lock_timeout_seconds: float = 10.0) -> StoredAs:
    """Copy a month into another way of storing; those who use it wait meanwhile."""
    with engine.connect() as connection:
        before = columnar.read_size(connection, partition)
        connection.exec_driver_sql(f"SET lock_timeout = '{round(lock_timeout_seconds * 1000)}ms'")
        connection.exec_driver_sql(columnar.store_statement(partition, to))
        connection.exec_driver_sql("RESET lock_timeout")
        return StoredAs(partition, to, before, columnar.read_size(connection, partition))


def preflight(
    topology: Topology, tree: ProjectTree, *, statements: Path | None = None
) -> dict[str, list[Objection]]:
    """List what Citus would refuse, by database; of plain shards too, that is where it is needed.

    Parameters:
        topology: where the databases of the tree are.
        tree: declares how its tables are to be placed.
        statements: a file of SQL, a `;` at the end of a line behind each statement.

    Raises:
        DatabasesFailed: a database does not answer.
    """
    found = {}
    declared = Distribution.of(tree.metadata)
    for name, database in topology.databases_of(tree.name).items():
        with (
            naming(database),
            open_engine(topology, database, role=database.owner) as engine,
            engine.connect() as connection,
        ):
            schema = read_schema(connection)
        ours = {table: facts for table, facts in schema.items() if table != tree.version_table}
        found[name] = check_schema(ours, declared) + check_columnar(ours, written=written_tables(tree))
    if statements is not None:
        found[statements.name] = check_file(tree, statements)
    return found


def check_file(tree: ProjectTree, statements: Path) -> list[Objection]:
    """List what Citus would refuse of the statements in a file.

    Parameters:
        tree: declares how its tables are to be placed.
        statements: SQL, a `;` at the end of a line behind each statement.
    """
    sql = statements.read_text(encoding="utf-8").split(";\n")
    return check_statements(filter(str.strip, sql), Distribution.of(tree.metadata))


def written_tables(tree: ProjectTree) -> list[str]:
    """List the tables whose rows change at any time; archives are only added to, until they are at rest."""
    filled = {table for archive in tree.archives for table in archive.moves.values()}
    return [table.name for table in tree.metadata.tables.values() if table.name not in filled]
