"""What a process knows of the identities: all of them, in its memory.

It looks five times a second whether one has changed, so that a key that is revoked opens nothing a second
later. While the directory is away, what was known stays good for a time; then no one is let in by it.
"""

import asyncio
import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import select, update

from app import instruments
from app.access.credentials import SANDBOX_PREFIX, read_api_key
from app.access.errors import IdentitiesUnknown
from app.access.identities import LIMITS, MOST_KEYS, MOST_LIMIT, OURS, end_session
from app.access.oidc import SessionEnd
from app.kit.caller import Role
from app.kit.tasks import sleep_unless, within
from app.messaging.backoff import repeat_with_backoff
from app.models.directory import IdentitiesVersion, Identity, IdentityKey, IdentitySubject, SessionEnding
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession

MOST_IDENTITIES = 100_000
"""How many are kept in memory."""
LOOK_SECONDS = 0.2
USED_SECONDS = 30.0
"""How often the times of last use are written down."""
DIRECTORY_SECONDS = 5.0
"""How long the directory may take to answer; then it is asked again."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("identities")


@dataclass(frozen=True, kw_only=True)
class KnownIdentity:
    """An identity as a process knows it."""

    identity_id: int
    name: str
    role: Role
    sandbox: bool
    password_hash: str | None
    valid_after: datetime
    limits: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class KnownKey:
    """An API key as a process knows it."""

    key_id: str
    digest: bytes
    identity: KnownIdentity
    scopes: frozenset[str]
    expires_at: datetime | None

    def is_good(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


@dataclass(frozen=True)
class _Known:
    version: int = -1
    keys: Mapping[str, KnownKey] = field(default_factory=dict)
    by_id: Mapping[int, KnownIdentity] = field(default_factory=dict)
    by_name: Mapping[str, KnownIdentity] = field(default_factory=dict)
    by_subject: Mapping[tuple[str, str], KnownIdentity] = field(default_factory=dict)
    ended_sids: frozenset[tuple[str, str]] = frozenset()
    ended_subjects: Mapping[tuple[str, str], datetime] = field(default_factory=dict)


class Registry:
    """All identities and keys that are good, in the memory of one process."""

    def __init__(
        self,
        directory: Cluster,
        *,
        stale_seconds: float,
        in_sandbox: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a registry that knows no one; `run` fills it.

        Parameters:
            directory: where they stand.
            stale_seconds: for how long they are believed while the directory is away.
            in_sandbox: whether keys of a sandbox are good here, and no others.
            clock: a monotonic clock, in seconds.
        """
        self.in_sandbox = in_sandbox
        self._directory = directory
        self._stale_seconds = stale_seconds
        self._clock = clock
        self._began = clock()
        self._read_at: float | None = None
        self._known = _Known()
        self._used: dict[str, datetime] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Follow what changes until `stop` is set."""

        async def look() -> None:
            await within(self.refresh(), seconds=DIRECTORY_SECONDS)
            await sleep_unless(stop, LOOK_SECONDS)

        await repeat_with_backoff(look, stop=stop, log=log, longest_pause_seconds=0.5)

    async def run_uses(self, stop: asyncio.Event) -> None:
        """Write down from time to time which keys were used, and at the end. A lock delays no revocation."""

        async def write() -> None:
            await sleep_unless(stop, USED_SECONDS)
            await within(self.write_uses(), seconds=DIRECTORY_SECONDS)

        await repeat_with_backoff(write, stop=stop, log=log, longest_pause_seconds=USED_SECONDS)

    async def refresh(self) -> None:
        """Read what has changed since the last time."""
        async with self._directory.write() as session:
            version = await session.scalar(select(IdentitiesVersion.version))
            if version is not None and version != self._known.version:
                self._known = await _read(session, version)
        self._read_at = self._clock()

    async def write_uses(self) -> None:
        """Write down when keys were last used."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            async with self._directory.write() as session:
                for key_id, at in sorted(used.items()):
                    of_it = IdentityKey.key_id == key_id
                    await session.execute(update(IdentityKey).where(of_it).values(last_used_at=at))
        except BaseException:
            self._used = used | self._used
            raise

    def find(self, text: str) -> KnownKey | None:
        """Return the good key that a text is; None if it is none.

        Raises:
            IdentitiesUnknown: the directory was not heard of for too long.
        """
        read, now = read_api_key(text), datetime.now(UTC)
        # A token, say, which is good whether or not the directory is heard of; or a key of the other kind.
        if read is None or self.is_of_other_kind(text):
            return None
        self._check_fresh()
        known = self._known.keys.get(read[0])
        # Compared in any case, so that the time says nothing of which ids there are.
        is_it = hmac.compare_digest(read[1], known.digest if known is not None else bytes(32))
        if known is None or not is_it or not known.is_good(now):
            return None
        self._used[known.key_id] = now
        return known

    def is_of_other_kind(self, text: str) -> bool:
        """Return whether an API key is a sandbox's and this is none, or the reverse."""
        return read_api_key(text) is not None and text.startswith(SANDBOX_PREFIX) is not self.in_sandbox

    def has_key(self, key_id: str, identity_id: int) -> bool:
        """Return whether an identity has a good key of this id; raises as `find`."""
        self._check_fresh()
        known = self._known.keys.get(key_id)
        return (
            known is not None
            and known.identity.identity_id == identity_id
            and known.is_good(datetime.now(UTC))
        )

    def identity(self, identity_id: int) -> KnownIdentity | None:
        """Return an identity; raises as `find`."""
        self._check_fresh()
        return self._known.by_id.get(identity_id)

    def named(self, name: str) -> KnownIdentity | None:
        """Return an identity; raises as `find`."""
        self._check_fresh()
        return self._known.by_name.get(name)

    def linked(self, issuer: str, subject: str) -> KnownIdentity | None:
        """Return the identity that is linked to a subject of an OpenID provider; raises as `find`."""
        self._check_fresh()
        return self._known.by_subject.get((issuer, subject))

    def is_ended(self, issuer: str, subject: str, sid: str | None, issued: datetime) -> bool:
        """Return whether an OpenID provider has ended a session of ours since.

        Parameters:
            issuer: the provider.
            subject: who has logged in there.
            sid: the session there, if it has named one.
            issued: when ours began.
        """
        ended = self._known.ended_subjects.get((issuer, subject))
        return (issuer, sid) in self._known.ended_sids or (ended is not None and issued <= ended)

    def is_logged_out(self, session_id: str | None) -> bool:
        """Return whether who had a session of ours has logged out of it."""
        return (OURS, session_id) in self._known.ended_sids

    async def end(self, issuer: str, ended: SessionEnd) -> None:
        """End, in all services, what a logout ends; `issuer` as for `end_session`."""

        async def noted(session: WriteSession) -> bool:
            return await end_session(session, issuer, ended)

        if (await self._directory.transact(noted)).value:
            log.info("identity_logged_out", issuer=issuer)
        await self.refresh()

    def _check_fresh(self) -> None:
        silent = self._clock() - (self._read_at if self._read_at is not None else self._began)
        if self._read_at is None or silent > self._stale_seconds:
            instruments.identities_unknown()
            raise IdentitiesUnknown(silent)


async def _read(session: WriteSession, version: int) -> _Known:
    identities = select(Identity).where(Identity.revoked_at.is_(None)).limit(MOST_IDENTITIES)
    # A role that this release does not know is no role here, and keeps no other out.
    rows = [each for each in await session.scalars(identities) if each.role in set(Role)]
    by_id = {each.identity_id: _shown(each) for each in rows}
    keys = select(IdentityKey).where(IdentityKey.revoked_at.is_(None)).limit(MOST_KEYS * MOST_IDENTITIES)
    subjects = await session.scalars(select(IdentitySubject).limit(MOST_IDENTITIES))
    endings = (await session.scalars(select(SessionEnding).limit(MOST_IDENTITIES))).all()
    return _Known(
        version=version,
        by_subject={
            (row.issuer, row.subject): by_id[row.identity_id] for row in subjects if row.identity_id in by_id
        },
        # One session, where the provider says which; else all of the person's until then.
        ended_sids=frozenset((row.issuer, row.sid) for row in endings if row.sid is not None),
        ended_subjects=_latest(row for row in endings if row.sid is None),
        keys=_by_key(await session.scalars(keys), by_id),
        by_id=by_id,
        by_name={each.name: each for each in by_id.values()},
    )


def _latest(rows: Iterable[SessionEnding]) -> dict[tuple[str, str], datetime]:
    found: dict[tuple[str, str], datetime] = {}
    for row in rows:
        key = row.issuer, row.subject or ""
        found[key] = max(row.ended_at, found.get(key, row.ended_at))
    return found


def _shown(row: Identity) -> KnownIdentity:
    return KnownIdentity(
        identity_id=row.identity_id,
        name=row.name,
        role=Role(row.role),
        sandbox=row.sandbox,
        password_hash=row.password_hash,
        valid_after=row.valid_after,
        limits=_readable_limits(row),
    )


def _readable_limits(row: Identity) -> dict[str, float]:
    """Return the limits that make sense; what no command of ours has written is left out, and logged."""
    written = row.limits or {}
    if not isinstance(written, dict):
        written = {"all": written}
    good = {name: value for name, value in written.items() if _is_limit(name, value)}
    if unread := ", ".join(sorted(written.keys() - good.keys())):
        log.error("identity_limits_unreadable", error=f"identity {row.identity_id}: {unread[:200]}")
    return good


def _is_limit(name: str, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and name in LIMITS and LIMITS[name] <= value <= MOST_LIMIT


def _by_key(rows: Iterable[IdentityKey], by_id: Mapping[int, KnownIdentity]) -> dict[str, KnownKey]:
    return {
        row.key_id: KnownKey(
            key_id=row.key_id,
            digest=row.digest,
            identity=by_id[row.identity_id],
            scopes=frozenset(row.scopes),
            expires_at=row.expires_at,
        )
        for row in rows
        if row.identity_id in by_id
    }
