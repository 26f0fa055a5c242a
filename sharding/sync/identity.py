# Generated from sharding/engines.py by `make sync`: change that file, not this one.
"""Who is at the other end: a new connection to a shard is asked once for the shard's name."""

from collections.abc import Callable
from typing import Any

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege, UndefinedTable

from sharding.errors import ShardUnnamed, WrongShard

_NAME = "SELECT shard FROM public.shard_identity"

Greeting = Callable[[Connection[Any]], None]


def expect_shard(shard: str, *, address: str) -> Greeting:
    """Make the greeting that refuses a connection to any other database than the shard's.

    Parameters:
        shard: the name that the database must give.
        address: where the connection leads, for people.

    Raises:
        WrongShard: (the greeting) the database is another shard's.
        ShardUnnamed: (the greeting) it does not know its name, or is no shard.
    """

    def greet(connection: Connection[Any]) -> None:
        try:
            row = (connection.execute(_NAME)).fetchone()
        except (UndefinedTable, InsufficientPrivilege) as error:
            raise ShardUnnamed(expected=shard, address=address) from error
        if row is None:
            raise ShardUnnamed(expected=shard, address=address)
        if row[0] != shard:
            raise WrongShard(expected=shard, found=row[0], address=address)

    return greet
