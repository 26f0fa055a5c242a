"""The price list in force: the reference tables of the order's shard."""

from sqlalchemy import select

from app.models.reference import MesFinish, MesMaterial, MesTariff
from app.pricing.tariff import TARIFF, Metal, Tariff
from readreplica.sessions import AnySession

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
