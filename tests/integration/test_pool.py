"""The pool of databases: what one test leaves, the next one never sees."""

from collections.abc import Iterator, Mapping
from contextlib import closing

import psycopg
import pytest

from tests.contents import read_contents
from tests.pool import DatabasePool
from tests.project import DATABASES
from tests.servers import PostgresServers

ROW = (
    "INSERT INTO outbox (order_id, message_id, destination, type, data)"
    " VALUES (1, gen_random_uuid(), 'shop', 'order.submitted', '{}')"
)
SIZES = """
    SELECT oid::regclass::text, pg_relation_size(oid), relpages, reltuples FROM pg_class
    WHERE oid >= 16384 AND relkind IN ('r', 'p', 'i') ORDER BY 1"""


@pytest.fixture(scope="module")
def pool(postgres: PostgresServers, templates: Mapping[str, str]) -> Iterator[DatabasePool]:
    """A pool of one shard, of which there is never more than one clone."""
    shapes = tuple(shape for shape in DATABASES if shape.name == "mes_0")
    with closing(DatabasePool(postgres, templates, shapes)) as pool:
        yield pool
        pool.drop_all()


@pytest.fixture
def connect(postgres: PostgresServers) -> Iterator["Connect"]:
    with Connect(postgres) as connect:
        yield connect


class Connect:
    """Connects as superuser, and closes what was left open."""

    def __init__(self, postgres: PostgresServers) -> None:
        self._postgres = postgres
        self._open: list[psycopg.Connection] = []

    def __enter__(self) -> "Connect":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._open:
            connection.close()

    def __call__(self, dbname: str, *, replica: bool = False, role: str = "postgres") -> psycopg.Connection:
        conninfo = self._postgres.conninfo(dbname, replica=replica, role=role)
        connection = psycopg.connect(conninfo, autocommit=True)
        self._open.append(connection)
        return connection


def use(pool: DatabasePool, connect: Connect, *statements: str) -> tuple[int, int]:
    """Borrow, run statements and give back; tell which database it was and how many were dropped for it."""
    before = pool.dropped.total()
    with pool.borrow() as names:
        connection = connect(names["mes_0"])
        for statement in statements:
            connection.execute(statement.replace("DBNAME", names["mes_0"]).encode())
        oid = database_of(connection)
    return oid, pool.dropped.total() - before


def database_of(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
    assert row
    return int(row[0])


def assert_as_new(pool: DatabasePool, connect: Connect, *, old: int, is_kept: bool) -> None:
    """Compare what the next test gets with the template, beside and apart from what the pool looks at."""
    template = connect(pool.templates["mes_0"])
    wanted, sizes = read_contents(template), template.execute(SIZES).fetchall()
    template.close()
    with pool.borrow() as names:
        given = connect(names["mes_0"])
        assert (database_of(given) == old) is is_kept
        assert read_contents(given) == wanted
        assert given.execute(SIZES).fetchall() == sizes
        setting = "SELECT current_setting('work_mem'), current_setting('statement_timeout')"
        assert connect(names["mes_0"], role="mes").execute(setting).fetchone() == ("4MB", "0")
        held = (
            "SELECT (SELECT count(*) FROM pg_prepared_xacts) + (SELECT count(*) FROM pg_subscription)"
            " + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')"
            " + (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical')"
        )
        assert given.execute(held).fetchone() == (0,)


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE leak (a int)",),
        ("CREATE INDEX leak ON outbox (type)",),
        ("ALTER TABLE outbox ADD COLUMN leak int",),
        ("ALTER TABLE outbox ENABLE ROW LEVEL SECURITY",),
        ("ALTER TABLE outbox ADD CONSTRAINT leak CHECK (order_id > 0)",),
        ("ALTER TABLE outbox SET (fillfactor = 60)",),
        ("CREATE FUNCTION leak() RETURNS int LANGUAGE sql AS 'SELECT 1'",),
        ("CREATE SCHEMA leak",),
        ("COMMENT ON TABLE outbox IS 'leak'",),
        ("GRANT SELECT ON outbox TO shop",),
        ("REVOKE EXECUTE ON FUNCTION pg_catalog.hashint8(bigint) FROM PUBLIC",),
        ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO shop",),
        ("SELECT lo_create(0)",),
        (ROW, "TRUNCATE outbox"),
        (ROW, "ANALYZE outbox"),
        ("ANALYZE orders",),
        ("CREATE PUBLICATION leak FOR TABLE outbox",),
        ("CREATE SUBSCRIPTION leak CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)",),
        ("SELECT pg_create_logical_replication_slot('leak', 'pgoutput')",),
        ("BEGIN", ROW, "PREPARE TRANSACTION 'leak'"),
        ("ALTER DATABASE DBNAME SET work_mem = '5MB'",),
        ("ALTER ROLE mes IN DATABASE DBNAME SET work_mem = '5MB'",),
        ("ALTER DATABASE DBNAME CONNECTION LIMIT 1",),
        ("GRANT CONNECT ON DATABASE DBNAME TO shop",),
        ("COMMENT ON DATABASE DBNAME IS 'leak'",),
    ],
    ids=lambda statements: statements[-1][:40],
)
def test_a_changed_database_is_dropped(
    pool: DatabasePool, connect: Connect, statements: tuple[str, ...]
) -> None:
    old, dropped = use(pool, connect, *statements)
    assert dropped
    assert_as_new(pool, connect, old=old, is_kept=False)


@pytest.mark.parametrize(
    "statements",
    [
        ("SELECT 1",),
        ("CREATE TABLE leak (a int)", "DROP TABLE leak"),
        (ROW,),
        (ROW, "DELETE FROM outbox"),
        (ROW, "DELETE FROM outbox", "VACUUM outbox"),
        ("BEGIN", ROW, "ROLLBACK"),
        ("SELECT nextval(pg_get_serial_sequence('outbox', 'sequence'))",),
        ("SELECT setval(pg_get_serial_sequence('outbox', 'sequence'), 700, false)",),
        ("DELETE FROM alembic_version",),
        ("UPDATE alembic_version SET version_num = 'leak'",),
        ("VACUUM alembic_version",),
        ("VACUUM outbox",),
        (ROW, "BEGIN", ROW),  # and it stays open
        ("BEGIN", "LOCK TABLE orders"),
        ("SELECT pg_advisory_lock(1)",),
        ("ALTER ROLE mes SET statement_timeout = '1s'",),
    ],
    ids=lambda statements: statements[-1][:40],
)
def test_a_database_that_was_only_written_is_emptied(
    pool: DatabasePool, connect: Connect, statements: tuple[str, ...]
) -> None:
    old, dropped = use(pool, connect, *statements)
    assert not dropped
    assert_as_new(pool, connect, old=old, is_kept=True)


@pytest.mark.parametrize(
    "end", ["DROP DATABASE {} WITH (FORCE)", "ALTER DATABASE {} ALLOW_CONNECTIONS false"]
)
def test_a_database_that_is_gone_or_closed_is_replaced(
    pool: DatabasePool, connect: Connect, postgres: PostgresServers, end: str
) -> None:
    with pool.borrow() as names, postgres.primary.connect() as server:
        old = database_of(connect(names["mes_0"]))
        server.execute(end.format(names["mes_0"]).encode())
    assert_as_new(pool, connect, old=old, is_kept=False)


def test_who_stayed_behind_finds_nothing_under_the_old_name(pool: DatabasePool, connect: Connect) -> None:
    with pool.borrow() as names:
        old = names["mes_0"]
        connect(old)
    with pool.borrow() as names:
        assert names["mes_0"] != old
        for replica in (False, True):
            with pytest.raises(psycopg.OperationalError, match="does not exist"):
                connect(old, replica=replica)


def test_a_reader_that_is_left_on_the_replica_is_ended(pool: DatabasePool, connect: Connect) -> None:
    with pool.borrow() as names:
        connect(names["mes_0"]).execute(ROW)
        pool.servers.wait_for_replica()
        reader = connect(names["mes_0"], replica=True)
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert reader.execute("SELECT count(*) FROM outbox").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="terminating connection"):
        reader.execute("SELECT 1")
    with pool.borrow() as names:
        seen = connect(names["mes_0"], replica=True).execute("SELECT count(*) FROM outbox").fetchone()
        assert seen == (0,)


def test_two_borrowers_at_a_time_get_two(pool: DatabasePool, connect: Connect) -> None:
    with pool.borrow() as first, pool.borrow() as second:
        assert first["mes_0"] != second["mes_0"]
        connect(first["mes_0"]).execute(ROW)
        assert connect(second["mes_0"]).execute("SELECT count(*) FROM outbox").fetchone() == (0,)


def test_pool_goes_on_when_the_server_has_ended_its_session(
    pool: DatabasePool, postgres: PostgresServers
) -> None:
    for server in (postgres.primary, postgres.replica):
        with pool.borrow(), server.connect() as other:
            ended = other.execute(
                "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND datname = 'postgres' AND pid <> pg_backend_pid()"
            )
            assert ended.rowcount >= 1
    with pool.borrow() as names:
        assert names
