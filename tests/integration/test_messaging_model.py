"""Outbox and inbox against a model of them: whatever happens, each message has its effect once and in turn.

The model is a list of words for each order. Hypothesis draws what happens: transactions that commit late,
relays that crash between the three parts of a turn, relays and consumers beside each other, copies of
messages and of acknowledgements, and a Redis that forgets everything.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from sqlalchemy import delete

from app.messaging.consumer import Consumer
from app.messaging.message import Message
from app.messaging.relay import Relay
from app.messaging.routing import ServiceName
from app.messaging.streams import acks_stream, fields_of
from app.models.crm import CrmInbox, CrmOrderEvent
from app.models.shop import ShopOutbox
from readreplica.sessions import WriteSession
from readreplica.token import Committed
from sharding.topology import Topology
from tests.integration.messaging_rig import STREAM, Rig, anything, note, open_rig, owe, running, until
from tests.message_keys import signer_of

ORDERS = st.integers(min_value=1, max_value=4)
ACKS = acks_stream("shop")


class Crash(Exception):
    """The process ended here."""


class CrashingPipeline:
    """A pipeline of Redis that ends its process before, within or after what it sends.

    Parameters:
        at: "looked" (after the relay has read Redis, so before its transaction), "claimed" (after its
            transaction, before anything is sent) or "sent" (before the acknowledgements are deleted).
    """

    def __init__(self, real: Pipeline, at: str) -> None:
        self._real = real
        self._at = at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def execute(self, **options: Any) -> Any:
        commands = self._real.command_stack
        writes = any(command[0][0] in {"XADD", "XDEL"} for command in commands)
        if writes and self._at == "claimed":
            raise Crash
        if writes and self._at == "sent":
            commands[:] = [command for command in commands if command[0][0] != "XDEL"]
        reply = await self._real.execute(**options)
        if self._at == ("sent" if writes else "looked"):
            raise Crash
        return reply


class CrashingRedis:
    """A client of Redis whose pipelines crash."""

    def __init__(self, real: Redis, at: str) -> None:
        self._real = real
        self._at = at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def pipeline(self, **options: Any) -> CrashingPipeline:
        return CrashingPipeline(self._real.pipeline(**options), self._at)


@dataclass
class LateTransaction:
    """A transaction of the Shop that has written a message, and has not ended."""

    word: str
    session: WriteSession
    stack: AsyncExitStack


class Messages(RuleBasedStateMachine):
    """What may happen between the Shop's outbox and the CRM's inbox."""

    topology: Topology

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._words = (f"w{number}" for number in count())
        self._owed: dict[int, list[str]] = {}
        self._late: dict[int, LateTransaction] = {}
        self._copies: list[dict[str, str]] = []
        self.rig: Rig = self._run(self._open())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    async def _open(self) -> Rig:
        rig = await self._stack.enter_async_context(open_rig(self.topology))
        async with rig.shop.write() as session:
            await session.execute(delete(ShopOutbox))
        async with rig.crm.write() as session:
            await session.execute(delete(CrmInbox))
            await session.execute(delete(CrmOrderEvent))
        await rig.wipe()
        return rig

    # What the Shop does. The writer of an order holds its row: its transactions come one after the other.

    @rule(order_id=ORDERS)
    def owe(self, order_id: int) -> None:
        if order_id not in self._late:
            word = next(self._words)
            self._run(self.rig.owe(order_id, word))
            self._owed.setdefault(order_id, []).append(word)

    @rule(order_id=ORDERS)
    def begin_late(self, order_id: int) -> None:
        if order_id not in self._late:
            self._run(self._begin(order_id, next(self._words)))

    async def _begin(self, order_id: int, word: str) -> None:
        stack = AsyncExitStack()
        session = await stack.enter_async_context(self.rig.shop.write())
        await owe(session, order_id, word)
        await session.flush()
        self._late[order_id] = LateTransaction(word, session, stack)

    @precondition(lambda self: self._late)
    @rule(commits=st.booleans(), data=st.data())
    def end_late(self, commits: bool, data: st.DataObject) -> None:
        order_id = data.draw(st.sampled_from(sorted(self._late)))
        self._run(self._end(order_id, commits=commits))

    async def _end(self, order_id: int, *, commits: bool) -> None:
        late = self._late.pop(order_id)
        if not commits:
            await late.session.rollback()
        await late.stack.aclose()
        if commits:
            self._owed.setdefault(order_id, []).append(late.word)

    # What relays do.

    @rule(relays=st.integers(min_value=1, max_value=3), is_late=st.booleans())
    def relay(self, relays: int, is_late: bool) -> None:
        self._run(self._relay(relays, is_late=is_late))

    async def _relay(self, relays: int, *, is_late: bool) -> None:
        """Have relays take a turn at once; `is_late`: so late that every back-off is over."""
        if is_late:
            await self.rig.make_due()
        await asyncio.gather(*(self.rig.relay(retry_seconds=60).turn() for _ in range(relays)))

    @rule(at=st.sampled_from(["looked", "claimed", "sent"]), is_late=st.booleans())
    def crash_a_relay(self, at: str, is_late: bool) -> None:
        self._run(self._crash(at, is_late=is_late))

    async def _crash(self, at: str, *, is_late: bool) -> None:
        if is_late:
            await self.rig.make_due()
        redis: Any = CrashingRedis(self.rig.redis, at)
        relay = Relay(
            self.rig.worker_shop,
            redis,
            ShopOutbox,
            source="shop",
            signer=signer_of(ServiceName.SHOP),
            poll_seconds=0.005,
            retry_seconds=60,
        )
        try:
            await relay.turn()
        except Crash:
            return

    # What consumers do.

    @rule(consumers=st.integers(min_value=1, max_value=2), dies=st.sampled_from(["", "handled", "committed"]))
    def consume(self, consumers: int, dies: str) -> None:
        self._run(self._consume(consumers, dies=dies))

    async def _consume(self, consumers: int, *, dies: str) -> None:
        """Have consumers work until nothing is in the stream; those that die do not answer."""
        async with running(*(self._consumer(dies) for _ in range(consumers))):
            await until(self._is_empty)

    async def _is_empty(self) -> bool:
        return not await self.rig.redis.xlen(STREAM)

    def _consumer(self, dies: str) -> Consumer:
        async def handle(session: WriteSession, message: Message) -> None:
            await note(session, message)
            if dies == "handled":
                await session.flush()
                raise ConnectionError

        async def transact(_: int, work: Callable[[WriteSession], Awaitable[bool]], /) -> Committed[bool]:
            done: Committed[bool] = await self.rig.worker_crm.transact(work)
            if dies == "committed":
                raise ConnectionError
            return done

        return Consumer(
            self.rig.redis,
            signer=signer_of(ServiceName.CRM),
            inbox=CrmInbox,
            transact=transact,
            handle=handle,
            may_send=anything,
            block_seconds=0.01,
        )

    # What Redis does.

    @rule()
    def wipe(self) -> None:
        self._run(self.rig.wipe())

    @rule()
    def remember_copies(self) -> None:
        self._copies += self._run(self.rig.sent())

    @precondition(lambda self: self._copies)
    @rule(data=st.data())
    def repeat_a_message(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self._copies))
        self._run(self._repeat_message(entry))

    async def _repeat_message(self, entry: dict[str, str]) -> None:
        await self.rig.redis.xadd(STREAM, fields_of(entry))

    @rule()
    def repeat_acknowledgements(self) -> None:
        self._run(self._repeat_acknowledgements())

    async def _repeat_acknowledgements(self) -> None:
        entries: Any = await self.rig.redis.xrange(ACKS)
        for _, fields in entries:
            await self.rig.redis.xadd(ACKS, fields)

    # What always holds.

    @invariant()
    def effects_are_a_prefix_of_what_was_committed(self) -> None:
        history = self._run(self.rig.history())
        still_owed = self._run(self.rig.owed())
        for order_id, words in self._owed.items():
            done = history.pop(order_id, [])
            assert done == words[: len(done)]
            in_outbox = [row.data["actor"] for row in still_owed if row.order_id == order_id]
            # What is not done is owed; what was done last may be owed still, until it is acknowledged.
            assert in_outbox == words[len(words) - len(in_outbox) :]
            assert len(done) <= len(words) <= len(done) + len(in_outbox)
        assert history == {}

    def teardown(self) -> None:
        """Let everything end, without further trouble: what was committed is done, and nothing is owed."""
        try:
            self._run(self._settle())
            assert self._run(self.rig.history()) == {
                order: words for order, words in self._owed.items() if words
            }
            assert self._run(self.rig.owed()) == []
        finally:
            self._run(self._stack.aclose())
            self._runner.close()

    async def _settle(self) -> None:
        for order_id in list(self._late):
            await self._end(order_id, commits=True)
        await self.rig.make_due()
        async with running(self.rig.relay(), self._consumer("")):
            await self.rig.until_settled()


# To shrink what has failed takes minutes with real servers; its steps are printed all the same.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.fixture
def machine(module_topology: Topology) -> type[Messages]:
    return type("MessagesOfThisTest", (Messages,), {"topology": module_topology})


@pytest.mark.long
def test_messages_do_what_the_model_does(machine: type[Messages]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=15, stateful_step_count=25, phases=PHASES)
    )


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_messages_do_what_the_model_does_for_long(machine: type[Messages]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=500, stateful_step_count=60, phases=PHASES)
    )
