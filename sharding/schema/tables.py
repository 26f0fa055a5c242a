"""The library's tables as SQLAlchemy knows them, of a directory and of a shard."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    func,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB

from sharding.schema.chain import VERSION_TABLE, Part

DIRECTORY = MetaData()
"""The tables of a directory. A project may name it as the metadata of its tree of kind `directory`."""
SHARD = MetaData()
"""The library's tables on a shard."""


def metadata(part: Part) -> MetaData:
    """Return the library's tables of a part."""
    return DIRECTORY if part == "directory" else SHARD


def _text(name: str, *, nullable: bool = False, key: bool = False) -> Column[str]:
    return Column(name, Text, nullable=nullable, primary_key=key)


def _integer(name: str, *, key: bool = False, default: str | None = None) -> Column[int]:
    server_default = sql(default) if default else None
    return Column(
        name, Integer, nullable=False, primary_key=key, autoincrement=False, server_default=server_default
    )


def _at(name: str) -> Column[object]:
    """Make a column of the moment at which a row was written."""
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


for _part in (DIRECTORY, SHARD):
    Table(
        VERSION_TABLE,
        _part,
        _text("part", key=True),
        _integer("version", key=True),
        _at("applied_at"),
        _text("library"),
    )

Table(
    "shard_map_versions",
    DIRECTORY,
    _text("tree", key=True),
    _integer("version", key=True),
    _text("owners"),
    _at("created_at"),
)
Table(
    "node_leases",
    DIRECTORY,
    Column("id_space", Text, nullable=False, primary_key=True, server_default="default"),
    _integer("node", key=True),
    _text("holder"),
    Column("ceiling_ms", BigInteger, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)
Table(
    "migration_ledger",
    DIRECTORY,
    Column("entry_id", BigInteger, Identity(always=True), primary_key=True),
    _text("database"),
    _text("tree"),
    _text("revision"),
    _text("direction"),
    _text("state"),
    _at("started_at"),
    Column("duration_seconds", Double),
    _text("error", nullable=True),
    Index("migration_ledger_database_entry_id_idx", "database", "entry_id"),
)
Table(
    "two_phase_decisions",
    DIRECTORY,
    _text("unit_id", key=True),
    _text("tree"),
    _text("decision"),
    _text("label"),
    _text("shards"),
    _at("decided_at"),
    Column("finished_at", DateTime(timezone=True)),
)
Table(
    "reference_contents",
    DIRECTORY,
    _text("tree", key=True),
    _text("table_name", key=True),
    _integer("version", key=True),
    Column("rows", JSONB, nullable=False),
    _text("checksum"),
    _at("published_at"),
)
Table(
    "metric_samples",
    DIRECTORY,
    _text("metric", key=True),
    Column("at", DateTime(timezone=True), primary_key=True),
    Column("labels", JSONB, primary_key=True),
    Column("value", Double, nullable=False),
    _integer("step_seconds"),
    Index("metric_samples_step_seconds_at_idx", "step_seconds", "at"),
)
Table(
    "shard_identity",
    SHARD,
    _integer("singleton", key=True, default="1"),
    _text("shard"),
    _integer("map_version"),
    _text("owned"),
    _at("changed_at"),
    CheckConstraint("singleton = 1", name="shard_identity_singleton_check"),
)
Table(
    "reference_versions",
    SHARD,
    _text("table_name", key=True),
    _integer("version"),
    _text("checksum"),
    _at("applied_at"),
)
