"""SCRAM secrets and passwords, and which of them each role has in PgBouncer's userlist (RFC 5802, RFC 7677).

PgBouncer can log in to a server with a secret only if it is the server's own, to the salt: it takes the
client's proof apart, and that was made for one salt. So secrets are read from the servers, and never made
except where they are also written to all of them (`mesctl pgbouncer secrets`), or for the console's user,
who logs in to no server.
"""

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from psycopg.pq import PGconn
from sqlalchemy import URL

from ops.pgbouncer.errors import SecretsDiffer, SecretUnusable
from ops.pgbouncer.plan import Server

_SECRET = re.compile(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):(.+)")


StoredSecrets = Mapping[str, Mapping[Server, str | None]]
"""The stored secret of each role on each server where it has a pool."""

_FIELD = re.compile(r"((?:\\.|[^:\\])*)(?::|$)")


def is_scram(secret: str | None) -> bool:
    """Whether this is a SCRAM secret, and not an MD5 hash, a password, or nothing."""
    return secret is not None and _SECRET.fullmatch(secret) is not None


def make_secret(role: str, password: str) -> str:
    """Make a secret with a new salt, by libpq."""
    # libpq wants a connection to put an error into; this one leads nowhere.
    nowhere = PGconn.connect_start(b"host=/nonexistent")
    encrypt = partial(nowhere.encrypt_password, algorithm=b"scram-sha-256")
    return encrypt(password.encode(), role.encode()).decode()


def fits(secret: str, password: str) -> bool:
    """Return whether a secret was made of this password.

    A password beyond ASCII is not compared (SASLprep would have to normalise it): it does not fit.
    """
    found = _SECRET.fullmatch(secret)
    if found is None or not password.isascii():
        return False
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(found[2]), int(found[1]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = base64.b64decode(found[3])
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), stored_key)


def common_secrets(found: StoredSecrets) -> dict[str, str]:
    """Return the secret of each role, which must be the same on all of its servers.

    Raises:
        SecretUnusable: a role has no SCRAM secret on a server.
        SecretsDiffer: a role has several.
    """
    return {role: _common(role, secrets) for role, secrets in sorted(found.items())}


def _common(role: str, secrets: Mapping[Server, str | None]) -> str:
    for server, secret in sorted(secrets.items()):
        if secret is None or not is_scram(secret):
            why = "has no password" if secret is None else "has a password that is not stored as SCRAM"
            raise SecretUnusable(role, str(server), why)
    known = {secret for secret in secrets.values() if secret is not None}
    if len(known) > 1:
        raise SecretsDiffer(role, [str(server) for server in sorted(secrets)])
    return known.pop()


def unequal_roles(found: StoredSecrets) -> list[str]:
    """Return the roles that have not the same SCRAM secret everywhere."""
    return [
        role
        for role, secrets in sorted(found.items())
        if len(set(secrets.values())) > 1 or not all(map(is_scram, secrets.values()))
    ]


def kept_secret(standing: str | None, role: str, password: str) -> str:
    """Return the secret of a role that logs in to the pooler only: the existing one, as long as it fits.

    A new one has a new salt, and the file would change each time that it is written.
    """
    if standing is not None and fits(standing, password):
        return standing
    return make_secret(role, password)


def password_for(url: URL) -> str | None:
    """Return the password with which libpq would connect; None when neither has it.

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
