"""Indexes whose predicate changed, after public reports: only the predicate changes, and a clean model stays so."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Column, Engine, Index, Integer, MetaData, Table, Text, and_, or_, text

from tests.integration.operations_rig import autogenerate, differences, execute, scratch_database
from tests.servers import PostgresServers

pytestmark = pytest.mark.field


@pytest.fixture
def engine(postgres: PostgresServers) -> Iterator[Engine]:
    """Give an empty database."""
    with scratch_database(postgres, "") as (found, _):
        yield found


def run_sql(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        connection.execution_options(no_parameters=True)
        for statement in statements:
            connection.exec_driver_sql(statement)


def definitions(engine: Engine) -> dict[str, str]:
    """Return what stands behind USING of each valid index, by name."""
    query = text("""
        SELECT relname, split_part(pg_get_indexdef(indexrelid), ' USING ', 2) FROM pg_index
        JOIN pg_class ON pg_class.oid = indexrelid WHERE indisvalid AND relnamespace = 'public'::regnamespace
    """)
    with engine.connect() as connection:
        return dict(map(tuple, connection.execute(query)))


def items(**index: Any) -> MetaData:
    metadata = MetaData()
    table = Table("items", metadata, Column("id", Integer), Column("a", Text), Column("b", Text))
    name = index.pop("name", "x")
    columns = index.pop("columns", ["a"])
    Index(name, *(table.c[column] for column in columns), **index)
    return metadata


ITEMS = "CREATE TABLE items (id integer, a text, b text)"


def change(engine: Engine, metadata: MetaData) -> None:
    """Run what autogenerate renders, twice: the second time there is nothing."""
    upgrade, downgrade = autogenerate(engine, metadata)
    before = definitions(engine)
    execute(engine, upgrade)
    assert differences(engine, metadata) == []
    after = definitions(engine)
    execute(engine, downgrade)
    assert definitions(engine) == before
    execute(engine, upgrade)
    assert definitions(engine) == after


def test_a1_nulls_not_distinct_stays(engine: Engine) -> None:
    run_sql(engine, ITEMS, "CREATE UNIQUE INDEX x ON items (a) NULLS NOT DISTINCT WHERE id > 1")
    change(engine, items(unique=True, postgresql_nulls_not_distinct=True, postgresql_where=text("id > 2")))
    assert definitions(engine) == {"x": "btree (a) NULLS NOT DISTINCT WHERE (id > 2)"}


@pytest.mark.parametrize(
    "where",
    [
        text("(b = 'q') AND (a = 'r')"),
        and_(
            or_(Column("a", Text) == "r", Column("a", Text) == "s"),
            or_(Column("b", Text) == "q", Column("id", Integer) > 2),
        ),
    ],
)
def test_a2_predicate_of_several_parentheses_runs(engine: Engine, where: Any) -> None:
    run_sql(engine, ITEMS, "CREATE INDEX x ON items (a) WHERE (a = 'a') OR (b = 'b')")
    change(engine, items(postgresql_where=where))


def test_a3_name_of_63_bytes(engine: Engine) -> None:
    name = "x" * 63
    run_sql(engine, ITEMS, f"CREATE INDEX {name} ON items (a) WHERE id > 1")
    change(engine, items(name=name, postgresql_where=text("id > 2")))
    assert definitions(engine) == {name: "btree (a) WHERE (id > 2)"}


def test_a4_partitioned_parent(engine: Engine) -> None:
    run_sql(
        engine,
        ITEMS + " PARTITION BY LIST (b)",
        "CREATE TABLE items_1 PARTITION OF items FOR VALUES IN ('1')",
        "CREATE TABLE items_2 PARTITION OF items FOR VALUES IN ('2')",
        "CREATE INDEX x ON items (a) WHERE id > 1",
    )
    metadata = items(postgresql_where=text("id > 2"))
    metadata.tables["items"].dialect_options["postgresql"]["partition_by"] = "LIST (b)"
    change(engine, metadata)
    assert set(definitions(engine).values()) == {"btree (a) WHERE (id > 2)"}
    assert set(definitions(engine)) == {"x", "items_1_a_idx", "items_2_a_idx"}
