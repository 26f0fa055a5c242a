"""Who looks at the pages: one-time links, and the sessions that are opened by them or by the project's login.

Both are files of which the names are digests: a link is used up by removing its file, which only one can do,
also where the process was started anew meanwhile. Who may run mesctl on this machine may make a link.
"""

import hashlib
import hmac
import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from ops.errors import OpsError

LINK_SECONDS = 24 * 3_600.0
SESSION_SECONDS = 12 * 3_600.0
_BYTES = 32


@dataclass(frozen=True)
class Viewer:
    """Somebody who looks at the pages.

    `may_act` is whether the buttons are there for him; `by_login` is whether the project knows him, who was
    let in at `opened_at`, in seconds since 1970.
    """

    name: str
    may_act: bool
    by_login: bool = False
    opened_at: float = 0.0


class PagesAccess(Protocol):
    """What a project decides: `pages.access` of its file is called with the topology, and returns it."""

    def login(self, name: str, password: str, address: str | None) -> Viewer | None:
        """Return who somebody is; None for one who may not look.

        Raises:
            LoginRefused: it cannot be said now, or not to this address; the reason is shown.
        """

    def refresh(self, viewer: Viewer) -> Viewer | None:
        """Return who one who has logged in is by now; None for one who may look no more."""


class LoginRefused(OpsError):
    """A login was not even tried; the message says why, to the person."""


class SessionStore:
    """The links and sessions of a folder, which only its owner can read."""

    def __init__(self, folder: Path) -> None:
        self._links, self._sessions = folder / "links", folder / "sessions"

    def make_link(self) -> str:
        """Make the token of a link that opens one session within a day."""
        _forget_old(self._links, LINK_SECONDS)
        token = secrets.token_urlsafe(_BYTES)
        _write(self._links, token, "")
        return token

    def redeem(self, token: str) -> str | None:
        """Use up a link; return the token of the session that it opens, None if it is not good any more."""
        file = self._links / _name(token)
        try:
            is_young = time.time() - file.stat().st_mtime < LINK_SECONDS
            file.unlink()  # of two who try at once, one fails
        except FileNotFoundError:
            return None
        return self.open(Viewer("link", may_act=True)) if is_young else None

    def open(self, viewer: Viewer) -> str:
        """Open a session; return its token."""
        _forget_old(self._sessions, SESSION_SECONDS)
        token = secrets.token_urlsafe(_BYTES)
        _write(self._sessions, token, json.dumps(asdict(viewer)))
        return token

    def viewer(self, token: str) -> Viewer | None:
        """Return whose session it is; None if it has ended, or never was."""
        file = self._sessions / _name(token)
        try:
            if time.time() - file.stat().st_mtime >= SESSION_SECONDS:
                return None
            return Viewer(**json.loads(file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def close(self, token: str) -> None:
        """End a session."""
        (self._sessions / _name(token)).unlink(missing_ok=True)


def form_token(session: str) -> str:
    """Return what each form of a session's pages bears, and no other site can know."""
    return hashlib.sha256(f"form {session}".encode()).hexdigest()


def is_form_token(session: str, given: str) -> bool:
    """Return whether a form came from a page of this session."""
    return hmac.compare_digest(form_token(session).encode(), given.encode())


def _name(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _write(folder: Path, token: str, text: str) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = folder / f".{_name(token)}"
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.rename(folder / _name(token))


def _forget_old(folder: Path, seconds: float) -> None:
    for file in folder.glob("*") if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime >= seconds:
                file.unlink()
