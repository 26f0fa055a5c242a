"""The project's own rules for migrations, beside squawk's: what partitions want, and what Citus refuses.

Each rule is a function from a statement, and the tables that stand before it, to what is wrong with it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ops.migrate.squawk import Complaint, Node
from partitions.sql import cut
from sharding.ownership import CHECK_NAME


class PrimaryKey(NamedTuple):
    """The name of a primary key, and its columns as far as the statement names them."""

    name: str
    columns: frozenset[str] = frozenset()


@dataclass
class Table:
    """What is known of a table.

    Parameters:
        primary_key: None without one.
        made: the revision that makes it, and the line; None where none does.
        guarded: whether it has the guard of a shard.
        partition_key: the columns; empty where it is not partitioned.
        parent: the table that it was made a partition of.
        lost_key: the line that leaves it without a primary key in this revision.
    """

    primary_key: PrimaryKey | None
    made: tuple[str, str] | None = None
    guarded: bool = True
    partition_key: frozenset[str] = frozenset()
    parent: str | None = None
    lost_key: str | None = None


@dataclass
class Tables:
    """The tables that earlier statements have made, and the revision whose statements come next."""

    known: dict[str, Table] = field(default_factory=dict)
    revision: str = ""

    def partition_key(self, name: str | None) -> frozenset[str]:
        """Return the columns of a table's partition key."""
        return self.known[name].partition_key if name in self.known else frozenset()

    def learn(self, statement: Node) -> None:
        """Take note of what a statement makes."""
        name = table_of(statement)
        if statement.kind == "DROP_TABLE":
            for dropped in statement.find("TABLE_NAME_REF", "RELATION_NAME_REF"):
                self.known.pop(dropped.name, None)
        elif name is None or is_temporary(statement):
            return
        elif statement.kind in CREATIONS:
            self.known[name] = self._make(name, statement)
            self._change(name, statement)
        elif statement.kind == "ALTER_TABLE":
            self._change(name, statement)

    def _make(self, name: str, statement: Node) -> Table:
        keyed = [self._known(source) for source in (*copied(statement, "INDEXES"), *parents(statement))]
        return Table(
            PrimaryKey(default_name(name)) if any(each.primary_key for each in keyed) else None,
            made=(self.revision, first_line(statement)),
            guarded=any(self._known(source).guarded for source in copied(statement, "CONSTRAINTS")),
            partition_key=frozenset().union(
                *(names(each, "PARTITION_ITEM") for each in statement.find("PARTITION_BY"))
            ),
            parent=next(parents(statement), None),
        )

    def _change(self, name: str, statement: Node) -> None:
        table = self.known.setdefault(name, self._known(name))
        if drops_key(statement, table.primary_key):
            table.primary_key = None
        for constraint in statement.find("PRIMARY_KEY_CONSTRAINT"):
            table.primary_key = key_of(name, constraint, statement)
        table.lost_key = None if table.primary_key else table.lost_key or first_line(statement)
        table.guarded |= CHECK_NAME in {part.name for part in statement.find("CONSTRAINT_NAME")}
        if table.primary_key:
            table.primary_key = renamed(table.primary_key, statement)
        for becomes in statement.find("TABLE_RENAME_TO"):
            self.known[becomes.name] = self.known.pop(name)

    def _known(self, name: str) -> Table:
        """Return what is known of a table; one that no revision made may have all that it needs."""
        return self.known.get(name) or Table(PrimaryKey(default_name(name)))

    def take_without_key(self) -> Iterator[tuple[str, str]]:
        """Give the tables that the revision leaves without a primary key, with the line that does; once."""
        for name, table in self.known.items():
            # A key that the whole table has got since is its partitions' as well.
            if table.lost_key and not (table.parent and self._known(table.parent).primary_key):
                yield name, table.lost_key
            table.lost_key = None


Rule = Callable[[Node, Tables], Iterator[str]]


def no_open_bounds(statement: Node, _tables: Tables) -> Iterator[str]:
    """Refuse MINVALUE and MAXVALUE: they leave no room, and Citus' time_partitions crashes on them."""
    for bound in statement.find("PARTITION_FOR_VALUES_FROM"):
        if bound.has("MINVALUE_KW", "MAXVALUE_KW"):
            yield "give the partition finite bounds: MINVALUE or MAXVALUE leaves no room beside it"


def unique_has_partition_key(statement: Node, tables: Tables) -> Iterator[str]:
    """Refuse a unique key of a partitioned table without the partition key: PostgreSQL cannot check it."""
    key = tables.partition_key(table_of(statement))
    clause = next(statement.find("PARTITION_BY"), None)
    key = names(clause, "PARTITION_ITEM") if clause else key
    if not key:
        return
    for columns in unique_keys(statement):
        if columns and not key <= columns:
            wanted = ", ".join(sorted(key - columns))
            yield f"the unique key ({', '.join(sorted(columns))}) lacks the partition key: add {wanted}"


def one_level(statement: Node, tables: Tables) -> Iterator[str]:
    """Refuse partitions of partitions: Citus does."""
    nested = statement.has("PARTITION_OF") and statement.has("PARTITION_BY")
    attached = [
        ref.name for clause in statement.find("ATTACH_PARTITION") for ref in clause.find("TABLE_NAME_REF")
    ]
    if nested or any(map(tables.partition_key, attached)):
        yield "Citus refuses partitions of partitions: keep one level, in two trees (docs/adr/001)"


def no_triggers(statement: Node, _tables: Tables) -> Iterator[str]:
    """Refuse triggers: Citus does on distributed tables."""
    if statement.kind == "CREATE_TRIGGER":
        yield "Citus refuses triggers on distributed tables: do it in the transaction of the application"


def no_update_cascade(statement: Node, _tables: Tables) -> Iterator[str]:
    """Refuse ON UPDATE CASCADE: Citus does."""
    for clause in statement.find("ON_UPDATE_ACTION"):
        if clause.has("CASCADE_KW", "CASCADE"):
            yield "Citus refuses ON UPDATE CASCADE: let keys never change"


def logged(statement: Node, _tables: Tables) -> Iterator[str]:
    """Refuse UNLOGGED: replicas do not have such a table, and after a crash it is empty."""
    if statement.has("UNLOGGED_KW") and (statement.kind in CREATIONS or statement.has("SET_UNLOGGED")):
        yield "an UNLOGGED table is on no replica, and is empty after a crash: leave it logged"


EVERYWHERE: Mapping[str, Rule] = {
    "table-is-logged": logged,
    "partition-bound-is-finite": no_open_bounds,
    "unique-key-has-partition-key": unique_has_partition_key,
}
SHARDED: Mapping[str, Rule] = {
    "citus-one-partition-level": one_level,
    "citus-no-trigger": no_triggers,
    "citus-no-update-cascade": no_update_cascade,
}
"""Rules for trees that may move to Citus."""


def check(statements: list[Node], tables: Tables, *, sharded: bool) -> Iterator[Complaint]:
    """Apply the rules to the statements of a revision.

    Parameters:
        statements: what the revision runs.
        tables: what stands before it; learns what the revision makes.
        sharded: whether the tree's databases are shards.
    """
    rules = {**EVERYWHERE, **SHARDED} if sharded else EVERYWHERE
    for statement in statements:
        for name, rule in rules.items():
            for message in rule(statement, tables):
                yield Complaint(name, message, first_line(statement))
        tables.learn(statement)
    for table, line in tables.take_without_key():
        yield Complaint(
            "table-has-primary-key",
            f"{table} has no primary key: replication cannot name its rows, and Citus cannot move its group",
            line,
        )


def unguarded(tables: Tables, wanted: Iterable[str]) -> Iterator[tuple[str, Complaint]]:
    """Complain, when all revisions are known, of tables that lack the guard of a shard; with their revisions.

    Parameters:
        tables: what the revisions make.
        wanted: the tables that have a shard key.
    """
    for name in wanted:
        table = tables.known.get(name)
        if table and table.made and not table.guarded:
            revision, line = table.made
            message = f"{name} has a shard key and no CHECK {CHECK_NAME}: it takes rows of other shards"
            yield revision, Complaint("table-has-guard", message, line)


CREATIONS = frozenset({"CREATE_TABLE", "CREATE_TABLE_AS", "SELECT_INTO"})
_NAMED_BY = dict.fromkeys(CREATIONS, "TABLE_NAME") | {"DROP_TABLE": "TABLE_NAME_REF"}


def table_of(statement: Node) -> str | None:
    """Name the table that a statement is about."""
    relation = next(statement.find(_NAMED_BY.get(statement.kind, "TABLE_RELATION_NAME")), None)
    return relation.name if relation and relation.text else None


def is_temporary(statement: Node) -> bool:
    """Whether a statement makes a table of its session alone."""
    return statement.kind in CREATIONS and statement.has("TEMP_KW", "TEMPORARY_KW")


def copied(statement: Node, what: str) -> Iterator[str]:
    """Give the tables of which a CREATE TABLE ... LIKE copies the `INDEXES`, or the `CONSTRAINTS`."""
    for clause in statement.find("LIKE_CLAUSE"):
        last = None
        for option in clause.find("INCLUDING_PROPERTY", "EXCLUDING_PROPERTY"):
            if option.has("PROPERTY_ALL", f"PROPERTY_{what}"):
                last = option.kind
        if last == "INCLUDING_PROPERTY":
            yield next(clause.find("RELATION_NAME_REF")).name


def parents(statement: Node) -> Iterator[str]:
    """Give the table that a CREATE TABLE makes a partition of: its keys come along. INHERITS brings none."""
    for clause in statement.find("PARTITION_OF"):
        yield next(clause.find("TABLE_NAME_REF")).name


def key_of(table: str, constraint: Node, statement: Node) -> PrimaryKey:
    """Return the primary key that a constraint is."""
    given = next(constraint.find("CONSTRAINT_NAME"), None)
    columns = names(constraint, "COLUMN_NAME_REF")
    for column in statement.find("COLUMN"):
        if column.has("PRIMARY_KEY_CONSTRAINT"):
            columns |= names(column, "COLUMN_NAME")
    return PrimaryKey(given.name if given else default_name(table), columns)


def drops_key(statement: Node, key: PrimaryKey | None) -> bool:
    """Whether a statement takes a primary key away, by its name or with one of its columns."""
    if key is None:
        return False
    constraints = _parts(statement, "DROP_CONSTRAINT", "CONSTRAINT_NAME_REF")
    return key.name in constraints or bool(key.columns & _parts(statement, "DROP_COLUMN", "COLUMN_NAME_REF"))


def renamed(key: PrimaryKey, statement: Node) -> PrimaryKey:
    """Return a primary key by the names that it has after a statement."""
    for clause in statement.find("RENAME_CONSTRAINT", "RENAME_COLUMN"):
        kind = clause.kind.removeprefix("RENAME_")
        was, becomes = (part.name for part in clause.find(f"{kind}_NAME_REF", f"{kind}_NAME"))
        if clause.kind == "RENAME_CONSTRAINT":
            key = key._replace(name=becomes if key.name == was else key.name)
        elif was in key.columns:
            key = key._replace(columns=key.columns - {was} | {becomes})
    return key


def _parts(statement: Node, clause: str, kind: str) -> frozenset[str]:
    return frozenset(name for each in statement.find(clause) for name in names(each, kind))


def default_name(table: str) -> str:
    """Return the name that PostgreSQL gives to a primary key without one."""
    return cut(table, room_bytes=len("_pkey")) + "_pkey"


def unique_keys(statement: Node) -> Iterator[frozenset[str]]:
    """Give the columns of every unique key that a statement makes."""
    if statement.kind == "CREATE_INDEX" and any(part.kind == "UNIQUE_KW" for part in statement.parts):
        yield names(statement, "PARTITION_ITEM")
    for column in statement.find("COLUMN"):
        if column.has("PRIMARY_KEY_CONSTRAINT", "UNIQUE_CONSTRAINT"):
            yield names(column, "COLUMN_NAME")
    for constraint in statement.find("PRIMARY_KEY_CONSTRAINT", "UNIQUE_CONSTRAINT"):
        yield names(constraint, "COLUMN_NAME_REF")


def names(node: Node, kind: str) -> frozenset[str]:
    """Give the names of a node's parts of one kind."""
    return frozenset(part.name for part in node.find(kind) if part.text)


def first_line(statement: Node) -> str:
    """Show a statement by its first line."""
    return statement.text.splitlines()[0]
