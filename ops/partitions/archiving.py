"""What `mesctl archive` does to one database: months by the owner, rows by the service's own role."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import partitions
from ops.fleet import Member, connect_line, open_engine
from ops.project.project import ProjectTree
from ops.tracing import span_of
from partitions import Month, MonthlyRange
from partitions.archive import (
    ArchiveBacklog,
    ArchivedBatch,
    Report,
    count_archived,
    move,
    read_backlog,
    read_columns,
    script,
)
from partitions.archive_policy import ArchivePolicy, check_retention
from sharding.citus.catalog import read_shards
from sharding.topology import Topology


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """What waits for an archive, and what is in it, by partition."""

    waiting: ArchiveBacklog
    archived: Mapping[str, int]


def months_of(tree: ProjectTree, policy: ArchivePolicy) -> tuple[MonthlyRange, ...]:
    """Return the monthly policies of the tables that an archive fills, its own table's first."""
    monthly = {each.table: each for each in tree.policies if isinstance(each, MonthlyRange)}
    return tuple(monthly[table] for table in policy.moves.values() if table in monthly)


def read_state(topology: Topology, member: Member, policy: ArchivePolicy, now: datetime) -> ArchiveState:
    """Count what is past the grace period and what is archived."""
    database = member.database
    with open_engine(topology, database, role=database.role) as engine, engine.connect() as connection:
        archived = count_archived(connection, policy)
        if database.is_coordinator:
            archived = _by_table(archived, read_shards(connection))
        return ArchiveState(read_backlog(connection, policy, now), archived)


def _by_table(archived: Mapping[str, int], shards: Mapping[str, str]) -> Mapping[str, int]:
    """Add up what the shards of each partition hold."""
    counts: Counter[str] = Counter()
    for shard, rows in archived.items():
        counts[shards.get(shard, shard)] += rows
    return counts


def archive_database(
    topology: Topology,
    member: Member,
    policy: ArchivePolicy,
    now: datetime,
    *,
    batch_rows: int = 500,
    report: Report | None = None,
) -> Mapping[str, int]:
    """Make the months that the due rows need, then move the rows.

    Parameters:
        topology: where the databases are.
        member: a database, and its tree.
        policy: what is archived, and after which grace period; one of the tree's archives.
        now: the current instant, with a time zone.
        batch_rows: how many rows of the live table a transaction moves at most.
        report: is called with each batch once it is committed.

    Returns:
        the rows moved, by live table.

    Raises:
        PartitionError: a month or a batch was refused; the batches before it stay.
    """
    database, months = member.database, months_of(member.tree, policy)
    check_retention(member.tree.policies, member.tree.archives)
    waiting = read_state(topology, member, policy, now).waiting
    archived, began_ns = member.tree.archived, time.time_ns()

    def moved(batch: ArchivedBatch) -> None:
        nonlocal began_ns
        with span_of("archive batch", began_ns=began_ns, attributes=_facts(database.name, policy, batch)):
            if archived is not None:
                archived(topology, database.name, policy, batch.ids)
        began_ns = time.time_ns()
        if report is not None:
            report(batch)

    with open_engine(topology, database, role=database.owner) as owner:
        partitions.apply(owner, months, now, since=earliest_month(months, waiting, now))
    with open_engine(topology, database, role=database.role) as service:
        # Citus locks rows of one shard at a time.
        by_key, began_ns = database.is_coordinator, time.time_ns()
        return move(service, policy, now, batch_rows=batch_rows, lock_by_key=by_key, report=moved)


def _facts(database: str, policy: ArchivePolicy, batch: ArchivedBatch) -> dict[str, str | int]:
    """Return what the span of a batch says."""
    keys = [each[0] for each in batch.ids]
    bounds = {"first": min(keys), "last": max(keys)} if keys else {}
    facts = {f"mes_storage.archive.{name}": str(key) for name, key in bounds.items()}
    counts = {f"mes_storage.archive.rows.{table}": rows for table, rows in batch.rows.items()}
    return {"mes_storage.database": database, "mes_storage.archive": policy.archive, **counts, **facts}


def render_database(
    topology: Topology, member: Member, policy: ArchivePolicy, now: datetime, *, batch_rows: int
) -> str:
    """Return what `archive_database` would run, as psql accepts it; the batch stands there once."""
    database, months = member.database, months_of(member.tree, policy)
    waiting = read_state(topology, member, policy, now).waiting
    with open_engine(topology, database, role=database.owner) as owner, owner.connect() as connection:
        catalog = partitions.read_catalog(connection, [each.table for each in months])
        columns = read_columns(connection, policy)
    actions = partitions.plan(months, catalog, now, since=earliest_month(months, waiting, now))
    cutoff = f"'{(now - policy.grace).isoformat()}'"
    return "\n".join(
        (
            f"-- {database.name}: {waiting.rows} rows of {policy.live} wait, {waiting.owed} are held back",
            connect_line(topology, database, role=database.owner) + partitions.render(actions),
            "-- one batch of many: it is repeated until it is short",
            connect_line(topology, database, role=database.role)
            + script(
                policy, columns, cutoff=cutoff, batch_rows=batch_rows, lock_by_key=database.is_coordinator
            ),
        )
    )


def earliest_month(months: tuple[MonthlyRange, ...], waiting: ArchiveBacklog, now: datetime) -> Month | None:
    """Return the month that the oldest waiting row needs; None if nothing waits, or there are no months."""
    if waiting.oldest_key is None or not months:
        return None
    return months[0].month_at(waiting.oldest_key, latest=Month.of(now))
