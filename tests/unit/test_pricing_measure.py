"""Measuring, in this process: known solids, and whatever else a file may hold."""

import math
import struct
from collections.abc import Callable
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.console.demo.bad_shapes import bad_shapes
from app.console.demo.shapes import (
    Mesh,
    Shape,
    band_ring,
    good_shapes,
    obj,
    round_ring,
    stl_ascii,
    stl_binary,
    threemf,
    threemf_model,
    threemf_package,
)
from app.files import MODEL_SUFFIXES
from app.pricing import reading
from app.pricing.measure import measure
from app.pricing.measurement import Measurement, Outcome, Unmeasurable

RING = round_ring(radius_mm=9, wire_mm=2)
BOX: Mesh = (
    [(x, y, z) for x in (0.0, 10.0) for y in (0.0, 20.0) for z in (0.0, 30.0)],
    [
        (0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1),
        (2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3),
    ],
)  # fmt: skip
WRITERS: dict[str, tuple[str, Callable[[Mesh], bytes]]] = {
    "stl": ("stl", stl_binary),
    "stl-ascii": ("stl", stl_ascii),
    "obj": ("obj", obj),
    "3mf": ("3mf", lambda mesh: threemf([mesh])),
}
BAD = {(shape.name, shape.suffix): shape.data for shape in bad_shapes()}
every_format = pytest.mark.parametrize(("suffix", "write"), WRITERS.values(), ids=WRITERS)


def moved(mesh: Mesh, x: float) -> Mesh:
    return [(a + x, b, c) for a, b, c in mesh[0]], mesh[1]


def joined(*meshes: Mesh) -> Mesh:
    """Several bodies in one mesh."""
    points = [point for mesh in meshes for point in mesh[0]]
    offsets = [sum(len(mesh[0]) for mesh in meshes[:number]) for number in range(len(meshes))]
    return points, [
        (a + offset, b + offset, c + offset)
        for mesh, offset in zip(meshes, offsets, strict=True)
        for a, b, c in mesh[1]
    ]


def inverted(mesh: Mesh) -> Mesh:
    return mesh[0], [(a, c, b) for a, b, c in mesh[1]]


def measured(outcome: Outcome) -> Measurement:
    assert isinstance(outcome, Measurement), outcome
    return outcome


def reason(outcome: Outcome) -> str:
    assert isinstance(outcome, Unmeasurable), outcome
    assert outcome.final
    return outcome.reason


@every_format
def test_a_box_is_measured_exactly(suffix: str, write: Callable[[Mesh], bytes]) -> None:
    found = measured(measure(write(BOX), suffix=suffix))
    assert found.volume_mm3 == pytest.approx(6000)
    assert found.area_mm2 == pytest.approx(2200)
    assert found.extents_mm == pytest.approx((10, 20, 30))
    assert found.polygons == 12


@every_format
def test_a_torus_has_the_volume_of_its_formula(suffix: str, write: Callable[[Mesh], bytes]) -> None:
    found = measured(measure(write(RING), suffix=suffix))
    assert found.volume_mm3 == pytest.approx(2 * math.pi**2 * 9, rel=0.015)
    assert found.area_mm2 == pytest.approx(4 * math.pi**2 * 9, rel=0.015)


@every_format
def test_far_from_the_origin_it_is_the_same_piece(suffix: str, write: Callable[[Mesh], bytes]) -> None:
    assert measured(measure(write(moved(BOX, 5000)), suffix=suffix)).volume_mm3 == pytest.approx(6000)


@every_format
def test_a_piece_that_is_inside_out_as_a_whole_is_turned(suffix: str, write: Callable[[Mesh], bytes]) -> None:
    assert measured(measure(write(inverted(BOX)), suffix=suffix)).volume_mm3 == pytest.approx(6000)


@every_format
def test_bodies_are_added_up(suffix: str, write: Callable[[Mesh], bytes]) -> None:
    found = measured(measure(write(joined(BOX, moved(BOX, 40), moved(BOX, 80))), suffix=suffix))
    assert found.volume_mm3 == pytest.approx(18000)
    assert found.extents_mm == pytest.approx((90, 20, 30))


@every_format
def test_an_inverted_body_does_not_make_its_neighbour_cheaper(
    suffix: str, write: Callable[[Mesh], bytes]
) -> None:
    trick = joined(BOX, inverted(moved(BOX, 40)))
    assert reason(measure(write(trick), suffix=suffix)).startswith("Of 2 bodies, 1 are inside out.")


def test_bodies_of_a_3mf_may_touch() -> None:
    assert measured(measure(threemf([BOX, moved(BOX, 10)]), suffix="3mf")).volume_mm3 == pytest.approx(12000)


def test_bodies_of_a_3mf_within_each_other_are_not_sold_twice() -> None:
    assert reason(measure(threemf([BOX] * 3), suffix="3mf")).startswith(
        "The bodies overlap: they hold 18,000 mm³"
    )


@pytest.mark.parametrize(
    ("unit", "mm"),
    [("micron", 0.001), ("millimeter", 1), ("centimeter", 10), ("inch", 25.4), ("meter", 1000)],
)
def test_a_3mf_is_read_in_its_unit(unit: str, mm: float) -> None:
    points = [(x / mm, y / mm, z / mm) for x, y, z in BOX[0]]
    found = measured(measure(threemf([(points, BOX[1])], unit=unit), suffix="3mf"))
    assert found.volume_mm3 == pytest.approx(6000, rel=1e-6)


def test_nested_objects_are_placed_as_often_as_they_are_named() -> None:
    box = threemf_model_of(BOX)
    row = '<component objectid="1"/><component objectid="1" transform="1 0 0 0 1 0 0 0 1 40 0 0"/>'
    nested = f'{box}<object id="2"><components>{row}</components></object>'
    items = '<item objectid="2"/><item objectid="1" transform="1 0 0 0 1 0 0 0 1 80 0 0"/>'
    found = measured(measure(threemf_package(threemf_model(nested, items)), suffix="3mf"))
    assert found.volume_mm3 == pytest.approx(18000)
    assert found.polygons == 36


def threemf_model_of(mesh: Mesh) -> str:
    points = "".join(f'<vertex x="{x}" y="{y}" z="{z}"/>' for x, y, z in mesh[0])
    faces = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in mesh[1])
    return f'<object id="1"><mesh><vertices>{points}</vertices><triangles>{faces}</triangles></mesh></object>'


def test_an_assembly_of_many_levels_is_followed_to_its_end() -> None:
    levels = [threemf_model_of(BOX)]
    for number, step in ((2, "11 0 0"), (3, "0 21 0"), (4, "0 0 31")):
        shifts = (" ".join(str(int(side) * turn) for side in step.split()) for turn in range(5))
        parts = "".join(
            f'<component objectid="{number - 1}" transform="1 0 0 0 1 0 0 0 1 {shift}"/>' for shift in shifts
        )
        levels.append(f'<object id="{number}"><components>{parts}</components></object>')
    half = '<item objectid="4" transform="0.5 0 0 0 0.5 0 0 0 0.5 7 7 7"/>'
    found = measured(measure(threemf_package(threemf_model("".join(levels), half)), suffix="3mf"))
    assert found.volume_mm3 == pytest.approx(125 * 6000 / 8)
    assert found.extents_mm == pytest.approx((27, 52, 77))


def test_one_skin_in_several_groups_is_one_skin() -> None:
    head, *tail = obj(BOX).decode().splitlines()
    faces = [line for line in tail if line.startswith("f ")]
    points = [line for line in tail if line.startswith("v ")]
    grouped = "\n".join([head, *points, "usemtl gold", *faces[:5], "g lid", "usemtl silver", *faces[5:]])
    assert measured(measure(grouped.encode(), suffix="obj")).volume_mm3 == pytest.approx(6000)


def test_an_obj_may_carry_textures_normals_and_colours() -> None:
    points = [f"v {x} {y} {z} 0.5 0.5 0.5" for x, y, z in BOX[0]]
    extras = ["vt 0 0", "vt 1 0", "vt 1 1", "vn 0 0 1", "mtllib shiny.mtl", "usemtl shiny"]
    faces = [f"f {a + 1}/1/1 {b + 1}/2/1 {c + 1}/3/1" for a, b, c in BOX[1]]
    text = "\n".join([*points, *extras, *faces, ""])
    assert measured(measure(text.encode(), suffix="obj")).volume_mm3 == pytest.approx(6000)


def test_a_name_in_latin_1_does_no_harm() -> None:
    data = stl_ascii(BOX, name="Anhänger").decode().encode("latin-1")
    assert measured(measure(data, suffix="stl")).volume_mm3 == pytest.approx(6000)


def test_degenerate_faces_of_an_exporter_are_overlooked() -> None:
    with_slivers = (BOX[0], [*BOX[1], (0, 0, 1), (3, 3, 3)])
    found = measured(measure(stl_binary(with_slivers), suffix="stl"))
    assert found.volume_mm3 == pytest.approx(6000)


def test_too_many_polygons_are_counted_before_they_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_POLYGONS", 11)
    assert reason(measure(stl_binary(BOX), suffix="stl")) == (
        "The model has 12 polygons; reduce it to at most 11."
    )


@pytest.mark.parametrize(
    ("name", "suffix", "said"),
    [
        ("empty", "stl", "The file is empty. Upload it again."),
        ("cut-off", "3mf", "The file is damaged or cut off, or its content is not 3MF."),
        ("a-letter", "stl", "The file is damaged or cut off, or its content is not STL."),
        ("points-only", "obj", "No surface was found in the OBJ file"),
        ("holes", "stl", "The model has holes: 16 edges belong to one face only."),
        ("doubled", "stl", "Surfaces touch or repeat: 6,912 edges belong to more than two faces."),
        (
            "turned-face",
            "obj",
            "Some faces point inwards and others outwards: neighbours disagree at 3 edges.",
        ),
        ("inverted-neighbour", "stl", "Of 2 bodies, 1 are inside out."),
        ("not-a-number", "obj", "The model has 1 points without a position (NaN or infinite)."),
        ("collapsed", "stl", "The model encloses 0 mm³; at least 0.5 mm³ are needed to cast it."),
        ("in-metres", "stl", "The model is 0.02 mm long; it must be at least 2 mm. Check the unit"),
        ("in-metres", "3mf", "The model is 20,000 mm long; jewellery is cast up to 150 mm. Check the unit"),
        ("beyond-numbers", "obj", "The model is 2e+301 mm long"),
        ("component-bomb", "3mf", "The 3MF file places 1.1e+12 bodies; at most 1,000 are read."),
        ("zip-bomb", "3mf", "The 3MF file unpacks to 300 MiB; at most 256 MiB are read."),
        ("entity-bomb", "3mf", "The 3MF file cannot be read: it has a document type declaration"),
    ],
)
def test_the_customer_reads_what_is_wrong(name: str, suffix: str, said: str) -> None:
    assert reason(measure(BAD[name, suffix], suffix=suffix)).startswith(said)


SAMPLES = {
    "stl": stl_binary(band_ring(radius_mm=9, width_mm=3, thickness_mm=2, segments=6)),
    "stl-ascii": stl_ascii(band_ring(radius_mm=9, width_mm=3, thickness_mm=2, segments=6)),
    "obj": obj(BOX),
    "3mf": threemf([BOX]),
}


@given(st.binary(max_size=400), st.sampled_from(MODEL_SUFFIXES))
def test_random_bytes_are_no_model(data: bytes, suffix: str) -> None:
    assert reason(measure(data, suffix=suffix))


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_a_mutilated_file_never_raises(sample: str, draw: st.DataObject) -> None:
    data = bytearray(SAMPLES[sample])
    for _ in range(draw.draw(st.integers(1, 4), label="wounds")):
        place = draw.draw(st.integers(0, len(data)), label="place")
        length = draw.draw(st.integers(0, 40), label="length")
        data[place : place + length] = draw.draw(st.binary(max_size=40), label="instead")
    outcome = measure(bytes(data), suffix=sample.partition("-")[0])
    if isinstance(outcome, Measurement):
        assert outcome.volume_mm3 > 0
        assert all(side <= 150 for side in outcome.extents_mm)


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_a_file_that_was_cut_off_never_raises(sample: str, draw: st.DataObject) -> None:
    length = draw.draw(st.integers(0, len(SAMPLES[sample]) - 1))
    measure(SAMPLES[sample][:length], suffix=sample.partition("-")[0])


@given(st.lists(st.tuples(*[st.floats(width=32)] * 9), min_size=1, max_size=8))
def test_triangles_of_any_numbers_never_raise(triangles: list[tuple[float, ...]]) -> None:
    records = b"".join(struct.pack("<12fH", 0, 0, 0, *corners, 0) for corners in triangles)
    assert reason(measure(b"".ljust(80) + struct.pack("<I", len(triangles)) + records, suffix="stl"))


GOOD = list(islice(good_shapes(seed=7), 40))


@pytest.mark.parametrize("shape", GOOD, ids=[f"{shape.name}.{shape.suffix}" for shape in GOOD])
def test_every_piece_of_the_demo_can_be_priced(shape: Shape) -> None:
    found = measured(measure(shape.data, suffix=shape.suffix))
    assert 10 < found.volume_mm3 < 5000
