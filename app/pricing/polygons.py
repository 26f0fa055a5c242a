"""Are polygons flat, and do their outlines have an inside? Pure functions on arrays.

A polygon is never cut up: volume and area follow from its outline, concave or not, and its diagonals would
only be mistaken for edges. What has to be sure is that the outline means one surface.
"""

import mapbox_earcut
import numpy as np

from app.pricing import reading
from app.pricing.errors import NotFlat, SelfIntersecting
from app.pricing.reading import refuse_above
from app.pricing.surface import Floats, Ints

FLAT_MM = 0.01
"""How far a corner may lie off its polygon's plane: less than casting shows."""
SAME_AREA = 1e-6
STRAIGHT = 1e-9
PAIRS_AT_ONCE = 2_000_000


def check_polygons(corners: Floats) -> None:
    """Refuse polygons that can be read as several surfaces.

    Parameters:
        corners: (m, n, 3) positions in mm of m polygons of n corners each.

    Raises:
        NotFlat: they lie in no plane.
        SelfIntersecting: their outlines cross themselves.
        TooMany: there is more to compare than is worth it.
    """
    corners = corners - corners.mean(axis=1, keepdims=True)
    normals = np.cross(corners, np.roll(corners, -1, axis=1)).sum(axis=1)
    lengths = np.linalg.norm(normals, axis=1)
    perimeters = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2).sum(axis=1)
    # Without an area, as slivers are: flat if it is a line.
    empty = lengths <= STRAIGHT * perimeters**2
    _refuse_crooked(corners, empty)
    corners, normals = corners[~empty], normals[~empty] / lengths[~empty, None]
    heights = np.abs(np.einsum("mnk,mk->mn", corners, normals)).max(axis=1)
    crooked = ~(heights <= FLAT_MM)
    if crooked.any():
        raise NotFlat(int(crooked.sum()), float(heights.max()), FLAT_MM)
    outlines = _flattened(corners, normals)
    concave = outlines[~_is_convex(outlines)]
    refuse_above(reading.MAX_EDGE_PAIRS, len(concave) * concave.shape[1] ** 2, "pairs of edges in polygons")
    wrong = sum(not _has_inside(outline) for outline in concave)
    if wrong:
        raise SelfIntersecting(wrong)


def _refuse_crooked(corners: Floats, empty: "np.typing.NDArray[np.bool_]") -> None:
    """Refuse outlines that enclose nothing, and are no lines: their halves cancel out."""
    lines = corners[empty]
    if not len(lines):
        return
    farthest = np.linalg.norm(lines, axis=2).argmax(axis=1)
    along = lines[np.arange(len(lines)), farthest]
    along = along / np.maximum(np.linalg.norm(along, axis=1), np.finfo(float).tiny)[:, None]
    aside = lines - np.einsum("mnk,mk->mn", lines, along)[:, :, None] * along[:, None]
    crossing = ~(np.linalg.norm(aside, axis=2).max(axis=1) <= FLAT_MM)
    if crossing.any():
        raise SelfIntersecting(int(crossing.sum()))


def _flattened(corners: Floats, normals: Floats) -> Floats:
    """Return (m, n, 2) positions in each polygon's plane; its outline runs counter-clockwise there."""
    # The axis that the normal points along least is the best to make a right angle with.
    axis = np.eye(3)[np.abs(normals).argmin(axis=1)]
    right = np.cross(axis, normals)
    right /= np.linalg.norm(right, axis=1)[:, None]
    up = np.cross(normals, right)
    return np.stack([np.einsum("mnk,mk->mn", corners, side) for side in (right, up)], axis=2)


def _is_convex(outlines: Floats) -> "np.typing.NDArray[np.bool_]":
    """Find the outlines that turn left everywhere, and once around in all."""
    edges = np.roll(outlines, -1, axis=1) - outlines
    following = np.roll(edges, -1, axis=1)
    turns = np.arctan2(_cross(edges, following), (edges * following).sum(axis=2))
    has_length = (np.abs(edges).max(axis=2) > 0).all(axis=1)
    left = (turns >= -STRAIGHT).all(axis=1) & (turns < np.pi - STRAIGHT).all(axis=1)
    return np.asarray(has_length & left & (np.abs(turns.sum(axis=1) - 2 * np.pi) < 1e-3))


def _has_inside(outline: Floats) -> bool:
    """Return whether an outline is a polygon's; it may touch itself, as where it leads to a hole and back.

    Either check alone has its gap: triangles cover what overlaps itself twice over, and an outline can change
    its sense at a corner without a crossing.
    """
    return not _crosses(outline) and _triangles_fill(outline)


def _triangles_fill(outline: Floats) -> bool:
    ends = np.array([len(outline)], dtype=np.uint32)
    triangles = mapbox_earcut.triangulate_float64(outline, ends).reshape(-1, 3)
    a, b, c = (outline[triangles[:, corner]] for corner in range(3))
    filled = np.abs(_cross(b - a, c - a)).sum()
    enclosed = _cross(outline, np.roll(outline, -1, axis=0)).sum()
    return bool(abs(filled - enclosed) <= SAME_AREA * enclosed)


def _crosses(outline: Floats) -> bool:
    """Return whether two edges cross between their ends."""
    begin, end = outline, np.roll(outline, -1, axis=0)
    rows = max(1, PAIRS_AT_ONCE // len(outline))
    return any(
        _any_cross(begin[row : row + rows], end[row : row + rows], begin, end)
        for row in range(0, len(outline), rows)
    )


def _any_cross(a: Floats, b: Floats, c: Floats, d: Floats) -> bool:
    size = np.abs(c).max() ** 2 * STRAIGHT
    a, b, c, d = a[:, None], b[:, None], c[None], d[None]

    def sides(of: Floats, begin: Floats, end: Floats) -> Ints:
        turn = _cross(end - begin, of - begin)
        return np.where(np.abs(turn) <= size, 0, np.sign(turn)).astype(np.int64)

    apart = sides(c, a, b) * sides(d, a, b) < 0
    return bool((apart & (sides(a, c, d) * sides(b, c, d) < 0)).any())


def _cross(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])
