"""Five databases for a scattered SELECT: four shards, and one that holds all of their rows."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Time,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, INTERVAL, JSONB
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import REAL

from app.models.base import EnumText
from ops.embedded.ports import LOOPBACK
from readreplica.cluster import Cluster
from readreplica.engines import reader_engine, writer_engine
from sharding.keys import reference_table, shard_key, shard_key_of
from sharding.scatter import Bounds, CursorKeys, Page, scatter
from sharding.scatter.kinds import DIALECT
from sharding.shard_map import ShardMap, bucket_of
from tests.servers import PostgresServers

SHARDS = ["s0", "s1", "s2", "s3"]
WHOLE = "whole"
OWNERS = ShardMap.even(SHARDS, 64).owners
KEYS = CursorKeys(b"a key of at least sixteen bytes")
# A busy machine is no fault of the SELECT.
PATIENT = Bounds(timeout_seconds=120.0)


class Finish(StrEnum):
    """Kept as its value, whose order is not that of the members."""

    MATTE = "zz-matte"
    POLISHED = "aa-polished"


class Base(DeclarativeBase):
    """The mapped class of these tests."""


metadata = Base.metadata

orders = Table(
    "orders",
    metadata,
    Column("order_id", BigInteger, primary_key=True, autoincrement=False),
    Column("status", Text, nullable=False),
    Column("finish", EnumText(Finish)),
    Column("small", SmallInteger),
    Column("n", Integer),
    Column("big", BigInteger),
    Column("price", Numeric(12, 2)),
    Column("exact", Numeric),
    Column("weight", Double),
    Column("short_weight", REAL),
    Column("is_rush", Boolean),
    Column("at", DateTime(timezone=True)),
    Column("local_at", DateTime),
    Column("day", Date),
    Column("uid", Uuid),
    Column("raw", LargeBinary),
    Column("spent", INTERVAL),
    # Of values that Python has not, such as infinity.
    Column("odd_at", DateTime(timezone=True)),
    Column("odd_local_at", DateTime),
    Column("odd_day", Date),
    Column("odd_clock", Time),
    Column("odd_zoned", Time(timezone=True)),
    Column("odd_spent", INTERVAL),
    Column("document", JSONB),
    Column("tags", ARRAY(Text)),
    info=shard_key("order_id"),
)
ODD = [column.name for column in orders.columns if column.name.startswith("odd_")]
lines = Table(
    "lines",
    metadata,
    Column("order_id", BigInteger, primary_key=True, autoincrement=False),
    Column("line_no", Integer, primary_key=True, autoincrement=False),
    Column("material", Text),
    Column("quantity", Integer),
    info=shard_key("order_id"),
)
materials = Table(
    "materials",
    metadata,
    Column("material", Text, primary_key=True),
    Column("density", Numeric),
    info=reference_table(),
)
requests = Table(
    "requests",
    metadata,
    Column("request_key", BigInteger, primary_key=True, autoincrement=False),
    Column("order_id", BigInteger, nullable=False),
    info=shard_key("request_key"),
)


class Order(Base):
    """An order as an entity, with what Python can read."""

    __table__ = orders
    __mapper_args__ = {"exclude_properties": ODD}  # noqa: RUF012 (SQLAlchemy's own declaration)


def shard_of(key: int) -> str:
    """Name the shard of a key."""
    return OWNERS[bucket_of(key, len(OWNERS))]


@dataclass(frozen=True)
class Rig:
    """Open clusters on the five databases, and a way to fill them."""

    clusters: Mapping[str, Cluster]
    whole: Cluster
    writers: Mapping[str, psycopg.Connection[Any]]
    dbnames: Mapping[str, str]

    def fill(self, rows: Mapping[Table, Sequence[Mapping[str, Any]]]) -> None:
        """Put these rows, and no others, on their shards and into the database that holds all."""
        for database in self.writers:
            tables = sql.SQL(", ").join(sql.Identifier(table.name) for table in metadata.sorted_tables)
            self.writers[database].execute(sql.SQL("TRUNCATE {}").format(tables))
        for table, content in rows.items():
            self.add(table, content)

    def add(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to a table."""
        for database, connection in self.writers.items():
            own = [row for row in rows if database in (WHOLE, self._shard_of(table, row) or database)]
            _insert(connection, table, own)

    @staticmethod
    def _shard_of(table: Table, row: Mapping[str, Any]) -> str | None:
        key = shard_key_of(table)
        return None if key is None else shard_of(row[key])

    async def page(self, statement: Any, **options: Any) -> Page[Any]:
        """Run a SELECT over the shards."""
        defaults = {"limit": 10_000, "shard_of": shard_of, "keys": KEYS, "bounds": PATIENT}
        return await scatter(self.clusters, statement, **{**defaults, **options})

    async def pages(self, statement: Any, *, limit: int, **options: Any) -> list[Any]:
        """Give the rows of all pages."""
        page = await self.page(statement, limit=limit, **options)
        rows = list(page.rows)
        while page.next_cursor is not None:
            assert len(page.rows) == limit
            page = await self.page(statement, limit=limit, cursor=page.next_cursor, **options)
            assert page.rows
            rows += page.rows
        return rows

    async def expected(self, statement: Any) -> list[Any]:
        """Run a SELECT in the database that holds all."""
        async with self.whole.read() as session:
            rows = (await session.execute(statement)).all()
        return [row[0] if len(row) == 1 else tuple(row) for row in rows]


def _insert(connection: psycopg.Connection[Any], table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    names = list(rows[0])
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table.name),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join([sql.Placeholder()] * len(names)),
    )
    with connection.cursor() as cursor:
        cursor.executemany(statement, [[row[name] for name in names] for row in rows])


@contextmanager
def run_rig(servers: PostgresServers, *, prefix: str) -> Iterator[Rig]:
    """Make the five databases in a test server; drop them at the end."""
    dbnames = {name: f"{prefix}_{name}" for name in [*SHARDS, WHOLE]}
    with servers.primary.connect() as admin, ExitStack() as stack:
        stack.callback(_drop, admin, dbnames.values())
        writers = {}
        for name, dbname in dbnames.items():
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(dbname)))
            writers[name] = stack.enter_context(psycopg.connect(servers.conninfo(dbname), autocommit=True))
            for table in metadata.sorted_tables:
                writers[name].execute(str(CreateTable(table).compile(dialect=DIALECT)))
        clusters = {name: open_one(servers, name, dbname) for name, dbname in dbnames.items()}
        yield Rig({name: clusters[name] for name in SHARDS}, clusters[WHOLE], writers, dbnames)


def open_one(servers: PostgresServers, name: str, dbname: str) -> Cluster:
    """Open a database of the test server as a cluster without replicas."""
    url = URL.create(
        "postgresql+psycopg",
        username="postgres",
        host=LOOPBACK,
        port=servers.primary_port,
        database=dbname,
        query={"passfile": str(servers.passfile)},
    )
    make = partial(reader_engine, url, application_name=f"scatter-{name}", pool_size=4)
    return Cluster(
        name, primary=writer_engine(url, application_name=name), primary_reader=make(), replicas={}
    )


def _drop(admin: psycopg.Connection[Any], dbnames: Iterable[str]) -> None:
    for dbname in dbnames:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(dbname)))


VALUES_OF_AN_ORDER = tuple(column.key for column in orders.columns if column.key not in ODD)


def shown(rows: Iterable[Any]) -> list[str]:
    """Write rows so that NaN equals itself, and 1.50 is not 1.5."""
    return [re.sub(r"-0\.0\b", "0.0", repr(_plain(row))) for row in rows]


def _plain(row: Any) -> Any:
    if isinstance(row, Order):
        return tuple(getattr(row, name) for name in VALUES_OF_AN_ORDER)
    return tuple(map(_plain, row)) if isinstance(row, tuple) else row
