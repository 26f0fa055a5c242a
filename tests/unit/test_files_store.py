"""The model store: by content, whole or not at all."""

import hashlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from app.files import (
    ContentMismatch,
    FilesUnavailable,
    ModelMissing,
    ModelStore,
    ModelTooLarge,
    UnsupportedModelType,
    model_name,
    model_suffix,
)

RING = b"solid ring\nendsolid ring\n"


class Stream:
    """Content that is read in small pieces; counts what was asked for."""

    def __init__(self, content: bytes, *, piece: int = 1000) -> None:
        self._content = BytesIO(content)
        self._piece = piece
        self.read_bytes = 0

    async def read(self, size: int = -1, /) -> bytes:
        chunk = self._content.read(min(size, self._piece))
        self.read_bytes += len(chunk)
        return chunk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "not" / "there yet"


@pytest.fixture
def store(folder: Path) -> ModelStore:
    return ModelStore.open(folder.as_uri())


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("content", [b"", RING, RING * 300_000], ids=["empty", "small", "7 MB"])
async def test_what_was_put_can_be_fetched(store: ModelStore, tmp_path: Path, content: bytes) -> None:
    stored = await store.put(Stream(content, piece=1 << 20), "stl", 10_000_000)
    digest = hashlib.sha256(content).hexdigest()
    assert (stored.key, stored.digest, stored.size) == (f"models/{digest}.stl", digest, len(content))
    await store.fetch(stored.key, tmp_path / "copy.stl")
    assert (tmp_path / "copy.stl").read_bytes() == content


async def test_the_same_content_is_kept_once(store: ModelStore, folder: Path) -> None:
    first = await store.put(Stream(RING), "stl", 1000)
    assert await store.put(Stream(RING), "stl", 1000) == first
    assert len(list(files(folder))) == 1


async def test_a_model_that_is_too_large_is_neither_read_nor_stored(store: ModelStore, folder: Path) -> None:
    stream = Stream(b"x" * 1_000_000)
    with pytest.raises(ModelTooLarge) as caught:
        await store.put(stream, "stl", 4500)
    assert caught.value.max_bytes == 4500
    assert stream.read_bytes == 5000
    assert list(files(folder)) == []


BINARY_STL = b"%PDF-1.7".ljust(80) + (2).to_bytes(4, "little") + bytes(100)
ARCHIVE = b"PK\3\4" + bytes(100)


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (RING, "stl"),
        (b"\xef\xbb\xbf\n Solid", "stl"),
        (BINARY_STL, "stl"),
        (BINARY_STL[:-1].replace(b"%PDF", b"ring"), "stl"),  # cut off, which pricing says better
        (ARCHIVE, "3mf"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "obj"),
        (b"solidity is no keyword", "obj"),
        (b"no model at all", "obj"),
        (b"nor is this", "3mf"),
    ],
)
async def test_content_that_may_be_what_its_name_says_is_stored(
    store: ModelStore, content: bytes, suffix: str
) -> None:
    assert (await store.put(Stream(content), suffix, 1000)).key.endswith(f".{suffix}")


@pytest.mark.parametrize(
    ("content", "suffix", "found"),
    [
        (ARCHIVE, "stl", "3mf"),
        (ARCHIVE, "obj", "3mf"),
        (RING, "obj", "stl"),
        (RING, "3mf", "stl"),
        (BINARY_STL, "obj", "stl"),
        (BINARY_STL, "3mf", "stl"),
        (b"%PDF-1.7\n", "obj", None),
        (b"\x89PNG\r\n\x1a\n", "stl", None),
        (b"\x7fELF\2\1\1", "obj", None),
        (b"\x1f\x8b\x08\0", "obj", None),
        (b"\xef\xbb\xbf <!DOCTYPE html><script>", "obj", None),
        (b"<svg onload=alert(1)>", "stl", None),
    ],
)
async def test_content_of_another_kind_is_refused_and_not_stored(
    store: ModelStore, folder: Path, content: bytes, suffix: str, found: str | None
) -> None:
    with pytest.raises(ContentMismatch) as caught:
        await store.put(Stream(content), suffix, 1000)
    assert (caught.value.suffix, caught.value.found) == (suffix, found)
    assert list(files(folder)) == []


async def test_a_missing_model_is_named(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"models/none\.stl"):
        await store.fetch("models/none.stl", tmp_path / "copy.stl")
    assert not (tmp_path / "copy.stl").exists()


async def test_a_store_that_fails_says_so(store: ModelStore, folder: Path) -> None:
    (folder / "models").write_bytes(b"a file where a folder should be")
    with pytest.raises(FilesUnavailable):
        await store.put(Stream(RING), "stl", 1000)


@pytest.mark.parametrize(
    ("name", "suffix"), [("ring.stl", "stl"), ("RING.STL", "stl"), ("a.b.3mf", "3mf"), ("x.Obj", "obj")]
)
def test_suffix_of_a_model(name: str, suffix: str) -> None:
    assert model_suffix(name) == suffix


@pytest.mark.parametrize("name", ["", "ring", ".stl", "ring.stl.exe", "ring.stl ", "stl"])
def test_what_is_no_model(name: str) -> None:
    with pytest.raises(UnsupportedModelType, match=r"\.stl, \.3mf, \.obj"):
        model_suffix(name)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/ring.stl", "ring.stl"),
        ("C:\\models\\ring.stl", "ring.stl"),
        ("ri\x00ng\n.stl", "ring.stl"),
        ("a" * 500 + ".stl", "a" * 196 + ".stl"),
    ],
)
def test_name_that_is_kept(given: str, kept: str) -> None:
    assert model_name(given) == kept
