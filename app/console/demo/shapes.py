"""Parametric jewellery: rings and pendants of a hundred sizes, as the files that customers upload.

Every piece is a closed cross-section swept once around the z axis. A ring's section stays the same or
changes gently with the angle; a pendant's section is a wall between its hole and its outline. Such a sweep
is watertight by construction.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

Point = tuple[float, float, float]
Face = tuple[int, int, int]
Mesh = tuple[Sequence[Point], Sequence[Face]]
"""Points in mm, and faces as numbers of points, counter-clockwise when seen from outside."""

NO_NORMAL = (0.0, 0.0, 0.0)  # readers compute it from the corners
CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
TYPES = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>'
    "</Types>"
)
RELATIONS = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="model" Target="/3D/3dmodel.model" '
    'Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>'
    "</Relationships>"
)


def stl_binary(mesh: Mesh) -> bytes:
    """Write binary STL: an 80-byte header, the count, then normal, three corners and two spare bytes each."""
    points, faces = mesh
    record = struct.Struct("<12fH")
    triangles = (
        record.pack(*NO_NORMAL, *(x for corner in face for x in points[corner]), 0) for face in faces
    )
    return b"".join((b"".ljust(80), struct.pack("<I", len(faces)), *triangles))


def stl_ascii(mesh: Mesh, *, name: str = "model") -> bytes:
    """Write STL as text."""
    points, faces = mesh
    lines = [f"solid {name}"]
    for face in faces:
        lines += ["facet normal 0 0 0", "outer loop"]
        lines += ["vertex {:.9g} {:.9g} {:.9g}".format(*points[corner]) for corner in face]
        lines += ["endloop", "endfacet"]
    return "\n".join([*lines, f"endsolid {name}", ""]).encode()


def obj(mesh: Mesh, *, name: str = "model") -> bytes:
    """Write Wavefront OBJ, whose points count from 1."""
    points, faces = mesh
    lines = [f"o {name}"]
    lines += ["v {:.9g} {:.9g} {:.9g}".format(*point) for point in points]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in faces]
    return "\n".join([*lines, ""]).encode()


def threemf(bodies: Iterable[Mesh], *, unit: str = "millimeter") -> bytes:
    """Write 3MF: each body is an object, and the build section places each once.

    Parameters:
        bodies: the meshes, with coordinates in `unit`.
        unit: micron, millimeter, centimeter, inch, foot or meter.
    """
    objects = [_object(number, body) for number, body in enumerate(bodies, start=1)]
    items = "".join(f'<item objectid="{number}"/>' for number in range(1, len(objects) + 1))
    return threemf_package(threemf_model("".join(objects), items, unit=unit))


def threemf_model(resources: str, items: str, *, unit: str = "millimeter") -> str:
    """Put the model part of a 3MF package around its objects and its build items."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><model unit="{unit}" xml:lang="en-US" xmlns="{CORE}">'
        f"<resources>{resources}</resources><build>{items}</build></model>"
    )


def threemf_package(model: str) -> bytes:
    """Zip the model part with what a 3MF package needs beside it."""
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        # A fixed date: the same model gives the same bytes, and so the same digest.
        for name, text in (
            ("[Content_Types].xml", TYPES),
            ("_rels/.rels", RELATIONS),
            ("3D/3dmodel.model", model),
        ):
            member = zipfile.ZipInfo(name, date_time=(2024, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, text)
    return package.getvalue()


def _object(number: int, mesh: Mesh) -> str:
    points, faces = mesh
    vertices = "".join(f'<vertex x="{x:.9g}" y="{y:.9g}" z="{z:.9g}"/>' for x, y, z in points)
    triangles = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in faces)
    return (
        f'<object id="{number}" type="model"><mesh><vertices>{vertices}</vertices>'
        f"<triangles>{triangles}</triangles></mesh></object>"
    )


Section = Sequence[tuple[float, float]]
"""Corners (distance from the axis, height) in mm, counter-clockwise."""


@dataclass(frozen=True)
class Shape:
    """A model file.

    Parameters:
        name: what the customer called it, without the suffix.
        suffix: the format: `stl`, `obj` or `3mf`.
        data: the content.
        good: it can be priced; otherwise it is to be rejected with a reason.
    """

    name: str
    suffix: str
    data: bytes
    good: bool = True


def sweep(section: Callable[[float], Section], *, segments: int) -> Mesh:
    """Sweep a section around the z axis.

    Parameters:
        section: the section at an angle in radians; always with the same number of corners.
        segments: how many copies of it are joined.
    """
    angles = [math.tau * step / segments for step in range(segments)]
    rows = [[(r * math.cos(a), r * math.sin(a), z) for r, z in section(a)] for a in angles]
    corners = len(rows[0])
    faces = []
    for row in range(segments):
        here, there = row * corners, (row + 1) % segments * corners
        for corner in range(corners):
            following = (corner + 1) % corners
            faces.append((here + corner, there + corner, there + following))
            faces.append((here + corner, there + following, here + following))
    return [point for row in rows for point in row], faces


def round_ring(*, radius_mm: float, wire_mm: float, segments: int = 96, sides: int = 24) -> Mesh:
    """Return a ring of round wire, `wire_mm` thick, with `radius_mm` to the middle of it: a torus."""
    turns = [math.tau * side / sides for side in range(sides)]
    wire = [(radius_mm + wire_mm / 2 * math.cos(t), wire_mm / 2 * math.sin(t)) for t in turns]
    return sweep(lambda _: wire, segments=segments)


def band_ring(*, radius_mm: float, width_mm: float, thickness_mm: float, segments: int = 120) -> Mesh:
    """Return a flat band: `radius_mm` on the inside."""
    band = _wall(radius_mm, radius_mm + thickness_mm, width_mm)
    return sweep(lambda _: band, segments=segments)


def signet_ring(*, radius_mm: float, width_mm: float, thickness_mm: float, segments: int = 120) -> Mesh:
    """Return a band that grows to twice its thickness and width at the front."""

    def section(angle: float) -> Section:
        front = 1 + max(0.0, math.cos(angle)) ** 4
        return _wall(radius_mm, radius_mm + thickness_mm * front, width_mm * front, middle=True)

    return sweep(section, segments=segments)


def wave_ring(
    *, radius_mm: float, wire_mm: float, waves: int, height_mm: float, segments: int = 144, sides: int = 16
) -> Mesh:
    """Return a ring of round wire that goes up and down `waves` times by `height_mm`."""
    turns = [math.tau * side / sides for side in range(sides)]

    def section(angle: float) -> Section:
        lift = height_mm * math.sin(waves * angle)
        return [(radius_mm + wire_mm / 2 * math.cos(t), lift + wire_mm / 2 * math.sin(t)) for t in turns]

    return sweep(section, segments=segments)


def disc_pendant(
    *, radius_mm: float, hole_mm: float, hole_offset_mm: float, thickness_mm: float, segments: int = 120
) -> Mesh:
    """Return a disc with a hole for the chain, `hole_mm` wide, `hole_offset_mm` from the disc's centre."""

    def section(angle: float) -> Section:
        # From the hole's centre, the rim of the disc is this far away in the direction of the angle.
        rim = hole_offset_mm * math.cos(angle) + math.sqrt(
            radius_mm**2 - (hole_offset_mm * math.sin(angle)) ** 2
        )
        return _wall(hole_mm / 2, rim, thickness_mm)

    return sweep(section, segments=segments)


def flower_pendant(
    *, radius_mm: float, petals: int, depth: float, hole_mm: float, thickness_mm: float, segments: int = 180
) -> Mesh:
    """Return a flower with a hole; its petals reach `depth` (below 1) of the radius in and out."""
    return sweep(
        lambda angle: _wall(
            hole_mm / 2, radius_mm * (1 + depth * math.cos(petals * angle)) / (1 + depth), thickness_mm
        ),
        segments=segments,
    )


def _wall(inner: float, outer: float, height: float, *, middle: bool = False) -> Section:
    bottom = -height / 2 if middle else 0.0
    return [(inner, bottom), (outer, bottom), (outer, bottom + height), (inner, bottom + height)]


def good_shapes(*, seed: int) -> Iterator[Shape]:
    """Make pieces without end, in all formats; the same seed gives the same files."""
    random = Random(seed)
    number = 0
    while True:
        number += 1
        make = random.choice(MAKERS)
        name, mesh = make(random)
        suffix, write = random.choice(WRITERS)
        yield Shape(f"{name}-{number:03}", suffix, write(mesh))


def _tenths(random: Random, low: float, high: float) -> float:
    return round(random.uniform(low, high), 1)


def _ring_size(random: Random) -> float:
    """Return the inner radius of a ring of EU size 46 to 68 (the inner circumference in mm)."""
    return random.randint(46, 68) / math.tau


def _round_ring(random: Random) -> tuple[str, Mesh]:
    wire = _tenths(random, 1.2, 3.0)
    return "round-ring", round_ring(radius_mm=_ring_size(random) + wire / 2, wire_mm=wire)


def _band_ring(random: Random) -> tuple[str, Mesh]:
    width, thickness = _tenths(random, 2, 8), _tenths(random, 1.2, 2.4)
    return "band-ring", band_ring(radius_mm=_ring_size(random), width_mm=width, thickness_mm=thickness)


def _signet_ring(random: Random) -> tuple[str, Mesh]:
    width, thickness = _tenths(random, 3, 6), _tenths(random, 1.4, 2.2)
    return "signet-ring", signet_ring(radius_mm=_ring_size(random), width_mm=width, thickness_mm=thickness)


def _wave_ring(random: Random) -> tuple[str, Mesh]:
    wire, waves, height = _tenths(random, 1.2, 2.2), random.randint(3, 9), _tenths(random, 0.5, 1.5)
    radius = _ring_size(random) + wire / 2
    return "wave-ring", wave_ring(radius_mm=radius, wire_mm=wire, waves=waves, height_mm=height)


def _disc_pendant(random: Random) -> tuple[str, Mesh]:
    radius, hole, thickness = _tenths(random, 6, 14), _tenths(random, 2, 4), _tenths(random, 1, 2.5)
    offset = radius - hole / 2 - 1.5
    return "disc-pendant", disc_pendant(
        radius_mm=radius, hole_mm=hole, hole_offset_mm=offset, thickness_mm=thickness
    )


def _flower_pendant(random: Random) -> tuple[str, Mesh]:
    radius, petals, depth = _tenths(random, 7, 15), random.randint(4, 9), _tenths(random, 0.1, 0.3)
    hole, thickness = _tenths(random, 2, 4), _tenths(random, 1, 2.5)
    return "flower-pendant", flower_pendant(
        radius_mm=radius, petals=petals, depth=depth, hole_mm=hole, thickness_mm=thickness
    )


MAKERS: Sequence[Callable[[Random], tuple[str, Mesh]]] = (
    _round_ring,
    _band_ring,
    _signet_ring,
    _wave_ring,
    _disc_pendant,
    _flower_pendant,
)
WRITERS: Sequence[tuple[str, Callable[[Mesh], bytes]]] = (
    ("stl", stl_binary),
    ("stl", stl_ascii),
    ("obj", obj),
    ("3mf", lambda mesh: threemf([mesh])),
)
