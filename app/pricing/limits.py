"""How much of a model file is read. Each limit is met while counting, before anything is built."""

from app.pricing.errors import TooMany

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
