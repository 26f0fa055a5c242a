"""Connections of hostile clients, on real sockets: slow ones are ended, and there are only so many."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
import uvicorn
from fastapi import APIRouter, FastAPI, Request
from structlog.testing import capture_logs

from app.flow.shedding import Admission
from app.kit import problem
from app.kit.caller import Caller, Role
from app.kit.connections import _RESERVE
from app.kit.middleware import HeadAsGet, WellFormed
from app.kit.strict import RequestLimit, StrictRoute
from app.serve import server_config
from app.settings import Settings
from ops.ports import LOOPBACK

pytestmark = pytest.mark.field
LARGE = 30_000_000
QUICK: dict[str, Any] = {"header_seconds": 0.3, "body_seconds": 0.3, "answer_seconds": 0.4, "idle_seconds": 1}
SOON = 5.0


@dataclass
class Running:
    """A server on a port, and what its endpoint has read."""

    server: uvicorn.Server
    port: int
    bodies: list[int]

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)


class Anyone:
    """Lets everyone in: these tests are about what comes before."""

    @asynccontextmanager
    async def calling(self, _request: Request, _route: str) -> AsyncIterator[Caller]:
        yield Caller(name="anyone", role=Role.ADMIN)

    @asynccontextmanager
    async def taken(self, *_asked: Any) -> AsyncIterator[dict[str, str]]:
        yield {}


def application(bodies: list[int]) -> FastAPI:
    app, router = FastAPI(), APIRouter(route_class=StrictRoute)

    @router.get("/livez")
    async def livez() -> str:
        return "alive"

    @router.get("/large")
    async def large() -> str:
        return "x" * LARGE

    @router.post("/unread")
    async def unread() -> str:
        return "done"

    @router.post("/read")
    async def read(body: dict[str, Any]) -> int:
        bodies.append(len(body["text"]))
        return len(body["text"])

    @router.post("/peer")
    async def peer(request: Request) -> list[str]:
        assert request.client is not None
        return [request.client.host, request.url.scheme]

    app.include_router(router)
    app.state.max_json_bytes, app.state.request_seconds = 64 * 1024, 5.0
    app.state.request_limit = RequestLimit(100)
    app.state.admission = Admission("test", most=100)
    app.state.access = app.state.limits = Anyone()
    app.add_middleware(HeadAsGet)
    app.add_middleware(WellFormed)
    problem.install(app, {})
    return app


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Running]:
    bodies: list[int] = []
    made = Settings(topology=Path("topology.toml"), **(QUICK | settings))
    config = server_config(application(bodies), made, host=LOOPBACK, port=0)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    ticking = asyncio.create_task(server.main_loop())
    try:
        yield Running(server, server.servers[0].sockets[0].getsockname()[1], bodies)
    finally:
        server.should_exit = True
        await ticking
        await server.shutdown()


@asynccontextmanager
async def connected(to: Running) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(LOOPBACK, to.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(SOON):
        return await reader.read()


def request(method: str, path: str, *headers: str, body: str = "") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: service", *headers, "", body]).encode()


JSON = "Content-Type: application/json"
UNFINISHED = {
    "nothing": b"",
    "half a line": b"GET /liv",
    "half a header": b"GET /livez HTTP/1.1\r\nHost: serv",
    "no blank line": b"GET /livez HTTP/1.1\r\nHost: service\r\n",
    "half a body": request("POST", "/read", JSON, "Content-Length: 50", body='{"text":'),
    "half a chunk": request("POST", "/read", JSON, "Transfer-Encoding: chunked", body="20\r\nabc"),
    "no body": request("POST", "/read", JSON, "Content-Length: 50"),
}


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
async def test_what_does_not_come_to_its_end_is_ended(sent: bytes) -> None:
    async with running() as service, connected(service) as (reader, writer):
        with capture_logs() as logs:
            writer.write(sent)
            answer = await read_all(reader)
            await until(lambda: service.connections == 0)
    assert answer.startswith(b"HTTP/1.1 408 ") if sent else answer == b""
    assert b"problem+json" in answer or not sent
    assert not [line for line in logs if line["log_level"] in {"warning", "error"}]
    assert service.bodies == []


async def trickle(writer: asyncio.StreamWriter, content: bytes, *, size: int, pause_seconds: float) -> None:
    for start in range(0, len(content), size):
        writer.write(content[start : start + size])
        await asyncio.sleep(pause_seconds)


@pytest.mark.parametrize(
    "content",
    [
        request("GET", "/livez", "X: " + "y" * 1000),
        request("POST", "/read", JSON, "Content-Length: 1012", body='{"text": "' + "y" * 1000 + '"}'),
        request("GET", "/livez") + request("GET", "/livez", "X: " + "y" * 1000),
        request("POST", "/unread", "Content-Length: 1000", body="y" * 1000),
    ],
    ids=["header", "body", "second header", "unread body"],
)
async def test_a_byte_at_a_time_buys_no_time(content: bytes) -> None:
    async with running() as service, connected(service) as (reader, writer):
        trickling = asyncio.create_task(trickle(writer, content, size=1, pause_seconds=0.02))
        # A byte that comes after the end is answered by a reset.
        with suppress(ConnectionResetError):
            await read_all(reader)
        trickling.cancel()
        await until(lambda: service.connections == 0)


async def test_a_slow_and_steady_body_is_read() -> None:
    body = '{"text": "' + "y" * 50_000 + '"}'
    content = request("POST", "/read", JSON, f"Content-Length: {len(body)}", "Connection: close", body=body)
    async with running(body_seconds=0.3) as service, connected(service) as (reader, writer):
        # 2 s, and each second brings more than the 16 KiB that pay for it.
        await trickle(writer, content, size=1250, pause_seconds=0.05)
        assert (await read_all(reader)).endswith(b"50000")
    assert service.bodies == [50_000]


async def test_who_does_not_read_the_answer_is_left() -> None:
    async with running() as service, connected(service) as (_, writer):
        for more in (request("GET", "/large"), request("GET", "/large", "Connection: close")):
            writer.write(more)
        await until(lambda: service.connections == 1)
        await until(lambda: service.connections == 0)


async def test_who_reads_the_answer_gets_it() -> None:
    async with running() as service, connected(service) as (reader, writer):
        writer.write(request("GET", "/large", "Connection: close"))
        assert len(await read_all(reader)) > LARGE


async def test_an_idle_connection_is_closed() -> None:
    async with running() as service, connected(service) as (reader, writer):
        writer.write(request("GET", "/livez"))
        assert b'"alive"' in await read_all(reader)


async def test_connections_beyond_the_limit_are_answered_and_logged() -> None:
    async with running(max_connections=3, header_seconds=5) as service:
        with capture_logs() as logs:
            held = [await asyncio.open_connection(LOOPBACK, service.port) for _ in range(3)]
            await until(lambda: service.connections == 3)
            for method, path, status in (
                ("GET", "/large", b"503"),
                ("POST", "/unread", b"503"),
                ("GET", "/livez", b"200"),
            ):
                async with connected(service) as (reader, writer):
                    writer.write(request(method, path, "Connection: close"))
                    answer = await read_all(reader)
                    assert answer.split()[1] == status
                    assert (b"retry-after: 1" in answer) == (status == b"503")
            await until(lambda: service.connections == 3)
            held[0][1].close()
            await until(lambda: service.connections == 2)
            async with connected(service) as (reader, writer):
                writer.write(request("POST", "/unread", "Connection: close"))
                assert (await read_all(reader)).split()[1] == b"200"
    assert {(line["event"], line["limit"]) for line in logs} == {("too_many_connections", 3)}
    for _, writer in held:
        writer.close()


async def test_a_flood_of_connections_is_answered_without_being_read() -> None:
    async with running(max_connections=3, header_seconds=5) as service:
        held = [await asyncio.open_connection(LOOPBACK, service.port) for _ in range(3 + _RESERVE)]
        await until(lambda: service.connections == len(held))
        async with connected(service) as (reader, _):
            head, _, body = (await read_all(reader)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert json.loads(body)["title"] == "Too many connections"
        for _, writer in held:
            writer.close()


AMBIGUOUS = [
    ("Content-Length: 5", "Transfer-Encoding: chunked"),
    ("Transfer-Encoding: chunked", "Content-Length: 5"),
    ("Content-Length: 5", "Content-Length: 6"),
    ("Content-Length: +5",),
    ("Content-Length: 0x5",),
    ("Transfer-Encoding: gzip, chunked",),
    ("Transfer-Encoding : chunked",),
]


@pytest.mark.parametrize("headers", AMBIGUOUS, ids=map(str, AMBIGUOUS))
async def test_a_body_of_two_lengths_is_refused_and_the_connection_closed(headers: tuple[str, ...]) -> None:
    smuggled = request("GET", "/livez")
    async with running() as service, connected(service) as (reader, writer):
        writer.write(request("POST", "/unread", *headers, body="0\r\n\r\n") + smuggled)
        answer = await read_all(reader)
    assert answer.split()[1] in {b"400", b"501"}
    assert answer.count(b"HTTP/1.1 ") == 1


async def peer_of(service: Running) -> list[str]:
    forged = ("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "Connection: close")
    async with connected(service) as (reader, writer):
        writer.write(request("POST", "/peer", *forged))
        return list(json.loads((await read_all(reader)).partition(b"\r\n\r\n")[2]))


async def test_only_a_trusted_proxy_says_who_the_client_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    for trusted, peer in (
        ("", [LOOPBACK, "http"]),
        ("10.0.0.0/8", [LOOPBACK, "http"]),
        ("10.0.0.1, 127.0.0.0/8", ["6.6.6.6", "https"]),
    ):
        async with running(trusted_proxies=trusted) as service:
            assert await peer_of(service) == peer


WITHOUT_FILES = """
import asyncio, os, resource, sys
import uvicorn
from pathlib import Path
from app.kit.connections import log_accept_errors
from app.kit.logs import configure_logging
from app.serve import server_config
from app.settings import Settings
from tests.integration.test_services_connections import application

async def main():
    asyncio.get_running_loop().set_exception_handler(log_accept_errors)
    config = server_config(application([]), Settings(topology=Path("x")), host="127.0.0.1", port=0)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    ticking = asyncio.create_task(server.main_loop())
    await asyncio.sleep(2.5)
    for file in held:
        os.close(file)
    await ticking

configure_logging("test", level="info")
asyncio.run(main())
"""


@contextmanager
def without_files(log: Path) -> Iterator[IO[bytes]]:
    """Run a server that has no file left for 2.5 s; give what it prints: its port."""
    command = [sys.executable, "-c", WITHOUT_FILES]
    with (
        log.open("wb") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


@pytest.mark.long
async def test_without_files_clients_wait_and_the_log_is_short(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with without_files(log) as said:
        port = int(await asyncio.to_thread(said.readline))
        asked = [await asyncio.open_connection(LOOPBACK, port) for _ in range(50)]
        for _, writer in asked:
            writer.write(request("GET", "/livez", "Connection: close"))
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(reader.read() for reader, _ in asked))
        for _, writer in asked:
            writer.close()
        assert {answer[-260:] for answer in answers if b'"alive"' not in answer} == set()
    lines = [line for line in log.read_text().splitlines() if "Too many open files" in line]
    assert len(lines) == 1
    assert json.loads(lines[0])["event"]["action"] == "too_many_open_files"
    assert log.stat().st_size < 30_000


ROOM = """
import resource, sys
from app.kit.connections import TooFewFiles, raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
try:
    raise_file_limit(512)
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except TooFewFiles as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("soft", "hard", "said"),
    [
        (256, 4096, "728"),
        (1024, 4096, "1024"),
        (256, 256, "the limit of open files is 256, and 728 are needed: raise it (ulimit -n), or lower "),
    ],
)
def test_there_are_files_for_every_connection_or_the_service_does_not_start(
    soft: int, hard: int, said: str
) -> None:
    command = [sys.executable, "-c", ROOM, str(soft), str(hard)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.startswith(said)
