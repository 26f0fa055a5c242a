"""Write triangle meshes as STL, OBJ and 3MF, by the formats' own rules and without a mesh library."""

import io
import struct
import zipfile
from collections.abc import Iterable, Sequence

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
