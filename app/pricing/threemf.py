"""Read the bodies that a 3MF builds: its parts, objects, components and transforms.

Nothing is priced that the file does not say, and nothing of what it says is passed over: what is not
understood and may change the shape is refused. docs/adr/022 has the reasons for a reader of our own.
"""

import re
import warnings
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from app.pricing import reading
from app.pricing.errors import (
    BadPackage,
    ContainsItself,
    NotASolid,
    NothingBuilt,
    ObjectMissing,
    PointMissing,
    TooManyBodies,
    TooManyPolygons,
    UnknownExtension,
)
from app.pricing.opc import Attributes, Package, resolve
from app.pricing.reading import refuse_above
from app.pricing.surface import Floats, Mesh

CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
PRODUCTION = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"
UNDERSTOOD = frozenset(
    (
        CORE,
        PRODUCTION,
        # Colours, textures and named sets of triangles, which change nothing about the shape.
        "http://schemas.microsoft.com/3dmanufacturing/material/2015/02",
        "http://schemas.microsoft.com/3dmanufacturing/trianglesets/2021/07",
    )
)
SHAPES = re.compile("beamlattice|boolean|displacement|implicit|volumetric|securecontent", re.IGNORECASE)
"""Extensions that add to a mesh or take away from it; their elements count even where they are optional."""

UNITS_MM = {
    "micron": 0.001,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "inch": 25.4,
    "foot": 304.8,
    "meter": 1000.0,
}
SUPPORTS = frozenset(("support", "solidsupport"))
"""Types of objects that only carry the piece while it is printed."""
TYPES = SUPPORTS | {"model", "surface", "other"}

ROOT = ""
CHILDREN = {
    ROOT: {"model"},
    "model": {"metadata", "resources", "build"},
    "resources": {"basematerials", "object"},
    "object": {"metadatagroup", "mesh", "components"},
    "mesh": {"vertices", "triangles"},
    "vertices": {"vertex"},
    "triangles": {"triangle"},
    "components": {"component"},
    "build": {"item"},
    "item": {"metadatagroup"},
}
IGNORED = frozenset(("metadata", "metadatagroup", "basematerials"))
ONCE = frozenset(("resources", "build", "mesh", "components", "vertices", "triangles"))

VERTEX, TRIANGLE = f"{CORE} vertex", f"{CORE} triangle"
PATH = f"{PRODUCTION} path"
LOW_RESOLUTION = re.compile("/slice/[^ ]* meshresolution$")
# Within these letters Python's numbers are those of XML Schema: no "nan", no 1_000, no other digits.
REALS = re.compile(r"[0-9+\-.eE \t\r\n]*")
WHOLES = re.compile(r"[0-9 \t\r\n]*")
PLAIN = {
    kind: re.compile(
        rf'(_*<{element}_+{a}_*=_*")[^"]+("_+{b}_*=_*")[^"]+("_+{c}_*=_*")[^"]+("_*/>)'.replace(
            "_", r"[ \t\r\n]"
        ).encode()
    )
    for kind, (element, a, b, c) in {
        "vertices": ("vertex", "x", "y", "z"),
        "triangles": ("triangle", "v1", "v2", "v3"),
    }.items()
}
"""An element with these attributes alone; its groups are what stands around the three numbers."""
PLAIN_LETTERS = {"vertices": b"0123456789+-.eE", "triangles": b"0123456789"}
PLAIN_TYPES: dict[str, type] = {"vertices": np.float64, "triangles": np.int64}
BATCH = 30_000
"""Numbers that are kept as text at a time."""
SINGULAR = 1e-9

N = TypeVar("N", int, float)

Address = tuple[str, int]
"""An object: its part and its number there."""
Matrix = tuple[Floats, Floats]
"""What a row of coordinates is multiplied with, and what is added."""
IDENTITY: Matrix = (np.eye(3), np.zeros(3))


@dataclass(frozen=True)
class Occurrence:
    """An object at a place."""

    address: Address
    matrix: Matrix


@dataclass
class Object:
    """An object of a part: a mesh, or components."""

    kind: str
    points: "array[float] | None" = None
    corners: "array[int] | None" = None
    components: list[Occurrence] | None = None

    def mesh(self) -> Mesh:
        """Return its mesh, in the unit of the file."""
        points = np.frombuffer(self.points or b"").reshape(-1, 3)
        faces = np.frombuffer(self.corners or b"", dtype=np.int64).reshape(-1, 3)
        return Mesh.of_triangles(points, faces)


@dataclass
class Part:
    """What a model part holds; `items` are what it builds."""

    unit: str
    objects: dict[int, Object] = field(default_factory=dict)
    items: list[Occurrence] = field(default_factory=list)


def read_3mf(data: bytes) -> list[Mesh]:
    """Read every body that the build section places, in its place and in mm.

    Raises:
        ModelFault: the file is damaged, too large, or says something that is not understood.
    """
    model = _Model(Package(data))
    build = model.root.items
    sizes = [model.count(placement.address) for placement in build]
    bodies, polygons = (sum(size[n] for size in sizes) for n in (0, 1))
    # Before the instances are made: a small mesh, placed a million times, is a large model.
    if bodies > reading.MAX_BODIES:
        raise TooManyBodies(bodies, reading.MAX_BODIES)
    if polygons > reading.MAX_POLYGONS:
        raise TooManyPolygons(polygons, reading.MAX_POLYGONS)
    placed = [found for placement in build for found in model.place(placement, IDENTITY)]
    if not placed:
        raise NothingBuilt
    unit_mm = UNITS_MM[model.root.unit]
    # A mirrored body is inside out as a whole, and is taken as it was meant like any other.
    return [
        Mesh((mesh.points @ turn + shift) * unit_mm, mesh.faces, mesh.polygons)
        for mesh, (turn, shift) in ((found.mesh(), matrix) for found, matrix in placed)
    ]


class _Model:
    """The parts of a model, each read when it is first referred to."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._parts: dict[str, Part] = {}
        self._counts = _Counts()
        self._sizes: dict[Address, tuple[int, int]] = {}
        self._start = package.start()
        self.root = self._part(self._start)

    def _part(self, name: str) -> Part:
        if name not in self._parts:
            part = _Reader(name, self._counts).read(self._package)
            if self._parts and part.unit != self.root.unit:
                raise BadPackage(
                    f"its part {name[:80]!a} is in {part.unit}, and the model in {self.root.unit}"
                )
            self._parts[name] = part
        return self._parts[name]

    def _object(self, address: Address) -> Object:
        part, number = address
        objects = self._part(part).objects
        if number not in objects:
            raise ObjectMissing(number, part)
        return objects[number]

    def count(self, address: Address, inside: tuple[Address, ...] = ()) -> tuple[int, int]:
        """Count the bodies and polygons that an object places, supports among them.

        Raises:
            ModelFault: an object is absent, contains itself, or is no solid.
        """
        if address in inside:
            raise ContainsItself(address[1], address[0])
        refuse_above(reading.MAX_DEPTH, len(inside), "objects inside each other")
        if address not in self._sizes:
            found = self._object(address)
            if found.components is None:
                self._sizes[address] = (1, len(found.corners or ()) // 3)
            else:
                below = [self.count(each.address, (*inside, address)) for each in found.components]
                self._sizes[address] = (sum(size[0] for size in below), sum(size[1] for size in below))
        return self._sizes[address]

    def place(self, placement: Occurrence, around: Matrix) -> Iterator[tuple[Object, Matrix]]:
        """Find the bodies of an object, and where they come to lie. Supports are left out.

        Raises:
            NotASolid: an object says of itself that it is none.
        """
        found = self._object(placement.address)
        if found.kind in SUPPORTS:
            return
        if found.kind != "model":
            raise NotASolid(placement.address[1], found.kind)
        matrix = _combined(placement.matrix, around)
        if found.components is None:
            yield found, matrix
        for component in found.components or ():
            yield from self.place(component, matrix)


def _combined(first: Matrix, then: Matrix) -> Matrix:
    return first[0] @ then[0], first[1] @ then[0] + then[1]


class _Counts:
    """How much was read, over all parts."""

    def __init__(self) -> None:
        self.points = self.polygons = self.groups = self.others = 0

    def add(self, name: str, count: int, limit: int, what: str) -> None:
        total = getattr(self, name) + count
        setattr(self, name, total)
        refuse_above(limit, total, what)


class _Reader:
    """Reads one model part, element by element."""

    def __init__(self, name: str, counts: _Counts) -> None:
        self._name = name
        self._counts = counts
        self._part = Part("millimeter")
        self._namespaces: dict[str | None, str] = {}
        self._defaults: set[str] = set()
        self._path = [ROOT]
        self._seen: list[set[str]] = [set()]
        self._ignored = 0
        self._object = Object("model")
        self._number = 0
        self._tokens: list[str] = []
        self._begin: dict[str, Callable[[Attributes], None]] = {
            "model": self._begin_model,
            "object": self._begin_object,
            "mesh": self._begin_mesh,
            "components": self._begin_components,
            "component": self._begin_component,
            "item": self._begin_item,
        }

    def read(self, package: Package) -> Part:
        """Read the part.

        Raises:
            ModelFault: it is absent, damaged, too large, or not understood.
        """
        package.require_model(self._name)
        package.parse(self._name, self._start, end=self._end, prefix=self._prefix, take=self._take_plain)
        return self._part

    def _refuse(self, why: str) -> BadPackage:
        return BadPackage(f"{why} in its part {self._name[:80]!a}")

    def _prefix(self, prefix: str | None, namespace: str) -> None:
        if prefix is None:
            self._defaults.add(namespace)
        # Only the model element's own count for its list of extensions.
        if self._path == [ROOT]:
            self._namespaces[prefix] = namespace

    def _start(self, element: str, attributes: Attributes) -> None:
        inside = "" if self._ignored else self._path[-1]
        try:
            if element == VERTEX and inside == "vertices":
                self._tokens += (attributes["x"], attributes["y"], attributes["z"])
            elif element == TRIANGLE and inside == "triangles":
                self._tokens += (attributes["v1"], attributes["v2"], attributes["v3"])
            else:
                self._counts.add("others", 1, reading.MAX_OTHERS, "elements")
                self._start_other(element, attributes)
                return
        except KeyError as error:
            raise self._refuse(f"an element {element.rpartition(' ')[2][:40]!a} has no {error}") from None
        self._path.append("point")
        if len(self._tokens) >= BATCH:
            self._take_tokens(inside)

    def _take_plain(self, block: bytes) -> bool:
        """Take points, or triangles, that are all written as the first one is; nothing else is taken."""
        inside = "" if self._ignored else self._path[-1]
        if inside not in PLAIN or self._defaults != {CORE} or not (first := PLAIN[inside].match(block)):
            return False
        before, second, third, behind = first.groups()
        text = block.removeprefix(before).removesuffix(behind)
        text = text.replace(behind + before, b"\n").replace(second, b" ").replace(third, b"\t")
        count = block.count(b"<")
        if (
            text.translate(None, PLAIN_LETTERS[inside]) != (b" \t\n" * count)[:-1]
            or block.count(b'"') != 6 * count  # white space of the file is not taken for what was between
        ):
            return False
        try:
            with warnings.catch_warnings(action="error"):
                numbers: Any = np.fromstring(text, dtype=PLAIN_TYPES[inside], sep=" ")
        except (DeprecationWarning, ValueError):
            return False  # the right letters, and no number
        if len(numbers) != 3 * count or (inside == "triangles" and numbers.max() > reading.MAX_POINTS):
            return False
        self._take_tokens(inside)
        self._count(inside, count).frombytes(numbers.tobytes())
        return True

    def _start_other(self, element: str, attributes: Attributes) -> None:
        if self._ignored:
            self._ignored += 1
            return
        namespace, _, name = element.rpartition(" ")
        if namespace != CORE and self._path != [ROOT]:
            if SHAPES.search(namespace):
                raise UnknownExtension(name, namespace)
            self._ignored = 1
            return
        if namespace != CORE or name not in CHILDREN.get(self._path[-1], ()):
            raise self._refuse(f"there is an element {name[:40]!a} where 3MF knows none")
        if name in ONCE:
            if name in self._seen[-1]:
                raise self._refuse(f"there are two elements {name!a} where one is allowed")
            self._seen[-1].add(name)
        if name in IGNORED:
            self._ignored = 1
            return
        self._path.append(name)
        self._seen.append(set())
        if begin := self._begin.get(name):
            begin(attributes)

    def _end(self, _: str) -> None:
        if self._ignored:
            self._ignored -= 1
            return
        name = self._path.pop()
        if name == "point":  # or a triangle
            return
        seen = self._seen.pop()
        if name in ("vertices", "triangles"):
            self._take_tokens(name)
        elif name == "mesh":
            self._check_corners()
        elif name == "object" and not seen & {"mesh", "components"}:
            raise self._refuse(f"object {self._number} has neither a mesh nor components")
        elif name == "components" and not self._object.components:
            raise self._refuse(f"object {self._number} has no component")
        elif name == "model" and not seen >= {"resources", "build"}:
            raise self._refuse("the resources or the build section are missing")

    def _begin_model(self, attributes: Attributes) -> None:
        for prefix in attributes.get("requiredextensions", "").split():
            namespace = self._namespaces.get(prefix)
            if namespace not in UNDERSTOOD:
                raise UnknownExtension(prefix, namespace)
        self._part.unit = attributes.get("unit", "millimeter")
        if self._part.unit not in UNITS_MM:
            raise self._refuse(f"there is a unit {self._part.unit[:40]!a} that 3MF does not know")

    def _begin_object(self, attributes: Attributes) -> None:
        self._counts.add("groups", 1, reading.MAX_GROUPS, "objects and components")
        self._number = self._whole(attributes["id"])
        if self._number in self._part.objects:
            raise self._refuse(f"there are two objects {self._number}")
        kind = attributes.get("type", "model")
        if kind not in TYPES:
            raise self._refuse(f"object {self._number} has a type {kind[:40]!a} that 3MF does not know")
        if any(LOW_RESOLUTION.search(name) and value == "lowres" for name, value in attributes.items()):
            raise UnknownExtension("slice", None)
        self._object = self._part.objects[self._number] = Object(kind)

    def _begin_mesh(self, _: Attributes) -> None:
        self._refuse_both()
        self._object.points, self._object.corners = array("d"), array("q")

    def _begin_components(self, _: Attributes) -> None:
        self._refuse_both()
        self._object.components = []

    def _refuse_both(self) -> None:
        if self._object.points is not None or self._object.components is not None:
            raise self._refuse(f"object {self._number} has a mesh and components")

    def _begin_component(self, attributes: Attributes) -> None:
        self._counts.add("groups", 1, reading.MAX_GROUPS, "objects and components")
        assert self._object.components is not None
        self._object.components.append(self._placement(attributes))

    def _begin_item(self, attributes: Attributes) -> None:
        self._counts.add("groups", 1, reading.MAX_GROUPS, "objects and components")
        placement = self._placement(attributes)
        printable = attributes.get("printable", "1")
        if printable not in ("0", "1", "false", "true"):
            raise self._refuse(f"an item is printable by {printable[:40]!a}")
        if printable in ("1", "true"):
            self._part.items.append(placement)

    def _placement(self, attributes: Attributes) -> Occurrence:
        part = self._name
        if PATH in attributes:
            path = attributes[PATH]
            if not path.startswith("/"):
                raise self._refuse(f"the path {path[:80]!a} does not begin with a slash")
            part = resolve(path, base="/")
        return Occurrence(
            (part, self._whole(attributes["objectid"])), self._matrix(attributes.get("transform"))
        )

    def _matrix(self, text: str | None) -> Matrix:
        if text is None:
            return IDENTITY
        numbers = self._numbers(text.split(), REALS, float)
        if len(numbers) != 12:
            raise self._refuse(f"the transform {text[:80]!a} is not made of 12 numbers")
        rows = np.array(numbers).reshape(4, 3)
        turn = rows[:3]
        volume, lengths = np.linalg.det(turn), np.prod(np.linalg.norm(turn, axis=1))
        if not np.isfinite(rows).all() or not abs(volume) > SINGULAR * lengths:
            raise self._refuse(f"the transform {text[:80]!a} flattens the object")
        return turn, rows[3]

    def _whole(self, text: str) -> int:
        return self._numbers([text], WHOLES, int)[0]

    def _numbers(self, tokens: list[str], letters: "re.Pattern[str]", number: Callable[[str], N]) -> list[N]:
        try:
            if letters.fullmatch(" ".join(tokens)):
                return list(map(number, tokens))
        except ValueError:
            pass  # the right letters, and no number
        bad = next(token for token in tokens if not (letters.fullmatch(token) and _is_one(token, number)))
        raise self._refuse(f"{bad[:40]!a} is no number")

    def _take_tokens(self, kind: str) -> None:
        """Turn the coordinates, or the corners, that have come in so far into numbers."""
        tokens, self._tokens = self._tokens, []
        numbers = self._count(kind, len(tokens) // 3)
        if kind == "vertices":
            numbers.extend(self._numbers(tokens, REALS, float))
        else:
            numbers.extend(self._numbers(tokens, WHOLES, int))

    def _count(self, kind: str, more: int) -> "array[Any]":
        """Count points, or triangles, and return what their numbers are kept in."""
        if kind == "vertices":
            self._counts.add("points", more, reading.MAX_POINTS, "points")
            kept: array[Any] | None = self._object.points
        else:
            self._counts.polygons += more
            if self._counts.polygons > reading.MAX_POLYGONS:
                raise TooManyPolygons(self._counts.polygons, reading.MAX_POLYGONS)
            kept = self._object.corners
        assert kept is not None
        return kept

    def _check_corners(self) -> None:
        points, corners = self._object.points or (), self._object.corners
        last = max(corners) if corners else -1
        if last >= len(points) // 3:
            raise PointMissing(last + 1, len(points) // 3)


def _is_one(token: str, number: Callable[[str], object]) -> bool:
    try:
        number(token)
    except ValueError:
        return False
    return True
