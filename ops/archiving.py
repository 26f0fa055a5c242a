"""What `mesctl archive` does to one MES shard: months by the owner, rows by the service's own role."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import partitions
from app.models.policies import ARCHIVE_MONTHS
from ops.fleet import connect_line, open_engine
from partitions import Month
from partitions.archive.mover import (
    Report,
    Waiting,
    count_archived,
    move,
    read_columns,
    read_waiting,
)
from partitions.archive.policy import ArchivePolicy
from partitions.archive.statements import script
from sharding.ids import instant_of
from sharding.topology import Database, Topology


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """What waits for the archive of a shard, and what is in it, by partition."""

    waiting: Waiting
    archived: Mapping[str, int]


def read_state(topology: Topology, database: Database, policy: ArchivePolicy, now: datetime) -> ArchiveState:
    """Count what is past the grace period and what is archived."""
    with open_engine(topology, database, role=database.role) as engine, engine.connect() as connection:
        return ArchiveState(read_waiting(connection, policy, now), count_archived(connection, policy))


def archive_shard(
    topology: Topology,
    database: Database,
    policy: ArchivePolicy,
    now: datetime,
    *,
    batch_rows: int = 500,
    report: Report | None = None,
) -> Mapping[str, int]:
    """Make the months that the due orders need, then move the orders.

    Parameters:
        topology: where the databases are.
        database: an MES shard.
        policy: what is archived, and after which grace period.
        now: the current instant, with a time zone.
        batch_rows: how many orders a transaction moves at most.
        report: is told of each batch once it is committed.

    Returns:
        the rows moved, by live table.

    Raises:
        PartitionError: a month or a batch was refused; the batches before it stay.
    """
    state = read_state(topology, database, policy, now)
    with open_engine(topology, database, role=database.owner) as owner:
        partitions.apply(owner, ARCHIVE_MONTHS, now, since=earliest_month(state.waiting))
    with open_engine(topology, database, role=database.role) as service:
        return move(service, policy, now, batch_rows=batch_rows, report=report)


def render_shard(
    topology: Topology, database: Database, policy: ArchivePolicy, now: datetime, *, batch_rows: int
) -> str:
    """Give what `archive_shard` would run, as psql accepts it; the batch stands there once."""
    waiting = read_state(topology, database, policy, now).waiting
    with open_engine(topology, database, role=database.owner) as owner, owner.connect() as connection:
        catalog = partitions.read_catalog(connection, [months.table for months in ARCHIVE_MONTHS])
        columns = read_columns(connection, policy)
    actions = partitions.plan(ARCHIVE_MONTHS, catalog, now, since=earliest_month(waiting))
    cutoff = f"'{(now - policy.grace).isoformat()}'"
    return "\n".join(
        (
            f"-- {database.name}: {waiting.rows} orders wait, {waiting.owed} are held back",
            connect_line(topology, database, role=database.owner) + partitions.render(actions),
            "-- one batch of many: it is repeated until it is short",
            connect_line(topology, database, role=database.role)
            + script(policy, columns, cutoff=cutoff, batch_rows=batch_rows),
        )
    )


def earliest_month(waiting: Waiting) -> Month | None:
    """Tell the month of the oldest order that waits; its id tells it."""
    return None if waiting.oldest_key is None else Month.of(instant_of(waiting.oldest_key))
