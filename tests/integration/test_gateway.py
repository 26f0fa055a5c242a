"""A real Envoy on the files of `mesctl gateway`, in front of real servers: one for all tests of a worker."""

import asyncio
import gzip
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from cryptography import x509

from app.console.gateway import DOORS
from ops.gateway import envoy
from ops.gateway.model import GatewayRoute
from ops.gateway.rotation import rotate
from ops.gateway.service import FilesRefused, RunningGateway, certificate_findings, find_envoy, validate
from ops.ports import LOOPBACK
from ops.waiting import wait_until
from readreplica.token import CausalToken
from sharding.topology import Topology
from tests.callers import by_operator
from tests.integration.board_rig import with_board
from tests.integration.gateway_rig import (
    HOST,
    IMPATIENT_SECONDS,
    KIB,
    LARGE,
    OTHER_HOST,
    ROUTES,
    SOURCE,
    GatewayRig,
    Upstreaming,
    free_port,
    run_gateway,
)
from tests.integration.pages_rig import Pages
from tests.integration.services_rig import Services, fast_settings


@pytest.fixture(scope="session")
def running_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayRig]:
    with run_gateway(tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.fixture
def rig(running_gateway: GatewayRig) -> Iterator[GatewayRig]:
    """Give the gateway as it was made, whatever the tests before have done to it."""
    running_gateway.upstream.seen.clear()
    running_gateway.upstream.release.clear()
    yield running_gateway
    running_gateway.upstream.release.set()
    running_gateway.running.reload()


@pytest.fixture
def upstream(rig: GatewayRig) -> Upstreaming:
    return rig.upstream


@pytest.fixture
def client(rig: GatewayRig) -> Iterator[httpx.Client]:
    with rig.client() as made:
        yield made


def test_a_route_leads_to_its_service(client: httpx.Client) -> None:
    answer = client.get("/v1/orders/17?cursor=a")
    assert answer.status_code == 200
    assert answer.json()["path"] == "/v1/orders/17"
    assert answer.json()["headers"]["x-gateway-door"] == "external"
    assert answer.json()["peer"] == SOURCE  # by which the service knows the gateway
    assert answer.json()["peer"] == SOURCE  # by which the service knows the gateway
    assert client.head("/v1/orders/17").status_code == 200


@pytest.mark.parametrize(
    ("headers", "is_tried"),
    [
        ([], False),
        ([("Authorization", "Bearer mk_abc_def")], False),
        ([("Authorization", "Bearer mt_abc_def")], True),
        ([("authorization", "bearer mt_abc_def")], True),
        ([("Authorization", "Bearer  mt_abc_def")], False),  # no service takes two spaces
        ([("Authorization", "Bearer mk_mt_abc")], False),
        ([("Authorization", "Bearer xmt_abc")], False),
        ([("Cookie", "a=Bearer mt_abc")], False),
        ([("Authorization", "Bearer mk_a"), ("Authorization", "Bearer mt_a")], False),
    ],
)
def test_a_key_for_trying_out_leads_to_the_sandbox_alone(
    rig: GatewayRig, client: httpx.Client, headers: list[tuple[str, str]], is_tried: bool
) -> None:
    answer = client.get("/v1/orders/17", headers=headers)
    assert answer.json()["port"] == (rig.tried if is_tried else rig.upstream).port
    assert answer.json()["headers"]["x-gateway-door"] == "external"
    posted = client.post("/v1/orders", headers=headers, content=b"{}")
    assert posted.json()["port"] == answer.json()["port"]
    # What no route names is not there for it either, and its bodies have the same bounds.
    assert client.get("/readyz", headers=headers).status_code == 404
    assert client.post("/v1/orders", headers=headers, content=b"x" * 2 * KIB).status_code == 413


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
        ("GET", "/v1/orders/17", f"{HOST}.example.com"),
        ("GET", "/v1/usage", OTHER_HOST),
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
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "internal.mes.api.localhost",
        "X-Forwarded-Client-Cert": "URI=spiffe://crm",
        "X-Envoy-Original-Path": "/v1/other",
        "X-Envoy-Upstream-Rq-Timeout-Ms": "1",
        "X-Original-Url": "/metrics",
        "X-Real-Ip": "10.0.0.1",
        "X-Request-Id": "forged",
        "Forwarded": "for=10.0.0.1;host=internal",
    }
    headers = client.get("/v1/orders/17", headers=lies).json()["headers"]
    assert headers["x-gateway-door"] == "external"
    # The last one is Envoy's own; of a client on loopback it names the address of this host.
    assert headers["x-forwarded-for"].split(",")[-1].strip() != lies["X-Forwarded-For"]
    assert headers["x-forwarded-proto"] == "http"
    assert headers["host"] == HOST
    gone = {"x-forwarded-host", "x-forwarded-client-cert", "x-envoy-original-path", "x-original-url"}
    assert headers.keys().isdisjoint({*gone, "x-real-ip", "forwarded"})
    assert headers["x-request-id"] != lies["X-Request-Id"]


def test_a_body_is_limited_before_the_service_sees_it(client: httpx.Client, upstream: Upstreaming) -> None:
    assert client.post("/v1/orders", content=b"x" * KIB).json()["bytes"] == KIB
    assert client.post("/v1/orders", content=b"x" * (KIB + 1)).status_code == 413
    assert client.post("/v1/orders", content=iter([b"x" * KIB] * 4)).status_code == 413
    assert len(upstream.seen) == 1
    file = b"x" * (3 * KIB * KIB)
    assert client.post("/v1/models", content=file).json()["bytes"] == len(file)


def test_a_body_that_is_compressed_is_refused(client: httpx.Client, upstream: Upstreaming) -> None:
    bomb = gzip.compress(bytes(64 * KIB))
    for coding in ("gzip", "GZIP", "br", "identity, gzip"):
        answer = client.post("/v1/orders", content=bomb, headers={"Content-Encoding": coding})
        assert answer.status_code == 415
        assert answer.headers["accept-encoding"] == "identity"
    assert upstream.seen == []
    assert client.post("/v1/orders", content=b"x", headers={"Content-Encoding": "identity"}).is_success


@pytest.mark.parametrize(
    "request_",
    [
        "POST /v1/orders HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/orders HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /v1/orders HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "GET /v1/orders/..%2f..%2fadmin HTTP/1.1\r\nHost: {host}\r\n\r\n",
        "GET /v1/orders/17 HTTP/1.1\r\nHost: {host}\r\nX_Gateway_Door: internal\r\n\r\n",
        "GET /v1/orders/17 HTTP/1.1\r\nHost: {host}\r\nX-A: b\r\n\x00\r\n\r\n",
        "GET /v1/orders/17 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "GET /v1/orders/17 HTTP/1.1\r\nHost: {host}\r\nHost: internal\r\n\r\n",
        "GET /v1/orders/17 HTTP/1.1\r\nHost: {host}\r\nX-Long: " + "a" * 40_000 + "\r\n\r\n",
        "GET /v1/orders/17 HTTP/1.1\r\nHost: {host}\r\n" + "X-Many: a\r\n" * 110 + "\r\n",
    ],
)
def test_what_two_readers_would_read_in_two_ways_is_refused(
    rig: GatewayRig, upstream: Upstreaming, request_: str
) -> None:
    with closing(rig.connect()) as raw:
        raw.sendall(request_.format(host=HOST).encode())
        status = raw.recv(100).split(b" ")[1]
    assert status in (b"400", b"404", b"431", b"501"), status
    assert upstream.seen == []


def test_half_a_line_end_ends_no_line(rig: GatewayRig, upstream: Upstreaming) -> None:
    with closing(rig.connect()) as raw:
        lie = f"GET /v1/orders/17 HTTP/1.1\r\nHost: {HOST}\r\nX-A: b\rX-Gateway-Door: internal\r\n\r\n"
        raw.sendall(lie.encode())
        assert raw.recv(100)
    assert [each.headers.getlist("x-gateway-door") for each in upstream.seen] == [["external"]]
    assert [each.headers["x-a"] for each in upstream.seen] == ["bX-Gateway-Door: internal"]


@pytest.mark.parametrize(
    "path", ["/v1/orders/../../metrics", "/v1/orders/%2e%2e/%2e%2e/metrics", "//metrics", "/v1/./orders/"]
)
def test_a_path_that_climbs_leads_nowhere(rig: GatewayRig, upstream: Upstreaming, path: str) -> None:
    with closing(rig.connect()) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert raw.recv(100).split(b" ")[1] in (b"400", b"404")
    assert upstream.seen == []


def test_a_slow_answer_ends_by_the_time_of_its_route(client: httpx.Client) -> None:
    started = time.monotonic()
    assert client.get("/v1/hangs").status_code == 504
    assert time.monotonic() - started < 5


def answer_of(raw: socket.socket) -> bytes:
    """Read until the other side ends the connection."""
    parts = []
    try:
        while part := raw.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize(
    "begun",
    [
        f"GET /v1/orders/17 HTTP/1.1\r\nHost: {HOST}\r\n",
        f"POST /v1/orders HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\n",
        f"POST /v1/models HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\n",
    ],
    ids=["header", "small body", "body of a file"],
)
def test_a_client_that_sends_a_byte_now_and_then_is_let_go(rig: GatewayRig, begun: str) -> None:
    """Never idle, and never done: the time for the whole request ends it."""
    with closing(rig.connect("impatient")) as raw:
        raw.sendall(begun.encode())
        raw.settimeout(0.1)
        answer, deadline = b"", time.monotonic() + 15
        while not answer and time.monotonic() < deadline:
            try:
                raw.send(b"x")
                answer = raw.recv(100)
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        assert time.monotonic() < deadline
        assert answer.split(b" ")[1:2] in ([b"408"], [])


def test_a_client_that_does_not_read_is_let_go(rig: GatewayRig) -> None:
    with closing(rig.connect("impatient", receives=4096)) as raw:
        raw.sendall(f"GET /v1/large HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        ended = "http.impatient.downstream_rq_idle_timeout"
        before = rig.stat(ended)
        assert wait_until(lambda: rig.stat(ended) > before, timeout_seconds=15)
        assert len(answer_of(raw)) < len(LARGE)


def test_a_stream_of_events_has_no_end_of_its_own(rig: GatewayRig, upstream: Upstreaming) -> None:
    with rig.client("impatient") as client, client.stream("GET", "/v1/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 0"
        threading.Timer(1.0, upstream.release.set).start()  # longer than that door's patience
        assert "data: 1" in list(lines)


async def test_a_board_stays_live_through_the_gateway(rig: GatewayRig, module_topology: Topology) -> None:
    """Beyond the door's patience, behind a reload of Envoy, and behind the death of the board's process."""
    board_port = free_port()
    topology = with_board(module_topology, port=board_port)
    settings = fast_settings(topology).model_copy(update={"max_streams": 2})
    unasked: Any = None
    board = Pages(topology, settings, Services(unasked, unasked, unasked, unasked))
    streams = [replace(route, service="mes") for route in DOORS["staff"] if route.is_stream]
    assert {"/stream", "/orders/{order_id}/stream", "/v1/changes"} == {route.path for route in streams}
    upstreams = [
        replace(each, processes=((LOOPBACK, board_port),)) if each.service == "mes" else each
        for each in rig.gateway.upstreams
    ]
    of_board = replace(rig.with_routes(*streams), upstreams=tuple(upstreams))
    await board.start("board")
    try:
        await asyncio.to_thread(RunningGateway(of_board, rig.folder).reload)
        async with asyncio.timeout(60), follow(rig, board.board.live.position) as follower:
            await follower.hears(board, 6)
            before = follower.connections
            await asyncio.sleep(3 * IMPATIENT_SECONDS)
            await follower.hears(board, 7)
            assert follower.connections == before
            more = (*streams, GatewayRoute(path="/v1/usage", methods=("GET",), service="mes"))
            reloaded = replace(of_board, doors=rig.with_routes(*more).doors)
            assert await asyncio.to_thread(RunningGateway(reloaded, rig.folder).reload) == [envoy.LISTENERS]
            await follower.hears(board, 8)
            await follower.hears(board, 9)
            before = follower.connections
            await board.stop("board")
            await board.start("board")
            await follower.hears(board, 10)
            assert follower.connections > before
            async with follow(rig, "") as second:
                await second.connects(1)
                async with rig_client(rig) as third:
                    assert (await third.get("/v1/changes", headers=by_operator())).status_code == 429
    finally:
        await board.stop("board")


@dataclass
class Follower:
    """A browser that follows the changes of a board, and comes again behind the last that it has."""

    client: httpx.AsyncClient
    last: str
    connections: int = 0
    heard: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    joined: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        while True:
            with suppress(httpx.HTTPError):
                headers = {**by_operator(), "Last-Event-ID": self.last}
                async with self.client.stream("GET", "/v1/changes", headers=headers) as answer:
                    if answer.status_code == 200:
                        await self._read(answer)
            await asyncio.sleep(0.05)

    async def _read(self, answer: httpx.Response) -> None:
        self.connections += 1
        self.joined.set()
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                self.last = value
            elif name == "data" and value:
                self.heard.put_nowait(int(json.loads(value)["order_id"]))

    async def hears(self, board: Pages, order_id: int) -> None:
        """Have an order change, and wait until this has heard of it, and of no other."""
        await board.board.live.publish(order_id, None, CausalToken())
        assert await self.heard.get() == order_id

    async def connects(self, times: int) -> None:
        """Wait until this has connected so many times."""
        while self.connections < times:
            self.joined.clear()
            await self.joined.wait()


def rig_client(rig: GatewayRig) -> httpx.AsyncClient:
    url = f"http://{LOOPBACK}:{rig.port('impatient')}"
    return httpx.AsyncClient(base_url=url, headers={"Host": HOST}, trust_env=False, timeout=None)


@asynccontextmanager
async def follow(rig: GatewayRig, last: str) -> AsyncIterator[Follower]:
    async with rig_client(rig) as client:
        follower = Follower(client, last)
        following = asyncio.create_task(follower.run())
        try:
            yield follower
        finally:
            following.cancel()
            await asyncio.wait([following])


# HTTP/2 by hand: no client sends these.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY, _END = 1, 3, 4, 7, 5


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content


def literal(name: str, value: bytes) -> bytes:
    """Return a header by HPACK (RFC 7541, 6.2.2), without its table and without Huffman."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value


def headers_of(path: str, *more: tuple[str, bytes]) -> bytes:
    fields = (
        (":method", b"GET"),
        (":scheme", b"http"),
        (":path", path.encode()),
        (":authority", HOST.encode()),
        *more,
    )
    return b"".join(literal(name, value) for name, value in fields)


def frames_of(answer: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Return kind, stream and content of each frame."""
    while len(answer) >= 9:
        length = int.from_bytes(answer[:3])
        yield answer[3], int.from_bytes(answer[5:9]), answer[9 : 9 + length]
        answer = answer[9 + length :]


def test_a_flood_of_resets_costs_its_sender_the_connection(rig: GatewayRig, client: httpx.Client) -> None:
    """HTTP/2 rapid reset (CVE-2023-44487): a stream is begun and reset, so that it counts as none."""
    fields = headers_of("/v1/slow")
    with closing(rig.connect()) as raw:
        raw.sendall(_PREFACE + frame(_SETTINGS, 0, 0))
        sent, is_open = 0, True
        while is_open and sent < 20_000:
            numbers = range(2 * sent + 1, 2 * (sent + 50) + 1, 2)
            burst = b"".join(
                frame(_HEADERS, _END, number, fields) + frame(_RST_STREAM, 0, number, bytes(4))
                for number in numbers
            )
            try:
                raw.sendall(burst)
            except OSError:
                is_open = False
            sent += 50
            assert client.get("/v1/orders/17").status_code == 200
        assert not is_open
        assert sent < 5_000


def test_a_header_with_a_line_end_in_it_is_refused(rig: GatewayRig, upstream: Upstreaming) -> None:
    split = ("x-a", b"b\r\nX-Gateway-Door: internal")
    with closing(rig.connect()) as raw:
        raw.sendall(_PREFACE + frame(_SETTINGS, 0, 0))
        raw.sendall(frame(_HEADERS, _END, 1, headers_of("/v1/orders/17", split)))
        kinds: list[int] = []
        while not {_RST_STREAM, _GOAWAY} & set(kinds) and (part := raw.recv(65536)):
            kinds += [kind for kind, _, _ in frames_of(part)]
            assert _HEADERS not in kinds
    assert upstream.seen == []


def line_of(rig: GatewayRig, request_id: str) -> dict[str, object]:
    """Return the line of a request in the log, once it is there."""
    log = rig.folder / envoy.ACCESS_LOG
    assert wait_until(lambda: log.exists() and request_id in log.read_text(), timeout_seconds=20)
    lines = map(json.loads, log.read_text().splitlines())
    found: dict[str, object] = next(each for each in lines if each["http.request.id"] == request_id)
    return found


def test_each_request_has_a_line_in_the_log(rig: GatewayRig, client: httpx.Client) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = client.get("/v1/orders/17?key=secret", headers={"traceparent": trace})
    request_id = answer.headers["x-request-id"]
    assert answer.json()["headers"]["x-request-id"] == request_id
    assert answer.json()["headers"]["traceparent"] == trace
    line = line_of(rig, request_id)
    assert line["gateway.door"] == "external"
    assert line["traceparent"] == trace
    assert line["http.response.status_code"] == 200
    assert "secret" not in (rig.folder / envoy.ACCESS_LOG).read_text()


def test_the_log_begins_anew_and_no_line_is_lost(rig: GatewayRig, client: httpx.Client) -> None:
    log, port = rig.folder / envoy.ACCESS_LOG, rig.gateway.section.admin_port
    before = client.get("/v1/orders/17").headers["x-request-id"]
    line_of(rig, before)
    assert not rotate(log, port)
    assert rotate(log, port, max_bytes=100, kept=2)
    assert before in log.with_name("access.log.1").read_text()
    after = client.get("/v1/orders/17").headers["x-request-id"]
    assert line_of(rig, after)
    assert before not in log.read_text()
    # And once more, so that the oldest goes.
    for _ in range(2):
        line_of(rig, client.get("/v1/orders/17").headers["x-request-id"])
        assert rotate(log, port, max_bytes=100, kept=2)
    names = {each.name for each in rig.folder.glob("access.log.*")}
    assert names == {"access.log.1", "access.log.2"}
    assert before not in "".join((rig.folder / name).read_text() for name in names)


def test_a_new_route_is_in_force_at_once_and_a_request_under_way_ends_as_it_began(
    rig: GatewayRig, client: httpx.Client, upstream: Upstreaming
) -> None:
    answers: list[int] = []

    def ask() -> None:
        with rig.client() as other:
            answers.append(other.get("/v1/slow").status_code)

    slow = threading.Thread(target=ask)
    slow.start()
    wait_until(lambda: bool(upstream.seen), timeout_seconds=10)
    added = rig.with_routes(*ROUTES, GatewayRoute(path="/v1/usage", methods=("GET",), service="mes"))
    assert RunningGateway(added, rig.folder).reload() == [envoy.LISTENERS]
    wait_until(lambda: client.get("/v1/usage").status_code == 200, timeout_seconds=5)
    upstream.release.set()
    slow.join(20)
    assert answers == [200]
    assert RunningGateway(added, rig.folder).reload() == []


def test_no_request_fails_while_routes_change(rig: GatewayRig) -> None:
    """Clients that keep their connection are answered all the same while its door drains."""
    failed: list[object] = []
    over = threading.Event()
    counted = [0, 0]

    def ask(place: int) -> None:
        with rig.client() as other:
            while not over.is_set():
                try:
                    answer = other.get("/v1/orders/17")
                except httpx.TransportError as error:
                    failed.append(error)
                    continue
                counted[place] += 1
                if answer.status_code != 200:
                    failed.append(answer)

    clients = [threading.Thread(target=ask, args=(place,)) for place in range(2)]
    for each in clients:
        each.start()
    for number in range(4):
        extra = GatewayRoute(path=f"/v1/extra{number}", methods=("GET",), service="mes")
        RunningGateway(rig.with_routes(*ROUTES, extra), rig.folder).reload()
        assert wait_until(partial(lambda seen: min(counted) > seen + 5, min(counted)), timeout_seconds=20)
    over.set()
    for each in clients:
        each.join(20)
    assert failed == []


def test_what_envoy_refuses_leaves_the_old_files_in_force(rig: GatewayRig, client: httpx.Client) -> None:
    before = {name: (rig.folder / name).read_text() for name in (envoy.LISTENERS, envoy.CLUSTERS)}
    bad = rig.with_routes(replace(ROUTES[0], seconds=10.0**12))
    assert validate(bad, rig.folder, program=find_envoy())
    with pytest.raises(FilesRefused):
        RunningGateway(bad, rig.folder).reload()
    assert {name: (rig.folder / name).read_text() for name in before} == before
    assert client.get("/v1/orders/17").status_code == 200
    assert rig.running.findings() == []


def serial_at(rig: GatewayRig, door: str) -> int:
    """Return the serial number of the certificate that a door shows."""
    trusted = ssl.create_default_context(cafile=str(rig.authority.folder / "ca.pem"))
    with (
        closing(socket.create_connection((LOOPBACK, rig.port(door)), timeout=10)) as raw,
        trusted.wrap_socket(raw, server_hostname=HOST) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def test_a_certificate_that_is_renewed_is_shown_without_a_reload(rig: GatewayRig) -> None:
    before = serial_at(rig, "secure")
    rig.authority.issue("door", names=[HOST, LOOPBACK])
    pem = (rig.authority.folder / "door.pem").read_bytes()
    renewed = x509.load_pem_x509_certificate(pem).serial_number
    assert renewed != before
    assert wait_until(lambda: serial_at(rig, "secure") == renewed, timeout_seconds=20)
    assert rig.running.findings() == []


def test_the_inner_door_asks_for_a_certificate(rig: GatewayRig) -> None:
    folder = rig.authority.folder
    trusted = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    with rig.client("internal", verify=trusted) as stranger, pytest.raises(httpx.TransportError):
        stranger.get("/v1/orders/17")
    trusted.load_cert_chain(folder / "crm.pem", folder / "crm.key")
    with rig.client("internal", verify=trusted) as crm:
        headers = crm.get("/v1/orders/17").json()["headers"]
    assert "DNS=crm.internal" in headers["x-forwarded-client-cert"]
    assert headers["x-gateway-door"] == "internal"
    assert certificate_findings(rig.gateway, now=datetime.now(UTC)) == []
    [late, *_] = certificate_findings(rig.gateway, now=datetime.now(UTC) + timedelta(days=20))
    assert "door.pem ends on" in late.finding


def test_requests_go_on_when_a_process_of_the_service_dies(rig: GatewayRig) -> None:
    stays, goes = rig.others
    with rig.client(host=OTHER_HOST) as client:
        if not rig.running.findings():
            ports = {client.get(f"/v1/orders/{number}").json()["port"] for number in range(40)}
            assert ports == {stays.port, goes.port}
        rig.mortal.close()
        answers = [client.get(f"/v1/orders/{number}") for number in range(40)]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["port"] for answer in answers} == {stays.port}
        assert wait_until(lambda: bool(rig.running.findings()), timeout_seconds=15)
        assert rig.running.findings()[0].finding == "1 of 2 processes are ready"
