"""Reading what `preflight` judges, from the catalogue of a plain shard or of a coordinator."""

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from sharding.citus.preflight import ForeignKey, SchemaTable, UniqueKey

_OURS = """
    ours AS (
        SELECT c.* FROM pg_class c
        WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p')
          AND c.relname <> 'alembic_version'
          AND NOT EXISTS (SELECT FROM pg_depend d
                          WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    )
"""
# A partitioned table needs no key of its own to be moved: its partitions are what moves.
_TABLES = text(f"""
    WITH {_OURS}
    SELECT c.relname AS name, parent.relname AS parent, c.relkind = 'p' AS is_partitioned,
           pg_get_expr(c.relpartbound, c.oid) AS bound, coalesce(am.amname, 'heap') AS access_method,
           EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid
                   AND (x.indisprimary OR x.indisreplident)) OR c.relreplident = 'f' AS has_primary_key
    FROM ours c
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    LEFT JOIN pg_class parent ON parent.oid = i.inhparent
    LEFT JOIN pg_am am ON am.oid = c.relam
    ORDER BY 1
""")
_UNIQUE = text(f"""
    WITH {_OURS}
    SELECT c.relname AS table_name, i.relname AS name,
           ARRAY(SELECT coalesce(a.attname::text, 'an expression')
                 FROM unnest(x.indkey[0:x.indnkeyatts - 1]) AS key(number)
                 LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = key.number AND key.number > 0
                ) AS columns
    FROM ours c JOIN pg_index x ON x.indrelid = c.oid JOIN pg_class i ON i.oid = x.indexrelid
    WHERE x.indisunique OR x.indisexclusion ORDER BY 1, 2
""")
_FOREIGN = text(f"""
    WITH {_OURS}
    SELECT c.relname AS table_name, k.conname AS name, target.relname AS to_table,
           ARRAY(SELECT attname::text FROM unnest(k.conkey) AS key(number)
                 JOIN pg_attribute ON attrelid = k.conrelid AND attnum = key.number) AS columns,
           ARRAY(SELECT attname::text FROM unnest(k.confkey) AS key(number)
                 JOIN pg_attribute ON attrelid = k.confrelid AND attnum = key.number) AS to_columns,
           k.confupdtype::text AS on_update, k.confdeltype::text AS on_delete
    FROM ours c JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0
    JOIN pg_class target ON target.oid = k.confrelid ORDER BY 1, 2
""")
_TRIGGERS = text(f"""
    WITH {_OURS}
    SELECT c.relname AS table_name, t.tgname AS name
    FROM ours c JOIN pg_trigger t ON t.tgrelid = c.oid
    WHERE NOT t.tgisinternal AND t.tgname NOT LIKE 'truncate_trigger_%' ORDER BY 1, 2
""")
_ACTIONS = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def read_schema(connection: Connection) -> dict[str, SchemaTable]:
    """Read the tables of a database as `preflight.check_schema` judges them, by name."""
    unique, foreign = _by_table(connection, _UNIQUE), _by_table(connection, _FOREIGN)
    triggers = _by_table(connection, _TRIGGERS)
    return {
        row.name: SchemaTable(
            **row._mapping,
            unique=tuple(UniqueKey(each.name, tuple(each.columns)) for each in unique[row.name]),
            foreign=tuple(map(_foreign, foreign[row.name])),
            triggers=tuple(each.name for each in triggers[row.name]),
        )
        for row in connection.execute(_TABLES).all()
    }


def _by_table(connection: Connection, query: TextClause) -> dict[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(query):
        found[row.table_name].append(row)
    return found


def _foreign(row: Row[Any]) -> ForeignKey:
    return ForeignKey(
        row.name,
        tuple(row.columns),
        row.to_table,
        tuple(row.to_columns),
        on_update=_ACTIONS[row.on_update],
        on_delete=_ACTIONS[row.on_delete],
    )
