"""A receiver of webhooks: it answers as a test wants, and verifies as the specification has it."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[["Delivered", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Delivered:
    """A request that came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def content(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


def verify(secret: str, delivered: Delivered) -> None:
    """Refuse what was not signed with the secret."""
    key = base64.b64decode(secret.split("_", 1)[1])
    signed = b".".join(
        [delivered.event_id.encode(), delivered.headers["webhook-timestamp"].encode(), delivered.body]
    )
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert f"v1,{wanted}" in delivered.headers["webhook-signature"].split(" ")


def status(code: int, **headers: str) -> Answer:
    """Answer with a status."""

    async def answer(_: Delivered, writer: asyncio.StreamWriter) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {code} X\r\ncontent-length: 0\r\n{lines}\r\n".encode())
        await writer.drain()

    return answer


async def hang(_: Delivered, __: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def flood(_given: Delivered, writer: asyncio.StreamWriter) -> None:
    """Answer with gigabytes of a header."""
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    for _ in range(4096):
        writer.write(b"x" * 2**20)
        await writer.drain()


async def pour(_given: Delivered, writer: asyncio.StreamWriter) -> None:
    """Answer well, and then with gigabytes of a body."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
    for _ in range(4096):
        writer.write(b"x" * 2**20)
        await writer.drain()


@dataclass
class Receiver:
    """A server on a port of this machine."""

    port: int
    answer: Answer = field(default_factory=lambda: status(204))
    received: list[Delivered] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    def url(self, path: str = "/hook") -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.port}{path}"

    def of(self, order_id: str) -> list[Delivered]:
        """Return what came in of an order."""
        return [each for each in self.received if each.content["data"].get("order_id") == order_id]

    async def wait(self, holds: Callable[["Receiver"], bool], *, seconds: float = 30.0) -> None:
        """Wait until it has received what is wanted."""
        async with asyncio.timeout(seconds):
            async with self.arrived:
                await self.arrived.wait_for(lambda: holds(self))


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Run a receiver."""
    handlers: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            body = await reader.readexactly(int(headers["content-length"]))
            delivered = Delivered(first.split(" ")[1], headers, body)
            async with receiver.arrived:
                receiver.received.append(delivered)
                receiver.arrived.notify_all()
            await receiver.answer(delivered, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            handlers.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    receiver = Receiver(server.sockets[0].getsockname()[1])
    try:
        yield receiver
    finally:
        for task in handlers:
            task.cancel()
        server.close()
