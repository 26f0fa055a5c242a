"""What can be done to partitions: each action is a value that renders its SQL, and knows what undoes it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Optional

from partitions.bounds import Bound, KeyRange, Month, ValueList, render_bound
from partitions.check_constraints import (
    ParentCheck,
    add_missing_checks,
    drop_leftover_checks,
    finalize_without_checks,
)
from partitions.detached import DetachedMark, DetachedState, clear_mark
from partitions.sql import bare, identifier, literal, relation, relation_oid
from partitions.steps import ExecutionMode, SqlStep, do_block, raise_if


@dataclass(frozen=True, slots=True, kw_only=True)
class Action(ABC):
    """Something that the executor can run.

    Parameters:
        table: the partitioned table.
        why: what makes it necessary.
    """

    table: str
    why: str = "asked for by hand"

    @property
    @abstractmethod
    def summary(self) -> str:
        """What is done, in a few words."""

    @abstractmethod
    def steps(self) -> tuple[SqlStep, ...]:
        """Return the SQL in steps. A killed run may stop between any two, and another `apply` mends that."""

    def statements(self) -> tuple[str, ...]:
        """Return the SQL without the transactions and timeouts that the executor puts around it."""
        return tuple(statement for step in self.steps() for statement in step.statements)

    def inverse(self) -> Optional["Action"]:
        """Return the action that undoes this one; None where there is nothing to undo, or no way back."""
        return None

    def _as(self, kind: type["Action"]) -> "Action":
        """Return the action of another class that has the fields of this one."""
        return kind(**{each.name: getattr(self, each.name) for each in fields(self) if each.name != "why"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateMonth(Action):
    """Create a month's partition and attach it.

    Not CREATE TABLE ... PARTITION OF: that takes ACCESS EXCLUSIVE on the parent and stops every query of it.
    ATTACH takes SHARE UPDATE EXCLUSIVE, which readers and writers do not notice.
    """

    partition: str
    key: str
    month: Month
    keys: KeyRange
    at: datetime
    tablespace: str | None = None

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"create + attach {self.month}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        # Not TABLESPACE behind the table: the setting holds for its indexes as well.
        place = () if self.tablespace is None else _in_tablespace(self.tablespace, self.table)
        create = (
            # The CHECK says what the bound says, so ATTACH scans nothing. It stays: a month that is
            # detached one day can be attached again without a scan.
            f"CREATE TABLE {relation(self.partition)} (\n"
            f"    {copy_of(self.table)},\n"
            f"    CONSTRAINT {identifier(bare(self.partition) + '_month_check')}\n"
            f"        CHECK ({self.keys.condition(self.key)})\n"
            f")"
        )
        return (SqlStep((*place, create, attach(self.table, self.partition, self.keys))),)

    def inverse(self) -> Action:
        """Detach it; it is not dropped at once, for it may have rows by now."""
        return DetachPartition(table=self.table, partition=self.partition, bound=self.keys, at=self.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachPartition(Action):
    """Attach a table that was detached, or was made by hand.

    SHARE UPDATE EXCLUSIVE on the parent. Without a CHECK that implies the bound PostgreSQL scans the table,
    which only those notice who use it by its own name.
    """

    partition: str
    bound: Bound
    at: datetime

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"attach {self.partition}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        # What DETACH CONCURRENTLY left has served ATTACH by then; the lock on the partition is ATTACH's.
        leave = (
            (do_block(drop_leftover_checks(self.table, self.partition)),)
            if isinstance(self.bound, ValueList)
            else ()
        )
        return (
            # Before that, for a valid CHECK scans the table.
            SqlStep((do_block(add_missing_checks(self.table, self.partition)),)),
            SqlStep((attach(self.table, self.partition, self.bound), *leave, clear_mark(self.partition))),
        )

    def inverse(self) -> Action:
        """Detach it."""
        return DetachPartition(table=self.table, partition=self.partition, bound=self.bound, at=self.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachPartition(Action):
    """Detach a partition concurrently: its rows are no longer in the table, and stay in a table of their own.

    SHARE UPDATE EXCLUSIVE on the parent, then a wait for every older transaction that uses it. Where that is
    refused (Citus), without `concurrently`: ACCESS EXCLUSIVE on the parent, for a moment.
    The mark comes first: on an attached partition it means nothing, and a kill in between leaves no table
    without one.
    """

    partition: str
    bound: Bound
    at: datetime
    concurrently: bool = True

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"detach {self.partition}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        mark = DetachedMark(DetachedState.DETACHED, self.table, render_bound(self.bound), self.at)
        parent, child = relation(self.table), relation(self.partition)
        if not self.concurrently:
            plain = f"ALTER TABLE {parent} DETACH PARTITION {child}"
            return (SqlStep((mark.on(self.partition), plain)),)
        return (
            SqlStep((mark.on(self.partition),)),
            SqlStep(
                (f"ALTER TABLE {parent} DETACH PARTITION {child} CONCURRENTLY",),
                mode=ExecutionMode.AUTOCOMMIT,
                done=is_detached(self.partition),
                cleanup=(_finalize_if_pending(self.table, self.partition),),
            ),
        )

    def inverse(self) -> Action:
        """Attach it again."""
        return AttachPartition(table=self.table, partition=self.partition, bound=self.bound, at=self.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalizeDetach(Action):
    """Finish a DETACH CONCURRENTLY that was cut off: until then its rows are in no query of the parent.

    Parameters:
        missing: the CHECKs that the parent has got meanwhile. PostgreSQL 18 refuses to go on with them, so
            the parent is without them for that moment, under ACCESS EXCLUSIVE.
    """

    partition: str
    bound: Bound
    at: datetime
    missing: tuple[ParentCheck, ...] = ()

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"finish pending detach of {self.partition}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        mark = DetachedMark(DetachedState.DETACHED, self.table, render_bound(self.bound), self.at)
        end, done = finalize(self.table, self.partition), is_detached(self.partition)
        if not self.missing:
            return (
                SqlStep((mark.on(self.partition),)),
                SqlStep((end,), mode=ExecutionMode.AUTOCOMMIT, done=done),
            )
        without = do_block(finalize_without_checks(self.table, self.partition, end))
        return (
            SqlStep((mark.on(self.partition),)),
            SqlStep((without,), mode=ExecutionMode.EXCLUSIVE, done=done),
            *(
                SqlStep((f"ALTER TABLE {relation(self.table)} VALIDATE CONSTRAINT {identifier(check.name)}",))
                for check in self.missing
                if check.valid
            ),
        )

    def inverse(self) -> Action:
        """Attach it again."""
        return AttachPartition(table=self.table, partition=self.partition, bound=self.bound, at=self.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddMissingChecks(Action):
    """Add to a detached table the CHECKs that its partitioned table has got meanwhile."""

    partition: str
    missing: tuple[ParentCheck, ...]

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"{self.partition}: add {', '.join(check.name for check in self.missing)}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        return (SqlStep((do_block(add_missing_checks(self.table, self.partition)),)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTable(Action):
    """Drop a table that was detached, or prepared and never attached. There is no way back.

    Looked at again under the lock: DROP would take a partition out of its parent without a word.
    """

    partition: str

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"drop {self.partition}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        name = relation(self.partition)
        is_attached = f"EXISTS (SELECT FROM pg_inherits WHERE inhrelid = {relation_oid(self.partition)})"
        look = do_block(raise_if(is_attached, f"{self.partition} is attached again: it was not dropped"))
        return (SqlStep((f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE", look, f"DROP TABLE {name}")),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyze(Action):
    """Analyze a partitioned table as a whole: autovacuum analyzes its partitions only."""

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return "analyze"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        return (SqlStep((f"ANALYZE {relation(self.table)}",), mode=ExecutionMode.AUTOCOMMIT),)


def _in_tablespace(name: str, table: str) -> tuple[str, ...]:
    """Render what puts new tables there; without the right to, PostgreSQL would not say who must give it."""
    space, named = identifier(name), literal(name)
    missing = f"NOT EXISTS (SELECT FROM pg_tablespace WHERE spcname = {named})"
    grant = f"GRANT CREATE ON TABLESPACE {space} TO the owner of {table}"
    create = f"there is no tablespace {name}: CREATE TABLESPACE {space} LOCATION '...', and {grant}"
    return (
        do_block(
            raise_if(missing, create),
            raise_if(f"NOT has_tablespace_privilege({named}, 'CREATE')", f"no right to {name}: {grant}"),
        ),
        f"SET LOCAL default_tablespace = {named}",
    )


def copy_of(table: str) -> str:
    """Render the columns, indexes and CHECKs of a partition to be, as they stand in CREATE TABLE."""
    # A partition takes identity values from its parent; one with an identity of its own cannot be attached.
    return f"LIKE {relation(table)} INCLUDING ALL EXCLUDING IDENTITY"


def attach(table: str, partition: str, bound: Bound) -> str:
    """Render ATTACH."""
    return f"ALTER TABLE {relation(table)}\n    ATTACH PARTITION {relation(partition)} {render_bound(bound)}"


def is_detached(partition: str) -> str:
    """Render the query whether a table is no partition (a pending one is still)."""
    return f"SELECT NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = {relation_oid(partition)})"


def finalize(table: str, partition: str) -> str:
    """Render the completion of a pending detach."""
    return f"ALTER TABLE {relation(table)} DETACH PARTITION {relation(partition)} FINALIZE"


def _finalize_if_pending(table: str, partition: str) -> str:
    pending = f"SELECT FROM pg_inherits WHERE inhrelid = {relation_oid(partition)} AND inhdetachpending"
    return do_block(f"IF EXISTS ({pending}) THEN\n        {finalize(table, partition)};\n    END IF")
