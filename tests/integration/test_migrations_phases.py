"""Today's code works on the schema that it finds when it is deployed: with only `pre` revisions applied."""

import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ARRAY, JSON, Connection, LargeBinary, Table, delete, insert, select, update
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import TypeEngine

from app.models.base import EnumText
from app.models.directory import BoundedTime
from ops.fleet import open_engine
from ops.migrate import run
from ops.migrate.errors import FleetFailed
from ops.migrate.phases import before_deployment
from ops.project.project import ProjectTree
from sharding.ids import first_id_at
from sharding.schema import VERSION_TABLE
from sharding.topology import Topology
from tests.integration.migrations_rig import Fleet, make_partitions, run_fleet
from tests.project import MES, PROJECT
from tests.servers import PostgresServers

NOW = datetime(2026, 11, 23, tzinfo=UTC)


OF_KIND: Mapping[type[TypeEngine[Any]], object] = {
    JSON: {},
    LargeBinary: b"a digest",
    BoundedTime: NOW,
    TSVECTOR: "words",
}
OF_PYTHON: Mapping[type, object] = {
    datetime: NOW,
    int: first_id_at(NOW),
    UUID: UUID(int=1),
    Decimal: Decimal(1),
}


def value_of(kind: TypeEngine[Any]) -> object:
    """Give some value of a column's type."""
    if isinstance(kind, EnumText):
        members: type[StrEnum] = kind.enum
        return next(iter(members))
    if isinstance(kind, ARRAY):
        return [value_of(kind.item_type)]
    for each, value in OF_KIND.items():
        if isinstance(kind, each):
            return value
    return OF_PYTHON.get(kind.python_type) or kind.python_type()


def use(connection: Connection, table: Table) -> None:
    """Do what the models promise: insert, read and change a row of all columns, and remove it."""
    row = {
        column.name: 1 if column.type.compile() == "INTEGER" else value_of(column.type)
        for column in table.columns
        if column.identity is None and column.name != "status"
    }
    status = {"status": "CLOSED" if "done" in table.name else "SUBMITTED"} if "status" in table.c else {}
    connection.execute(delete(table))  # a shard knows its name already
    connection.execute(insert(table).values(row | status))
    assert connection.execute(select(table)).first() is not None
    connection.execute(update(table).values(row))
    connection.execute(delete(table))


# Of an identity, whose number the database makes: `test_access` and `test_oidc` use them.
NOT_OF_SERVICES = {VERSION_TABLE, "metric_samples", "identity_keys", "identity_subjects"}


def use_all(topology: Topology, tree: ProjectTree) -> None:
    """Use every table that the models of a tree declare, but for those that no service uses."""
    database = next(iter(topology.databases_of(tree.name).values()))
    with open_engine(topology, database, role=database.owner) as engine, engine.begin() as connection:
        for name, table in tree.metadata.tables.items():
            if name not in NOT_OF_SERVICES:
                use(connection, table)


@pytest.mark.parametrize("tree", PROJECT.trees.values(), ids=PROJECT.trees)
def test_models_work_with_only_pre_applied(topology: Topology, tree: ProjectTree) -> None:
    make_partitions(topology, now=NOW)
    run.downgrade(topology, tree, before_deployment(run.pending(tree, None)))
    use_all(topology, tree)


@pytest.fixture
def fleet(postgres: PostgresServers, tmp_path: Path) -> Iterator[Fleet]:
    """Give one shard, with a copy of the real revisions."""
    with run_fleet(postgres, tmp_path, prefix="phases", shards=1) as made:
        shutil.copytree(MES.revisions.parent / "sql", tmp_path / "sql")
        shutil.copytree(MES.revisions, made.versions)
        yield made


def test_pre_that_breaks_the_models_would_be_found(fleet: Fleet) -> None:
    fleet.write("0900", "ALTER TABLE inbox ADD COLUMN lane integer NOT NULL")
    fleet.migrate()
    make_partitions(fleet.topology, now=NOW)
    with pytest.raises(IntegrityError, match="lane"):
        use_all(fleet.topology, MES)


def test_phases_run_their_parts_on_databases(fleet: Fleet) -> None:
    fleet.write("0900", "ALTER TABLE inbox ADD COLUMN lane integer")
    fleet.write("0901", "ALTER TABLE inbox ALTER COLUMN lane SET NOT NULL", phase="post")
    with pytest.raises(FleetFailed, match=r"\(pre\) was not run yet"):
        fleet.migrate(phase="post")
    [outcome] = fleet.migrate(phase="pre")
    assert outcome.revision == "0900"
    [outcome] = fleet.migrate(phase="post")
    assert outcome.ran == ("0901",)
