"""Expressions of SQL that the queries of the catalogue share.

PostgreSQL 15 to 18 give the same facts: what only the newer ones have (privilege MAINTAIN, NOT NULL as a
constraint, virtual columns) is rendered so that its default is invisible, and columns that were renamed
between them are read through `to_jsonb`.
"""

from partitions.online.backfill import PROGRESS_TABLE
from partitions.online.change import MARK
from partitions.sql import literal

PER_SHARD = "mes-storage: per shard"
"""The comment on a function whose body differs between the databases of a tree."""

UNDER_WAY = " -- online change: "
"""Stands in a definition behind what PostgreSQL says, and before the name of the change."""

FIRST_OID = 16384
"""The first oid of a user's object; those below are PostgreSQL's own, for pg_dump as well."""


def online_change(comment: str) -> str:
    """Render the online change that an object's comment names, as it stands behind its definition."""
    # In its first line: a column's own comment may stand below.
    first_line = literal(f"^{MARK}([^\n]*)")
    name = f"substring({comment} FROM {first_line})"
    return f"coalesce({literal(UNDER_WAY)} || {name}, '')"


def comment_of(part: str, catalog: str) -> str:
    """Render the comment of a partition's index or trigger; an online change marks only the table's."""
    return f"coalesce(obj_description({part}.oid, '{catalog}'), obj_description(whole.oid, '{catalog}'))"


def owner(column: str) -> str:
    """Render an object's owner, unless it is the role that migrates, which each installation names."""
    return f"CASE WHEN {column} <> (SELECT oid FROM migrating) THEN 'OWNER ' || {column}::regrole END"


def user_made(catalog: str, oid: str) -> str:
    """Render whether an object is not PostgreSQL's own, and comes with no extension and no type."""
    # A sequence that comes with a column is a fact; the functions and casts of a range are none.
    kinds = "'e'" if catalog == "pg_class" else "'e', 'i'"
    member = (
        f"EXISTS (SELECT FROM pg_depend WHERE classid = '{catalog}'::regclass AND objid = {oid} "
        f"AND deptype IN ({kinds}))"
    )
    return f"{oid} >= {FIRST_OID} AND NOT {member}"


def made_in(catalog: str, prefix: str) -> str:
    """Render that, and that it is in a schema of the database's users."""
    return f"{user_made(catalog, 'o.oid')} AND o.{prefix}namespace IN (SELECT oid FROM schemas)"


def select_single(kind: str, name: str, definition: str, source: str) -> str:
    """Render the SELECT of objects that belong to no table."""
    return f"SELECT {literal(kind)}, {name}, {name}, {definition}, NULL, NULL FROM {source}"


def options(column: str) -> str:
    """Render the options of a foreign object, in the order of their names."""
    return (
        f"'OPTIONS (' || (SELECT string_agg(option, ', ' ORDER BY option) FROM unnest({column}) AS option)"
        " || ')'"
    )


_QUALIFIED = (
    "CASE WHEN n.nspname = 'public' THEN '' ELSE quote_ident(n.nspname) || '.' END || quote_ident({name})"
)


def qualified(column: str) -> str:
    """Render the name of an object `o` of schema `n`, for catalogues that have no reg-type."""
    return _QUALIFIED.format(name=column)


WITH = f"""
    migrating AS (SELECT oid FROM pg_roles WHERE rolname = current_user),
    schemas AS (SELECT * FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
    ours AS (
        SELECT c.*, c.oid::regclass::text AS label, range.parent::regclass::text AS measured_by
        FROM pg_class c LEFT JOIN LATERAL (
            -- the uppermost one: below it everything comes and goes by policy
            SELECT a.relid AS parent FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS a(relid, height)
            JOIN pg_partitioned_table ON partrelid = a.relid AND partstrat = 'r'
            WHERE a.relid <> c.oid ORDER BY a.height DESC LIMIT 1) range ON c.relispartition
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relnamespace IN (SELECT oid FROM schemas)
          AND c.relname NOT IN (:version_table, '{PROGRESS_TABLE}')
          AND {user_made("pg_class", "c.oid")}
          -- a partition that waits, detached, for its end, and says so: it is the policies' as well
          AND (c.relispartition OR coalesce(obj_description(c.oid, 'pg_class'), '')
               !~ '^{{"state": "(detached|prepared)", "table"')
    ),
    tables AS (SELECT * FROM ours WHERE relkind <> 'S')
"""
