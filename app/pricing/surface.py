"""Is a triangle mesh the skin of solid bodies, and what do they enclose? Pure functions on arrays.

A volume is only defined when every edge joins exactly two faces that run along it in opposite directions.
trimesh answers that with yes or no; a customer needs to know how many edges are wrong, and in which way.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.pricing.errors import FlatBodies, HasHoles, InsideOut, MixedWinding, SharedEdges

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FLAT_MM3 = 1e-6
"""A body below this volume has no inside; the sign of its volume is rounding."""
FLAT_MM2 = 0.01
"""A body without an inside and below this surface is an exporter's speck of dust."""


@dataclass(frozen=True)
class Mesh:
    """A surface of polygons, each as a fan of triangles around its first corner.

    The fan of a concave polygon reaches beyond it and back, so that only its sums mean something; and its
    diagonals are no edges.

    Parameters:
        points: (k, 3) positions.
        faces: (n, 3) numbers of points, counter-clockwise when seen from outside.
        polygons: (n,) the polygon of each triangle; those of one polygon stand together, in their order.
    """

    points: Floats
    faces: Ints
    polygons: Ints

    @classmethod
    def of_triangles(cls, points: Floats, faces: Ints) -> Self:
        """Make a mesh whose polygons are triangles."""
        return cls(points, faces, np.arange(len(faces)))


def outline_edges(faces: Ints, polygons: Ints) -> tuple[Ints, Ints]:
    """Find the edges of polygons; what shrank to a point or to a line, as its corners became one, has none.

    Parameters:
        faces: (n, 3) vertex numbers; a shared corner has one number.
        polygons: (n,) as in a mesh.

    Returns:
        (k, 2) vertex numbers of edges in their direction, and (k,) the polygon of each.
    """
    begins = np.concatenate([[True], polygons[1:] != polygons[:-1]])
    ends = np.concatenate([begins[1:], [True]])
    is_edge = np.stack([begins, np.ones(len(faces), dtype=bool), ends], axis=1).ravel()
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    is_edge &= edges[:, 0] != edges[:, 1]
    owners = np.repeat(polygons, 3)
    left = np.bincount(owners[is_edge], minlength=int(polygons[-1]) + 1)
    is_edge &= left[owners] > 2
    return edges[is_edge], owners[is_edge]


def neighbours(edges: Ints, owners: Ints) -> Ints:
    """Find the pairs of polygons that share an edge.

    Parameters:
        edges: (k, 2) vertex numbers of edges in their direction.
        owners: (k,) the polygon of each edge.

    Returns:
        (k/2, 2) numbers of polygons.

    Raises:
        HasHoles, SharedEdges, MixedWinding: the mesh is not the skin of solid bodies.
    """
    edge = edges.min(axis=1) * (int(edges.max()) + 1) + edges.max(axis=1)
    _, uses = np.unique(edge, return_counts=True)
    if lonely := int((uses == 1).sum()):
        raise HasHoles(lonely)
    if crowded := int((uses > 2).sum()):
        raise SharedEdges(crowded)
    pairs = np.argsort(edge, kind="stable").reshape(-1, 2)
    upwards = edges[:, 0] < edges[:, 1]
    if disagreeing := int((upwards[pairs[:, 0]] == upwards[pairs[:, 1]]).sum()):
        raise MixedWinding(disagreeing)
    return owners[pairs]


def label_bodies(pairs: Ints, polygons: int) -> Ints:
    """Label the bodies: polygons that hang together by edges get the same label.

    Each takes the lowest label among its neighbours, then its label's own label, until nothing
    changes: a few vectorised rounds, where a graph library would walk two million nodes one by one.

    Parameters:
        pairs: what `neighbours` found.
        polygons: how many polygons there are.

    Returns:
        for each polygon the number of its body, from 0 without gaps.
    """
    labels = np.arange(polygons)
    while True:
        lowest = labels[pairs].min(axis=1)
        following = labels.copy()
        for side in (0, 1):
            np.minimum.at(following, labels[pairs[:, side]], lowest)
            np.minimum.at(following, pairs[:, side], lowest)
        following = following[following]
        if np.array_equal(following, labels):
            return np.asarray(np.unique(labels, return_inverse=True)[1])
        labels = following


def enclosed_volumes(corners: Floats, bodies: Ints) -> Floats:
    """Return what the bodies enclose, each by itself, by the divergence theorem.

    A model that is inside out as a whole is taken as it was meant. A mixture is refused: an inverted body
    beside a ring would be subtracted from the price of the ring.

    Parameters:
        corners: (n, 3, 3) positions of the corners of each triangle, in mm, near the origin.
        bodies: the body of each triangle.

    Returns:
        the volumes in mm³: negative ones if all are inside out. A speck of dust has hardly any.

    Raises:
        InsideOut: some bodies point outwards and others inwards.
        FlatBodies: some bodies are surfaces that lie upon each other.
    """
    parts = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    volumes: Floats = np.bincount(bodies, weights=parts).astype(np.float64)
    areas = np.bincount(bodies, weights=np.linalg.norm(_normals(corners), axis=1) / 2)
    if flat := int(((np.abs(volumes) <= FLAT_MM3) & (areas > FLAT_MM2)).sum()):
        raise FlatBodies(flat)
    solid = volumes[np.abs(volumes) > FLAT_MM3]
    inverted = int((solid < 0).sum())
    if 0 < inverted < len(solid):
        raise InsideOut(inverted, len(solid))
    return np.asarray(volumes)


def area(corners: Floats, polygons: Ints) -> float:
    """Add up the areas of polygons, in mm² for corners in mm.

    Parameters:
        corners: (n, 3, 3) positions of the corners of each triangle.
        polygons: the polygon of each triangle; what its fan covers beyond it is subtracted again.
    """
    normals = _normals(corners)
    sums = np.stack([np.bincount(polygons, weights=normals[:, side]) for side in range(3)], axis=1)
    return float(np.linalg.norm(sums, axis=1).sum() / 2)


def _normals(corners: Floats) -> Floats:
    return np.asarray(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
