"""The directory: small, unsharded, and read by every service. Shard maps and node leases live here.

So does the ledger of migrations, which is for those who migrate.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Double, Identity, Index, Integer, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.models.base import new_metadata


class DirectoryBase(DeclarativeBase):
    """Everything in the directory database."""

    metadata = new_metadata()


class ShardMapVersion(DirectoryBase):
    """A version of a tree's shard map: `owners[i]` is the shard of bucket `i`. The highest is in force."""

    __tablename__ = "shard_map_versions"

    tree: Mapped[str] = mapped_column(Text, primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    # A whole map in one row: a reader never sees half of a change, and history costs 64 words a version.
    owners: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class NodeLease(DirectoryBase):
    """The right to make order ids with one node number, for the window of id time below `ceiling_ms`.

    Windows of one node never overlap, so two processes cannot make the same id, whatever their clocks do.
    """

    __tablename__ = "node_leases"

    id_space: Mapped[str] = mapped_column(Text, primary_key=True, server_default="default")
    node: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    holder: Mapped[str] = mapped_column(Text)
    ceiling_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class MigrationEntry(DirectoryBase):
    """One run of one revision on one database: `state` is `running`, `done` or `failed`."""

    __tablename__ = "migration_ledger"

    entry_id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    database: Mapped[str] = mapped_column(Text)
    tree: Mapped[str] = mapped_column(Text)
    revision: Mapped[str] = mapped_column(Text)
    direction: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    duration_seconds: Mapped[float | None] = mapped_column(Double)
    error: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (Index(None, "database", "entry_id"),)


class TwoPhaseDecision(DirectoryBase):
    """How a unit of work on several shards ends: `decision` is `commit` or `abort`, and is written once."""

    __tablename__ = "two_phase_decisions"

    unit_id: Mapped[str] = mapped_column(Text, primary_key=True)
    tree: Mapped[str] = mapped_column(Text)
    decision: Mapped[str] = mapped_column(Text)
    label: Mapped[str] = mapped_column(Text)
    shards: Mapped[str] = mapped_column(Text)
    decided_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class ReferenceContent(DirectoryBase):
    """A version of a reference table: all its rows, as every shard is to hold them."""

    __tablename__ = "reference_contents"

    tree: Mapped[str] = mapped_column(Text, primary_key=True)
    table_name: Mapped[str] = mapped_column(Text, primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    rows: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    checksum: Mapped[str] = mapped_column(Text)
    published_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
