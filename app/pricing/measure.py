"""Measure a model file: bytes in, measures or a reason out. Runs in the children of `app.pricing.zygote`.

A reader for each format returns what the file says, or refuses it; trimesh merges corners; whether that is a
solid is for `app.pricing.surface` to say. The file comes from a stranger, so no reader opens what
it refers to.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

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
from app.pricing.measurement import Examined, KnownShape, Measurement, Outcome, ShapeFacts, Unmeasurable
from app.pricing.obj import read_obj
from app.pricing.shape import WeldedShape
from app.pricing.stl import read_stl
from app.pricing.surface import Floats, Mesh, area, enclosed_volumes, label_bodies, neighbours, outline_edges
from app.pricing.threemf import read_3mf

READERS: Mapping[str, Callable[[bytes], list[Mesh]]] = {"stl": read_stl, "obj": read_obj, "3mf": read_3mf}
LONGEST_MM = (2.0, 150.0)
"""What can be cast: from a jump ring to the height of a casting flask. Most others are in a wrong unit."""
MIN_VOLUME_MM3 = 0.5
SAME_POINT_DIGITS = 5
"""Corners that agree to 10 nm are one: exporters write each face's corners on their own, as float32."""

ROUNDING = 1.001
"""What sums of coordinates may be off: a box fills its own box exactly."""


Recall = Callable[[ShapeFacts], Sequence[KnownShape]]
"""Asks for the known pieces that this one may be."""


def measure(data: bytes, *, suffix: str) -> Outcome:
    """Measure the model in a file, as one that is not known.

    Parameters:
        data: the content of the file.
        suffix: its format: `stl`, `obj` or `3mf`.

    Returns:
        the measures, or the reason why there are none. Nothing that a file contains raises.
    """
    return examine(data, suffix=suffix, recall=lambda _: ()).outcome


def examine(data: bytes, *, suffix: str, recall: Recall) -> Examined:
    """Find out whether the piece in a file is a known one, and measure it if it is not.

    Parameters:
        data: the content of the file.
        suffix: its format: `stl`, `obj` or `3mf`.
        recall: is called when the file is read, unless its piece cannot be compared with others.
    """
    # Absurd coordinates overflow on their way to being refused; that is no news.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return _examine(read_meshes(data, suffix), recall)
        except Exception as error:
            return Examined(outcome=Unmeasurable(reason=str(_fault(error, suffix))))


def _examine(meshes: list[Mesh], recall: Recall) -> Examined:
    shape = WeldedShape.of(meshes)
    if shape is None:
        return Examined(outcome=_survey(meshes)[0])
    for known in recall(shape.facts()):
        measured = shape.recognise(known)
        if measured is not None:
            _refuse_size(max(shape.facts().extents_mm))
            _refuse_hollow(measured.volume_mm3)
            return Examined(outcome=measured, recognised=True)
    measured, smallest_body_mm3 = _survey(shape.meshes)
    kept = shape.known_as(measured, smallest_body_mm3=smallest_body_mm3)
    return Examined(outcome=measured, shape=kept)


def _fault(error: Exception, suffix: str) -> ModelFault:
    """Name a file's fault by what its reading raised, which may be anything from IndexError to zlib.error."""
    if isinstance(error, ModelFault):
        return error
    if isinstance(error, MemoryError):
        return TooMuchMemory()
    return DamagedFile(suffix)


def read_meshes(data: bytes, suffix: str) -> list[Mesh]:
    """Read the bodies of a file, in mm: those that have triangles.

    Raises:
        ModelFault: there are none, or too many, or the file cannot be read. A reader may raise anything else.
    """
    if not data:
        raise EmptyFile
    meshes = READERS[suffix](data)
    polygons = sum(len(mesh.faces) for mesh in meshes)
    if not polygons:
        raise NoTriangles(suffix)
    if polygons > reading.MAX_POLYGONS:
        raise TooManyPolygons(polygons, reading.MAX_POLYGONS)
    return [mesh for mesh in meshes if len(mesh.faces)]


def _survey(meshes: Sequence[Mesh]) -> tuple[Measurement, float]:
    """Check the meshes and add them up; return the volume of the smallest body as well."""
    low, high = _bounds(meshes)
    solids = [_solid(mesh, (low + high) / 2) for mesh in meshes]
    volume = sum(abs(float(volumes.sum())) for volumes, _ in solids)
    _refuse_hollow(volume)
    sides = (high - low).tolist()
    if volume > (box := sides[0] * sides[1] * sides[2]) * ROUNDING:
        raise Overlapping(volume, box)
    measured = Measurement(
        volume_mm3=volume,
        area_mm2=sum(area for _, area in solids),
        extents_mm=(sides[0], sides[1], sides[2]),
        polygons=sum(len(mesh.faces) for mesh in meshes),
    )
    return measured, min(float(np.abs(volumes).min(initial=np.inf)) for volumes, _ in solids)


def _refuse_hollow(volume_mm3: float) -> None:
    if volume_mm3 < MIN_VOLUME_MM3:
        raise NoVolume(volume_mm3, MIN_VOLUME_MM3)


def _refuse_size(longest: float) -> None:
    """Refuse what cannot be jewellery."""
    shortest_mm, longest_mm = LONGEST_MM
    if longest > longest_mm:
        raise TooLarge(longest, longest_mm)
    if longest < shortest_mm:
        raise TooSmall(longest, shortest_mm)


def _bounds(meshes: Sequence[Mesh]) -> tuple[Floats, Floats]:
    """Find the corners of the bounding box of all faces, and refuse what cannot be jewellery."""
    points = np.concatenate([mesh.points[np.unique(mesh.faces)] for mesh in meshes])
    if lost := int((~np.isfinite(points)).any(axis=1).sum()):
        raise NotFinite(lost)
    low, high = points.min(axis=0), points.max(axis=0)
    _refuse_size(float((high - low).max()))
    return low, high


def _solid(surface: Mesh, middle: Floats) -> tuple[Floats, float]:
    """Return the volumes in mm³ of the bodies of one mesh, all of one sign, and its surface in mm²."""
    mesh = trimesh.Trimesh(surface.points - middle, surface.faces, process=False)
    mesh.merge_vertices(digits_vertex=SAME_POINT_DIGITS)
    faces, polygons = np.asarray(mesh.faces), surface.polygons
    edges, owners = outline_edges(faces, polygons)
    if not len(edges):
        return np.zeros(1), 0.0
    bodies = label_bodies(neighbours(edges, owners), int(polygons[-1]) + 1)
    # What shrank to a line has no edges left, and is of no body.
    kept = np.isin(polygons, owners)
    corners, polygons = np.asarray(mesh.vertices)[faces[kept]], polygons[kept]
    return enclosed_volumes(corners, bodies[polygons]), area(corners, polygons)
