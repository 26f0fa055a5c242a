"""Partners, staff and services with their API keys: how they change, and what a service knows of them.

They stand in the directory. Each process keeps them all in memory and looks five times a second whether one
has changed, so that a key that is revoked opens nothing a second later. While the directory is away, what was
known stays good for a time; then no one is let in by it.
"""

import asyncio
import hmac
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import delete, func, or_, select, update

from app import instruments
from app.access.credentials import SANDBOX_PREFIX, ApiKey, hash_password, new_api_key, read_api_key
from app.access.errors import (
    IdentitiesUnknown,
    IdentityExists,
    SubjectRefused,
    TooManyKeys,
    UnknownCredential,
    UnknownIdentity,
)
from app.audit_log import record
from app.kit.caller import Role
from app.kit.tasks import sleep_unless, within
from app.messaging.backoff import repeat_with_backoff
from app.models.directory import DirectoryAuditLine, IdentitiesVersion, Identity, IdentityKey, IdentitySubject
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession

MOST_KEYS = 2
"""Of one identity: while one is replaced by the next, both are good."""
MOST_IDENTITIES = 100_000
"""How many are kept in memory."""
STAFF = frozenset({Role.OPERATOR, Role.SELLER, Role.AUDITOR, Role.DBA, Role.ADMIN})
"""Who may log in."""
LOOK_SECONDS = 0.2
USED_SECONDS = 30.0
"""How often the times of last use are written down."""
DIRECTORY_SECONDS = 5.0
"""How long the directory may take to answer; then it is asked again."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("identities")


async def create(
    session: WriteSession,
    name: str,
    role: Role,
    *,
    by: str,
    sandbox: bool = False,
    password: str | None = None,
    scopes: Sequence[str] = (),
    expires_at: datetime | None = None,
    in_sandbox: bool = False,
) -> ApiKey:
    """Make an identity with its first API key.

    Parameters:
        session: a transaction in the directory.
        name: as histories show it; of a partner, the name in its paths.
        role: what it may do.
        by: who makes it.
        sandbox: whether its orders are for trying out.
        password: of staff that log in; None for none.
        scopes: what of the role the key is good for; empty is all.
        expires_at: when the key ends; None for never.
        in_sandbox: whether the whole platform is for trying out.

    Raises:
        IdentityExists: the name is taken, perhaps by one that was revoked.
    """
    await _raise_version(session)
    if await session.scalar(select(Identity.identity_id).where(Identity.name == name)) is not None:
        raise IdentityExists(name)
    made = Identity(
        name=name,
        role=role.value,
        sandbox=sandbox,
        created_by=by,
        password_hash=None if password is None else hash_password(password),
    )
    session.add(made)
    await session.flush()
    key = await _add_key(session, made.identity_id, scopes, expires_at, in_sandbox=in_sandbox)
    facts = {"role": role.value, "sandbox": sandbox, "key": key.credential_id, "scopes": list(scopes)}
    await _record(session, "identity_created", name, **facts, has_password=password is not None)
    return key


async def rotate(
    session: WriteSession,
    name: str,
    *,
    keep: timedelta | None = None,
    scopes: Sequence[str] | None = None,
    in_sandbox: bool = False,
) -> ApiKey:
    """Add an API key to an identity, beside the one that it has.

    Parameters:
        session: a transaction in the directory.
        name: of the identity.
        keep: for how long the older keys stay good; None for as long as they are.
        scopes: of the new key; None for those of the newest one.
        in_sandbox: as for `create`.

    Raises:
        UnknownIdentity: there is none, or it is revoked.
        TooManyKeys: it has two already.
    """
    await _raise_version(session)
    found = await _find(session, name)
    live = (await session.scalars(_live_keys(found.identity_id))).all()
    if len(live) >= MOST_KEYS:
        raise TooManyKeys(name, MOST_KEYS)
    if keep is not None:
        ends = func.now() + keep
        is_later = or_(IdentityKey.expires_at.is_(None), IdentityKey.expires_at > ends)
        of_it = IdentityKey.identity_id == found.identity_id
        await session.execute(update(IdentityKey).where(of_it, is_later).values(expires_at=ends))
    kept = live[-1].scopes if live else []
    wanted = kept if scopes is None else scopes
    made = await _add_key(session, found.identity_id, wanted, None, in_sandbox=in_sandbox)
    lasts = None if keep is None else keep.total_seconds()
    await _record(session, "identity_rotated", name, key=made.credential_id, older_for_seconds=lasts)
    return made


LIMITS: Mapping[str, float] = {
    "requests_per_second": 0.01,
    "burst": 1,
    "orders_per_day": 1,
    "bytes_per_second": 1024,
    "concurrent": 1,
}
"""What of its role's limits an identity may have otherwise, and the least of each."""
MOST_LIMIT = 1e12


async def limit(session: WriteSession, name: str, limits: Mapping[str, float]) -> dict[str, float]:
    """Set what of its role's limits an identity has otherwise; return all of that. Empty: nothing.

    Raises:
        UnknownIdentity: there is none, or it is revoked.
    """
    await _raise_version(session)
    found = await _find(session, name)
    found.limits = {each: limits[each] for each in LIMITS if each in limits} or None
    await _record(session, "identity_limited", name, limits=found.limits)
    return dict(found.limits or {})


async def revoke(session: WriteSession, name: str) -> int:
    """End an identity with all that was signed for it; return how many keys were good until now.

    Raises:
        UnknownIdentity: there is none, or it is revoked.
    """
    await _raise_version(session)
    found = await _find(session, name)
    found.revoked_at = found.valid_after = datetime.now(UTC)
    keys = (await session.scalars(_live_keys(found.identity_id))).all()
    for key in keys:
        key.revoked_at = found.revoked_at
    # A person may come back, as another identity.
    await session.execute(delete(IdentitySubject).where(IdentitySubject.identity_id == found.identity_id))
    await _record(session, "identity_revoked", name, keys=[key.key_id for key in keys])
    return len(keys)


async def revoke_key(session: WriteSession, key_id: str) -> str:
    """End one API key, and what was signed for it; return the name of its identity.

    Raises:
        UnknownCredential: there is none, or it is revoked.
    """
    await _raise_version(session)
    key = await session.get(IdentityKey, key_id)
    if key is None or key.revoked_at is not None:
        raise UnknownCredential(key_id)
    key.revoked_at = datetime.now(UTC)
    owner = (await session.get_one(Identity, key.identity_id)).name
    await _record(session, "identity_key_revoked", owner, key=key_id)
    return owner


async def _record(session: WriteSession, action: str, name: str, **facts: Any) -> None:
    await record(session, DirectoryAuditLine, action, None, {"identity": name, **facts})


async def link_subject(session: WriteSession, name: str, issuer: str, subject: str) -> None:
    """Let the person whom an OpenID provider knows by a subject log in as an identity of staff.

    Parameters:
        session: a transaction in the directory.
        name: of the identity.
        issuer: the provider, as its tokens have it.
        subject: the person there. Not an address or a name, which may be given to another one day.

    Raises:
        UnknownIdentity: there is none, or it is revoked.
        SubjectRefused: it is no identity of staff, or the subject is linked to another.
    """
    await _raise_version(session)
    found = await _find(session, name)
    if Role(found.role) not in STAFF:
        raise SubjectRefused(f"{name!r} is a {found.role}, and no member of staff")
    other = await session.get(IdentitySubject, (issuer, subject))
    if other is not None and other.identity_id != found.identity_id:
        owner = (await session.get_one(Identity, other.identity_id)).name
        raise SubjectRefused(f"the subject {subject!r} of {issuer} is linked to {owner!r} already")
    if other is None:
        session.add(IdentitySubject(issuer=issuer, subject=subject, identity_id=found.identity_id))
        await session.flush()
        await _record(session, "identity_linked", name, issuer=issuer, subject=subject)


async def unlink_subjects(session: WriteSession, name: str) -> int:
    """Let no one log in as an identity by a provider, and end who has; return how many links it had.

    Raises:
        UnknownIdentity: there is none, or it is revoked.
    """
    await _raise_version(session)
    found = await _find(session, name)
    of_it = delete(IdentitySubject).where(IdentitySubject.identity_id == found.identity_id)
    gone = (await session.scalars(of_it.returning(IdentitySubject.subject))).all()
    await _record(session, "identity_unlinked", name, subjects=list(gone))
    return len(gone)


async def _raise_version(session: WriteSession) -> None:
    """First: the lock on the row lets one change at a time through, so that no version is seen too early."""
    await session.execute(update(IdentitiesVersion).values(version=IdentitiesVersion.version + 1))


async def _find(session: WriteSession, name: str) -> Identity:
    found = await session.scalar(select(Identity).where(Identity.name == name))
    if found is None or found.revoked_at is not None:
        raise UnknownIdentity(name)
    return found


def _live_keys(identity_id: int) -> Any:
    is_live = or_(IdentityKey.expires_at.is_(None), IdentityKey.expires_at > func.now())
    of_it = IdentityKey.identity_id == identity_id, IdentityKey.revoked_at.is_(None), is_live
    return select(IdentityKey).where(*of_it).order_by(IdentityKey.created_at, IdentityKey.key_id)


async def _add_key(
    session: WriteSession,
    identity_id: int,
    scopes: Sequence[str],
    expires_at: datetime | None,
    *,
    in_sandbox: bool,
) -> ApiKey:
    made = new_api_key(is_sandbox=in_sandbox)
    session.add(
        IdentityKey(
            key_id=made.credential_id,
            identity_id=identity_id,
            digest=made.digest,
            scopes=list(scopes),
            expires_at=expires_at,
        )
    )
    await session.flush()
    return made


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
    return _Known(
        version=version,
        by_subject={
            (row.issuer, row.subject): by_id[row.identity_id] for row in subjects if row.identity_id in by_id
        },
        keys=_by_key(await session.scalars(keys), by_id),
        by_id=by_id,
        by_name={each.name: each for each in by_id.values()},
    )


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
