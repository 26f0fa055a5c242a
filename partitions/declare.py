"""Declares in SQLAlchemy's metadata what the policies say: partitions with indexes of their own, and keys."""

import re
from collections.abc import Iterable

from sqlalchemy import MetaData, Table

from partitions.archive_policy import ArchivePolicy, check_retention
from partitions.models import bind_index, key_type_of, require_column, table_name
from partitions.policy import ListPartitions, MonthlyRange, Policy, validated
from partitions.policy_errors import (
    KeyNotInPrimaryKey,
    PartitionKeyMismatch,
    RangeKeyUnsupported,
    TableNotDeclared,
)
from partitions.sql import RelationName, identifier

POLICIES = "partition_policies"
"""The key of `MetaData.info` under which autogenerate finds the policies of the tables."""

PARTITION_OF = "partition_of"
"""The key of `Table.info` that has the key in the metadata of a partition's table."""


def declare_partitions(
    metadata: MetaData, policies: Iterable[Policy], archives: Iterable[ArchivePolicy] = ()
) -> None:
    """Add to the metadata the partitions of LIST tables, with their own indexes, and all partition keys.

    Months are not declared: they come and go. To call it again with more policies adds those.

    Parameters:
        metadata: has the tables.
        policies: how they are partitioned.
        archives: what leaves them; their tables are looked up too.

    Raises:
        TableNotDeclared: a policy is about a table that the metadata does not have.
        ColumnNotDeclared: a policy names a column that its table does not have.
        KeyNotInPrimaryKey: PostgreSQL would refuse the table.
        PartitionKeyMismatch: a model says another `postgresql_partition_by`.
        RangeKeyUnsupported: the model's key is of another type than the policy says.
        ChildrenOutliveParent: a retention would leave rows of a child without a parent.
    """
    found = validated(policies)
    check_policies(metadata, found, archives)
    for policy in found:
        _declare(table_in(metadata, policy.table), policy)
    known = {policy.table: policy for policy in metadata.info.get(POLICIES, ())}
    metadata.info[POLICIES] = tuple((known | {policy.table: policy for policy in found}).values())


def check_policies(
    metadata: MetaData, policies: Iterable[Policy], archives: Iterable[ArchivePolicy] = ()
) -> None:
    """Compare policies with the tables of the metadata; it raises what `declare_partitions` raises."""
    found, leaving = validated(policies), tuple(archives)
    for policy in found:
        _check(table_in(metadata, policy.table), policy)
    for archive in leaving:
        _check_archive(metadata, archive)
    check_retention(found, leaving)


def table_in(metadata: MetaData, name: str) -> Table:
    """Return a table by its name as policies have it.

    Raises:
        TableNotDeclared: there is none.
    """
    for table in metadata.tables.values():
        if table_name(table) == name:
            return table
    raise TableNotDeclared(name, there=sorted(map(table_name, metadata.tables.values())))


def _check(table: Table, policy: Policy) -> None:
    for column in (policy.key, *policy.row_id):
        require_column(table, column, use="key or row_id")
    primary_key = [column.name for column in table.primary_key.columns]
    if policy.key not in primary_key:
        raise KeyNotInPrimaryKey(policy.table, policy.key, primary_key)
    says = table.dialect_options["postgresql"]["partition_by"]
    if says is not None and _plain(says) != _plain(policy.partition_by):
        raise PartitionKeyMismatch(policy.table, model=says, policy=policy.partition_by)
    [kind] = [column.type for column in table.columns if column.name == policy.key]
    if isinstance(policy, MonthlyRange) and key_type_of(kind) is not policy.key_type:
        reason = f"it is {kind!r}, and its policy says {policy.key_type}"
        raise RangeKeyUnsupported(policy.table, policy.key, reason)


def _plain(key: str) -> str:
    return re.sub(r"[\s\"]", "", key).lower()


def _check_archive(metadata: MetaData, archive: ArchivePolicy) -> None:
    named = [(archive.tree, archive.row_id), (archive.archive, archive.row_id)]
    named += [(link.table, link.key) for link in (*archive.children, *archive.unless_exists)]
    named += [(child.archive, child.key) for child in archive.children]
    for name, columns in named:
        table = table_in(metadata, name)
        for column in columns:
            require_column(table, column, use="row_id, or the key of its parent")


def _declare(table: Table, policy: Policy) -> None:
    kind, _, _ = policy.partition_by.partition(" ")
    table.dialect_options["postgresql"]["partition_by"] = f"{kind} ({identifier(policy.key)})"
    if isinstance(policy, ListPartitions):
        for name in policy.groups:
            _declare_partition(table, policy, name)


def _declare_partition(table: Table, policy: ListPartitions, name: str) -> None:
    """Add a partition to the metadata, for it may carry indexes that its parent has not."""
    own = RelationName.of(name)
    if any(table_name(there) == name for there in table.metadata.tables.values()):
        return
    partition = table.to_metadata(table.metadata, name=own.name)
    partition.dialect_options["postgresql"]["partition_by"] = None
    partition.info[PARTITION_OF] = table.key
    partition.primary_key.name = f"{own.name}_pkey"
    for index in policy.bound_indexes.get(name, ()):
        bind_index(index, partition)
