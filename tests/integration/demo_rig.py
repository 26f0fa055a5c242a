"""A server of HTTP that answers by a script, over real sockets: it breaks off, refuses and comes back."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from app.console.demo.client import RetryingClient

Reply = tuple[int, Any] | None
"""A status and a JSON body; None breaks the connection once the request was read."""


class ScriptedServer:
    """Answers requests one after the other as its script says, and remembers them."""

    def __init__(self, script: Sequence[Reply]) -> None:
        self._script = list(script)
        self.requests: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            (int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:")), 0
        )
        await reader.readexactly(length)
        self.requests.append(head.split(" HTTP")[0])
        reply = self._script.pop(0)
        if reply is not None:
            status, body = reply
            content = json.dumps(body).encode()
            lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Content-Type: application/json"]
            lines += [f"Content-Length: {len(content)}", "Connection: close", "", ""]
            writer.write("\r\n".join(lines).encode() + content)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def client_of(
    *script: Reply, patience_seconds: float = 20.0
) -> AsyncIterator[tuple[RetryingClient, ScriptedServer]]:
    server = ScriptedServer(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with (
        listener,
        RetryingClient(f"http://127.0.0.1:{port}", patience_seconds=patience_seconds) as client,
    ):
        yield client, server
