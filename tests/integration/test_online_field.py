"""Online changes of tables as they are met: used by other objects, and named in every way that SQL allows."""

import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, event

from partitions.errors import (
    ColumnInUse,
    ObjectNameTaken,
    OnlineChangeRefused,
    PartitionError,
    PreconditionFailed,
)
from partitions.online import (
    Backfill,
    Change,
    ChangeStep,
    TypeChange,
    add_foreign_key,
    add_unique,
    apply,
    backfill,
    change_type,
    read_column,
    render,
    require_not_null,
)
from partitions.sql import RelationName, identifier, object_name
from tests.integration.operations_rig import scratch_database
from tests.psql import psql
from tests.servers import PostgresServers

pytestmark = pytest.mark.field

START = """
    CREATE TABLE items (id bigint PRIMARY KEY, quantity integer NOT NULL DEFAULT 1);
    INSERT INTO items SELECT id, id % 70 FROM generate_series(1, 100) AS id
"""


@pytest.fixture
def database(postgres: PostgresServers) -> Iterator[tuple[Engine, psycopg.Connection]]:
    """Give a database with a table of items, and a superuser's connection to it."""
    with (
        scratch_database(postgres, "SELECT 1") as (engine, conninfo),
        psycopg.connect(conninfo, autocommit=True) as connection,
    ):
        connection.execute(START.encode())
        yield engine, connection


def skip_before_18(connection: psycopg.Connection, script: str = "VIRTUAL") -> None:
    words = ("VIRTUAL", "NOT NULL quantity")
    if any(word in script for word in words) and connection.info.server_version < 180_000:
        pytest.skip("NOT NULL has constraints, and columns are VIRTUAL, since PostgreSQL 18")


def rows(connection: psycopg.Connection, query: str) -> list[tuple[object, ...]]:
    return connection.execute(query.encode()).fetchall()


def ddl(connection: psycopg.Connection, script: str) -> None:
    connection.execute(script.encode())


def plan_of(engine: Engine, table: str, column: str, to: str, using: str | None = None) -> TypeChange:
    with engine.connect() as connection:
        facts = read_column(connection, table, column)
    return change_type(table, column, to, facts=facts, using=using)


def change(
    engine: Engine, table: str = "items", column: str = "quantity", to: str = "bigint", **more: str
) -> int:
    """Change a column's type from first to last; tell how many steps that took."""
    plan = plan_of(engine, table, column, to, **more)
    done = apply(engine, plan.expand)
    assert backfill(engine, plan.backfill).finished
    return len([*done, *apply(engine, plan.swap), *apply(engine, plan.contract)])


PARTITIONED = """
    DROP TABLE items;
    CREATE TABLE items (id bigint PRIMARY KEY, quantity integer DEFAULT 1) PARTITION BY RANGE (id);
    CREATE TABLE items_1 PARTITION OF items FOR VALUES FROM (0) TO (50);
    CREATE TABLE items_2 PARTITION OF items FOR VALUES FROM (50) TO (5000);
    INSERT INTO items SELECT id, id % 70 FROM generate_series(1, 100) AS id;
"""
EVERYTHING = """
    SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod),
           col_description(attrelid, attnum) FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'public'::regnamespace AND attnum > 0
    UNION ALL SELECT tgrelid::regclass::text, tgname, NULL, NULL FROM pg_trigger
    UNION ALL SELECT proname, prosrc, NULL, NULL FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    ORDER BY 1, 2, 3
"""

REFUSED = {
    "view": ("CREATE VIEW v AS SELECT id, quantity FROM items", "view v"),
    "view in a schema": (
        "CREATE SCHEMA shop; CREATE VIEW shop.v AS SELECT id FROM items WHERE quantity > 1",
        "view shop.v",
    ),
    "view of a field": ("CREATE VIEW v AS SELECT (items).quantity FROM items", "view v"),
    "materialized view": (
        "CREATE MATERIALIZED VIEW mv AS SELECT quantity FROM items",
        "materialized view mv",
    ),
    "rule that reads it": (
        "CREATE TABLE log (q integer);"
        "CREATE RULE r AS ON UPDATE TO items DO ALSO INSERT INTO log VALUES (OLD.quantity)",
        "rule r on table items",
    ),
    "rule that keeps the backfill from every row": (
        "CREATE RULE r AS ON UPDATE TO items DO INSTEAD NOTHING",
        "rule r on table items",
    ),
    "policy": (
        "ALTER TABLE items ENABLE ROW LEVEL SECURITY;CREATE POLICY few ON items USING (quantity < 100)",
        "policy few on table items",
    ),
    "policy of another table": (
        "CREATE TABLE other (id bigint);"
        "CREATE POLICY p ON other USING (id IN (SELECT id FROM items WHERE quantity > 1))",
        "policy p on table other",
    ),
    "generated column": (
        "ALTER TABLE items ADD doubled integer GENERATED ALWAYS AS (quantity * 2) STORED",
        "column doubled of table items",
    ),
    "virtual generated column": (
        "ALTER TABLE items ADD doubled integer GENERATED ALWAYS AS (quantity * 2) VIRTUAL",
        "column doubled of table items",
    ),
    "generated itself": (
        "ALTER TABLE items DROP quantity;"
        "ALTER TABLE items ADD quantity integer GENERATED ALWAYS AS (id * 2) STORED",
        "ALTER TABLE items ALTER COLUMN quantity DROP EXPRESSION",
    ),
    "identity": (
        "ALTER TABLE items ALTER quantity DROP DEFAULT;"
        "ALTER TABLE items ALTER quantity ADD GENERATED BY DEFAULT AS IDENTITY",
        "ALTER TABLE items ALTER COLUMN quantity DROP IDENTITY",
    ),
    "extended statistics": ("CREATE STATISTICS st ON id, quantity FROM items", "statistics object st"),
    "statistics of an expression": (
        "CREATE STATISTICS st ON (quantity % 3) FROM items",
        "statistics object st",
    ),
    "publication's columns": ("CREATE PUBLICATION pub FOR TABLE items (id, quantity)", "in publication pub"),
    "publication's filter": (
        "CREATE PUBLICATION pub FOR TABLE items WHERE (quantity > 1) WITH (publish = 'insert')",
        "in publication pub",
    ),
    "trigger on it": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER tr AFTER UPDATE OF quantity ON items FOR EACH ROW EXECUTE FUNCTION f()",
        "trigger tr on table items",
    ),
    "trigger's condition": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER tr AFTER UPDATE ON items FOR EACH ROW WHEN (NEW.quantity > 3) EXECUTE FUNCTION f()",
        "trigger tr on table items",
    ),
    "check": ("ALTER TABLE items ADD CONSTRAINT ck CHECK (quantity > -1)", "constraint ck on table items"),
    "exclusion": (
        "CREATE TABLE rooms (id bigint PRIMARY KEY); ALTER TABLE items ADD CONSTRAINT ex "
        "EXCLUDE USING gist (int8range(id, id + quantity * 0, '[]') WITH &&)",
        "constraint ex on table items",
    ),
    "foreign key": (
        "CREATE TABLE numbers (n integer PRIMARY KEY); INSERT INTO numbers SELECT generate_series(0, 70);"
        "ALTER TABLE items ADD CONSTRAINT fk FOREIGN KEY (quantity) REFERENCES numbers",
        "constraint fk on table items",
    ),
    "foreign key to it": (
        "UPDATE items SET quantity = id; ALTER TABLE items ADD CONSTRAINT u UNIQUE (quantity);"
        "CREATE TABLE lines (q integer CONSTRAINT fk REFERENCES items (quantity))",
        "constraint fk on table lines",
    ),
    "index's expression": ("CREATE INDEX ix ON items ((quantity + 1))", "index ix"),
    "index's condition": ("CREATE INDEX ix ON items (id) WHERE quantity > 3", "index ix"),
    "index's payload": ("CREATE INDEX ix ON items (id) INCLUDE (quantity)", "index ix"),
    "function": (
        "CREATE FUNCTION total() RETURNS bigint BEGIN ATOMIC SELECT sum(quantity) FROM items; END",
        "function total()",
    ),
    "parent": ("CREATE TABLE base (quantity integer NOT NULL); ALTER TABLE items INHERIT base", "table base"),
    "child": ("CREATE TABLE child () INHERITS (items)", "table child"),
    "typed table": (
        "CREATE TYPE it AS (id bigint, quantity integer);"
        "DROP TABLE items; CREATE TABLE items OF it (PRIMARY KEY (id))",
        "ALTER TABLE items NOT OF",
    ),
    "NOT NULL that was not checked": (
        "ALTER TABLE items ALTER quantity DROP NOT NULL; INSERT INTO items VALUES (0, NULL);"
        "ALTER TABLE items ADD CONSTRAINT nn NOT NULL quantity NOT VALID",
        "constraint nn on table items",
    ),
    "partition's view": (PARTITIONED + "CREATE VIEW v AS SELECT quantity FROM items_1", "view v"),
    "partition's index": (PARTITIONED + "CREATE INDEX ix ON items_1 (quantity)", "index ix"),
    "partition's NOT NULL": (
        PARTITIONED + "ALTER TABLE items_1 ALTER quantity SET NOT NULL",
        "NOT NULL of items_1 alone",
    ),
    "partition key": (
        "DROP TABLE items; CREATE TABLE items (id bigint, quantity integer) PARTITION BY LIST (quantity);"
        "ALTER TABLE ONLY items ADD PRIMARY KEY (id, quantity)",
        "the partition key of items",
    ),
    "partition key's expression": (
        "DROP TABLE items; CREATE TABLE items (id bigint, quantity integer) "
        "PARTITION BY LIST ((quantity % 2))",
        "the partition key of items",
    ),
    "column with the new one's name and mark": (
        "ALTER TABLE items ADD quantity_new integer;"
        "COMMENT ON COLUMN items.quantity_new IS 'mes-storage: online change: items.quantity to numeric'",
        "another change of quantity is under way",
    ),
    "function of the trigger's name": (
        "CREATE FUNCTION items_quantity_dual_write() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "items_quantity_dual_write",
    ),
}


@pytest.mark.parametrize(("script", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_what_would_be_lost_is_refused_by_name_before_the_first_change(
    database: tuple[Engine, psycopg.Connection], script: str, named: str
) -> None:
    engine, connection = database
    skip_before_18(connection, script)
    ddl(connection, script)
    before = rows(connection, EVERYTHING)
    with pytest.raises(PartitionError) as refused:
        change(engine)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert rows(connection, EVERYTHING) == before


TYPES = {
    "no type": "bigserial",
    "two": "bigint, ADD COLUMN x integer",
    "pseudo-type": "anyelement",
    "domain with a check": "small",
    "domain over a domain": "smaller",
    "domain that is not null": "there",
    "default that cannot be cast": "boolean[]",
}


@pytest.mark.parametrize("to", TYPES.values(), ids=TYPES.keys())
def test_type_that_would_rewrite_the_table_or_is_none_is_refused(
    database: tuple[Engine, psycopg.Connection], to: str
) -> None:
    engine, connection = database
    ddl(connection, "CREATE DOMAIN small AS integer CHECK (VALUE < 9); CREATE DOMAIN smaller AS small;")
    ddl(connection, "CREATE DOMAIN there AS integer NOT NULL")
    before = rows(connection, EVERYTHING)
    with pytest.raises(PartitionError) as refused:
        change(engine, to=to)
    assert "\n" not in str(refused.value)
    assert rows(connection, EVERYTHING) == before


def test_default_that_using_gives_otherwise_is_refused(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    before = rows(connection, EVERYTHING)
    with pytest.raises(PreconditionFailed, match=r"its default 1 is not what `quantity \* 100` gives of it"):
        change(engine, using="quantity * 100")
    assert rows(connection, EVERYTHING) == before
    ddl(connection, "ALTER TABLE items ALTER quantity DROP DEFAULT")
    change(engine, using="quantity * 100")
    assert rows(connection, "SELECT quantity FROM items WHERE id = 3") == [(300,)]


def test_rows_that_a_policy_hides_are_not_left_out(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    ddl(connection, "ALTER TABLE items ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    ddl(connection, "CREATE POLICY few ON items USING (id < 10)")
    ddl(
        connection,
        "DROP ROLE IF EXISTS field_owner; CREATE ROLE field_owner; ALTER TABLE items OWNER TO field_owner",
    )
    ddl(connection, "GRANT ALL ON SCHEMA public TO field_owner")

    @event.listens_for(engine, "connect")
    def _become(dbapi: psycopg.Connection, _record: object) -> None:
        dbapi.execute("SET ROLE field_owner")
        dbapi.commit()

    try:
        with pytest.raises(ColumnInUse, match="NO FORCE ROW LEVEL SECURITY"):
            change(engine)
        task = Backfill("all", table="items", assign="quantity = 5", where="true")
        with pytest.raises(OnlineChangeRefused, match="row-level security"):
            backfill(engine, task)
    finally:
        ddl(connection, "DROP OWNED BY field_owner; DROP ROLE field_owner")


def test_view_that_is_made_meanwhile_keeps_the_swap_from_its_first_step(
    postgres: PostgresServers,
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    plan = plan_of(engine, "items", "quantity", "bigint")
    apply(engine, plan.expand)
    backfill(engine, plan.backfill)
    ddl(connection, "CREATE VIEW v AS SELECT quantity FROM items")
    before = rows(connection, EVERYTHING)
    with pytest.raises(PreconditionFailed, match="make it again on the new column: view v"):
        apply(engine, plan.swap)
    with pytest.raises(subprocess.CalledProcessError):
        psql(postgres.conninfo("operations"), render(plan.swap))
    assert rows(connection, EVERYTHING) == before
    # The way back is open, to those as well who plan again now.
    apply(engine, plan_of(engine, "items", "quantity", "bigint").expand.reverse())
    ddl(connection, "DROP VIEW v")
    assert change(engine) > 0


def test_view_that_is_made_at_the_last_moment_is_seen_under_the_lock(
    postgres: PostgresServers, database: tuple[Engine, psycopg.Connection]
) -> None:
    engine, connection = database
    plan = plan_of(engine, "items", "quantity", "bigint")
    apply(engine, plan.expand)
    backfill(engine, plan.backfill)
    late = "CREATE VIEW v AS SELECT quantity FROM items"

    def make_a_view(step: ChangeStep) -> None:
        if step.summary.startswith("set"):
            ddl(connection, late)

    with pytest.raises(OnlineChangeRefused, match="on the new column: view v"):
        apply(engine, plan.swap, report=make_a_view)
    assert column_of(connection) == ("integer", True, "1")
    ddl(connection, "DROP VIEW v")
    apply(engine, plan.swap)


@pytest.mark.parametrize(
    "meanwhile",
    ["ALTER TABLE items ALTER quantity SET DEFAULT 2", "ALTER TABLE items ALTER quantity DROP NOT NULL"],
)
def test_default_that_is_changed_meanwhile_is_planned_again(
    database: tuple[Engine, psycopg.Connection], meanwhile: str
) -> None:
    engine, connection = database
    plan = plan_of(engine, "items", "quantity", "bigint")
    apply(engine, plan.expand)
    backfill(engine, plan.backfill)
    ddl(connection, meanwhile)
    _, not_null, default = column_of(connection)
    with pytest.raises(PreconditionFailed, match="plan again"):
        apply(engine, plan.swap)
    apply(engine, plan_of(engine, "items", "quantity", "bigint").swap)
    assert column_of(connection) == ("bigint", not_null, f"({default})::bigint")


def test_objects_of_the_application_that_writes_both_stay(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    ddl(connection, "GRANT UPDATE (quantity) ON items TO public")
    with engine.connect() as reader:
        facts = read_column(reader, "items", "quantity")
    plan = change_type("items", "quantity", "bigint", facts=facts, dual_write="application")
    apply(engine, plan.expand)
    granted = "SELECT attacl IS NOT NULL FROM pg_attribute WHERE attname = 'quantity_new'"
    assert rows(connection, granted) == [(True,)]
    ddl(
        connection,
        "CREATE FUNCTION items_quantity_dual_write() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.quantity_new := NEW.quantity; RETURN NEW; END'; CREATE TRIGGER items_quantity_dual_write "
        "BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION items_quantity_dual_write()",
    )
    backfill(engine, plan.backfill)
    apply(engine, plan.swap)
    assert rows(connection, "SELECT proname FROM pg_proc WHERE proname LIKE 'items%'") == [
        ("items_quantity_dual_write",)
    ]


def test_application_that_writes_one_column_alone_is_found_out(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    with engine.connect() as reader:
        facts = read_column(reader, "items", "quantity")
    plan = change_type("items", "quantity", "bigint", facts=facts, dual_write="application")
    apply(engine, plan.expand)
    backfill(engine, plan.backfill)
    ddl(connection, "UPDATE items SET quantity = 69 WHERE id = 5")
    with pytest.raises(PreconditionFailed, match="something wrote quantity alone"):
        apply(engine, plan.swap)


def test_partition_has_a_trigger_that_writes_the_column(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    ddl(connection, PARTITIONED)
    ddl(connection, CLAMP.format("zzz_clamp").replace("ON items", "ON items_1"))
    plan = plan_of(engine, "items", "quantity", "bigint")
    apply(engine, plan.expand)
    ddl(connection, "INSERT INTO items VALUES (0, 66), (1000, 66)")
    backfill(engine, plan.backfill)
    apply(engine, plan.swap)
    assert rows(connection, "SELECT id, quantity FROM items WHERE id IN (0, 1000) ORDER BY id") == [
        (0, 10),
        (1000, 66),
    ]


def test_trigger_that_is_made_meanwhile_is_named(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    plan = plan_of(engine, "items", "quantity", "bigint")
    apply(engine, plan.expand)
    ddl(connection, CLAMP.format("z_clamp"))
    ddl(connection, "INSERT INTO items VALUES (1000, 66)")
    backfill(engine, plan.backfill)
    with pytest.raises(PreconditionFailed, match="trigger z_clamp on table items"):
        apply(engine, plan.swap)
    ddl(connection, "ALTER TRIGGER z_clamp ON items RENAME TO clamp")
    with pytest.raises(
        PreconditionFailed, match="quantity_new is not what quantity gives in every row"
    ) as wrong:
        apply(engine, plan.swap)
    ddl(connection, str(wrong.value).partition("; ")[2].partition(", then")[0])
    assert backfill(engine, plan.backfill).finished
    apply(engine, plan.swap)
    assert rows(connection, "SELECT quantity FROM items WHERE id = 1000") == [(10,)]


@pytest.mark.parametrize(
    "meanwhile",
    [
        "ALTER TABLE items DISABLE TRIGGER ALL",
        "SET session_replication_role = replica; ALTER TABLE items DISABLE TRIGGER ALL;"
        "UPDATE items SET quantity = 7; ALTER TABLE items ENABLE ALWAYS TRIGGER items_quantity_dual_write",
        "ALTER TABLE items RENAME quantity TO q; ALTER TABLE items ADD quantity integer DEFAULT 7",
    ],
)
def test_swap_is_refused_when_the_new_column_is_behind(
    database: tuple[Engine, psycopg.Connection], meanwhile: str
) -> None:
    engine, connection = database
    plan = plan_of(engine, "items", "quantity", "bigint")
    apply(engine, plan.expand)
    backfill(engine, plan.backfill)
    ddl(connection, meanwhile)
    with pytest.raises(PreconditionFailed):
        apply(engine, plan.swap)
    apply(engine, plan.expand.reverse())
    assert rows(connection, "SELECT FROM pg_attribute WHERE attname = 'quantity_new'") == []


def test_rows_of_a_subscription_are_written_as_well(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    plan = plan_of(engine, "items", "quantity", "bigint")
    apply(engine, plan.expand)
    backfill(engine, plan.backfill)
    ddl(connection, "SET session_replication_role = replica; UPDATE items SET quantity = 7 WHERE id = 1")
    apply(engine, plan.swap)
    assert rows(connection, "SELECT quantity FROM items WHERE id = 1") == [(7,)]


def test_names_that_are_alike_in_63_bytes_are_two_constraints(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    columns = ["c" * 59 + "_one", "c" * 59 + "_two"]
    for column in columns:
        ddl(connection, f"ALTER TABLE items ADD {column} integer")
        assert len(apply(engine, add_unique("items", [column]))) == 2
        assert apply(engine, add_unique("items", [column])) == []
    assert uniques(connection) == {f"UNIQUE ({column})" for column in columns}


def uniques(connection: psycopg.Connection) -> set[str]:
    found = rows(
        connection,
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE contype = 'u' AND connamespace = 'public'::regnamespace",
    )
    return {str(definition) for (definition,) in found}


def test_index_of_that_name_on_another_column_is_left_alone(
    postgres: PostgresServers,
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    ddl(connection, "ALTER TABLE items ADD serial integer, ADD b integer")
    ddl(connection, "CREATE UNIQUE INDEX items_serial_key ON items (b)")
    with pytest.raises(subprocess.CalledProcessError):
        psql(postgres.conninfo("operations"), render(add_unique("items", ["serial"])))
    assert uniques(connection) == set()
    assert len(apply(engine, add_unique("items", ["serial"]))) == 2
    assert uniques(connection) == {"UNIQUE (serial)"}
    assert apply(engine, add_unique("items", ["serial"])) == []
    with pytest.raises(PartitionError, match="items_serial_key"):
        apply(engine, add_unique("items", ["serial"], name="items_serial_key"))


def test_constraint_of_a_column_that_was_renamed_is_another(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    ddl(connection, "ALTER TABLE items ADD serial integer")
    apply(engine, add_unique("items", ["serial"]))
    ddl(connection, "ALTER TABLE items RENAME serial TO past; ALTER TABLE items ADD serial integer")
    assert len(apply(engine, add_unique("items", ["serial"]))) == 2
    assert uniques(connection) == {"UNIQUE (past)", "UNIQUE (serial)"}
    apply(engine, add_unique("items", ["serial"]).reverse())
    assert uniques(connection) == {"UNIQUE (past)"}


@pytest.mark.parametrize("column", ["q" * 62, "q" * 63, "ж" * 31, "a" + "ж" * 31])
def test_column_with_a_long_name(database: tuple[Engine, psycopg.Connection], column: str) -> None:
    engine, connection = database
    ddl(connection, f"ALTER TABLE items RENAME quantity TO {column}")
    before = rows(connection, "SELECT * FROM items ORDER BY id")
    assert change(engine, column=column) > 0
    ddl(connection, "INSERT INTO items (id) VALUES (1000)")
    assert column_of(connection, column) == ("bigint", True, "(1)::bigint")
    assert rows(connection, "SELECT * FROM items WHERE id < 1000 ORDER BY id") == before


def column_of(
    connection: psycopg.Connection, column: str = "quantity", table: str = "items"
) -> tuple[object, ...]:
    query = sql.SQL(
        "SELECT format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid) FROM pg_attribute "
        "LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
        "WHERE attrelid = {}::regclass AND attname = {}"
    ).format(sql.Literal(identifier(table)), sql.Literal(column))
    [found] = connection.execute(query).fetchall()
    return tuple(found)


def test_serial_column_keeps_its_sequence(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    ddl(connection, "CREATE TABLE lines (id bigint PRIMARY KEY, number serial)")
    ddl(connection, "INSERT INTO lines SELECT id FROM generate_series(1, 9) AS id")
    change(engine, "lines", "number")
    ddl(connection, "INSERT INTO lines VALUES (10)")
    assert rows(connection, "SELECT max(number), pg_get_serial_sequence('lines', 'number') FROM lines") == [
        (10, "public.lines_number_seq")
    ]
    assert rows(connection, "SELECT data_type::text FROM pg_sequences") == [("bigint",)]


CLAMP = """
    CREATE FUNCTION clamp() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN NEW.quantity := least(NEW.quantity, 10); RETURN NEW; END$$;
    CREATE TRIGGER {} BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION clamp()
"""


@pytest.mark.parametrize("name", ["z_clamp", "~~~~~~", "items_quantity_dual_write_", "ярлык", "a", "z" * 63])
def test_trigger_that_writes_the_column_is_heard(
    database: tuple[Engine, psycopg.Connection], name: str
) -> None:
    engine, connection = database
    ddl(connection, CLAMP.format(f'"{name}"'))
    plan = plan_of(engine, "items", "quantity", "bigint")
    apply(engine, plan.expand)
    ddl(connection, "INSERT INTO items VALUES (1000, 66)")
    assert backfill(engine, plan.backfill).finished
    apply(engine, plan.swap)
    found = rows(connection, "SELECT quantity, quantity_old FROM items WHERE id = 1000")
    assert found == [(10, 10)]
    assert rows(connection, "SELECT FROM items WHERE quantity IS DISTINCT FROM quantity_old") == []


CARRIED = {
    "comment": (
        "COMMENT ON COLUMN items.quantity IS E'how\\nmany: 100%'",
        "SELECT col_description(attrelid, attnum) FROM pg_attribute WHERE {}",
    ),
    "statistics target": (
        "ALTER TABLE items ALTER quantity SET STATISTICS 500",
        "SELECT attstattarget FROM pg_attribute WHERE {}",
    ),
    "no statistics": (
        "ALTER TABLE items ALTER quantity SET STATISTICS 0",
        "SELECT attstattarget FROM pg_attribute WHERE {}",
    ),
    "n_distinct": (
        "ALTER TABLE items ALTER quantity SET (n_distinct = -0.5, n_distinct_inherited = 9)",
        "SELECT o FROM pg_attribute, unnest(attoptions) AS o WHERE {} AND o LIKE 'n_distinct%' ORDER BY 1",
    ),
    "privileges of all": (
        "GRANT SELECT (quantity), REFERENCES (quantity) ON items TO public",
        "SELECT attacl::text FROM pg_attribute WHERE {}",
    ),
    "default": (
        "CREATE FUNCTION next_one() RETURNS integer LANGUAGE sql AS 'SELECT 8';"
        "ALTER TABLE items ALTER quantity SET DEFAULT next_one() + 1",
        "SELECT pg_get_expr(adbin, adrelid) LIKE '%next_one() + 1%' FROM pg_attrdef WHERE adrelid = "
        "'items'::regclass",
    ),
    "no default": (
        "ALTER TABLE items ALTER quantity DROP DEFAULT, ALTER quantity DROP NOT NULL",
        "SELECT atthasdef, attnotnull FROM pg_attribute WHERE {}",
    ),
    "name of NOT NULL": (
        "ALTER TABLE items ALTER quantity DROP NOT NULL;"
        "ALTER TABLE items ADD CONSTRAINT there NOT NULL quantity",
        "SELECT conname FROM pg_constraint WHERE conrelid = 'items'::regclass AND contype = 'n' ORDER BY 1",
    ),
    "sequence of its own": (
        "CREATE SEQUENCE numbers OWNED BY items.quantity",
        "SELECT refobjid::regclass::text, attname FROM pg_depend JOIN pg_attribute ON attrelid = refobjid "
        "AND attnum = refobjsubid WHERE objid = 'numbers'::regclass AND deptype = 'a'",
    ),
    "whole rows": (
        "CREATE VIEW whole AS SELECT items FROM items; CREATE VIEW counted AS SELECT count(*) FROM items",
        "SELECT (items).quantity::text, count FROM whole, counted WHERE (items).id = 3",
    ),
    "column of the new one's name": (
        "ALTER TABLE items ADD quantity_new text DEFAULT 'mine', ADD quantity_old text DEFAULT 'mine'",
        "SELECT DISTINCT quantity_new, quantity_old FROM items",
    ),
    "check of the same name": (
        "ALTER TABLE items ADD CONSTRAINT items_quantity_new_not_null_check CHECK (id IS NOT NULL)",
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c' "
        "AND conrelid = 'items'::regclass",
    ),
}


@pytest.mark.parametrize(("script", "query"), CARRIED.values(), ids=CARRIED.keys())
def test_what_the_column_has_goes_over(
    database: tuple[Engine, psycopg.Connection], script: str, query: str
) -> None:
    engine, connection = database
    skip_before_18(connection, script)
    ddl(connection, script)
    query = query.replace("{}", "attrelid = 'items'::regclass AND attname = 'quantity'")
    before = rows(connection, query)
    assert before
    change(engine)
    assert rows(connection, query) == before
    assert change(engine) == 0


def test_texts_keep_storage_and_collation(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    ddl(connection, 'ALTER TABLE items ADD note text COLLATE "C"')
    ddl(connection, "ALTER TABLE items ALTER note SET STORAGE EXTERNAL, ALTER note SET COMPRESSION pglz")
    query = (
        "SELECT attcollation::regcollation::text, attstorage, attcompression FROM pg_attribute "
        "WHERE attrelid = 'items'::regclass AND attname = 'note'"
    )
    before = rows(connection, query)
    change(engine, column="note", to="varchar(20)")
    assert rows(connection, query) == before == [('"C"', "e", "p")]
    change(engine, column="note", to="bytea", using="convert_to(note, 'UTF8')")
    assert rows(connection, query) == [(None, "e", "p")] or rows(connection, query)[0][1:] == ("e", "p")
    change(engine, column="note", to="integer", using="length(note)")
    assert rows(connection, query)[0][1:] == ("p", "")


def test_each_partition_keeps_its_own(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    ddl(connection, PARTITIONED)
    ddl(
        connection,
        "ALTER TABLE items_1 ALTER quantity SET DEFAULT 5; COMMENT ON COLUMN items_2.quantity IS 'q'",
    )
    ddl(
        connection,
        "GRANT SELECT (quantity) ON items_1 TO public; ALTER TABLE items_2 ALTER quantity SET STATISTICS 7",
    )
    ddl(connection, "CREATE TABLE other (quantity integer DEFAULT 3, z text, id bigint NOT NULL);")
    ddl(connection, "ALTER TABLE other DROP z")
    ddl(connection, "ALTER TABLE items ATTACH PARTITION other FOR VALUES FROM (5000) TO (6000)")
    query = (
        "SELECT attrelid::regclass::text, attacl::text, attstattarget, col_description(attrelid, attnum), "
        "substring(pg_get_expr(adbin, adrelid) FROM '[0-9]+') FROM pg_attribute LEFT JOIN pg_attrdef "
        "ON adrelid = attrelid AND adnum = attnum WHERE attname = 'quantity' ORDER BY 1"
    )
    before = rows(connection, query)
    assert len(before) == 4
    change(engine)
    assert rows(connection, query) == before


@pytest.mark.parametrize("to", ["json", "point[]", "jsonb", "bytea"])
def test_type_without_an_equals_sign(database: tuple[Engine, psycopg.Connection], to: str) -> None:
    engine, connection = database
    ddl(
        connection,
        "CREATE TABLE notes (id bigint PRIMARY KEY, note text); INSERT INTO notes VALUES (1, NULL)",
    )
    change(engine, "notes", "note", to)
    assert column_of(connection, "note", "notes")[0] == to
    assert change(engine, "notes", "note", to) == 0


def test_primary_key_that_includes_a_column_is_gone_along_by_its_key(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    ddl(connection, "ALTER TABLE items ADD extra integer; ALTER TABLE items DROP CONSTRAINT items_pkey")
    ddl(connection, "ALTER TABLE items ADD PRIMARY KEY (id) INCLUDE (extra)")
    plan = plan_of(engine, "items", "quantity", "bigint")
    apply(engine, plan.expand)
    assert backfill(engine, plan.backfill, batch_rows=7).rows_written == 100


def test_grants_on_the_column_are_there_afterwards(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    ddl(connection, "DROP ROLE IF EXISTS field_app; CREATE ROLE field_app")
    try:
        ddl(connection, "GRANT SELECT (id), UPDATE (quantity) ON items TO field_app WITH GRANT OPTION")
        ddl(connection, "GRANT SELECT (quantity) ON items TO public")
        granted = (
            "SELECT array_agg(acl::text ORDER BY acl::text) FROM pg_attribute, unnest(attacl) AS acl "
            "WHERE attrelid = 'items'::regclass AND NOT attisdropped"
        )
        before = rows(connection, granted)
        change(engine)
        assert rows(connection, granted) == before
        ddl(connection, "SET ROLE field_app; UPDATE items SET quantity = 3 WHERE id = 1; RESET ROLE")
    finally:
        ddl(connection, "RESET ROLE; DROP OWNED BY field_app; DROP ROLE field_app")


SPELLINGS = [
    ("bigint", "int8"),
    ("int8", "pg_catalog.int8"),
    ("int8", "BIGINT"),
    ("varchar(10)", "character varying (10)"),
    ("timestamptz", "timestamp with time zone"),
    ("timestamptz(3)", "TIMESTAMP (3) WITH TIME ZONE"),
    ("numeric(12)", "decimal(12, 0)"),
    ("char", "character(1)"),
    ("float", "double precision"),
    ("float(10)", "float4"),
    ("int8[]", "bigint[]"),
    ("time", "time without time zone"),
    ("bit", "bit(1)"),
    ("varbit(8)", "bit varying(8)"),
    ("bool", "pg_catalog.bool"),
    ('"char"', 'pg_catalog."char"'),
    ("mood", "public.mood"),
    ("shop.mood", 'shop."mood"'),
]


@pytest.mark.parametrize(("kind", "spelling"), SPELLINGS)
def test_type_that_is_there_is_known_however_it_is_spelt(
    database: tuple[Engine, psycopg.Connection], kind: str, spelling: str
) -> None:
    engine, connection = database
    ddl(connection, "CREATE SCHEMA shop; CREATE TYPE mood AS ENUM ('a'); CREATE TYPE shop.mood AS ENUM ('a')")
    ddl(connection, "CREATE TABLE bare (id bigint PRIMARY KEY, was text)")
    assert change(engine, "bare", "was", kind) > 0
    ddl(connection, "CREATE VIEW later AS SELECT was FROM bare")
    assert change(engine, "bare", "was", spelling) == 0
    assert change(engine, "bare", "was", kind) == 0


HOSTILE = [
    ("items", "order"),
    ("OrderItems", "Quantity"),
    ('"OrderItems"', "values"),
    ("user", "user"),
    ("public.Lines", "found"),
    ('shop."a.b"', "c.d"),
    ("two words", "it's"),
    ("100% of %s", "%(x)s %%"),
    (":name", "a:b::c"),
    ("back\\slash", "tab\\:x"),
    ('"say ""x"""', 'say "y"'),
    ("$$", "$copy$"),
    ("позиции заказа", "количество"),
    ("т" * 31, "к" * 31),
]


@pytest.mark.parametrize(("table", "column"), HOSTILE)
def test_every_name_works(
    postgres: PostgresServers, database: tuple[Engine, psycopg.Connection], table: str, column: str
) -> None:
    engine, connection = database
    ddl(connection, "DROP TABLE items; CREATE SCHEMA shop")
    name, quoted = str(RelationName.of(table)), identifier(column)
    ddl(connection, f"CREATE TABLE {name} (id bigint PRIMARY KEY, {quoted} integer DEFAULT 1)")
    ddl(connection, f"INSERT INTO {name} SELECT id, id FROM generate_series(1, 100) AS id")
    plan = plan_of(engine, table, column, "bigint")
    psql(postgres.conninfo("operations"), render(plan.expand))
    backfill(engine, plan.backfill, batch_rows=30)
    psql(postgres.conninfo("operations"), render(plan.swap) + render(plan.contract))
    ddl(connection, f"ALTER TABLE {name} ALTER {quoted} SET DEFAULT 1")
    changes = [
        require_not_null(table, column),
        add_unique(table, [column]),
        add_foreign_key(table, [column], references=table, referenced=["id"]),
    ]
    for each in changes:
        assert apply(engine, each)
        assert apply(engine, each) == []
    for each in reversed(changes):
        assert apply(engine, each.reverse())
        assert apply(engine, each.reverse()) == []
    psql(postgres.conninfo("operations"), "".join(map(render, changes)))
    assert [apply(engine, each) for each in changes] == [[], [], []]
    for each in reversed(changes[1:]):
        apply(engine, each.reverse())
    assert change(engine, table, column, "numeric(12)") > 0
    assert change(engine, table, column, "decimal(12,0)") == 0
    ddl(connection, f"INSERT INTO {name} (id) VALUES (1000)")
    total = rows(connection, f"SELECT sum({quoted}), count(*), pg_typeof(min({quoted}))::text FROM {name}")
    assert total == [(5051, 101, "numeric")]


def test_schema_of_the_table_counts_and_not_the_first_of_the_path(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    ddl(connection, "CREATE SCHEMA a; CREATE TABLE a.other (x integer CONSTRAINT items_quantity_key UNIQUE)")
    ddl(connection, "ALTER ROLE CURRENT_USER IN DATABASE operations SET search_path = a, public")
    ddl(connection, "UPDATE items SET quantity = id")
    plan = plan_of(engine, "items", "quantity", "bigint")
    apply(engine, plan.expand)
    backfill(engine, plan.backfill)
    apply(engine, plan.swap)
    apply(engine, plan.contract)
    unique = add_unique("items", ["quantity"])
    assert len(apply(engine, unique)) == 2
    apply(engine, unique.reverse())
    assert rows(
        connection, "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'a.other'::regclass"
    ) == [("a.items_quantity_key",)]
    assert change(engine, "public.items", "quantity", "numeric") > 0
    assert change(engine, "items", "quantity", "numeric") == 0


def test_same_table_name_in_two_schemas_is_two_tables(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    ddl(connection, "CREATE SCHEMA shop; CREATE TABLE shop.items (LIKE items INCLUDING ALL)")
    ddl(connection, "INSERT INTO shop.items VALUES (1, 2)")
    assert change(engine, "shop.items") > 0
    assert column_of(connection) == ("integer", True, "1")
    assert change(engine, "public.items") > 0
    assert column_of(connection) == ("bigint", True, "(1)::bigint")


OTHERS = {
    "another column": "ADD CONSTRAINT items_a_key UNIQUE (b)",
    "deferrable": "ADD CONSTRAINT items_a_key UNIQUE (a) DEFERRABLE",
    "nulls not distinct": "ADD CONSTRAINT items_a_key UNIQUE NULLS NOT DISTINCT (a)",
    "payload": "ADD CONSTRAINT items_a_key UNIQUE (a) INCLUDE (b)",
    "check": "ADD CONSTRAINT items_a_key CHECK (a IS NULL)",
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_constraint_of_that_name_that_is_another_thing(
    database: tuple[Engine, psycopg.Connection], other: str
) -> None:
    engine, connection = database
    ddl(connection, "ALTER TABLE items ADD a integer, ADD b integer")
    ddl(
        connection,
        f"UPDATE items SET b = id {', a = id' * ('CHECK' not in other)}; ALTER TABLE items {other}",
    )
    with pytest.raises(
        ObjectNameTaken, match=r"items: unique items_a_key: nothing was done: .* constraint items_a_key: "
    ):
        apply(engine, add_unique("items", ["a"], name="items_a_key"))
    assert len(apply(engine, add_unique("items", ["a"]))) == 2
    assert apply(engine, add_unique("items", ["a"])) == []
    assert "UNIQUE (a)" in uniques(connection)


RELATIONS = {
    "partial index": "CREATE UNIQUE INDEX items_a_key ON items (a) WHERE a > 3",
    "plain index": "CREATE INDEX items_a_key ON items (a)",
    "index of another table": "CREATE TABLE o (a integer); CREATE UNIQUE INDEX items_a_key ON o (a)",
    "descending": "CREATE UNIQUE INDEX items_a_key ON items (a DESC)",
    "sequence": "CREATE SEQUENCE items_a_key",
    "view": "CREATE VIEW items_a_key AS SELECT 1",
    "table": "CREATE TABLE items_a_key (a integer)",
}


@pytest.mark.parametrize("other", RELATIONS.values(), ids=RELATIONS.keys())
def test_relation_of_that_name_is_left_alone(database: tuple[Engine, psycopg.Connection], other: str) -> None:
    engine, connection = database
    ddl(connection, f"ALTER TABLE items ADD a integer; {other}")
    with pytest.raises(ObjectNameTaken, match="items_a_key"):
        apply(engine, add_unique("items", ["a"], name="items_a_key"))
    assert len(apply(engine, add_unique("items", ["a"]))) == 2
    assert uniques(connection) == {"UNIQUE (a)"}
    apply(engine, add_unique("items", ["a"]).reverse())
    assert rows(connection, "SELECT relname FROM pg_class WHERE relname LIKE 'items_a_key%'") == [
        ("items_a_key",)
    ]


def test_foreign_key_of_that_name_that_is_another_thing(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    ddl(connection, "CREATE TABLE models (id bigint PRIMARY KEY, n bigint UNIQUE)")
    ddl(connection, "ALTER TABLE items ADD model bigint, ADD b bigint")
    ddl(
        connection,
        "ALTER TABLE items ADD CONSTRAINT items_model_fkey "
        "FOREIGN KEY (model) REFERENCES models ON DELETE CASCADE",
    )
    key = add_foreign_key("items", ["model"], references="public.models", referenced=["id"])
    assert len(apply(engine, key)) == 2
    assert apply(engine, key) == []
    ddl(connection, "ALTER TABLE items RENAME model TO was; ALTER TABLE items ADD model bigint")
    assert len(apply(engine, key)) == 2
    found = rows(
        connection, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' ORDER BY 1"
    )
    assert found == [
        ("FOREIGN KEY (model) REFERENCES models(id)",),
        ("FOREIGN KEY (was) REFERENCES models(id)",),
        ("FOREIGN KEY (was) REFERENCES models(id) ON DELETE CASCADE",),
    ]


def test_check_of_that_name_that_is_somebodys_stays(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    ddl(connection, "ALTER TABLE items ADD note text DEFAULT 'x'")
    for own in ("note IS NOT NULL", "note IS NOT NULL OR id > 0", "id > 0"):
        ddl(connection, f"ALTER TABLE items ADD CONSTRAINT items_note_not_null_check CHECK ({own})")
        change_ = require_not_null("items", "note")
        assert len(apply(engine, change_)) == 4
        apply(engine, change_.reverse())
        checks = rows(
            connection,
            "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = 'items'::regclass",
        )
        assert checks == [("items_note_not_null_check",)]
        ddl(connection, "ALTER TABLE items DROP CONSTRAINT items_note_not_null_check")


def test_not_null_that_was_not_checked_is_not_taken_for_done(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    skip_before_18(connection)
    ddl(
        connection,
        "ALTER TABLE items ADD note text; ALTER TABLE items ADD CONSTRAINT nn NOT NULL note NOT VALID",
    )
    with pytest.raises(OnlineChangeRefused, match="violated by some row"):
        apply(engine, require_not_null("items", "note"))
    ddl(connection, "UPDATE items SET note = 'x'")
    apply(engine, require_not_null("items", "note"))
    assert rows(connection, "SELECT convalidated FROM pg_constraint WHERE conname = 'nn'") == [(True,)]


def test_every_word_of_sql_is_quoted_as_postgresql_does(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    _, connection = database
    words = rows(connection, "SELECT word, quote_ident(word) FROM pg_get_keywords() WHERE catcode <> 'U'")
    assert {identifier(str(word)) for word, _ in words} == {quoted for _, quoted in words}


def test_step_that_the_catalogue_does_not_show_is_no_success(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, _ = database
    step = ChangeStep("do nothing", ("SELECT 1",), done="SELECT false")
    with pytest.raises(
        OnlineChangeRefused, match="items: do nothing: it ran, and the catalogue does not show"
    ):
        apply(engine, Change("items", "nothing", (step,)))


def test_names_that_a_person_chose_and_that_are_alike_in_63_bytes(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    ddl(connection, "ALTER TABLE items ADD a integer, ADD b integer")
    first, second = (add_unique("items", [column], name="c" * 63 + column) for column in "ab")
    assert len(apply(engine, first)) == 2
    assert apply(engine, first) == []
    with pytest.raises(ObjectNameTaken, match=r"UNIQUE \(a\): give another name"):
        apply(engine, second)
    assert uniques(connection) == {"UNIQUE (a)"}


def test_two_columns_change_at_the_same_time(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    columns = [*("c" * 60 + end for end in ("a", "b", "abc")), "quantity_new"]
    for column in columns:
        ddl(connection, f"ALTER TABLE items ADD {column} integer DEFAULT 1")
    ddl(connection, CLAMP.format("zz_clamp"))
    columns.append("quantity")
    plans = []
    for column in columns:
        plans.append(plan_of(engine, "items", column, "bigint"))
        apply(engine, plans[-1].expand)
    ddl(connection, "INSERT INTO items (id, quantity) VALUES (1000, 66)")
    for plan in plans:
        assert backfill(engine, plan.backfill).finished
    for plan in plans:
        apply(engine, plan.swap)
    for plan in plans:
        apply(engine, plan.contract)
    assert {column_of(connection, column)[0] for column in columns} == {"bigint"}
    assert rows(connection, "SELECT quantity FROM items WHERE id = 1000") == [(10,)]
    assert rows(connection, "SELECT FROM pg_trigger WHERE tgname LIKE '%dual_write'") == []
    assert rows(connection, "SELECT FROM pg_proc WHERE proname LIKE '%dual_write'") == []


def test_trigger_behind_which_there_is_no_name_is_refused(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    ddl(connection, CLAMP.format('"' + "~" * 63 + '"'))
    before = rows(connection, EVERYTHING)
    with pytest.raises(PreconditionFailed, match=r"RENAME TO a name that comes before it: trigger .~~~"):
        change(engine)
    assert rows(connection, EVERYTHING) == before


def test_column_that_is_made_after_the_plan_is_left_alone(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    plan = plan_of(engine, "items", "quantity", "bigint")
    ddl(connection, "ALTER TABLE items ADD quantity_new integer")
    before = rows(connection, EVERYTHING)
    with pytest.raises(PreconditionFailed, match="there is a column quantity_new already"):
        apply(engine, plan.expand)
    with pytest.raises(PreconditionFailed, match="apply `expand` first"):
        backfill(engine, plan.backfill)
    assert apply(engine, plan.expand.reverse()) == []
    assert rows(connection, EVERYTHING) == before


def test_another_type_while_a_change_is_under_way_is_refused(
    database: tuple[Engine, psycopg.Connection],
) -> None:
    engine, connection = database
    plan = plan_of(engine, "items", "quantity", "bigint")
    apply(engine, plan.expand)
    before = rows(connection, EVERYTHING)
    other = plan_of(engine, "items", "quantity", "numeric")
    with pytest.raises(PreconditionFailed, match="another change of quantity is under way"):
        apply(engine, other.expand)
    for part in (other.swap, other.contract):
        with pytest.raises(PreconditionFailed):
            apply(engine, part)
    assert rows(connection, EVERYTHING) == before
    again = plan_of(engine, "public.items", "quantity", "int8")
    assert apply(engine, again.expand) == []
    backfill(engine, again.backfill)
    apply(engine, again.swap)
    apply(engine, plan_of(engine, "items", "quantity", "pg_catalog.int8").contract)
    assert column_of(connection) == ("bigint", True, "(1)::bigint")


def test_keys_of_every_name_and_value_are_gone_along(database: tuple[Engine, psycopg.Connection]) -> None:
    engine, connection = database
    ddl(
        connection,
        'CREATE TABLE "Odd %s" ("Part :x" text COLLATE "C", "order" date, done integer, '
        'PRIMARY KEY ("Part :x", "order"))',
    )
    values = ["a\\b", "it's", "100%", ":x", "%(a)s", '"', "$$", "", "я", "\\", "a:b::c"]
    for value in values:
        connection.execute("INSERT INTO \"Odd %%s\" VALUES (%s, '2024-01-01')", [value])
    task = Backfill("odd: %s 'x'", table="Odd %s", assign="done = 7 % 4", where="done IS NULL")
    assert backfill(engine, task, batch_rows=1).rows_written == len(values)
    assert rows(connection, 'SELECT DISTINCT done FROM "Odd %s"') == [(3,)]


CUTS = [("text", "varchar(3)"), ("text", "char(3)"), ("bit varying", "bit(5)"), ("varbit", "varbit(3)")]


@pytest.mark.parametrize(("kind", "to"), CUTS)
def test_value_that_would_be_cut_is_refused(
    database: tuple[Engine, psycopg.Connection], kind: str, to: str
) -> None:
    engine, connection = database
    ddl(connection, f"CREATE TABLE notes (id bigint PRIMARY KEY, note {kind})")
    ddl(connection, "INSERT INTO notes VALUES (1, '1011'), (2, NULL)")
    before = rows(connection, EVERYTHING)
    with pytest.raises(PreconditionFailed, match="would cut a value of note"):
        change(engine, "notes", "note", to)
    assert rows(connection, EVERYTHING) == before
    ddl(connection, "DELETE FROM notes WHERE id = 1")
    plan = plan_of(engine, "notes", "note", to)
    apply(engine, plan.expand)
    backfill(engine, plan.backfill)
    ddl(connection, "INSERT INTO notes VALUES (1, '1011')")
    with pytest.raises(PreconditionFailed, match="would cut a value of note"):
        apply(engine, plan.swap)
    apply(engine, plan.expand.reverse())
    change(engine, "notes", "note", to, using=f"note::{to}")


def test_names_are_unique_within_63_bytes() -> None:
    stems = ["т" * length for length in range(25, 70)] + ["a" + "т" * length for length in range(25, 70)]
    names = [object_name(stem, "_not_null_check", number=number) for stem in stems for number in (0, 1, 10)]
    assert len(set(names)) == len(names)
    assert max(len(name.encode()) for name in names) <= 63
    assert {name[len("т") :].strip("т").count("\ufffd") for name in names} == {0}
    assert object_name("items_serial", "_key") == "items_serial_key"
