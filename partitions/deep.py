"""What only the rows can tell: rows in the wrong partition, and ids in two. It reads every row."""

from collections.abc import Iterable, Iterator

from sqlalchemy import Connection, text

from partitions import catalog_sql
from partitions.check import Finding
from partitions.policy import ListPartitions, Policy
from partitions.sql import identifier


def check_rows(connection: Connection, policies: Iterable[Policy]) -> list[Finding]:
    """List rows that contradict the policies; ACCESS SHARE only, but the time that it takes to read all.

    Parameters:
        connection: reads the tables, best on a replica.
        policies: which tables.
    """
    findings: list[Finding] = []
    for policy in policies:
        findings.extend(_misplaced(connection, policy))
        if isinstance(policy, ListPartitions):
            findings.extend(_twice(connection, policy))
    return findings


def _misplaced(connection: Connection, policy: Policy) -> Iterator[Finding]:
    """Look for rows outside their partition's bound, as a restore without constraints can leave them."""
    for name, constraint in connection.execute(catalog_sql.CONSTRAINTS, {"table": identifier(policy.table)}):
        query = f"SELECT count(*) FROM ONLY {identifier(name)} WHERE NOT ({constraint})"
        rows = connection.exec_driver_sql(query, execution_options={"no_parameters": True}).scalar_one()
        if rows:
            fix = f"delete them from {name} and insert them into {policy.table}, in one transaction"
            yield Finding(policy.table, name, f"{rows} rows are outside its bound", fix)


def _twice(connection: Connection, policy: ListPartitions) -> Iterator[Finding]:
    """Look for ids in two partitions, which no unique index can forbid without the partition key."""
    row_id, table = identifier(policy.row_id), identifier(policy.table)
    query = text(f"SELECT {row_id} FROM {table} GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 10")
    for twice in connection.scalars(query):
        fault = f"{policy.row_id} {twice} stands in it more than once"
        fix = f"keep the row with the newest history: SELECT tableoid::regclass, * FROM {table}"
        yield Finding(policy.table, "", fault, f"{fix} WHERE {row_id} = {twice}")
