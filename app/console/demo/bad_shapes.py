"""Model files that must be rejected: damaged ones, impossible ones, and ones that mean harm."""

import io
import math
import zipfile
from functools import cache

from app.console.demo.shapes import (
    Mesh,
    Shape,
    band_ring,
    obj,
    round_ring,
    stl_ascii,
    stl_binary,
    threemf,
    threemf_model,
    threemf_package,
)

NESTING = 40
"""Objects of two components each, one inside the other: 2 to this power instances in a kilobyte."""
BOMB_BYTES = 300 * 2**20


@cache
def bad_shapes() -> tuple[Shape, ...]:
    """Make, once, one file of each kind; the name says what is wrong with it."""
    return tuple(Shape(name, suffix, data, good=False) for name, suffix, data in (*_broken(), *_hostile()))


def _broken() -> tuple[tuple[str, str, bytes], ...]:
    points, faces = ring = round_ring(radius_mm=9.0, wire_mm=2.0)
    turned = [faces[0][::-1], *faces[1:]]
    lost = [(math.nan, 0.0, 0.0), *points[1:]]
    beside = [(x + 30, y, z) for x, y, z in points]
    inverted = [(a + len(points), c + len(points), b + len(points)) for a, b, c in faces]
    return (
        ("empty", "stl", b""),
        ("cut-off", "stl", stl_binary(ring)[:-1000]),
        ("cut-off", "obj", obj(ring)[: -len(obj(ring)) // 4]),
        ("cut-off", "3mf", threemf([ring])[:-1000]),
        ("a-letter", "stl", b"Dear sirs,\nplease make me a ring.\n"),
        ("a-letter", "3mf", b"Dear sirs,\nplease make me a ring.\n"),
        ("points-only", "obj", obj((points, []))),
        ("holes", "stl", stl_binary((points, faces[4:-8]))),
        ("doubled", "stl", stl_binary((points, [*faces, *faces]))),
        ("turned-face", "obj", obj((points, turned))),
        ("inverted-neighbour", "stl", stl_binary(([*points, *beside], [*faces, *inverted]))),
        ("not-a-number", "stl", stl_binary((lost, faces))),
        ("not-a-number", "obj", obj((lost, faces))),
        ("flat", "stl", stl_ascii(_scaled(band_ring(radius_mm=9, width_mm=1, thickness_mm=2), z=0))),
        ("collapsed", "stl", stl_binary(([(0.0, 0.0, 0.0), (5.0, 0.0, 0.0)], [(0, 0, 1)] * 5000))),
        ("in-metres", "stl", stl_binary(_scaled(ring, x=1e-3, y=1e-3, z=1e-3))),
        ("in-metres", "3mf", threemf([ring], unit="meter")),
        ("as-a-statue", "obj", obj(_scaled(ring, x=100, y=100, z=100))),
        ("beyond-numbers", "obj", obj(_scaled(ring, x=1e300, y=1e300, z=1e300))),
    )


def _scaled(mesh: Mesh, *, x: float = 1, y: float = 1, z: float = 1) -> Mesh:
    points, faces = mesh
    return [(a * x, b * y, c * z) for a, b, c in points], faces


def _hostile() -> tuple[tuple[str, str, bytes], ...]:
    wedge: Mesh = ([(0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9)], [(0, 2, 1), (0, 1, 3), (0, 3, 2)])
    return (
        ("reads-passwords", "obj", b"mtllib ../../../../../../etc/passwd\nusemtl root\n" + obj(wedge)),
        ("reads-passwords", "3mf", threemf_package(_external_entity())),
        ("entity-bomb", "3mf", threemf_package(_entity_bomb())),
        ("component-bomb", "3mf", threemf_package(_component_bomb())),
        ("zip-bomb", "3mf", _zip_bomb()),
        ("points-beyond-the-last", "obj", obj((wedge[0], [(0, 1, 2**40)]))),
        ("claims-four-billion", "stl", b"".ljust(80) + b"\xff\xff\xff\xff" + bytes(50)),
    )


def _external_entity() -> str:
    doctype = '<!DOCTYPE model [<!ENTITY stolen SYSTEM "file:///etc/passwd">]>'
    model = threemf_model('<object id="1"><mesh>&stolen;</mesh></object>', '<item objectid="1"/>')
    return model.replace("?>", f"?>{doctype}", 1)


def _entity_bomb() -> str:
    entities = ['<!ENTITY e0 "ha">']
    entities += [f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12)]
    model = threemf_model('<object id="1" name="&e11;"/>', '<item objectid="1"/>')
    return model.replace("?>", f"?><!DOCTYPE model [{''.join(entities)}]>", 1)


def _component_bomb() -> str:
    solid = (
        '<object id="0"><mesh><vertices><vertex x="0" y="0" z="0"/><vertex x="9" y="0" z="0"/>'
        '<vertex x="0" y="9" z="0"/><vertex x="0" y="0" z="9"/></vertices><triangles>'
        '<triangle v1="0" v2="2" v3="1"/><triangle v1="0" v2="1" v3="3"/>'
        '<triangle v1="0" v2="3" v3="2"/><triangle v1="1" v2="2" v3="3"/></triangles></mesh></object>'
    )
    nested = [
        f'<object id="{n}"><components>{f"""<component objectid="{n - 1}"/>""" * 2}</components></object>'
        for n in range(1, NESTING + 1)
    ]
    return threemf_model(solid + "".join(nested), f'<item objectid="{NESTING}"/>')


def _zip_bomb() -> bytes:
    package, piece = io.BytesIO(), bytes(2**20)
    with (
        zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("3D/3dmodel.model", "w") as model,
    ):
        for _ in range(BOMB_BYTES // len(piece)):
            model.write(piece)
    return package.getvalue()
