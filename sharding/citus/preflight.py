"""What Citus would refuse of a schema, found before it is moved there.

Each rule was seen on Citus 13.2 with PostgreSQL 15 (docs/how-to/citus.md says how); its `reason` says what
happens there. It works on a plain shard as well: that is where it is needed.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, TextClause, text

from sharding.citus.distribute import Distribution, Placement


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A primary key, unique constraint, unique index or exclusion constraint."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key; `on_update` and `on_delete` are PostgreSQL's words, as `CASCADE`."""

    name: str
    columns: tuple[str, ...]
    to_table: str
    to_columns: tuple[str, ...]
    on_update: str = "NO ACTION"
    on_delete: str = "NO ACTION"


@dataclass(frozen=True, slots=True)
class SchemaTable:
    """A table as it stands in a database.

    Parameters:
        name: its name.
        parent: the partitioned table whose partition it is.
        is_partitioned: whether it has partitions itself.
        bound: of a partition, as PostgreSQL prints it.
        has_primary_key: or a replica identity by another key.
        unique: everything that must be unique.
        foreign: its foreign keys.
        triggers: the names of its triggers; not those of foreign keys.
        access_method: how it is stored.
    """

    name: str
    parent: str | None = None
    is_partitioned: bool = False
    bound: str | None = None
    has_primary_key: bool = True
    unique: tuple[UniqueKey, ...] = ()
    foreign: tuple[ForeignKey, ...] = ()
    triggers: tuple[str, ...] = ()
    access_method: str = "heap"


Schema = Mapping[str, SchemaTable]


@dataclass(frozen=True, slots=True)
class Objection:
    """Something that Citus would refuse, or would do badly: where, which rule, why, and the way out."""

    where: str
    rule: str
    reason: str
    fix: str


def check_schema(schema: Schema, declared: Distribution) -> list[Objection]:
    """List what Citus would refuse of the tables that are to be distributed.

    Parameters:
        schema: what stands.
        declared: how it is to be placed.
    """
    placements = {placement.table: placement for placement in declared.placements()}
    found: list[Objection] = []
    for table in schema.values():
        root = _root(schema, table)
        placement = placements.get(root.name)
        if placement is None:
            if root.name not in declared.local:
                found.append(_undeclared(table))
            continue
        subject = _Subject(table, schema.get(table.parent or ""), placement, declared.references)
        for rule in _RULES:
            found += rule(subject)
    return found


class _Subject(NamedTuple):
    """A table under a rule: its parent if it is a partition, and how its tree is to be placed."""

    table: SchemaTable
    parent: SchemaTable | None
    placement: Placement
    references: frozenset[str]


def _root(schema: Schema, table: SchemaTable) -> SchemaTable:
    while table.parent is not None and table.parent in schema:
        table = schema[table.parent]
    return table


def _undeclared(table: SchemaTable) -> Objection:
    return Objection(
        table.name,
        "undeclared",
        "it stays on the coordinator alone, and a join with a distributed table is slow or refused",
        "declare its shard key, or that it is a reference table, in its `Table.info` (sharding.keys)",
    )


def _levels(subject: _Subject) -> Iterator[Objection]:
    table = subject.table
    if table.is_partitioned and table.parent is not None:
        yield Objection(
            table.name,
            "two levels",
            "Citus distributes no partitioned table whose partitions are partitioned",
            f"make {subject.placement.table} one level deep, or two tables of it (docs/adr/001)",
        )


def _triggers(subject: _Subject) -> Iterator[Objection]:
    table = subject.table
    for name in table.triggers:
        yield Objection(
            table.name,
            "trigger",
            f"Citus refuses to distribute a table with a trigger ({name})",
            "do its work in the writer's transaction, or in a job",
        )


def _infinite_bounds(subject: _Subject) -> Iterator[Objection]:
    table = subject.table
    if table.bound and re.search(r"\b(MINVALUE|MAXVALUE)\b", table.bound):
        yield Objection(
            table.name,
            "infinite bound",
            "the view time_partitions crashes the node on MINVALUE or MAXVALUE, and all sessions end",
            f"detach it, and attach it to {subject.placement.table} with finite bounds",
        )


def _identity(subject: _Subject) -> Iterator[Objection]:
    table, key = subject.table, subject.placement.key
    if not table.has_primary_key and not table.is_partitioned and key:
        yield Objection(
            table.name,
            "no primary key",
            "without a replica identity nothing that stands with it can be moved while it is written",
            f"ALTER TABLE {table.name} ADD PRIMARY KEY (...), with {key} in it",
        )


def _cascades(subject: _Subject) -> Iterator[Objection]:
    table, shard_key = subject.table, subject.placement.key
    for key in table.foreign:
        if key.on_update in ("CASCADE", "SET NULL", "SET DEFAULT") and shard_key in key.columns:
            yield Objection(
                table.name,
                "on update cascade",
                f"{key.name} would change {shard_key}, which decides where a row is: "
                "Citus refuses such a key",
                "ON UPDATE NO ACTION: a shard key never changes",
            )


def _foreign_keys(subject: _Subject) -> Iterator[Objection]:
    table, shard_key = subject.table, subject.placement.key
    for key in table.foreign:
        if shard_key and key.to_table not in subject.references and shard_key not in key.columns:
            yield Objection(
                table.name,
                "foreign key",
                f"{key.name} goes to {key.to_table} without {shard_key}: Citus allows "
                "that to a reference table only",
                f"put {shard_key} into the key, or make {key.to_table} a reference table",
            )


def _unique(subject: _Subject) -> Iterator[Objection]:
    table, shard_key = subject.table, subject.placement.key
    # A partition has its parent's keys, which are listed once.
    listed = {key.columns for key in subject.parent.unique} if subject.parent else set()
    for key in table.unique:
        if shard_key and shard_key not in key.columns and key.columns not in listed:
            yield Objection(
                table.name,
                "unique key",
                f"{key.name} ({', '.join(key.columns)}) is without {shard_key}: each shard could only be "
                "unique in itself, so Citus refuses it",
                f"put {shard_key} into the key",
            )


_RULES: tuple[Callable[[_Subject], Iterator[Objection]], ...] = (
    _levels,
    _triggers,
    _infinite_bounds,
    _identity,
    _cascades,
    _foreign_keys,
    _unique,
)


def check_statements(statements: Iterable[str], declared: Distribution) -> list[Objection]:
    """List what Citus would refuse of statements that an application or a job uses.

    A text is not a plan: this looks for the few things that are refused whatever the plan, and for locks over
    many shards; EXPLAIN on Citus has the last word.

    Parameters:
        statements: SQL, each as it is sent.
        declared: how the tables are to be placed.
    """
    found: list[Objection] = []
    for statement in statements:
        plain = " ".join(_COMMENT.sub(" ", statement).split())
        text = _Text(plain, _STRING.sub("''", plain), declared)
        for look in (_detach, _lock_over_shards, _subquery_in_values, _lock_timeout, _key_update):
            found += look(text)
    return found


_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_STRING = re.compile(r"'(?:[^']|'')*'")
_SHOWN = 120


class _Text(NamedTuple):
    """A statement under a rule: as it is shown, as it is searched, and where the tables are.

    What stands in strings is not searched.
    """

    plain: str
    bare: str
    declared: Distribution

    @property
    def shown(self) -> str:
        return self.plain if len(self.plain) <= _SHOWN else f"{self.plain[: _SHOWN - 3]}..."

    @property
    def keys(self) -> list[str]:
        return sorted({table.key for table in self.declared.keyed})


def _detach(text: _Text) -> Iterator[Objection]:
    if re.search(r"\bDETACH PARTITION\b.*\bCONCURRENTLY\b", text.bare, re.IGNORECASE):
        yield Objection(
            text.shown,
            "detach concurrently",
            "Citus refuses DETACH PARTITION ... CONCURRENTLY",
            "a plain DETACH under a short lock_timeout",
        )


_LOCK = re.compile(r"\bFOR (NO KEY )?(UPDATE|SHARE|KEY SHARE)\b", re.IGNORECASE)
_TABLE = re.compile(r"\b(?:FROM|JOIN) (?:ONLY )?(?:\w+\.)?\"?(\w+)", re.IGNORECASE)


def _lock_over_shards(text: _Text) -> Iterator[Objection]:
    whole = text.declared.references | text.declared.local
    for lock in _LOCK.finditer(text.bare):
        query = _query_around(text.bare, lock.start())
        tables = set(_TABLE.findall(query))
        if (tables and tables <= whole) or any(_names_one_key(query, key) for key in text.keys):
            continue
        yield Objection(
            text.shown,
            "lock over shards",
            "Citus locks rows of one shard only: SELECT ... FOR UPDATE, SKIP LOCKED or not, without a shard "
            "key is refused",
            "choose the keys first, then lock each by its key",
        )


def _query_around(statement: str, position: int) -> str:
    """Cut out the query that a word belongs to: what stands in the same parentheses."""
    depth, start = 0, position
    while start > 0 and depth >= 0:
        start -= 1
        depth += (statement[start] == ")") - (statement[start] == "(")
    return statement[start:position]


def _names_one_key(query: str, key: str) -> bool:
    """Whether a value is given for the key: a parameter or a literal, and neither a subquery nor a column."""
    given = rf"\b{re.escape(key)}\"? = (?:CAST ?\( ?)?(?:\$\d|%|:\w|'|-?\d)"
    return bool(re.search(given, re.sub(r" ?= ?", " = ", query), re.IGNORECASE))


def _subquery_in_values(text: _Text) -> Iterator[Objection]:
    if re.search(r"\bINSERT INTO\b.*\bVALUES\b.*\( ?SELECT\b", text.bare, re.IGNORECASE):
        yield Objection(
            text.shown,
            "subquery in values",
            "Citus refuses a subquery in the VALUES of an INSERT into a distributed table",
            "INSERT ... SELECT, or read the value before",
        )


def _lock_timeout(text: _Text) -> Iterator[Objection]:
    if re.match(r"SET (SESSION )?lock_timeout\b", text.bare, re.IGNORECASE):
        yield Objection(
            text.shown,
            "lock_timeout",
            "it stays on the coordinator: a lock on a worker is waited for without end",
            "SET LOCAL lock_timeout in the transaction, as a statement of its own, in a session with "
            "citus.propagate_set_commands = 'local' (ours have it)",
        )


def _key_update(text: _Text) -> Iterator[Objection]:
    if not text.bare.upper().startswith("UPDATE"):
        return
    for key in text.keys:
        if re.search(rf"\bSET\b(?:(?!\bWHERE\b).)*?[\s,(]{re.escape(key)}\s*=", text.bare, re.IGNORECASE):
            yield Objection(
                text.shown,
                "key update",
                f"{key} decides where a row is, and Citus refuses to change it",
                "delete the row and insert it under its new key",
            )


def check_columnar(schema: Schema, *, written: Iterable[str]) -> list[Objection]:
    """List the tables stored by column that are still changed.

    Parameters:
        schema: what stands.
        written: tables in which rows are updated, deleted or inserted with ON CONFLICT DO UPDATE.
    """
    busy = set(written)
    return [
        Objection(
            table.name,
            "columnar",
            "a table stored by column refuses UPDATE and DELETE, and takes single rows badly",
            "SELECT alter_table_set_access_method('" + table.name + "', 'heap')",
        )
        for table in schema.values()
        if table.access_method == "columnar" and {table.name, table.parent} & busy
    ]


_OURS = """
    ours AS (
        SELECT c.* FROM pg_class c
        WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p')
          AND c.relname <> 'alembic_version'
          AND NOT EXISTS (SELECT FROM pg_depend d
                          WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    )
"""
# A partitioned table needs no key of its own to be moved: its partitions are what moves.
_TABLES = text(f"""
    WITH {_OURS}
    SELECT c.relname AS name, parent.relname AS parent, c.relkind = 'p' AS is_partitioned,
           pg_get_expr(c.relpartbound, c.oid) AS bound, coalesce(am.amname, 'heap') AS access_method,
           EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid
                   AND (x.indisprimary OR x.indisreplident)) OR c.relreplident = 'f' AS has_primary_key
    FROM ours c
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    LEFT JOIN pg_class parent ON parent.oid = i.inhparent
    LEFT JOIN pg_am am ON am.oid = c.relam
    ORDER BY 1
""")
_UNIQUE = text(f"""
    WITH {_OURS}
    SELECT c.relname AS table_name, i.relname AS name,
           ARRAY(SELECT coalesce(a.attname::text, 'an expression')
                 FROM unnest(x.indkey[0:x.indnkeyatts - 1]) AS key(number)
                 LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = key.number AND key.number > 0
                ) AS columns
    FROM ours c JOIN pg_index x ON x.indrelid = c.oid JOIN pg_class i ON i.oid = x.indexrelid
    WHERE x.indisunique OR x.indisexclusion ORDER BY 1, 2
""")
_FOREIGN = text(f"""
    WITH {_OURS}
    SELECT c.relname AS table_name, k.conname AS name, target.relname AS to_table,
           ARRAY(SELECT attname::text FROM unnest(k.conkey) AS key(number)
                 JOIN pg_attribute ON attrelid = k.conrelid AND attnum = key.number) AS columns,
           ARRAY(SELECT attname::text FROM unnest(k.confkey) AS key(number)
                 JOIN pg_attribute ON attrelid = k.confrelid AND attnum = key.number) AS to_columns,
           k.confupdtype::text AS on_update, k.confdeltype::text AS on_delete
    FROM ours c JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0
    JOIN pg_class target ON target.oid = k.confrelid ORDER BY 1, 2
""")
_TRIGGERS = text(f"""
    WITH {_OURS}
    SELECT c.relname AS table_name, t.tgname AS name
    FROM ours c JOIN pg_trigger t ON t.tgrelid = c.oid
    WHERE NOT t.tgisinternal AND t.tgname NOT LIKE 'truncate_trigger_%' ORDER BY 1, 2
""")
_ACTIONS = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def read_schema(connection: Connection) -> dict[str, SchemaTable]:
    """Read the tables of a database as `preflight.check_schema` judges them, by name."""
    unique, foreign = _by_table(connection, _UNIQUE), _by_table(connection, _FOREIGN)
    triggers = _by_table(connection, _TRIGGERS)
    return {
        row.name: SchemaTable(
            **row._mapping,
            unique=tuple(UniqueKey(each.name, tuple(each.columns)) for each in unique[row.name]),
            foreign=tuple(map(_foreign, foreign[row.name])),
            triggers=tuple(each.name for each in triggers[row.name]),
        )
        for row in connection.execute(_TABLES).all()
    }


def _by_table(connection: Connection, query: TextClause) -> dict[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(query):
        found[row.table_name].append(row)
    return found


def _foreign(row: Row[Any]) -> ForeignKey:
    return ForeignKey(
        row.name,
        tuple(row.columns),
        row.to_table,
        tuple(row.to_columns),
        on_update=_ACTIONS[row.on_update],
        on_delete=_ACTIONS[row.on_delete],
    )
