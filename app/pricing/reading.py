"""How model files are read: as strictly as the formats are written, and only so much of them.

Each limit is met while counting, before anything is built. Python's own float() and int() take more than any
format knows: `1_000`, digits of all scripts.
"""

import re

from app.pricing.errors import DamagedFile, TooMany

MAX_POLYGONS = 1_000_000
MAX_POINTS = 3 * MAX_POLYGONS
"""A file whose triangles share no corner has three points for each."""
MAX_GROUPS = 10_000
"""Solids of an STL, groups of an OBJ; objects and components of a 3MF."""
MAX_BODIES = 1_000
MAX_DEPTH = 100
"""Objects of a 3MF, each inside the other."""
MAX_OTHERS = 1_000_000
"""Elements of a 3MF that are neither points nor triangles: colours, textures, notes."""
MAX_TAG_BYTES = 256 * 2**10
"""One tag or comment of a 3MF: expat reads it again with each chunk, as long as it has no end."""
MAX_MEMBERS = 5_000
"""Files in the archive of a 3MF."""
MAX_UNPACKED_BYTES = 256 * 2**20
MAX_EDGE_PAIRS = 50_000_000
"""Edges of concave polygons that are compared with each other: about 4 s of processor time."""


def refuse_above(limit: int, count: int, what: str) -> None:
    """Refuse a file that holds more than is read.

    Raises:
        TooMany: `count` is above the limit.
    """
    if count > limit:
        raise TooMany(what, limit)


DECIMAL = rb"[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?"
NUMBER = rb"(?:" + DECIMAL + rb"|[+-]?(?:nan|inf|infinity))"
"""A coordinate. What is not finite is counted later, and named to the customer."""

UTF8_MARK = b"\xef\xbb\xbf"


def plain_text(data: bytes, suffix: str) -> bytes:
    """Strip the mark of UTF-8. Names may be in any encoding that leaves ASCII as it is.

    Raises:
        DamagedFile: it is binary, or in an encoding of two bytes a character.
    """
    if b"\0" in data:
        raise DamagedFile(suffix)
    return data.removeprefix(UTF8_MARK)


def line_number(text: bytes, position: int) -> int:
    """Count the line in which a position lies, from 1."""
    return len(re.findall(rb"\r\n?|\n", text[:position])) + 1


def line_at(text: bytes, position: int) -> str:
    """Cut out the line that begins at a position, to be shown."""
    return re.split(rb"[\r\n]", text[position : position + 200], maxsplit=1)[0].decode(errors="replace")
