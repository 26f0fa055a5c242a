"""Reference tables of the MES shards: small, alike on every shard, written by version through the directory.

`mesctl shards reference load` writes them; docs/writes-over-shards.md says how.
"""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import DateTime, Integer, Numeric, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import MONEY
from app.models.mes import MesBase
from sharding.keys import reference_table, reference_tables

RATE = Numeric(10, 4)


class MesMaterial(MesBase):
    """A metal that the factory casts, and what it costs."""

    __tablename__ = "materials"
    __table_args__ = {"info": reference_table()}  # noqa: RUF012

    material: Mapped[str] = mapped_column(Text, primary_key=True)
    density_g_per_cm3: Mapped[Decimal] = mapped_column(RATE)
    eur_per_g: Mapped[Decimal] = mapped_column(RATE)
    loss: Mapped[Decimal] = mapped_column(RATE)


class MesFinish(MesBase):
    """How the surface is worked after casting, and what that costs."""

    __tablename__ = "finishes"
    __table_args__ = {"info": reference_table()}  # noqa: RUF012

    finish: Mapped[str] = mapped_column(Text, primary_key=True)
    eur_per_cm2: Mapped[Decimal] = mapped_column(RATE)


class MesTariff(MesBase):
    """The rates that do not depend on material and finish."""

    __tablename__ = "tariffs"
    __table_args__ = {"info": reference_table()}  # noqa: RUF012

    tariff: Mapped[str] = mapped_column(Text, primary_key=True)
    tree_eur_per_cm3: Mapped[Decimal] = mapped_column(RATE)
    machine_seconds_per_1000_polygons: Mapped[Decimal] = mapped_column(RATE)
    machine_eur_per_hour: Mapped[Decimal] = mapped_column(RATE)
    minimum_eur: Mapped[Decimal] = mapped_column(MONEY)


class ReferenceVersion(MesBase):
    """Which version of a reference table this shard holds, and the checksum of its rows."""

    __tablename__ = "reference_versions"

    table_name: Mapped[str] = mapped_column(Text, primary_key=True)
    version: Mapped[int] = mapped_column(Integer)
    checksum: Mapped[str] = mapped_column(Text)
    applied_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


REFERENCE_TABLES = reference_tables(MesBase.metadata)
"""The reference tables, in the order in which they are loaded."""
