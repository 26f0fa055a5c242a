"""Measure a model file: bytes in, measures or a reason out. Runs in the children of `app.pricing.zygote`.

A reader for each format returns what the file says, or refuses it; trimesh merges corners; whether that is a
solid is for `app.pricing.surface` to say. The file comes from a stranger, so no reader opens what
it refers to.
"""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import trimesh

from app.pricing import reading
from app.pricing.errors import (
    DamagedFile,
    EmptyFile,
    ModelFault,
    NotFinite,
    NoTriangles,
    NoVolume,
    Overlapping,
    TooLarge,
    TooManyPolygons,
    TooMuchMemory,
    TooSmall,
)
from app.pricing.measurement import Measurement, Outcome, Unmeasurable
from app.pricing.obj import read_obj
from app.pricing.stl import read_stl
from app.pricing.surface import Floats, Mesh, area, enclosed_volume, label_bodies, neighbours, outline_edges
from app.pricing.threemf import read_3mf

READERS: Mapping[str, Callable[[bytes], list[Mesh]]] = {"stl": read_stl, "obj": read_obj, "3mf": read_3mf}
LONGEST_MM = (2.0, 150.0)
"""What can be cast: from a jump ring to the height of a casting flask. Most others are in a wrong unit."""
MIN_VOLUME_MM3 = 0.5
SAME_POINT_DIGITS = 5
"""Corners that agree to 10 nm are one: exporters write each face's corners on their own, as float32."""

ROUNDING = 1.001
"""What sums of coordinates may be off: a box fills its own box exactly."""


def measure(data: bytes, *, suffix: str) -> Outcome:
    """Measure the model in a file.

    Parameters:
        data: the content of the file.
        suffix: its format: `stl`, `obj` or `3mf`.

    Returns:
        the measures, or the reason why there are none. Nothing that a file contains raises.
    """
    # Absurd coordinates overflow on their way to being refused; that is no news.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return _survey(_read(data, suffix), suffix)
        except Exception as error:
            return Unmeasurable(reason=str(_fault(error, suffix)))


def _fault(error: Exception, suffix: str) -> ModelFault:
    """Name a file's fault by what its reading raised, which may be anything from IndexError to zlib.error."""
    if isinstance(error, ModelFault):
        return error
    if isinstance(error, MemoryError):
        return TooMuchMemory()
    return DamagedFile(suffix)


def _read(data: bytes, suffix: str) -> list[Mesh]:
    """Read the bodies of a file, in mm."""
    if not data:
        raise EmptyFile
    return READERS[suffix](data)


def _survey(meshes: list[Mesh], suffix: str) -> Measurement:
    """Check the meshes and add them up."""
    polygons = sum(len(mesh.faces) for mesh in meshes)
    if not polygons:
        raise NoTriangles(suffix)
    if polygons > reading.MAX_POLYGONS:
        raise TooManyPolygons(polygons, reading.MAX_POLYGONS)
    meshes = [mesh for mesh in meshes if len(mesh.faces)]
    low, high = _bounds(meshes)
    solids = [_solid(mesh, (low + high) / 2) for mesh in meshes]
    volume = sum(volume for volume, _ in solids)
    if volume < MIN_VOLUME_MM3:
        raise NoVolume(volume, MIN_VOLUME_MM3)
    sides = (high - low).tolist()
    if volume > (box := sides[0] * sides[1] * sides[2]) * ROUNDING:
        raise Overlapping(volume, box)
    return Measurement(
        volume_mm3=volume,
        area_mm2=sum(area for _, area in solids),
        extents_mm=(sides[0], sides[1], sides[2]),
        polygons=polygons,
    )


def _bounds(meshes: list[Mesh]) -> tuple[Floats, Floats]:
    """Find the corners of the bounding box of all faces, and refuse what cannot be jewellery."""
    points = np.concatenate([mesh.points[np.unique(mesh.faces)] for mesh in meshes])
    if lost := int((~np.isfinite(points)).any(axis=1).sum()):
        raise NotFinite(lost)
    low, high = points.min(axis=0), points.max(axis=0)
    longest = float((high - low).max())
    shortest_mm, longest_mm = LONGEST_MM
    if longest > longest_mm:
        raise TooLarge(longest, longest_mm)
    if longest < shortest_mm:
        raise TooSmall(longest, shortest_mm)
    return low, high


def _solid(surface: Mesh, middle: Floats) -> tuple[float, float]:
    """Return the volume in mm³ and the surface in mm² of one mesh, which may hold several bodies."""
    mesh = trimesh.Trimesh(surface.points - middle, surface.faces, process=False)
    mesh.merge_vertices(digits_vertex=SAME_POINT_DIGITS)
    faces, polygons = np.asarray(mesh.faces), surface.polygons
    edges, owners = outline_edges(faces, polygons)
    if not len(edges):
        return 0.0, 0.0
    bodies = label_bodies(neighbours(edges, owners), int(polygons[-1]) + 1)
    # What shrank to a line has no edges left, and is of no body.
    kept = np.isin(polygons, owners)
    corners, polygons = np.asarray(mesh.vertices)[faces[kept]], polygons[kept]
    return enclosed_volume(corners, bodies[polygons]), area(corners, polygons)
