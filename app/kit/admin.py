"""The admin port of a process: its metrics, and whether it is alive and ready, for those who run it.

It is on an address of its own, loopback unless the topology says otherwise: what scrapes it needs no way to
the data port, and a client on the data port sees no metrics. It is there from the start, while a database is
waited for, until the end, so that one who looks sees a process that starts or ends as such.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import NamedTuple

import uvicorn
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.kit.errors import AppError

_BACKLOG = 16
_CLOSE_SECONDS = 2
"""How long answers that are under way may take at the end."""


class AdminAddress(NamedTuple):
    """Where the admin port of a process is."""

    host: str
    port: int


class AdminPortTaken(AppError):
    """Another process has the admin port."""

    def __init__(self, process: str, address: AdminAddress, fault: str) -> None:
        self.address = address
        super().__init__(
            f"services.{process}.admin_port: port {address.port} on {address.host} cannot be had ({fault}): "
            "stop what has it, or name another port"
        )


class Readings(NamedTuple):
    """What /readyz answers: 200 or 503, and facts as JSON."""

    ready: bool
    facts: dict[str, object]


Ready = Callable[[], Awaitable[Readings]]
"""Says whether the process can do its work."""


@asynccontextmanager
async def serving_admin(
    process: str, address: AdminAddress | None, ready: Ready, *, metrics: Collector = REGISTRY
) -> AsyncIterator[None]:
    """Serve the admin port while the block runs; without an address, nothing.

    Raises:
        AdminPortTaken: nothing was started.
    """
    if address is None:
        yield
        return
    with _bound(process, address) as listening:
        server = _Server(_config(process, ready, metrics))
        serving = asyncio.create_task(server.serve([listening]), name="admin port")
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)


@contextmanager
def _bound(process: str, address: AdminAddress) -> Iterator[socket.socket]:
    """Bind here and not in uvicorn, which would end the process with a line of its own."""
    try:
        listening = socket.create_server(
            address, family=socket.AF_INET6 if ":" in address.host else socket.AF_INET, backlog=_BACKLOG
        )
    except OSError as error:
        raise AdminPortTaken(process, address, error.strerror or str(error)) from error
    with listening:
        yield listening


class _Server(uvicorn.Server):
    """uvicorn's, beside the one of the data port, which alone handles signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals as they are."""
        yield


def _config(process: str, ready: Ready, registry: Collector) -> uvicorn.Config:
    return uvicorn.Config(
        admin_app(process, ready, registry),
        http="h11",
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=_CLOSE_SECONDS,
        log_config=None,
        access_log=False,
        server_header=False,
    )


def admin_app(process: str, ready: Ready, registry: Collector = REGISTRY) -> Starlette:
    """Make the application of an admin port."""

    async def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": kind})

    async def live(_request: Request) -> Response:
        return JSONResponse({"service": process, "status": "ok"})

    async def readiness(_request: Request) -> Response:
        found = await ready()
        return JSONResponse({"service": process, **found.facts}, status_code=200 if found.ready else 503)

    paths = {"/metrics": metrics, "/livez": live, "/readyz": readiness}
    return Starlette(routes=[Route(path, endpoint) for path, endpoint in paths.items()])


async def _measure_lag(record: Callable[[float], None], every_seconds: float) -> None:
    """Record how late the event loop wakes this task, for ever: as late is everything else."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + every_seconds
        await asyncio.sleep(every_seconds)
        record(max(0.0, clock() - due))


@asynccontextmanager
async def measuring_lag(
    record: Callable[[float], None], *, every_seconds: float = 1.0
) -> AsyncIterator[None]:
    """Measure the lag of the event loop while the block runs."""
    task = asyncio.create_task(_measure_lag(record, every_seconds), name="event loop lag")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
