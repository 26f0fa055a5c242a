"""Which partition holds which values: add a value to one, split values off, merge them back, all online.

PostgreSQL cannot change a bound: the partition is detached and attached again in one short statement, under
ACCESS EXCLUSIVE on the parent. Everything that can be done before is done before, without that lock, and the
statement as a whole is bounded (`ExecutionMode.EXCLUSIVE`): on a time-out nothing has happened, and it is
tried again.
"""

from dataclasses import dataclass, field
from datetime import datetime

from partitions.actions import Action, attach, copy_of
from partitions.bounds import ValueList, render_bound
from partitions.check_constraints import (
    drop_constraint,
    drop_leftover_checks,
    drop_regroup_check,
    regroup_check_name,
)
from partitions.detached import DetachedMark, DetachedState, clear_mark
from partitions.sql import identifier, literal, relation, relation_oid, value_list
from partitions.steps import ExecutionMode, SqlStep, do_block, raise_if

Values = frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeValues(Action):
    """Change the values of a partition; no row moves."""

    key: str
    partition: str
    before: Values
    after: Values

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        added = [f"add {value}" for value in sorted(self.after - self.before)]
        removed = [f"remove {value}" for value in sorted(self.before - self.after)]
        return f"{self.partition}: {', '.join(added + removed)}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        rebind = (
            save_index_parts(self.partition),
            _detach(self.table, self.partition),
            attach(self.table, self.partition, ValueList(self.after)),
            restore_index_parts(self.partition),
            drop_leftover_checks(self.table, self.partition),
        )
        if self.before - self.after:
            # A CHECK would refuse the value from its first moment on. ATTACH looks at every row instead,
            # and refuses when one of them has it.
            return (_exclusive(*rebind),)
        return (
            *prove(self.key, self.partition, self.after),
            _exclusive(*rebind, drop_regroup_check(self.partition)),
        )

    def inverse(self) -> Action:
        """Return the change to the former values; PostgreSQL refuses it when a row has a value that goes."""
        return ChangeValues(
            table=self.table, key=self.key, partition=self.partition, before=self.after, after=self.before
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Regroup(Action):
    """What a split and a merge have in common.

    Parameters:
        key: the partition key.
        big: the partition that some values are split off from, or merged into.
        small: the partition that holds these values alone.
        kept: the values that are in `big` throughout.
        moved: the values that move.
        columns: the columns of the table; their order may differ from one partition to another.
        max_rows: how many rows may move at most, for they move while every query waits.
        indexes: CREATE INDEX statements of the indexes that `small` has beside its parent's.
        at: the current instant.
    """

    key: str
    big: str
    small: str
    kept: Values
    moved: Values
    columns: tuple[str, ...]
    max_rows: int
    at: datetime
    indexes: tuple[str, ...] = field(default=())

    @property
    def _names(self) -> str:
        return ", ".join(map(identifier, self.columns))

    def _refuse_many(self, source: str) -> str:
        some = (
            f"SELECT FROM {relation(source)} WHERE {identifier(self.key)} IN ({value_list(self.moved)}) "
            f"LIMIT {self.max_rows + 1}"
        )
        message = f"more than {self.max_rows} rows would move from {source} while every query waits"
        return raise_if(f"(SELECT count(*) FROM ({some}) AS moving) > {self.max_rows}", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPartition(_Regroup):
    """Move the rows of some values to a partition of their own."""

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"split {', '.join(sorted(self.moved))} off {self.big} into {self.small}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        small, big, values = relation(self.small), relation(self.big), value_list(self.moved)
        bound, key = ValueList(self.moved), identifier(self.key)
        check = identifier(regroup_check_name(self.small))
        return (
            SqlStep(
                (
                    f"CREATE TABLE {small} (\n"
                    f"    {copy_of(self.table)},\n"
                    f"    CONSTRAINT {check} CHECK ({key} IN ({values}))\n"
                    f")",
                    *self.indexes,
                    DetachedMark(DetachedState.PREPARED, self.table, render_bound(bound), self.at).on(
                        self.small
                    ),
                )
            ),
            _exclusive(
                save_index_parts(self.big),
                _detach(self.table, self.big),
                self._refuse_many(self.big),
                f"WITH gone AS (DELETE FROM {big} WHERE {key} IN ({values}) RETURNING {self._names})\n"
                f"    INSERT INTO {small} ({self._names}) SELECT {self._names} FROM gone",
                # This one looks at every row that stays: a CHECK beforehand would have refused the others.
                attach(self.table, self.big, ValueList(self.kept)),
                restore_index_parts(self.big),
                attach(self.table, self.small, bound),
                drop_leftover_checks(self.table, self.big),
                drop_regroup_check(self.small),
                clear_mark(self.small),
            ),
        )

    def inverse(self) -> Action:
        """Merge them back."""
        return self._as(MergePartition)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePartition(_Regroup):
    """Move all rows of a partition to another, which takes its values; the empty one is dropped."""

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"merge {self.small} into {self.big}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        both = self.kept | self.moved
        return (
            *prove(self.key, self.big, both),
            _exclusive(
                save_index_parts(self.big),
                _detach(self.table, self.big),
                _detach(self.table, self.small),
                self._refuse_many(self.small),
                f"INSERT INTO {relation(self.big)} ({self._names})\n"
                f"    SELECT {self._names} FROM {relation(self.small)}",
                f"DROP TABLE {relation(self.small)}",
                attach(self.table, self.big, ValueList(both)),
                restore_index_parts(self.big),
                drop_leftover_checks(self.table, self.big),
                drop_regroup_check(self.big),
            ),
        )

    def inverse(self) -> Action:
        """Split them off again."""
        return self._as(SplitPartition)


@dataclass(frozen=True, slots=True, kw_only=True)
class DropCheck(Action):
    """Remove a CHECK that a killed change of values left, or a detach; it would refuse later values."""

    partition: str
    name: str

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"{self.partition}: drop {self.name}"

    def steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        return (_exclusive(drop_constraint(self.partition, self.name)),)


def prove(key: str, partition: str, values: Values) -> tuple[SqlStep, ...]:
    """Render a validated CHECK: the exclusive lock does not last as long as the scan."""
    name, table = identifier(regroup_check_name(partition)), relation(partition)
    return (
        _exclusive(
            f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name},\n"
            f"    ADD CONSTRAINT {name} CHECK ({identifier(key)} IN ({value_list(values)})) NOT VALID"
        ),
        SqlStep((f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}",)),
    )


_PARTS = "mes_storage.index_parts"
"""The transaction's setting that has, by partition and index of its parent, the name of the part."""


def save_index_parts(partition: str) -> str:
    """Render a statement for `do_block`: it remembers which index is the part of which index of the parent.

    ATTACH takes the oldest index that equals the parent's, which may be one of the partition's own, or the
    part of another index. `restore_index_parts` gives the names back.
    """
    return (
        f"PERFORM set_config({literal(_PARTS)}, (\n"
        f"        coalesce(nullif(current_setting({literal(_PARTS)}, true), ''), '{{}}')::jsonb\n"
        f"        || jsonb_build_object({literal(partition)}, coalesce((\n"
        "            SELECT jsonb_object_agg(inhparent, relname) FROM pg_index\n"
        "            JOIN pg_inherits ON inhrelid = indexrelid JOIN pg_class ON pg_class.oid = indexrelid\n"
        f"            WHERE indrelid = {relation_oid(partition)}), '{{}}')))::text, true)"
    )


def restore_index_parts(partition: str) -> str:
    """Render a statement for `do_block`: it swaps the names of equal indexes where ATTACH took the other."""
    return (
        "DECLARE part record; taken record; BEGIN\n"
        "        FOR part IN SELECT key::oid AS whole, value AS name FROM jsonb_each_text(\n"
        f"            current_setting({literal(_PARTS)})::jsonb -> {literal(partition)}) LOOP\n"
        "            SELECT attached.relname, attached.oid::regclass AS attached, own.oid::regclass AS own\n"
        "            INTO taken FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid\n"
        "            JOIN pg_class AS attached ON attached.oid = indexrelid\n"
        "            JOIN pg_class AS own\n"
        "                ON own.relnamespace = attached.relnamespace AND own.relname = part.name\n"
        f"            WHERE inhparent = part.whole AND indrelid = {relation_oid(partition)};\n"
        "            CONTINUE WHEN NOT FOUND OR taken.relname = part.name;\n"
        "            EXECUTE 'ALTER INDEX ' || taken.own || ' RENAME TO mes_storage_swap';\n"
        "            EXECUTE 'ALTER INDEX ' || taken.attached || ' RENAME TO ' || quote_ident(part.name);\n"
        "            EXECUTE 'ALTER INDEX ' || taken.own::oid::regclass || ' RENAME TO '\n"
        "                || quote_ident(taken.relname);\n"
        "        END LOOP;\n"
        "    END"
    )


def _exclusive(*statements: str) -> SqlStep:
    only = statements[0] if len(statements) == 1 else do_block(*statements)
    return SqlStep((only,), mode=ExecutionMode.EXCLUSIVE)


def _detach(table: str, partition: str) -> str:
    return f"ALTER TABLE {relation(table)} DETACH PARTITION {relation(partition)}"
