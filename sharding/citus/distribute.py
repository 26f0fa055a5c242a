"""Making tables distributed, as they are declared: what is so already is left alone."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from sqlalchemy import MetaData

from partitions.sql import identifier, literal
from sharding.citus.catalog import CitusTable
from sharding.errors import DistributionConflict
from sharding.keys import GuardedTable, guarded_tables, is_partition, is_reference

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
    local: frozenset[str] = field(default=frozenset())

    @classmethod
    def of(cls, metadata: MetaData) -> Self:
        """Return what the tables of a tree declare by their `info`; one that declares nothing stays local."""
        keyed = tuple(guarded_tables(metadata))
        whole = {name: table for name, table in metadata.tables.items() if not is_partition(table)}
        references = frozenset(name for name, table in whole.items() if is_reference(table))
        local = whole.keys() - references - {each.table for each in keyed}
        return cls(keyed=keyed, references=references, local=frozenset(local))

    def placements(self) -> Iterator["Placement"]:
        """Give what is declared, in the order in which it can be done."""
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
        """Say it to people."""
        return f"distributed by {self.key}" if self.key else "a reference table"

    def fits(self, found: CitusTable) -> bool:
        """Tell whether a table of Citus is what is declared."""
        return found.kind == ("distributed" if self.key else "reference") and found.key == self.key

    def statement(self) -> str:
        """Write the statement that places the table; nothing happens when it is placed, or is not there."""
        name = literal(identifier(self.table))
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
            raise DistributionConflict(placement.table, found=_words(found), declared=placement.words)
        if found is None and placement.table in there:
            left.append(placement)
    return left


def _words(found: CitusTable) -> str:
    return f"distributed by {found.key}" if found.kind == "distributed" else f"a {found.kind} table"
