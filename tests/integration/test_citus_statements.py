"""What the order system sends to its shards, collected from real orders: `make check` reads it."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, event

import partitions
from app.console.demo.shapes import good_shapes
from app.database import open_shards
from app.files import ModelStore
from app.kit.clock import utc_now
from app.mes.webhooks import prune_events
from app.messaging.inbox import Pruner
from app.messaging.message import Ack
from app.messaging.outbox import settle
from app.models.mes import MesInbox, MesOutbox
from app.models.policies import ARCHIVE
from app.pricing import jobs
from app.pricing.cache import renew_claim, sweep_shapes
from app.pricing.jobs import Lease
from app.pricing.pricer import Pricer
from app.pricing.sandbox import Sandbox
from app.pricing.worker import Worker
from app.topology import files_url
from ops.fleet import members, open_engine
from ops.partitions.archiving import months_of
from partitions.archive import move
from sharding.citus.distribute import Distribution
from sharding.citus.preflight import check_statements
from sharding.topology import Topology
from tests.integration.life_rig import make_and_close, submit
from tests.integration.messaging_rig import running
from tests.integration.pricing_rig import SOON
from tests.integration.services_rig import Services, eventually, ok, open_services
from tests.integration.webhook_receiver import Receiver, receiving, status
from tests.project import MES, PROJECT

FILE = Path(__file__).with_name("mes_statements.sql")
"""Statements that write or lock, without their parameters; what only reads Citus takes."""

_PARAMETER = re.compile(r"%\(\w+\)s(?:::\w+(?: WITH TIME ZONE)?(?:\([\d, ]+\))?)?")


def shape(statement: str) -> str:
    """Put a statement on one line, and a list of values for any number of them."""
    plain = _PARAMETER.sub("%s", " ".join(statement.split()))
    plain = re.sub(r"\(%s(?:, %s)+\)", "(%s)", plain)
    return re.sub(r"(\((?:%s|\(%s\))\))(?:, \1)+", r"\1", plain)


def script(statements: Iterable[str]) -> str:
    return "".join(f"{statement};\n" for statement in sorted(statements))


def writes_or_locks(statement: str) -> bool:
    return not statement.startswith(("SELECT", "SHOW", "SET")) or "FOR UPDATE" in statement


@contextmanager
def recording(topology: Topology) -> Iterator[list[str]]:
    """Record what the services send to the MES shards."""
    shards = {database.dbname for database in topology.databases_of("mes").values()}
    sent: list[str] = []

    def note(connection: Any, _cursor: object, statement: str, *_: object) -> None:
        url = connection.engine.url
        if url.database in shards and url.username == "mes":
            sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def test_the_preflight_reads_every_statement_that_the_order_system_sends(topology: Topology) -> None:
    with recording(topology) as sent:
        async with open_services(topology, webhook_local=True) as services, receiving() as receiver:
            await hear(services, receiver)
            await live(topology, services)
            await hear_again(services, receiver)
        await tend(topology)
        await asyncio.to_thread(archive, topology)
    found = {statement for statement in map(shape, sent) if writes_or_locks(statement)}
    lines = FILE.read_text(encoding="utf-8").splitlines()
    known = {line.removesuffix(";") for line in lines if not line.startswith("--")}
    assert check_statements(sent, Distribution.of(MES.metadata)) == []
    assert not found - known, f"add to {FILE.name}:\n{script(found - known)}"
    assert not known - found, f"take out of {FILE.name}:\n{script(known - found)}"


WEBHOOKS = "/v1/partners/atelier-nord/webhooks"


async def hear(services: Services, receiver: Receiver) -> None:
    """Have partners' events sent to a receiver that fails at first."""
    receiver.answer = status(500)
    ok(await services.mes.post(WEBHOOKS, json={"url": receiver.url()}), 201)
    await submit(services, "B2B")
    await receiver.wait(lambda found: bool(found.received))
    receiver.answer = status(204)


async def hear_again(services: Services, receiver: Receiver) -> None:
    """Have them sent once more."""
    [webhook] = ok(await services.mes.get(WEBHOOKS))["webhooks"]
    replay = f"{WEBHOOKS}/{webhook['webhook_id']}/replay"
    since = (utc_now() - timedelta(hours=1)).isoformat()
    before = len(receiver.received)
    ok(await services.mes.post(replay, params={"since": since}), 202)
    await receiver.wait(lambda found: len(found.received) > before)


async def live(topology: Topology, services: Services) -> None:
    """Take orders to their ends: closed, cancelled, and rejected by an operator."""
    models = await asyncio.to_thread(ModelStore.open, files_url(topology))
    async with Sandbox() as sandbox, open_shards(topology, application_name="pricing") as sessions:
        pricer = Pricer(sessions, models, sandbox, now=utc_now, max_attempts=3)
        async with running(Worker(sessions, pricer, holder="test", options=replace(SOON, lease_seconds=600))):
            await quote(services)
            for channel in ("B2C", "B2B"):
                await make_and_close(services, await submit(services, channel))
            cancelled = await submit(services, "B2B")
            await services.shows(services.crm, cancelled, "PRICE_CALCULATED")
            wish = {"reason": "she changed her mind"}
            ok(await services.crm.post(f"/v1/orders/{cancelled}/cancel", json=wish), 202)
            await services.shows(services.crm, cancelled, "CANCELLED")


async def quote(services: Services) -> None:
    """Ask for a price without an order, and wait for it."""
    shape = next(good_shapes(seed=1))
    files = {"file": (f"{shape.name}.{shape.suffix}", shape.data)}
    asked = {"material": "brass", "finish": "matte", "quantity": "1"}
    path = "/v1/partners/atelier-nord/quotes"
    answer = await services.mes.post(path, data=asked, files=files)
    shown = partial(services.mes.get, f"{path}/{answer.json()['quote_id']}")
    await eventually(shown, lambda found: found.json()["state"] == "priced")


async def tend(topology: Topology) -> None:
    """Do what is done beside the orders: a lease given back, a message set aside, the inbox pruned."""
    async with open_shards(topology, application_name="test") as sessions:
        [(name, cluster), *_] = sessions.clusters.items()
        pruner = Pruner(cluster, MesInbox, database=name, keep=timedelta(0), every_seconds=1)
        async with cluster.write() as session:
            held = Lease(order_id=1, holder="test", attempt=1)
            await jobs.give_back(session, held, rest_seconds=1, counted=True)
            await settle(session, MesOutbox, [Ack(uuid4(), "no reason")])
            await renew_claim(session, digest="a.stl", holder=uuid4(), seconds=1)
        for each in sessions.clusters.values():
            async with each.write() as session:
                await prune_events(timedelta(0), session)
                await sweep_shapes(session, kept=timedelta(days=-1))
        await pruner.prune(asyncio.Event())


def archive(topology: Topology) -> None:
    """Archive what has ended, as it is done on Citus."""
    policy = replace(ARCHIVE, grace=timedelta(0))
    for member in members(topology, PROJECT, tree="mes"):
        with open_engine(topology, member.database, role="mes_owner") as owner:
            partitions.apply(owner, months_of(member.tree, policy), utc_now())
        with open_engine(topology, member.database, role="mes") as engine:
            move(engine, policy, utc_now(), lock_by_key=True)
