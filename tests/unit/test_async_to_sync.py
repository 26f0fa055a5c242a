"""The generator of the sync versions, and whether they are up to date."""

from tools.async_to_sync import SYNC_PACKAGES, SyncPackage, generated_files, sync_version

SOURCE = '''\
"""Reads."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from shop.cart import Cart
from shop.prices import Price
from sqlalchemy.ext.asyncio import AsyncEngine


# Why this is here.
class Reader:
    async def __aenter__(self) -> "Reader":
        return self

    async def read(self, engine: AsyncEngine, work: Callable[[Cart], Awaitable[list[int]]]) -> int:
        """Used with `async with`."""
        async with self as reader:  # kept
            return await reader.count(engine.sync_engine.pool, (await work(Cart()))[0])

    def run(self, unit: Callable[[], Coroutine[Any, Any, None]]) -> None: ...
'''

SYNC_SOURCE = '''\
# Generated from shop/reader.py by `make sync`: change that file, not this one.
"""Reads."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from shop.sync.cart import Cart
from shop.prices import Price
from sqlalchemy import Engine


# Why this is here.
class Reader:
    def __enter__(self) -> "Reader":
        return self

    def read(self, engine: Engine, work: Callable[[Cart], list[int]]) -> int:
        """Used with `with`."""
        with self as reader:  # kept
            return reader.count(engine.pool, (work(Cart()))[0])

    def run(self, unit: Callable[[], None]) -> None: ...
'''


def test_what_has_to_do_with_asyncio_is_dropped_or_renamed_and_the_rest_stays() -> None:
    packages = [SyncPackage(package="shop", target="shop.sync", modules=("cart", "reader"))]
    assert sync_version(SOURCE, packages, named="shop/reader.py") == SYNC_SOURCE


def test_every_sync_version_is_what_would_be_written() -> None:
    stale = [path.name for path, text in generated_files(SYNC_PACKAGES) if path.read_text() != text]
    assert not stale, "run `make sync`"
