"""A message names the trace in which it was written, and code of older releases gets it all the same."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, use_span
from pydantic import AwareDatetime, Field, PlainValidator, SerializeAsAny
from sqlalchemy import func, text, update

from app.kit.telemetry import cause_of, traceparent_of
from app.messaging import message as messages
from app.messaging.events import Event, Frozen
from app.messaging.message import SENT, TOKEN, Ack, Message, decode
from app.messaging.streams import fields_of
from app.messaging.tracing import is_fresh
from app.models.shop import ShopOutbox
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken
from sharding.topology import Topology
from tests.integration.messaging_rig import Rig, note, open_rig, running, signed_ack, signed_copy

TRACE, SPAN = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def rig(topology: Topology) -> AsyncIterator[Rig]:
    async with open_rig(topology) as rig:
        yield rig


@contextmanager
def in_trace() -> Iterator[None]:
    context = SpanContext(TRACE, SPAN, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    with use_span(NonRecordingSpan(context)):
        yield


async def owe_in_trace(rig: Rig) -> None:
    """Owe a message of right now: to what is old there is but a link."""
    with in_trace():
        await rig.owe(1, "a")
    async with rig.shop.write() as session:
        await session.execute(update(ShopOutbox).values(created_at=func.now()))


def now_in() -> int:
    return get_current_span().get_span_context().trace_id


async def test_what_handles_a_message_is_in_the_trace_in_which_it_was_written(rig: Rig) -> None:
    seen: list[tuple[int, str | None]] = []

    async def handle(session: WriteSession, message: Message) -> None:
        seen.append((now_in(), message.traceparent))
        await note(session, message)

    await owe_in_trace(rig)
    await rig.owe(2, "written in none")
    async with running(rig.relay(), rig.consumer(handle)):
        await rig.until_settled()
    assert sorted(seen, key=str) == [(0, None), (TRACE, PARENT)]
    assert await rig.history() == {1: ["a"], 2: ["written in none"]}


@pytest.mark.parametrize(
    "strange",
    ["", "00", PARENT.upper() + "x", "zz" * 2000, "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "\x00"],
)
async def test_a_traceparent_that_is_none_is_ignored(rig: Rig, strange: str) -> None:
    await rig.owe(1, "a")
    async with rig.shop.write() as session:
        await session.execute(update(ShopOutbox).values(traceparent=strange.replace("\x00", "?")))
    await rig.relay().turn()
    [sent] = await rig.sent()
    forged = signed_copy({**sent, "traceparent": strange})
    await rig.redis.flushall()
    await rig.redis.xadd("orders:crm", fields_of(forged))
    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()
    assert await rig.history() == {1: ["a"]}


async def test_a_consumer_of_an_older_release_gets_the_message_again_without_its_trace(rig: Rig) -> None:
    """It refuses what it does not know, and a message must not become a dead letter for its trace."""
    await owe_in_trace(rig)
    relay = rig.relay(retry_seconds=0)
    await relay.turn()
    [sent] = await rig.sent()
    assert sent["traceparent"] == PARENT
    reason = f"message {sent['id']} is malformed: traceparent: Extra inputs are not permitted"
    ack: dict[str, Any] = {"id": sent["id"], "outcome": "set_aside", "reason": reason}
    await rig.redis.delete("orders:crm")
    await rig.redis.xadd("acks:shop", fields_of(signed_ack(ack)))
    await rig.make_due()
    await relay.turn()
    [owed] = await rig.owed()
    assert owed.set_aside_at is None
    [again] = await rig.sent()
    assert "traceparent" not in again
    assert decode({key: again[key] for key in again if key not in {"signer", "destination", "signature"}})
    async with running(relay, rig.consumer()):
        await rig.until_settled()
    assert await rig.history() == {1: ["a"]}


class FormerMessage(Frozen):
    """A message as the release before `traceparent` reads it: what it does not know, it refuses."""

    id: UUID
    source: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    subject: str = Field(pattern=r"^[0-9]{1,19}$")
    time: AwareDatetime
    data: SerializeAsAny[Event]
    attempt: int = Field(default=1, ge=1)
    sent: AwareDatetime | None = Field(default=None, alias=SENT)
    token: Annotated[CausalToken, PlainValidator(CausalToken.decode)] = Field(
        default=CausalToken(), alias=TOKEN
    )

    @property
    def type(self) -> str:
        return self.data.type

    @property
    def order_id(self) -> int:
        return int(self.subject)


@pytest.fixture
def former_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "Message", FormerMessage)


@pytest.fixture
def former_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have acknowledgements understood as the release before `traceparent` does: a refusal is one."""
    monkeypatch.setattr(Ack, "is_of_older_code", property(lambda _ack: False))


@pytest.mark.usefixtures("former_consumer", "former_relay")
async def test_what_is_not_sent_makes_no_dead_letter_between_relay_and_consumer_of_the_former_release(
    rig: Rig,
) -> None:
    """While a release is rolled out, relays of both forms settle what a relay of either form has sent."""
    await owe_in_trace(rig)
    async with running(rig.relay(send_traceparent=False), rig.consumer()):
        await rig.until_settled()
    assert await rig.owed() == []
    assert await rig.history() == {1: ["a"]}


@pytest.mark.usefixtures("former_consumer", "former_relay")
async def test_a_trace_sent_too_early_is_a_dead_letter_where_a_former_relay_settles_it(rig: Rig) -> None:
    await owe_in_trace(rig)
    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()
    [owed] = await rig.owed()
    assert owed.set_aside_reason is not None
    assert owed.set_aside_reason.endswith("traceparent: Extra inputs are not permitted")


@pytest.mark.usefixtures("former_consumer")
async def test_a_trace_sent_too_early_is_withheld_where_this_relay_settles_it(rig: Rig) -> None:
    await owe_in_trace(rig)
    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()
    assert await rig.owed() == []
    assert await rig.history() == {1: ["a"]}


async def test_nothing_is_put_into_a_message_where_the_setting_is_off(rig: Rig) -> None:
    await owe_in_trace(rig)
    await rig.relay(send_traceparent=False).turn()
    [sent] = await rig.sent()
    assert "traceparent" not in sent


async def test_the_relay_and_the_consumer_of_an_older_release_find_their_rows(rig: Rig) -> None:
    """Old code names no `traceparent`, neither in what it writes nor in what it reads."""
    async with rig.shop.write() as session:
        await session.execute(
            text(
                "INSERT INTO outbox (order_id, message_id, destination, type, data)"
                " VALUES (7, gen_random_uuid(), 'crm', 'order.shipped', '{\"actor\": \"old\"}')"
            )
        )
    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()
    assert await rig.history() == {7: ["old"]}


def test_only_the_refusal_of_an_older_release_is_one() -> None:
    refused = "message 1 is malformed: traceparent: Extra inputs are not permitted"
    assert Ack(uuid4(), "crm", refused).is_of_older_code
    assert not Ack(uuid4(), "crm", "order 1 is CLOSED").is_of_older_code
    assert not Ack(uuid4(), "crm").is_of_older_code


def test_work_of_much_later_is_linked_to_its_cause_and_is_no_part_of_it() -> None:
    written = "2026-12-02T09:00:00+00:00"
    assert is_fresh(written, datetime(2026, 12, 2, 9, 10, tzinfo=UTC))
    assert not is_fresh(written, datetime(2026, 12, 2, 9, 10, 1, tzinfo=UTC))
    context, links = cause_of(PARENT, is_fresh=True)
    assert (get_current_span(context).get_span_context().trace_id, links) == (TRACE, [])
    context, links = cause_of(PARENT, is_fresh=False)
    assert not get_current_span(context).get_span_context().is_valid
    assert [link.context.trace_id for link in links] == [TRACE]
    assert cause_of(None)[1] == []
    with in_trace():
        assert traceparent_of() == PARENT
    assert traceparent_of() is None
