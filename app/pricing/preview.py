"""What people see of a model: a mesh of bounded size for a browser, and a small picture. Bytes in, bytes out.

No browser parses a customer's file. This runs in the children of `app.pricing.zygote`, within their limits.
A model that cannot be made, such as one with holes, is shown as well: that is when its owner has to see it.
"""

import base64
import io
import json
import struct
import warnings
from collections.abc import Sequence

import mapbox_earcut
import numpy as np
from PIL import Image, ImageDraw

from app.pricing.measure import read_meshes
from app.pricing.measurement import MAX_PREVIEW_TRIANGLES, Preview
from app.pricing.surface import Floats, Ints, Mesh

PICTURE_PIXELS = 320
_OVERSAMPLING = 3
_FINEST_CELLS = 256
_COARSER = 0.75
# Cutting up a polygon of several triangles takes some microseconds each.
_MAX_CUT = 20_000

# From the front, the right and above; z is up in a workshop's files, and y in glTF.
_EYE = np.array([0.55, -1.0, 0.6])
_LIGHT = np.array([0.25, -0.7, 1.0])
_DARK, _BRIGHT = np.array([62.0, 66.0, 76.0]), np.array([236.0, 238.0, 242.0])

_GLB, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942
_FLOAT, _UINT = 5126, 5125
_VERTICES, _INDICES = 34962, 34963
_METRES_PER_MM = 0.001


def preview(data: bytes, *, suffix: str) -> Preview | None:
    """Make what is shown of the model in a file; None if it cannot be read, or holds nothing to see.

    Parameters:
        data: the content of the file.
        suffix: its format: `stl`, `obj` or `3mf`.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return _preview(read_meshes(data, suffix))
        except Exception:  # whatever a stranger's file makes of a reader
            return None


def _preview(meshes: Sequence[Mesh]) -> Preview | None:
    points, faces = _joined(meshes)
    shown, kept = reduce_mesh(points, faces, most=MAX_PREVIEW_TRIANGLES)
    if not len(kept):
        return None
    low, high = shown.min(axis=0), shown.max(axis=0)
    shown = shown - (low + high) / 2
    return Preview(
        glb=base64.b64encode(to_glb(shown, kept)).decode(),
        png=base64.b64encode(_draw(shown, kept)).decode(),
        triangles=len(kept),
        reduced=len(kept) < len(faces),
    )


def _joined(meshes: Sequence[Mesh]) -> tuple[Floats, Ints]:
    """Put the bodies into one list of points and one of triangles; what is not finite is left out."""
    starts = np.cumsum([0, *(len(mesh.points) for mesh in meshes)])
    points = np.concatenate([mesh.points for mesh in meshes])
    triangles = [_cut(mesh) + start for mesh, start in zip(meshes, starts, strict=False)]
    faces = np.concatenate(triangles)
    return points, faces[np.isfinite(points).all(axis=1)[faces].all(axis=1)]


def _cut(mesh: Mesh) -> Ints:
    """Return the triangles of a mesh; the fan of a concave polygon would reach beyond it."""
    polygons, counts = np.unique(mesh.polygons, return_counts=True)
    several = polygons[counts > 1]
    if not len(several) or len(several) > _MAX_CUT:
        return mesh.faces
    is_several = np.isin(mesh.polygons, several)
    fans, of_polygon = mesh.faces[is_several], mesh.polygons[is_several]
    ends = np.flatnonzero(np.diff(of_polygon)) + 1
    cut = [_cut_polygon(mesh.points, fan) for fan in np.split(fans, ends)]
    return np.concatenate([mesh.faces[~is_several], *cut])


def _cut_polygon(points: Floats, fan: Ints) -> Ints:
    outline = np.concatenate([fan[0, :2], fan[:, 2]])
    corners = points[outline] - points[outline[0]]
    normal = np.cross(corners, np.roll(corners, -1, axis=0)).sum(axis=0)
    flat = np.ascontiguousarray(np.delete(corners, int(np.abs(normal).argmax()), axis=1))
    cut = mapbox_earcut.triangulate_float64(flat, np.array([len(flat)], dtype=np.uint32))
    return outline[cut.astype(np.int64).reshape(-1, 3)] if len(cut) else fan


def reduce_mesh(points: Floats, faces: Ints, *, most: int) -> tuple[Floats, Ints]:
    """Make a mesh coarse enough: the points of a cell of a grid become one, in ever larger cells.

    It is vertex clustering (Rossignac and Borrel, 1993): it takes any triangles, also those of no solid.

    Parameters:
        points: (k, 3) positions.
        faces: (n, 3) numbers of points.
        most: how many triangles may be left.
    """
    used, faces = np.unique(faces, return_inverse=True)
    points, faces = points[used], faces.reshape(-1, 3)
    if not len(faces):
        return points, faces
    low = points.min(axis=0)
    size = float((points.max(axis=0) - low).max()) or 1.0
    cells = 2**20 if len(faces) <= most else _FINEST_CELLS
    while True:
        places = np.floor((points - low) / size * cells).astype(np.int64)
        key = (places[:, 0] * (cells + 1) + places[:, 1]) * (cells + 1) + places[:, 2]
        _, cell = np.unique(key, return_inverse=True)
        left = _distinct(cell[faces])
        if len(left) <= most:
            counts = np.bincount(cell)
            middles = np.stack([np.bincount(cell, weights=points[:, side]) for side in range(3)], axis=1)
            return middles / counts[:, None], left
        cells = int(cells * _COARSER)


def _distinct(faces: Ints) -> Ints:
    """Leave out what has shrunk to a line, and triangles that lie upon each other."""
    whole = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    faces = faces[whole]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return faces[np.sort(first)]


def to_glb(points: Floats, faces: Ints) -> bytes:
    """Write a mesh as binary glTF 2.0. It has no normals: a viewer then shows its facets as they are.

    Parameters:
        points: (k, 3) positions in mm, z up.
        faces: (n, 3) numbers of points.
    """
    x, y, z = points.T * _METRES_PER_MM
    positions = np.stack([x, z, -y], axis=1).astype("<f4")
    vertices, indices = positions.tobytes(), faces.astype("<u4").tobytes()
    views = [
        {"buffer": 0, "byteOffset": 0, "byteLength": len(vertices), "target": _VERTICES},
        {"buffer": 0, "byteOffset": len(vertices), "byteLength": len(indices), "target": _INDICES},
    ]
    low, high = positions.min(axis=0).tolist(), positions.max(axis=0).tolist()
    place = {"componentType": _FLOAT, "count": len(positions), "type": "VEC3", "min": low, "max": high}
    order = {"componentType": _UINT, "count": faces.size, "type": "SCALAR"}
    metal = {"baseColorFactor": [0.84, 0.85, 0.87, 1.0], "metallicFactor": 0.9, "roughnessFactor": 0.35}
    described = {
        "asset": {"version": "2.0", "generator": "mes-storage"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": metal, "doubleSided": True}],
        "accessors": [{"bufferView": 0, **place}, {"bufferView": 1, **order}],
        "bufferViews": views,
        "buffers": [{"byteLength": len(vertices) + len(indices)}],
    }
    text = json.dumps(described, separators=(",", ":")).encode()
    chunks = _chunk(_JSON, text + b" " * (-len(text) % 4)) + _chunk(_BINARY, vertices + indices)
    return struct.pack("<III", _GLB, 2, 12 + len(chunks)) + chunks


def _chunk(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", len(content), kind) + content


def _draw(points: Floats, faces: Ints) -> bytes:
    """Draw a mesh as a PNG: the farthest triangles first, each as bright as it faces the light."""
    ahead = _EYE / np.linalg.norm(_EYE)
    right = np.cross([0.0, 0.0, 1.0], ahead)
    right /= np.linalg.norm(right)
    seen = points @ np.stack([right, np.cross(ahead, right), ahead], axis=1)
    corners = seen[faces]
    normals = np.cross(points[faces][:, 1] - points[faces][:, 0], points[faces][:, 2] - points[faces][:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1), np.finfo(float).tiny)[:, None]
    # Seen from behind, as through a hole, a triangle turns its other side to us.
    normals *= np.where(normals @ ahead < 0, -1.0, 1.0)[:, None]
    bright = np.clip(normals @ (_LIGHT / np.linalg.norm(_LIGHT)), 0.0, 1.0) ** 1.2
    colours = (_DARK + bright[:, None] * (_BRIGHT - _DARK)).astype(int)

    pixels = PICTURE_PIXELS * _OVERSAMPLING
    low, high = seen.min(axis=0), seen.max(axis=0)
    scale = 0.9 * pixels / max(float((high - low)[:2].max()), np.finfo(float).tiny)
    flat = (corners[:, :, :2] - (low + high)[:2] / 2) * [scale, -scale] + pixels / 2
    image = Image.new("RGBA", (pixels, pixels), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    for number in np.argsort(corners[:, :, 2].mean(axis=1)):
        colour = (*colours[number].tolist(), 255)
        pen.polygon([tuple(corner) for corner in flat[number].tolist()], fill=colour, outline=colour)
    picture = image.resize((PICTURE_PIXELS, PICTURE_PIXELS), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    return written.getvalue()
