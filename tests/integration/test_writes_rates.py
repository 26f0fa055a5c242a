"""Numbers of the price list: nonsense is refused by the tool, by pricing and by every shard."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.models.reference import BOUNDS
from app.pricing.errors import BadRate, TooExpensive
from app.pricing.measurement import Measurement
from app.pricing.tariff import TARIFF, price
from ops.errors import ChangeRefused
from ops.shards import reference_tables
from ops.shards.reference_tables import FileUnusable
from tests.integration.writes_rig import SHARDS, Wide
from tests.project import MES

pytestmark = pytest.mark.field

NAMES = {"materials": "material", "finishes": "finish", "tariffs": "tariff"}
COLUMNS = [(table, column) for table, bounds in BOUNDS.items() for column in bounds]
BAD = ["nan", "-nan", "inf", "-inf", "-0.0001", "1e5", "1e300", "0.12345", "true"]
every_column = pytest.mark.parametrize(("table", "column"), COLUMNS)


def toml(table: str, column: str, value: str) -> str:
    numbers = "".join(f"{name} = {value if name == column else 1}\n" for name in BOUNDS[table])
    return f'[[{table}]]\n{NAMES[table]} = "x"\n{numbers}'


@every_column
@pytest.mark.parametrize("value", [*BAD, '"NaN"', '"-1"', '"Infinity"'])
def test_a_file_with_such_a_number_is_not_read(table: str, column: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(toml(table, column, value))
    with pytest.raises(FileUnusable, match=rf"prices\.toml: {table}, row 1: {column} is "):
        reference_tables.read_file(path, MES)


@every_column
@pytest.mark.parametrize("value", ["1", "1.01", "29.99", '"2.50"'])
def test_other_numbers_are_read(table: str, column: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(toml(table, column, value))
    assert reference_tables.read_file(path, MES)


async def test_nothing_is_published_of_rows_with_such_a_number(wide: Wide) -> None:
    for number in (Decimal("NaN"), Decimal(-1), Decimal(100_000)):
        rows: list[dict[str, Any]] = [{"finish": "matte", "eur_per_cm2": number}]
        with pytest.raises(ChangeRefused, match="row 1: eur_per_cm2 is"):
            await reference_tables.load(wide.topology, MES, {"finishes": rows})
    assert await reference_tables.is_unpublished(wide.topology, MES)


@every_column
async def test_no_shard_takes_such_a_number(wide: Wide, table: str, column: str) -> None:
    numbers = dict.fromkeys(BOUNDS[table], "1")
    for value in ("NaN", "-1", "100000"):
        values = ", ".join(f"'{number}'" for number in ("x", *(numbers | {column: value}).values()))
        for shard in SHARDS:
            with pytest.raises(psycopg.errors.CheckViolation, match=f"{table}_{column}_bounds_check"):
                wide.run(
                    shard, f"INSERT INTO {table} ({NAMES[table]}, {', '.join(numbers)}) VALUES ({values})"
                )


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "-0.01", "100000"])
def test_pricing_takes_no_such_tariff(number: str) -> None:
    bad = Decimal(number)
    with pytest.raises(BadRate, match="minimum_eur is"):
        replace(TARIFF, minimum_eur=bad)
    with pytest.raises(BadRate, match="matte: eur_per_cm2 is"):
        replace(TARIFF, finish_eur_per_cm2={"matte": bad})
    with pytest.raises(BadRate, match="density_g_per_cm3 is"):
        replace(TARIFF.metals["brass"], density_g_per_cm3=bad)


def test_a_price_that_has_no_room_is_refused_with_a_sentence() -> None:
    block = Measurement(volume_mm3=3e6, area_mm2=1e5, extents_mm=(150, 150, 150), polygons=12)
    dear = replace(TARIFF, metals={"brass": replace(TARIFF.metals["brass"], eur_per_g=Decimal("99999.9999"))})
    with pytest.raises(TooExpensive, match="10,000,000,000 EUR or more"):
        price(block, material="brass", finish="matte", quantity=1_000, tariff=dear)
