"""The project's own rules for migrations, beside squawk's: what partitions want, and what Citus refuses.

Each rule is a function from a statement, and the tables that stand before it, to what is wrong with it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ops.migrate.squawk import Complaint, Node


@dataclass
class Tables:
    """The tables that earlier statements have made: the partition keys, and those that lack a primary key."""

    partition_keys: dict[str, frozenset[str]] = field(default_factory=dict)
    without_key: dict[str, str] = field(default_factory=dict)

    def learn(self, statement: Node) -> None:
        """Take note of what a statement makes."""
        table = table_of(statement)
        if table is None:
            return
        if statement.has("PRIMARY_KEY_CONSTRAINT"):
            self.without_key.pop(table, None)
        if statement.kind == "CREATE_TABLE":
            if needs_key(statement):
                self.without_key[table] = first_line(statement)
            for clause in statement.find("PARTITION_BY"):
                self.partition_keys[table] = names(clause, "PARTITION_ITEM")
        if statement.kind == "DROP_TABLE":
            for dropped in statement.find("TABLE_NAME_REF", "RELATION_NAME_REF"):
                self.without_key.pop(dropped.name, None)


Rule = Callable[[Node, Tables], Iterator[str]]


def no_open_bounds(statement: Node, _tables: Tables) -> Iterator[str]:
    """Refuse MINVALUE and MAXVALUE: they leave no room, and Citus' time_partitions crashes on them."""
    for bound in statement.find("PARTITION_FOR_VALUES_FROM"):
        if bound.has("MINVALUE_KW", "MAXVALUE_KW"):
            yield "give the partition finite bounds: MINVALUE or MAXVALUE leaves no room beside it"


def unique_has_partition_key(statement: Node, tables: Tables) -> Iterator[str]:
    """Refuse a unique key of a partitioned table without the partition key: PostgreSQL cannot check it."""
    key = tables.partition_keys.get(table_of(statement) or "")
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
    if nested or any(name in tables.partition_keys for name in attached):
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


EVERYWHERE: Mapping[str, Rule] = {
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
    for table, line in tables.without_key.items():
        yield Complaint(
            "table-has-primary-key",
            f"{table} has no primary key: replication cannot name its rows, and Citus cannot move its group",
            line,
        )
    tables.without_key.clear()


def table_of(statement: Node) -> str | None:
    """Name the table that a statement is about."""
    kinds = {"CREATE_TABLE": "TABLE_NAME", "DROP_TABLE": "TABLE_NAME_REF"}
    relation = next(statement.find(kinds.get(statement.kind, "TABLE_RELATION_NAME")), None)
    return relation.name if relation and relation.has("IDENT") else None


def needs_key(statement: Node) -> bool:
    """Whether a CREATE TABLE makes a lasting table that gets no primary key from anywhere."""
    gets_one = statement.has("PRIMARY_KEY_CONSTRAINT", "PARTITION_OF", "LIKE_CLAUSE")
    return not gets_one and not statement.has("TEMP_KW", "TEMPORARY_KW")


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
    return frozenset(part.name for part in node.find(kind) if part.has("IDENT"))


def first_line(statement: Node) -> str:
    """Show a statement by its first line."""
    return statement.text.splitlines()[0]
