"""A way to a PostgreSQL server that is cut when a marked transaction commits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

from ops.ports import LOOPBACK

_COMMIT = b"COMMIT; "
"""How the library's COMMIT begins, in a simple query."""


class Cut(Enum):
    """When the connection is cut."""

    BEFORE = "the server never hears of COMMIT"
    AFTER = "the server has answered, and the answer is lost"
    FOR_GOOD = "as AFTER, and nobody gets through any more"
    SILENT = "the server has answered, and the connection stays and says nothing"


@dataclass
class Cutter:
    """Passes everything on, and cuts once after it was armed."""

    to_port: int
    port: int = 0
    cuts: int = 0
    is_open: bool = True
    _armed: tuple[Cut, bytes] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def arm(self, cut: Cut, *, mark: bytes) -> None:
        """Cut the next COMMIT of a connection that has sent these bytes since."""
        self._armed = (cut, mark)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        if not self.is_open:
            writer.close()
            return
        from_server, to_server = await asyncio.open_connection(LOOPBACK, self.to_port)
        answers = asyncio.create_task(_pass(from_server, writer))
        self._tasks.add(answers)
        is_marked = False
        try:
            while data := await reader.read(65536):
                if not self.is_open:
                    break  # a connection from before the cut gets through no more than a new one
                is_marked = is_marked or (self._armed is not None and self._armed[1] in data)
                if is_marked and self._armed is not None and _COMMIT in data:
                    (cut, _), self._armed = self._armed, None
                    self.is_open = cut is not Cut.FOR_GOOD
                    answers.cancel()
                    await asyncio.wait([answers])
                    if cut is not Cut.BEFORE:
                        to_server.write(data)
                        assert await from_server.read(65536)
                    self.cuts += 1
                    if cut is Cut.SILENT:
                        await reader.read()  # until the client has gone
                    break
                to_server.write(data)
        except ConnectionError:
            pass
        finally:
            for end in (to_server, writer):
                end.close()

    async def close(self) -> None:
        """Wait until every connection has ended: its clients are gone by now."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            target.write(data)
    except ConnectionError:
        pass
    target.close()  # not if this was cancelled: then `accept` ends both


@asynccontextmanager
async def cutter_to(port: int) -> AsyncIterator[Cutter]:
    """Listen in front of a server."""
    cutter = Cutter(port)
    listener = await asyncio.start_server(cutter.accept, LOOPBACK, 0)
    cutter.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield cutter
        await cutter.close()
