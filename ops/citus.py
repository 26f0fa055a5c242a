"""What `mesctl shards citus` does: reads and tells the coordinator, and shows how far a move is."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, func, select

from app.models.distribution import MES_DISTRIBUTION
from app.models.mes import MesOrder
from app.models.policies import ARCHIVE
from ops.fleet import connect_line, open_engine
from sharding.citus import columnar, moving
from sharding.citus.catalog import locate, require_citus
from sharding.citus.coordinator import coordinator_of
from sharding.citus.errors import ColumnarRefused, NotOnCitus, RebalanceFailed
from sharding.citus.moving import Job, Mode, Progress
from sharding.citus.placement import ShardRange
from sharding.citus.preflight import Objection, check_columnar, check_schema, check_statements
from sharding.citus.schema import read_schema
from sharding.ids import instant_of
from sharding.topology import Topology

Report = Callable[[str], None]
LOOK_EVERY_SECONDS = 0.5
WRITTEN = ("orders", "order_items", "order_events", "pricing_jobs", "outbox", "inbox")
"""Tables whose rows change at any time; archive months are only added to, until they are at rest."""


@contextmanager
def open_coordinator(topology: Topology, *, role: str | None = None) -> Iterator[Engine]:
    """Open an engine on the coordinator whose statements are transactions of their own.

    Parameters:
        topology: where it is.
        role: who connects; without it the owner of the tables.

    Raises:
        NotOnCitus: the topology's backend is another.
        CitusMissing: the database has no Citus.
    """
    if topology.backend != "citus":
        raise NotOnCitus(topology.backend)
    database = coordinator_of(topology)
    with open_engine(topology, database, role=role or database.owner) as opened:
        engine = opened.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            require_citus(connection, database.name)
        yield engine


def script(topology: Topology, statement: str, *, role: str | None = None) -> str:
    """Give a statement for the coordinator as a script for psql."""
    database = coordinator_of(topology)
    return f"{connect_line(topology, database, role=role or database.owner)}{statement};\n"


def locate_order(topology: Topology, order_id: int) -> ShardRange:
    """Ask Citus where an order belongs now; after a split or an isolation only it knows."""
    with open_coordinator(topology) as engine, engine.connect() as connection:
        return locate(connection, MesOrder.__tablename__, order_id)


def run_watched(engine: Engine, statement: str, *, report: Report) -> object:
    """Run a statement that moves shards, and tell how far it is; Ctrl-C cancels it there too."""
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


def progress_line(progress: Progress, *, seconds: float) -> str:
    """Say how far the moves are: shards, bytes, rate and time left. Pure."""
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
    """Have Citus rebalance in the background; give the job's id, None when there is nothing to move."""
    with engine.connect() as connection:
        job_id: int | None = connection.exec_driver_sql(moving.rebalance_statement(mode)).scalar()
        return job_id


def wait_for_job(
    engine: Engine, job_id: int, *, report: Report, sleep: Callable[[float], None] = time.sleep
) -> Job:
    """Tell how far a background job is, until it has ended.

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


def job_line(job: Job) -> str:
    """Say how far a job is, in moves. Pure."""
    return f"job {job.job_id} {job.state}, {job.counts.get('done', 0)} of {job.moves} moves"


@dataclass(frozen=True, slots=True)
class StoredAs:
    """How a month is stored, and its bytes on all nodes before and after."""

    partition: str
    access_method: str
    bytes_before: int
    bytes_after: int


def check_store(engine: Engine, partition: str, *, to: str, now: datetime) -> None:
    """Refuse to store a month otherwise while that would hurt.

    Raises:
        ColumnarRefused: the archive job would still write it, or it is stored so already.
        CitusMissing: citus_columnar is not there.
    """
    with engine.connect() as connection:
        stored = columnar.read_stored(connection, partition)
        if stored.parent not in ARCHIVE.moves.values():
            raise ColumnarRefused(partition, f"{stored.parent} is no table that the archive job fills")
        columnar.require_columnar(connection, engine.url.database or "")
        in_month = MesOrder.order_id.between(stored.keys.start, stored.keys.end - 1)
        live = connection.scalar(select(func.count()).select_from(MesOrder).where(in_month)) or 0
    reason = columnar.refusal(
        stored, to=to, ended_at=instant_of(stored.keys.end), now=now, grace=ARCHIVE.grace, live_orders=live
    )
    if reason is not None:
        raise ColumnarRefused(partition, reason)


def store(engine: Engine, partition: str, *, to: str, lock_timeout_seconds: float = 10.0) -> StoredAs:
    """Copy a month into another way of storing; those who use it wait meanwhile."""
    with engine.connect() as connection:
        before = columnar.read_size(connection, partition)
        connection.exec_driver_sql(f"SET lock_timeout = '{round(lock_timeout_seconds * 1000)}ms'")
        connection.exec_driver_sql(columnar.store_statement(partition, to))
        connection.exec_driver_sql("RESET lock_timeout")
        return StoredAs(partition, to, before, columnar.read_size(connection, partition))


def preflight(topology: Topology, *, statements: Path | None = None) -> dict[str, list[Objection]]:
    """List what Citus would refuse, by database; of plain shards too, that is where it is needed.

    Parameters:
        topology: where the MES databases are.
        statements: a file of SQL, a `;` at the end of a line behind each statement.
    """
    found = {}
    for name, database in topology.databases_of("mes").items():
        with (
            open_engine(topology, database, role=database.owner) as engine,
            engine.connect() as connection,
        ):
            schema = read_schema(connection)
        found[name] = check_schema(schema, MES_DISTRIBUTION) + check_columnar(schema, written=WRITTEN)
    if statements is not None:
        sql = statements.read_text(encoding="utf-8").split(";\n")
        found[statements.name] = check_statements(filter(str.strip, sql), MES_DISTRIBUTION)
    return found
