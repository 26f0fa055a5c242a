"""Where 3D models are kept: a local folder by default, S3 (or another object store) by the topology's URL.

A model is stored under the digest of its content, so the same file is kept once however often it is
uploaded, a stored model never changes, and the pricing worker can trust the key.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from tempfile import SpooledTemporaryFile
from typing import IO, Literal, Protocol, Self, get_args

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from app.kit.errors import AppError, DependencyUnavailable

MODEL_SUFFIXES = ("stl", "3mf", "obj")
MAX_NAME_CHARACTERS = 200
FOLDER = "models"
PREVIEWS = "previews"
_CHUNK_BYTES = 1 << 20
_IN_MEMORY_BYTES = 1 << 20
_HEAD_BYTES = 512
_TEXT_STL = re.compile(rb"(?:\xef\xbb\xbf)?\s*solid(?!\S)", re.IGNORECASE)
# Pictures, documents, programs, other archives and web pages, by how they begin, in small letters.
_FOREIGN = (
    *(b"\x89png", b"\xff\xd8\xff", b"gif8", b"%pdf", b"\x7felf", b"mz\x90", b"\x1f\x8b", b"7z\xbc", b"rar!"),
    *(b"<!doctype", b"<html", b"<svg", b"{\\rtf"),
)


class FilesError(AppError):
    """Base of everything that can be wrong with a model file or its store."""


class UnsupportedModelType(FilesError):
    """The file's name does not end like a 3D model that can be read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.accepted = [f".{suffix}" for suffix in MODEL_SUFFIXES]
        super().__init__(f"{name!r} is not a 3D model: send a file that ends in {', '.join(self.accepted)}")


class ContentMismatch(FilesError):
    """The content is not what the file's name says; pricing would only find out later."""

    def __init__(self, suffix: str, found: str | None) -> None:
        self.suffix = suffix
        self.found = found
        content, remedy = (
            (f"that of a .{found} file", f"name it so that it ends in .{found}")
            if found
            else ("of another kind", "export the model again")
        )
        super().__init__(f"the file's name ends in .{suffix}, and its content is {content}: {remedy}")


class ModelTooLarge(FilesError):
    """The file is larger than the limit; reading stopped there."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        super().__init__(f"the model is larger than {max_bytes} bytes: reduce its polygons and send it again")


class ModelMissing(FilesError):
    """The store has no model under this key."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"no model is stored under {key!r}")


class FilesUnavailable(FilesError, DependencyUnavailable):
    """The store did not answer, or refused; it is worth trying again."""

    def __init__(self, cause: Exception) -> None:
        # The store's own message holds paths and a debug dump: its first line, and for the log only.
        super().__init__(f"the file store failed: {str(cause).partition(chr(10))[0]}")


class StoreUnusable(FilesError):
    """The topology's file store cannot be opened."""

    def __init__(self, cause: Exception) -> None:
        # Not its URL, which may hold a password.
        super().__init__(f"[files] url is of no use: {str(cause).partition(chr(10))[0]}")


PreviewKind = Literal["glb", "png"]
"""What is shown of a model: a mesh for a browser, and a picture (`app.pricing.preview`)."""


class ByteStream(Protocol):
    """What can be read in pieces, such as FastAPI's UploadFile."""

    async def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes, and none at the end."""


class Upload(ByteStream, Protocol):
    """An uploaded file."""

    @property
    def filename(self) -> str | None:
        """The name that the client gave it."""


@dataclass(frozen=True)
class StoredModel:
    """A model that is in the store: its key, the SHA-256 of its content (hex), its size in bytes."""

    key: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A model as the store lists it; `stored_at` is when its content was last uploaded."""

    key: str
    size_bytes: int
    stored_at: datetime


def model_suffix(name: str) -> str:
    """Return the suffix of a model's file name, in small letters and without its dot.

    Raises:
        UnsupportedModelType: it is none of `MODEL_SUFFIXES`.
    """
    suffix = PurePosixPath(name).suffix.lower().removeprefix(".")
    if suffix not in MODEL_SUFFIXES:
        raise UnsupportedModelType(name[-MAX_NAME_CHARACTERS:])
    return suffix


def model_name(name: str) -> str:
    """Return an uploaded file's name, fit to be kept: no folders, nothing unprintable, not too long."""
    base = name.replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in base if character.isprintable())[-MAX_NAME_CHARACTERS:]


class ModelStore:
    """3D models by the digest of their content."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the store that a URL names: `file:///folder` (made if missing), `s3://bucket/prefix`, ...

        Credentials of an object store come from its usual environment variables.

        Raises:
            StoreUnusable: there is no such kind of store, or the folder cannot be made.
        """
        try:
            return cls(from_url(url, mkdir=True) if url.startswith("file:") else from_url(url))
        except (BaseError, OSError, ValueError) as error:
            raise StoreUnusable(error) from error

    async def put(self, stream: ByteStream, suffix: str, max_bytes: int) -> StoredModel:
        """Store a model and return where it is. A model that is there already is simply kept.

        Parameters:
            stream: the content; reading stops as soon as it proves too large.
            suffix: from `model_suffix`.
            max_bytes: the largest content that is accepted.

        Raises:
            ModelTooLarge, ContentMismatch, FilesUnavailable: nothing was stored.
        """
        with SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as staged:
            digest, size = await _stage(stream, staged, max_bytes)
            _check_content(staged.read(_HEAD_BYTES), size, suffix)
            staged.seek(0)
            key = f"{FOLDER}/{digest}.{suffix}"
            try:
                # Atomic: the key shows the whole content or does not exist.
                await obstore.put_async(self._store, key, staged)
            except (BaseError, OSError) as error:
                raise FilesUnavailable(error) from error
        return StoredModel(key=key, digest=digest, size=size)

    async def has(self, key: str) -> bool:
        """Return whether the store has a model.

        Raises:
            FilesUnavailable: the store did not answer.
        """
        try:
            await obstore.head_async(self._store, key)
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise FilesUnavailable(error) from error
        return True

    async def put_preview(self, key: str, kind: PreviewKind, content: bytes) -> None:
        """Store what is shown of a model.

        Raises:
            FilesUnavailable: nothing was stored.
        """
        try:
            await obstore.put_async(self._store, _preview_key(key, kind), content)
        except (BaseError, OSError) as error:
            raise FilesUnavailable(error) from error

    async def has_preview(self, key: str) -> bool:
        """Return whether there is anything to show of a model.

        Raises:
            FilesUnavailable: the store did not answer.
        """
        return await self.has(_preview_key(key, "png"))

    async def read_preview(self, key: str, kind: PreviewKind) -> bytes | None:
        """Return what is shown of a model; None if there is nothing.

        Raises:
            FilesUnavailable: the store did not answer.
        """
        try:
            found = await obstore.get_async(self._store, _preview_key(key, kind))
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise FilesUnavailable(error) from error

    def listed(self) -> Iterator[StoredObject]:
        """List all models.

        Raises:
            FilesUnavailable: the store did not answer.
        """
        try:
            for batch in obstore.list(self._store, prefix=FOLDER):
                for found in batch:
                    yield StoredObject(found["path"], found["size"], found["last_modified"])
        except (BaseError, OSError) as error:
            raise FilesUnavailable(error) from error

    def delete(self, key: str, *, stored_before: datetime) -> bool:
        """Delete a model, with what is shown of it; False if it is gone, or was uploaded again since.

        Raises:
            FilesUnavailable: the store did not answer.
        """
        try:
            if obstore.head(self._store, key)["last_modified"] >= stored_before:
                return False
            # The model last: while it is there, an interrupted deletion is found and done again.
            for kind in get_args(PreviewKind):
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, _preview_key(key, kind))
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise FilesUnavailable(error) from error
        return True

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """Return the content of a model, piece by piece.

        Raises:
            ModelMissing: the store has no such key.
            FilesUnavailable: the store did not answer.
        """
        try:
            found = await obstore.get_async(self._store, key)
        except FileNotFoundError as error:
            raise ModelMissing(key) from error
        except (BaseError, OSError) as error:
            raise FilesUnavailable(error) from error

        async def pieces() -> AsyncIterator[bytes]:
            async for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
                yield bytes(chunk)

        return pieces()

    async def fetch(self, key: str, to_path: Path) -> None:
        """Write the model under `key` to a local file.

        Raises:
            ModelMissing: the store has no such key.
            FilesUnavailable: the store did not answer.
        """
        try:
            found = await obstore.get_async(self._store, key)
            with to_path.open("wb") as target:
                async for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
                    target.write(chunk)
        except FileNotFoundError as error:
            raise ModelMissing(key) from error
        except (BaseError, OSError) as error:
            raise FilesUnavailable(error) from error


def _preview_key(key: str, kind: PreviewKind) -> str:
    return f"{PREVIEWS}/{PurePosixPath(key).name}.{kind}"


def _check_content(head: bytes, size: int, suffix: str) -> None:
    """Refuse what is certainly of another kind. Whether it is a good model, pricing finds out.

    Raises:
        ContentMismatch: it is.
    """
    found = _kind_of(head, size)
    if found not in (suffix, None) or _is_foreign(head, found):
        raise ContentMismatch(suffix, found)


def _kind_of(head: bytes, size: int) -> str | None:
    """Return the suffix of a content that can be nothing else; None if it may be text, or anything."""
    triangles = int.from_bytes(head[80:84], "little")
    # First: the header of a binary STL may hold anything, also what begins another kind of file.
    if len(head) >= 84 and size == 84 + 50 * triangles:
        return "stl"
    if head.startswith(b"PK\3\4"):
        return "3mf"
    return "stl" if _TEXT_STL.match(head) else None


def _is_foreign(head: bytes, found: str | None) -> bool:
    return found is None and head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_FOREIGN)


async def _stage(stream: ByteStream, staged: IO[bytes], max_bytes: int) -> tuple[str, int]:
    """Copy the content to a temporary file; return its digest and size."""
    digest, size = hashlib.sha256(), 0
    while chunk := await stream.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > max_bytes:
            raise ModelTooLarge(max_bytes)
        digest.update(chunk)
        staged.write(chunk)
    staged.seek(0)
    return digest.hexdigest(), size
