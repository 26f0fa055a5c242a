"""Events of partners' orders come to their endpoints: signed, in order, again after a failure, never lost."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import func, select, update

from app.database import open_directory
from app.kit.caller import Role
from app.mes.outgoing import WebhookSender
from app.mes.webhook_endpoints import Endpoints
from app.mes.webhooks import Dispatcher, WebhookOptions
from app.models.directory import WebhookEndpoint
from app.models.mes import WebhookDelivery, WebhookEvent
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession
from sharding.topology import Topology
from tests.callers import acting
from tests.integration.messaging_rig import until
from tests.integration.services_rig import Json, Services, ok, open_services, problem
from tests.integration.webhook_receiver import (
    Answer,
    Receiver,
    flood,
    hang,
    pour,
    receiving,
    status,
    verify,
)

PARTNER = "atelier-nord"
HOOKS = f"/v1/partners/{PARTNER}/webhooks"


def as_partner() -> dict[str, str]:
    """Return the header of the partner; its token is good for five minutes."""
    return acting(PARTNER, Role.PARTNER)


SOON = WebhookOptions(
    poll_seconds=0.05, first_retry_seconds=0.1, longest_retry_seconds=0.3, lease_seconds=3.0
)


@pytest_asyncio.fixture
async def services(topology: Topology) -> AsyncIterator[Services]:
    async with open_services(topology, webhook_local=True) as services:
        yield services


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest_asyncio.fixture
async def directory(topology: Topology) -> AsyncIterator[Cluster]:
    async with open_directory(topology, application_name="test") as directory:
        yield directory


@asynccontextmanager
async def dispatching(
    services: Services,
    directory: Cluster,
    options: WebhookOptions = SOON,
    **sender: Any,
) -> AsyncIterator[None]:
    """Run a dispatcher that is not as patient as the service's own."""
    stop = asyncio.Event()
    sends = WebhookSender(**{"allows_local": True, "seconds": 1.0, **sender})
    running = asyncio.create_task(Dispatcher(services.shards, Endpoints(directory), sends, options).run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def hook(services: Services, receiver: Receiver, path: str = "/hook", **body: Any) -> Json:
    asked = {"url": receiver.url(path), **body}
    return ok(await services.mes.post(HOOKS, json=asked, headers=as_partner()), 201)


async def shown(services: Services) -> Json:
    [only] = ok(await services.mes.get(HOOKS, headers=as_partner()))["webhooks"]
    return dict(only)


async def count(
    services: Services, table: type[WebhookDelivery | WebhookEvent], *, waits: bool = False
) -> int:
    """Count rows; `waits`: the events of which no deliveries were made yet."""
    found = 0
    counted = select(func.count()).select_from(table)
    if waits:
        counted = counted.where(WebhookEvent.fanned_out_at.is_(None))
    for cluster in services.shards.clusters.values():
        async with cluster.write() as session:
            found += await session.scalar(counted) or 0
    return found


async def until_settled(services: Services) -> None:
    async def are_settled() -> bool:
        # The events first: their deliveries are made of them.
        return not (await count(services, WebhookEvent, waits=True) or await count(services, WebhookDelivery))

    await until(are_settled)


async def until_shown(services: Services, name: str, *, is_set: bool) -> Json:
    """Wait until a fact of the only webhook is there, or is not; give the webhook."""

    async def is_shown() -> bool:
        return ((await shown(services))[name] is not None) is is_set

    await until(is_shown)
    return await shown(services)


async def test_each_event_of_an_order_comes_once_signed_and_in_order(
    services: Services, receiver: Receiver
) -> None:
    made = await hook(services, receiver)
    order_id = await services.placed(await services.b2b_response(reference="PO-7"))
    await services.price(order_id)
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))
    await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
    ok(await services.take(order_id, operator="Rosa"))
    await receiver.wait(lambda r: len(r.of(order_id)) == 4)
    await until_settled(services)
    got = receiver.of(order_id)
    assert [each.content["type"] for each in got] == [
        "order.submitted",
        "order.price_calculated",
        "order.approved",
        "order.manufacturing_started",
    ]
    assert [each.content["data"]["status"] for each in got] == [
        "SUBMITTED",
        "PRICE_CALCULATED",
        "MANUFACTURING_APPROVED",
        "MANUFACTURING_STARTED",
    ]
    assert got[1].content["data"]["price"] == "412.50"
    assert {each.content["data"]["reference"] for each in got} == {"PO-7"}
    assert len({each.event_id for each in got}) == 4
    for each in got:
        verify(made["secret"], each)
        assert b"Rosa" not in each.body
        assert abs(int(each.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60
    with pytest.raises(AssertionError):
        verify("whsec_" + "A" * 43 + "=", got[0])


async def test_customers_orders_and_other_partners_make_no_sound(
    services: Services, receiver: Receiver
) -> None:
    other = {"url": receiver.url("/other")}
    theirs = "/v1/partners/bijoux-sud"
    ok(
        await services.mes.post(f"{theirs}/webhooks", json=other, headers=acting("bijoux-sud", Role.PARTNER)),
        201,
    )
    await hook(services, receiver)
    await services.b2c()
    order_id = await services.b2b()
    await receiver.wait(lambda r: bool(r.of(order_id)))
    await until_settled(services)
    assert {each.path for each in receiver.received} == {"/hook"}
    assert len(receiver.received) == await count(services, WebhookEvent) == 1


async def test_only_events_that_are_wanted_come(services: Services, receiver: Receiver) -> None:
    await hook(services, receiver, events=["order.price_calculated"])
    order_id = await services.b2b()
    await services.price(order_id)
    await receiver.wait(lambda r: bool(r.received))
    await until_settled(services)
    assert [each.content["type"] for each in receiver.received] == ["order.price_calculated"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (status(500), "answered by 500"),
        (status(302, location="http://127.0.0.1:1/"), "redirects are not followed"),
        (hang, "not answered within"),
        (flood, "header of its answer is too long"),
    ],
)
async def test_a_failure_is_tried_again_until_it_is_taken(
    services: Services, receiver: Receiver, directory: Cluster, answer: Answer, said: str
) -> None:
    receiver.answer = answer
    await hook(services, receiver)
    async with dispatching(services, directory):
        order_id = await services.b2b()
        assert said in (await until_shown(services, "failing_since", is_set=True))["last_error"]
        receiver.answer = status(204)
        await until_settled(services)
    assert len(receiver.of(order_id)) >= 2
    assert len({each.event_id for each in receiver.of(order_id)}) == 1
    await until_shown(services, "failing_since", is_set=False)


async def test_an_answer_of_gigabytes_is_not_read(services: Services, receiver: Receiver) -> None:
    receiver.answer = pour
    await hook(services, receiver)
    order_id = await services.b2b()
    await until_settled(services)
    assert len(receiver.of(order_id)) == 1


async def test_a_slow_endpoint_delays_no_other(
    services: Services, receiver: Receiver, directory: Cluster
) -> None:
    """The slow one has twenty events to take; those of the other come at once all the same."""

    async def by_path(delivered: Any, writer: asyncio.StreamWriter) -> None:
        await (hang if delivered.path == "/slow" else status(204))(delivered, writer)

    receiver.answer = by_path
    await hook(services, receiver, "/slow")
    await hook(services, receiver, "/quick")
    async with dispatching(services, directory, SOON, seconds=30.0):
        orders = [await services.b2b() for _ in range(20)]

        def all_came(found: Receiver) -> bool:
            return all(any(each.path == "/quick" for each in found.of(order)) for order in orders)

        await receiver.wait(all_came, seconds=20)
        slow = [each for each in receiver.received if each.path == "/slow"]
        assert len(slow) <= 2 * (SOON.lanes + WebhookOptions().lanes)
        receiver.answer = status(204)
        for task in asyncio.all_tasks():
            if "Dispatcher._deliver" in repr(task.get_coro()):
                task.cancel()


async def test_a_process_that_is_killed_behind_its_post_has_it_sent_again(
    topology: Topology, receiver: Receiver, directory: Cluster
) -> None:
    async with open_services(topology, webhook_local=True) as services:
        await quiet(services)
        await hook(services, receiver)
        order_id = await services.b2b()
        victim = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.integration.webhook_victim", str(topology.path)
        )
        assert await asyncio.wait_for(victim.wait(), 60) == -signal.SIGKILL
        assert len(receiver.of(order_id)) == 1
        assert await count(services, WebhookDelivery) == 1
        async with dispatching(services, directory):
            await until_settled(services)
        first, second = receiver.of(order_id)
        assert first.event_id == second.event_id
        assert first.body == second.body


async def quiet(services: Services) -> None:
    """Stop the dispatcher of the services, so that the test's own is the only one."""
    for task in asyncio.all_tasks():
        if task.get_name() == "webhooks":
            task.cancel()
            await asyncio.wait([task])


async def test_what_is_not_taken_for_too_long_is_a_dead_letter_and_is_replayed(
    services: Services, receiver: Receiver, directory: Cluster
) -> None:
    await quiet(services)
    receiver.answer = status(500)
    made = await hook(services, receiver)
    since = datetime.now(UTC) - timedelta(minutes=1)
    at_once = WebhookOptions(poll_seconds=0.05, dead_after=timedelta(0), first_retry_seconds=0.1)
    dead = select(func.count()).select_from(WebhookDelivery).where(WebhookDelivery.dead_at.is_not(None))
    order_id = await services.b2b()
    cluster = services.shards.clusters[services.shards.shard_of(int(order_id))]

    async def is_dead() -> bool:
        async with cluster.write() as session:
            return bool(await session.scalar(dead))

    async with dispatching(services, directory, at_once):
        await until(is_dead)
    receiver.answer = status(204)
    replay = f"{HOOKS}/{made['webhook_id']}/replay"
    answer = await services.mes.post(replay, params={"since": since.isoformat()}, headers=as_partner())
    assert ok(answer, 202) == {"events": 1, "next_since": None}
    async with dispatching(services, directory):
        await until_settled(services)
    assert len({each.event_id for each in receiver.of(order_id)}) == 1
    # What was taken is sent again as well, if that is wanted.
    ok(await services.mes.post(replay, params={"since": since.isoformat()}, headers=as_partner()), 202)
    before = len(receiver.received)
    async with dispatching(services, directory):
        await until_settled(services)
    assert len(receiver.received) == before + 1


@pytest.mark.parametrize("answer", [status(410), status(503)])
async def test_an_endpoint_that_always_fails_is_disabled_and_a_test_enables_it(
    services: Services, receiver: Receiver, directory: Cluster, answer: Answer
) -> None:
    await quiet(services)
    receiver.answer = answer
    made = await hook(services, receiver)
    long_ago = datetime.now(UTC) - timedelta(days=6)

    async def fail(session: WriteSession) -> None:
        await session.execute(update(WebhookEndpoint).values(failing_since=long_ago))

    await directory.transact(fail)
    await services.b2b()
    async with dispatching(services, directory):
        disabled = await until_shown(services, "disabled_at", is_set=True)
        assert "answered by" in disabled["disabled_reason"]
        sent = len(receiver.received)
        second = await services.b2b()
        assert receiver.of(second) == []
        test = f"{HOOKS}/{made['webhook_id']}/test"
        assert ok(await services.mes.post(test, headers=as_partner()))["delivered"] is False
        receiver.answer = status(200)
        assert ok(await services.mes.post(test, headers=as_partner())) == {
            "delivered": True,
            "status": 200,
            "error": None,
        }
        assert receiver.received[-1].content["type"] == "webhook.test"
        verify(made["secret"], receiver.received[-1])
        assert (await shown(services))["disabled_at"] is None
        await until_settled(services)
    assert len(receiver.received) > sent


async def test_webhooks_are_the_partners_own_and_the_secret_is_shown_once(
    services: Services, receiver: Receiver
) -> None:
    made = await hook(services, receiver)
    assert "secret" not in await shown(services)
    theirs = acting("bijoux-sud", Role.PARTNER)
    other = f"/v1/partners/bijoux-sud/webhooks/{made['webhook_id']}"
    since = {"since": "2026-12-01T00:00:00Z"}
    problem(await services.mes.delete(other, headers=theirs), 404)
    problem(await services.mes.post(f"{other}/test", headers=theirs), 404)
    problem(await services.mes.post(f"{other}/replay", params=since, headers=theirs), 404)
    own = f"{HOOKS}/{made['webhook_id']}"
    assert (await services.mes.delete(own, headers=as_partner())).status_code == 204
    problem(await services.mes.delete(own, headers=as_partner()), 404)
    for _ in range(10):
        await hook(services, receiver)
    problem(await services.mes.post(HOOKS, json={"url": receiver.url()}, headers=as_partner()), 409)


async def test_a_bad_url_or_event_is_refused(topology: Topology) -> None:
    async with open_services(topology) as services:
        for url in (
            "http://example.com/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1./",
            "https://169.254.169.254/latest",
            "https://user:secret@example.com/",
            "https://example.com/#a",
            "https://exa mple.com/",
            "file:///etc/passwd",
            "https://",
        ):
            problem(await services.mes.post(HOOKS, json={"url": url}, headers=as_partner()), 422)
        unknown = {"url": "https://example.com/", "events": ["order.eaten"]}
        problem(await services.mes.post(HOOKS, json=unknown, headers=as_partner()), 422)


@dataclass
class TwoFaced:
    """A resolver that answers a public address first, and this machine from then on: DNS rebinding."""

    asked: int = 0

    async def __call__(self, _host: str, _port: int) -> list[str]:
        self.asked += 1
        return ["93.184.215.14"] if self.asked == 1 else ["127.0.0.1"]


async def test_a_host_that_means_this_machine_a_moment_later_is_not_reached(receiver: Receiver) -> None:
    resolver = TwoFaced()
    sender = WebhookSender(resolver=resolver, seconds=0.3)
    url = f"https://rebound.example:{receiver.port}/"
    first = await failure_of(sender, url)
    assert resolver.asked == 1  # the connection is to the address, and to no name
    second = await failure_of(sender, url)
    assert (resolver.asked, receiver.received) == (2, [])
    assert "not public" in second
    assert "not public" not in first


async def test_one_private_address_among_others_is_refused(receiver: Receiver) -> None:
    async def mixed(_host: str, _port: int) -> list[str]:
        return ["93.184.215.14", "10.0.0.1"]

    assert "not public" in await failure_of(WebhookSender(resolver=mixed), "https://mixed.example/")


async def failure_of(sender: WebhookSender, url: str, headers: Mapping[str, str] | None = None) -> str:
    with pytest.raises(Exception, match=r".") as failure:
        await sender.post(url, headers=headers or {}, body=b"{}")
    return str(failure.value)
