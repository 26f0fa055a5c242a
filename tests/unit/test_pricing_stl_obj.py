"""STL and OBJ after public reports: measured right, or refused with a sentence."""

import math
import struct
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.console.demo.shapes import Mesh, obj, stl_ascii, stl_binary
from app.pricing import reading
from app.pricing.errors import ModelFault
from app.pricing.measure import measure
from app.pricing.measurement import Measurement, Unmeasurable
from app.pricing.obj import read_obj
from tests.unit.test_pricing_3mf import box

pytestmark = pytest.mark.field

BOX = box(10, 20, 30)
TEXT = stl_ascii(BOX).decode()
SECOND = stl_ascii(box(10, 20, 30, at=40), name="second").decode()
COORDINATES = ["0", "-1.5", "+2.", ".5", "1e3", "1E-7", "1e999", "0.1234567890123456789", "nan", "1_0", "-"]
CORNERS = ["1", "2", "3", "4/", "1/1", "2//3", "3/4/5", "-1", "0", "01", "1234567890", "1/-1"]
QUADS = ((1, 2, 4, 3), (5, 7, 8, 6), (1, 5, 6, 2), (3, 4, 8, 7), (1, 3, 7, 5), (2, 6, 8, 4))


def measured(data: bytes | str, suffix: str) -> Measurement:
    outcome = measure(data.encode() if isinstance(data, str) else data, suffix=suffix)
    assert isinstance(outcome, Measurement), outcome
    return outcome


def reason(data: bytes | str, suffix: str) -> str:
    outcome = measure(data.encode() if isinstance(data, str) else data, suffix=suffix)
    assert isinstance(outcome, Unmeasurable), outcome
    assert outcome.final
    return outcome.reason


def points_of(mesh: Mesh) -> list[str]:
    return ["v {} {} {}".format(*point) for point in mesh[0]]


def obj_of(points: Sequence[str], *faces: Sequence[object]) -> str:
    return "\n".join([*points, *(" ".join(map(str, ("f", *face))) for face in faces), ""])


def prism(outline: Sequence[tuple[float, float]], *, height: float = 10) -> str:
    """An OBJ whose caps are one polygon each."""
    count = len(outline)
    points = [f"v {x} {y} {z}" for z in (0, height) for x, y in outline]
    bottom, top = [*range(count, 0, -1)], [*range(count + 1, 2 * count + 1)]
    walls = [(i + 1, (i + 1) % count + 1, (i + 1) % count + 1 + count, i + 1 + count) for i in range(count)]
    return obj_of(points, bottom, top, *walls)


class TestTextStl:
    @pytest.mark.parametrize("share", [0.8, 0.6, 0.3, 0.99])
    def test_two_solids_cut_off(self, share: float) -> None:
        both = TEXT + SECOND
        assert "The STL file is cut off: the solid of line" in reason(both[: int(len(both) * share)], "stl")

    @pytest.mark.parametrize(
        "name",
        ["vertex ring", "endsolid", "facet normal 0 0 0", "outer loop", "solid", "", "a  b\tc", "10 20"],
    )
    def test_names_are_names(self, name: str) -> None:
        found = measured(stl_ascii(BOX, name=name), "stl")
        assert [found.volume_mm3, found.area_mm2] == pytest.approx([6_000, 2_200])

    @pytest.mark.parametrize(
        "text",
        [
            TEXT.replace("\n", "\r\n"),
            TEXT.replace("\n", "\r"),
            TEXT.upper(),
            "\ufeff" + TEXT,
            "\n\n  " + TEXT.replace("vertex", "      vertex"),
            TEXT.replace("normal 0 0 0", "normal nan -nan(ind) 1.#IND"),
            TEXT.replace("endsolid model", "endsolid"),
            TEXT.replace("vertex 10 ", "vertex +1.0E+01 "),
            TEXT.rstrip(),
            TEXT + SECOND.split("facet")[0] + "endsolid second\n",
        ],
        ids=range(10),
    )
    def test_ways_to_write_the_same(self, text: str) -> None:
        assert measured(text, "stl").volume_mm3 == pytest.approx(6_000)

    def test_two_solids(self) -> None:
        assert measured(TEXT + SECOND, "stl").volume_mm3 == pytest.approx(12_000)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (TEXT.replace("endsolid model\n", ""), "is cut off"),
            (
                TEXT.replace("endsolid model\n", SECOND),
                "Line 86 of the STL file is not understood: 'solid second'",
            ),
            (TEXT + "facet", "Line 87 of the STL file"),
            (TEXT + "and more", "Line 87 of the STL file is not understood: 'and more'"),
            (TEXT.replace("vertex 10 0 0", "vertex 1_0 0 0"), "begins a facet that is not understood"),
            (TEXT.replace("vertex 10 0 0", "vertex 10,0 0 0"), "begins a facet that is not understood"),
            (TEXT.replace("vertex 10 0 0", "vertex 0x0A 0 0"), "begins a facet that is not understood"),
            (TEXT.replace("vertex 10 0 0", "vertex 10 0"), "begins a facet that is not understood"),
            (TEXT.replace("vertex 10 0 0", "vertex 10 0 0 0"), "begins a facet that is not understood"),
            (TEXT.replace("vertex 10 0 0", "vertex nan 0 0"), "without a position"),
            (TEXT.replace("vertex 10 0 0", "vertex -INF 0 0"), "without a position"),
            (TEXT.replace("vertex 10 0 0", "vertex 1e400 0 0"), "without a position"),
            (TEXT.replace("endloop", "vertex 1 2 3\nendloop", 1), "begins a facet that is not understood"),
            (TEXT.replace("endloop\n", "", 1), "begins a facet that is not understood"),
            (TEXT.replace("solid model", "solidmodel"), "is damaged or cut off"),
            ("solid\nendsolid\n", "No surface was found"),
            (TEXT.encode("utf-16").decode("latin-1"), "The STL file is cut off"),
        ],
    )
    def test_what_is_refused(self, text: str, said: str) -> None:
        assert said in reason(text.encode("latin-1"), "stl")

    def test_thousands_of_solids_are_not_read(self) -> None:
        data = b"solid\nendsolid\n" * 150_000
        before = time.process_time()
        assert "more than 10,000 solids" in reason(data, "stl")
        assert time.process_time() - before < 1

    @pytest.mark.parametrize("filler", [b" " * 100 + b"\n", b"facet ", b"endsoli "])
    def test_millions_of_words_without_an_end(self, filler: bytes) -> None:
        before = time.process_time()
        assert "is cut off" in reason(b"solid a\n" + filler * 500_000, "stl")
        assert time.process_time() - before < 2

    def test_a_number_of_a_million_digits_takes_no_time(self) -> None:
        data = TEXT.replace("vertex 10 0 0", f"vertex {'1' * 1_000_000}x 0 0", 1)
        before = time.process_time()
        assert "not understood" in reason(data, "stl")
        assert time.process_time() - before < 2


class TestBinaryStl:
    def test_a_header_that_begins_as_text_does(self) -> None:
        data = stl_binary(BOX)
        for header in (b"solid ring", b"solid \nfacet normal 0 0 0\nouter loop", b"solid\n"):
            assert measured(header.ljust(80) + data[80:], "stl").volume_mm3 == pytest.approx(6_000)

    @pytest.mark.parametrize("header", [b"", b"solid ring"])
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (-1, "is cut off: its 12 triangles take 684 bytes, and it has 683"),
            (-50, "is cut off: its 12 triangles take 684 bytes, and it has 634"),
            (50, "goes on behind its end"),
            (3, "goes on behind its end"),
        ],
    )
    def test_a_length_that_is_not_announced(self, header: bytes, change: int, said: str) -> None:
        data = header.ljust(80) + stl_binary(BOX)[80:]
        changed = data[:change] if change < 0 else data + bytes(change)
        assert said in reason(changed, "stl")

    @pytest.mark.parametrize("count", [0, 11, 13, 2**32 - 1])
    def test_a_count_that_is_not_there(self, count: int) -> None:
        data = stl_binary(BOX)
        assert "The STL file" in reason(data[:80] + struct.pack("<I", count) + data[84:], "stl")

    def test_no_triangle(self) -> None:
        assert "No surface was found" in reason(stl_binary((BOX[0], [])), "stl")


class TestPolygons:
    U = ((0, 0), (10, 0), (10, 10), (8, 10), (8, 2), (2, 2), (2, 10), (0, 10))

    def test_a_u(self) -> None:
        # 52 mm² twice, and 56 mm around times 10 mm: the outline's length by hand.
        around = sum(math.dist(a, b) for a, b in zip(self.U, (*self.U[1:], self.U[0]), strict=True))
        found = measured(prism(self.U), "obj")
        assert found.area_mm2 == pytest.approx(2 * 52 + around * 10)
        assert found.volume_mm3 == pytest.approx(520)
        assert found.polygons == 28

    @pytest.mark.parametrize("turn", range(8))
    def test_wherever_its_outline_begins(self, turn: int) -> None:
        assert measured(prism((*self.U[turn:], *self.U[:turn])), "obj").area_mm2 == pytest.approx(664)

    @pytest.mark.parametrize(
        ("outline", "area"),
        [
            (((0, 0), (10, 0), (10, 10), (5, 5), (0, 10)), 75),
            (((0, 0), (4, 0), (4, 3), (10, 3), (10, 10), (0, 10)), 82),
            (((0, 0), (9, 0), (3, 3), (0, 9)), 27),  # four corners
            (((0, 0), (5, 0), (10, 0), (10, 5), (10, 10), (5, 10), (0, 10), (0, 5)), 100),  # straight angles
            (tuple((10 * math.cos(a / 99), 10 * math.sin(a / 99)) for a in range(0, 622, 4)), 313.9),
            (
                tuple(
                    (r * math.cos(math.pi * n / 20), r * math.sin(math.pi * n / 20))
                    for n, r in enumerate([10, 4] * 20)
                ),
                125.15,
            ),
        ],
    )
    def test_outlines(self, outline: Sequence[tuple[float, float]], area: float) -> None:
        found = measured(prism(outline), "obj")
        assert found.volume_mm3 == pytest.approx(10 * area, rel=1e-3)
        walls = sum(math.dist(a, b) for a, b in zip(outline, (*outline[1:], outline[0]), strict=True)) * 10
        assert found.area_mm2 == pytest.approx(2 * area + walls, rel=1e-3)

    def test_a_hole_by_way_of_a_bridge(self) -> None:
        """The outline leads to the hole, around it and back: how OBJ writes a polygon with a hole."""
        outer, inner = ((0, 0), (10, 0), (10, 10), (0, 10)), ((3, 3), (3, 7), (7, 7), (7, 3))
        points = [f"v {x} {y} {z}" for z in (0, 10) for x, y in (*outer, *inner)]
        top = [9, 10, 11, 12, 9, 13, 14, 15, 16, 13]
        bottom = [corner - 8 for corner in reversed(top)]
        walls = [(i, i % 4 + 1, i % 4 + 9, i + 8) for i in range(1, 5)]
        walls += [(i + 4, i % 4 + 5, i % 4 + 13, i + 12) for i in range(1, 5)]
        found = measured(obj_of(points, top, bottom, *walls), "obj")
        assert found.volume_mm3 == pytest.approx(840)
        assert found.area_mm2 == pytest.approx(2 * 84 + 400 + 160)

    def test_two_that_meet_in_a_divided_line(self) -> None:
        """Both fans have the line's whole length as a diagonal, which is no edge."""
        points = [f"v {x} {y} {z}" for z in (0, 10) for x, y in ((0, 0), (5, 0), (10, 0), (10, 10), (0, 10))]
        faces = [
            (3, 2, 1, 5, 4),
            (6, 7, 8, 9, 10),
            (1, 2, 3, 8, 7, 6),
            (3, 4, 9, 8),
            (4, 5, 10, 9),
            (5, 1, 6, 10),
        ]
        assert measured(obj_of(points, *faces), "obj").area_mm2 == pytest.approx(600)

    @pytest.mark.parametrize(
        ("first", "said"),
        [
            ((1, 1, 2, 4, 3), None),
            ((1, 2, 4, 4, 4, 3), None),
            ((1, 2, 4, 3, 1), None),
            ((1, 2, 4, 3, 4), "edges belong"),
            ((1, 4, 2, 3), "outline crosses itself"),
            ((1, 2, 3, 4), "outline crosses itself"),
        ],
    )
    def test_corners_that_come_twice_or_in_disorder(self, first: Sequence[int], said: str | None) -> None:
        data = obj_of(points_of(BOX), first, *QUADS[1:])
        if said is None:
            found = measured(data, "obj")
            assert [found.volume_mm3, found.area_mm2] == pytest.approx([6_000, 2_200])
        else:
            assert said in reason(data, "obj")

    @pytest.mark.parametrize(
        "outline",
        [
            ((0, 0), (10, 10), (10, 0), (0, 10)),  # a bow tie
            ((0, 0), (6, 6), (6, 0), (0, 10)),  # a lopsided one
            ((0, 0), (5, 5), (14, 14), (14, -4), (5, 5), (0, 10)),  # with a corner where it crosses
            tuple(
                (10 * math.cos(a), 10 * math.sin(a)) for a in (0, 2.513, 5.027, 1.257, 3.770)
            ),  # a pentagram
        ],
    )
    def test_outlines_that_cross_themselves(self, outline: Sequence[tuple[float, float]]) -> None:
        assert "outline crosses itself" in reason(prism(outline), "obj")

    @pytest.mark.parametrize(("lift", "is_flat"), [(0.0, True), (0.005, True), (0.1, False), (5.0, False)])
    def test_a_polygon_that_is_not_flat(self, lift: float, is_flat: bool) -> None:
        points = points_of(BOX)
        points[7] = f"v 10 20 {30 + lift}"
        data = obj_of(points, *QUADS)
        if is_flat:
            assert measured(data, "obj").volume_mm3 == pytest.approx(6_000, rel=1e-4)
        else:
            assert "polygons that are not flat" in reason(data, "obj")

    def test_polygons_without_a_finite_plane(self) -> None:
        for strange in ("nan", "1e300", "inf"):
            points = [*points_of(BOX)[:7], f"v 10 20 {strange}"]
            assert reason(obj_of(points, *QUADS), "obj")

    def test_polygons_that_take_too_long_to_compare(self) -> None:
        star = [(r * math.cos(n / 1200), r * math.sin(n / 1200)) for n, r in enumerate([10, 4] * 3_769)]
        before = time.process_time()
        assert "more than 50,000,000 pairs of edges" in reason(prism(star), "obj")
        assert time.process_time() - before < 2
        smaller = [(r * math.cos(n / 100), r * math.sin(n / 100)) for n, r in enumerate([10, 4] * 314)]
        assert measured(prism(smaller), "obj").volume_mm3 > 0


class TestObj:
    @pytest.mark.parametrize(
        ("corner", "said"),
        [
            ("9", "refers to point 9, and there are 8"),
            ("999999999999", "refers to point 999,999,999,999, and there are 8"),
            ("0", "refers to a point before the first"),
            ("-9", "refers to a point before the first"),
            ("1_0", "is not understood"),
            ("1.0", "is not understood"),
            ("+1", "is not understood"),
            ("", "is not understood"),
            ("9999999999999999999999", "is not understood"),
        ],
    )
    def test_points_that_do_not_exist(self, corner: str, said: str) -> None:
        text = obj(BOX).decode().replace("f 1 2 4", f"f {corner} 2 4")
        assert said in reason(text, "obj")

    def test_points_that_are_counted_backwards(self) -> None:
        first, second = box(10, 20, 30), box(10, 20, 30, at=40)
        faces = [f"f {a - 8} {b - 8} {c - 8}" for a, b, c in BOX[1]]
        text = "\n".join([*points_of(first), *faces, *points_of(second), *faces, ""])
        assert measured(text, "obj").volume_mm3 == pytest.approx(12_000)

    def test_faces_in_front_of_their_points(self) -> None:
        lines = obj(BOX).decode().splitlines()
        text = "\n".join(sorted(lines, key=lambda line: not line.startswith("f ")))
        assert measured(text + "\n", "obj").volume_mm3 == pytest.approx(6_000)

    @pytest.mark.parametrize(
        "change",
        [
            ("f 1 2 4", "f 1 \\\n2 4"),
            ("f 1 2 4", "f 1//1 2//1 4//1"),
            ("f 1 2 4", "f 1/7 2/7 4/7 # a face"),
            ("o model", "# C:\\models\\\ng one\ns off\nusemtl a\\b"),
            ("v 0 0 0", "v 0 0 0 1.0"),
            ("v 0 0 0", "v 0 0 0 1 0.5 0"),
            ("\n", "\r\n"),
            ("o model", "o Anhänger\u2028f 9 9 9\x85"),
            ("o model", "l 1 2 3\np 1"),
        ],
    )
    def test_ways_to_write_the_same(self, change: tuple[str, str]) -> None:
        assert measured(obj(BOX).decode().replace(*change), "obj").volume_mm3 == pytest.approx(6_000)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (("v 0 0 0", "v 0 0"), "Line 2 of the OBJ file is not understood: 'v 0 0'"),
            (("v 0 0 0", "v 0 0 0 2"), "is not understood"),
            (("v 0 0 0", "v 0 0 0 1 1"), "is not understood"),
            (("v 0 0 0", "v 0 0 1_0"), "is not understood"),
            (("v 0 0 0", "v 0 0 0,5"), "is not understood"),
            (("v 0 0 0", "v 0 0 nan"), "without a position"),
            (("v 0 0 0", "v 0 0 -Infinity"), "without a position"),
            (("f 1 2 4", "f 1 2"), "is not understood"),
            (("o model", "curv 0 1 1 2"), "is not understood: 'curv 0 1 1 2'"),
            (("o model", "call other.obj"), "is not understood: 'call other.obj'"),
            (("o model", "\0"), "is damaged"),
        ],
    )
    def test_what_is_refused(self, change: tuple[str, str], said: str) -> None:
        assert said in reason(obj(BOX).decode().replace(*change), "obj")

    @pytest.mark.parametrize("share", [0.55, 0.7, 0.8, 0.95])
    def test_two_bodies_cut_off(self, share: float) -> None:
        points, faces = BOX
        both = obj(
            ([*points, *box(10, 20, 30, at=40)[0]], [*faces, *((a + 8, b + 8, c + 8) for a, b, c in faces)])
        )
        assert reason(both[: int(len(both) * share)], "obj")

    def test_cut_off_between_two_bodies(self) -> None:
        points = [*points_of(BOX), *points_of(box(10, 20, 30, at=40))]
        text = obj_of(points, *QUADS)
        assert measured(text, "obj").volume_mm3 == pytest.approx(6_000), "points without a face are no fault"
        assert "OBJ file is cut off" in reason(text + "f", "obj") or "not understood" in reason(
            text + "f", "obj"
        )
        assert "OBJ file is cut off: its last line has no end" in reason(text[:-1], "obj")

    @pytest.mark.parametrize("faces", [QUADS, [(a + 1, b + 1, c + 1) for a, b, c in BOX[1]]], ids=["4", "3"])
    def test_faces_given_twice(self, faces: Sequence[Sequence[int]]) -> None:
        points = points_of(BOX)
        assert "more than two faces" in reason(obj_of(points, *faces, faces[0]), "obj")
        assert "more than two faces" in reason(obj_of(points, *faces, faces[0][::-1]), "obj")
        assert "more than two faces" in reason(obj_of(points, *faces, *faces), "obj")

    def test_a_face_and_its_back_beside_a_body(self) -> None:
        """It encloses nothing, and would be polished on both sides."""
        points = [*points_of(BOX), "v 20 0 0", "v 40 0 0", "v 20 40 0"]
        data = obj_of(points, *QUADS, (9, 10, 11), (11, 10, 9))
        assert reason(data, "obj").startswith("1 parts of the model enclose nothing")

    def test_thousands_of_groups_are_not_read(self) -> None:
        before = time.process_time()
        assert "more than 10,000 groups" in reason("g a\n" * 150_000, "obj")
        assert time.process_time() - before < 1

    @pytest.mark.parametrize("text", ["v 0 0 0\n" * 8, "f 1 2 3\n" * 8])
    def test_points_and_faces_are_counted_as_they_come(
        self, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading, "MAX_POINTS", 7)
        monkeypatch.setattr(reading, "MAX_POLYGONS", 7)
        assert "7" in reason(text, "obj")

    @given(
        # Each kind of line often comes twice in a row: then the two are read at once.
        lines=st.lists(
            st.tuples(
                st.one_of(
                    st.lists(st.sampled_from(COORDINATES), min_size=3, max_size=4).map(
                        lambda words: ["v", *words]
                    ),
                    st.lists(st.sampled_from(CORNERS), min_size=3, max_size=3).map(
                        lambda words: ["f", *words]
                    ),
                    st.sampled_from([["v", "1", "2", "3"], ["f", "1", "2", "3"], ["g", "a"], [""]]),
                ),
                st.integers(1, 3),
            ),
            max_size=10,
        ),
        end=st.sampled_from(["\n", "\r\n", "\r"]),
    )
    def test_many_lines_at_once_say_what_they_say_one_by_one(
        self, lines: list[tuple[list[str], int]], end: str
    ) -> None:
        def said(*last: str) -> tuple[object, ...]:
            text = "".join((" ".join([*line, *last]) + end) * times for line, times in lines)
            try:
                [mesh] = read_obj(text.encode())
            except ModelFault as fault:
                return (str(fault),)
            return repr(mesh.points.tolist()), mesh.faces.tolist(), mesh.polygons.tolist()

        assert said() == said("#")  # a line with a remark is read alone

    def test_a_large_file_is_read_in_bulk(self) -> None:
        points, faces = "v 1.25 2.5 3.75\n" * 300_000, "f 1/1/1 2/2/2 3/3/3\n" * 300_000
        alone = points.replace("\n", " #\n") + faces.replace("\n", " #\n")
        seconds = []
        for text in (points + faces, alone):
            before = time.process_time()
            [mesh] = read_obj(text.encode())
            seconds.append(time.process_time() - before)
            assert (len(mesh.points), len(mesh.faces)) == (300_000, 300_000)
        assert seconds[0] < seconds[1] / 2

    def test_lines_that_go_on_and_on(self) -> None:
        before = time.process_time()
        assert reason("f 1" + "\\\n" * 1_000_000, "obj")
        assert time.process_time() - before < 3
