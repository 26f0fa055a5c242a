"""Look into a 3MF archive before anything is unpacked or built from it.

A small 3MF can be a large model in two ways: by compression, and by objects that place other objects many
times over. trimesh guards against neither as tightly as needed here, and stops following nested objects
after a while without saying so, which would make the piece cheaper than it is.
"""

import io
import zipfile
from collections import defaultdict
from functools import cache

from lxml import etree
from trimesh.exchange.common import XML_PARSER_OPTIONS

from app.pricing.errors import TooManyBodies, UnpacksTooLarge

MAX_UNPACKED_BYTES = 256 * 2**20
MAX_BODIES = 1_000


def check_unpacked_size(data: bytes) -> None:
    """Refuse a zip bomb by its directory; zipfile never reads more of a member than is declared there.

    Raises:
        UnpacksTooLarge: the members together are larger than what is read.
    """
    unpacked = sum(member.file_size for member in zipfile.ZipFile(io.BytesIO(data)).infolist())
    if unpacked > MAX_UNPACKED_BYTES:
        raise UnpacksTooLarge(unpacked, MAX_UNPACKED_BYTES)


def count_bodies(data: bytes) -> int:
    """Count the bodies that the build section places, through all nested objects.

    Raises:
        TooManyBodies: nobody casts so many at once; 40 nested objects can place more than a billion.
        Exception: the archive or its XML is damaged, or objects contain themselves.
    """
    parts, items = _read_structure(data)

    @cache
    def bodies(number: str) -> int:
        return sum(bodies(part) for part in parts[number]) if number in parts else 1

    placed = sum(bodies(number) for number in items)
    if placed > MAX_BODIES:
        raise TooManyBodies(placed, MAX_BODIES)
    return placed


def _read_structure(data: bytes) -> tuple[dict[str, list[str]], list[str]]:
    """Read which objects consist of others, and which ones are to be built."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    name = next(name for name in archive.namelist() if "3d/3dmodel.model" in name.lower())
    parts: dict[str, list[str]] = defaultdict(list)
    items: list[str] = []
    with archive.open(name) as model:
        tags = ("{*}mesh", "{*}object", "{*}item")
        for _, element in etree.iterparse(model, events=("end",), tag=tags, **XML_PARSER_OPTIONS):
            if element.tag.endswith("item"):
                items.append(element.attrib["objectid"])
            for part in element.iter("{*}component"):
                parts[element.attrib["id"]].append(part.attrib["objectid"])
            element.clear(keep_tail=False)
    return dict(parts), items
