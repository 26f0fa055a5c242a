"""What uses a column: all of it that does not go over to another column, as a query. Pure."""

from partitions.online.change import MARK
from partitions.sql import RelationName, literal


def tree(table: RelationName) -> str:
    """Render the table and its partitions, each with its level, for WITH RECURSIVE."""
    return (
        f"tree (relid, level) AS (SELECT {table.regclass}::oid, 0 "
        "UNION SELECT inhrelid, level + 1 FROM pg_inherits JOIN tree ON inhparent = relid)"
    )


def users(table: RelationName, column: str) -> str:
    """Render the query that names, one a row, what would be lost with the column, or would stand still.

    PostgreSQL writes down by number which column a view, a policy or an index reads: a rename takes them
    along, so that after a swap they read the old column. What goes over (`carry`) is not named: default,
    NOT NULL, an own sequence. What cannot be changed online at all is named with what to do about it.
    """
    return f"""
        WITH RECURSIVE {tree(table)},
        part AS (
            SELECT c.oid, c.relkind, c.reloftype, level, a.attnum, a.attname, a.attnotnull, a.attidentity,
                   a.attgenerated, a.attinhcount, c.oid::regclass AS name
            FROM tree JOIN pg_class c ON c.oid = relid
            JOIN pg_attribute a ON attrelid = c.oid AND attname = {literal(column)} AND attnum > 0
            WHERE NOT attisdropped
        ),
        root AS (SELECT * FROM part WHERE level = 0)
        SELECT CASE WHEN rulename = '_RETURN' THEN pg_describe_object('pg_class'::regclass, ev_class, 0)
               WHEN adrelid IS NOT NULL THEN pg_describe_object('pg_class'::regclass, adrelid, adnum)
               WHEN owner.oid IS NOT NULL THEN pg_describe_object('pg_constraint'::regclass, owner.oid, 0)
               ELSE pg_describe_object(classid, objid, objsubid) END AS named
        FROM part JOIN pg_depend d
            ON refclassid = 'pg_class'::regclass AND refobjid = part.oid AND refobjsubid = attnum
        LEFT JOIN pg_rewrite r ON classid = 'pg_rewrite'::regclass AND r.oid = objid
        LEFT JOIN pg_attrdef f ON classid = 'pg_attrdef'::regclass AND f.oid = objid
        LEFT JOIN pg_constraint k ON classid = 'pg_constraint'::regclass AND k.oid = objid
        LEFT JOIN pg_trigger t ON classid = 'pg_trigger'::regclass AND t.oid = objid
        LEFT JOIN pg_class c ON classid = 'pg_class'::regclass AND objsubid = 0 AND c.oid = objid
        LEFT JOIN pg_constraint owner ON owner.conindid = c.oid AND owner.contype IN ('p', 'u', 'x')
        WHERE NOT coalesce(adrelid = part.oid AND adnum = attnum, false)
          AND coalesce(c.relkind, '') <> 'S'
          AND NOT coalesce(k.contype = 'n' AND k.convalidated AND NOT k.connoinherit, false)
          -- a partition has it from its parent, which is named
          AND coalesce(k.conparentid, 0) = 0 AND NOT coalesce(k.coninhcount > 0 AND NOT k.conislocal, false)
          AND coalesce(tgparentid, 0) = 0 AND NOT coalesce(c.relispartition, false)
        UNION SELECT pg_describe_object('pg_rewrite'::regclass, r.oid, 0)
            FROM part JOIN pg_rewrite r ON ev_class = part.oid AND rulename <> '_RETURN'
        UNION SELECT format('its own expression (first ALTER TABLE %s ALTER COLUMN %I DROP EXPRESSION)',
                            name, attname) FROM root WHERE attgenerated <> ''
        UNION SELECT format('its identity (first ALTER TABLE %s ALTER COLUMN %I DROP IDENTITY, and give it '
                            'the default nextval of a sequence OWNED BY it)', name, attname)
            FROM root WHERE attidentity <> ''
        UNION SELECT format('the partition key of %s (it cannot be altered: make a new table)', name)
            FROM part JOIN pg_depend
                ON classid = 'pg_class'::regclass AND objid = part.oid AND objsubid = attnum
            WHERE refclassid = 'pg_class'::regclass AND refobjid = part.oid AND refobjsubid = 0
              AND deptype = 'i'
        UNION SELECT format('table %s, from which it is inherited (change it there)', inhparent::regclass)
            FROM root JOIN pg_inherits ON inhrelid = root.oid WHERE attinhcount > 0
        UNION SELECT format('table %s, which inherits it (first ALTER TABLE %s NO INHERIT %s)',
                            part.name, part.name, root.name)
            FROM root, part WHERE root.relkind = 'r' AND part.level = 1
        UNION SELECT format('foreign table %s, which is a partition (detach it first)', name)
            FROM part WHERE relkind = 'f' AND level > 0
        UNION SELECT format('%s, which is no table', pg_describe_object('pg_class'::regclass, oid, 0))
            FROM root WHERE relkind NOT IN ('r', 'p')
        UNION SELECT format('type %s, which the table is of (first ALTER TABLE %s NOT OF)',
                            reloftype::regtype, name) FROM root WHERE reloftype <> 0
        UNION SELECT format('NOT NULL of %s alone (make it NOT NULL in the whole table)', part.name)
            FROM part, root WHERE part.attnotnull AND NOT root.attnotnull
        UNION SELECT format('row level security of %s, which hides rows from %I (first ALTER TABLE %s '
                            'NO FORCE ROW LEVEL SECURITY, or connect as a role with BYPASSRLS)',
                            name, current_user, name)
            FROM root WHERE row_security_active(oid)
        UNION SELECT format('security label %L', label) FROM part JOIN pg_seclabel
            ON classoid = 'pg_class'::regclass AND objoid = part.oid AND objsubid = attnum
        ORDER BY 1
    """.strip()


def users_text(table: RelationName, column: str) -> str:
    """Render the query that gives them in one line; NULL when there are none."""
    return f"SELECT string_agg(named, ', ') FROM ({users(table, column)}) AS users"


def later_triggers(table: RelationName, trigger: str) -> str:
    """Render the query that names, in one line, the triggers that change a row after another trigger did.

    PostgreSQL fires them in the order of their names.
    """
    return f"""
        WITH RECURSIVE {tree(table)}
        SELECT string_agg(pg_describe_object('pg_trigger'::regclass, t.oid, 0), ', ')
        FROM tree JOIN pg_trigger t ON tgrelid = relid
        WHERE tgparentid = 0 AND {BEFORE_ROW} AND tgname > {literal(trigger)}
          -- another column's change writes its own new column, and no other
          AND NOT starts_with(coalesce(obj_description(t.oid, 'pg_trigger'), ''), {literal(MARK)})
    """.strip()


BEFORE_ROW = "NOT tgisinternal AND tgtype & 3 = 3 AND tgtype & 20 <> 0"
"""Of a trigger: BEFORE INSERT or UPDATE, for each row."""
