"""Orders are priced by the reference tables of their shard."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from app.pricing.measurement import Measurement
from app.pricing.price_list import read_tariff
from app.pricing.tariff import TARIFF, price
from ops import reference_tables
from sharding.sessions import ShardedSessions
from tests.integration.writes_rig import SHARDS, Wide

CUBE = Measurement(volume_mm3=1000.0, area_mm2=600.0, extents_mm=(10.0, 10.0, 10.0), polygons=12)


async def test_every_shard_prices_by_what_was_loaded(wide: Wide, wide_sessions: ShardedSessions) -> None:
    async def tariffs() -> list[Any]:
        found = []
        for shard in SHARDS:
            async with wide_sessions.clusters[shard].write() as session:
                found.append(await read_tariff(session))
        return found

    assert await tariffs() == [TARIFF] * 3  # nothing was loaded yet
    rows = reference_tables.read_file(reference_tables.PRICE_LIST)
    await reference_tables.load(wide.topology, rows)
    assert (
        await tariffs()
        == [replace(TARIFF, metals=dict(TARIFF.metals), finish_eur_per_cm2=dict(TARIFF.finish_eur_per_cm2))]
        * 3
    )
    dearer = [
        {**row, "eur_per_g": Decimal(2) if row["material"] == "brass" else row["eur_per_g"]}
        for row in rows["materials"]
    ]
    await reference_tables.load(wide.topology, {"materials": dearer})
    before = price(CUBE, material="brass", finish="matte", quantity=1)
    for tariff in await tariffs():
        after = price(CUBE, material="brass", finish="matte", quantity=1, tariff=tariff)
        # 8.5 g, and 15 % loss
        assert after.unit_eur - before.unit_eur > 0
        assert tariff.metals["gold_18k"] == TARIFF.metals["gold_18k"]
