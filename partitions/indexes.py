"""Indexes of a partitioned table, built while it is in use.

CREATE INDEX CONCURRENTLY is refused on a partitioned table (0A000): the parent's index is made ON ONLY it,
invalid, each partition's concurrently, and attached; with the last one the parent's becomes valid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from partitions.actions import Action
from partitions.sql import cut, identifier, literal, regclass
from partitions.steps import Step, Way, block, refuse_if


def index_on(partition: str, table: str, index: str) -> str:
    """Name a partition's part of an index; PostgreSQL cuts names off behind 63 bytes."""
    stem = index.removeprefix(f"{table}_")
    return cut(f"{partition}_{stem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateIndex(Action):
    """Build an index on a table and all its partitions; run again, it builds what is left.

    Parameters:
        index: its name.
        definition: what stands behind the table's name: `USING btree (partner)`.
        partitions: the partitions that lack it.
        unique: whether it is UNIQUE; PostgreSQL wants the partition key in it.
    """

    index: str
    definition: str
    partitions: tuple[str, ...]
    unique: bool = False

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        if not self.partitions:
            return f"validate index {self.index}"
        return f"create index {self.index} on {len(self.partitions)} partitions"

    def steps(self) -> tuple[Step, ...]:
        """Render the SQL."""
        kind = "UNIQUE INDEX" if self.unique else "INDEX"
        on_parent = (
            f"CREATE {kind} IF NOT EXISTS {identifier(self.index)}\n"
            f"    ON ONLY {identifier(self.table)} {self.definition}"
        )
        taken = [refuse_taken(self.index, self.table)] + [
            refuse_taken(index_on(partition, self.table, self.index), partition)
            for partition in self.partitions
        ]
        built = [step for partition in self.partitions for step in self._on(partition, kind)]
        return (Step((block(*taken), on_parent)), *built, Step((block(self._attach_again()),)))

    def _attach_again(self) -> str:
        """Let PostgreSQL look once more whether every partition has it.

        It looks at ATTACH of a part only, not when the partition that lacked one is detached.
        """
        parts = f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = {regclass(self.index)}"
        attach = literal(f"ALTER INDEX {identifier(self.index)} ATTACH PARTITION ")
        return (
            "DECLARE part text; BEGIN\n"
            f"        FOR part IN {parts} LIMIT 1\n"
            f"        LOOP EXECUTE {attach} || part; END LOOP;\n"
            "    END"
        )

    def _on(self, partition: str, kind: str) -> tuple[Step, ...]:
        part = index_on(partition, self.table, self.index)
        return (
            Step(
                (
                    f"CREATE {kind} CONCURRENTLY IF NOT EXISTS {identifier(part)}\n"
                    f"    ON {identifier(partition)} {self.definition}",
                ),
                way=Way.ALONE,
                done=is_valid(part),
                # A build that was cut off leaves its index INVALID; IF NOT EXISTS would be content with it.
                cleanup=(f"DROP INDEX CONCURRENTLY IF EXISTS {identifier(part)}",),
            ),
            Step((f"ALTER INDEX {identifier(self.index)} ATTACH PARTITION {identifier(part)}",)),
        )

    def inverse(self) -> Action:
        """Drop it everywhere."""
        return DropIndex(
            table=self.table,
            index=self.index,
            definition=self.definition,
            partitions=self.partitions,
            unique=self.unique,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DropIndex(Action):
    """Drop an index of a table and of all its partitions.

    CONCURRENTLY is refused for it (0A000): it locks everything for the moment that a drop takes.
    """

    index: str
    definition: str
    partitions: tuple[str, ...]
    unique: bool = False

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"drop index {self.index}"

    def steps(self) -> tuple[Step, ...]:
        """Render the SQL."""
        return (Step((f"DROP INDEX {identifier(self.index)}",), way=Way.EXCLUSIVE),)

    def inverse(self) -> Action:
        """Build it again."""
        return CreateIndex(
            table=self.table,
            index=self.index,
            definition=self.definition,
            partitions=self.partitions,
            unique=self.unique,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairIndex(Action):
    """Build a partition's INVALID index anew: PostgreSQL maintains it, and never reads it."""

    partition: str
    index: str

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"rebuild invalid index {self.index}"

    def steps(self) -> tuple[Step, ...]:
        """Render the SQL."""
        return (
            Step(
                (f"REINDEX INDEX CONCURRENTLY {identifier(self.index)}",),
                way=Way.ALONE,
                done=is_valid(self.index),
                cleanup=(f"DROP INDEX CONCURRENTLY IF EXISTS {identifier(self.index + '_ccnew')}",),
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DropLeftoverIndex(Action):
    """Drop what a REINDEX CONCURRENTLY left that was cut off."""

    partition: str
    index: str

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"drop leftover index {self.index}"

    def steps(self) -> tuple[Step, ...]:
        """Render the SQL."""
        return (Step((f"DROP INDEX CONCURRENTLY IF EXISTS {identifier(self.index)}",), way=Way.ALONE),)


@dataclass(frozen=True, slots=True)
class TableIndex:
    """An index of a partitioned table as it stands.

    Parameters:
        name: its name.
        definition: as CREATE INDEX has it behind the table's name; read only of an index that is not valid.
        unique: whether it is UNIQUE.
        valid: false while a partition lacks it.
        parts: the index of each partition that is attached to it, by partition.
    """

    name: str
    definition: str | None
    unique: bool
    valid: bool
    parts: Mapping[str, str] = field(default_factory=dict)


def refuse_taken(index: str, table: str) -> str:
    """Render a statement for `block`: IF NOT EXISTS is content with any relation that has the name."""
    own = f"SELECT FROM pg_index WHERE indexrelid = pg_class.oid AND indrelid = {regclass(table)}"
    taken = f"EXISTS (SELECT FROM pg_class WHERE oid = {regclass(index)} AND NOT EXISTS ({own}))"
    return refuse_if(taken, f"{index} exists and is no index of {table}: rename it, the index needs the name")


def is_valid(index: str) -> str:
    """Render the query whether an index stands and can be used."""
    return f"SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = {regclass(index)} AND indisvalid)"
