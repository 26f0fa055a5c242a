"""What is known of a model file once it was looked at: its measures or why it has none, and what is shown."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter

READER = 1
"""The version of the readers and of the rules of measuring; what another version has found is not known."""
MAX_POINTS = 500_000
"""A shape with more points is measured each time: 6 MB of points are kept at the most."""
SAME_MM = 1e-5
"""How far apart two corners of one piece may be: as far as those that are welded into one."""
SCALES = (0.5, 2.0)
"""Between these a scaled piece follows from its model; beyond, what is too small to be a body may change."""

MAX_PREVIEW_TRIANGLES = 20_000
"""A mesh with more is made coarser: with as many it is half a megabyte, and a phone turns it smoothly."""
MAX_PREVIEW_BYTES = 2**20

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The measures of a model that can be made, over all its bodies.

    Parameters:
        volume_mm3: the enclosed volume.
        area_mm2: the surface.
        extents_mm: the sides of the axis-aligned bounding box.
        polygons: the triangles of the file.
    """

    volume_mm3: Positive
    area_mm2: Positive
    extents_mm: tuple[Positive, Positive, Positive]
    polygons: Annotated[int, Field(ge=4)]


@dataclass(frozen=True, kw_only=True)
class Unmeasurable:
    """A model without measures.

    Parameters:
        reason: a sentence for the customer, with what to do.
        final: the content is at fault, so that another attempt would end the same; False when the
            machine was (too busy, child killed) and another attempt may succeed.
    """

    reason: Annotated[str, Field(min_length=1, max_length=500)]
    final: bool = True


Outcome = Measurement | Unmeasurable


@dataclass(frozen=True, kw_only=True)
class ShapeFacts:
    """What is asked by whether a piece is known.

    Parameters:
        polygons: the triangles of the file.
        points: the positions that they join.
        extents_mm: the sides of the bounding box.
    """

    polygons: Annotated[int, Field(ge=4)]
    points: Annotated[int, Field(ge=4, le=MAX_POINTS)]
    extents_mm: tuple[float, float, float]

    @property
    def name(self) -> str:
        """What all pieces with as many polygons and points have in common, read by the same readers."""
        return f"{READER}/{self.polygons}/{self.points}"


@dataclass(frozen=True, kw_only=True)
class KnownShape:
    """The shape of a piece that was measured.

    Parameters:
        points: base64 of (k, 3) int32, in nm from the lowest corner of the bounding box, in their order.
        faces_digest: SHA-256 of the triangles between them.
        smallest_body_mm3: the volume of its smallest body.
        measured: what was measured of it.
    """

    points: str
    faces_digest: str
    smallest_body_mm3: float
    measured: Measurement

    @property
    def name(self) -> str:
        """What it has in common with all pieces that may be the same; as `ShapeFacts.name`."""
        # Four characters of base64 are three bytes, and a point is twelve.
        return f"{READER}/{self.measured.polygons}/{len(self.points) // 16}"

    @property
    def digest(self) -> str:
        """The canonical digest: format, place, order of points and of triangles have no part in it."""
        return hashlib.sha256(f"{READER}/{self.faces_digest}/{self.points}".encode()).hexdigest()


SHAPES: TypeAdapter[list[KnownShape]] = TypeAdapter(list[KnownShape])
"""Known shapes as JSON, checked like any input."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What came of a file.

    Parameters:
        outcome: its measures, or the reason why there are none.
        shape: what is to be kept, so that the piece is known in another file; None for nothing.
        recognised: it was a known piece, and was not measured.
    """

    outcome: Outcome
    shape: KnownShape | None = None
    recognised: bool = False


EXAMINED: TypeAdapter[Examined] = TypeAdapter(Examined)
"""What a child answers as JSON, checked like any input: it has read a stranger's file."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What is shown of a model.

    Parameters:
        glb: base64 of a binary glTF 2.0 file, in metres, y up, around the origin.
        png: base64 of a picture with a transparent ground.
        triangles: how many the mesh in `glb` has.
        reduced: the model has more, and is shown coarser than it is.
    """

    glb: Annotated[str, Field(max_length=4 * MAX_PREVIEW_BYTES // 3)]
    png: Annotated[str, Field(max_length=MAX_PREVIEW_BYTES // 4)]
    triangles: Annotated[int, Field(ge=1, le=MAX_PREVIEW_TRIANGLES)]
    reduced: bool


PREVIEW: TypeAdapter[Preview | None] = TypeAdapter(Preview | None)
"""What a child answers as JSON, checked like any input: it has read a stranger's file."""


def scale_between(known_mm: Sequence[float], found_mm: Sequence[float]) -> float | None:
    """Return by how much a box is larger than another one of its proportions; None if it has others.

    It is 1 where the boxes differ by no more than their corners may.
    """
    if _are_same(known_mm, found_mm):
        return 1.0
    scale = max(found_mm) / max(known_mm)
    smallest, largest = SCALES
    fits = smallest <= scale <= largest and _are_same([side * scale for side in known_mm], found_mm)
    return scale if fits else None


def _are_same(some_mm: Sequence[float], others_mm: Sequence[float]) -> bool:
    return all(abs(some - other) <= 2 * SAME_MM for some, other in zip(some_mm, others_mm, strict=True))


def scaled(measured: Measurement, scale: float) -> Measurement:
    """Return the measures of a piece that is larger by a factor in all directions."""
    if scale == 1:
        return measured
    x, y, z = measured.extents_mm
    return Measurement(
        volume_mm3=measured.volume_mm3 * scale**3,
        area_mm2=measured.area_mm2 * scale**2,
        extents_mm=(x * scale, y * scale, z * scale),
        polygons=measured.polygons,
    )
