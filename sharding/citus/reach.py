"""How `SET LOCAL` reaches the workers.

Without more, `SET LOCAL lock_timeout` holds on the coordinator only, and a row that is locked on a worker is
waited for without end. With `citus.propagate_set_commands = 'local'` Citus sends it along: the whole text
that the server was sent, as it is. So it is a setting of sessions that send one statement at a time, as ours
do, and not of the database: `SET LOCAL ...; UPDATE ...` in one text would be sent to the workers as well,
UPDATE and all. (Source: PostprocessVariableSetStmt in src/backend/distributed/commands/variableset.c of
Citus is given the query string.)
"""

from typing import Any

from psycopg import AsyncConnection

from sharding.engines import Greeting

REACHING = "-c citus.propagate_set_commands=local"
"""For libpq's `options`: of a session that sends one statement at a time."""

MIGRATING = f"{REACHING} -c citus.multi_shard_modify_mode=sequential"
"""For libpq's `options`: of a migration, which sends its frozen SQL one statement at a time.

Sequential, because a transaction that changes tables and a function of theirs is refused otherwise.
"""


def reaching_workers(greet: Greeting) -> Greeting:
    """Have a greeting of new connections also let their SET LOCAL reach the workers."""

    async def greet_and_set(connection: AsyncConnection[Any]) -> None:
        await greet(connection)
        await connection.execute("SET citus.propagate_set_commands = 'local'")

    return greet_and_set
