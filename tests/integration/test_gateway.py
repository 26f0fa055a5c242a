"""A real Envoy on the files of `mesctl gateway`, in front of real servers."""

import asyncio
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ops.gateway import envoy
from ops.gateway.certificates import make_authority
from ops.gateway.model import Gateway, GatewayDoor, GatewayRoute, GatewaySection, Upstream
from ops.gateway.service import (
    FilesRefused,
    RunningGateway,
    certificate_findings,
    find_envoy,
    validate,
)
from ops.ports import LOOPBACK, PortPicker, is_free
from ops.waiting import wait_until

HOST = "mes.api.localhost"
SOURCE = "127.0.0.2"
KIB = 1024
ROUTES = (
    GatewayRoute(path="/v1/orders/{order_id}", methods=("GET",), service="mes", is_repeatable=True),
    GatewayRoute(path="/v1/orders", methods=("POST",), service="mes", body_bytes=KIB),
    GatewayRoute(path="/v1/models", methods=("POST",), service="mes", body_bytes=20 * KIB * KIB),
    GatewayRoute(path="/v1/slow", methods=("GET",), service="mes", seconds=20),
    GatewayRoute(path="/v1/hangs", methods=("GET",), service="mes", seconds=0.5),
    GatewayRoute(path="/v1/events", methods=("GET",), service="mes", is_stream=True),
)


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
            Route("/v1/events", self.events),
            Route("/{path:path}", self.echo, methods=["GET", "POST", "DELETE"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), host=LOOPBACK, port=self.port, log_level="error", lifespan="off"
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


@pytest.fixture
def upstream() -> Iterator[Upstreaming]:
    made = Upstreaming()
    with made.running():
        yield made


def gateway_on(
    folder: Path, upstreams: Sequence[Upstreaming], routes: Sequence[GatewayRoute] = ROUTES, **door: object
) -> Gateway:
    section = GatewaySection.model_validate(
        {
            "admin_port": free_port(),
            "drain_seconds": 2.0,
            "source": SOURCE,
            "doors": {"external": {"host": LOOPBACK, "port": free_port(), "names": {"mes": (HOST,)}, **door}},
        }
    )
    return Gateway(
        section=section,
        doors=(
            GatewayDoor(
                name="external", section=section.doors["external"], folder=folder, routes=tuple(routes)
            ),
        ),
        upstreams=(Upstream(service="mes", processes=tuple((LOOPBACK, each.port) for each in upstreams)),),
    )


def with_routes(gateway: Gateway, *routes: GatewayRoute) -> Gateway:
    return replace(gateway, doors=tuple(replace(door, routes=routes) for door in gateway.doors))


@contextmanager
def envoy_on(gateway: Gateway, folder: Path) -> Iterator[RunningGateway]:
    folder.mkdir(exist_ok=True)
    for name, text in envoy.files_of(gateway, folder).items():
        (folder / name).write_text(text)
    command = [str(find_envoy()), "-c", str(folder / envoy.BOOTSTRAP), "--concurrency", "1", "-l", "warning"]
    with (folder / "envoy.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        port = gateway.section.doors["external"].port
        running = RunningGateway(gateway, folder)
        wait_until(lambda: process.poll() is not None or not is_free(port), timeout_seconds=20)
        assert process.poll() is None, (folder / "envoy.log").read_text()
        wait_until(lambda: not running.findings(), timeout_seconds=20)
        yield running
    finally:
        process.kill()
        process.wait()


def client_of(gateway: Gateway, **options: object) -> httpx.Client:
    door = gateway.section.doors["external"]
    scheme = "https" if door.certificate else "http"
    return httpx.Client(
        base_url=f"{scheme}://{LOOPBACK}:{door.port}",
        headers={"Host": HOST},
        trust_env=False,
        timeout=20,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture
def gateway(tmp_path: Path, upstream: Upstreaming) -> Iterator[Gateway]:
    made = gateway_on(tmp_path, [upstream])
    with envoy_on(made, tmp_path / "gateway"):
        yield made


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with client_of(gateway) as made:
        yield made


def test_a_route_leads_to_its_service(client: httpx.Client) -> None:
    answer = client.get("/v1/orders/17?cursor=a")
    assert answer.status_code == 200
    assert answer.json()["path"] == "/v1/orders/17"
    assert answer.json()["headers"]["x-gateway-door"] == "external"
    assert answer.json()["peer"] == SOURCE  # by which the service knows the gateway
    assert client.head("/v1/orders/17").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "host"),
    [
        ("GET", "/v1/orders", HOST),
        ("DELETE", "/v1/orders/17", HOST),
        ("GET", "/v1/orders/17/take", HOST),
        ("GET", "/v1/orders/", HOST),
        ("GET", "/metrics", HOST),
        ("GET", "/readyz", HOST),
        ("GET", "/v1/orders/17", "internal.mes.api.localhost"),
    ],
)
def test_what_no_route_names_is_not_there(
    client: httpx.Client, upstream: Upstreaming, method: str, path: str, host: str
) -> None:
    answer = client.request(method, path, headers={"Host": host})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404
    assert upstream.seen == []


def test_what_a_client_says_of_its_way_is_not_believed(client: httpx.Client) -> None:
    lies = {
        "X-Gateway-Door": "internal",
        "X-Forwarded-For": "10.0.0.1",
        "X-Forwarded-Client-Cert": "URI=spiffe://crm",
        "X-Envoy-Original-Path": "/v1/other",
        "X-Envoy-Upstream-Rq-Timeout-Ms": "1",
    }
    headers = client.get("/v1/orders/17", headers=lies).json()["headers"]
    assert headers["x-gateway-door"] == "external"
    # The last one is Envoy's own; of a client on loopback it names the address of this host.
    assert headers["x-forwarded-for"].split(",")[-1].strip() != lies["X-Forwarded-For"]
    assert "x-forwarded-client-cert" not in headers
    assert "x-envoy-original-path" not in headers


def test_a_body_is_limited_before_the_service_sees_it(client: httpx.Client, upstream: Upstreaming) -> None:
    assert client.post("/v1/orders", content=b"x" * KIB).json()["bytes"] == KIB
    assert client.post("/v1/orders", content=b"x" * (KIB + 1)).status_code == 413
    assert client.post("/v1/orders", content=iter([b"x" * KIB] * 4)).status_code == 413
    assert len(upstream.seen) == 1
    file = b"x" * (3 * KIB * KIB)
    assert client.post("/v1/models", content=file).json()["bytes"] == len(file)


@pytest.mark.parametrize(
    "request_",
    [
        "POST /v1/orders HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /v1/orders/..%2f..%2fadmin HTTP/1.1\r\nHost: {host}\r\n\r\n",
        "GET /v1/orders/17 HTTP/1.1\r\nHost: {host}\r\nX_Gateway_Door: internal\r\n\r\n",
        "GET /v1/orders/17 HTTP/1.1\r\nHost: {host}\r\nX-A: b\r\n\x00\r\n\r\n",
        "GET /v1/orders/17 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "GET /v1/orders/17 HTTP/1.1\r\nHost: {host}\r\nX-Long: " + "a" * 40_000 + "\r\n\r\n",
    ],
)
def test_what_two_readers_would_read_in_two_ways_is_refused(
    gateway: Gateway, upstream: Upstreaming, request_: str
) -> None:
    port = gateway.section.doors["external"].port
    with closing(socket.create_connection((LOOPBACK, port), timeout=10)) as raw:
        raw.sendall(request_.format(host=HOST).encode())
        status = raw.recv(100).split(b" ")[1]
    assert status in (b"400", b"431"), status
    assert upstream.seen == []


def test_a_slow_answer_ends_by_the_time_of_its_route(client: httpx.Client) -> None:
    started = time.monotonic()
    assert client.get("/v1/hangs").status_code == 504
    assert time.monotonic() - started < 5


def test_a_stream_of_events_has_no_end_of_its_own(client: httpx.Client, upstream: Upstreaming) -> None:
    with client.stream("GET", "/v1/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 0"
        upstream.release.set()
        assert "data: 1" in list(lines)


def test_each_request_has_a_line_in_the_log(client: httpx.Client, tmp_path: Path) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client.get("/v1/orders/17?key=secret", headers={"traceparent": trace})
    log = tmp_path / "gateway" / envoy.ACCESS_LOG
    wait_until(lambda: log.exists() and "/v1/orders/17" in log.read_text(), timeout_seconds=15)
    assert "secret" not in log.read_text()
    line = next(each for each in map(json.loads, log.read_text().splitlines()) if each["url.path"] != "/")
    assert line["gateway.door"] == "external"
    assert line["traceparent"] == trace
    assert line["http.response.status_code"] == 200


def test_a_new_route_is_in_force_at_once_and_a_request_under_way_ends_as_it_began(
    gateway: Gateway, client: httpx.Client, upstream: Upstreaming, tmp_path: Path
) -> None:
    folder = tmp_path / "gateway"
    answers: list[int] = []

    def ask() -> None:
        with client_of(gateway) as other:
            answers.append(other.get("/v1/slow").status_code)

    slow = threading.Thread(target=ask)
    slow.start()
    wait_until(lambda: bool(upstream.seen), timeout_seconds=10)
    added = with_routes(gateway, *ROUTES, GatewayRoute(path="/v1/usage", methods=("GET",), service="mes"))
    assert RunningGateway(added, folder).reload() == [envoy.LISTENERS]
    wait_until(lambda: client.get("/v1/usage").status_code == 200, timeout_seconds=5)
    upstream.release.set()
    slow.join(20)
    assert answers == [200]
    assert RunningGateway(added, folder).reload() == []


def test_what_envoy_refuses_leaves_the_old_files_in_force(
    gateway: Gateway, client: httpx.Client, tmp_path: Path
) -> None:
    folder = tmp_path / "gateway"
    before = (folder / envoy.LISTENERS).read_text()
    bad = with_routes(gateway, replace(ROUTES[0], seconds=10.0**12))
    assert validate(bad, folder, program=find_envoy())
    with pytest.raises(FilesRefused):
        RunningGateway(bad, folder).reload()
    assert (folder / envoy.LISTENERS).read_text() == before
    assert client.get("/v1/orders/17").status_code == 200
    assert RunningGateway(gateway, folder).findings() == []


def test_requests_go_on_when_a_process_of_the_service_dies(tmp_path: Path, upstream: Upstreaming) -> None:
    other = Upstreaming()
    gateway = gateway_on(tmp_path, [upstream, other])
    with (
        ExitStack() as alive,
        ExitStack() as opened,
    ):
        alive.enter_context(other.running())
        watched = opened.enter_context(envoy_on(gateway, tmp_path / "gateway"))
        client = opened.enter_context(client_of(gateway))
        ports = {client.get(f"/v1/orders/{number}").json()["port"] for number in range(40)}
        assert ports == {upstream.port, other.port}
        alive.close()
        answers = [client.get(f"/v1/orders/{number}") for number in range(40)]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["port"] for answer in answers} == {upstream.port}
        wait_until(lambda: bool(watched.findings()), timeout_seconds=15)
        assert watched.findings()[0].finding == "1 of 2 processes are ready"


def test_the_inner_door_asks_for_a_certificate(tmp_path: Path, upstream: Upstreaming) -> None:
    authority = make_authority(tmp_path, days=30)
    authority.issue("door", names=[HOST])
    authority.issue("crm", names=["crm.internal"])
    gateway = gateway_on(tmp_path, [upstream], certificate="door.pem", key="door.key", clients_ca="ca.pem")
    with envoy_on(gateway, tmp_path / "gateway"):
        trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        trusted.check_hostname = False
        with client_of(gateway, verify=trusted) as stranger, pytest.raises(httpx.TransportError):
            stranger.get("/v1/orders/17")
        trusted.load_cert_chain(tmp_path / "crm.pem", tmp_path / "crm.key")
        with client_of(gateway, verify=trusted) as crm:
            headers = crm.get("/v1/orders/17").json()["headers"]
        assert "DNS=crm.internal" in headers["x-forwarded-client-cert"]
    assert certificate_findings(gateway, now=datetime.now(UTC)) == []
    [late, *_] = certificate_findings(gateway, now=datetime.now(UTC) + timedelta(days=20))
    assert "door.pem ends on" in late.finding
