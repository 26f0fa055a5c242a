"""SCRAM secrets as PostgreSQL stores them and PgBouncer reads them (RFC 5802, RFC 7677).

PgBouncer can log in to a server with a secret only if it is the server's own, to the salt: it takes the
client's proof apart, and that was made for one salt. So secrets are read from the servers, and never made
except where they are also written to all of them (`mesctl pgbouncer secrets`), or for the console's user,
who logs in to no server.
"""

import base64
import hashlib
import hmac
import re
from functools import partial

from psycopg.pq import PGconn

_SECRET = re.compile(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):(.+)")


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
    """Tell whether a secret was made of this password.

    A password beyond ASCII is not compared (SASLprep would have to normalise it): it does not fit.
    """
    found = _SECRET.fullmatch(secret)
    if found is None or not password.isascii():
        return False
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(found[2]), int(found[1]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = base64.b64decode(found[3])
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), stored_key)
