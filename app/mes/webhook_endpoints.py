"""Where partners want to hear of their orders: endpoints in the directory, and what is sent again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from secrets import token_urlsafe
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Executable, case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from app.audit_log import record
from app.kit.errors import AppError
from app.kit.problem import Statuses
from app.mes.outgoing import WebhookUrlRefused, check_url, new_secret
from app.models.directory import DirectoryAuditLine, WebhookEndpoint
from app.models.mes import WebhookDelivery, WebhookEvent
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession
from sharding.sessions import ShardedSessions

MOST_ENDPOINTS = 10
"""How many endpoints a partner may have."""
_MOST_REPLAYED = 1000


class UnknownWebhook(AppError):
    """The partner has no endpoint of this id."""

    def __init__(self, webhook_id: str) -> None:
        self.webhook_id = webhook_id
        super().__init__(f"there is no webhook {webhook_id!r}: check the id")


class TooManyWebhooks(AppError):
    """The partner has as many endpoints as it may have."""

    def __init__(self, most: int) -> None:
        self.most = most
        super().__init__(f"{most} webhooks are the most: delete one that is not needed")


WEBHOOK_STATUSES: Statuses = {UnknownWebhook: 404, TooManyWebhooks: 409, WebhookUrlRefused: 422}
"""What they are worth in HTTP."""


@dataclass(frozen=True, kw_only=True)
class KnownEndpoint:
    """Where a partner wants to hear of its orders; no events are all events."""

    endpoint_id: str
    partner: str
    url: str
    secret: str = field(repr=False)
    events: tuple[str, ...]
    created_at: datetime
    failing_since: datetime | None
    last_error: str | None
    disabled_at: datetime | None
    disabled_reason: str | None

    @classmethod
    def of(cls, row: WebhookEndpoint) -> "KnownEndpoint":
        """Read a row."""
        names = cls.__dataclass_fields__.keys() - {"events"}
        return cls(**{name: getattr(row, name) for name in names}, events=tuple(row.events))

    def wants(self, type_: str) -> bool:
        """Return whether an event is sent there."""
        return self.disabled_at is None and (not self.events or type_ in self.events)


class Endpoints:
    """The endpoints, as the directory has them."""

    def __init__(self, directory: Cluster, *, allows_local: bool = False) -> None:
        self._directory = directory
        self._allows_local = allows_local

    async def create(self, partner: str, url: str, events: Iterable[str]) -> KnownEndpoint:
        """Insert an endpoint with a new secret.

        Raises:
            WebhookUrlRefused, TooManyWebhooks: and nothing is stored.
        """
        check_url(url, allows_local=self._allows_local)
        endpoint_id = f"wh_{token_urlsafe(16)}"
        row = {
            "endpoint_id": endpoint_id,
            "partner": partner,
            "url": url,
            "secret": new_secret(),
            "events": sorted(set(events)),
        }

        async def work(session: WriteSession) -> KnownEndpoint:
            own = select(func.count()).select_from(WebhookEndpoint).where(WebhookEndpoint.partner == partner)
            if (await session.scalar(own) or 0) >= MOST_ENDPOINTS:
                raise TooManyWebhooks(MOST_ENDPOINTS)
            made = await session.scalars(insert(WebhookEndpoint).values(row).returning(WebhookEndpoint))
            facts = {"partner": partner, "host": urlsplit(url).hostname, "events": row["events"]}
            await _record(session, "webhook_created", endpoint_id, **facts)
            return KnownEndpoint.of(made.one())

        return (await self._directory.transact(work)).value

    async def list(self, partner: str | None = None) -> Sequence[KnownEndpoint]:
        """Return the endpoints of a partner, the oldest first; without a partner, those of all."""
        found = select(WebhookEndpoint).order_by(WebhookEndpoint.created_at, WebhookEndpoint.endpoint_id)
        if partner is not None:
            found = found.where(WebhookEndpoint.partner == partner)
        async with self._directory.write() as session:
            return [KnownEndpoint.of(row) for row in await session.scalars(found)]

    async def find(self, partner: str, endpoint_id: str) -> KnownEndpoint:
        """Return an endpoint of a partner.

        Raises:
            UnknownWebhook: it has none of this id; another's is as none.
        """
        for endpoint in await self.list(partner):
            if endpoint.endpoint_id == endpoint_id:
                return endpoint
        raise UnknownWebhook(endpoint_id)

    async def delete(self, partner: str, endpoint_id: str) -> None:
        """Delete an endpoint; what is owed to it is not sent any more.

        Raises:
            UnknownWebhook: the partner has none of this id.
        """
        await self.find(partner, endpoint_id)

        async def work(session: WriteSession) -> None:
            gone = delete(WebhookEndpoint).where(_is(endpoint_id)).returning(WebhookEndpoint.endpoint_id)
            if await session.scalar(gone) is not None:
                await _record(session, "webhook_deleted", endpoint_id, partner=partner)

        await self._directory.transact(work)

    async def note_success(self, endpoint_id: str) -> None:
        """Note that a sending came through: the endpoint is good, and enabled."""
        good = dict.fromkeys(("failing_since", "last_error", "disabled_at", "disabled_reason"))
        await self._run(update(WebhookEndpoint).where(_is(endpoint_id)).values(good))

    async def note_failure(self, endpoint_id: str, why: str, *, disable_after: timedelta) -> bool:
        """Note that a sending failed; return whether that disables the endpoint: none has for too long."""
        since = func.coalesce(WebhookEndpoint.failing_since, func.now())
        is_over = since <= func.now() - disable_after
        reason = f"nothing has come through for {disable_after}; last: {why}"
        changed = (
            update(WebhookEndpoint)
            .where(_is(endpoint_id), WebhookEndpoint.disabled_at.is_(None))
            .values(
                failing_since=since,
                last_error=why,
                disabled_at=case((is_over, func.now())),
                disabled_reason=case((is_over, reason)),
            )
            .returning(WebhookEndpoint.disabled_at)
        )

        async def work(session: WriteSession) -> bool:
            is_disabled = await session.scalar(changed) is not None
            if is_disabled:
                await _record(session, "webhook_disabled", endpoint_id, reason=reason)
            return is_disabled

        return (await self._directory.transact(work)).value

    async def _run(self, statement: Executable) -> None:
        async def work(session: WriteSession) -> None:
            await session.execute(statement)

        await self._directory.transact(work)


async def _record(session: WriteSession, action: str, endpoint_id: str, **facts: Any) -> None:
    await record(session, DirectoryAuditLine, action, None, {"webhook": endpoint_id, **facts})


def _is(endpoint_id: str) -> ColumnElement[bool]:
    return WebhookEndpoint.endpoint_id == endpoint_id


class Replayed(NamedTuple):
    """How many events are sent again; `next_since` is where to go on if there are more, else None."""

    events: int
    next_since: datetime | None


async def replay(sessions: ShardedSessions, endpoint: KnownEndpoint, *, since: datetime) -> Replayed:
    """Owe an endpoint again what has happened since a moment, the oldest first, whether taken or not."""
    count, reached = 0, []
    for shard, cluster in sessions.clusters.items():
        own = partial(_replay_shard, endpoint, since=since, is_own=partial(_is_of, sessions, shard))
        events, last = (await cluster.transact(own)).value
        count += events
        if last is not None:
            reached.append(last)
    return Replayed(count, min(reached, default=None))


def _is_of(sessions: ShardedSessions, shard: str, order_id: int) -> bool:
    return sessions.shard_of(order_id) == shard


async def _replay_shard(
    endpoint: KnownEndpoint, session: WriteSession, *, since: datetime, is_own: Callable[[int], bool]
) -> tuple[int, datetime | None]:
    found = (
        select(WebhookEvent.order_id, WebhookEvent.sequence, WebhookEvent.created_at)
        .where(
            WebhookEvent.partner == endpoint.partner,
            WebhookEvent.created_at >= since,
            WebhookEvent.fanned_out_at.is_not(None),
        )
        .order_by(WebhookEvent.created_at)
        .limit(_MOST_REPLAYED)
    )
    if endpoint.events:
        found = found.where(WebhookEvent.type.in_(endpoint.events))
    rows = (await session.execute(found)).all()
    owed = [
        {"order_id": order_id, "sequence": sequence, "endpoint_id": endpoint.endpoint_id}
        for order_id, sequence, _ in rows
        if is_own(order_id)
    ]
    if owed:
        again = insert(WebhookDelivery)
        keys = [WebhookDelivery.order_id, WebhookDelivery.sequence, WebhookDelivery.endpoint_id]
        anew = {"created_at": func.now(), "next_attempt_at": func.now(), "attempts": 0, "dead_at": None}
        await session.execute(again.values(owed).on_conflict_do_update(index_elements=keys, set_=anew))
    last: datetime | None = rows[-1][2] if len(rows) == _MOST_REPLAYED else None
    return len(owed), last
