"""What the messages promise: each once, those of one order in turn, and one order never holds up another."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import event, func, insert, select, update
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from app.flow.control import SenderMeter
from app.messaging.errors import NotYet
from app.messaging.message import Message
from app.messaging.streams import fields_of
from app.models.crm import CrmInbox
from app.models.shop import ShopOrder, ShopOutbox
from app.models.status import Channel, IllegalTransition, Status
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken
from sharding.topology import Topology
from tests.integration.messaging_rig import AT, STREAM, Rig, note, open_rig, owe, running, until


@pytest.fixture
async def rig(topology: Topology) -> AsyncIterator[Rig]:
    async with open_rig(topology) as rig:
        yield rig


async def test_messages_arrive_in_turn_and_are_then_owed_no_more(rig: Rig) -> None:
    await rig.owe(1, "a", "b", "c")
    await rig.owe(2, "x", "y")

    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()

    assert await rig.history() == {1: ["a", "b", "c"], 2: ["x", "y"]}
    assert await rig.owed() == []
    assert await rig.redis.xlen(STREAM) == 0


async def test_nothing_is_sent_that_was_rolled_back(rig: Rig) -> None:
    async with rig.shop.write() as session:
        await owe(session, 1, "a")
        await session.rollback()
    await rig.owe(1, "b")

    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()

    assert await rig.history() == {1: ["b"]}


async def test_a_relay_that_owes_nothing_opens_no_transaction(rig: Rig) -> None:
    """It looks ten times a second, in every process, and there is nothing nearly always."""
    begun: list[object] = []
    relay = rig.relay()
    await rig.owe(1, "a")
    async with running(relay, rig.consumer()):
        await rig.until_settled()
    event.listen(rig.worker_shop.primary.sync_engine, "begin", begun.append)
    for _ in range(20):
        await relay.turn()
    assert begun == []
    await rig.owe(1, "b")
    await relay.turn()
    assert (len(begun), [entry["subject"] for entry in await rig.sent()]) == (1, ["1"])


async def test_a_sender_that_ignores_its_grant_is_named_and_all_of_it_is_handled_in_the_end(rig: Rig) -> None:
    seconds = 0.0
    meter = SenderMeter(floor=1.0, clock=lambda: seconds)
    meter.hear("shop", 1.0, 1)
    for order_id in range(30):
        await rig.owe(order_id, "a")
    with capture_logs() as logged:
        async with running(rig.relay(), rig.consumer(receives=meter.receive)):

            async def is_postponed() -> bool:
                return len(await rig.history()) == 21 and any(
                    line["event"] == "grant_ignored" for line in logged
                )

            await until(is_postponed)  # twice its rate for ten seconds, and a burst
            assert len(await rig.owed()) >= 9
            seconds += 11
            await rig.until_settled()
    assert await rig.history() == {order_id: ["a"] for order_id in range(30)}


async def test_only_the_oldest_message_of_an_order_is_under_way(rig: Rig) -> None:
    await rig.owe(1, "a", "b")
    await rig.owe(2, "x")

    await rig.relay(retry_seconds=60).turn()

    assert sorted(entry["subject"] for entry in await rig.sent()) == ["1", "2"]


async def test_a_repeated_message_has_its_effect_once(rig: Rig) -> None:
    await rig.owe(1, "a")
    await rig.relay().turn()
    [entry] = await rig.sent()
    for _ in range(20):  # more than are handled at once, so that copies also meet each other
        await rig.redis.xadd(STREAM, fields_of(entry))

    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()
        await rig.owe(1, "b")
        await rig.until_settled()

    assert await rig.history() == {1: ["a", "b"]}


async def test_a_row_that_commits_late_is_not_skipped(rig: Rig) -> None:
    async with running(rig.relay(), rig.consumer()):
        async with rig.shop.write() as late:
            await owe(late, 1, "late")
            await rig.owe(2, "early")
            await rig.until_settled()
            assert await rig.history() == {2: ["early"]}
        await until(lambda: _knows(rig, 1))

    assert await rig.history() == {1: ["late"], 2: ["early"]}


async def _knows(rig: Rig, order_id: int) -> bool:
    return order_id in await rig.history()


async def test_a_message_that_came_too_early_comes_again(rig: Rig) -> None:
    async def handle(session: WriteSession, message: Message) -> None:
        if message.order_id == 1 and 2 not in await rig.history():
            raise NotYet(1, "order 2")
        await note(session, message)

    await rig.owe(1, "a")
    async with running(rig.relay(), rig.consumer(handle, max_attempts=1)):
        await until(lambda: _was_sent(rig, attempts=3))
        await rig.owe(2, "x")
        await rig.until_settled()

    assert await rig.history() == {1: ["a"], 2: ["x"]}


async def _was_sent(rig: Rig, *, attempts: int) -> bool:
    return any(row.attempts >= attempts for row in await rig.owed())


async def test_a_forbidden_message_holds_up_its_own_order_only(rig: Rig) -> None:
    is_forbidden = True

    async def handle(session: WriteSession, message: Message) -> None:
        await note(session, message)
        if is_forbidden and message.order_id == 1:
            raise IllegalTransition(1, Status.CLOSED, Status.SHIPPED)

    await rig.owe(1, "a", "b")
    await rig.owe(2, "x", "y")
    async with running(rig.relay(retry_seconds=60), rig.consumer(handle)):
        await until(lambda: _owes_only(rig, 1))
        aside, behind = await rig.owed()
        assert "order 1 is CLOSED and cannot become SHIPPED" in (aside.set_aside_reason or "")
        assert (aside.attempts, behind.attempts) == (1, 0)
        assert await rig.history() == {2: ["x", "y"]}

        is_forbidden = False
        async with rig.shop.write() as session:
            released = {"set_aside_at": None, "set_aside_reason": None, "next_attempt_at": AT}
            await session.execute(update(ShopOutbox).values(released))
        await rig.until_settled()

    assert await rig.history() == {1: ["a", "b"], 2: ["x", "y"]}


async def _owes_only(rig: Rig, order_id: int) -> bool:
    owed = await rig.owed()
    return {row.order_id for row in owed} == {order_id} and owed[0].set_aside_at is not None


async def test_what_is_set_aside_is_not_sent(rig: Rig) -> None:
    await rig.owe(1, "a", "b")
    [first, _] = await rig.owed()
    async with rig.shop.write() as session:
        aside = update(ShopOutbox).where(ShopOutbox.sequence == first.sequence).values(set_aside_at=AT)
        await session.execute(aside)

    await rig.relay().turn()

    assert await rig.sent() == []


async def test_publishing_holds_the_lock_of_the_changed_order(rig: Rig) -> None:
    async with rig.shop.write() as session:
        session.add(started_order(1))
    async with rig.shop.write() as session:
        order = await session.get_one(ShopOrder, 1)
        order.summary = "a better ring"
        await owe(session, 1, "a")

        async with rig.shop.write() as another:
            with pytest.raises(OperationalError, match="could not obtain lock"):
                await another.scalar(select(ShopOrder).with_for_update(nowait=True))
            await another.rollback()


def started_order(order_id: int) -> ShopOrder:
    return ShopOrder(
        order_id=order_id,
        status=Status.INITIATED,
        channel=Channel.B2C,
        summary="a ring",
        customer_name="Ana",
        customer_email="ana@example.com",
        material="brass",
        finish="matte",
        quantity=1,
        idempotency_key="key",
    )


async def test_an_unforeseen_error_has_a_few_attempts(rig: Rig) -> None:
    async def handle(session: WriteSession, message: Message) -> None:
        raise KeyError("ring")

    await rig.owe(1, "a")
    with capture_logs() as logs:
        async with running(rig.relay(retry_seconds=0.3), rig.consumer(handle, max_attempts=3)):
            await rig.until_settled()

    [aside] = await rig.owed()
    assert aside.set_aside_reason == "KeyError: 'ring'"
    verdicts = [log["event"] for log in logs if log["event"] in {"message_postponed", "message_refused"}]
    # On a slow machine a copy may be sent before the relay has heard of the refusal.
    assert verdicts[:3] == ["message_postponed", "message_postponed", "message_refused"]


async def test_a_malformed_message_is_set_aside_with_its_fault(rig: Rig) -> None:
    await rig.owe(1, "a")
    async with rig.shop.write() as session:
        await session.execute(update(ShopOutbox).values(type="order.melted"))
    await rig.owe(2, "x")

    async with running(rig.relay(), rig.consumer()):
        await until(lambda: _owes_only(rig, 1))

    [aside] = await rig.owed()
    assert "unknown type 'order.melted'" in (aside.set_aside_reason or "")
    assert await rig.history() == {2: ["x"]}


async def test_foreign_entries_do_no_harm(rig: Rig) -> None:
    await rig.redis.xadd(STREAM, {"hello": "world"})
    await rig.redis.xadd("acks:shop", {"hello": "world"})
    await rig.owe(1, "a")

    async def no_answer_is_left() -> bool:
        return await rig.redis.xlen("acks:shop") == 0

    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()
        # On a busy machine the message was sent again, and its last answer comes after it is settled.
        await until(no_answer_is_left)

    assert await rig.history() == {1: ["a"]}


async def test_what_is_not_acknowledged_is_sent_again_later_and_later(rig: Rig) -> None:
    await rig.owe(1, "a")
    relay = rig.relay(retry_seconds=60, look_seconds=0)

    await relay.turn()
    await relay.turn()
    assert await rig.redis.xlen(STREAM) == 1

    # As by a consumer that was killed as soon as it had received it.
    await rig.redis.xgroup_create(STREAM, "crm", id="0")
    await rig.redis.xreadgroup("crm", "crm", {STREAM: ">"}, noack=True)
    await rig.make_due()
    await relay.turn()
    [row] = await rig.owed()
    assert (row.attempts, await rig.redis.xlen(STREAM)) == (2, 2)


async def test_a_new_message_is_sent_though_the_clock_has_stepped_back(rig: Rig) -> None:
    await rig.owe(1, "a")
    async with rig.shop.write() as session:
        written_before_the_step = func.now() + timedelta(hours=1)
        await session.execute(update(ShopOutbox).values(next_attempt_at=written_before_the_step))

    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()

    assert await rig.history() == {1: ["a"]}


async def test_what_still_waits_in_the_stream_is_not_sent_again(rig: Rig) -> None:
    await rig.redis.xadd(STREAM, {"waits": "since 1970"}, id="1-0")
    await rig.owe(1, "a")
    await rig.relay().turn()

    await rig.make_due()
    await rig.relay().turn()
    assert len(await rig.sent()) == 2

    await rig.redis.delete(STREAM)  # as if both had been received
    await rig.relay().turn()
    assert len(await rig.sent()) == 1


async def test_two_relays_send_each_message_once(rig: Rig) -> None:
    for order_id in range(1, 41):
        await rig.owe(order_id, "a")
    relays = [rig.relay(retry_seconds=60) for _ in range(4)]

    worked = await asyncio.gather(*(relay.turn() for relay in relays))

    assert any(worked)
    assert await rig.redis.xlen(STREAM) == 40


async def test_a_stop_lets_the_handler_finish(rig: Rig) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handle(session: WriteSession, message: Message) -> None:
        begun.set()
        await go_on.wait()
        await note(session, message)

    await rig.owe(1, "a")
    await rig.relay().turn()
    stop = asyncio.Event()
    consumer = asyncio.create_task(rig.consumer(handle).run(stop))
    async with asyncio.timeout(10):
        await begun.wait()
        stop.set()
        go_on.set()
        await consumer

    assert await rig.history() == {1: ["a"]}
    await rig.relay().turn()
    assert await rig.owed() == []


async def test_what_nobody_could_be_told_of_comes_again(rig: Rig) -> None:
    told: list[CausalToken] = []

    async def learned(order_id: int, token: CausalToken) -> None:
        told.append(token)
        if len(told) == 1:
            raise ConnectionError("luck")

    await rig.owe(1, "a")
    async with running(rig.relay(), rig.consumer(learned=learned)):
        await rig.until_settled()

    assert await rig.history() == {1: ["a"]}
    assert [set(token.positions) for token in told[:2]] == [{"shop"}, {"shop"}]


async def test_a_slow_order_does_not_hold_up_the_others(rig: Rig) -> None:
    go_on = asyncio.Event()

    async def handle(session: WriteSession, message: Message) -> None:
        if message.order_id == 1:
            await go_on.wait()
        await note(session, message)

    await rig.owe(1, "a")
    for order_id in range(2, 30):
        await rig.owe(order_id, "x", "y")
    async with running(rig.relay(retry_seconds=60), rig.consumer(handle)):
        await until(lambda: _owes_order(rig, 1))
        go_on.set()
        await rig.until_settled()

    assert len(await rig.history()) == 29


async def _owes_order(rig: Rig, order_id: int) -> bool:
    return {row.order_id for row in await rig.owed()} == {order_id}


async def test_a_message_in_the_inbox_is_acknowledged_without_being_handled(rig: Rig) -> None:
    await rig.owe(1, "a")
    [row] = await rig.owed()
    async with rig.crm.write() as session:
        await session.execute(
            insert(CrmInbox).values(order_id=1, message_id=row.message_id, source="shop", type=row.type)
        )

    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()

    assert await rig.history() == {}
