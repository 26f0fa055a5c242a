"""Read the polygons of a Wavefront OBJ. What points at nothing or can be read in two ways is refused."""

import re
from array import array
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from app.pricing import reading
from app.pricing.errors import BadLine, CutOff, PointMissing, TooManyPolygons
from app.pricing.polygons import check_polygons
from app.pricing.reading import DECIMAL, NUMBER, plain_text, refuse_above
from app.pricing.surface import Floats, Ints, Mesh

POINT = re.compile(rb"\s*+v(?:\s++%b){3,8}\s*+" % NUMBER, re.IGNORECASE)
# A corner: its point, and maybe its texture and its normal.
FACE = re.compile(rb"\s*+f(?:\s++-?\d{1,12}(?:/(?:-?\d{1,12})?(?:/(?:-?\d{1,12})?)?)?){3,}+\s*+")
# A line that goes on in the next one. A comment does not, though it may end with a folder's backslash.
BREAK = rb"\\(?:\r\n?|\n)"
CONTINUED = re.compile(rb"^[^#\r\n\\]*+(?:%b[^#\r\n\\]*+)+" % BREAK, re.MULTILINE)

# Lines as most programs write them are read many at a time: one by one they take four times as long.
_POINT_LINE = rb"v(?: %b){3}\r?\n" % DECIMAL
_FACE_LINE = rb"f(?: [1-9]\d{0,8}(?:/\d{0,12}){0,2}){3}\r?\n"
PLAIN = re.compile(
    rb"^(?:(?P<points>(?:%b){2,4096}+)|(?:%b){2,4096}+)" % (_POINT_LINE, _FACE_LINE), re.MULTILINE
)
BEHIND_POINT = re.compile(rb"/[^ \r\n]*+")

GROUPS = frozenset((b"o", b"g"))
NO_SURFACE = frozenset(
    b"vt vn vp s mg p l usemtl mtllib usemap maplib lod bevel c_interp d_interp shadow_obj trace_obj".split()
)
"""Statements that change nothing about the polygons."""


def read_obj(data: bytes) -> list[Mesh]:
    """Read all groups of a file into one mesh: they are patches of one skin as often as they are bodies.

    Raises:
        ModelFault: the file is cut off, damaged, ambiguous or too large.
    """
    text = plain_text(data, "obj")
    if b"\\" in text:
        text = CONTINUED.sub(lambda lines: re.sub(BREAK, b" ", lines.group()), text)
    outlines, done = _Outlines(), 0
    for plain in PLAIN.finditer(text):
        outlines.read(text[done : plain.start()])
        outlines.read_plain(plain)
        done = plain.end()
    outlines.read(text[done:])
    points = np.frombuffer(outlines.points).reshape(-1, 3)
    _refuse_missing(outlines, points, is_ended=text.endswith((b"\n", b"\r")))
    return [_joined(points, outlines)]


class _Outlines:
    """The points of a file, and the outlines between them by their number of corners."""

    def __init__(self) -> None:
        self.points = array("d")
        self.corners: dict[int, array[int]] = defaultdict(lambda: array("q"))
        self._groups = 0
        self._polygons = 0
        self._lines = 0

    def read_plain(self, plain: re.Match[bytes]) -> None:
        """Read lines of `PLAIN` at once."""
        lines, text = plain[0].count(b"\n"), plain[0]
        self._lines += lines
        if plain["points"]:
            refuse_above(reading.MAX_POINTS, len(self.points) // 3 + lines, "points")
            self.points.frombytes(np.fromstring(text.replace(b"v", b" "), sep=" ").tobytes())
            return
        self._count_polygons(lines)
        corners = BEHIND_POINT.sub(b"", text) if b"/" in text else text
        found = np.fromstring(corners.replace(b"f", b" "), dtype=np.int64, sep=" ")
        self.corners[3].frombytes(found.tobytes())

    def read(self, text: bytes) -> None:
        """Read lines one by one."""
        for line in text.splitlines():
            self._lines += 1
            self._read_line(line, self._lines)

    def _read_line(self, line: bytes, number: int) -> None:
        line = line.partition(b"#")[0]
        words = line.split()
        if not words:
            return
        keyword = words[0]
        if keyword == b"f":
            self._add_face(words, line, number)
        elif keyword == b"v":
            self._add_point(words, line, number)
        elif keyword in GROUPS:
            self._groups += 1
            refuse_above(reading.MAX_GROUPS, self._groups, "groups")
        elif keyword not in NO_SURFACE:
            raise BadLine("obj", number, line.decode(errors="replace"))

    def _add_point(self, words: Sequence[bytes], line: bytes, number: int) -> None:
        # Four numbers: the last is a weight, which some readers divide by. Five: unknown.
        if not POINT.fullmatch(line) or len(words) == 6 or (len(words) == 5 and float(words[4]) != 1):
            raise BadLine("obj", number, line.decode(errors="replace"))
        self.points.extend(map(float, words[1:4]))
        refuse_above(reading.MAX_POINTS, len(self.points) // 3, "points")

    def _add_face(self, words: Sequence[bytes], line: bytes, number: int) -> None:
        if not FACE.fullmatch(line):
            raise BadLine("obj", number, line.decode(errors="replace"))
        corners = [int(word.partition(b"/")[0]) for word in words[1:]]
        if min(corners) <= 0:
            # Below zero they count backwards from the last point so far.
            so_far = len(self.points) // 3
            corners = [corner if corner >= 0 else so_far + 1 + corner for corner in corners]
            if min(corners) <= 0:
                raise BadLine(
                    "obj", number, line.decode(errors="replace"), "refers to a point before the first"
                )
        self.corners[len(corners)].extend(corners)
        self._count_polygons(len(corners) - 2)

    def _count_polygons(self, more: int) -> None:
        self._polygons += more
        if self._polygons > reading.MAX_POLYGONS:
            raise TooManyPolygons(self._polygons, reading.MAX_POLYGONS)


def _refuse_missing(outlines: _Outlines, points: Floats, *, is_ended: bool) -> None:
    """Refuse faces without their points, and a file whose last points have lost their faces."""
    last = max((max(corners) for corners in outlines.corners.values()), default=0)
    if last > len(points):
        raise PointMissing(last, len(points))
    if 0 < last < len(points) and not is_ended:
        raise CutOff("obj", "its last line has no end, and its last points belong to no face")


def _joined(points: Floats, outlines: _Outlines) -> Mesh:
    """Turn outlines into fans of triangles around their first corners."""
    faces: list[Ints] = [np.empty((0, 3), dtype=np.int64)]
    polygons: list[Ints] = [np.empty(0, dtype=np.int64)]
    begin = 0
    for size, numbers in sorted(outlines.corners.items()):
        corners = np.frombuffer(numbers, dtype=np.int64).reshape(-1, size) - 1
        if size > 3:
            check_polygons(points[corners])
        inner = corners[:, 1:-1]
        fans = np.stack([np.broadcast_to(corners[:, :1], inner.shape), inner, corners[:, 2:]], axis=2)
        faces.append(fans.reshape(-1, 3))
        polygons.append(np.repeat(np.arange(begin, begin + len(corners)), size - 2))
        begin += len(corners)
    return Mesh(points, np.concatenate(faces), np.concatenate(polygons))
