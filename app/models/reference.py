"""Reference tables of the MES shards: small, alike on every shard, written by version through the directory.

`mesctl shards reference load` writes them; docs/explanation/writes-over-shards.md says how.
"""

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import CheckConstraint, Numeric, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import MONEY
from app.models.mes import MesBase
from sharding.keys import reference_table, reference_tables
from sharding.writes.reference import NumberBounds

RATE = Numeric(10, 4)


class Material(StrEnum):
    """A metal that the factory casts. The value stands in the database, in messages and in JSON."""

    GOLD_18K = "gold_18k"
    GOLD_14K = "gold_14k"
    SILVER_925 = "silver_925"
    PLATINUM_950 = "platinum_950"
    BRASS = "brass"


class Finish(StrEnum):
    """How the surface is worked after casting."""

    POLISHED = "polished"
    MATTE = "matte"
    BRUSHED = "brushed"
    HAMMERED = "hammered"


PRICE = NumberBounds(Decimal(0), Decimal(100_000))
BOUNDS: Mapping[str, Mapping[str, NumberBounds]] = {
    "materials": {
        # A metal that weighs nothing would cost nothing; the densest has 22.6 g/cm³.
        "density_g_per_cm3": NumberBounds(Decimal(1), Decimal(30)),
        "eur_per_g": PRICE,
        # What is melted for a gram of the piece.
        "loss": NumberBounds(Decimal(1), Decimal(100)),
    },
    "finishes": {"eur_per_cm2": PRICE},
    "tariffs": {
        "tree_eur_per_cm3": PRICE,
        "machine_seconds_per_1000_polygons": PRICE,
        "machine_eur_per_hour": PRICE,
        "minimum_eur": PRICE,
    },
}
"""The numbers of the price list, by table and column; the tables have the same as CHECKs."""


def _checks(table: str) -> tuple[CheckConstraint, ...]:
    return tuple(
        CheckConstraint(bounds.as_check(column), name=f"{column}_bounds")
        for column, bounds in BOUNDS[table].items()
    )


class MesMaterial(MesBase):
    """A metal that the factory casts, and what it costs."""

    __tablename__ = "materials"
    __table_args__ = (*_checks("materials"), {"info": reference_table()})

    material: Mapped[str] = mapped_column(Text, primary_key=True)
    density_g_per_cm3: Mapped[Decimal] = mapped_column(RATE)
    eur_per_g: Mapped[Decimal] = mapped_column(RATE)
    loss: Mapped[Decimal] = mapped_column(RATE)


class MesFinish(MesBase):
    """How the surface is worked after casting, and what that costs."""

    __tablename__ = "finishes"
    __table_args__ = (*_checks("finishes"), {"info": reference_table()})

    finish: Mapped[str] = mapped_column(Text, primary_key=True)
    eur_per_cm2: Mapped[Decimal] = mapped_column(RATE)


class MesTariff(MesBase):
    """The rates that do not depend on material and finish."""

    __tablename__ = "tariffs"
    __table_args__ = (*_checks("tariffs"), {"info": reference_table()})

    tariff: Mapped[str] = mapped_column(Text, primary_key=True)
    tree_eur_per_cm3: Mapped[Decimal] = mapped_column(RATE)
    machine_seconds_per_1000_polygons: Mapped[Decimal] = mapped_column(RATE)
    machine_eur_per_hour: Mapped[Decimal] = mapped_column(RATE)
    minimum_eur: Mapped[Decimal] = mapped_column(MONEY)


REFERENCE_TABLES = reference_tables(MesBase.metadata)
"""The reference tables, in the order in which they are loaded."""

for _table in REFERENCE_TABLES:
    for _column, _bounds in BOUNDS[_table.name].items():
        _table.c[_column].info.update(_bounds.as_info())
