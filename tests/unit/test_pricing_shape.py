"""A piece is known again whatever file it comes in, and no other piece is taken for it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.console.demo import shapes
from app.console.demo.shapes import Mesh
from app.pricing.measure import READERS, examine
from app.pricing.measurement import (
    SAME_MM,
    SHAPES,
    Examined,
    KnownShape,
    Measurement,
    ShapeFacts,
    Unmeasurable,
    scale_between,
)
from app.pricing.shape import WeldedShape

FILES = ("stl", "ascii", "obj", "3mf")
SEEDS = st.integers(0, 2**32)


def ring(seed: int, *, radius: float = 9.0, segments: int = 24, corners: int = 7) -> Mesh:
    """Sweep a section of random corners: no two coordinates are alike."""
    random = Random(seed)
    section = [
        (
            radius + 1.5 * math.cos(math.tau * step / corners) + random.uniform(0, 0.3),
            2 * math.sin(math.tau * step / corners) + random.uniform(0, 0.3),
        )
        for step in range(corners)
    ]
    return shapes.sweep(lambda _: section, segments=segments)


def written(mesh: Mesh, form: str) -> tuple[bytes, str]:
    """Return a file and its suffix."""
    match form:
        case "stl":
            return shapes.stl_binary(mesh), "stl"
        case "ascii":
            return shapes.stl_ascii(mesh), "stl"
        case "obj":
            return shapes.obj(mesh), "obj"
        case _:
            return shapes.threemf([mesh]), "3mf"


def examined(mesh: Mesh, form: str = "stl", *known: KnownShape) -> Examined:
    data, suffix = written(mesh, form)
    return examine(data, suffix=suffix, recall=lambda _: known)


def kept(mesh: Mesh, form: str = "stl") -> KnownShape:
    shape = examined(mesh, form).shape
    assert shape is not None
    return shape


def moved(mesh: Mesh, by: Sequence[float]) -> Mesh:
    points, faces = mesh
    x, y, z = by
    return [(a + x, b + y, c + z) for a, b, c in points], faces


def shuffled(mesh: Mesh, seed: int) -> Mesh:
    """Return the mesh with other numbers of points, another order of faces, each beginning elsewhere."""
    random, (points, faces) = Random(seed), mesh
    numbers = list(range(len(points)))
    random.shuffle(numbers)
    places = {old: new for new, old in enumerate(numbers)}
    turned = [
        tuple(places[face[(step + turn) % 3]] for step in range(3))
        for face in faces
        for turn in [random.randrange(3)]
    ]
    random.shuffle(turned)
    return [points[number] for number in numbers], [(a, b, c) for a, b, c in turned]


@given(seed=SEEDS, first=st.sampled_from(FILES), second=st.sampled_from(FILES))
@settings(max_examples=60, deadline=None)
def test_format_order_and_place_do_not_count(seed: int, first: str, second: str) -> None:
    mesh = ring(seed)
    known = kept(mesh, first)
    offset = [Random(seed).uniform(-20, 20) for _ in range(3)]
    found = examined(moved(shuffled(mesh, seed), offset), second, known)
    assert found.recognised
    assert found.outcome == known.measured


@given(
    seed=SEEDS,
    by=st.sampled_from([2.5 * SAME_MM, 1e-3, 0.1]),
    side=st.integers(0, 2),
    form=st.sampled_from(FILES),
)
@settings(max_examples=60, deadline=None)
def test_a_point_that_moves_by_more_than_the_tolerance_makes_another_piece(
    seed: int, by: float, side: int, form: str
) -> None:
    points, faces = ring(seed)
    which = Random(seed).randrange(len(points))
    other = [list(point) for point in points]
    other[which][side] += by
    found = examined(([(x, y, z) for x, y, z in other], faces), form, kept((points, faces)))
    assert not found.recognised


@pytest.mark.parametrize(
    "name", ["rotated", "mirrored", "stretched", "inside out", "one more", "swapped edge"]
)
def test_another_piece_is_measured(name: str) -> None:
    points, faces = ring(1)
    turn = 0.3
    a, b = faces[0], faces[1]
    others: dict[str, Mesh] = {
        "rotated": (
            [
                (x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn), z)
                for x, y, z in points
            ],
            faces,
        ),
        "mirrored": ([(x, y, -z) for x, y, z in points], [(i, k, j) for i, j, k in faces]),
        "stretched": ([(x, y, 1.1 * z) for x, y, z in points], faces),
        "inside out": (points, [(i, k, j) for i, j, k in faces]),
        "one more": ring(1, segments=25),
        "swapped edge": (points, [*swapped(a, b), *faces[2:]]),
    }
    found = examined(others[name], "obj", kept((points, faces)))
    assert not found.recognised


def swapped(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int, int]]:
    """Divide the quadrangle of two triangles along its other diagonal."""
    (shared, other) = sorted(set(a) & set(b))
    (alone,) = set(a) - {shared, other}
    (opposite,) = set(b) - {shared, other}
    at = a.index(alone)
    first, second = a[(at + 1) % 3], a[(at + 2) % 3]
    return [(alone, first, opposite), (alone, opposite, second)]


@given(seed=SEEDS, scale=st.floats(0.55, 1.9), form=st.sampled_from(FILES))
@settings(max_examples=60, deadline=None)
def test_a_scaled_piece_follows_by_formula(seed: int, scale: float, form: str) -> None:
    points, faces = ring(seed)
    larger = [(x * scale, y * scale, z * scale) for x, y, z in points], faces
    found = examined(larger, form, kept((points, faces)))
    measured = examined(larger, form).outcome
    assert found.recognised
    assert isinstance(found.outcome, Measurement)
    assert isinstance(measured, Measurement)
    assert found.outcome.volume_mm3 == pytest.approx(measured.volume_mm3, rel=1e-5)
    assert found.outcome.area_mm2 == pytest.approx(measured.area_mm2, rel=1e-5)
    assert found.outcome.extents_mm == pytest.approx(measured.extents_mm, abs=1e-4)
    assert found.outcome.polygons == measured.polygons


def test_what_a_scaled_piece_becomes_is_checked_again() -> None:
    points, faces = ring(3, radius=60)
    larger = [(1.9 * x, 1.9 * y, 1.9 * z) for x, y, z in points], faces
    found = examined(larger, "obj", kept((points, faces)))
    assert isinstance(found.outcome, Unmeasurable)
    assert found.outcome == examined(larger, "obj").outcome


def test_a_piece_with_a_speck_of_dust_is_measured_in_each_size() -> None:
    """What is too flat to be a body is left out; scaled, it may be one, or be refused."""
    points, faces = ring(3)
    n = len(points)
    speck = [(0.0, 0.0, 0.0), (0.01, 0.0, 0.0), (0.0, 0.01, 0.0), (0.0, 0.0, 0.01)]
    mesh = (
        [*points, *speck],
        [*faces, *((n + a, n + b, n + c) for a, b, c in ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)))],
    )
    assert examined(mesh, "obj", kept(mesh)).recognised
    larger = [(1.5 * x, 1.5 * y, 1.5 * z) for x, y, z in mesh[0]], mesh[1]
    assert not examined(larger, "obj", kept(mesh)).recognised


@pytest.mark.parametrize("factor", ["volume_mm3", "area_mm2"])
def test_an_entry_that_is_not_true_is_not_believed(factor: str) -> None:
    """A reader that was taken over may have written it: what is added up anew must agree."""
    mesh = ring(2)
    known = kept(mesh)
    wrong = replace(known, measured=replace(known.measured, **{factor: getattr(known.measured, factor) / 2}))
    found = examined(mesh, "stl", wrong)
    assert not found.recognised
    assert found.outcome == known.measured


def test_bodies_of_a_3mf_are_one_piece_with_those_of_an_stl_unless_they_touch() -> None:
    one, other = ring(4), moved(ring(5), (30, 0, 0))
    (points, faces), n = one, len(one[0])
    both = [*points, *other[0]], [*faces, *((a + n, b + n, c + n) for a, b, c in other[1])]
    data = shapes.threemf([one, other])
    found = examine(data, suffix="3mf", recall=lambda _: [kept(both)])
    assert found.recognised
    touching = READERS["3mf"](shapes.threemf([one, one]))
    assert WeldedShape.of(touching) is None


def test_polygons_with_more_corners_are_not_compared() -> None:
    """A diagonal is no edge: that of two triangles may be one too many where another runs."""
    square = b"v 0 0 0\nv 9 0 0\nv 9 9 0\nv 0 9 0\nv 4 4 9\nf 4 3 2 1\nf 1 2 5\nf 2 3 5\nf 3 4 5\nf 4 1 5\n"
    asked: list[ShapeFacts] = []

    def recall(facts: ShapeFacts) -> Sequence[KnownShape]:
        asked.append(facts)
        return ()

    found = examine(square, suffix="obj", recall=recall)
    assert isinstance(found.outcome, Measurement)
    assert (asked, found.shape) == ([], None)


def test_the_name_of_a_shape_is_that_of_its_facts() -> None:
    data, suffix = written(ring(6), "obj")
    shape = WeldedShape.of(READERS[suffix](data))
    assert shape is not None
    assert shape.facts().name == kept(ring(6), "obj").name


def test_the_digest_does_not_depend_on_the_order_of_the_file() -> None:
    mesh = ring(7)
    assert kept(mesh, "obj").digest == kept(shuffled(mesh, 8), "obj").digest == kept(mesh, "3mf").digest
    assert kept(mesh, "obj").digest != kept(ring(8), "obj").digest


def test_what_is_known_survives_json() -> None:
    known = kept(ring(9))
    assert SHAPES.validate_json(SHAPES.dump_json([known])) == [known]


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_points_near_each_other_are_told_apart(seed: int) -> None:
    """A long thin comb has many points at one height above any plane, and close ones."""
    random = np.random.default_rng(seed)
    mesh = ring(seed, segments=40, corners=9)
    points = [(x, y, round(z + float(random.integers(2)) * 5e-5, 6)) for x, y, z in mesh[0]]
    assert examined((points, mesh[1]), "3mf", kept((points, mesh[1]), "stl")).recognised


@pytest.mark.parametrize(
    ("known", "found", "scale"),
    [
        ((2, 3, 4), (2, 3, 4), 1.0),
        ((2, 3, 4), (2, 3, 4.00001), 1.0),
        ((2, 3, 4), (3, 4.5, 6), 1.5),
        ((2, 3, 4), (3, 4.5, 6.001), None),
        ((2, 3, 4), (4, 3, 2), None),
        ((2, 3, 4), (20, 30, 40), None),
    ],
)
def test_the_scale_between_two_boxes(
    known: tuple[float, ...], found: tuple[float, ...], scale: float | None
) -> None:
    assert scale_between(known, found) == scale


@pytest.mark.parametrize("points", ["", "!", "AAAA", "not base64 at all", "AAAAAAAAAAAAAAAA"])
def test_an_entry_that_cannot_be_read_is_no_fault_of_the_file(points: str) -> None:
    mesh = ring(2)
    known = kept(mesh)
    found = examined(mesh, "stl", replace(known, points=points))
    assert not found.recognised
    assert found.outcome == known.measured


def test_bodies_nearer_to_each_other_than_is_welded_are_measured() -> None:
    """In a file whose bodies are meshes they are apart; in one that is a single mesh they become one."""
    one = block((4.0, 4.0, 4.0))
    other = moved(one, (4.000004, 0, 0))
    apart = shapes.threemf([one, other])
    known = examine(apart, suffix="3mf", recall=lambda _: ())
    found = examined(joined(one, other), "obj", *([known.shape] if known.shape is not None else []))
    assert not found.recognised


def test_a_larger_piece_whose_points_were_welded_when_it_was_small_is_measured() -> None:
    """What was welded into nothing has a size of its own by then."""
    for gap in np.linspace(2e-6, 3e-5, 15):
        mesh = joined(block((4.0, 4.0, 4.0)), moved(block((3.0, 3.0, 3.0)), (4 + float(gap), 0, 0)))
        shape = examined(mesh, "obj").shape
        for scale in (0.5, 0.7, 1.3, 1.9):
            other = scaled(mesh, scale)
            agree(examined(other, "obj", *([shape] if shape is not None else [])), other, "obj")


def block(sides: Sequence[float]) -> Mesh:
    a, b, c = sides
    points = [(x * a, y * b, z * c) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    faces = [
        *((0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1)),
        *((2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)),
    ]
    return points, faces


def joined(*meshes: Mesh) -> Mesh:
    points: list[tuple[float, float, float]] = []
    faces: list[tuple[int, int, int]] = []
    for some, triangles in meshes:
        begin = len(points)
        faces += [(a + begin, b + begin, c + begin) for a, b, c in triangles]
        points += some
    return points, faces


def scaled(mesh: Mesh, by: float) -> Mesh:
    points, faces = mesh
    return [(x * by, y * by, z * by) for x, y, z in points], faces


def inverted(mesh: Mesh) -> Mesh:
    points, faces = mesh
    return points, [(a, c, b) for a, b, c in faces]


def mirrored(mesh: Mesh) -> Mesh:
    points, faces = mesh
    return inverted(([(-x, y, z) for x, y, z in points], faces))


def agree(found: Examined, mesh: Mesh, form: str) -> None:
    """Hold what was recognised against what is measured."""
    if not found.recognised:
        return
    alone = examined(mesh, form).outcome
    if isinstance(alone, Unmeasurable):
        assert found.outcome == alone
        return
    assert isinstance(found.outcome, Measurement)
    assert found.outcome.volume_mm3 == pytest.approx(alone.volume_mm3, rel=1e-4)
    assert found.outcome.area_mm2 == pytest.approx(alone.area_mm2, rel=1e-4)
    assert found.outcome.extents_mm == pytest.approx(alone.extents_mm, abs=2e-4)
    assert found.outcome.polygons == alone.polygons


GAPS = st.sampled_from([4e-6, 9e-6, 1.1e-5, 2.1e-5, 5e-5, 1.0]) | st.floats(1e-7, 1e-4)
SIDES = st.tuples(*[st.sampled_from([0.11, 0.8, 2.0, 2.00001, 7.0])] * 3)
FACTORS = st.just(1.0) | st.sampled_from([1e-3, 0.5, 0.999999, 1.000001, 2.0]) | st.floats(0.49, 2.01)
JITTERS = st.just(0.0) | st.sampled_from([4e-7, 4e-6, 9e-6, 1.2e-5])
CHANGES: dict[str, Callable[[list[Mesh]], list[Mesh]]] = {
    "none": lambda bodies: bodies,
    "swap": lambda bodies: bodies[::-1],
    "mirror": lambda bodies: [mirrored(body) for body in bodies],
    "invert one": lambda bodies: [inverted(bodies[0]), *bodies[1:]],
    "invert all": lambda bodies: [inverted(body) for body in bodies],
    "once more": lambda bodies: [*bodies, bodies[-1]],
    "a cavity": lambda bodies: [*bodies, inverted(moved(bodies[-1], (0.01, 0.01, 0.01)))],
    "turn": lambda bodies: [([(y, z, x) for x, y, z in points], faces) for points, faces in bodies],
}


@st.composite
def bodies_side_by_side(draw: st.DrawFn) -> list[Mesh]:
    """Blocks of which some are equal, with or without a ring, and with gaps of nanometres."""
    bodies, at, gap = [moved(block((2, 3, 4.5)), (-5, 0, 20))], 0.0, draw(GAPS)
    for sides in draw(st.lists(SIDES, max_size=3)):
        bodies.append(moved(block(sides), (at, 0, 20)))
        at += sides[0] + gap
    return [ring(draw(st.integers(0, 4)), segments=8, corners=5), *bodies] if draw(st.booleans()) else bodies


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Mesh, Mesh]:
    """A piece, and what is nearly the same, or not at all."""
    bodies = draw(bodies_side_by_side())
    change = draw(st.just("none") | st.sampled_from(sorted(CHANGES)))
    points, faces = scaled(joined(*CHANGES[change](bodies)), draw(FACTORS))
    random, off = Random(draw(SEEDS)), draw(JITTERS)
    other = [(x + random.uniform(-off, off), y + random.uniform(-off, off), z) for x, y, z in points]
    return joined(*bodies), (other, faces)


@given(pair=pairs(), forms=st.tuples(st.sampled_from(FILES), st.sampled_from(FILES)))
@settings(max_examples=50, deadline=None)
def test_what_is_recognised_has_the_measures_that_it_would_have(
    pair: tuple[Mesh, Mesh], forms: tuple[str, str]
) -> None:
    """Symmetric pieces, equal bodies, cavities, bodies that nearly touch, and all of it in another size."""
    first, second = pair
    shape = examined(first, forms[0]).shape
    if shape is not None:
        agree(examined(second, forms[1], shape), second, forms[1])
