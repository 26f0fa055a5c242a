"""Read the package of a 3MF: a zip archive whose relationships say which of its parts is the model.

The rules are those of the Open Packaging Conventions (ECMA-376 part 2), as far as they decide what is read.
"""

import io
import posixpath
import re
import zipfile
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit
from xml.parsers import expat

from app.pricing import reading
from app.pricing.errors import BadPackage, DamagedFile, Encrypted, PartMissing, UnpacksTooLarge
from app.pricing.reading import refuse_above

CONTENT_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"
START = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
MODEL_TYPE = "application/vnd.ms-package.3dmanufacturing-3dmodel+xml"
LOCKS = ("/keystore", "/encryptedfile")
"""How relationships to keys and to locked parts end (the secure content extension)."""

MEMBER, DIRECTORY_ENTRY = b"PK\3\4", b"PK\1\2"
CHUNK_BYTES = 2**16

Attributes = Mapping[str, str]


class Package:
    """The parts of a 3MF, found by their names as URIs: percent-encoded or not, upper or lower case."""

    def __init__(self, data: bytes) -> None:
        """Open an archive.

        Raises:
            ModelFault: it is none, is encrypted, unpacks to too much, or has two parts of one name.
        """
        if not data.startswith(MEMBER):
            raise DamagedFile("3mf")
        refuse_above(reading.MAX_MEMBERS, data.count(DIRECTORY_ENTRY), "files in its archive")
        self._archive = zipfile.ZipFile(io.BytesIO(data))
        members = [member for member in self._archive.infolist() if not member.is_dir()]
        # zipfile never reads more of a member than its directory entry says.
        unpacked = sum(member.file_size for member in members)
        if unpacked > reading.MAX_UNPACKED_BYTES:
            raise UnpacksTooLarge(unpacked, reading.MAX_UNPACKED_BYTES)
        if min((member.header_offset for member in members), default=0) > 0:
            raise BadPackage("its archive does not begin where the file begins")
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in members:
            self._add(member)
        self._types = _ContentTypes(self)

    def _add(self, member: zipfile.ZipInfo) -> None:
        if member.flag_bits & 1:
            raise Encrypted
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadPackage("its archive is compressed in a way that 3MF does not allow")
        name = part_name(member.filename)
        if name in self._members:
            raise BadPackage(f"two of its parts have the name {name[:80]!a}")
        self._members[name] = member

    def start(self) -> str:
        """Find the part that the package's relationships name as its model.

        Raises:
            ModelFault: they name none, several or an absent one, or the package is encrypted.
        """
        targets: set[str] = set()

        def relationship(element: str, attributes: Attributes) -> None:
            if element != f"{RELATIONSHIPS} Relationship":
                return
            kind = attributes.get("Type", "")
            if kind.endswith(LOCKS):
                raise Encrypted
            if kind == START:
                if attributes.get("TargetMode", "Internal") != "Internal":
                    raise BadPackage("its model lies outside of the file")
                targets.add(resolve(attributes.get("Target", ""), base="/"))

        self.parse("/_rels/.rels", relationship)
        if len(targets) != 1:
            raise BadPackage(f"its relationships name {len(targets) or 'no'} parts as the model")
        return targets.pop()

    def require_model(self, name: str) -> None:
        """Check that a part is a model by the package's content types.

        Raises:
            BadPackage: it is something else.
        """
        kind = self._types.of(name)
        if name in self._members and kind != MODEL_TYPE:
            raise BadPackage(
                f"its part {name[:80]!a} has the content type {(kind or '')[:80]!a}, and no model's"
            )

    def parse(
        self,
        name: str,
        start: Callable[[str, Attributes], None],
        *,
        end: Callable[[str], None] | None = None,
        prefix: Callable[[str | None, str], None] | None = None,
        take: Callable[[bytes], bool] | None = None,
    ) -> None:
        """Parse the XML of a part. Nothing is kept: what the handlers do not keep is gone.

        `take` is asked before expat: a call of Python for each of a million elements is what takes the time.

        Parameters:
            name: of the part.
            start: is called with "NAMESPACE NAME" and attributes for each element that begins.
            end: is called with "NAMESPACE NAME" for each element that ends.
            prefix: is called with each prefix and its namespace, before their element.
            take: is called with bytes of UTF-8 that begin between two tags, outside of comments and CDATA,
                and end behind a tag. True: they were whole elements, and it has done what the handlers do.

        Raises:
            ModelFault: there is no such part, its XML is damaged, or a handler raised it.
        """
        if name not in self._members:
            raise PartMissing(name)
        feed = _Feed(start, end, prefix, take)
        try:
            # To its end, where zipfile compares the checksum.
            with self._archive.open(self._members[name]) as part:
                while chunk := part.read(CHUNK_BYTES):
                    feed.add(chunk)
            feed.end()
        except expat.ExpatError as error:
            if error.code == expat.errors.codes[expat.errors.XML_ERROR_NO_MEMORY]:
                raise MemoryError from error
            what = expat.ErrorString(error.code)
            raise BadPackage(f"{what} in line {error.lineno} of its part {name[:80]!a}") from error


class _Feed:
    """Feeds expat with a part, but for what `take` takes."""

    def __init__(
        self,
        start: Callable[[str, Attributes], None],
        end: Callable[[str], None] | None,
        prefix: Callable[[str | None, str], None] | None,
        take: Callable[[bytes], bool] | None,
    ) -> None:
        self._parser = parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = start
        parser.StartDoctypeDeclHandler = _refuse_doctype
        if end:
            parser.EndElementHandler = end
        if prefix:
            parser.StartNamespaceDeclHandler = prefix
        self._take, self._rest, self._fed_bytes = take, b"", 0
        if take:
            parser.XmlDeclHandler = self._declared
            parser.StartCdataSectionHandler = self._give_up

    def add(self, chunk: bytes) -> None:
        """Parse what comes next."""
        if b"\0" in chunk:  # two bytes a character
            self._give_up()
        block = self._rest + chunk
        length = block.rfind(b">") + 1 or len(block)
        block, self._rest = block[:length], block[length:]
        if self._take and self._pending_bytes == 0 < self._fed_bytes and self._take(block):
            block = b"\n" * block.count(b"\n")  # expat counts the lines
        self._parse(block)

    def end(self) -> None:
        """Parse the rest, which ends the document."""
        self._parser.Parse(self._rest, True)

    @property
    def _pending_bytes(self) -> int:
        """How much expat could not read yet: a tag or a comment that has no end so far."""
        return self._fed_bytes - self._parser.CurrentByteIndex

    def _parse(self, block: bytes) -> None:
        self._parser.Parse(block, False)
        self._fed_bytes += len(block)
        refuse_above(reading.MAX_TAG_BYTES, self._pending_bytes, "bytes in one of its tags")

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if (encoding or "utf-8").lower() != "utf-8":
            self._give_up()

    def _give_up(self) -> None:
        self._take = None


class _ContentTypes:
    """What each part is, by `[Content_Types].xml`."""

    def __init__(self, package: Package) -> None:
        self._of: dict[str, str] = {}
        package.parse("/[content_types].xml", self._read)

    def _read(self, element: str, attributes: Attributes) -> None:
        if element == f"{CONTENT_TYPES} Default":
            key = "." + _lower(attributes.get("Extension", ""))
        elif element == f"{CONTENT_TYPES} Override":
            key = part_name(attributes.get("PartName", ""))
        else:
            return
        kind = attributes.get("ContentType", "")
        refuse_above(reading.MAX_MEMBERS, len(self._of), "content types")
        if self._of.setdefault(key, kind) != kind:
            raise BadPackage(f"it has two content types for {key[:80]!a}")

    def of(self, name: str) -> str | None:
        return self._of.get(name, self._of.get("." + name.rpartition(".")[2]))


def part_name(name: str) -> str:
    """Return the one form of a part's name: with a slash in front, percent-decoded, A to Z in lower case.

    Raises:
        BadPackage: what is encoded is no character, or a slash.
    """
    if re.search("%(2f|5c|00)", name, re.IGNORECASE):
        raise BadPackage(f"the name of its part {name[:80]!a} is not allowed")
    try:
        decoded = unquote(name, errors="strict")
    except UnicodeDecodeError as error:
        raise BadPackage(f"the name of its part {name[:80]!a} is not allowed") from error
    return "/" + _lower(decoded).removeprefix("/")


def resolve(target: str, *, base: str) -> str:
    """Return the name of the part that a reference means.

    Parameters:
        target: a URI, absolute or relative.
        base: the folder that it is relative to.

    Raises:
        BadPackage: it leads out of the package, or to no part.
    """
    try:
        parts = urlsplit(target)
    except ValueError as error:
        raise BadPackage(f"the reference {target[:80]!a} is no address") from error
    if not parts.path or parts.scheme or parts.netloc or parts.query or parts.fragment:
        raise BadPackage(f"the reference {target[:80]!a} leads to no part of it")
    return part_name(posixpath.normpath(posixpath.join(base, parts.path)))


def _lower(name: str) -> str:
    """Change A to Z only: other letters are as different as they look."""
    return name.encode().lower().decode()


def _refuse_doctype(*_: object) -> None:
    raise BadPackage("it has a document type declaration, which 3MF does not allow")
