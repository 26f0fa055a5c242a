"""Alembic operations for partitions, and an autogenerate plugin that knows them.

It needs alembic, which the rest of `partitions` does not: `pip install 'mes-storage[alembic]'`. Importing
it once, in `env.py` or in a migration, is enough for `op.create_partition(...)` and the others to exist:

from partitions.migration_ops import PLUGINS, POLICIES, ignore_undeclared_partitions

metadata.info[POLICIES] = (ListPartitions(table="orders", groups=...), ...)
context.configure(
    ...,
    include_name=ignore_undeclared_partitions(connection, metadata),
    autogenerate_plugins=PLUGINS,
)
"""

from partitions.errors import AlembicMissing

try:
    import alembic  # noqa: F401 (asked for here, so that its absence is one line)
except ModuleNotFoundError as error:
    raise AlembicMissing from error

from partitions.declare import POLICIES
from partitions.migration_ops.compare import PLUGINS, ignore_undeclared_partitions
from partitions.migration_ops.operations import (
    AttachPartitionOp,
    CreateIndexOnPartitionsOp,
    CreatePartialIndexOp,
    CreatePartitionedTableOp,
    CreatePartitionOp,
    DetachPartitionOp,
    DropIndexOnPartitionsOp,
    DropPartialIndexOp,
    DropPartitionOp,
    RegroupPartitionsOp,
    ReplacePartialIndexOp,
)

__all__ = [
    "PLUGINS",
    "POLICIES",
    "AttachPartitionOp",
    "CreateIndexOnPartitionsOp",
    "CreatePartialIndexOp",
    "CreatePartitionOp",
    "CreatePartitionedTableOp",
    "DetachPartitionOp",
    "DropIndexOnPartitionsOp",
    "DropPartialIndexOp",
    "DropPartitionOp",
    "RegroupPartitionsOp",
    "ReplacePartialIndexOp",
    "ignore_undeclared_partitions",
]
