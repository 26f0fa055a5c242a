"""Is this piece known already, whatever file it comes in? Pure functions on arrays.

Two files of one piece differ in the last figures of nearly all coordinates: STL has float32, and text is
rounded to some decimals. Corners that were rounded to a grid would fall to both sides of its lines, and no
digest of them would be the same. So the digest only names a shape; two are one if each point has its own
partner within `SAME_MM`, and the triangles join the same points.
"""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.pricing.measurement import (
    MAX_POINTS,
    SAME_MM,
    KnownShape,
    Measurement,
    ShapeFacts,
    scale_between,
    scaled,
)
from app.pricing.surface import Floats, Ints, Mesh

GRID_MM = 1e-6
APART = round(4 * SAME_MM / GRID_MM)
"""How far apart, in `GRID_MM`, the points of a piece must be that is compared: then none of them are welded,
in no size and with no rounding."""
_MOST_NEIGHBOURS = 100
SMALLEST_BODY_MM3 = 1e-3
"""Scaled follows only what has no body below this: a thousand times what is taken for flat."""
SAME_SUM = 1e-3
"""How far a volume or a surface, added up anew, may be off the known one: points may be off by `SAME_MM`."""

# Two points of a piece are hardly ever at one height above planes that no designer chose.
_RANDOM = np.random.default_rng(20261202)
DIRECTIONS: Floats = _RANDOM.normal(size=(8, 3))
MIXERS: NDArray[np.uint64] = _RANDOM.integers(2**62, 2**63, size=3, dtype=np.uint64) * np.uint64(
    2
) + np.uint64(1)


@dataclass(frozen=True)
class WeldedShape:
    """All triangles of a file between points of which no two are at one place.

    Parameters:
        points: (k, 3) positions in `GRID_MM`, from the lowest corner of the bounding box.
        faces: (n, 3) numbers of points.
        meshes: the same, as the file has them: in their place and in mm.
    """

    points: Ints
    faces: Ints
    meshes: Sequence[Mesh]

    @classmethod
    def of(cls, meshes: Iterable[Mesh]) -> Self | None:
        """Weld meshes into a shape.

        Returns:
            None if it cannot be compared: polygons with more corners than three, whose diagonals are no
            edges; meshes that share points, which a file of one mesh would join; too many points, or too
            far apart.
        """
        welded = [_weld(mesh) for mesh in meshes if len(mesh.faces)]
        if not welded or any(found is None for found in welded):
            return None
        parts = [found for found in welded if found is not None]
        points = np.concatenate([part for part, _ in parts])
        if not 4 <= len(points) <= MAX_POINTS or not np.isfinite(points).all():
            return None
        points -= points.min(axis=0)
        if points.max() > 2**31 * GRID_MM / 2:
            return None
        begins = np.cumsum([0, *(len(part) for part, _ in parts[:-1])])
        faces = np.concatenate([part + begin for (_, part), begin in zip(parts, begins, strict=True)])
        grid = np.rint(points / GRID_MM).astype(np.int64)
        if len(parts) > 1 and not are_apart(grid, APART):
            return None
        return cls(grid, faces, [Mesh.of_triangles(part, numbers) for part, numbers in parts])

    def facts(self) -> ShapeFacts:
        """Return what is asked by whether this is known."""
        x, y, z = (self.points.max(axis=0) * GRID_MM).tolist()
        return ShapeFacts(polygons=len(self.faces), points=len(self.points), extents_mm=(x, y, z))

    def known_as(self, measured: Measurement, *, smallest_body_mm3: float) -> KnownShape:
        """Return what is to be kept of it, in an order that does not depend on the file's."""
        order = np.lexsort(self.points.T[::-1])
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return KnownShape(
            points=b64encode(self.points[order].astype("<i4").tobytes()).decode(),
            faces_digest=_digest(rank[self.faces]),
            smallest_body_mm3=smallest_body_mm3,
            measured=measured,
        )

    def recognise(self, known: KnownShape) -> Measurement | None:
        """Return the measures of this piece if it is a known one, or that one in another size.

        The volume and the surface are added up anew, and must agree with the entry, wherever it is from.
        """
        points = _unpacked(known.points)
        if points is None or points.shape != self.points.shape:
            return None
        scale = scale_between(known.measured.extents_mm, self.facts().extents_mm)
        if scale is None:
            return None
        if scale != 1:
            if known.smallest_body_mm3 < SMALLEST_BODY_MM3:
                return None
            points = np.rint(points * scale).astype(np.int64)
        partners = _partners(self.points, points)
        if partners is None or _digest(partners[self.faces]) != known.faces_digest:
            return None
        if not are_apart(self.points, APART):
            return None
        found = scaled(known.measured, scale)
        volume, area = self._sums()
        agrees = (
            abs(volume - found.volume_mm3) <= SAME_SUM * volume
            and abs(area - found.area_mm2) <= SAME_SUM * area
        )
        return found if agrees else None

    def _sums(self) -> tuple[float, float]:
        """Return the volume in mm³ and the surface in mm²."""
        x, y, z = (self.points * GRID_MM - self.points.max(axis=0) * (GRID_MM / 2)).T
        a, b, c = self.faces.T
        ux, uy, uz = x[b] - x[a], y[b] - y[a], z[b] - z[a]
        vx, vy, vz = x[c] - x[a], y[c] - y[a], z[c] - z[a]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        volume = float((x[a] * nx + y[a] * ny + z[a] * nz).sum()) / 6
        return abs(volume), float(np.sqrt(nx * nx + ny * ny + nz * nz).sum()) / 2


def _unpacked(points: str) -> Ints | None:
    try:
        return np.frombuffer(b64decode(points), "<i4").reshape(-1, 3).astype(np.int64)
    except ValueError:
        return None  # an entry that is not true is no fault of the file


def are_apart(points: Ints, distance: int) -> bool:
    """Return whether no two points are as near to each other as that in all three directions.

    Those are near each other above any plane as well. False also where too many are to be compared.
    """
    heights = points @ DIRECTIONS[0]
    order = np.argsort(heights)
    heights, points = heights[order], points[order]
    reach = distance * np.abs(DIRECTIONS[0]).sum()
    for step in range(1, _MOST_NEIGHBOURS):
        (near,) = np.nonzero(heights[step:] - heights[:-step] <= reach)
        if not len(near):
            return True
        if (np.abs(points[near + step] - points[near]).max(axis=1) <= distance).any():
            return False
    return False


def _weld(mesh: Mesh) -> tuple[Floats, Ints] | None:
    """Count corners at one place as one; None where polygons have more corners than three."""
    if int(mesh.polygons[-1]) + 1 != len(mesh.faces):
        return None
    points = mesh.points + 0.0  # -0.0 is 0.0
    first, numbers = _distinct(_mixed(points.view(np.int64)))
    if not all(np.array_equal(side[first][numbers], side, equal_nan=True) for side in points.T):
        return None  # two places have one number by chance
    faces = numbers[mesh.faces]
    used = np.bincount(faces.ravel(), minlength=len(first)) > 0
    if used.all():
        return points[first], faces
    return points[first[used]], (np.cumsum(used) - 1)[faces]


def _distinct(mixed: "NDArray[np.uint64]") -> tuple[Ints, Ints]:
    """Find where each number stands first, and which of those each one is.

    Place and number are sorted as one: four times as fast as sorting places by their numbers.
    """
    bits = np.uint64(max(1, len(mixed) - 1).bit_length())
    keyed = (mixed >> bits << bits) | np.arange(len(mixed), dtype=np.uint64)
    keyed.sort()
    places = (keyed & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    keyed >>= bits
    begins = np.concatenate([[True], keyed[1:] != keyed[:-1]])
    numbers = np.empty(len(mixed), dtype=np.int64)
    numbers[places] = np.cumsum(begins) - 1
    return places[begins], numbers


def _mixed(rows: Ints) -> "NDArray[np.uint64]":
    """Return a number for each row of three; different rows have different ones, but for chance."""
    mixed = np.zeros(len(rows), dtype=np.uint64)
    for side, mixer in zip(rows.T, MIXERS, strict=True):
        bits = side.astype(np.uint64)
        # The lower bits of a float32 that became a float64 are zero, and stay so when multiplied.
        mixed += (bits ^ (bits >> np.uint64(31))) * mixer
    return mixed ^ (mixed >> np.uint64(31))


def _partners(found: Ints, known: Ints) -> Ints | None:
    """Find for each point the known one at its place, each for one only; None if some have none.

    In the order of their heights above a plane most stand side by side. Those whose heights are closer than
    the rounding are left over, and there are so few of them that the next plane tells them apart.
    """
    partners = np.empty(len(found), dtype=np.int64)
    ours = theirs = np.arange(len(found))
    for direction in DIRECTIONS:
        ours = ours[np.argsort(found[ours] @ direction)]
        theirs = theirs[np.argsort(known[theirs] @ direction)]
        apart = np.abs(found[ours] - known[theirs]).max(axis=1) > round(SAME_MM / GRID_MM)
        partners[ours[~apart]] = theirs[~apart]
        ours, theirs = ours[apart], theirs[apart]
        if not len(ours):
            return partners
    return None


def _digest(faces: Ints) -> str:
    """Return the SHA-256 of triangles in an order of their own, each beginning with its lowest corner."""
    begin = faces.argmin(axis=1)
    rows = np.arange(len(faces))
    packed = np.zeros(len(faces), dtype=np.int64)
    for step in range(3):
        packed = (packed << 20) | faces[rows, (begin + step) % 3]
    return hashlib.sha256(np.sort(packed).tobytes()).hexdigest()
