"""Read STL, binary and ASCII. What is cut off or can be read in two ways is refused."""

import re
from array import array

import numpy as np

from app.pricing import reading
from app.pricing.errors import BadLine, CutOff, DamagedFile, TooManyPolygons, WrongLength
from app.pricing.reading import NUMBER, line_at, line_number, plain_text, refuse_above
from app.pricing.surface import Floats, Mesh

HEADER_BYTES, RECORD_BYTES = 84, 50
RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")])

IS_TEXT = re.compile(rb"\s*+solid(?!\S)", re.IGNORECASE)
# The name of a solid is the rest of its line, whatever words are in it.
SOLID = re.compile(rb"\s*+solid(?!\S)[^\r\n]*+", re.IGNORECASE)
END = re.compile(rb"\s*+endsolid(?!\S)[^\r\n]*+", re.IGNORECASE)
ANY_END = re.compile(rb"\bendsolid\b", re.IGNORECASE)
# The normal follows from the corners, and is rubbish in many files.
FACET = re.compile(
    rb"\s*+facet\s++normal(?:\s++\S++){3}\s++outer\s++loop"
    + rb"\s++vertex\s++(%b)\s++(%b)\s++(%b)" % (NUMBER, NUMBER, NUMBER) * 3
    + rb"\s++endloop\s++endfacet(?!\S)",
    re.IGNORECASE,
)


def read_stl(data: bytes) -> list[Mesh]:
    """Read all solids of a file into one mesh: they are patches of one skin as often as they are bodies.

    Raises:
        ModelFault: the file is cut off, damaged or too large.
    """
    corners = _read_binary(data) if _is_binary(data) else _read_text(plain_text(data, "stl"))
    return [Mesh.of_triangles(corners, np.arange(len(corners)).reshape(-1, 3))]


def _announced(data: bytes) -> int:
    return int.from_bytes(data[HEADER_BYTES - 4 : HEADER_BYTES], "little")


def _is_binary(data: bytes) -> bool:
    """Return whether it is binary, by its length: the header of a binary file may begin with "solid" too.

    Text never has the length that its bytes 80 to 83 announce: read as a number they are above 150 million.
    """
    if len(data) < HEADER_BYTES:
        return False
    has_length = len(data) == HEADER_BYTES + RECORD_BYTES * _announced(data)
    return has_length or b"\0" in data


def _read_binary(data: bytes) -> Floats:
    triangles = _announced(data)
    needed_bytes = HEADER_BYTES + RECORD_BYTES * triangles
    if len(data) != needed_bytes:
        raise WrongLength(triangles, needed_bytes=needed_bytes, found_bytes=len(data))
    if triangles > reading.MAX_POLYGONS:
        raise TooManyPolygons(triangles, reading.MAX_POLYGONS)
    records = np.frombuffer(data, RECORD, count=triangles, offset=HEADER_BYTES)
    return records["corners"].astype(np.float64).reshape(-1, 3)


def _read_text(text: bytes) -> Floats:
    if not IS_TEXT.match(text):
        raise DamagedFile("stl")
    corners, position, solids = array("d"), 0, 0
    while found := SOLID.match(text, position):
        solids += 1
        refuse_above(reading.MAX_GROUPS, solids, "solids")
        position = _read_solid(text, found.end(), corners)
    if text[position:].strip():
        _refuse(text, position)
    return np.frombuffer(corners).reshape(-1, 3)


def _read_solid(text: bytes, position: int, corners: "array[float]") -> int:
    """Add the corners of a solid's facets; return where the text goes on behind it."""
    begin = position
    while facet := FACET.match(text, position):
        corners.extend(map(float, facet.groups()))
        position = facet.end()
        if len(corners) > 9 * reading.MAX_POLYGONS:
            raise TooManyPolygons(len(corners) // 9, reading.MAX_POLYGONS)
    if end := END.match(text, position):
        return end.end()
    if not ANY_END.search(text, position):
        raise CutOff("stl", f"the solid of line {line_number(text, begin):,} has no end")
    return _refuse(text, position)


def _refuse(text: bytes, position: int) -> int:
    position = len(text) - len(text[position:].lstrip())
    line = line_at(text, position)
    why = "begins a facet that is not understood" if line.lower().startswith("facet") else "is not understood"
    raise BadLine("stl", line_number(text, position), line, why)
