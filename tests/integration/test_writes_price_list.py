"""Orders are priced by the reference tables of their shard."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from sqlalchemy import select

from app.models.mes import MesOrderItem
from app.models.reference import MesFinish, MesMaterial
from app.pricing.measurement import Measurement
from app.pricing.tariff import TARIFF, price, read_tariff
from ops.shards import reference_tables
from sharding.sessions import ShardedSessions
from tests.integration.writes_rig import SHARDS, Wide
from tests.project import MES, PRICE_LIST

CUBE = Measurement(volume_mm3=1000.0, area_mm2=600.0, extents_mm=(10.0, 10.0, 10.0), polygons=12)


async def test_every_shard_prices_by_what_was_loaded(wide: Wide, wide_sessions: ShardedSessions) -> None:
    async def tariffs() -> list[Any]:
        found = []
        for shard in SHARDS:
            async with wide_sessions.clusters[shard].write() as session:
                found.append(await read_tariff(session))
        return found

    assert await tariffs() == [TARIFF] * 3  # nothing was loaded yet
    rows = reference_tables.read_file(PRICE_LIST, MES)
    await reference_tables.load(wide.topology, MES, rows)
    assert (
        await tariffs()
        == [replace(TARIFF, metals=dict(TARIFF.metals), finish_eur_per_cm2=dict(TARIFF.finish_eur_per_cm2))]
        * 3
    )
    dearer = [
        {**row, "eur_per_g": Decimal(2) if row["material"] == "brass" else row["eur_per_g"]}
        for row in rows["materials"]
    ]
    await reference_tables.load(wide.topology, MES, {"materials": dearer})
    before = price(CUBE, material="brass", finish="matte", quantity=1)
    for tariff in await tariffs():
        after = price(CUBE, material="brass", finish="matte", quantity=1, tariff=tariff)
        # 8.5 g, and 15 % loss
        assert after.unit_eur - before.unit_eur > 0
        assert tariff.metals["gold_18k"] == TARIFF.metals["gold_18k"]


async def test_a_scattered_select_joins_the_price_list(wide: Wide, wide_sessions: ShardedSessions) -> None:
    await reference_tables.load(wide.topology, MES, reference_tables.read_file(PRICE_LIST, MES))
    rest = {"line_no": 1, "finish": "matte", "quantity": 1, "model_key": "k", "model_name": "ring.stl"}
    metals = ["brass", "gold_18k"] * 20
    items = [{"order_id": key, "material": metal, **rest} for key, metal in enumerate(metals)]
    report = await wide_sessions.bulk(MesOrderItem, items)
    assert set(report.shards) == set(SHARDS)
    dear = (
        select(MesOrderItem.order_id, MesMaterial.eur_per_g, MesFinish.eur_per_cm2)
        .join(MesMaterial, MesMaterial.material == MesOrderItem.material)
        .join(MesFinish, MesFinish.finish == MesOrderItem.finish)
        .where(MesMaterial.eur_per_g > 1)
        .order_by(MesMaterial.eur_per_g, MesOrderItem.order_id)
    )
    page = await wide_sessions.scatter(dear, limit=50, after=report.token)
    gold, matte = TARIFF.metals["gold_18k"].eur_per_g, TARIFF.finish_eur_per_cm2["matte"]
    assert [tuple(row) for row in page.rows] == [(key, gold, matte) for key in range(1, 40, 2)]
