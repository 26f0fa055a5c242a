"""Prices: the documented example, and what holds for every price."""

import doctest
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.console.demo.shapes import band_ring, stl_binary
from app.models.reference import Finish, Material
from app.pricing.errors import UnknownChoice
from app.pricing.measurement import Measurement
from app.pricing.tariff import TARIFF, Metal, Tariff, explain, price

DOCUMENT = Path(__file__).parents[2] / "docs" / "explanation" / "pricing.md"

sides = st.floats(0.1, 150)
measurements = st.builds(
    Measurement,
    volume_mm3=st.floats(0.5, 3_000_000),
    area_mm2=st.floats(1, 1_000_000),
    extents_mm=st.tuples(sides, sides, sides),
    polygons=st.integers(4, 1_000_000),
)
materials, finishes, quantities = st.sampled_from(Material), st.sampled_from(Finish), st.integers(1, 1000)


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the table in the document whose first column is `heading`, by their first cell."""
    block = DOCUMENT.read_text().split(f"| {heading} |")[1].split("\n\n")[0]
    cells = [re.findall(r"[^|\s]+", line) for line in block.splitlines()[2:]]
    return {first: rest for first, *rest in cells}


def test_the_worked_example_of_the_document_is_right() -> None:
    ring = stl_binary(band_ring(radius_mm=9, width_mm=4, thickness_mm=2))
    outcome = doctest.testfile(str(DOCUMENT), module_relative=False, globs={"band_ring": ring})
    assert outcome.attempted >= 8
    assert outcome.failed == 0


def test_the_tables_of_the_document_are_the_price_list() -> None:
    assert rows("material") == {
        name.value: [str(metal.density_g_per_cm3), str(metal.eur_per_g), str(metal.loss)]
        for name, metal in zip(Material, TARIFF.metals.values(), strict=True)
    }
    assert rows("finish") == {
        name.value: [str(rate)] for name, rate in zip(Finish, TARIFF.finish_eur_per_cm2.values(), strict=True)
    }


def test_every_material_and_finish_has_a_rate() -> None:
    assert set(TARIFF.metals) == set(Material)
    assert set(TARIFF.finish_eur_per_cm2) == set(Finish)


@given(measurements, materials, finishes, quantities)
def test_a_price_is_in_cents_at_least_the_minimum_and_always_the_same(
    measured: Measurement, material: Material, finish: Finish, quantity: int
) -> None:
    line = price(measured, material=material, finish=finish, quantity=quantity)
    assert line.unit_eur >= TARIFF.minimum_eur
    assert line.unit_eur.as_tuple().exponent == -2
    assert line.total_eur == line.unit_eur * quantity
    assert line.total_eur < Decimal(10) ** 10, "must fit NUMERIC(12, 2)"
    assert price(measured, material=material, finish=finish, quantity=quantity) == line


@given(measurements, st.floats(0, 1_000_000), materials, finishes)
def test_more_metal_never_costs_less(
    measured: Measurement, more_mm3: float, material: Material, finish: Finish
) -> None:
    heavier = Measurement(
        volume_mm3=measured.volume_mm3 + more_mm3,
        area_mm2=measured.area_mm2,
        extents_mm=measured.extents_mm,
        polygons=measured.polygons,
    )
    options = {"material": material, "finish": finish, "quantity": 1}
    assert price(heavier, **options).unit_eur >= price(measured, **options).unit_eur  # type: ignore[arg-type]


def test_half_a_cent_is_rounded_up() -> None:
    free = Metal(density_g_per_cm3=Decimal(1), eur_per_g=Decimal(0), loss=Decimal(1))
    surface_only = Tariff(
        metals={"clay": free},
        finish_eur_per_cm2={"rough": Decimal(1)},
        tree_eur_per_cm3=Decimal(0),
        machine_seconds_per_1000_polygons=Decimal(0),
        machine_eur_per_hour=Decimal(0),
        minimum_eur=Decimal(0),
    )
    measured = Measurement(volume_mm3=1, area_mm2=2000.5, extents_mm=(3.0, 1.0, 1.0), polygons=12)
    line = price(measured, material="clay", finish="rough", quantity=3, tariff=surface_only)
    assert (line.unit_eur, line.total_eur) == (Decimal("20.01"), Decimal("60.03"))


@pytest.mark.parametrize(("material", "finish"), [("wood", "matte"), ("brass", "pink")])
def test_an_unknown_choice_is_named_with_the_known_ones(material: str, finish: str) -> None:
    measured = Measurement(volume_mm3=1, area_mm2=1, extents_mm=(3.0, 1.0, 1.0), polygons=12)
    with pytest.raises(
        UnknownChoice, match=r"There is no (material 'wood'|finish 'pink')\. Choose one of .*,"
    ):
        price(measured, material=material, finish=finish, quantity=1)


@given(measurements, materials, finishes)
def test_the_parts_of_a_price_are_the_price(
    measured: Measurement, material: Material, finish: Finish
) -> None:
    found = explain(measured, material=material, finish=finish, tariff=TARIFF)
    parts = sum(
        Decimal(str(found[name])) for name in found if name.endswith("_eur") and name != "minimum_eur"
    )
    unit = price(measured, material=material, finish=finish, quantity=1).unit_eur
    # Each is rounded by itself, and the price once.
    assert abs(max(parts, Decimal(str(found.get("minimum_eur", 0)))) - unit) <= Decimal("0.02")
    assert explain(measured, material=material, finish=finish, tariff=TARIFF, with_price=False).keys() == {
        "box_mm",
        "volume_mm3",
        "area_mm2",
        "polygons",
    }
