"""What a piece costs, from its measures. Pure; docs/explanation/pricing.md explains it with a worked example.

Money is Decimal from the first factor to the last, and is rounded once, half up, at the unit price: the total
is then what a customer gets who multiplies.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType
from typing import TypeVar

from sqlalchemy import select

from app.models.reference import BOUNDS, Finish, Material, MesFinish, MesMaterial, MesTariff
from app.pricing.errors import BadRate, TooExpensive, UnknownChoice
from app.pricing.measurement import Measurement
from readreplica.sessions import AnySession

CENT = Decimal("0.01")
MEASURED = Decimal("0.001")
"""Measures count to a thousandth of a mm, mm² or mm³: what is beyond is the mesh's rounding."""
MM2_PER_CM2 = Decimal(100)
MM3_PER_CM3 = Decimal(1000)
LIMIT_EUR = 10**10
"""What the order's price has no room for: NUMERIC(12, 2)."""

Rate = TypeVar("Rate")


@dataclass(frozen=True, kw_only=True)
class Metal:
    """What casting in a metal takes.

    Parameters:
        density_g_per_cm3: of the alloy.
        eur_per_g: price of the alloy.
        loss: grams that are melted for each gram of the piece; the rest is sprue and filings.
    """

    density_g_per_cm3: Decimal
    eur_per_g: Decimal
    loss: Decimal

    def __post_init__(self) -> None:
        """Refuse a number that would make prices nonsense.

        Raises:
            BadRate: it is not finite, or out of bounds.
        """
        _check("materials", vars(self))


@dataclass(frozen=True, kw_only=True)
class Tariff:
    """The rates of a price list.

    Parameters:
        metals: by material.
        finish_eur_per_cm2: work on the surface, by finish.
        tree_eur_per_cm3: room on the casting tree, for the bounding box.
        machine_seconds_per_1000_polygons: time of the wax printer's preparation.
        machine_eur_per_hour: what that time costs.
        minimum_eur: the least that a piece costs.
    """

    metals: Mapping[str, Metal]
    finish_eur_per_cm2: Mapping[str, Decimal]
    tree_eur_per_cm3: Decimal
    machine_seconds_per_1000_polygons: Decimal
    machine_eur_per_hour: Decimal
    minimum_eur: Decimal

    def __post_init__(self) -> None:
        """Refuse a number that would make prices nonsense.

        Raises:
            BadRate: it is not finite, or out of bounds.
        """
        _check("tariffs", vars(self))
        for finish, rate in self.finish_eur_per_cm2.items():
            _check("finishes", {"eur_per_cm2": rate}, of=f"{finish}: ")


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of a line, in euros.

    Parameters:
        unit_eur: one piece.
        quantity: how many pieces.
    """

    unit_eur: Decimal
    quantity: int
    total_eur: Decimal = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total_eur", self.unit_eur * self.quantity)


def _check(table: str, rates: Mapping[str, object], *, of: str = "") -> None:
    for name, bounds in BOUNDS[table].items():
        rate = rates[name]
        assert isinstance(rate, Decimal)
        if fault := bounds.fault(rate):
            raise BadRate(f"{of}{name}", fault)


def _metal(density_g_per_cm3: str, eur_per_g: str, loss: str) -> Metal:
    return Metal(
        density_g_per_cm3=Decimal(density_g_per_cm3), eur_per_g=Decimal(eur_per_g), loss=Decimal(loss)
    )


TARIFF = Tariff(
    metals=MappingProxyType(
        {
            Material.GOLD_18K: _metal("15.50", "78.00", "1.06"),
            Material.GOLD_14K: _metal("13.10", "61.00", "1.06"),
            Material.SILVER_925: _metal("10.36", "1.20", "1.10"),
            Material.PLATINUM_950: _metal("21.40", "41.00", "1.08"),
            Material.BRASS: _metal("8.50", "0.06", "1.15"),
        }
    ),
    finish_eur_per_cm2=MappingProxyType(
        {
            Finish.POLISHED: Decimal("1.40"),
            Finish.MATTE: Decimal("0.90"),
            Finish.BRUSHED: Decimal("1.10"),
            Finish.HAMMERED: Decimal("2.20"),
        }
    ),
    tree_eur_per_cm3=Decimal("0.80"),
    machine_seconds_per_1000_polygons=Decimal("1.5"),
    machine_eur_per_hour=Decimal("36.00"),
    minimum_eur=Decimal("12.00"),
)
"""The price list in force."""


def price(
    measured: Measurement, *, material: str, finish: str, quantity: int, tariff: Tariff = TARIFF
) -> Price:
    """Price one line of an order.

    Parameters:
        measured: the measures of the model.
        material: a key of the tariff's metals.
        finish: a key of the tariff's finishes.
        quantity: how many pieces, at least 1.
        tariff: the price list.

    Returns:
        the price of a piece and of the line, in euros and cents.

    Raises:
        UnknownChoice: the tariff has no such material or finish.
        TooExpensive: the line costs more than can be written down.
    """
    metal = _chosen("material", material, tariff.metals)
    rate_eur_per_cm2 = _chosen("finish", finish, tariff.finish_eur_per_cm2)
    unit = (
        metal_eur(measured, metal)
        + finish_eur(measured, rate_eur_per_cm2)
        + tree_eur(measured, tariff)
        + machine_eur(measured, tariff)
    )
    unit_eur = max(unit, tariff.minimum_eur).quantize(CENT, rounding=ROUND_HALF_UP)
    if unit_eur * quantity >= LIMIT_EUR:
        raise TooExpensive(LIMIT_EUR)
    return Price(unit_eur=unit_eur, quantity=quantity)


def explain(
    measured: Measurement, *, material: str, finish: str, tariff: Tariff, with_price: bool = True
) -> dict[str, float | list[float] | str]:
    """Return the measures of a piece and the parts of its price, as an order's history keeps them.

    Parameters:
        measured: the measures of the model.
        material: a key of the tariff's metals.
        finish: a key of the tariff's finishes.
        tariff: the price list.
        with_price: False leaves the parts out, where the price is another than that of the price list.
    """
    metal = tariff.metals[material]
    found: dict[str, float | list[float] | str] = {
        "box_mm": [round(side, 2) for side in measured.extents_mm],
        "volume_mm3": round(measured.volume_mm3, 2),
        "area_mm2": round(measured.area_mm2, 2),
        "polygons": measured.polygons,
    }
    if not with_price:
        return found
    parts = {
        "metal_eur": metal_eur(measured, metal),
        "finish_eur": finish_eur(measured, tariff.finish_eur_per_cm2[finish]),
        "tree_eur": tree_eur(measured, tariff),
        "machine_eur": machine_eur(measured, tariff),
    }
    if sum(parts.values()) < tariff.minimum_eur:
        parts["minimum_eur"] = tariff.minimum_eur
    grams = metal_grams(measured, metal).quantize(CENT, rounding=ROUND_HALF_UP)
    cents = {name: f"{part.quantize(CENT, rounding=ROUND_HALF_UP):f}" for name, part in parts.items()}
    return {**found, "metal_grams": float(grams), **cents}


def metal_eur(measured: Measurement, metal: Metal) -> Decimal:
    """Price the metal that is melted for the piece."""
    return metal_grams(measured, metal) * metal.eur_per_g


def metal_grams(measured: Measurement, metal: Metal) -> Decimal:
    """Weigh the metal that is melted for the piece, with what is lost of it."""
    return _decimal(measured.volume_mm3) / MM3_PER_CM3 * metal.density_g_per_cm3 * metal.loss


def finish_eur(measured: Measurement, rate_eur_per_cm2: Decimal) -> Decimal:
    """Price the work on the surface."""
    return _decimal(measured.area_mm2) / MM2_PER_CM2 * rate_eur_per_cm2


def tree_eur(measured: Measurement, tariff: Tariff) -> Decimal:
    """Price the room that the piece takes on the casting tree."""
    x, y, z = (_decimal(side) for side in measured.extents_mm)
    return x * y * z / MM3_PER_CM3 * tariff.tree_eur_per_cm3


def machine_eur(measured: Measurement, tariff: Tariff) -> Decimal:
    """Price the time that the wax printer's preparation takes over the polygons."""
    seconds = Decimal(measured.polygons) / 1000 * tariff.machine_seconds_per_1000_polygons
    return seconds / 3600 * tariff.machine_eur_per_hour


def _chosen(what: str, choice: str, rates: Mapping[str, Rate]) -> Rate:
    if choice not in rates:
        raise UnknownChoice(what, choice, rates)
    return rates[choice]


def _decimal(measure: float) -> Decimal:
    return Decimal(measure).quantize(MEASURED, rounding=ROUND_HALF_UP)


def tariff_version(tariff: Tariff, *, materials: Collection[str], finishes: Collection[str]) -> str:
    """Name the rates that an order's price has in it: of its metals and finishes, and those of any piece.

    It changes if and only if one of them does. Rates are compared as numbers: 1.4 is 1.40.
    """
    rates: dict[str, Decimal] = {}
    for material in materials:
        metal = _chosen("material", material, tariff.metals)
        rates |= {f"{material} {name}": rate for name, rate in vars(metal).items()}
    rates |= {f"finish {each}": _chosen("finish", each, tariff.finish_eur_per_cm2) for each in finishes}
    rates |= {name: rate for name, rate in vars(tariff).items() if isinstance(rate, Decimal)}
    lines = "\n".join(f"{name} {rate.normalize():f}" for name, rate in sorted(rates.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:VERSION_LETTERS]


VERSION_LETTERS = 12

IN_FORCE = "standard"
"""The name of the tariff that prices orders."""


async def read_tariff(session: AnySession) -> Tariff:
    """Read the price list of a shard, from one snapshot: the session is a reader's.

    Returns:
        the price list; the built-in one as long as none was loaded.
    """
    rates = await session.get(MesTariff, IN_FORCE)
    if rates is None:
        return TARIFF
    metals = (await session.scalars(select(MesMaterial))).all()
    finishes = (await session.scalars(select(MesFinish))).all()
    return Tariff(
        metals={
            metal.material: Metal(
                density_g_per_cm3=metal.density_g_per_cm3, eur_per_g=metal.eur_per_g, loss=metal.loss
            )
            for metal in metals
        },
        finish_eur_per_cm2={finish.finish: finish.eur_per_cm2 for finish in finishes},
        tree_eur_per_cm3=rates.tree_eur_per_cm3,
        machine_seconds_per_1000_polygons=rates.machine_seconds_per_1000_polygons,
        machine_eur_per_hour=rates.machine_eur_per_hour,
        minimum_eur=rates.minimum_eur,
    )
