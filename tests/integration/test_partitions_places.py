"""Where rows may not go: a DEFAULT partition in the way, and tablespaces, on a server of their own."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from psycopg import Connection
from sqlalchemy import Engine, event

import partitions
from partitions import Month, MonthlyRange
from partitions.errors import ActionFailed, DefaultPartitionBlocks
from sharding.ids import first_id_at
from tests.integration.partitions_shard import bare_server, servers_folder

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Path]]:
    """Run a server; give its superuser's engine, and a folder of its user's."""
    folder = tmp_path_factory.mktemp("places")
    with bare_server(folder) as (server, engine):
        yield engine, servers_folder(server.data.parent / "slow_disk")


@pytest.fixture
def owner(bare: tuple[Engine, Path]) -> Engine:
    """Give an empty archive."""
    engine, _ = bare
    run(
        engine,
        "DROP SCHEMA public CASCADE",
        "CREATE SCHEMA public",
        "CREATE TABLE archive (order_id bigint PRIMARY KEY) PARTITION BY RANGE (order_id)",
    )
    return engine


def run(engine: Engine, *statements: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def policy_of(tablespace: str | None = None) -> MonthlyRange:
    return MonthlyRange(
        table="archive", key="order_id", key_at=first_id_at, months_ahead=1, tablespace=tablespace
    )


def test_default_partition_with_rows_is_told_and_its_way_out_ends_clean(owner: Engine) -> None:
    september = Month(2026, 9)
    rows = [first_id_at(month.start) for month in (september, Month(2026, 11))]
    run(
        owner,
        "CREATE TABLE archive_rest PARTITION OF archive DEFAULT",
        f"INSERT INTO archive VALUES ({rows[0]}), ({rows[1]})",
        "ANALYZE archive_rest",
    )
    with pytest.raises(
        DefaultPartitionBlocks, match="the DEFAULT partition archive_rest holds about 2 rows"
    ) as told:
        partitions.apply(owner, [policy_of()], NOW)
    with owner.connect() as connection:
        catalog = partitions.read_catalog(connection, ["archive"])
    [found] = [each for each in partitions.check([policy_of()], catalog, NOW) if "DEFAULT" in each.fault]
    assert found.fix in str(told.value)

    detach, *_, insert = re.findall(r"ALTER TABLE [^;]*|INSERT INTO [^,]*", found.fix)
    run(owner, detach)
    partitions.apply(owner, [policy_of()], NOW, since=september)
    run(owner, insert, "DROP TABLE archive_rest")
    with owner.connect() as connection:
        where = connection.exec_driver_sql("SELECT tableoid::regclass::text FROM archive ORDER BY order_id")
        assert list(where.scalars()) == ["archive_2026_09", "archive_2026_11"]
        catalog = partitions.read_catalog(connection, ["archive"])
    assert partitions.plan([policy_of()], catalog, NOW) == []
    assert partitions.check([policy_of()], catalog, NOW) == []


def test_months_come_to_their_tablespace_with_their_indexes(owner: Engine, bare: tuple[Engine, Path]) -> None:
    with pytest.raises(ActionFailed, match=r"no tablespace slow: CREATE TABLESPACE slow LOCATION .* GRANT"):
        partitions.apply(owner, [policy_of("slow")], NOW)
    run(owner, f"CREATE TABLESPACE slow LOCATION '{bare[1]}'")
    partitions.apply(owner, [policy_of("slow")], NOW)
    with owner.connect() as connection:
        places = connection.exec_driver_sql(
            "SELECT relname, spcname FROM pg_class LEFT JOIN pg_tablespace AS place "
            "ON place.oid = reltablespace WHERE relname LIKE 'archive%%' ORDER BY 1"
        )
        assert {row[0]: row[1] for row in places} == {
            "archive": None,
            "archive_pkey": None,
            "archive_2026_11": "slow",
            "archive_2026_11_pkey": "slow",
            "archive_2026_12": "slow",
            "archive_2026_12_pkey": "slow",
        }
        catalog = partitions.read_catalog(connection, ["archive"])
    assert partitions.plan([policy_of("slow")], catalog, NOW) == []
    # Nothing of it holds for what the session makes afterwards.
    run(owner, "CREATE TABLE other ()")
    with owner.connect() as connection:
        place = connection.exec_driver_sql("SELECT reltablespace FROM pg_class WHERE relname = 'other'")
        assert place.scalar_one() == 0


def test_tablespace_without_the_right_to_use_it_names_the_grant(
    owner: Engine, bare: tuple[Engine, Path]
) -> None:
    _, folder = bare
    run(
        owner,
        f"CREATE TABLESPACE theirs LOCATION '{servers_folder(folder.with_name('theirs'))}'",
        "CREATE ROLE keeper",
        "GRANT ALL ON SCHEMA public TO keeper",
        "ALTER TABLE archive OWNER TO keeper",
    )

    @event.listens_for(owner, "connect")
    def become_keeper(connection: Connection, _record: object) -> None:
        connection.execute("SET ROLE keeper")
        connection.commit()

    try:
        right = "GRANT CREATE ON TABLESPACE theirs TO the owner of archive"
        with pytest.raises(ActionFailed, match=right):
            partitions.apply(owner, [policy_of("theirs")], NOW)
    finally:
        event.remove(owner, "connect", become_keeper)
    run(owner, "GRANT CREATE ON TABLESPACE theirs TO keeper")
    partitions.apply(owner, [policy_of("theirs")], NOW)
