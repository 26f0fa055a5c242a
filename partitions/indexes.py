"""Indexes of a partitioned table and of its partitions, built while they are in use.

CREATE INDEX CONCURRENTLY is refused on a partitioned table (0A000): the parent's index is made ON ONLY it,
invalid, each partition's concurrently, and attached; with the last one the parent's becomes valid.
"""

from dataclasses import dataclass

from partitions.actions import Action
from partitions.deparse import refuse_other
from partitions.sql import RelationName, bare, cut, identifier, literal, object_name, relation, schema_of
from partitions.steps import ExecutionMode, SqlStep, do_block, raise_if

REINDEX_SUFFIX = "_ccnew"
"""How REINDEX CONCURRENTLY names the index that it builds."""


def index_on(partition: str, table: str, index: str) -> str:
    """Return the name of a partition's part of an index."""
    return object_name(bare(partition) + suffix_of(table, index))


def suffix_of(table: str, index: str) -> str:
    """Return what the names of an index's parts have behind that of their partition."""
    return "_" + index.removeprefix(f"{bare(table)}_")


@dataclass(frozen=True, slots=True, kw_only=True)
class _IndexAction(Action):
    """An index that is made or dropped: either knows all that the other must know.

    Parameters:
        index: its name.
        definition: what stands behind the table's name: `USING btree (partner)`.
        unique: whether it is UNIQUE; on a partitioned table, PostgreSQL wants the partition key in it.
    """

    index: str
    definition: str
    unique: bool = False

    @property
    def _whole(self) -> RelationName:
        """The index of the table itself."""
        return RelationName.of(self.table).beside(self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateIndex(_IndexAction):
    """Build an index on a table and all its partitions; run again, it builds what is left.

    Parameters:
        partitions: the partitions that lack it.
    """

    partitions: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        if not self.partitions:
            return f"validate index {self.index}"
        return f"create index {self.index} on {len(self.partitions)} partitions"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        kind = "UNIQUE INDEX" if self.unique else "INDEX"
        on_parent = (
            f"CREATE {kind} IF NOT EXISTS {identifier(self.index)}\n"
            f"    ON ONLY {relation(self.table)} {self.definition}"
        )
        checks = [refusals(self.index, self.table, self.definition, unique=self.unique)]
        built: list[SqlStep] = []
        for partition in self.partitions:
            part = index_on(partition, self.table, self.index)
            check, build = build_concurrently(part, partition, self.definition, unique=self.unique)
            attach = f"ALTER INDEX {self._whole} ATTACH PARTITION {RelationName.of(partition).beside(part)}"
            checks.extend(check.statements)
            built.extend((build, SqlStep((attach,))))
        return (SqlStep((*checks, on_parent)), *built, SqlStep((do_block(self._attach_again()),)))

    def _attach_again(self) -> str:
        """Render an ATTACH that makes PostgreSQL look once more whether every partition has the index.

        It looks at ATTACH of a part only, not when the partition that lacked one is detached.
        """
        parts = f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = {self._whole.regclass}"
        attach = literal(f"ALTER INDEX {self._whole} ATTACH PARTITION ")
        return (
            "DECLARE part text; BEGIN\n"
            f"        FOR part IN {parts} LIMIT 1\n"
            f"        LOOP EXECUTE {attach} || part; END LOOP;\n"
            "    END"
        )

    def inverse(self) -> Action:
        """Drop it everywhere."""
        return self._as(DropIndex)


@dataclass(frozen=True, slots=True, kw_only=True)
class DropIndex(_IndexAction):
    """Drop an index of a table and of all its partitions.

    CONCURRENTLY is refused for it (0A000): it locks everything for the moment that a drop takes.
    """

    partitions: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"drop index {self.index}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        return (SqlStep((f"DROP INDEX {self._whole}",), mode=ExecutionMode.EXCLUSIVE),)

    def inverse(self) -> Action:
        """Build it again."""
        return self._as(CreateIndex)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePartitionIndex(_IndexAction):
    """Build an index of one partition concurrently, which its parent does not have."""

    partition: str

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"create index {self.index} on {self.partition}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        return build_concurrently(self.index, self.partition, self.definition, unique=self.unique)

    def inverse(self) -> Action:
        """Drop it."""
        return self._as(DropPartitionIndex)


@dataclass(frozen=True, slots=True, kw_only=True)
class DropPartitionIndex(_IndexAction):
    """Drop an index of one partition, concurrently."""

    partition: str

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"drop index {self.index}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        return (drop_concurrently(self.index, schema_of(self.partition)),)

    def inverse(self) -> Action:
        """Build it again."""
        return self._as(CreatePartitionIndex)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairIndex(Action):
    """Build a partition's INVALID index anew: PostgreSQL maintains it, and never reads it."""

    partition: str
    index: str

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"rebuild invalid index {self.index}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        # PostgreSQL cuts the name so that the suffix has room.
        leftover = cut(self.index, room_bytes=len(REINDEX_SUFFIX)) + REINDEX_SUFFIX
        schema = schema_of(self.partition)
        return (
            SqlStep(
                (f"REINDEX INDEX CONCURRENTLY {RelationName(self.index, schema)}",),
                mode=ExecutionMode.AUTOCOMMIT,
                done=is_valid(self.index, schema),
                cleanup=drop_concurrently(leftover, schema).statements,
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

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        return (drop_concurrently(self.index, schema_of(self.partition)),)


def build_concurrently(
    index: str, table: str, definition: str, *, unique: bool, schema: str | None = None
) -> tuple[SqlStep, SqlStep]:
    """Render the check of a name, and the build of an index that stops no writer; what stands stays.

    Parameters:
        index: its name.
        table: its table; without `schema`, the name may have one before a dot.
        definition: what stands behind the table's name.
        unique: whether it is UNIQUE.
        schema: the table's schema.
    """
    on = _named(table, schema)
    kind = "UNIQUE INDEX" if unique else "INDEX"
    return (
        SqlStep((refusals(index, table, definition, unique=unique, schema=schema),)),
        SqlStep(
            (f"CREATE {kind} CONCURRENTLY IF NOT EXISTS {identifier(index)}\n    ON {on} {definition}",),
            mode=ExecutionMode.AUTOCOMMIT,
            done=is_valid(index, on.schema),
            # A build that was cut off leaves its index INVALID; IF NOT EXISTS would be content with it.
            cleanup=drop_concurrently(index, on.schema).statements,
        ),
    )


def drop_concurrently(index: str, schema: str | None = None) -> SqlStep:
    """Render a concurrent drop of an index."""
    return SqlStep(
        (f"DROP INDEX CONCURRENTLY IF EXISTS {RelationName(index, schema)}",), mode=ExecutionMode.AUTOCOMMIT
    )


def refusals(index: str, table: str, definition: str, *, unique: bool, schema: str | None = None) -> str:
    """Render the statement that refuses a name which another relation has, or another index of the table."""
    on = _named(table, schema)
    return do_block(
        refuse_taken(index, table, schema),
        refuse_other(index, on.name, on.schema, definition, unique=unique),
    )


def _named(table: str, schema: str | None) -> RelationName:
    return RelationName.of(table) if schema is None else RelationName(table, schema)


def refuse_taken(index: str, table: str, schema: str | None = None) -> str:
    """Render a statement for `do_block`: IF NOT EXISTS is content with any relation that has the name."""
    on = _named(table, schema)
    own = f"SELECT FROM pg_index WHERE indexrelid = pg_class.oid AND indrelid = {on.regclass}"
    taken = f"EXISTS (SELECT FROM pg_class WHERE oid = {on.beside(index).regclass} AND NOT EXISTS ({own}))"
    return raise_if(taken, f"{index} exists and is no index of {table}: rename it, the index needs the name")


def is_valid(index: str, schema: str | None = None) -> str:
    """Render the query whether an index stands and can be used."""
    found = f"SELECT FROM pg_index WHERE indexrelid = {RelationName(index, schema).regclass} AND indisvalid"
    return f"SELECT EXISTS ({found})"
