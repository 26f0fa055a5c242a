"""Which secret of each role the pooler gets: decisions only; `ops.pgbouncer.pooler` reads the secrets."""

from collections.abc import Mapping

from ops.pgbouncer.errors import SecretsDiffer, SecretUnusable
from ops.pgbouncer.plan import Server

StoredSecrets = Mapping[str, Mapping[Server, str | None]]
"""The stored secret of each role on each server where it has a pool."""


def common_secrets(found: StoredSecrets) -> dict[str, str]:
    """Give the secret of each role, which must be the same on all of its servers.

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
    """Name the roles that have not the same SCRAM secret everywhere."""
    return [
        role
        for role, secrets in sorted(found.items())
        if len(set(secrets.values())) > 1 or not all(map(is_scram, secrets.values()))
    ]


def kept_secret(standing: str | None, role: str, password: str) -> str:
    """Give the secret of a role that logs in to the pooler only: the standing one, as long as it fits.

    A new one has a new salt, and the file would change each time that it is written.
    """
    if standing is not None and fits(standing, password):
        return standing
    return make_secret(role, password)
