"""Partners, staff and services with their API keys: how they change, in the directory.

Each change raises a version, by which every process finds it (`app.access.registry`).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from app.access.credentials import (
    LIFETIMES,
    ApiKey,
    TokenUse,
    hash_password,
    new_api_key,
)
from app.access.errors import (
    IdentityExists,
    SubjectRefused,
    TooManyKeys,
    UnknownCredential,
    UnknownIdentity,
)
from app.access.oidc import SessionEnd
from app.audit_log import record
from app.kit.caller import Role
from app.models.directory import (
    DirectoryAuditLine,
    IdentitiesVersion,
    Identity,
    IdentityKey,
    IdentitySubject,
    SessionEnding,
)
from readreplica.sessions import WriteSession

MOST_KEYS = 2
"""Of one identity: while one is replaced by the next, both are good."""
STAFF = frozenset({Role.OPERATOR, Role.SELLER, Role.AUDITOR, Role.DBA, Role.ADMIN})
"""Who may log in."""
OURS = "mes-storage"
"""Who has ended a session, if it was us."""


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


async def end_session(session: WriteSession, issuer: str, ended: SessionEnd) -> bool:
    """Note what has ended, and forget what no session can be as old as.

    Parameters:
        session: a transaction in the directory.
        issuer: the OpenID provider that has ended it; or `OURS`.
        ended: what has ended.

    Returns:
        False where this was noted before: it ends nothing once more.
    """
    await _raise_version(session)
    too_old = func.now() - 2 * LIFETIMES[TokenUse.SESSION]
    await session.execute(delete(SessionEnding).where(SessionEnding.ended_at < too_old))
    values = {"issuer": issuer, "jti": ended.jti, "subject": ended.subject, "sid": ended.sid}
    noted = insert(SessionEnding).values(values).on_conflict_do_nothing().returning(SessionEnding.jti)
    if await session.scalar(noted) is None:
        return False
    facts = {"issuer": issuer, "subject": ended.subject, "session": ended.sid}
    await record(session, DirectoryAuditLine, "identity_logged_out", None, facts)
    return True


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
