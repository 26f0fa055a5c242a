"""How the MES tables are partitioned and archived: `mesctl partitions` and `mesctl archive` follow this."""

from datetime import timedelta

from sqlalchemy import Index
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex

from app.models.mes import MesBase
from app.models.status import DONE, HOT
from partitions.policy import ArchivePolicy, DeclaredIndex, ListPartitions, MonthlyRange, Policy
from sharding.ids import first_id_at

_GROUPS = {"orders_hot": HOT, "orders_done": DONE}


def _declared(index: Index) -> DeclaredIndex:
    """Return an index as CREATE INDEX has it behind the table's name."""
    statement = str(CreateIndex(index).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    table = index.table.name if index.table is not None else ""
    return DeclaredIndex(statement.split(f" ON {table} ", 1)[1], unique=bool(index.unique))


ORDERS = ListPartitions(
    table="orders",
    groups={name: frozenset(map(str, statuses)) for name, statuses in _GROUPS.items()},
    indexes={
        name: {str(index.name): _declared(index) for index in MesBase.metadata.tables[name].indexes}
        for name in _GROUPS
    },
)
"""Live orders: those that someone must act on apart from those that have ended."""

ARCHIVE = ArchivePolicy(
    live="orders_done",
    partition_of=ORDERS.table,
    archive="orders_archive",
    key="order_id",
    finished_at="changed_at",
    grace=timedelta(days=30),
    children={"order_items": "order_items_archive", "order_events": "order_events_archive"},
    unless_exists=("outbox", "pricing_jobs"),
)
"""A finished order leaves after the grace period, unless a message or a price of it is still owed."""

ARCHIVE_MONTHS = tuple(
    MonthlyRange(table=table, key=ARCHIVE.key, key_at=first_id_at, months_ahead=3, grace=ARCHIVE.grace)
    for table in ARCHIVE.moves.values()
)
"""The archive by the month in which an order was made, which follows from its id."""

POLICIES: tuple[Policy, ...] = (ORDERS, *ARCHIVE_MONTHS)
"""How the tables of the MES shards are partitioned."""

ARCHIVES: tuple[ArchivePolicy, ...] = (ARCHIVE,)
"""What is archived there, and what belongs to it."""
