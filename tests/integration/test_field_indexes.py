"""Indexes whose predicate changes, after public reports: all else of them stays, and they serve meanwhile."""

import textwrap
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    Date,
    DateTime,
    Engine,
    Enum,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    and_,
    cast,
    event,
    func,
    not_,
    or_,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from partitions.errors import ActionFailed
from partitions.migration_ops import CreateIndexOnPartitionsOp, CreatePartialIndexOp, ReplacePartialIndexOp
from partitions.migration_ops.operations import PredicateMissing
from tests.integration.operations_rig import (
    autogenerate,
    differences,
    execute,
    run,
    scratch_database,
    script_of,
)
from tests.kill_points import kill_points
from tests.psql import psql
from tests.servers import PostgresServers

pytestmark = pytest.mark.field


@pytest.fixture
def database(postgres: PostgresServers) -> Iterator[tuple[Engine, str]]:
    """Give an empty database, as an engine and as libpq's words."""
    with scratch_database(postgres, "") as found:
        yield found


@pytest.fixture
def engine(database: tuple[Engine, str]) -> Engine:
    """Give an empty database."""
    return database[0]


def run_sql(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        connection.execution_options(no_parameters=True)
        for statement in statements:
            connection.exec_driver_sql(statement)


_STANDING = text("""
    SELECT relname, concat(CASE WHEN indisunique THEN 'UNIQUE ' END,
                           regexp_replace(pg_get_indexdef(indexrelid), '^.*? USING ', '')) AS definition
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'sales'))
      AND (indisvalid OR :invalid)
""")


def definitions(engine: Engine, *, invalid: bool = False) -> dict[str, str]:
    """Return what stands behind USING of each valid index, by name; with `invalid`, of the others too."""
    with engine.connect() as connection:
        return {row.relname: row.definition for row in connection.execute(_STANDING, {"invalid": invalid})}


_PROPERTIES = text("""
    SELECT relname, obj_description(pg_class.oid), spcname, reloptions,
           ARRAY(SELECT attstattarget FROM pg_attribute WHERE attrelid = pg_class.oid ORDER BY attnum),
           pg_get_indexdef(pg_class.oid)
    FROM pg_class LEFT JOIN pg_tablespace ON pg_tablespace.oid = reltablespace
    WHERE relkind IN ('i', 'I') AND relnamespace = 'public'::regnamespace ORDER BY relname
""")


def properties(engine: Engine) -> str:
    with engine.connect() as connection:
        return "\n".join("|".join(map(str, row)) for row in connection.execute(_PROPERTIES))


ITEMS = "CREATE TABLE items (id integer, a text, b text)"


def items(*, name: str = "x", table: str = "items", schema: str | None = None, **index: Any) -> MetaData:
    metadata = MetaData()
    columns = Column("id", Integer), Column("a", Text), Column("b", Text)
    made = Table(table, metadata, *columns, schema=schema)
    Index(name, made.c.a, **index)
    return metadata


def change(engine: Engine, metadata: MetaData, *, include_schemas: bool = False) -> None:
    """Run what autogenerate renders, there, back and there; afterwards it has nothing more to render."""
    upgrade, downgrade = autogenerate(engine, metadata, include_schemas=include_schemas)
    assert "op.replace_partial_index(" in upgrade
    assert "op.drop_index" not in upgrade
    before = definitions(engine, invalid=True)
    execute(engine, upgrade)
    assert differences(engine, metadata, include_schemas=include_schemas) == []
    after = definitions(engine, invalid=True)
    assert after != before
    execute(engine, downgrade)
    assert definitions(engine, invalid=True) == before
    execute(engine, upgrade)
    assert definitions(engine, invalid=True) == after == definitions(engine)


# What stays


def test_nulls_that_are_not_distinct_stay_so(engine: Engine) -> None:
    run_sql(engine, ITEMS, "CREATE UNIQUE INDEX x ON items (a) NULLS NOT DISTINCT WHERE id > 1")
    change(engine, items(unique=True, postgresql_nulls_not_distinct=True, postgresql_where=text("id > 2")))
    assert definitions(engine) == {"x": "UNIQUE btree (a) NULLS NOT DISTINCT WHERE (id > 2)"}
    run_sql(engine, "INSERT INTO items VALUES (3, NULL)")
    with pytest.raises(Exception, match="duplicate key"):
        run_sql(engine, "INSERT INTO items VALUES (4, NULL)")


WIDE = """
    CREATE TABLE items (id integer, a text, b varchar(20), "Quantity" integer, "order" text, doc jsonb,
                        tags text[], span int4range, at timestamptz)
"""

# A definition, without its predicate.
KINDS = {
    "gin": "USING gin (doc jsonb_path_ops) WITH (fastupdate=off, gin_pending_list_limit='128')",
    "gin of two": "USING gin (tags, doc)",
    "gist": "USING gist (span) WITH (buffering=on)",
    "gist with include": "USING gist (span) INCLUDE (id, a)",
    "brin": "USING brin (id int4_minmax_multi_ops (values_per_range='16')) WITH (pages_per_range='4')",
    "hash": "USING hash (a) WITH (fillfactor='60')",
    "include": 'USING btree (a) INCLUDE ("Quantity", "order")',
    "collation": 'USING btree (a COLLATE "C", b COLLATE "POSIX" varchar_pattern_ops)',
    "order": "USING btree (id DESC, a NULLS FIRST, b DESC NULLS LAST)",
    "options": "USING btree (id) WITH (fillfactor='42', deduplicate_items=off)",
    "expression": "USING btree (lower(a), ((a || ' WHERE '::text)), ((\"Quantity\" + 1)))",
    "tricky names": 'USING btree ("Quantity", "order") INCLUDE (b)',
}


@pytest.mark.parametrize("how", ["concurrently", "plainly", "psql", "psql plainly"])
def test_only_the_predicate_changes(database: tuple[Engine, str], how: str) -> None:
    engine, conninfo = database
    run_sql(engine, WIDE)
    for kind, definition in KINDS.items():
        name = f"x {kind}"
        for statement in (
            f"CREATE INDEX \"{name}\" ON items {definition} WHERE (id > 0) OR (a = 'USING WHERE')",
            f"COMMENT ON INDEX \"{name}\" IS 'why it''s here: 100%'",
        ):
            run_sql(engine, statement)
    run_sql(engine, 'ALTER INDEX "x expression" ALTER COLUMN 2 SET STATISTICS 777')
    before = properties(engine)
    forth = [
        ReplacePartialIndexOp(
            f"x {kind}",
            table="items",
            where="(id > 7) AND (a = 'p')",
            existing_where="(id > 0) OR (a = 'USING WHERE')",
            concurrently="plainly" not in how,
        )
        for kind in KINDS
    ]
    for operations in (forth, forth, [each.reverse() for each in forth], forth):
        if "psql" in how:
            psql(conninfo, script_of(operations))
        else:
            run(engine, operations)
    after = properties(engine)
    was, becomes = "((id > 0) OR (a = 'USING WHERE'::text))", "((id > 7) AND (a = 'p'::text))"
    assert before.count(was) == len(KINDS)
    assert after == before.replace(was, becomes)


def test_index_of_all_rows_gets_a_predicate_and_loses_it(engine: Engine) -> None:
    run_sql(engine, ITEMS, "CREATE INDEX x ON items USING hash (a) WITH (fillfactor='60')")
    change(engine, items(postgresql_using="hash", postgresql_where=text("id > 2")))
    change(engine, items(postgresql_using="hash"))
    assert definitions(engine) == {"x": "hash (a) WITH (fillfactor='60')"}


def test_expressions_have_statistics_before_the_planner_needs_them(engine: Engine) -> None:
    run_sql(engine, ITEMS, "INSERT INTO items SELECT n, 'A' || n FROM generate_series(1, 99) AS n")
    run_sql(engine, "CREATE INDEX x ON items (lower(a)) WHERE id > 1", "ANALYZE items")
    run(engine, [ReplacePartialIndexOp("x", table="items", where="id > 2", concurrently=True)])
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pg_stats WHERE tablename = 'x'")) == 1


# How predicates are read

SHOP = """
    CREATE TYPE state AS ENUM ('new', 'it''s done');
    CREATE TABLE shop (id integer, a text, b varchar(20), flag boolean, price numeric(10, 2), at timestamptz,
                       day date, state state, doc jsonb, "Quantity" integer, "order" text, "50% :off" text)
"""


def shop() -> Table:
    return Table(
        "shop",
        MetaData(),
        Column("id", Integer),
        Column("a", Text),
        Column("b", String(20)),
        Column("flag", Boolean),
        Column("price", Numeric(10, 2)),
        Column("at", DateTime(timezone=True)),
        Column("day", Date),
        Column("state", Enum("new", "it's done", name="state")),
        Column("doc", JSONB),
        Column("Quantity", Integer),
        Column("order", Text),
        Column("50% :off", Text),
    )


S = shop().c
PREDICATES: dict[str, Any] = {
    "two parentheses": text("(b = 'q') AND (a = 'r')"),
    "and of ors": and_(or_(S.a == "r", S.a == "s"), or_(S.b == "q", S.id > 2)),
    "or of ands": or_(and_(S.a == "r", S.b == "s"), and_(S.b == "q", S.id > 2)),
    "parenthesis in a text": text("a = ') AND (' AND b = '(('"),
    "quotes": S.a == 'it\'s "quoted" \\ back',
    "escape string": text(r"a = E'tab\t and \'quote\''"),
    "dollar quotes": text("a = $tag$it's$tag$"),
    "colons": text(r"a = 'x\:y' OR b = '\:p' OR a = '12\:30\:45'"),
    "bound colon": S.a == ":name :: b",
    "percent": S.a.like("50%_off%%"),
    "ilike": S.a.ilike("%x%"),
    "modulo": S.id % 5 == 0,
    "in of text": S.a.in_(["r", "s", "t"]),
    "in of varchar": S.b.in_(["r", "s"]),
    "in of one": S.b.in_(["r"]),
    "not in": S.b.not_in(["r", "s"]),
    "in of integers": text("id IN (1, 2, 3)"),
    "in of enum": S.state.in_(["new", "it's done"]),
    "any": text("b = ANY (ARRAY['r', 's'])"),
    "any of a cast": text("b = ANY ('{r,s}'::varchar[])"),
    "enum": S.state == "it's done",
    "enum cast": text("state = 'new'::state"),
    "varchar": S.b == "q",
    "cast": cast(S.id, Text) == "5",
    "numeric": S.price > Decimal("10.50"),
    "numeric of integer": text("price > 10"),
    "negative": S.price < -1,
    "timestamp": S.at >= datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "timestamp with a zone": text(r"at > '2026-01-02 03\:04\:05+05'"),
    "date": text("day > DATE '2026-01-02'"),
    "interval": text("day + INTERVAL '1 day' > '2026-01-02'"),
    "flag": S.flag,
    "not flag": not_(S.flag),
    "flag is true": S.flag.is_(True),
    "flag = true": text("flag = true"),
    "is null": S.a.is_(None),
    "is not null": S.a.is_not(None),
    "is distinct from": S.a.is_distinct_from("x"),
    "between": S.id.between(3, 9),
    "function": func.lower(S.a) == "x",
    "coalesce": func.coalesce(S.a, S.b, "none") != "none",
    "case": text("CASE WHEN id > 1 THEN a = 'x' ELSE b = 'y' END"),
    "json": S.doc["k"].astext == "v",
    "json contains": text("""doc @> '{"a": "b:c"}'"""),
    "json key": text("doc ? 'k'"),
    "concatenation": S.a + S.b == "ab",
    "capitals": S.Quantity > 5,
    "word of SQL": S.order == "x",
    "odd name": S["50% :off"] == "100%",
    "table in front": text("shop.id > 5"),
    "schema in front": text("public.shop.id > 5"),
    "comment": text("id > 5 -- not the old ones"),
    "lines": text("id > 5\n  AND id < 9"),
    "letters of the world": S.a == "ärger 你好",
    "regular expression": text(r"a ~ '^\d+(\.\d+)?$'"),
    "not of or": text("NOT (id > 5 OR a = 'x')"),
    "nested to the right": text("id > 1 AND (id > 2 AND (a = 'x' OR (b = 'y')))"),
}


@pytest.fixture(scope="module")
def shop_database(postgres: PostgresServers) -> Iterator[Engine]:
    """Give a database with one table of many types."""
    with scratch_database(postgres, SHOP.replace("%", "%%"), name="shop") as (found, _):
        yield found


def declared(predicate: Any) -> MetaData:
    metadata = MetaData()
    table = shop().to_metadata(metadata)
    Index("shop_idx", table.c.id, postgresql_where=predicate)
    return metadata


@pytest.mark.parametrize("predicate", PREDICATES.values(), ids=PREDICATES.keys())
def test_predicate_is_made_found_the_same_and_changed(shop_database: Engine, predicate: Any) -> None:
    engine, metadata = shop_database, declared(predicate)
    run_sql(engine, "DROP INDEX IF EXISTS shop_idx")
    upgrade, _ = autogenerate(engine, metadata)
    execute(engine, upgrade)
    assert differences(engine, metadata) == []
    made = definitions(engine)
    # A dump prints the predicate, and what reads it in prints another one.
    run_sql(engine, "DROP INDEX shop_idx", f"CREATE INDEX shop_idx ON shop USING {made['shop_idx']}")
    assert differences(engine, metadata) == []
    forth, back = autogenerate(engine, declared(text("id = 4711")))
    assert "op.replace_partial_index(" in forth
    for code in (forth, back):
        execute(engine, code)
    assert differences(engine, metadata) == []
    execute(engine, forth)
    execute(engine, autogenerate(engine, metadata)[0])
    assert definitions(engine) == made
    for code in autogenerate(engine, shop().metadata):
        execute(engine, code)
    assert differences(engine, metadata) == []


def test_predicate_of_a_column_that_the_revision_adds(engine: Engine) -> None:
    run_sql(engine, ITEMS, "CREATE INDEX x ON items (a) WHERE id > 1")
    metadata = items(postgresql_where=text("lane = 'fast'"))
    metadata.tables["items"].append_column(Column("lane", Text))
    change(engine, metadata)


def test_expression_index_whose_predicate_changed_is_found(engine: Engine) -> None:
    run_sql(engine, WIDE, "CREATE INDEX x ON items (lower(b), (id % 10)) WHERE id > 1")
    metadata = MetaData()
    columns = Column("id", Integer), Column("b", String(20))
    table = Table("items", metadata, *columns)
    Index("x", func.lower(table.c.b), text("(id % 10)"), postgresql_where=text("id > 2"))
    upgrade, _ = autogenerate(engine, metadata)
    assert upgrade.count("op.replace_partial_index(") == 1
    assert "'x', table_name=" not in upgrade


# Names

NAMES = [
    "i" * 63,
    "i" * 62,
    "i" * 62 + "j",
    "ä" * 31,  # two bytes each
    "i" + "🙂" * 15,  # four bytes each
    "ItemsIdx",
    "select",
    "a \"b\" 50% :c 'd'",
]


@pytest.mark.parametrize("table", ["items", "OrderItems", "order", 'odd "t" % :x'])
def test_names_are_quoted_and_never_cut(database: tuple[Engine, str], table: str) -> None:
    engine, conninfo = database
    on = table.replace('"', '""')
    run_sql(engine, ITEMS.replace("items", f'"{on}"'))
    for name in NAMES:
        quoted = name.replace('"', '""')
        run_sql(engine, f'CREATE INDEX "{quoted}" ON "{on}" (a) WHERE id > 1')
    metadata = items(table=table)
    columns = metadata.tables[table]
    columns.indexes.clear()
    for name in NAMES:
        Index(name, columns.c.a, postgresql_where=text("id > 2"))
    change(engine, metadata)
    assert definitions(engine) == dict.fromkeys(NAMES, "btree (a) WHERE (id > 2)")
    again = [
        ReplacePartialIndexOp(name, table=table, where="a = ':x %'", concurrently=True) for name in NAMES
    ]
    psql(conninfo, script_of(again))
    assert definitions(engine) == dict.fromkeys(NAMES, "btree (a) WHERE (a = ':x %'::text)")


def test_another_schema_is_another_index(engine: Engine) -> None:
    run_sql(
        engine,
        ITEMS,
        "CREATE INDEX y ON items (a) WHERE id > 1",
        "CREATE SCHEMA sales",
        ITEMS.replace("items", "sales.items"),
        "CREATE INDEX x ON sales.items (a) WHERE id > 1",
    )
    metadata = items(schema="sales", postgresql_where=text("id > 2"))
    items(name="y", postgresql_where=text("id > 1")).tables["items"].to_metadata(metadata)
    change(engine, metadata, include_schemas=True)
    assert definitions(engine) == {"x": "btree (a) WHERE (id > 2)", "y": "btree (a) WHERE (id > 1)"}


def test_partial_index_in_another_schema_by_hand(engine: Engine) -> None:
    run_sql(engine, "CREATE SCHEMA sales", ITEMS.replace("items", "sales.items"))
    for concurrently in (False, True):
        create = CreatePartialIndexOp(
            "x",
            table="items",
            columns=["a"],
            where="id > 1",
            schema="sales",
            concurrently=concurrently,
        )
        run(engine, [create])
        assert definitions(engine) == {"x": "btree (a) WHERE (id > 1)"}
        run(engine, [create.reverse()])
        assert definitions(engine) == {}


# Partitioned tables

TREE = (
    ITEMS + " PARTITION BY LIST (b)",
    "CREATE TABLE items_1 PARTITION OF items FOR VALUES IN ('1')",
    "CREATE TABLE items_2 PARTITION OF items FOR VALUES IN ('2') PARTITION BY RANGE (id)",
    "CREATE TABLE items_2_low PARTITION OF items_2 FOR VALUES FROM (0) TO (10)",
    'CREATE TABLE "Items 2 high" PARTITION OF items_2 FOR VALUES FROM (10) TO (20)',
    "CREATE INDEX x ON items USING hash (a) WITH (fillfactor='60') WHERE id > 1",
    "ALTER INDEX items_1_a_idx SET (fillfactor='70')",
    "COMMENT ON INDEX items_1_a_idx IS 'of the first'",
)


def tree(where: str) -> MetaData:
    metadata = items(postgresql_using="hash", postgresql_where=text(where))
    metadata.tables["items"].dialect_options["postgresql"]["partition_by"] = "LIST (b)"
    return metadata


@pytest.mark.parametrize("how", ["concurrently", "plainly", "psql"])
def test_index_of_a_partitioned_table_is_replaced_on_each_partition(
    database: tuple[Engine, str], how: str
) -> None:
    engine, conninfo = database
    run_sql(engine, *TREE)
    before = properties(engine)
    if how == "concurrently":
        change(engine, tree("id > 2"))
    else:
        replace = ReplacePartialIndexOp("x", table="items", where="id > 2", concurrently=how == "psql")
        if how == "psql":
            psql(conninfo, script_of([replace]))
        else:
            run(engine, [replace])
    assert differences(engine, tree("id > 2")) == []
    assert properties(engine) == before.replace("id > 1", "id > 2")
    assert len(definitions(engine)) == 5


def test_partition_that_lacks_its_part_gets_one(engine: Engine) -> None:
    run_sql(
        engine,
        *TREE[:5],
        "CREATE INDEX x ON ONLY items (a) WHERE id > 1",
        "CREATE INDEX items_1_x ON items_1 (a) WHERE id > 1",
        "ALTER INDEX x ATTACH PARTITION items_1_x",
    )
    run(engine, [ReplacePartialIndexOp("x", table="items", where="id > 2", concurrently=True)])
    assert set(definitions(engine)) == {"x", "items_1_x", "items_2_x", "items_2_low_x", "Items 2 high_x"}
    assert definitions(engine) == definitions(engine, invalid=True)


def test_parts_of_long_names_are_told_apart(database: tuple[Engine, str]) -> None:
    engine, conninfo = database
    month = "items_of_a_month_with_a_name_that_is_very_long_indeed_2026_12"
    run_sql(
        engine,
        ITEMS + " PARTITION BY LIST (b)",
        f"CREATE TABLE {month} PARTITION OF items FOR VALUES IN ('1')",
    )
    create = [
        CreateIndexOnPartitionsOp("items_first_idx", table="items", columns=["a"]),
        CreateIndexOnPartitionsOp("items_second_idx", table="items", columns=["b", "a"]),
    ]
    run(engine, create)
    made = definitions(engine)
    assert len(made) == 4
    run(engine, [operation.reverse() for operation in create])
    psql(conninfo, script_of(create))
    assert definitions(engine) == made


# Killed, refused, failed


class Killed(BaseException):
    """Ends a run before one of its statements, as a kill does."""


def killed_at(engine: Engine, operation: ReplacePartialIndexOp, statement: int) -> bool:
    """Run an operation on a connection that is cut before one of its statements; false if it ended."""
    sent, here = count(), threading.get_ident()

    def cut(connection: Any, cursor: Any, *_call: object) -> None:
        # Another thread looks for who blocks it.
        if threading.get_ident() == here and next(sent) == statement:
            cursor.connection.pgconn.finish()
            raise Killed

    event.listen(engine, "before_cursor_execute", cut)
    try:
        run(engine, [operation])
    except (Killed, DBAPIError, InvalidRequestError):  # what comes of the first on a connection that is gone
        return next(sent) > statement
    finally:
        event.remove(engine, "before_cursor_execute", cut)
    return False


FORTH = ReplacePartialIndexOp("x", table="items", where="id > 2", existing_where="id > 1", concurrently=True)


@pytest.mark.kills
@pytest.mark.parametrize("then", ["id > 1", "id > 3"], ids=["back", "another"])
def test_killed_at_any_statement_an_index_serves_and_the_next_run_ends_clean(
    engine: Engine, then: str
) -> None:
    run_sql(engine, *TREE[:2], *TREE[5:], "INSERT INTO items VALUES (5, 'a', '1')")
    before = definitions(engine)
    for point in kill_points():
        if not killed_at(engine, FORTH, point):
            break
        serving = definitions(engine)
        assert {name: serving[name].replace("id > 2", "id > 1") for name in before} == before
        run(engine, [ReplacePartialIndexOp("x", table="items", where=then, concurrently=True)])
        assert definitions(engine, invalid=True) == {
            name: definition.replace("id > 1", then) for name, definition in before.items()
        }
        run(engine, [FORTH.reverse()])
        assert definitions(engine, invalid=True) == before
    assert point > 20


def test_leftover_that_is_invalid_is_built_anew(engine: Engine) -> None:
    run_sql(engine, ITEMS, "CREATE INDEX x ON items (a) WHERE id > 1")
    assert any(killed_at(engine, FORTH, statement) and leftovers(engine) for statement in range(99))
    [leftover] = leftovers(engine)
    run_sql(engine, f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{leftover}'::regclass")
    run(engine, [FORTH])
    assert definitions(engine, invalid=True) == {"x": "btree (a) WHERE (id > 2)"}


def leftovers(engine: Engine) -> set[str]:
    return set(definitions(engine, invalid=True)) - {"x"}


def test_index_that_is_invalid_itself_is_built_anew(engine: Engine) -> None:
    run_sql(
        engine,
        ITEMS,
        "CREATE INDEX x ON items (a) WHERE id > 2",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'x'::regclass",
    )
    run(engine, [ReplacePartialIndexOp("x", table="items", where="id > 2", concurrently=True)])
    assert definitions(engine) == {"x": "btree (a) WHERE (id > 2)"}


def test_duplicates_leave_the_old_index_and_nothing_else(engine: Engine) -> None:
    run_sql(
        engine,
        ITEMS,
        "CREATE UNIQUE INDEX x ON items (a) WHERE id > 5",
        "INSERT INTO items VALUES (1, 'a'), (2, 'a')",
    )
    before = definitions(engine)
    with pytest.raises(ActionFailed, match="could not create unique index"):
        run(engine, [ReplacePartialIndexOp("x", table="items", where="id > 0", concurrently=True)])
    assert definitions(engine, invalid=True) == before
    # An INVALID unique index would refuse this.
    run_sql(engine, "INSERT INTO items VALUES (3, 'a')")


REFUSED = {
    "exclusion": (
        "ALTER TABLE items ADD CONSTRAINT x EXCLUDE USING btree (a WITH =) WHERE (id > 1)",
        "x belongs to the constraint x of items: drop that first",
    ),
    "unique constraint": (
        "ALTER TABLE items ADD CONSTRAINT x UNIQUE (a)",
        "x belongs to the constraint x of items",
    ),
    "primary key": ("ALTER TABLE items ADD CONSTRAINT x PRIMARY KEY (a)", "x belongs to the constraint x"),
    "foreign key": (
        "CREATE UNIQUE INDEX x ON items (a); CREATE TABLE other (a text CONSTRAINT fk REFERENCES items (a))",
        "x belongs to the constraint fk of other",
    ),
    "replica identity": (
        "ALTER TABLE items ALTER a SET NOT NULL; CREATE UNIQUE INDEX x ON items (a);"
        "ALTER TABLE items REPLICA IDENTITY USING INDEX x",
        "x is the replica identity of public.items, which no partial index can be",
    ),
    "cluster": (
        "CREATE INDEX x ON items (a); ALTER TABLE items CLUSTER ON x",
        "x is the CLUSTER mark of public.items",
    ),
    "absent": ("SELECT", "items has no index x"),
    "of another table": (
        "CREATE TABLE other (id int); CREATE INDEX x ON other (id)",
        "items has no index x",
    ),
    "not a predicate": ("CREATE INDEX x ON items (a)", 'column "nothing" does not exist'),
}


@pytest.mark.parametrize(("made", "words"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("concurrently", [True, False])
def test_what_cannot_be_replaced_is_refused_before_anything_is_done(
    engine: Engine, made: str, words: str, concurrently: bool
) -> None:
    run_sql(engine, ITEMS, made)
    before = properties(engine)
    where = "nothing > 2" if "nothing" in words else "id > 2"
    with pytest.raises(Exception, match=words):
        run(engine, [ReplacePartialIndexOp("x", table="items", where=where, concurrently=concurrently)])
    assert properties(engine) == before


def test_part_of_a_parents_index_is_refused(engine: Engine) -> None:
    run_sql(engine, *TREE)
    with pytest.raises(ActionFailed, match="items_1_a_idx is a part of the index x: replace that one"):
        run(
            engine,
            [ReplacePartialIndexOp("items_1_a_idx", table="items_1", where="id > 2", concurrently=True)],
        )


# Indexes that are made

NEW = CreatePartialIndexOp("x", table="items", columns=["a"], where="id IN (1, 2)", concurrently=True)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("CREATE TABLE other (id int); CREATE INDEX x ON other (id)", "x exists and is no index of items"),
        ("CREATE INDEX x ON items (b)", "x exists and is not the INDEX"),
        ("CREATE INDEX x ON items (a) WHERE id > 5", "x exists and is not the INDEX"),
        ("CREATE UNIQUE INDEX x ON items (a) WHERE id IN (1, 2)", "x exists and is not the INDEX"),
        ("CREATE TABLE x (id int)", "x exists and is no index of items"),
    ],
)
def test_index_that_has_the_name_is_never_dropped(engine: Engine, made: str, words: str) -> None:
    run_sql(engine, ITEMS, made)
    before = properties(engine)
    with pytest.raises(ActionFailed, match=words):
        run(engine, [NEW])
    assert properties(engine) == before


def test_index_that_stands_is_not_built_again(engine: Engine) -> None:
    run_sql(engine, ITEMS)
    run(engine, [NEW])
    with engine.connect() as connection:
        oid = connection.scalar(text("SELECT 'x'::regclass::oid"))
        run(engine, [NEW])
        assert connection.scalar(text("SELECT 'x'::regclass::oid")) == oid
    run_sql(engine, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'x'::regclass")
    run(engine, [NEW])
    assert definitions(engine) == {"x": "btree (a) WHERE (id = ANY (ARRAY[1, 2]))"}


@pytest.mark.parametrize("where", [None, ""])
def test_partial_index_has_a_predicate(where: Any) -> None:
    with pytest.raises(PredicateMissing, match=r"index x has no predicate: use op\.create_index"):
        CreatePartialIndexOp("x", table="items", columns=["a"], where=where)


def test_script_says_what_the_revision_says() -> None:
    create = CreatePartialIndexOp("x", table="items", columns=["a"], where="a LIKE '%:x\t%%'")
    assert "WHERE a LIKE '%:x\t%%';" in script_of([create])
    assert textwrap.dedent(script_of([create])).count("%%'") == 1
