"""The tables and partitions that exist, for autogenerate, and how they differ from the policies."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, MetaData, Row, text

from partitions.bounds import ValueList
from partitions.catalog import Catalog, PartitionedTable, read_catalog
from partitions.errors import PartitionError
from partitions.migration_ops.operations import RegroupPartitionsOp
from partitions.models import table_name
from partitions.online.change import MARK
from partitions.policy import ListPartitions, MonthlyRange, Policy
from partitions.sql import RelationName, bare, schema_of


class PartitionKeyDiffers(PartitionError):
    """A model says another `postgresql_partition_by` than its table has; PostgreSQL cannot alter that."""

    def __init__(self, table: str, *, found: str | None, wanted: str | None) -> None:
        self.table = table
        self.found = found
        self.wanted = wanted
        super().__init__(
            f"{table} is partitioned by {found or 'nothing'}, its model says {wanted or 'nothing'}: "
            f"that cannot be altered; make a new table, move the rows, then rename"
        )


@dataclass(frozen=True, slots=True)
class ExistingSchema:
    """The tables of a database, and which of them are partitions.

    Names have a schema where it is not the current one.

    Parameters:
        tables: every table.
        keys: what each partitioned table is partitioned by, as in `LIST (status)`.
        partitions: the tables that are partitions.
        inherited_indexes: the indexes that partitions have from their parents.
        under_way: the columns, with their tables, that an online change has made and takes away again.
    """

    tables: frozenset[str]
    keys: Mapping[str, str]
    partitions: frozenset[str]
    inherited_indexes: frozenset[str]
    under_way: frozenset[tuple[str, str]]


SCHEMA = "nullif(nspname, current_schema()) AS schema"
"""The schema of a relation; NULL for the current one, which the models do not name."""

_RELATIONS = text(f"""
    SELECT relname AS name, {SCHEMA}, relkind::text, relispartition, pg_get_partkeydef(pg_class.oid) AS key
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
      AND relkind IN ('r', 'p', 'f', 'i', 'I')
""")
_UNDER_WAY = text(f"""
    SELECT relname AS name, {SCHEMA}, attname
    FROM pg_description JOIN pg_attribute ON attrelid = objoid AND attnum = objsubid
    JOIN pg_class ON pg_class.oid = attrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE classoid = 'pg_class'::regclass AND starts_with(description, :mark)
""")


def read_existing_schema(connection: Connection) -> ExistingSchema:
    """Read which tables and partitions there are."""
    found = [(name_of(row), row) for row in connection.execute(_RELATIONS)]
    tables = [(name, row) for name, row in found if row.relkind in "rpf"]
    under_way = connection.execute(_UNDER_WAY, {"mark": MARK})
    return ExistingSchema(
        tables=frozenset(name for name, _ in tables),
        keys={name: row.key for name, row in tables if row.key},
        partitions=frozenset(name for name, row in tables if row.relispartition),
        inherited_indexes=frozenset(
            name for name, row in found if row.relkind in "iI" and row.relispartition
        ),
        under_way=frozenset((name_of(row), row.attname) for row in under_way),
    )


def name_of(row: Row[Any]) -> str:
    """Return the name of a relation that a query of this module has found."""
    return RelationName(row.name, row.schema).text


def check_partition_keys(metadata: MetaData, schema: ExistingSchema) -> None:
    """Compare the partition keys of the tables that stand.

    Raises:
        PartitionKeyDiffers: a model's is another than its table's.
    """
    for table in metadata.tables.values():
        wanted = table.dialect_options["postgresql"]["partition_by"]
        name = table_name(table)
        found = schema.keys.get(name)
        if name in schema.tables and _plain(wanted) != _plain(found):
            raise PartitionKeyDiffers(name, found=found, wanted=wanted)


def _plain(key: str | None) -> str:
    return re.sub(r"[\s\"]", "", key or "").lower()


def lists(policies: Iterable[Policy]) -> Iterator[ListPartitions]:
    """Return the policies of groups of values."""
    return (policy for policy in policies if isinstance(policy, ListPartitions))


def read_lists(connection: Connection, policies: Iterable[Policy], schema: ExistingSchema) -> Catalog:
    """Read the partitions of those LIST tables that stand."""
    return read_catalog(
        connection, [policy.table for policy in lists(policies) if policy.table in schema.keys]
    )


def regroupings(policies: Iterable[Policy], catalog: Catalog) -> Iterator[RegroupPartitionsOp]:
    """Return what makes the groups of values equal to their policies. Pure."""
    for policy in lists(policies):
        if policy.table not in catalog:
            continue
        existing = _groups(catalog[policy.table])
        new = _new_groups(policy, existing)
        if new != existing:
            yield RegroupPartitionsOp(policy.table, key=policy.key, existing=existing, new=new)


def _groups(table: PartitionedTable) -> dict[str, list[str]]:
    return {
        found.name: sorted(found.bound.values)
        for found in table.partitions
        if isinstance(found.bound, ValueList)
    }


def _new_groups(policy: ListPartitions, existing: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the groups as declared; a partition without a policy keeps the values that no policy claims."""
    claimed = frozenset().union(*policy.groups.values())
    left = {name: [value for value in values if value not in claimed] for name, values in existing.items()}
    undeclared = {name: values for name, values in left.items() if values and name not in policy.groups}
    return {name: sorted(values) for name, values in policy.groups.items()} | undeclared


def is_month(name: str, policies: Iterable[Policy]) -> bool:
    """Return whether a table is named like a month of a policy: one that was detached waits to be dropped."""
    return any(
        isinstance(policy, MonthlyRange)
        and schema_of(policy.table) == schema_of(name)
        and re.fullmatch(rf"{re.escape(bare(policy.table))}_\d{{4}}_\d{{2}}", bare(name))
        for policy in policies
    )
