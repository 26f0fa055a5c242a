"""The password file of the embedded topology, in libpq's format."""

import hmac
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

LATER = "# Added later; the platform's secrets are derived from the passwords above this line.\n"


def ensure_passwords(
    path: Path, roles: Iterable[str], *, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Read the passwords of `roles` from a libpq password file, and add those that are missing.

    A line names the role and no port: components change ports, passwords stay. What stands in the file stays.

    Parameters:
        known: passwords that roles are to have; those of the others are made.

    Returns:
        The password of each role.
    """
    text = path.read_text() if path.exists() else ""
    passwords = _passwords_in(text)
    added = {
        role: (known or {}).get(role) or secrets.token_urlsafe(24) for role in roles if role not in passwords
    }
    if added:
        mark = LATER if passwords and LATER not in text else ""
        lines = [f"*:*:*:{role}:{_escape(password)}\n" for role, password in added.items()]
        end = "" if text.endswith("\n") or not text else "\n"
        _write(path, "".join([text, end, mark, *lines]))
    return passwords | added


def read_passwords(path: Path) -> dict[str, str]:
    """Read the password of each role that has one for every server; nothing when there is no file."""
    return _passwords_in(path.read_text()) if path.exists() else {}


def derived_secret(path: Path, *, purpose: str) -> str:
    """Make a secret of the platform's own.

    It stays as long as the passwords that the platform began with: those of roles that came later do not
    change it.
    """
    passwords = _passwords_in(path.read_text().partition(LATER)[0])
    return hmac.digest(repr(sorted(passwords.items())).encode(), purpose.encode(), "sha256").hex()


def _passwords_in(text: str) -> dict[str, str]:
    # In a field, a colon and a backslash are escaped.
    entries = (re.findall(r"((?:\\.|[^:\\])*)(?::|$)", line)[:5] for line in text.splitlines())
    fields = (entry for entry in entries if len(entry) == 5 and not entry[0].startswith("#"))
    return {role: _unescape(password) for *where, role, password in fields if where == ["*", "*", "*"]}


def _escape(field: str) -> str:
    return re.sub(r"([:\\])", r"\\\1", field)


def _unescape(field: str) -> str:
    return re.sub(r"\\(.)", r"\1", field)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    # libpq ignores a password file that others may read.
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.rename(path)
