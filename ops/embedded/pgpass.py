"""The password file of the embedded topology, in libpq's format."""

import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path


def ensure_passwords(path: Path, roles: Iterable[str]) -> dict[str, str]:
    """Read the passwords of `roles` from a libpq password file, and add those that are missing.

    A line names the role and no port: components change ports, passwords stay.

    Returns:
        The password of each role.
    """
    passwords = read_passwords(path)
    missing = [role for role in roles if role not in passwords]
    if missing:
        passwords |= {role: secrets.token_urlsafe(24) for role in missing}
        _write(path, passwords)
    return passwords


def read_passwords(path: Path) -> dict[str, str]:
    """Read the password of each role; nothing when there is no file."""
    if not path.exists():
        return {}
    entries = (line.split(":") for line in path.read_text().splitlines())
    return {entry[3]: entry[4] for entry in entries if len(entry) == 5}


def derived_secret(path: Path, *, purpose: str) -> str | None:
    """Make a secret of the platform's own that stays as long as its passwords; None when there are none."""
    passwords = read_passwords(path)
    if not passwords:
        return None
    return hmac.digest(repr(sorted(passwords.items())).encode(), purpose.encode(), "sha256").hex()


def _write(path: Path, passwords: dict[str, str]) -> None:
    text = "".join(f"*:*:*:{role}:{password}\n" for role, password in passwords.items())
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    # libpq ignores a password file that others may read.
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.rename(path)
