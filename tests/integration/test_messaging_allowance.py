"""A relay sends to a destination what it allows, oldest first, and to the others all; nothing is lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, select, text
from sqlalchemy.dialects.postgresql import asyncpg

from app.flow.grants import Grant, HeardAllowance, holder_key, publish, redis_now
from app.messaging.message import Dispatch
from app.messaging.outbox import Range, _delete_handled, _select_due, claim, owes
from app.messaging.relay import _BEGIN
from app.messaging.routing import ServiceName
from app.messaging.streams import fields_of
from app.models.base import OutboxRow
from app.models.shop import ShopOutbox
from readreplica.sessions import AnySession, WriteSession
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.integration.messaging_rig import AT, STREAM, Rig, open_rig, owe, running, signed_ack, until
from tests.message_keys import signer_of

CRM, MES = ServiceName.CRM, ServiceName.MES


@dataclass
class Counted:
    """An allowance that a test sets, and that notes what was taken."""

    left: int = 0
    heard: int = 0
    taken: list[int] = field(default_factory=list)

    async def refresh(self) -> None:
        self.heard += 1

    def take(self, limit: int, /) -> int:
        count = min(limit, self.left)
        self.left -= count
        self.taken.append(count)
        return count

    def give_back(self, count: int, /) -> None:
        self.left += count


@pytest.fixture
async def rig(topology: Topology) -> AsyncIterator[Rig]:
    """Connect to empty databases and an empty Redis."""
    async with open_rig(topology) as rig:
        await rig.wipe()
        yield rig


async def subjects(rig: Rig, service: ServiceName) -> list[int]:
    entries: Any = await rig.redis.xrange(f"orders:{service.value}")
    return [int(fields["subject"]) for _, fields in entries]


async def test_only_what_is_owed_to_mes_is_limited_and_the_oldest_goes_first(rig: Rig) -> None:
    for order_id in (3, 1, 2, 5, 4):
        async with rig.shop.write() as session:
            await owe(session, order_id, "a", (CRM, MES))
    allowance = Counted(left=2)
    relay = rig.relay(retry_seconds=60, allowances={MES: allowance})

    await relay.turn()
    assert sorted(await subjects(rig, CRM)) == [1, 2, 3, 4, 5], "the CRM gets all at once"
    assert await subjects(rig, MES) == [3, 1]
    await relay.turn()
    assert await subjects(rig, MES) == [3, 1], "and MES nothing in a pause"
    allowance.left = 10
    await relay.turn()
    assert await subjects(rig, MES) == [3, 1, 2, 5, 4]
    assert allowance.left == 7, "what was not sent was given back"
    assert allowance.heard == 3


async def test_nothing_is_lost_and_each_order_is_in_order_while_limited(rig: Rig) -> None:
    allowance = Counted()
    words = [f"{number}" for number in range(4)]
    await asyncio.gather(*(rig.owe(order_id, *words) for order_id in range(10)))

    async def more() -> bool:
        allowance.left = 3
        return not await rig.owed()

    async with running(rig.relay(allowances={CRM: allowance}), rig.consumer()):
        await until(more)
    assert await rig.history() == dict.fromkeys(range(10), words)
    assert max(allowance.taken) <= 3


async def test_a_row_that_commits_late_is_sent(rig: Rig) -> None:
    seconds = 0.0
    relay = rig.relay(retry_seconds=60, clock=lambda: seconds)
    async with rig.worker_shop.write() as late:
        await owe(late, 1, "early number, late commit")
        await late.flush()
        await rig.owe(2, "b")
        await relay.turn()
        assert await subjects(rig, CRM) == [2]
        # The mark is behind the number of the row by now.
        seconds = 2.0
        await rig.owe(3, "c")
        await relay.turn()
        seconds = 4.0
        await relay.turn()
    seconds = 10.0
    await relay.turn()
    assert await subjects(rig, CRM) == [2, 3, 1]


async def test_the_next_message_of_an_order_goes_as_soon_as_the_one_before_is_settled(rig: Rig) -> None:
    # No look at everything is due: it is found because it follows.
    relay = rig.relay(retry_seconds=3600, look_seconds=900)
    await rig.owe(1, "a", "b", "c")
    async with running(relay, rig.consumer()):
        await rig.until_settled()
    assert await rig.history() == {1: ["a", "b", "c"]}


async def acknowledge(rig: Rig) -> None:
    """Answer for all that the CRM was sent, and take it out of its stream."""
    for fields in await rig.sent():
        ack = signed_ack({"id": fields["id"], "outcome": "done"})
        await rig.redis.xadd("acks:shop", fields_of(ack))
    await rig.redis.xtrim(STREAM, maxlen=0, approximate=False)


async def test_the_next_message_of_an_order_lets_no_newer_one_overtake_an_older(rig: Rig) -> None:
    seconds = 0.0
    allowance = Counted(left=1)
    relay = rig.relay(
        retry_seconds=3600, look_seconds=900, clock=lambda: seconds, allowances={CRM: allowance}
    )
    await rig.owe(1, "a")
    for order_id in range(2, 7):
        await rig.owe(order_id, "waits")
    await rig.owe(1, "b")
    await rig.owe(7, "waits")
    await relay.turn()
    assert await subjects(rig, CRM) == [1]
    await acknowledge(rig)
    seconds, allowance.left = 2.0, 1
    await relay.turn()
    seconds, allowance.left = 4.0, 2
    await relay.turn()
    assert await subjects(rig, CRM) == [2, 3, 4], "by their age, for no grant lets all through"
    seconds, allowance.left = 6.0, 10
    await relay.turn()
    assert await subjects(rig, CRM) == [2, 3, 4, 5, 6, 1, 7]


async def test_what_follows_an_acknowledgement_in_a_pause_goes_when_the_pause_is_over(rig: Rig) -> None:
    seconds = 0.0
    allowance = Counted(left=100)
    relay = rig.relay(
        retry_seconds=3600, look_seconds=900, clock=lambda: seconds, allowances={CRM: allowance}
    )
    await rig.owe(1, "a", "b")
    await rig.owe(2, "a")
    await relay.turn()
    assert await subjects(rig, CRM) == [1, 2]
    seconds = 2.0
    await relay.turn()
    await acknowledge(rig)
    seconds, allowance.left = 4.0, 0
    await relay.turn()
    assert await subjects(rig, CRM) == []
    allowance.left = 10
    await relay.turn()
    assert await subjects(rig, CRM) == [1], "although no look at everything was due"


async def grant(rig: Rig, per_second: float, burst: int) -> None:
    now = await redis_now(rig.redis)
    said = Grant(
        sender="crm",
        per_second=per_second,
        burst=burst,
        issued_at=now,
        expires_at=now + timedelta(seconds=30),
        reason="a test",
    )
    await publish(rig.redis, signer_of(MES), said)


async def test_of_two_processes_one_draws_on_the_grant_and_the_other_when_it_is_gone(rig: Rig) -> None:
    """Each has a bucket of its own, and the lock of the database goes from one to the other at each turn."""
    seconds = 0.0
    for order_id in range(200):
        await rig.owe(order_id, "a")
    # The Shop's outbox, read by who hears the grants of the CRM: what a test may send to the CRM is plain.
    allowances = [
        HeardAllowance(
            rig.redis,
            signer_of(CRM),
            "crm",
            floor_per_second=2,
            holder=name,
            clock=lambda: seconds,
        )
        for name in ("first", "second")
    ]
    relays = [rig.relay(retry_seconds=3600, allowances={CRM: each}) for each in allowances]
    await grant(rig, 20, 5)
    for _ in range(20):
        for relay in relays:
            await relay.turn()
        seconds += 0.1
    sent = len(await subjects(rig, CRM))
    assert 35 <= sent <= 5 + 40, "one burst, and two seconds at twenty"

    async def is_taken_over() -> bool:
        nonlocal seconds
        seconds += 0.1
        await relays[1].turn()
        return len(await subjects(rig, CRM)) > sent

    began = seconds
    await until(is_taken_over)
    assert len(await subjects(rig, CRM)) <= sent + 5
    assert seconds > began


async def test_a_process_that_has_lost_its_database_leaves_the_grant_to_another(rig: Rig) -> None:
    seconds = 0.0
    broken, well = (
        HeardAllowance(
            rig.redis, signer_of(CRM), "crm", floor_per_second=20, holder=name, clock=lambda: seconds
        )
        for name in ("broken", "well")
    )
    await broken.refresh()
    assert broken.take(1) == 1

    async def is_taken_over() -> bool:
        nonlocal seconds
        seconds += 1.0
        await broken.refresh()  # and it never asks its database
        await well.refresh()
        return well.take(1) == 1

    await until(is_taken_over)
    assert broken.take(1) == 0


@pytest.mark.parametrize("left", ["for ever", "a list"])
async def test_what_a_hand_has_left_where_the_holder_stands_stops_no_one(rig: Rig, left: str) -> None:
    if left == "a list":
        await rig.redis.rpush(holder_key("crm"), "x")
    else:
        await rig.redis.set(holder_key("crm"), "x")
    subject = HeardAllowance(rig.redis, signer_of(CRM), "crm", floor_per_second=2, holder="me")
    await subject.refresh()
    assert subject.take(1) == 1
    assert 0 < await rig.redis.pttl(holder_key("crm")) <= 2000


async def test_a_full_redis_stops_no_one(rig: Rig) -> None:
    subject = HeardAllowance(
        rig.redis, signer_of(CRM), "crm", floor_per_second=1000, every_seconds=0, holder="me"
    )
    await rig.redis.config_set("maxmemory", 1)
    try:
        await subject.refresh()
        assert subject.take(1) == 1
    finally:
        await rig.redis.config_set("maxmemory", 0)


async def claimed_pages(rig: Rig, after: int, *, by_index: bool = False) -> int:
    """Count the pages that the statements of a claim read, as the driver sends them, and claim nothing.

    Parameters:
        rig: the outbox.
        after: the mark of the claim.
        by_index: whether PostgreSQL is kept from reading the few pages of the table one after the other.
    """
    sent: list[tuple[str, Any]] = []

    def note_it(_c: Any, _u: Any, statement: str, parameters: Any, _x: Any, _m: Any) -> None:
        if statement.startswith("SELECT"):
            sent.append((statement, parameters))

    async with rig.shop.write() as session:
        connection = await session.connection()
        event.listen(connection.sync_connection, "before_cursor_execute", note_it)
        await claim(
            session,
            ShopOutbox,
            destination="crm",
            lag=timedelta(0),
            now=AT,
            limit=500,
            retry_after_seconds=lambda _count: 60.0,
            within=Range(after=after, successors_of=range(500)),
        )
        event.remove(connection.sync_connection, "before_cursor_execute", note_it)
        await session.rollback()
        connection = await session.connection()
        if by_index:
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        read = 0
        for statement, parameters in sent:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}"
            [[plan]] = (await connection.exec_driver_sql(explain, parameters)).all()
            read += pages_of(plan)
    assert len(sent) == 2
    return read


def pages_of(plan: Any) -> int:
    """Count the pages that a statement has read, by its EXPLAIN."""
    return int(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])


@pytest.mark.parametrize("analyzed", ["never", "full", "empty"])
async def test_behind_an_open_transaction_a_claim_reads_no_more_pages(
    rig: Rig, topology: Topology, analyzed: str
) -> None:
    seconds = 0.0
    relay = rig.relay(retry_seconds=60, clock=lambda: seconds)
    async with rig.crm.write() as _, rig.worker_shop.write() as holder:
        await holder.execute(text("SELECT pg_current_xact_id(), count(*) FROM outbox"))
        async with rig.shop.write() as session:
            for order_id in range(3000):
                await owe(session, order_id, "a")
        await analyze(topology, is_wanted=analyzed == "full")
        while len(await subjects(rig, CRM)) < 3000:
            await relay.turn()
            seconds += 0.1
        async with rig.shop.write() as session:
            await session.execute(text("DELETE FROM outbox"))
        await analyze(topology, is_wanted=analyzed == "empty")
        dead = await claimed_pages(rig, -1, by_index=True)
        # There is nothing to do, for more than a second.
        for _ in range(2):
            seconds += 2.0
            await relay.turn()
        for order_id in range(10_000, 10_010):
            await rig.owe(order_id, "b")
        behind = await claimed_pages(rig, relay._progress["crm"]._mark)
    assert dead > 100, "the dead rows are there, and a claim from the beginning reads them"
    assert behind <= 80, "of the orders that were acknowledged just now, and a few of the ten others"


async def test_where_vacuum_found_nothing_owed_a_claim_reads_no_more_pages(
    rig: Rig, topology: Topology
) -> None:
    url = topology.url("shop", role="shop_owner").set(drivername="postgresql")
    fill = """
        INSERT INTO outbox (order_id, message_id, destination, type, data, created_at)
        SELECT i, gen_random_uuid(), 'crm', 'order.shipped', '{}', now()
        FROM generate_series(%s::bigint, %s) i
    """
    async with (
        await psycopg.AsyncConnection.connect(
            url.render_as_string(hide_password=False), autocommit=True
        ) as owner,
        rig.worker_shop.write() as holder,
    ):
        await holder.execute(text("SELECT pg_current_xact_id(), count(*) FROM outbox"))
        await owner.execute(fill, (1, 40_000))
        await owner.execute("ANALYZE outbox")
        await owner.execute("DELETE FROM outbox")
        await owner.execute("VACUUM outbox")
        await owner.execute(fill, (50_001, 50_010))
        async with rig.shop.write() as session:
            plain = await planned_pages(session)
            await session.execute(_BEGIN)
            found = await planned_pages(session)
    assert plain > 150, "PostgreSQL walks over all that has gone"
    assert found <= 60, "it finds ten by their numbers, and the oldest of their orders"


async def planned_pages(session: WriteSession) -> int:
    """Count the pages that a claim of all new messages reads, by the plan that is kept for any parameters."""
    [[after]] = (await session.execute(text("SELECT min(sequence) - 1 FROM outbox"))).all()
    compiled = _select_due(ShopOutbox, "new").compile(dialect=asyncpg.dialect())  # type: ignore[no-untyped-call]
    values = {**compiled.params, "destination": "crm", "lag": "0", "after": after, "most": 500}
    literals = ", ".join(f"'{values[name]}'" for name in compiled.positiontup or ())
    connection = await session.connection()
    await connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
    await connection.exec_driver_sql(f"PREPARE claimed AS {compiled}")
    explain = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE claimed ({literals})"
    [[plan]] = (await connection.exec_driver_sql(explain)).all()
    await connection.exec_driver_sql("DEALLOCATE claimed")
    assert plan[0]["Plan"]["Actual Rows"] == 10
    return pages_of(plan)


async def test_a_relay_whose_question_is_slow_claims_in_its_place(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, claimed = list[dict[str, int]](), list[str]()

    async def slowly(session: AnySession, outbox: type[OutboxRow], after: dict[str, int]) -> bool:
        asked.append(after)
        await session.execute(text("SELECT pg_sleep(0.03)"))
        return await owes(session, outbox, after)

    async def noting(session: WriteSession, outbox: type[OutboxRow], **words: Any) -> Sequence[Dispatch]:
        claimed.append(words["destination"])
        return await claim(session, outbox, **words)

    monkeypatch.setattr("app.messaging.relay.owes", slowly)
    monkeypatch.setattr("app.messaging.relay.claim", noting)
    relay = rig.relay(clock=lambda: 0.0)
    # It looks for messages to no service; it asks, and nothing is owed; it does not ask again.
    for so_often, destinations in ((0, {"crm", "mes"}), (1, set()), (1, {"crm", "mes"})):
        claimed.clear()
        await relay.turn()
        assert (len(asked), set(claimed)) == (so_often, destinations)


async def test_behind_an_open_transaction_an_acknowledgement_reads_no_more_pages(
    rig: Rig, topology: Topology
) -> None:
    async with rig.crm.write() as _, rig.worker_shop.write() as holder:
        await holder.execute(text("SELECT pg_current_xact_id(), count(*) FROM outbox"))
        for gone in (True, False):
            async with rig.shop.write() as session:
                for order_id in range(3000 if gone else 10):
                    await owe(session, order_id, "a")
                if gone:
                    await session.execute(text("DELETE FROM outbox"))
        await analyze(topology, is_wanted=False)
        async with rig.shop.write() as session:
            owed = await session.execute(select(ShopOutbox.order_id, ShopOutbox.message_id))
            orders, messages = zip(*owed, strict=True)
            words = {"consumer": "crm", "orders": [*orders], "messages": [*messages]}
            statement = _delete_handled(ShopOutbox, by_order=True)
            connection = await session.connection()
            compiled = statement.compile(dialect=connection.dialect)
            explain = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {compiled}"
            words = {**compiled.params, **words}
            [[plan]] = (await connection.exec_driver_sql(explain, words)).all()
            await session.rollback()
    assert plan[0]["Plan"]["Actual Rows"] == 10
    assert pages_of(plan) < 200


async def analyze(topology: Topology, *, is_wanted: bool) -> None:
    if is_wanted:
        async with (
            open_cluster(topology, "shop", role="shop_owner", application_name="test") as owner,
            owner.write() as session,
        ):
            await session.execute(text("ANALYZE outbox"))
