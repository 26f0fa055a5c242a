"""Is a triangle mesh the skin of solid bodies, and what do they enclose? Pure functions on arrays.

A volume is only defined when every edge joins exactly two faces that run along it in opposite directions.
trimesh answers that with yes or no; a customer needs to hear how many edges are wrong, and in which way.
"""

import numpy as np
from numpy.typing import NDArray

from app.pricing.errors import HasHoles, InsideOut, MixedWinding, SharedEdges

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FLAT_MM3 = 1e-6
"""A body below this volume has no inside; the sign of its volume is rounding."""


def neighbours(faces: Ints) -> Ints:
    """Find the pairs of faces that share an edge.

    Parameters:
        faces: (n, 3) vertex numbers; a shared corner has one number.

    Returns:
        (3n/2, 2) numbers of faces.

    Raises:
        HasHoles, SharedEdges, MixedWinding: the mesh is not the skin of solid bodies.
    """
    directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    edge = directed.min(axis=1) * (int(faces.max()) + 1) + directed.max(axis=1)
    _, uses = np.unique(edge, return_counts=True)
    if lonely := int((uses == 1).sum()):
        raise HasHoles(lonely)
    if crowded := int((uses > 2).sum()):
        raise SharedEdges(crowded)
    pairs = np.argsort(edge, kind="stable").reshape(-1, 2)
    upwards = directed[:, 0] < directed[:, 1]
    if disagreeing := int((upwards[pairs[:, 0]] == upwards[pairs[:, 1]]).sum()):
        raise MixedWinding(disagreeing)
    return pairs // 3


def label_bodies(pairs: Ints, faces: int) -> Ints:
    """Number the bodies: faces that hang together by edges get the same label.

    Each face takes the lowest label among its neighbours, then its label's own label, until nothing
    changes: a few vectorised rounds, where a graph library would walk two million nodes one by one.

    Parameters:
        pairs: what `neighbours` found.
        faces: how many faces there are.

    Returns:
        for each face the number of its body, from 0 without gaps.
    """
    labels = np.arange(faces)
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


def enclosed_volume(corners: Floats, bodies: Ints) -> float:
    """Add up what the bodies enclose, by the divergence theorem.

    A model that is inside out as a whole is taken as it was meant. A mixture is refused: an inverted body
    beside a ring would be subtracted from the price of the ring.

    Parameters:
        corners: (n, 3, 3) positions of the corners of each face, in mm, near the origin.
        bodies: the body of each face.

    Returns:
        the volume in mm³.

    Raises:
        InsideOut: some bodies point outwards and others inwards.
    """
    parts = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    volumes = np.bincount(bodies, weights=parts)
    solid = volumes[np.abs(volumes) > FLAT_MM3]
    inverted = int((solid < 0).sum())
    if 0 < inverted < len(solid):
        raise InsideOut(inverted, len(solid))
    return float(abs(solid.sum()))


def area(corners: Floats) -> float:
    """Add up the areas of the faces, in mm² for corners in mm."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(np.linalg.norm(normals, axis=1).sum() / 2)
