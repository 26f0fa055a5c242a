"""Nodes that are announced: by Patroni over HTTP, and in DNS."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.request import urlopen

import dns.message
import dns.rrset
import pytest

from ops.ports import LOOPBACK
from readreplica.addresses import Address, read_patroni
from readreplica.cluster import PRIMARY, Cluster
from readreplica.discovery import Discovery, addresses_of, services_of
from readreplica.engines import reader_engine
from readreplica.errors import NothingDiscovered
from readreplica.sync.discovery import services_of as sync_services_of
from tests.integration.replicas_rig import COUNT, cluster_at, insert, make_table, until, url_of
from tests.servers import PostgresServers


class Announcements:
    """What the HTTP server answers to GET /cluster."""

    document: dict[str, Any]

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/cluster" else 404)
                self.end_headers()
                self.wfile.write(json.dumps(outer.document).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.document = {"members": []}

    async def addresses(self) -> Sequence[Address]:
        return await asyncio.to_thread(self._fetch)

    def _fetch(self) -> Sequence[Address]:
        with urlopen(f"http://{LOOPBACK}:{self.server.server_port}/cluster", timeout=10) as answer:
            return read_patroni(json.load(answer))


@pytest.fixture
def patroni() -> Iterator[Announcements]:
    found = Announcements()
    thread = Thread(target=found.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()
        thread.join()


@pytest.fixture
async def lonely(postgres: PostgresServers) -> AsyncIterator[Cluster]:
    """A cluster that knows its primary alone."""
    make_table(postgres)
    async with cluster_at(postgres, replicas={}) as cluster:
        yield cluster


def member(port: int, role: str, state: str) -> dict[str, Any]:
    return {"name": f"node{port}", "role": role, "state": state, "host": LOOPBACK, "port": port}


async def test_a_replica_that_patroni_announces_serves_reads(
    lonely: Cluster, postgres: PostgresServers, patroni: Announcements
) -> None:
    url = url_of(postgres, postgres.primary_port)
    discovery = Discovery(
        lonely,
        patroni.addresses,
        make_reader=lambda at: reader_engine(url.set(host=at.host, port=at.port), application_name="test"),
    )
    with pytest.raises(NothingDiscovered, match="none of its 0 members runs"):
        await discovery.refresh()
    # Who leads is not believed, and who is known already is not added again.
    patroni.document = {
        "members": [
            member(postgres.primary_port, "replica", "running"),
            member(postgres.replica_port, "leader", "streaming"),
            member(1, "replica", "stopped"),
        ]
    }
    assert await discovery.refresh() == [Address(LOOPBACK, postgres.replica_port)]
    assert await discovery.refresh() == []
    name = f"{LOOPBACK}:{postgres.replica_port}"
    await until(lambda: lonely.monitor.nodes[name].health.ejected is None, what="the replica is taken in")
    async with lonely.read(after=await insert(lonely, 1)) as session:
        assert (await session.execute(COUNT)).scalar_one() == 1
    assert session.node == name


async def test_a_source_that_is_away_takes_nothing_away(lonely: Cluster, patroni: Announcements) -> None:
    async def away() -> Sequence[Address]:
        raise ConnectionRefusedError("nobody there")

    discovery = Discovery(lonely, away, make_reader=lambda _: pytest.fail("nothing to make"))
    with pytest.raises(NothingDiscovered, match="nobody there; the addresses known before stay in use"):
        await discovery.refresh()
    async with lonely.read() as session:
        await session.execute(COUNT)
    assert session.node == PRIMARY


async def test_names_are_looked_up_and_one_that_is_not_there_has_an_error() -> None:
    assert Address("127.0.0.1", 5432) in await addresses_of("localhost", port=5432)
    with pytest.raises(NothingDiscovered, match=r"DNS name nowhere\.invalid named no server"):
        await addresses_of("nowhere.invalid", port=5432)


SERVICE = "_postgresql._tcp.db.test."


class NameServer:
    """A DNS server on loopback that knows these SRV records, and says nothing while it is mute."""

    def __init__(self) -> None:
        self.records: list[str] = []
        self.is_mute = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((LOOPBACK, 0))
        self.address: tuple[str, int] = self._socket.getsockname()

    def serve(self) -> None:
        """Answer until an empty datagram comes."""
        while True:
            words, client = self._socket.recvfrom(4096)
            if not words:
                self._socket.close()
                return
            if self.is_mute:
                continue
            answer = dns.message.make_response(dns.message.from_wire(words))
            if self.records:
                answer.answer.append(dns.rrset.from_text(SERVICE, 5, "IN", "SRV", *self.records))
            self._socket.sendto(answer.to_wire(), client)

    def end(self) -> None:
        """Have `serve` return."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as knock:
            knock.sendto(b"", self.address)


@pytest.fixture
def names() -> Iterator[NameServer]:
    found = NameServer()
    thread = Thread(target=found.serve, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.end()
        thread.join()


async def test_services_are_found_in_dns_and_a_mute_server_takes_nothing_away(
    lonely: Cluster, postgres: PostgresServers, names: NameServer
) -> None:
    async def announced() -> Sequence[Address]:
        return await services_of(SERVICE, timeout_seconds=1, nameserver=names.address)

    url = url_of(postgres, postgres.primary_port)
    discovery = Discovery(
        lonely,
        announced,
        make_reader=lambda at: reader_engine(url.set(host=at.host, port=at.port), application_name="test"),
    )
    with pytest.raises(NothingDiscovered, match=r"DNS service _postgresql\._tcp\.db\.test\. named no server"):
        await discovery.refresh()
    names.records = [f"20 1 {postgres.replica_port} localhost.", f"10 1 {postgres.primary_port} 127.0.0.1."]
    found = [Address(LOOPBACK, postgres.primary_port), Address("localhost", postgres.replica_port)]
    assert await announced() == found
    assert await asyncio.to_thread(sync_services_of, SERVICE, nameserver=names.address) == found
    assert await discovery.refresh() == found[1:]
    names.is_mute = True
    with pytest.raises(NothingDiscovered, match="the addresses known before stay in use"):
        await discovery.refresh()
    name = str(found[1])
    await until(lambda: lonely.monitor.nodes[name].health.ejected is None, what="the replica is taken in")
    async with lonely.read(after=await insert(lonely, 1)) as session:
        assert (await session.execute(COUNT)).scalar_one() == 1
    assert session.node == name
