"""The schema that the library owns in a team's databases: the directory's tables, and a shard's guard.

It is a chain of versions, `PART/NNNN.sql`, run by `mesctl migrate upgrade` before the team's own revisions.
Beside each version stands what it makes, `PART/NNNN.json`, as `mesctl migrate drift` reads it.
"""

from sharding.schema.chain import (
    VERSION_TABLE,
    Grantees,
    Part,
    create_version_table,
    forget,
    grants,
    library_version,
    newest_version,
    read_version,
    record,
    sql_of,
)
from sharding.schema.tables import DIRECTORY, SHARD, metadata

__all__ = [
    "DIRECTORY",
    "SHARD",
    "VERSION_TABLE",
    "Grantees",
    "Part",
    "create_version_table",
    "forget",
    "grants",
    "library_version",
    "metadata",
    "newest_version",
    "read_version",
    "record",
    "sql_of",
]
