"""The consumer: hands each message to its service once, and acknowledges it to the relay that sent it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Literal, Protocol

import structlog
from opentelemetry.trace import StatusCode, get_current_span
from psycopg.errors import ReadOnlySqlTransaction
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError

from app import instruments
from app.kit.errors import AppError
from app.messaging.backoff import repeat_with_backoff
from app.messaging.errors import (
    EntryRefused,
    MessageMalformed,
    MessageNotAllowed,
    NotYet,
    StreamUnusable,
    shortened,
)
from app.messaging.events import EVENTS, Event
from app.messaging.inbox import record
from app.messaging.message import Ack, Message, decode, sender_of
from app.messaging.routing import ServiceName, may_send
from app.messaging.signing import EntrySigner, Refusals
from app.messaging.streams import (
    MAX_ENTRIES,
    FaultLog,
    acks_stream,
    entries_of,
    fields_of,
    id_after,
    id_of,
    orders_stream,
)
from app.messaging.tracing import note_outcome, processing
from app.models.base import InboxRow
from app.models.status import IllegalTransition
from readreplica.context import causality
from readreplica.errors import Unavailable
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken, Committed

# psycopg's OperationalError covers a lost connection, a full server, a lock that was not granted, a deadlock
# and a failed serialization (classes 08, 53, 55, 57, 40).
_PASSING = (
    NotYet,
    Unavailable,
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    StaleDataError,
    ConnectionError,
    TimeoutError,
)
_FINAL = (AppError, IllegalTransition)

Handler = Callable[[WriteSession, Message], Awaitable[None]]
"""Does what a message asks for, in the transaction that it is given; must not commit."""


class Transact(Protocol):
    """Runs `work` in a transaction on the database of the order, and repeats it on 40001."""

    async def __call__(
        self, order_id: int, work: Callable[[WriteSession], Awaitable[bool]], /
    ) -> Committed[bool]:
        """Return what `work` returned, once it is committed."""


MaySend = Callable[[ServiceName, Event, ServiceName], bool]
"""Returns whether a service may send an event to another; see `app.messaging.routing.may_send`."""

Learned = Callable[[int, CausalToken], Awaitable[None]]
"""Called with an order's id and the token that a read must have seen to see what a message has changed."""


async def _keep_nothing(_order_id: int, _token: CausalToken) -> None:
    """Keep no token."""


Receives = Callable[[str], bool]
"""Asked with who has sent a message; False if it has sent far too many, and this one comes again."""


def receives_all(_sender: str) -> bool:
    """Receive everything."""
    return True


class Consumer:
    """Handles the messages to one service. Several processes may run one; Redis shares the messages out.

    An entry of the stream is only a copy of an outbox row. It is taken out of the stream as soon as it is
    received, and there is no pending list (NOACK): what is not acknowledged to its relay, for whatever
    reason, is sent again. So a killed consumer or a wiped Redis leaves nothing that must be mended.

    Messages of different orders are handled at the same time. Those of one order cannot be: the relay
    sends the next one only when this one is acknowledged.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        signer: EntrySigner,
        inbox: type[InboxRow],
        transact: Transact,
        handle: Handler,
        learned: Learned = _keep_nothing,
        may_send: MaySend = may_send,
        receives: Receives = receives_all,
        concurrency: int = 8,
        max_attempts: int = 5,
        block_seconds: float = 0.5,
    ) -> None:
        """Make a consumer; `run` starts it.

        Parameters:
            redis: a client made by `open_redis`.
            signer: of the service that receives, whose name is the stream's and the group's.
            inbox: the inbox's model in the service's database.
            transact: runs a unit of work on the database that holds an order.
            handle: does what a message asks for.
            learned: called for each message, once it is committed.
            may_send: says which events are taken of whom.
            receives: says whether a message is handled now, by who has sent it.
            concurrency: the most messages handled at once; no more than the pool has connections.
            max_attempts: sendings after which an unforeseen error makes a message a dead letter.
            block_seconds: how long a stop may wait for an idle consumer.
        """
        self._redis = redis
        self._signer = signer
        self._group = signer.service.value
        self._stream = orders_stream(signer.service)
        self._inbox = inbox
        self._transact = transact
        self._handle = handle
        self._learned = learned
        self._may_send = may_send
        self._receives = receives
        self._concurrency = concurrency
        self._max_attempts = max_attempts
        self._block_ms = max(1, round(block_seconds * 1000))
        self._running: set[asyncio.Task[None]] = set()
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("consumer")
        self._faults = FaultLog(self._log)
        self.refusals = Refusals(self._log)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what was begun. Outages of Redis are waited out."""
        async with asyncio.TaskGroup() as tasks:
            await repeat_with_backoff(partial(self._receive, tasks), stop=stop, log=self._log)

    async def _receive(self, tasks: asyncio.TaskGroup) -> None:
        if len(self._running) >= self._concurrency:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        for entry in await self._take(self._concurrency - len(self._running)):
            task = tasks.create_task(self._process(entry))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _take(self, count: int) -> list[Mapping[str, str]]:
        """Wait for entries and take them out of the stream.

        Raises:
            StreamUnusable: the stream's key is of another type, or Redis refuses to read it.
        """
        try:
            return await self._read(count)
        except ResponseError as error:
            # There is no group yet, or Redis was wiped, perhaps while this waited (UNBLOCKED) or just now.
            if not str(error).startswith(("NOGROUP", "UNBLOCKED", "no such key")):
                raise StreamUnusable(self._stream, str(error)) from error
        await self._create_group()
        return []

    async def _read(self, count: int) -> list[Mapping[str, str]]:
        reply = await self._redis.xreadgroup(
            # Every process may bear one name: it matters to the pending list only.
            self._group,
            self._group,
            {self._stream: ">"},
            count=count,
            block=self._block_ms,
            noack=True,
        )
        entries = entries_of(reply)
        if entries:
            # Whatever is before these was received as well, perhaps by a process that was killed just then.
            first_kept = id_after(entries[-1][0])
            await self._redis.xtrim(self._stream, minid=first_kept, approximate=False)
        elif await self._redis.xlen(self._stream):
            await self._tidy()
        return [fields for _, fields in entries]

    async def _tidy(self) -> None:
        """Take out what was received and stayed, as by a killed process: relays would think that it waits.

        Where the group stands beyond the stream's last id, it would get nothing: then begin again. Only a
        hand sets it so. What it has received before is received again, and the inbox knows it.
        """
        last = id_of((await self._redis.xinfo_stream(self._stream))["last-generated-id"])
        for group in await self._redis.xinfo_groups(self._stream):
            if group["name"] != self._group:
                continue
            position = str(group["last-delivered-id"])
            if id_of(position) > last:
                self._log.warning("group_beyond_its_stream", position=position)
                await self._redis.xgroup_setid(self._stream, self._group, "0")
            else:
                await self._redis.xtrim(self._stream, minid=id_after(position), approximate=False)

    async def _create_group(self) -> None:
        try:
            # From 0: what was sent before the group was there is for it as well.
            await self._redis.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # another process was faster
                raise StreamUnusable(self._stream, str(error)) from error

    async def _process(self, entry: Mapping[str, str]) -> None:
        """Handle one entry and answer for it. Never raises: an unanswered message comes again."""
        known = {"order_id": "subject", "message_id": "id", "message_type": "type"}
        bound = {name: shortened(entry.get(key, "")) for name, key in known.items()}
        with structlog.contextvars.bound_contextvars(**bound):
            try:
                sender, entry = self._signer.verify(entry, kind="message", destination=self._group)
                with processing(self._stream, self._group, entry):
                    ack = await self._outcome(sender, entry)
                    if ack is not None:
                        await self._answer(sender, entry["source"], ack)
            except EntryRefused as error:
                self.refusals.note(error)
            except Exception as error:
                self._log.error("message_unanswered", error=shortened(str(error)))

    async def _answer(self, sender: ServiceName, source: str, ack: Ack) -> None:
        stream = acks_stream(source)
        signed = self._signer.sign(ack.encode(), kind="acknowledgement", destination=source, peer=sender)
        try:
            await self._redis.xadd(stream, fields_of(signed), maxlen=MAX_ENTRIES, approximate=True)
        except ResponseError as fault:
            self._faults.note(stream, "write", fault)
            self._log.error("message_unanswered", error=shortened(str(fault)))
        else:
            self._faults.note(stream, "write", None)

    async def _outcome(self, sender: ServiceName, entry: Mapping[str, str]) -> Ack | None:
        """Handle one entry; None if it is to come again, or no relay could be answered."""
        try:
            message = self._message(sender, entry)
        except (MessageMalformed, MessageNotAllowed) as error:
            return self._unread(entry, error)
        if not self._receives(sender.value):
            instruments.message_handled(message.source, message.type, "postponed")
            return None
        try:
            # What the handler reads or asks for elsewhere is to be as new as the message.
            with causality(message.token) as here:
                done = await self._transact(message.order_id, partial(self._once, message))
        except Exception as error:
            return self._refusal(message, error)
        # Before the acknowledgement: a message whose token was not kept comes again, and it is kept then.
        await self._learned(message.order_id, here.token)
        outcome: Literal["handled", "repeated"] = "handled" if done.value else "repeated"
        note_outcome(message.source, message.type, outcome)
        if done.value:
            self._log.info("message_handled")
        else:
            self._log.info("message_repeated")
        return Ack(message.id, self._group, order_id=message.order_id)

    def _message(self, sender: ServiceName, entry: Mapping[str, str]) -> Message:
        message = decode(entry)
        if not self._may_send(sender, message.data, self._signer.service):
            raise MessageNotAllowed(sender, message.type, self._group)
        return message

    def _unread(self, entry: Mapping[str, str], error: AppError) -> Ack | None:
        sender = sender_of(entry)
        if sender is None:
            # No relay has sent it, so none waits for an answer.
            self._log.warning("message_dropped", error=str(error))
            return None
        note_outcome(
            sender[0], entry["type"] if entry.get("type") in EVENTS else instruments.OTHER, "refused"
        )
        self._log.error("message_refused", reason=str(error))
        return Ack(sender[1], self._group, reason=str(error))

    async def _once(self, message: Message, session: WriteSession) -> bool:
        if not await record(session, self._inbox, message):
            return False
        await self._handle(session, message)
        return True

    def _refusal(self, message: Message, error: Exception) -> Ack | None:
        reason = dead_letter_reason(error, attempt=message.attempt, max_attempts=self._max_attempts)
        if reason is not None:
            note_outcome(message.source, message.type, "refused")
            get_current_span().set_status(StatusCode.ERROR)
            self._log.error("message_refused", reason=reason, exc_info=error)
            return Ack(message.id, self._group, reason=reason)
        note_outcome(message.source, message.type, "postponed")
        if isinstance(error, NotYet):
            self._log.warning("message_postponed", attempt=message.attempt, error=str(error))
        else:
            # Of what passes by itself its name is enough; the rest is a fault of ours.
            about = None if isinstance(error, _PASSING) or _is_demoted_primary(error) else error
            self._log.error("message_postponed", attempt=message.attempt, error=repr(error), exc_info=about)
        return None


def dead_letter_reason(error: Exception, *, attempt: int, max_attempts: int) -> str | None:
    """Return why a message is a dead letter, to be set aside; None if it is to come again.

    What will pass by itself is tried for ever, and what the rules forbid is not tried again. The rest is
    unforeseen, and has a few attempts.

    Parameters:
        error: what the handler, or the transaction around it, raised.
        attempt: how often the message has been sent, from 1.
        max_attempts: how often an unforeseen error may happen.
    """
    if isinstance(error, _PASSING) or _is_demoted_primary(error):
        return None
    if isinstance(error, _FINAL):
        return str(error)
    return f"{type(error).__name__}: {error}" if attempt >= max_attempts else None


def _is_demoted_primary(error: Exception) -> bool:
    """Return whether the server turned read-only: a failover, and the pool has its connections still."""
    return isinstance(error, DBAPIError) and isinstance(error.orig, ReadOnlySqlTransaction)
