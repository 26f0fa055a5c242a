"""3MF after public reports: what is read is what the file says, or the file is refused with the reason."""

import io
import re
import time
import zipfile
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.console.demo.shapes import CORE, RELATIONS, TYPES, Mesh
from app.pricing import opc
from app.pricing.errors import ModelFault
from app.pricing.measure import measure
from app.pricing.measurement import Measurement, Outcome, Unmeasurable
from app.pricing.threemf import read_3mf

pytestmark = pytest.mark.field

ROOT = "3D/3dmodel.model"
PRODUCTION = (
    'xmlns:p="http://schemas.microsoft.com/3dmanufacturing/production/2015/06" requiredextensions="p"'
)
EXTENSIONS = "http://schemas.microsoft.com/3dmanufacturing"


def box(x: float, y: float, z: float, *, at: float = 0) -> Mesh:
    points = [(at + a, b, c) for a in (0.0, x) for b in (0.0, y) for c in (0.0, z)]
    faces = [
        (0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1),
        (2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3),
    ]  # fmt: skip
    return points, faces


def mesh_of(mesh: Mesh) -> str:
    points = "".join(f'<vertex x="{x}" y="{y}" z="{z}"/>' for x, y, z in mesh[0])
    faces = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in mesh[1])
    return f"<mesh><vertices>{points}</vertices><triangles>{faces}</triangles></mesh>"


def an_object(number: int, mesh: Mesh, *, kind: str = "model") -> str:
    return f'<object id="{number}" type="{kind}">{mesh_of(mesh)}</object>'


def of_components(number: int, *components: str, kind: str = "model") -> str:
    inner = "".join(f"<component {component}/>" for component in components)
    return f'<object id="{number}" type="{kind}"><components>{inner}</components></object>'


def build(*items: str) -> str:
    return "".join(f"<item {item}/>" for item in items)


def model(resources: str, items: str = "", *, head: str = PRODUCTION, unit: str = "millimeter") -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><model unit="{unit}" xmlns="{CORE}" {head}>'
        f"<resources>{resources}</resources><build>{items}</build></model>"
    )


def package(
    parts: Mapping[str, str | bytes], *, relations: str | None = RELATIONS, types: str | None = TYPES
) -> bytes:
    """A package of named parts; the relationships name `3D/3dmodel.model` unless others are given."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        around = {"[Content_Types].xml": types, "_rels/.rels": relations}
        for name, text in {**around, **parts}.items():
            if text is not None:
                archive.writestr(name, text)
    return content.getvalue()


def relation(target: str, *, more: str = "") -> str:
    return RELATIONS.replace('Target="/3D/3dmodel.model"', f'Target="{target}" {more}')


def volume(data: bytes) -> float:
    outcome: Outcome = measure(data, suffix="3mf")
    assert isinstance(outcome, Measurement), outcome
    return outcome.volume_mm3


def reason(data: bytes) -> str:
    outcome = measure(data, suffix="3mf")
    assert isinstance(outcome, Unmeasurable), outcome
    assert outcome.final
    return outcome.reason


BOX, HALF = box(10, 20, 30), box(5, 10, 15)
PLAIN = model(an_object(1, BOX), build('objectid="1"'))
A = 'p:path="/3D/Objects/a.model"'
B = 'p:path="/3D/Objects/b.model"'
BESIDE = 'transform="1 0 0 0 1 0 0 0 1 40 0 0"'


class TestProductionExtension:
    """Objects of one number in several parts are several objects (M1 to M4)."""

    def test_two_objects_of_one_part(self) -> None:
        root = model(
            of_components(3, f'objectid="1" {A}', f'objectid="2" {A}'),
            build('objectid="3"'),
        )
        part = model(an_object(1, BOX) + an_object(2, box(10, 20, 30, at=40)))
        assert volume(package({ROOT: root, "3D/Objects/a.model": part})) == pytest.approx(12_000)

    def test_the_same_number_in_two_parts(self) -> None:
        root = model(
            of_components(1, f'objectid="1" {A}', f'objectid="1" {B} {BESIDE}'), build('objectid="1"')
        )
        parts = {
            ROOT: root,
            "3D/Objects/a.model": model(an_object(1, BOX)),
            "3D/Objects/b.model": model(an_object(1, HALF)),
        }
        assert volume(package(parts)) == pytest.approx(6_750)

    def test_one_of_two_objects_of_a_part(self) -> None:
        root = model(of_components(9, f'objectid="2" {A}'), build('objectid="9"'))
        part = model(an_object(1, BOX) + an_object(2, BOX), build('objectid="1"', 'objectid="2"'))
        assert volume(package({ROOT: root, "3D/Objects/a.model": part})) == pytest.approx(6_000)

    def test_an_item_of_another_part(self) -> None:
        root = model(an_object(1, HALF), build(f'objectid="1" {A}'))
        part = model(an_object(1, BOX))
        assert volume(package({ROOT: root, "3D/Objects/a.model": part})) == pytest.approx(6_000)

    def test_an_absent_part_is_not_replaced(self) -> None:
        for root in (
            model(an_object(1, HALF), build(f'objectid="1" {A}')),
            model(an_object(1, HALF) + of_components(2, f'objectid="1" {A}'), build('objectid="2"')),
        ):
            assert "lacks its part '/3d/objects/a.model'" in reason(package({ROOT: root}))

    def test_an_absent_object_of_a_part_is_not_replaced(self) -> None:
        root = model(an_object(7, HALF), build(f'objectid="7" {A}'))
        parts = {ROOT: root, "3D/Objects/a.model": model(an_object(1, BOX))}
        assert "refers to object 7, which its part '/3d/objects/a.model' does not hold" in reason(
            package(parts)
        )

    def test_a_component_without_a_path_stays_in_its_part(self) -> None:
        root = model(an_object(1, HALF), build(f'objectid="2" {A} {BESIDE}'))
        part = model(an_object(1, BOX) + of_components(2, 'objectid="1"'))
        assert volume(package({ROOT: root, "3D/Objects/a.model": part})) == pytest.approx(6_000)

    def test_parts_that_contain_each_other(self) -> None:
        parts = {
            ROOT: model("", build(f'objectid="1" {A}')),
            "3D/Objects/a.model": model(of_components(1, f'objectid="1" {B}')),
            "3D/Objects/b.model": model(of_components(1, f'objectid="1" {A}')),
        }
        assert "Object 1 of the 3MF file's part '/3d/objects/a.model' contains itself" in reason(
            package(parts)
        )

    @pytest.mark.parametrize("path", ["Objects/a.model", "", "http://example.org/a.model", "/../a b?x"])
    def test_a_path_that_is_none(self, path: str) -> None:
        root = model("", build(f'objectid="1" p:path="{path}"'))
        assert reason(package({ROOT: root, "3D/Objects/a.model": model(an_object(1, BOX))}))

    def test_any_prefix_may_stand_for_the_extension(self) -> None:
        head = PRODUCTION.replace("xmlns:p=", "xmlns:prod=").replace('"p"', '"prod"')
        root = model("", build('objectid="1" prod:path="/3D/Objects/a.model"'), head=head)
        parts = {ROOT: root, "3D/Objects/a.model": model(an_object(1, BOX))}
        assert volume(package(parts)) == pytest.approx(6_000)

    def test_parts_in_different_units(self) -> None:
        root = model("", build(f'objectid="1" {A}'))
        part = model(an_object(1, BOX), unit="inch")
        assert "is in inch, and the model in millimeter" in reason(
            package({ROOT: root, "3D/Objects/a.model": part})
        )

    def test_a_part_that_needs_an_extension(self) -> None:
        root = model("", build(f'objectid="1" {A}'))
        head = f'xmlns:b="{EXTENSIONS}/beamlattice/2017/02" requiredextensions="b"'
        part = model(an_object(1, BOX), head=head)
        assert "needs the extension 'b'" in reason(package({ROOT: root, "3D/Objects/a.model": part}))


class TestRelationships:
    """The model is the part that the relationships name (M5)."""

    def test_the_named_part_and_not_the_usual_one(self) -> None:
        parts = {ROOT: model(an_object(1, HALF), build('objectid="1"')), "3D/piece.model": PLAIN}
        assert volume(package(parts, relations=relation("/3D/piece.model"))) == pytest.approx(6_000)

    @pytest.mark.parametrize(
        "target", ["3D/piece.model", "./3D/piece.model", "/x/../3D/piece.model", "/3d/PIECE.model"]
    )
    def test_relative_targets_and_odd_cases(self, target: str) -> None:
        parts = {ROOT: model(an_object(1, HALF), build('objectid="1"')), "3D/piece.model": PLAIN}
        assert volume(package(parts, relations=relation(target))) == pytest.approx(6_000)

    @pytest.mark.parametrize(
        ("target", "name"),
        [
            ("/3D/my%20piece.model", "3D/my piece.model"),
            ("/3D/my piece.model", "3D/my%20piece.model"),
            ("/3D/Anh%C3%A4nger.model", "3D/Anhänger.model"),
            ("/3D/a%2Db.model", "3D/a-b.model"),
        ],
    )
    def test_percent_encoded_names(self, target: str, name: str) -> None:
        assert volume(package({name: PLAIN}, relations=relation(target))) == pytest.approx(6_000)

    @pytest.mark.parametrize(
        ("relations", "said"),
        [
            (None, "lacks its part '/_rels/.rels'"),
            (relation("/3D/other.model"), "lacks its part '/3d/other.model'"),
            (RELATIONS.replace("2013/01/3dmodel", "2013/01/thumbnail"), "name no parts as the model"),
            (relation("http://example.org/a.model", more='TargetMode="External"'), "outside of the file"),
            (relation("http://example.org/a.model"), "leads to no part"),
            (relation("/3D%2F3dmodel.model"), "is not allowed"),
            (relation(""), "leads to no part"),
            ("<Relationships", "unclosed token"),
        ],
    )
    def test_what_they_may_not_say(self, relations: str | None, said: str) -> None:
        assert said in reason(package({ROOT: PLAIN}, relations=relations))

    def test_two_models(self) -> None:
        inner = RELATIONS[RELATIONS.index("<Relationship ") : RELATIONS.index("</Relationships>")]
        second = inner.replace("3dmodel.model", "b.model").replace('Id="model"', 'Id="b"')
        both = RELATIONS.replace(inner, inner + second)
        assert "name 2 parts as the model" in reason(
            package({ROOT: PLAIN, "3D/b.model": PLAIN}, relations=both)
        )
        again = RELATIONS.replace(inner, inner + inner.replace('Id="model"', 'Id="b"'))
        assert volume(package({ROOT: PLAIN}, relations=again)) == pytest.approx(6_000)

    @pytest.mark.parametrize("other", ["3D/3DMODEL.model", "3D/3d%6Dodel.model", "/3D/3dmodel.model"])
    def test_two_parts_of_one_name(self, other: str) -> None:
        assert "two of its parts have the name '/3d/3dmodel.model'" in reason(
            package({ROOT: PLAIN, other: PLAIN})
        )

    def test_content_types(self) -> None:
        wrong = TYPES.replace("vnd.ms-package.3dmanufacturing-3dmodel+xml", "vnd.oasis.opendocument")
        assert "has the content type 'application/vnd.oasis.opendocument'" in reason(
            package({ROOT: PLAIN}, types=wrong)
        )
        assert "lacks its part '/[content_types].xml'" in reason(package({ROOT: PLAIN}, types=None))
        override = TYPES.replace(
            "</Types>",
            '<Override PartName="/3D/piece.xyz" ContentType='
            '"application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/></Types>',
        )
        odd = package({"3D/piece.xyz": PLAIN}, types=override, relations=relation("/3D/piece.xyz"))
        assert volume(odd) == pytest.approx(6_000)

    def test_a_keystore(self) -> None:
        key = (
            f'<Relationship Id="k" Target="/Secure/keystore.xml" Type="{EXTENSIONS}/2019/04/keystore"/>'
            "</Relationships>"
        )
        relations = RELATIONS.replace("</Relationships>", key)
        assert "is encrypted" in reason(package({ROOT: PLAIN}, relations=relations))

    def test_an_encrypted_archive(self) -> None:
        data = bytearray(package({ROOT: PLAIN}))
        for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = data.index(signature)
            data[at + offset] |= 1
        assert "is encrypted" in reason(bytes(data))

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_another_compression(self, method: int) -> None:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", method) as archive:
            archive.writestr("3D/3dmodel.model", PLAIN)
        assert "compressed in a way that 3MF does not allow" in reason(content.getvalue())

    def test_an_archive_behind_another(self) -> None:
        first = package({ROOT: model(an_object(1, HALF), build('objectid="1"'))})
        assert "does not begin where the file begins" in reason(first + package({ROOT: PLAIN}))


class TestExtensions:
    """What is required and not understood is refused by its name (M6)."""

    @pytest.mark.parametrize(
        "namespace",
        [
            f"{EXTENSIONS}/beamlattice/2017/02",
            f"{EXTENSIONS}/slice/2015/07",
            f"{EXTENSIONS}/volumetric/2018/11",
            f"{EXTENSIONS}/securecontent/2019/04",
            "http://schemas.3mf.io/3dmanufacturing/booleanoperations/2023/07",
            "http://schemas.3mf.io/3dmanufacturing/displacement/2023/10",
            "http://example.org/mine",
        ],
    )
    def test_required(self, namespace: str) -> None:
        head = f'xmlns:q="{namespace}" requiredextensions="q"'
        said = reason(package({ROOT: model(an_object(1, BOX), build('objectid="1"'), head=head)}))
        assert f"needs the extension 'q' ('{namespace}')" in said

    def test_one_of_several(self) -> None:
        head = (
            f'xmlns:m="{EXTENSIONS}/material/2015/02" xmlns:b="{EXTENSIONS}/beamlattice/2017/02" '
            'requiredextensions="m b"'
        )
        data = package({ROOT: model(an_object(1, BOX), build('objectid="1"'), head=head)})
        assert "needs the extension 'b' (" in reason(data)

    def test_a_prefix_that_means_nothing(self) -> None:
        data = package({ROOT: model(an_object(1, BOX), build('objectid="1"'), head='requiredextensions="z"')})
        assert "needs the extension 'z'," in reason(data)

    def test_colours_change_no_shape(self) -> None:
        head = f'xmlns:m="{EXTENSIONS}/material/2015/02" requiredextensions="m"'
        colours = '<m:colorgroup id="8"><m:color color="#FFF"/></m:colorgroup>'
        notes = '<basematerials id="9"><base name="gold" displaycolor="#FF0"/></basematerials>'
        data = package({ROOT: model(colours + notes + an_object(1, BOX), build('objectid="1"'), head=head)})
        assert volume(data) == pytest.approx(6_000)

    def test_recommended_is_not_required(self) -> None:
        head = 'xmlns:x="http://example.org/mine" recommendedextensions="x"'
        # What is in an element that is not understood is no part of the model, whatever its name.
        extra = f'<x:more a="1"><model/>{an_object(1, HALF)}</x:more>'
        data = package({ROOT: model(extra + an_object(1, BOX), build('objectid="1"'), head=head)})
        assert volume(data) == pytest.approx(6_000)

    def test_beams_that_are_there_count_though_not_required(self) -> None:
        head = f'xmlns:b="{EXTENSIONS}/beamlattice/2017/02"'
        beams = mesh_of(BOX).replace("</mesh>", '<b:beamlattice radius="1"/></mesh>')
        data = package({ROOT: model(f'<object id="1">{beams}</object>', build('objectid="1"'), head=head)})
        assert "needs the extension 'beamlattice'" in reason(data)

    def test_a_mesh_that_only_stands_for_slices(self) -> None:
        head = f'xmlns:s="{EXTENSIONS}/slice/2015/07"'
        rough = an_object(1, BOX).replace("<object ", '<object s:meshresolution="lowres" ')
        data = package({ROOT: model(rough, build('objectid="1"'), head=head)})
        assert "needs the extension 'slice'" in reason(data)

    def test_metadata_and_vendors_attributes(self) -> None:
        head = 'xmlns:slic3rpe="http://schemas.slic3r.org/3mf/2017/06"'
        note = '<metadata name="Title">a &lt;ring&gt;</metadata>'
        painted = an_object(1, BOX).replace("<triangle ", '<triangle slic3rpe:mmu_segmentation="4" ')
        text = model(painted, build('objectid="1" partnumber="7"'), head=head)
        data = package({ROOT: text.replace("<resources>", f"{note}<resources>")})
        assert volume(data) == pytest.approx(6_000)


class TestBuild:
    """Only what the build section places as a model is made (M7)."""

    @pytest.mark.parametrize("kind", ["support", "solidsupport"])
    def test_supports_are_no_part_of_the_piece(self, kind: str) -> None:
        both = an_object(1, BOX) + an_object(2, box(10, 20, 30, at=40), kind=kind)
        as_items = model(both, build('objectid="1"', 'objectid="2"'))
        assert volume(package({ROOT: as_items})) == pytest.approx(6_000)
        as_components = model(both + of_components(3, 'objectid="1"', 'objectid="2"'), build('objectid="3"'))
        assert volume(package({ROOT: as_components})) == pytest.approx(6_000)
        alone = model(an_object(1, BOX, kind=kind), build('objectid="1"'))
        assert "builds nothing" in reason(package({ROOT: alone}))

    @pytest.mark.parametrize("kind", ["surface", "other"])
    def test_what_is_no_solid_by_its_own_word(self, kind: str) -> None:
        data = package({ROOT: model(an_object(1, BOX, kind=kind), build('objectid="1"'))})
        assert f"Object 1 of the 3MF file is of type '{kind}'" in reason(data)
        beside = model(an_object(1, BOX) + an_object(2, HALF, kind=kind), build('objectid="1"'))
        assert volume(package({ROOT: beside})) == pytest.approx(6_000)

    def test_a_type_that_does_not_exist(self) -> None:
        data = package({ROOT: model(an_object(1, BOX, kind="statue"), build('objectid="1"'))})
        assert "has a type 'statue' that 3MF does not know" in reason(data)

    def test_items_that_are_not_to_be_printed(self) -> None:
        both = an_object(1, BOX) + an_object(2, HALF)
        items = build('objectid="1" printable="1"', 'objectid="2" printable="0"')
        assert volume(package({ROOT: model(both, items)})) == pytest.approx(6_000)
        none = model(both, build('objectid="1" printable="0"'))
        assert "builds nothing" in reason(package({ROOT: none}))
        assert "printable by 'no'" in reason(
            package({ROOT: model(both, build('objectid="1" printable="no"'))})
        )

    def test_nothing_is_built(self) -> None:
        assert "builds nothing" in reason(package({ROOT: model(an_object(1, BOX))}))
        without = PLAIN.partition("<build>")[0] + "</model>"
        assert "build section are missing" in reason(package({ROOT: without}))

    @pytest.mark.parametrize(
        ("unit", "mm"),
        [("micron", 0.001), ("centimeter", 10), ("inch", 25.4), ("foot", 304.8), ("meter", 1000)],
    )
    def test_units(self, unit: str, mm: float) -> None:
        text = model(an_object(1, box(10 / mm, 20 / mm, 30 / mm)), build('objectid="1"'), unit=unit)
        assert volume(package({ROOT: text})) == pytest.approx(6_000)

    def test_a_unit_that_does_not_exist(self) -> None:
        text = PLAIN.replace('"millimeter"', '"parsec"')
        assert "a unit 'parsec' that 3MF does not know" in reason(package({ROOT: text}))
        assert volume(package({ROOT: PLAIN.replace('unit="millimeter" ', "")})) == pytest.approx(6_000)


class TestTransforms:
    @pytest.mark.parametrize(
        ("transform", "times"),
        [
            ("-1 0 0 0 1 0 0 0 1 0 0 0", 1),  # mirrored
            ("2 0 0 0 1 0 0 0 1 5 5 5", 2),
            ("0 1 0 -1 0 0 0 0 1 0 0 0", 1),
            ("1 0 0 .5 1 0 0 0 1 1e1 0 0", 1),  # sheared
        ],
    )
    def test_they_are_obeyed(self, transform: str, times: float) -> None:
        data = package({ROOT: model(an_object(1, BOX), build(f'objectid="1" transform="{transform}"'))})
        assert volume(data) == pytest.approx(times * 6_000)

    def test_a_mirrored_body_beside_one_that_is_not(self) -> None:
        mirrored = 'objectid="1" transform="-1 0 0 0 1 0 0 0 1 -5 0 0"'
        items = of_components(2, 'objectid="1"', mirrored)
        data = package({ROOT: model(an_object(1, BOX) + items, build('objectid="2"'))})
        assert volume(data) == pytest.approx(12_000)

    def test_the_inner_one_comes_first(self) -> None:
        inner = 'objectid="1" transform="1 0 0 0 1 0 0 0 1 10 0 0"'
        outer = 'objectid="2" transform="2 0 0 0 1 0 0 0 1 0 0 0"'
        parts = an_object(1, box(1, 1, 1)) + of_components(2, 'objectid="1"', inner)
        outcome = measure(package({ROOT: model(parts, build(outer))}), suffix="3mf")
        assert isinstance(outcome, Measurement)
        assert outcome.extents_mm == pytest.approx((22, 1, 1))

    @pytest.mark.parametrize(
        "transform",
        [
            "0 0 0 0 1 0 0 0 1 0 0 0",
            "1 0 0 1 0 0 0 0 1 0 0 0",
            "1 0 0 0 1 0 0 0 1 0 0",
            "1 0 0 0 1 0 0 0 1 0 0 0 0",
            "1 0 0 0 1 0 0 0 1 nan 0 0",
            "1 0 0 0 1 0 0 0 1 1e999 0 0",
            "1 0 0 0 1 0 0 0 1 1_0 0 0",
            "1e200 0 0 0 1e200 0 0 0 1e200 0 0 0",
            "",
        ],
    )
    @pytest.mark.parametrize("where", ["item", "component"])
    def test_what_is_none_is_refused(self, transform: str, where: str) -> None:
        placed = f'objectid="1" transform="{transform}"'
        if where == "item":
            text = model(an_object(1, BOX), build(placed))
        else:
            text = model(an_object(1, BOX) + of_components(2, placed), build('objectid="2"'))
        assert "transform" in reason(package({ROOT: text})) or "no number" in reason(package({ROOT: text}))


class TestObjects:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (model(an_object(1, BOX) * 2, build('objectid="1"')), "there are two objects 1"),
            (model(an_object(1, BOX), build('objectid="2"')), "refers to object 2"),
            (
                model(an_object(1, BOX) + of_components(2, 'objectid="3"'), build('objectid="2"')),
                "object 3",
            ),
            (model(of_components(1, 'objectid="1"'), build('objectid="1"')), "contains itself"),
            (
                model(
                    of_components(1, 'objectid="2"') + of_components(2, 'objectid="1"'),
                    build('objectid="1"'),
                ),
                "contains itself",
            ),
            (model('<object id="1"/>', build('objectid="1"')), "neither a mesh nor components"),
            (model('<object id="1"><components/></object>', build('objectid="1"')), "has no component"),
            (
                model(
                    f'<object id="1">{mesh_of(BOX)}<components><component objectid="2"/></components>'
                    f"</object>{an_object(2, BOX)}",
                    build('objectid="1"'),
                ),
                "has a mesh and components",
            ),
            (model(f'<object id="1">{mesh_of(BOX) * 2}</object>', build('objectid="1"')), "two elements"),
            (PLAIN.replace('v1="0"', 'v1="8"', 1), "refers to point 9, and there are 8"),
            (PLAIN.replace('v1="0"', 'v1="-1"', 1), "'-1' is no number"),
            (PLAIN.replace('v1="0"', 'v1="1.0"', 1), "'1.0' is no number"),
            (PLAIN.replace('v1="0"', "", 1), "has no 'v1'"),
            (PLAIN.replace('x="10"', 'x="nan"', 1), "'nan' is no number"),
            (PLAIN.replace('x="10"', 'x="1_0"', 1), "'1_0' is no number"),
            (PLAIN.replace('x="10"', 'x="10mm"', 1), "'10mm' is no number"),
            (PLAIN.replace('x="10"', 'x="\u0661\u0660"', 1), "is no number"),
            (PLAIN.replace('x="10"', 'x="1 0"', 1), "is no number"),
            (PLAIN.replace('x="10"', 'x="1e999"', 1), "points without a position"),
            (PLAIN.replace('id="1"', 'id="one"', 1), "'one' is no number"),
            (PLAIN.replace("triangles>", "quads>"), "an element 'quads' where 3MF knows none"),
            (PLAIN.replace(CORE, "http://example.org/core"), "an element 'model' where 3MF knows none"),
            (PLAIN.replace("<resources>", "<resources/><resources>"), "two elements 'resources'"),
            (PLAIN[:-40], "line 1"),
            (f"<?xml version='1.0'?><!DOCTYPE model>{PLAIN[38:]}", "document type declaration"),
        ],
    )
    def test_what_is_wrong_with_them(self, text: str, said: str) -> None:
        assert said in reason(package({ROOT: text}))

    def test_an_object_may_follow_what_refers_to_it(self) -> None:
        text = model(of_components(2, 'objectid="1"') + an_object(1, BOX), build('objectid="2"'))
        assert volume(package({ROOT: text})) == pytest.approx(6_000)

    def test_points_of_elements_that_are_not_understood_are_no_points(self) -> None:
        head = 'xmlns:x="http://example.org/mine"'
        text = model(an_object(1, BOX), build('objectid="1"'), head=head)
        more = '<x:old><vertex x="1" y="1" z="1"/></x:old><vertex '
        assert volume(package({ROOT: text.replace("<vertex ", more, 1)})) == pytest.approx(6_000)


MANY = {
    "objects": (model("%s"), '<object id="{}"><mesh/></object>', "more than 10,000 objects and components"),
    "empty-objects": (model("%s"), '<object id="9"/>', "object 9 has neither a mesh nor components"),
    "components": (
        model(f'{an_object(1, HALF)}<object id="2"><components>%s</components></object>'),
        '<component objectid="1"/>',
        "more than 10,000 objects and components",
    ),
    "items": (
        model(an_object(1, HALF), "%s"),
        '<item objectid="1"/>',
        "more than 10,000 objects and components",
    ),
    "colours": (model('<basematerials id="1">%s</basematerials>'), "<base/>", "more than 1,000,000 elements"),
}


@pytest.mark.parametrize("kind", MANY)
def test_millions_of_elements_are_not_read(kind: str) -> None:
    around, element, said = MANY[kind]
    many = "".join(map(element.format, range(1, 20_001))) if "{}" in element else element * 5_000_000
    data = package({ROOT: around.replace("%s", many)})
    before = time.process_time()
    assert said in reason(data)
    assert time.process_time() - before < 2


@pytest.mark.parametrize(
    "resource",
    ['<object id="1" name="%s"/>', "<!--%s-->", "<?note %s?>", '<x:%s xmlns:x="u"/>', '<x:a xmlns:x="%s"/>'],
)
def test_a_tag_of_a_hundred_megabytes_is_not_read(resource: str) -> None:
    data = package({ROOT: model(resource % ("a" * 100_000_000))})
    before = time.process_time()
    assert "more than 262,144 bytes in one of its tags" in reason(data)
    assert time.process_time() - before < 1


def test_thousands_of_levels_are_not_followed() -> None:
    chain = "".join(of_components(n, f'objectid="{n - 1}"') for n in range(2, 4_000))
    data = package({ROOT: model(an_object(1, HALF) + chain, build('objectid="3999"'))})
    assert "more than 100 objects inside each other" in reason(data)


def test_supports_that_multiply_are_counted_too() -> None:
    doubling = "".join(of_components(n, f'objectid="{n - 1}"', f'objectid="{n - 1}"') for n in range(2, 42))
    data = package({ROOT: model(an_object(1, HALF, kind="support") + doubling, build('objectid="41"'))})
    assert "places 1.1e+12 bodies" in reason(data)


def test_thousands_of_files_are_not_looked_at() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(5_001):
            archive.writestr(str(number), "")
    assert "more than 5,000 files in its archive" in reason(content.getvalue())


ALONE = "<metadata><![CDATA[ ]]></metadata><resources>"
"""Behind CDATA each element is read by expat."""
POINT = '<vertex x="1" y="2" z="3"/>'
NUMBERS = st.sampled_from(
    (
        "0",
        "1.5",
        "-2e3",
        " 7 ",
        "+.5",
        "1_0",
        "nan",
        "",
        "&#49;",
        "2\n",
        "\x0b1",
        "<",
        "1 2",
        "\u0663",
        "1.",
        "1.5.5",
        "1e",
        "-",
        "2-3",
    )
)
BETWEEN = st.sampled_from(
    ("", "\n", "\r\n\t ", "<!-- <vertex x='1'/> -->", "<![CDATA[>]]>", "<?a ?>", "7", "<")
)
FORMS = st.sampled_from(
    (
        '<vertex x="{}" y="{}" z="{}"/>',
        '<vertex\n x ="{}" y= "{}"\tz="{}" />',
        '<vertex y="{}" x="{}" z="{}"/>',
        "<vertex x='{}' y='{}' z='{}'/>",
        '<vertex x="{}" y="{}" z="{}"></vertex>',
        '<vertex x="{}" y="{}" z="{}" u="1"/>',
        '<vertex x="{}" y="{}" y="{}"/>',
        '<vertex x="{} {}\t{}"/>',
        '<vertex x="{}" y="{}" z="{}"/ >',
        '<vertex x="{}" y="{}"/><!--{}-->',
        '<vertex x="{}"y="{}" z="{}"/>',
        '<v:vertex x="{}" y="{}" z="{}"/>',
        '<vertex xmlns="" x="{}" y="{}" z="{}"/>',
        '<triangle v1="{}" v2="{}" v3="{}"/>',
        '<vertex x="{}" y="{}" z="{}">',
    )
)
ELEMENTS = st.lists(st.tuples(FORMS, NUMBERS, NUMBERS, NUMBERS, BETWEEN), max_size=8)


class TestPlainElements:
    """Points and triangles are taken in bulk where most programs write them alike; nothing else changes."""

    def said(self, data: bytes) -> object:
        try:
            [mesh] = read_3mf(data)
        except ModelFault as fault:
            return str(fault)
        return mesh.points.tolist(), mesh.faces.tolist()

    @given(ELEMENTS, st.integers(0, 12), st.integers(1, 90))
    def test_a_file_says_the_same_when_each_element_is_read_alone(
        self, elements: list[tuple[str, str, str, str, str]], plain: int, chunk_bytes: int
    ) -> None:
        points = "".join(form.format(x, y, z) + then for form, x, y, z, then in elements)
        points = '<vertex x="1" y="2" z="3"/>\n' * plain + points + '<vertex x="1" y="2" z="3"/>' * plain
        face = '<triangle v1="0" v2="1" v3="2"/>'
        mesh = f"<mesh><vertices>{points}</vertices><triangles>{face}</triangles></mesh>"
        text = model(f'<object id="1">{mesh}</object>', build('objectid="1"'), head=f'xmlns:v="{CORE}"')
        alone = text.replace("<resources>", ALONE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(opc, "CHUNK_BYTES", chunk_bytes)
            assert self.said(package({ROOT: text})) == self.said(package({ROOT: alone}))

    @pytest.mark.parametrize(
        "points",
        [
            (POINT + '<vertex x="1 2\t3"/>') * 4,
            (POINT + '<vertex x="1-2" y="3" z="4"/>') * 4,
            (POINT + '<vertex x="1-2" y="" z="4"/>') * 4,
            (POINT + '<vertex x="" y="2" z="4"/>') * 4,
            (POINT.replace('"', "'") + POINT.replace("1", "5")) * 6,
            POINT + "<![CDATA[>" + POINT * 6 + "]]>" + POINT,
            POINT + "<!-- >" + POINT * 6 + "-->" + POINT,
            POINT + "<metadata>" + POINT * 6 + "</metadata>" + POINT,
        ],
        ids=["white space", "two numbers", "two and none", "none", "quotes", "CDATA", "comment", "metadata"],
    )
    def test_what_is_not_plain_is_left_to_expat(self, points: str) -> None:
        mesh = f"<mesh><vertices>{points}</vertices><triangles/></mesh>"
        text = model(f'<object id="1">{mesh}</object>', build('objectid="1"'))
        alone = self.said(package({ROOT: text.replace("<resources>", ALONE)}))
        for chunk_bytes in range(len(POINT), 4 * len(POINT)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(opc, "CHUNK_BYTES", chunk_bytes)
                assert self.said(package({ROOT: text})) == alone

    @pytest.mark.parametrize(
        "head", ['xmlns="urn:other" xmlns:c="{CORE}"', 'xmlns:c="{CORE}"'], ids=["another", "none"]
    )
    def test_elements_of_another_namespace_are_no_points(self, head: str) -> None:
        text = model(an_object(1, BOX), build('objectid="1"'))
        prefixed = re.sub(
            "<(/?)(model|resources|object|mesh|vertices|triangles|build|item)", r"<\1c:\2", text
        )
        other = prefixed.replace(f'xmlns="{CORE}"', head.format(CORE=CORE))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(opc, "CHUNK_BYTES", 100)
            assert "holds no mesh" in reason(package({ROOT: other}))

    @pytest.mark.parametrize("declared", ['encoding="UTF-16"', ""], ids=["declared", "marked"])
    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
    def test_characters_of_two_bytes_are_not_taken_for_points(self, encoding: str, declared: str) -> None:
        text = model(an_object(1, BOX), build('objectid="1"')).replace('encoding="UTF-8"', declared)
        head, tail = (text[: (cut := text.index("<vertex"))], text[cut:])
        points = (POINT + "\n") * 20  # as UTF-16 it is a text of Chinese characters
        data = f"\ufeff{head}".encode(encoding) + points.encode() + tail.encode(encoding)
        for chunk_bytes in range(len(POINT), 4 * len(POINT)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(opc, "CHUNK_BYTES", chunk_bytes)
                assert volume(package({ROOT: data})) == pytest.approx(6_000)

    def test_a_large_file_is_read_in_bulk(self) -> None:
        points, faces = (
            '<vertex x="1.25" y="2.5" z="3"/>\n' * 100_000,
            '<triangle v1="0" v2="1" v3="2"/>\n' * 200_000,
        )
        mesh = f"<mesh><vertices>{points}</vertices><triangles>{faces}</triangles></mesh>"
        seconds = []
        for text in (
            mesh,
            mesh.replace('"/>', '"\n/>').replace('y="2.5"', "y='2.5'").replace('v2="1"', "v2='1'"),
        ):
            data = package({ROOT: model(f'<object id="1">{text}</object>', build('objectid="1"'))})
            before = time.process_time()
            [found] = read_3mf(data)
            seconds.append(time.process_time() - before)
            assert (len(found.points), len(found.faces)) == (100_000, 200_000)
        assert seconds[0] < seconds[1] / 1.5
