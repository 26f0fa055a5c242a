"""The queries of the system catalogue. Each takes the names of partitioned tables."""

from sqlalchemy import text

from partitions.deparse import definition_sql
from partitions.leftovers import leftover_checks
from partitions.parent_checks import lacked_checks
from partitions.regroup import CHECK_SUFFIX


def _lacked(child: str) -> str:
    lacked = lacked_checks("parent.oid", child)
    return (
        f"ARRAY(SELECT conname FROM ({lacked}) AS lacked) AS lacked_names,\n"
        f"ARRAY(SELECT convalidated FROM ({lacked}) AS lacked) AS lacked_valid"
    )


# Of names as SQL has them.
_WANTED = "ANY (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)"

TABLES = text(f"""
    SELECT relname AS name,
           -- reltuples is -1 until the first ANALYZE; the statistics may have been reset since
           CASE WHEN reltuples >= 0 THEN pg_stat_get_last_analyze_time(oid) END AS analyzed_at
    FROM pg_class
    WHERE oid = {_WANTED} AND relkind = 'p'
""")

PARTITIONS = text(f"""
    SELECT parent.relname AS table_name,
           child.relname AS name,
           pg_get_expr(child.relpartbound, child.oid) AS bound,
           -- reltuples is -1 until the first ANALYZE or VACUUM
           nullif(child.reltuples, -1)::bigint AS rows,
           pg_total_relation_size(child.oid) AS size_bytes,
           inhdetachpending AS detach_pending,
           ARRAY(SELECT conname::text FROM pg_constraint
                 WHERE conrelid = child.oid AND contype = 'c'
                   AND conname = child.relname || '{CHECK_SUFFIX}')
           || ARRAY({leftover_checks("parent.oid", "child.oid")}) AS leftover_checks,
           {_lacked("child.oid")},
           ARRAY(SELECT relname::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
                 WHERE indrelid = child.oid ORDER BY 1) AS indexes,
           ARRAY(SELECT relname::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
                 WHERE indrelid = child.oid AND NOT indisvalid ORDER BY 1) AS invalid_indexes
    FROM pg_inherits
    JOIN pg_class AS parent ON parent.oid = inhparent
    JOIN pg_class AS child ON child.oid = inhrelid
    WHERE parent.oid = {_WANTED}
    ORDER BY parent.relname, child.relname
""")

_LOOKS_LIKE_MONTH = r"""(starts_with(lone.relname, parent.relname)
            AND substr(lone.relname, length(parent.relname) + 1) ~ '^_[0-9]{4}_[0-9]{2}$')"""

# A table with a comment in JSON may carry a mark of ours; one that is named like a month is in its way.
LONE_TABLES = text(f"""
    SELECT parent.relname AS table_name,
           lone.relname AS name,
           obj_description(lone.oid, 'pg_class') AS comment,
           {_lacked("lone.oid")},
           {_LOOKS_LIKE_MONTH} AS looks_like_month
    FROM pg_class AS parent
    JOIN pg_class AS lone
        ON lone.relnamespace = parent.relnamespace AND lone.relkind IN ('r', 'p') AND NOT lone.relispartition
    WHERE parent.oid = {_WANTED}
      AND ({_LOOKS_LIKE_MONTH}
           OR obj_description(lone.oid, 'pg_class') LIKE '{{%')
    ORDER BY parent.relname, lone.relname
""")

_PARTS = """FROM pg_inherits
                 JOIN pg_index AS part ON part.indexrelid = inhrelid
                 JOIN pg_class AS part_name ON part_name.oid = inhrelid
                 JOIN pg_class AS child ON child.oid = part.indrelid
                 WHERE inhparent = whole.indexrelid ORDER BY child.relname"""

INDEXES = text(f"""
    SELECT parent.relname AS table_name,
           (SELECT relname FROM pg_class WHERE oid = indexrelid) AS name,
           -- it locks the table, so it is asked for only where the index must be built
           CASE WHEN NOT indisvalid THEN {definition_sql("whole.indexrelid")} END AS definition,
           indisunique AS is_unique,
           indisvalid AS is_valid,
           ARRAY(SELECT child.relname::text {_PARTS}) AS part_tables,
           ARRAY(SELECT part_name.relname::text {_PARTS}) AS part_names
    FROM pg_index AS whole
    JOIN pg_class AS parent ON parent.oid = whole.indrelid
    WHERE parent.oid = {_WANTED}
    ORDER BY 1, 2
""")

COLUMNS = text("""
    SELECT attname FROM pg_attribute
    WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped
    ORDER BY attnum
""")

# The indexes that a partition has beside the parts of its parent's.
OWN_INDEXES = text("""
    SELECT pg_get_indexdef(indexrelid) FROM pg_index
    JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = to_regclass(:table) AND NOT relispartition AND indisvalid
    ORDER BY relname
""")

CONSTRAINTS = text("""
    SELECT relname AS name, pg_get_partition_constraintdef(inhrelid) AS condition
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = to_regclass(:table) AND pg_get_partition_constraintdef(inhrelid) IS NOT NULL
    ORDER BY 1
""")
