"""What lies between a client and its server, in a test's hand."""

import asyncio

from ops.ports import LOOPBACK


class Cable:
    """A way to a server that can be cut or moved; those who are connected are told nothing of either."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._is_whole = asyncio.Event()
        self._is_whole.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Let nothing pass."""
        self._is_whole.clear()

    def lead_to(self, port: int) -> None:
        """Have new connections go to another server; those that there are stay where they are."""
        self._to_port = port

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        await self._is_whole.wait()
        to_reader, to_writer = await asyncio.open_connection(LOOPBACK, self._to_port)
        for source, target in ((reader, to_writer), (to_reader, writer)):
            self._tasks.add(asyncio.create_task(self._pass(source, target)))

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._is_whole.wait()
                target.write(data)
        finally:
            target.close()

    async def close(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
