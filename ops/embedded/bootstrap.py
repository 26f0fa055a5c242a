"""Roles and databases of a new cluster. All of it may be run again."""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql


def ensure_role(
    connection: psycopg.Connection, role: str, password: str, *, replication: bool = False
) -> None:
    """Have a role that may log in, and nothing more unless `replication`."""
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount:
        return
    attribute = sql.SQL("REPLICATION" if replication else "NOREPLICATION")
    create = sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}")
    connection.execute(create.format(sql.Identifier(role), attribute, sql.Literal(password)))


def ensure_database(
    connection: psycopg.Connection, dbname: str, *, owner: str, services: Sequence[str]
) -> None:
    """Have a database that its owner changes and `services` connect to; no other role can."""
    if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [dbname]).rowcount:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(dbname)))
    # Also of one that was there before: `postgres` is in every cluster.
    change = sql.SQL("ALTER DATABASE {} OWNER TO {}")
    connection.execute(change.format(sql.Identifier(dbname), sql.Identifier(owner)))
    grant_connect(connection, dbname, services)


def grant_connect(connection: psycopg.Connection, dbname: str, services: Sequence[str]) -> None:
    """Let `services` connect to a database, and nobody else but its owner."""
    revoke = sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC")
    connection.execute(revoke.format(sql.Identifier(dbname)))
    if not services:
        return
    grant = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}")
    roles = sql.SQL(", ").join(map(sql.Identifier, services))
    connection.execute(grant.format(sql.Identifier(dbname), roles))


def let_see_queries(connection: psycopg.Connection, role: str) -> None:
    """Let an owner see what the sessions run that are in the way of a change; it sees statistics, no data."""
    connection.execute(sql.SQL("GRANT pg_read_all_stats TO {}").format(sql.Identifier(role)))


def ensure_roles(connection: psycopg.Connection, roles: Sequence[str], passwords: Mapping[str, str]) -> None:
    """Have several roles, each with its password."""
    for role in roles:
        ensure_role(connection, role, passwords[role])
