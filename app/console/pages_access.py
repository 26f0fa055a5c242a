"""Who of the order system's staff may look at the DBA's pages, and who may act there.

It is asked at the directory, past the services: these pages are for when they do not work. While the
directory does not answer, who was known lately stays known; a link of `mesctl pages link` needs none of it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import select

from app.access.credentials import is_password
from app.access.enforce import Attempts
from app.access.errors import TooManyAttempts
from app.kit.caller import Role
from app.models.directory import Identity
from ops.fleet import open_engine
from ops.pages.sessions import LoginRefused, Viewer
from ops.problems.service import first_line
from ops.waiting import answers_of
from sharding.topology import Topology

ACTS = frozenset({Role.DBA, Role.ADMIN})
LOOKS = ACTS | {Role.AUDITOR}

ASK_SECONDS = 2.0
"""How long the directory has to answer while somebody waits for a page."""

KNOWN_SECONDS = 1.0
MOST_SEEN = 1_000
TRUSTED_SECONDS = 600.0
"""For how long one who was known is let in while the directory does not answer."""


@dataclass(frozen=True)
class _Known:
    name: str
    role: str
    password_hash: str | None
    valid_after: datetime


class StaffAccess:
    """Lets in staff with the roles `LOOKS`; those of `ACTS` have buttons.

    Parameters:
        topology: has the directory.
        clock: seconds that only grow.
    """

    def __init__(self, topology: Topology, clock: Callable[[], float] = time.monotonic) -> None:
        self._topology = topology
        self._clock = clock
        self._attempts = Attempts(clock)
        self._seen: dict[tuple[str, float], tuple[float, Viewer | None]] = {}

    def login(self, name: str, password: str, address: str | None) -> Viewer | None:
        """Return who somebody is, by name and password."""
        try:
            self._attempts.count(address)
        except TooManyAttempts as error:
            raise LoginRefused(str(error)) from error
        try:
            known = self._read(name)
        except Exception as error:  # whatever it is, a link opens these pages without it
            raise LoginRefused(f"the identities cannot be read: {first_line(error)}") from error
        is_right = is_password(password, known.password_hash if known else None)
        if known is None or not is_right or known.role not in LOOKS:
            return None
        self._attempts.forget(address)
        return Viewer(known.name, known.role in ACTS, by_login=True, opened_at=time.time())

    def refresh(self, viewer: Viewer) -> Viewer | None:
        """Return who one who has logged in is by now; None for one who may look no more."""
        now, key = self._clock(), (viewer.name, viewer.opened_at)
        read_at, seen = self._seen.get(key, (float("-inf"), None))
        if now - read_at < KNOWN_SECONDS:
            return seen
        try:
            known = self._read(viewer.name)
        except Exception:  # the directory is away: what was known lately stays so for a time
            return seen if now - read_at < TRUSTED_SECONDS else None
        found = None
        opened = datetime.fromtimestamp(viewer.opened_at + 1, UTC)
        if known is not None and known.role in LOOKS and opened >= known.valid_after:
            found = replace(viewer, may_act=known.role in ACTS)
        if len(self._seen) >= MOST_SEEN:
            self._seen.clear()
        self._seen[key] = (now, found)
        return found

    def _read(self, name: str) -> _Known | None:
        answer = answers_of({name: lambda: self._ask(name)}, deadline_seconds=ASK_SECONDS)[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _ask(self, name: str) -> _Known | None:
        directory = self._topology.directory_of("mes")
        columns = (Identity.name, Identity.role, Identity.password_hash, Identity.valid_after)
        query = select(*columns).where(Identity.name == name, Identity.revoked_at.is_(None))
        with (
            open_engine(self._topology, directory, role=directory.owner) as engine,
            engine.connect() as connection,
        ):
            row = connection.execute(query).first()
        return None if row is None else _Known(*row)
