"""How a tree is placed on Citus: its tables distributed as declared, all keys owned by its coordinator."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from sqlalchemy import MetaData

from partitions.sql import literal, relation
from sharding.citus.catalog import CitusTable
from sharding.errors import DistributionConflict
from sharding.keys import GuardedTable, guarded_tables, is_partition, is_reference
from sharding.ownership import Ownership
from sharding.schema import SHARD
from sharding.shard_map import ShardMap
from sharding.topology import Topology

PROPAGATE_SET_LOCAL = "-c citus.propagate_set_commands=local"
"""For libpq's `options`: of a session that sends one statement at a time."""

MIGRATION_OPTIONS = f"{PROPAGATE_SET_LOCAL} -c citus.multi_shard_modify_mode=sequential"
"""For libpq's `options`: of a migration, which sends its frozen SQL one statement at a time.

Sequential, because a transaction that changes tables and a function of theirs is refused otherwise.
"""

LIBRARY_TABLES = frozenset(SHARD.tables)
"""The library's own tables on a shard: they stay on the coordinator."""

ALONE = "none"
"""Citus' word for a table that is in a group with no other."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How the tables of a tree are to be placed.

    Parameters:
        keyed: the tables that have a shard key; a partitioned one stands for its partitions. Those whose keys
            have one name stand together: the rows of one value are on one node.
        references: tables that are copied to every node.
        local: tables that stay on the coordinator, and are meant to.
    """

    keyed: tuple[GuardedTable, ...]
    references: frozenset[str] = field(default=frozenset())
    local: frozenset[str] = field(default=LIBRARY_TABLES)

    @classmethod
    def of(cls, metadata: MetaData) -> Self:
        """Return what the tables of a tree declare by their `info`; one that declares nothing stays local."""
        keyed = tuple(guarded_tables(metadata))
        whole = {name: table for name, table in metadata.tables.items() if not is_partition(table)}
        references = frozenset(name for name, table in whole.items() if is_reference(table))
        local = whole.keys() - references - {each.table for each in keyed}
        return cls(keyed=keyed, references=references, local=LIBRARY_TABLES | local)

    def placements(self) -> Iterator["Placement"]:
        """Yield the declared placements, in the order in which they can be made."""
        leaders: dict[str, str] = {}
        for table, key in self.keyed:
            leader = leaders.setdefault(key, table)
            yield Placement(table, key, ALONE if table == leader else leader)
        for table in sorted(self.references):
            yield Placement(table, None, None)


@dataclass(frozen=True, slots=True)
class Placement:
    """How one table is to be placed: by `key` in the group of `beside`, or with a copy on every node."""

    table: str
    key: str | None
    beside: str | None

    @property
    def words(self) -> str:
        """The placement in words, for messages."""
        return f"distributed by {self.key}" if self.key else "a reference table"

    def fits(self, found: CitusTable) -> bool:
        """Return whether a table of Citus is placed as declared."""
        return found.kind == ("distributed" if self.key else "reference") and found.key == self.key

    def statement(self) -> str:
        """Return the statement that places the table; nothing happens when it is placed, or is not there."""
        name = literal(relation(self.table))
        call = f"create_reference_table({name})"
        if self.key and self.beside:
            words = (name, literal(self.key), f"colocate_with => {literal(self.beside)}")
            call = f"create_distributed_table({', '.join(words)})"
        return (
            f"DO $citus$ BEGIN\n"
            f"    IF to_regclass({name}) IS NOT NULL AND NOT EXISTS (\n"
            f"        SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass({name})\n"
            f"    ) THEN\n"
            f"        PERFORM {call};\n"
            f"    END IF;\n"
            f"END $citus$"
        )


def missing(
    declared: Distribution, *, present: Iterable[str], placed: Mapping[str, CitusTable]
) -> list[Placement]:
    """List what is still to be done.

    Parameters:
        declared: how it should be.
        present: the tables that the database has.
        placed: the tables that Citus manages.

    Raises:
        DistributionConflict: a table is placed in another way.
    """
    there, left = set(present), []
    for placement in declared.placements():
        found = placed.get(placement.table)
        if found is not None and not placement.fits(found):
            raise DistributionConflict(placement.table, found=_kind_of(found), declared=placement.words)
        if found is None and placement.table in there:
            left.append(placement)
    return left


def _kind_of(found: CitusTable) -> str:
    return f"distributed by {found.key}" if found.kind == "distributed" else f"a {found.kind} table"


def coordinator_map(topology: Topology, tree: str) -> ShardMap:
    """Return the shard map of a coordinator: every bucket is its own, for Citus itself places the rows."""
    return ShardMap(1, (topology.coordinator_of(tree).name,) * topology.trees[tree].buckets)


def coordinator_ownership(topology: Topology, tree: str) -> Ownership:
    """Return what a coordinator owns: everything, so that its guard has nothing to refuse."""
    return Ownership.of(coordinator_map(topology, tree), topology.coordinator_of(tree).name)
