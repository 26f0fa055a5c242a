"""Passwords that the topology leads to: from the environment, else from libpq's password file."""

import os
import re
from pathlib import Path

from sqlalchemy import URL

_FIELD = re.compile(r"((?:\\.|[^:\\])*)(?::|$)")


def password_for(url: URL) -> str | None:
    """Give the password with which libpq would connect; None when nobody tells it.

    Parameters:
        url: of `Topology.url`: it has the password of the environment, or the name of the file.
    """
    if url.password is not None:
        return str(url.password)
    named = url.query.get("passfile") or os.environ.get("PGPASSFILE") or Path.home() / ".pgpass"
    path = Path(str(named))
    if not path.is_file():
        return None
    wanted = (url.host, str(url.port), url.database, url.username)
    for line in path.read_text().splitlines():
        fields = [re.sub(r"\\(.)", r"\1", field) for field in _FIELD.findall(line)][:5]
        if len(fields) == 5 and all(a in ("*", b) for a, b in zip(fields[:4], wanted, strict=True)):
            return fields[4]
    return None
