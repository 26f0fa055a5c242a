"""One Envoy for all tests of a worker, in front of servers that a test can look into."""

import asyncio
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ops.embedded.gateway import command_of
from ops.gateway import envoy
from ops.gateway.certificates import Authority, make_authority
from ops.gateway.model import Gateway, GatewayDoor, GatewayRoute, GatewaySection, Upstream
from ops.gateway.service import RunningGateway, find_envoy
from ops.ports import LOOPBACK, PortPicker, is_free
from ops.waiting import wait_until

KIB = 1024
SOURCE = "127.0.0.2"
HOST, OTHER_HOST = "mes.api.localhost", "crm.api.localhost"
ROUTES = (
    GatewayRoute(path="/v1/orders/{order_id}", methods=("GET",), service="mes", is_repeatable=True),
    GatewayRoute(path="/v1/orders", methods=("POST",), service="mes", body_bytes=KIB),
    GatewayRoute(path="/v1/models", methods=("POST",), service="mes", body_bytes=20 * KIB * KIB),
    GatewayRoute(path="/v1/slow", methods=("GET",), service="mes", seconds=20),
    GatewayRoute(path="/v1/large", methods=("GET",), service="mes", seconds=60),
    GatewayRoute(path="/v1/hangs", methods=("GET",), service="mes", seconds=0.5),
    GatewayRoute(path="/v1/events", methods=("GET",), service="mes", is_stream=True),
)
OTHER_ROUTES = (
    GatewayRoute(path="/v1/orders/{order_id}", methods=("GET",), service="crm", is_repeatable=True),
)
IMPATIENT_SECONDS = 0.6
LARGE = b"x" * (16 * KIB * KIB)

free_port = PortPicker(Random()).pick


@dataclass
class Upstreaming:
    """A server of a service that a test can look into."""

    port: int = field(default_factory=free_port)
    seen: list[Request] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    async def echo(self, request: Request) -> Response:
        body = await request.body()
        self.seen.append(request)
        return JSONResponse(
            {
                "path": request.url.path,
                "bytes": len(body),
                "port": self.port,
                "peer": request.client.host if request.client else None,
                "headers": dict(request.headers),
            }
        )

    async def slow(self, request: Request) -> Response:
        self.seen.append(request)
        await asyncio.to_thread(self.release.wait, 15)
        return JSONResponse({"port": self.port})

    async def large(self, request: Request) -> Response:
        self.seen.append(request)
        return Response(LARGE)

    async def events(self, request: Request) -> Response:
        self.seen.append(request)

        async def lines() -> AsyncIterator[str]:
            for number in range(2):
                yield f"data: {number}\n\n"
                await asyncio.to_thread(self.release.wait, 15)

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def ready(self, _request: Request) -> Response:
        return Response()

    @contextmanager
    def running(self) -> Iterator[None]:
        routes = [
            Route("/readyz", self.ready),
            Route("/v1/slow", self.slow),
            Route("/v1/hangs", self.slow),
            Route("/v1/large", self.large),
            Route("/v1/events", self.events),
            Route("/{path:path}", self.echo, methods=["GET", "POST", "DELETE"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), host=LOOPBACK, port=self.port, log_config=None, lifespan="off"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_until(lambda: server.started, timeout_seconds=10)
        try:
            yield
        finally:
            self.release.set()
            server.should_exit = server.force_exit = True
            thread.join(10)


@dataclass(frozen=True)
class GatewayRig:
    """A running Envoy: its doors, what it leads to, and the authority of its certificates.

    The doors `external` and `impatient` take HTTP, and the latter waits for no one; `secure` takes TLS, and
    `internal` asks for a certificate. The service `crm` has two processes; `mortal` ends one of them. `tried`
    answers for the MES those whose key begins with `mt_`.
    """

    gateway: Gateway
    folder: Path
    authority: Authority
    upstream: Upstreaming
    others: tuple[Upstreaming, Upstreaming]
    tried: Upstreaming
    mortal: ExitStack

    @property
    def running(self) -> RunningGateway:
        return RunningGateway(self.gateway, self.folder)

    def port(self, door: str = "external") -> int:
        return self.gateway.section.doors[door].port

    def client(self, door: str = "external", *, host: str = HOST, **options: Any) -> httpx.Client:
        scheme = "https" if self.gateway.section.doors[door].certificate else "http"
        return httpx.Client(
            base_url=f"{scheme}://{LOOPBACK}:{self.port(door)}",
            headers={"Host": host},
            trust_env=False,
            timeout=20,
            **options,
        )

    def with_routes(self, *routes: GatewayRoute) -> Gateway:
        """Return the same gateway with other routes of the MES at all of its doors."""
        doors = (replace(door, routes=(*routes, *OTHER_ROUTES)) for door in self.gateway.doors)
        return replace(self.gateway, doors=tuple(doors))

    def connect(self, door: str = "external", *, receives: int | None = None) -> socket.socket:
        """Connect without a client that knows better than to send what a test sends."""
        raw = socket.socket()
        if receives is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        raw.settimeout(15)
        raw.connect((LOOPBACK, self.port(door)))
        return raw

    def stat(self, name: str) -> int:
        """Return one of Envoy's own figures; 0 where it counts it not yet."""
        return int(self.running._stats().get(name, "0"))


def gateway_on(
    folder: Path, mes: Sequence[Upstreaming], crm: Sequence[Upstreaming], tried: Upstreaming
) -> Gateway:
    """Make a gateway in front of servers."""
    names = {"mes": (HOST,), "crm": (OTHER_HOST,)}
    tls = {"certificate": "door.pem", "key": "door.key"}
    short = dict.fromkeys(("header_seconds", "request_seconds", "idle_seconds"), IMPATIENT_SECONDS)
    doors: Mapping[str, dict[str, Any]] = {
        "external": {},
        "impatient": short,
        "secure": tls,
        "internal": {**tls, "clients_ca": "ca.pem"},
    }
    section = GatewaySection.model_validate(
        {
            "admin_port": free_port(),
            "drain_seconds": 2.0,
            "source": SOURCE,
            "sandbox": {"prefix": "mt_", "processes": {"mes": [f"{LOOPBACK}:{tried.port}"]}},
            "doors": {
                name: {"host": LOOPBACK, "port": free_port(), "names": names, **door}
                for name, door in doors.items()
            },
        }
    )
    return Gateway(
        section=section,
        doors=tuple(
            GatewayDoor(name=name, section=door, folder=folder, routes=(*ROUTES, *OTHER_ROUTES))
            for name, door in section.doors.items()
        ),
        upstreams=(
            *(
                Upstream(service=name, processes=tuple((LOOPBACK, each.port) for each in servers))
                for name, servers in (("crm", crm), ("mes", mes))
            ),
            Upstream(service="mes", processes=((LOOPBACK, tried.port),), is_sandbox=True),
        ),
    )


def one_door(
    folder: Path, name: str, routes: Sequence[GatewayRoute], *, service: int, tried: int | None = None
) -> Gateway:
    """Make a gateway of one door that takes TLS, in front of the MES at a port; its certificates as well.

    At the port `tried` is the MES of a sandbox.
    """
    make_authority(folder, days=30).issue("door", names=[HOST, LOOPBACK])
    door = {"host": LOOPBACK, "port": free_port(), "names": {"mes": (HOST,)}}
    door |= {"certificate": "door.pem", "key": "door.key"}
    sandbox = {"prefix": "mt_", "processes": {"mes": [f"{LOOPBACK}:{tried}"]}}
    section = GatewaySection.model_validate(
        {"admin_port": free_port(), "source": SOURCE, "doors": {name: door}}
        | ({} if tried is None else {"sandbox": sandbox})
    )
    tries = (
        [] if tried is None else [Upstream(service="mes", processes=((LOOPBACK, tried),), is_sandbox=True)]
    )
    return Gateway(
        section=section,
        doors=(GatewayDoor(name=name, section=section.doors[name], folder=folder, routes=tuple(routes)),),
        upstreams=(Upstream(service="mes", processes=((LOOPBACK, service),)), *tries),
    )


@contextmanager
def run_envoy(gateway: Gateway, folder: Path) -> Iterator[None]:
    """Run Envoy as `mesctl up` does."""
    folder.mkdir(exist_ok=True)
    for name, text in envoy.files_of(gateway, folder).items():
        (folder / name).write_text(text)
    command = command_of(find_envoy(), folder, admin_port=gateway.section.admin_port)
    with (folder / "envoy.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        ports = [door.port for door in gateway.section.doors.values()]
        running = RunningGateway(gateway, folder)
        wait_until(lambda: process.poll() is not None or not any(map(is_free, ports)), timeout_seconds=20)
        assert process.poll() is None, (folder / "envoy.log").read_text()
        assert wait_until(lambda: not running.findings(), timeout_seconds=20), running.findings()
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def run_gateway(folder: Path) -> Iterator[GatewayRig]:
    """Run Envoy and three servers behind it."""
    authority = make_authority(folder, days=30)
    authority.issue("door", names=[HOST, LOOPBACK])
    authority.issue("crm", names=["crm.internal"])
    upstream, stays, goes, tried = Upstreaming(), Upstreaming(), Upstreaming(), Upstreaming()
    gateway = gateway_on(folder, [upstream], [stays, goes], tried)
    with ExitStack() as opened:
        opened.enter_context(upstream.running())
        opened.enter_context(stays.running())
        opened.enter_context(tried.running())
        mortal = opened.enter_context(ExitStack())
        mortal.enter_context(goes.running())
        opened.enter_context(run_envoy(gateway, folder / "gateway"))
        yield GatewayRig(gateway, folder / "gateway", authority, upstream, (stays, goes), tried, mortal)
