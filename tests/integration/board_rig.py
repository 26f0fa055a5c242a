"""A board's database, and snapshots of orders on their way through the services."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from fastapi import FastAPI

from app.messaging.events import Customer, OrderSnapshot, SnapshotEntry, SnapshotLine
from app.messaging.routing import ServiceName
from app.models.status import Channel, Status
from readreplica.cluster import Cluster
from sharding.engines import open_cluster
from sharding.topology import Topology

SHOP, CRM, MES = ServiceName.SHOP, ServiceName.CRM, ServiceName.MES
BEGIN = datetime(2026, 11, 2, 9, tzinfo=UTC)
LIFE = tuple(Status)[:10]
Said = tuple[ServiceName, OrderSnapshot]


def with_board(topology: Topology, *, port: int = 1) -> Topology:
    """Add a board to a topology's file, and load it again: from then on orders are announced."""
    path = topology.path
    path.write_text(f'{path.read_text()}[services.board]\nhost = "127.0.0.1"\nport = {port}\n')
    return Topology.load(path)


@asynccontextmanager
async def open_board(topology: Topology) -> AsyncIterator[Cluster]:
    """Open the board's database as its service does."""
    async with open_cluster(topology, "board", role="board", application_name="test") as cluster:
        yield cluster


def life_of(*, steps: int = 10, quantity: int = 2, refused: bool = False) -> list[Said]:
    """Give what the services say of a customer's order that has gone so many steps of its life."""
    said: list[Said] = []
    versions = dict.fromkeys((SHOP, CRM, MES), 0)
    known: dict[ServiceName, dict[str, Any]] = {SHOP: {}, CRM: {}, MES: {}}

    def say(
        service: ServiceName,
        status: Status,
        at: datetime,
        *,
        detail: dict[str, Any] | None = None,
        **facts: Any,
    ) -> None:
        versions[service] += 1
        known[service].update(facts)
        entry = SnapshotEntry(
            event_no=versions[service], status=status, at=at, actor="Ada", detail=detail or {}
        )
        snapshot = OrderSnapshot(
            version=versions[service],
            status=status,
            channel=Channel.B2C,
            summary="2 x ring.stl, gold_18k, polished",
            created_at=BEGIN,
            changed_at=at,
            customer=Customer(name="Ada Byron", email="ada@example.org") if service is not MES else None,
            lines=() if service is CRM else (_line(quantity),),
            history=(entry,),
            **known[service],
        )
        said.append((service, snapshot))

    for number, status in enumerate(LIFE[:steps]):
        at = BEGIN + timedelta(hours=number)
        services = (SHOP,) if number < 2 else (SHOP, MES, CRM)
        for service in services:
            facts: dict[str, Any] = {}
            if status is Status.PRICE_CALCULATED:
                facts = {"price": Decimal("412.50")}
                if service is not MES:
                    facts["price_valid_until"] = at + timedelta(days=14)
            if status is Status.MANUFACTURING_STARTED and service is MES:
                facts = {"operator": "Rosa"}
            say(service, status, at, **facts)
        if refused and status is Status.MANUFACTURING_STARTED:
            say(CRM, status, at + timedelta(minutes=1), cancel_requested_at=at)
            say(
                CRM,
                status,
                at + timedelta(minutes=2),
                detail={"cancel_refused": "begun"},
                cancel_requested_at=None,
            )
    return said


def _line(quantity: int) -> SnapshotLine:
    return SnapshotLine(
        line_no=1,
        material="gold_18k",
        finish="polished",
        quantity=quantity,
        model_key="k",
        model_name="ring.stl",
    )


def shuffled(said: Sequence[Said], *, seed: int) -> list[Said]:
    """Give what was said out of order, and some of it twice."""
    chance = random.Random(seed)
    mixed = [*said, *chance.sample(list(said), k=len(said) // 2)]
    chance.shuffle(mixed)
    return mixed


@dataclass
class Stream:
    """An answer that goes on: what it began with, and its text as it comes."""

    status: int
    headers: dict[str, str]
    body: asyncio.Queue[str]


@asynccontextmanager
async def streaming(
    app: FastAPI, path: str, headers: Mapping[str, str], *, peer: str = "127.0.0.1"
) -> AsyncIterator[Stream]:
    """Ask for a stream, as httpx cannot of an application: it waits for the end; then hang up."""
    begun: asyncio.Queue[Any] = asyncio.Queue()
    text: asyncio.Queue[str] = asyncio.Queue()
    is_gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await is_gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            await begun.put(message)
        else:
            await text.put(message["body"].decode())

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "client": (peer, 4711),
        "server": ("127.0.0.1", 80),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    asking = asyncio.create_task(app(scope, receive, send))
    try:
        begin = await begun.get()
        found = {name.decode(): value.decode() for name, value in begin["headers"]}
        yield Stream(begin["status"], found, text)
    finally:
        is_gone.set()
        await asking
