"""Measure a model file: bytes in, measures or a reason out. Runs in the children of `app.pricing.zygote`.

trimesh reads the file and merges corners; whether that is a solid is for `app.pricing.surface` to say.
The file comes from a stranger, so nothing here follows what it refers to: trimesh is given a buffer and no
resolver, and its XML parser loads neither entities nor DTDs.
"""

import io
import warnings
from collections.abc import Iterable

import numpy as np
import trimesh
from lxml import etree

from app.pricing.errors import (
    DamagedFile,
    EmptyFile,
    ModelFault,
    NestedBodies,
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
from app.pricing.surface import Floats, Ints, area, enclosed_volume, label_bodies, neighbours
from app.pricing.threemf import check_unpacked_size, count_bodies

MAX_POLYGONS = 1_000_000
LONGEST_MM = (2.0, 150.0)
"""What can be cast: from a jump ring to the height of a casting flask. Most others are in a wrong unit."""
MIN_VOLUME_MM3 = 0.5
SAME_POINT_DIGITS = 5
"""Corners that agree to 10 nm are one: exporters write each face's corners on their own, as float32."""

ROUNDING = 1.001
"""What sums of coordinates may be off: a box fills its own box exactly."""

Mesh = tuple[Floats, Ints]


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
    no_memory = isinstance(error, etree.XMLSyntaxError) and error.code == etree.ErrorTypes.ERR_NO_MEMORY
    if no_memory or isinstance(error, MemoryError):
        return TooMuchMemory()
    return DamagedFile(suffix)


def _read(data: bytes, suffix: str) -> list[Mesh]:
    """Read the bodies of a file, in mm."""
    if not data:
        raise EmptyFile
    if suffix == "3mf":
        check_unpacked_size(data)
        bodies = count_bodies(data)
        return _placed(_load(data, suffix), bodies=bodies)
    return [_joined(_load(_as_utf8(data, suffix), suffix))]


def _load(data: bytes, suffix: str) -> trimesh.Scene:
    # process=False: trimesh would drop points that are NaN and hide the fault.
    return trimesh.load_scene(io.BytesIO(data), file_type=suffix, process=False, skip_materials=True)


def _as_utf8(data: bytes, suffix: str) -> bytes:
    """Give text in UTF-8: an old exporter writes the name of the model in Latin-1."""
    if suffix == "stl" and len(data) >= 84 and len(data) == 84 + 50 * int.from_bytes(data[80:84], "little"):
        return data  # binary
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1").encode()
    return data


def _joined(scene: trimesh.Scene) -> Mesh:
    """Join what STL and OBJ split: their groups are patches of one skin as often as they are bodies."""
    meshes = _meshes(scene.geometry.values())
    if not meshes:
        return np.empty((0, 3)), np.empty((0, 3), dtype=np.int64)
    vertices, faces = trimesh.util.append_faces([m.vertices for m in meshes], [m.faces for m in meshes])
    return np.asarray(vertices, dtype=np.float64), np.asarray(faces, dtype=np.int64)


def _meshes(geometries: Iterable[object]) -> list[trimesh.Trimesh]:
    """Leave out what has no faces: points, and lines."""
    return [geometry for geometry in geometries if isinstance(geometry, trimesh.Trimesh)]


def _placed(scene: trimesh.Scene, *, bodies: int) -> list[Mesh]:
    """Put every instance of a 3MF scene in its place: what the build section does not name is not made."""
    nodes = scene.graph.nodes_geometry
    if len(nodes) != bodies:
        raise NestedBodies(len(nodes), bodies)
    # Before the instances are made: a small mesh, placed a million times, is a large model.
    _check_polygons(
        sum(len(mesh.faces) for mesh in _meshes(scene.geometry[scene.graph[node][1]] for node in nodes))
    )
    unit_mm = trimesh.units.unit_conversion(scene.units or "millimeters", "millimeters")
    return [(mesh.vertices * unit_mm, mesh.faces) for mesh in _meshes(scene.dump())]


def _check_polygons(polygons: int) -> None:
    if polygons > MAX_POLYGONS:
        raise TooManyPolygons(polygons, MAX_POLYGONS)


def _survey(meshes: list[Mesh], suffix: str) -> Measurement:
    """Check the meshes and add them up."""
    polygons = sum(len(faces) for _, faces in meshes)
    if not polygons:
        raise NoTriangles(suffix)
    _check_polygons(polygons)
    low, high = _bounds(meshes)
    solids = [_solid(vertices - (low + high) / 2, faces) for vertices, faces in meshes if len(faces)]
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
    points = np.concatenate([vertices[np.unique(faces)] for vertices, faces in meshes if len(faces)])
    if min(int(faces.min()) for _, faces in meshes if len(faces)) < 0:
        raise IndexError("a face refers to a point before the first")
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


def _solid(vertices: Floats, faces: Ints) -> tuple[float, float]:
    """Give the volume in mm³ and the surface in mm² of one mesh, which may hold several bodies."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    mesh.merge_vertices(digits_vertex=SAME_POINT_DIGITS)
    numbers = np.asarray(mesh.faces)
    # A face that shrank to a line when its corners were merged has no area, and its neighbours now meet.
    collapsed = (numbers == np.roll(numbers, 1, axis=1)).any(axis=1)
    numbers = numbers[~collapsed]
    if not len(numbers):
        return 0.0, 0.0
    corners = np.asarray(mesh.vertices)[numbers]
    bodies = label_bodies(neighbours(numbers), len(numbers))
    return enclosed_volume(corners, bodies), area(corners)
