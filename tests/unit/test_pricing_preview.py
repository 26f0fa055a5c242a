"""What is shown of a model: bounded whatever it holds, and true to the piece."""

import base64
import io
from itertools import islice

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.console.demo.bad_shapes import bad_shapes
from app.console.demo.shapes import Shape, good_shapes, round_ring, stl_binary
from app.pricing.measure import measure
from app.pricing.measurement import MAX_PREVIEW_BYTES, MAX_PREVIEW_TRIANGLES, Measurement
from app.pricing.preview import PICTURE_PIXELS, preview, reduce_mesh

GOOD = list(islice(good_shapes(seed=4), 6))
BAD = list(bad_shapes())
SHOWN_THOUGH_BAD = {"holes", "turned-face", "doubled"}
# Two squares that make an L: its fan from the first corner would cover what is no part of it.
ELL = b"v 2 2 0\nv 0 2 0\nv 0 0 0\nv 6 0 0\nv 6 1 0\nv 2 1 0\n"


def mesh_of(glb: str) -> trimesh.Trimesh:
    scene = trimesh.load_scene(io.BytesIO(base64.b64decode(glb)), file_type="glb")
    mesh = scene.to_mesh()
    assert isinstance(mesh, trimesh.Trimesh)
    return mesh


@pytest.mark.parametrize("shape", GOOD, ids=lambda shape: f"{shape.name}.{shape.suffix}")
def test_a_viewer_gets_the_piece_as_it_is(shape: Shape) -> None:
    shown, measured = preview(shape.data, suffix=shape.suffix), measure(shape.data, suffix=shape.suffix)
    assert shown is not None
    assert isinstance(measured, Measurement)
    mesh = mesh_of(shown.glb)
    x, y, z = measured.extents_mm  # z is up in the file, y in glTF, which has metres
    assert mesh.extents * 1000 == pytest.approx([x, z, y], rel=1e-4)
    assert mesh.bounds.mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-6)
    assert len(mesh.faces) == shown.triangles
    assert not shown.reduced


def test_a_large_model_is_made_coarser() -> None:
    fine = stl_binary(round_ring(radius_mm=9, wire_mm=2, segments=900, sides=60))
    shown = preview(fine, suffix="stl")
    assert shown is not None
    assert shown.reduced
    assert MAX_PREVIEW_TRIANGLES / 4 < shown.triangles <= MAX_PREVIEW_TRIANGLES
    assert len(base64.b64decode(shown.glb)) < MAX_PREVIEW_BYTES
    assert mesh_of(shown.glb).extents * 1000 == pytest.approx([20, 2, 20], abs=0.2)


@pytest.mark.parametrize("shape", BAD, ids=lambda shape: f"{shape.name}.{shape.suffix}")
def test_what_cannot_be_made_is_shown_where_there_is_something_to_see(shape: Shape) -> None:
    shown = preview(shape.data, suffix=shape.suffix)
    assert shown is not None or shape.name not in SHOWN_THOUGH_BAD


def test_a_concave_polygon_covers_what_it_covers() -> None:
    shown = preview(ELL + b"f 1 2 3 4 5 6\n", suffix="obj")
    assert shown is not None
    assert mesh_of(shown.glb).area * 1e6 == pytest.approx(8.0, rel=1e-3)


def test_the_picture_has_the_piece_in_its_middle_and_nothing_at_its_edges() -> None:
    shown = preview(stl_binary(round_ring(radius_mm=9, wire_mm=2)), suffix="stl")
    assert shown is not None
    picture = Image.open(io.BytesIO(base64.b64decode(shown.png)))
    left, top, right, bottom = picture.getchannel("A").getbbox() or (0, 0, 0, 0)
    assert picture.size == (PICTURE_PIXELS, PICTURE_PIXELS)
    assert min(left, top, PICTURE_PIXELS - right, PICTURE_PIXELS - bottom) > 5
    assert abs(left + right - PICTURE_PIXELS) <= 2
    assert right - left > PICTURE_PIXELS * 0.85


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), most=st.integers(1, 300), flat=st.booleans())
def test_whatever_is_reduced_has_no_more_than_it_may(seed: int, most: int, flat: bool) -> None:
    random = np.random.default_rng(seed)
    points = random.normal(size=(200, 3)) * [1, 1, 0 if flat else 1]
    faces = random.integers(0, 200, size=(400, 3))
    shown, left = reduce_mesh(points, faces, most=most)
    assert len(left) <= most
    if len(left):
        assert left.max() < len(shown)
        assert (shown.min(axis=0) >= points.min(axis=0) - 1e-9).all()
        assert (shown.max(axis=0) <= points.max(axis=0) + 1e-9).all()
