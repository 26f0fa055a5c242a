"""The relay: sends what a database owes to Redis Streams until the consumer has acknowledged it."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import structlog
from opentelemetry.trace import Span
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import Boolean, func, literal_column, select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app import instruments
from app.kit.logs import log_each
from app.kit.tasks import sleep_unless
from app.kit.telemetry import TRACEPARENT, traceparent_of
from app.messaging.backoff import delay_seconds, repeat_with_backoff
from app.messaging.errors import EntryRefused, shortened
from app.messaging.message import SENT, TOKEN, Ack, Dispatch, encode
from app.messaging.outbox import (
    AcknowledgedMessage,
    DeadLetter,
    claim,
    misaddressed,
    owes,
    settle,
    waiting_for,
)
from app.messaging.progress import Progress
from app.messaging.routing import ServiceName, destinations_of
from app.messaging.signing import DESTINATION, EntrySigner, Refusals
from app.messaging.streams import (
    Destinations,
    Entry,
    FaultLog,
    acks_stream,
    entries_of,
    orders_stream,
    read_destinations,
    stage_entry,
)
from app.messaging.tracing import begin_sending
from app.models.base import OutboxRow
from partitions.advisory_lock import try_acquire_sql
from readreplica.cluster import Cluster
from readreplica.freshness import PRIMARY
from readreplica.sessions import WriteSession

# Any number will do, as long as every relay has the same; an advisory lock is its database's own.
_LOCK = 0x6F7574626F78
_BEGIN = select(
    literal_column(try_acquire_sql(str(_LOCK), until_commit=True), Boolean),
    func.now(),
    # For this transaction. Of an outbox that was vacuumed while nothing was owed PostgreSQL believes that any
    # index will do, sorts what it finds, and walks over all of the key, gone or not, to find it.
    func.set_config("enable_bitmapscan", "off", True),
)

# Between two turns, so that acknowledgements gather and are settled together.
_REST_SECONDS = 0.02
_ALERT_SECONDS = 1.0
"""How long it looks as often as it rests, after there was something to do."""

_SLOWER = 1.25
"""By how much longer each wait is than the one before, after that."""

_QUICK_SECONDS = 0.02
"""An idle relay whose question has taken longer than this claims in its place, for `_ASK_AGAIN_SECONDS`."""
_ASK_AGAIN_SECONDS = 10.0

_STRANGE_SECONDS = 60.0
"""How often messages to no service are looked for."""

# In an outage: how often the orders that wait are looked for, and how many are named.
_NAME_SECONDS = 2.0
_MOST_NAMED = 1000

_WITHHOLD_SECONDS = 600.0
"""For how long a service gets no trace after code of an older release has refused a message for one."""


class Sending(NamedTuple):
    """An entry that is to be written to a stream, and the span of that."""

    stream: str
    entry: dict[str, str]
    span: Span


class SendingLimit(Protocol):
    """How many messages a destination takes; see `app.flow.grants`."""

    async def refresh(self) -> None:
        """Hear what is allowed now; raises RedisError when Redis is away."""

    def take(self, limit: int, /) -> int:
        """Take up to `limit` messages; return how many may be sent."""

    def give_back(self, count: int, /) -> None:
        """Put back what was taken and not sent."""


class Relay:
    """Sends the outbox of one database. Several may run; an advisory lock lets one work at a time.

    A turn has three parts, and a crash between any two of them loses nothing:

    1. Read from Redis the acknowledgements, and how far each destination lags behind. What is owed to one
       whose stream cannot be read waits.
    2. In one transaction settle them and claim what is due: sendings are counted and put off.
    3. Send what was claimed, and delete the acknowledgements.

    Between 2 and 3 a crash leaves claimed messages unsent: they are due again after their back-off.
    Acknowledgements that were not deleted are settled again, which changes nothing. Sending comes after
    the commit so that no transaction, lock or connection is held while Redis is slow.

    The lock is the transaction's own (a session's would not survive PgBouncer). A relay that is stopped
    between 2 and 3 and wakes late repeats an old message at worst, which the consumer's inbox knows.
    """

    def __init__(
        self,
        cluster: Cluster,
        redis: Redis,
        outbox: type[OutboxRow],
        *,
        source: str,
        signer: EntrySigner,
        poll_seconds: float = 0.1,
        retry_seconds: float = 2.0,
        longest_retry_seconds: float = 60.0,
        batch: int = 500,
        send_traceparent: bool = True,
        jitter: Callable[[], float] = random.random,
        look_seconds: float = 0.5,
        allowances: Mapping[ServiceName, SendingLimit] | None = None,
        clock: Callable[[], float] = monotonic,
        has_board: bool = False,
    ) -> None:
        """Make a relay; `run` starts it.

        Parameters:
            cluster: the database.
            redis: a client made by `open_redis`.
            outbox: the outbox's model.
            source: the database's name in the topology, which is the messages' `source`.
            signer: signs the messages of the service whose database it is, and verifies acknowledgements.
            poll_seconds: how long a new message may lie before it is seen, after a time without any.
            retry_seconds: how long the first sending waits for its acknowledgement; doubled each time.
            longest_retry_seconds: where the doubling ends.
            batch: the most messages and acknowledgements in one turn.
            send_traceparent: whether a message names its trace; a consumer takes it either way.
            jitter: gives numbers from 0 to 1.
            look_seconds: how often everything that is owed is looked at, if that is quick; 0: in each turn.
            allowances: of the destinations that take a limited number; what is beyond it waits in the outbox.
            clock: a monotonic clock, in seconds.
            has_board: whether there is one, to which orders are announced.
        """
        self._cluster = cluster
        self._redis = redis
        self._outbox = outbox
        self._source = source
        self._signer = signer
        self._destinations = sorted(
            service.value
            for service in destinations_of(signer.service)
            if has_board or service is not ServiceName.BOARD
        )
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds
        self._longest_retry_seconds = longest_retry_seconds
        self._batch = batch
        self._send_traceparent = send_traceparent
        self._jitter = jitter
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("relay").bind(database=source)
        self._faults = FaultLog(self._log)
        self._named: set[UUID] = set()
        self._name_next = 0.0
        self.refusals = Refusals(self._log)
        self._withheld: dict[str, float] = {}
        self._allowances = {service.value: allowance for service, allowance in (allowances or {}).items()}
        look_seconds = min(retry_seconds / 4, look_seconds)
        self._progress = {
            service: Progress(look_seconds=look_seconds, clock=clock) for service in self._destinations
        }
        self._block_seconds = min(poll_seconds, _REST_SECONDS)
        self._clock = clock
        self._is_busy, self._calm_at = False, clock()
        self._strange_next = 0.0
        self._ask_next = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Outages of Redis and of the database are waited out."""

        async def turn() -> None:
            # Another relay may work here, and then the acknowledgements that end our wait are for it.
            try:
                has_worked = await self.turn()
            except RedisError as error:
                await self._name_unsent(dict.fromkeys(self._destinations, error))
                raise
            if not has_worked:
                await sleep_unless(stop, self._poll_seconds)
            elif self._is_busy:
                await sleep_unless(stop, _REST_SECONDS)

        await repeat_with_backoff(turn, stop=stop, log=self._log)

    async def turn(self) -> bool:
        """Settle and send once, after waiting up to `poll_seconds` for an acknowledgement.

        Returns:
            False if another relay has the lock, so that nothing was done.
        """
        received = await self._acknowledgements()
        for allowance in self._allowances.values():
            await allowance.refresh()
        if not received and await self._is_idle():
            self._pace(is_busy=False)
            return True
        destinations = await self._look()
        async with self._cluster.write() as session:
            has_lock, now, _ = (await session.execute(_BEGIN)).one()
            if not has_lock:
                return False
            settled = await settle(session, self._outbox, self._understood(received))
            claimed = await self._claim(session, destinations, settled.acknowledged, now)
            await self._name_misaddressed(session)
        self._pace(is_busy=bool(received or claimed))
        for destination, _, written_at in settled.acknowledged:
            if written_at is not None:
                instruments.message_acknowledged(destination, seconds=(now - written_at).total_seconds())
        # Each message was committed before it was claimed: what sees this commit sees it.
        stamps = {TOKEN: session.token.encode(), SENT: now.isoformat()}
        self._tell_dead(settled.dead)
        await self._send([self._sending(each, stamps, now) for each in claimed], settled=received)
        await self._name_unsent(destinations.unusable)
        return True

    async def _is_idle(self) -> bool:
        """Return whether nothing is owed that a claim would look at: one question, and no transaction.

        A relay is idle nearly always, and looks ten times a second. No lock is needed: what another relay is
        about to claim is owed as well.
        """
        within = {name: progress.begin(()) for name, progress in self._progress.items()}
        began = monotonic()
        if (
            began >= self._strange_next
            or began < self._ask_next
            or any(each.successors_of for each in within.values())
        ):
            return False
        after = {name: -1 if each.is_look else each.after or -1 for name, each in within.items()}
        try:
            async with self._cluster.read(freshness=PRIMARY, autocommit=True) as session:
                if await owes(session, self._outbox, after):
                    return False
        except PoolTimeoutError:
            return False  # readers have taken all their connections, and this is no reader's work
        if monotonic() - began > _QUICK_SECONDS and not any(each.is_look for each in within.values()):
            self._ask_next = monotonic() + _ASK_AGAIN_SECONDS  # a claim has a better plan, see `_BEGIN`
        for name, each in within.items():
            self._progress[name].end(each, (), is_cut=False, is_limited=False)
        for allowance in self._allowances.values():
            allowance.take(0)  # this process has its database
        return True

    async def _name_unsent(self, faults: Mapping[str, RedisError]) -> None:
        """Log each order whose message cannot be sent, once in an outage, and not those that come very late.

        Parameters:
            faults: what Redis said, by destination; none: the outage is over.
        """
        now = asyncio.get_running_loop().time()
        if not faults:
            self._named.clear()
        elif now >= self._name_next and len(self._named) < _MOST_NAMED:
            self._name_next = now + _NAME_SECONDS
            async with self._cluster.write() as session:
                owed = await waiting_for(session, self._outbox, list(faults), limit=_MOST_NAMED)
            for row in owed:
                if row.message_id not in self._named:
                    self._named.add(row.message_id)
                    said = {"order_id": str(row.order_id), "message_id": str(row.message_id)}
                    self._tell_unsent(
                        orders_stream(row.destination),
                        {**said, "message_type": row.type},
                        faults[row.destination],
                    )

    def _sending(self, message: Dispatch, stamps: Mapping[str, str], now: datetime) -> Sending:
        """Begin to send a message: its entry, signed, in which this sending is what it continues."""
        destination = message.destination
        entry, stream = encode(message, source=self._source), orders_stream(destination)
        span = begin_sending(stream, entry, traceparent=message.traceparent, now=now)
        traceparent = traceparent_of(span) if self._names_traces_to(destination) else None
        if traceparent is not None:
            entry[TRACEPARENT] = traceparent
        signed = self._signer.sign(
            {**entry, **stamps}, kind="message", destination=destination, peer=ServiceName(destination)
        )
        return Sending(stream, signed, span)

    def _names_traces_to(self, destination: str) -> bool:
        return self._send_traceparent and monotonic() > self._withheld.get(destination, 0)

    async def _acknowledgements(self) -> list[Entry]:
        """Wait for acknowledgements: one that comes lets the next message of its order go at once.

        Without them nothing is settled, but what is due is sent all the same.
        """
        stream = acks_stream(self._source)
        block_ms = max(1, round(self._block_seconds * 1000))
        try:
            reply = await self._redis.xread({stream: "0"}, count=self._batch, block=block_ms)
        except ResponseError as fault:
            self._faults.note(stream, "read", fault)
            await asyncio.sleep(self._poll_seconds)
            return []
        self._faults.note(stream, "read", None)
        return entries_of(reply)

    async def _look(self) -> Destinations:
        destinations = await read_destinations(self._redis, self._destinations)
        for service in self._destinations:
            self._faults.note(orders_stream(service), "read", destinations.unusable.get(service))
        return destinations

    def _understood(self, received: Sequence[Entry]) -> list[Ack]:
        read = [(entry, Ack.decode(entry, consumer=consumer)) for consumer, entry in self._verified(received)]
        malformed = [entry for entry, ack in read if ack is None]
        if malformed:
            # One line, however many: they are deleted with those that were understood.
            first = " ".join(f"{name}={value}" for name, value in malformed[0].items())
            self._log.warning("acks_malformed", count=len(malformed), first=shortened(first))
        acks = [ack for _, ack in read if ack is not None]
        for ack in (ack for ack in acks if ack.is_of_older_code):
            # While a release is rolled out. The message is sent again, as that code knows it.
            self._log.info("trace_withheld", destination=ack.consumer)
            self._withheld[ack.consumer] = monotonic() + _WITHHOLD_SECONDS
        return [ack for ack in acks if not ack.is_of_older_code]

    def _tell_dead(self, dead: Sequence[DeadLetter]) -> None:
        for each in dead:
            said = {"order_id": each.order_id, "message_id": each.message_id, "message_type": each.type}
            self._log.error("message_set_aside", **said, reason=each.reason)

    def _verified(self, received: Sequence[Entry]) -> Iterator[tuple[ServiceName, dict[str, str]]]:
        for _, entry in received:
            try:
                yield self._signer.verify(entry, kind="acknowledgement", destination=self._source)
            except EntryRefused as error:
                self.refusals.note(error)

    async def _claim(
        self,
        session: WriteSession,
        destinations: Destinations,
        acknowledged: Sequence[AcknowledgedMessage],
        now: datetime,
    ) -> list[Dispatch]:
        claimed: list[Dispatch] = []
        for destination in self._destinations:
            if destination not in destinations.unusable:
                lag = destinations.lags.get(destination, timedelta(0))
                orders = {each.order_id for each in acknowledged if each.destination == destination}
                claimed += await self._claim_for(session, destination, lag, orders, now)
        return claimed

    async def _claim_for(
        self, session: WriteSession, destination: str, lag: timedelta, successors_of: set[int], now: datetime
    ) -> Sequence[Dispatch]:
        """Claim what is due to one destination, as far as its allowance goes."""
        allowance, progress = self._allowances.get(destination), self._progress[destination]
        limit = self._batch if allowance is None else allowance.take(self._batch)
        if limit == 0:
            progress.postpone(successors_of)
            return []
        within = progress.begin(successors_of)
        claimed = await claim(
            session,
            self._outbox,
            destination=destination,
            lag=lag,
            now=now,
            limit=limit,
            retry_after_seconds=self._retry_after_seconds,
            within=within,
        )
        if allowance is not None:
            allowance.give_back(limit - len(claimed))
        progress.end(within, claimed, is_cut=len(claimed) >= limit, is_limited=limit < self._batch)
        return claimed

    async def _name_misaddressed(self, session: WriteSession) -> None:
        """Log messages to no service, now and then: a hand may have written a destination."""
        if monotonic() < self._strange_next:
            return
        self._strange_next = monotonic() + _STRANGE_SECONDS
        for each in await misaddressed(session, self._outbox, self._destinations, limit=_MOST_NAMED):
            said = {"message_id": str(each.message_id), "destination": shortened(each.destination)}
            self._log.error("message_without_destination", order_id=str(each.order_id), **said)

    def _pace(self, *, is_busy: bool) -> None:
        """Look again soon while there is something to do, and ever later when there was not."""
        now = self._clock()
        self._is_busy = is_busy
        if is_busy:
            self._calm_at, self._block_seconds = now + _ALERT_SECONDS, 0.0
        elif now < self._calm_at:
            self._block_seconds = min(_REST_SECONDS, self._poll_seconds)
        else:
            slower = max(self._block_seconds, _REST_SECONDS) * _SLOWER
            self._block_seconds = min(slower, self._poll_seconds)

    def _retry_after_seconds(self, attempts: int) -> float:
        return delay_seconds(
            attempts,
            base_seconds=self._retry_seconds,
            cap_seconds=self._longest_retry_seconds,
            jitter=self._jitter(),
        )

    async def _send(self, outgoing: Sequence[Sending], *, settled: Sequence[Entry]) -> None:
        if not outgoing and not settled:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for stream, entry, _ in outgoing:
            stage_entry(pipeline, stream, entry)
        if settled:
            pipeline.xdel(acks_stream(self._source), *(entry_id for entry_id, _ in settled))
        try:
            # What Redis refuses for one stream is no matter of the others.
            replies = await pipeline.execute(raise_on_error=False)
        finally:
            for each in outgoing:
                each.span.end()
        faults: dict[str, ResponseError | None] = dict.fromkeys(each.stream for each in outgoing)
        sent: list[Sending] = []
        for each, reply in zip(outgoing, replies, strict=False):
            if isinstance(reply, ResponseError):
                faults[each.stream] = reply
                self._tell_unsent(each.stream, _named(each.entry), reply)
            else:
                sent.append(each)
        for destination, count in Counter(each.entry[DESTINATION] for each in sent).items():
            instruments.messages_sent(destination, count)
        log_each(self._log, "message_sent", [_sent(each) for each in sent])
        if settled:
            is_deleted = not isinstance(replies[-1], ResponseError)
            faults[acks_stream(self._source)] = None if is_deleted else replies[-1]
        for stream, fault in faults.items():
            self._faults.note(stream, "write", fault)

    def _tell_unsent(self, stream: str, named: Mapping[str, str], fault: RedisError) -> None:
        said = shortened(str(fault)) or type(fault).__name__
        self._log.error("message_not_sent", stream=stream, **named, error=said)


def _sent(sending: Sending) -> dict[str, Any]:
    """Return what a line about a message that was sent holds."""
    return {**_named(sending.entry), "stream": sending.stream, "attempt": int(sending.entry["attempt"])}


def _named(entry: Mapping[str, str]) -> dict[str, str]:
    """Return what a line about a message holds of it."""
    return {"order_id": entry["subject"], "message_id": entry["id"], "message_type": entry["type"]}
