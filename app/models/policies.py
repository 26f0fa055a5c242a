"""How the MES tables are partitioned and archived: `mesctl partitions` and `mesctl archive` follow this."""

from datetime import timedelta

from app.models.mes import (
    ORDERS,
    MesArchivedOrder,
    MesArchivedOrderEvent,
    MesArchivedOrderItem,
    MesBase,
    MesOrder,
    MesOrderEvent,
    MesOrderItem,
    MesOutbox,
    PricingJob,
)
from partitions import ArchivePolicy, Child, Link, declare_partitions
from partitions.policy import Policy
from sharding.ids import first_id_at

ARCHIVE = ArchivePolicy(
    live="orders_done",
    partition_of=MesOrder,
    archive=MesArchivedOrder,
    row_id=MesOrder.order_id,
    range_key=MesOrder.order_id,
    finished_at=MesOrder.changed_at,
    grace=timedelta(days=30),
    children=(
        Child(MesOrderItem, archive=MesArchivedOrderItem, key=MesOrderItem.order_id),
        Child(MesOrderEvent, archive=MesArchivedOrderEvent, key=MesOrderEvent.order_id),
    ),
    unless_exists=(Link(MesOutbox, key=MesOutbox.order_id), Link(PricingJob, key=PricingJob.order_id)),
)
"""A finished order leaves after the grace period, unless a message or a price of it is still owed."""

ARCHIVE_MONTHS = ARCHIVE.months(key_at=first_id_at)
"""The archive by the month in which an order was made, which follows from its id."""

declare_partitions(MesBase.metadata, ARCHIVE_MONTHS, [ARCHIVE])

POLICIES: tuple[Policy, ...] = (ORDERS, *ARCHIVE_MONTHS)
"""How the tables of the MES shards are partitioned."""

ARCHIVES: tuple[ArchivePolicy, ...] = (ARCHIVE,)
"""What is archived there, and what belongs to it."""
