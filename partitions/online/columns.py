"""A column: its facts, the objects that depend on it, and what another column takes over from it.

What is taken over is found by blocks of PL/pgSQL: what stands is known under the lock alone, and each
partition has its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from partitions.errors import NoSuchColumn
from partitions.online.backfill import run_plain
from partitions.online.change import MARK
from partitions.sql import RelationName, dollar_quoted, literal, unquoted


def table_tree(table: RelationName) -> str:
    """Render the table and its partitions, each with its level, for WITH RECURSIVE."""
    return (
        f"tree (relid, level) AS (SELECT {table.regclass}::oid, 0 "
        "UNION SELECT inhrelid, level + 1 FROM pg_inherits JOIN tree ON inhparent = relid)"
    )


def dependents(table: RelationName, column: str) -> str:
    """Render the query that names, one a row, what would be lost with the column, or would stand still.

    PostgreSQL stores by number which column a view, a policy or an index reads: they follow a rename, so
    that after a swap they read the old column. What `transfer_properties` takes over is not named: default,
    NOT NULL, an own sequence. What cannot be changed online at all is named with what to do about it.
    """
    return f"""
        WITH RECURSIVE {table_tree(table)},
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


def dependents_text(table: RelationName, column: str) -> str:
    """Render the query that returns them in one line; NULL when there are none."""
    return f"SELECT string_agg(named, ', ') FROM ({dependents(table, column)}) AS users"


def later_triggers(table: RelationName, trigger: str) -> str:
    """Render the query that names, in one line, the triggers that change a row after another trigger did.

    PostgreSQL fires them in the order of their names.
    """
    return f"""
        WITH RECURSIVE {table_tree(table)}
        SELECT string_agg(pg_describe_object('pg_trigger'::regclass, t.oid, 0), ', ')
        FROM tree JOIN pg_trigger t ON tgrelid = relid
        WHERE tgparentid = 0 AND {BEFORE_ROW} AND tgname > {literal(trigger)}
          -- another column's change writes its own new column, and no other
          AND NOT starts_with(coalesce(obj_description(t.oid, 'pg_trigger'), ''), {literal(MARK)})
    """.strip()


BEFORE_ROW = "NOT tgisinternal AND tgtype & 3 = 3 AND tgtype & 20 <> 0"
"""Of a trigger: BEFORE INSERT or UPDATE, for each row."""


def copy_storage(table: RelationName, column: str, new: str) -> str:
    """Render how values are stored and counted.

    That is STATISTICS and n_distinct, and STORAGE and COMPRESSION where the new type has a choice.
    """
    return _each_part(
        table,
        column,
        new,
        f"""
        IF coalesce(part.attstattarget, -1) >= 0 THEN
            EXECUTE format('%s SET STATISTICS %s', alter, part.attstattarget);
        END IF;
        -- A server may keep options of its own there: Debian's 15.20 has pg_attver.
        FOR item IN SELECT o FROM unnest(part.attoptions) AS o WHERE starts_with(o, 'n_distinct') LOOP
            EXECUTE format('%s SET (%s)', alter, item.o);
        END LOOP;
        IF {_storage("new_type")} <> 'p' THEN
            IF part.attstorage <> {_storage("old_type")} THEN
                EXECUTE format('%s SET STORAGE %s', alter, CASE part.attstorage
                    WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END);
            END IF;
            IF part.attcompression <> '' THEN
                EXECUTE format('%s SET COMPRESSION %s', alter,
                               CASE part.attcompression WHEN 'l' THEN 'lz4' ELSE 'pglz' END);
            END IF;
        END IF;""",
    )


def _storage(side: str) -> str:
    return f"(SELECT typstorage FROM pg_type WHERE pg_type.oid = part.{side})"


def copy_grants(table: RelationName, column: str, new: str) -> str:
    """Render what the column's own privileges allow."""
    return _each_part(table, column, new, _GRANTS.format(new=literal(new)))


_GRANTS = """
        FOR item IN SELECT * FROM aclexplode(part.attacl) LOOP
            EXECUTE format('GRANT %s (%I) ON %s TO %s%s', item.privilege_type, {new}, part.name,
                CASE item.grantee WHEN 0 THEN 'PUBLIC' ELSE item.grantee::regrole::text END,
                CASE WHEN item.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        END LOOP;"""


def transfer_properties(table: RelationName, column: str, new: str, to: str, change: str) -> str:
    """Render all that the old column gives up: privileges, default, sequence, comment, the name of NOT NULL.

    The comment stands behind that of the change until `contract` shows it.
    """
    return _each_part(
        table,
        column,
        new,
        _GRANTS.format(new=literal(new))
        + f"""
        IF part.default_value IS NOT NULL THEN
            EXECUTE format('%s SET DEFAULT (%s)::%s', alter, part.default_value, {literal(to)});
        END IF;
        FOR item IN
            SELECT objid::regclass AS name, seqtypid FROM pg_depend JOIN pg_sequence ON seqrelid = objid
            WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
              AND refobjid = part.attrelid AND refobjsubid = part.attnum AND deptype = 'a'
        LOOP
            EXECUTE format('ALTER SEQUENCE %s OWNED BY %s.%I', item.name, part.name, {literal(new)});
            IF (item.seqtypid, part.new_type) IN (
                ('int4'::regtype, 'int8'::regtype), ('int2'::regtype, 'int8'::regtype),
                ('int2'::regtype, 'int4'::regtype)
            ) THEN
                EXECUTE format('ALTER SEQUENCE %s AS %s', item.name, part.new_type::regtype);
            END IF;
        END LOOP;
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', part.name, {literal(new)}, CASE WHEN part.level = 0
            THEN concat_ws(E'\\n', {literal(MARK + change)}, part.comment) ELSE part.comment END);
        IF part.level = 0 THEN
            SELECT o.conname AS old_name, n.conname AS new_name INTO item
            FROM pg_constraint o, pg_constraint n
            WHERE o.conrelid = part.attrelid AND o.contype = 'n' AND part.attnum = ANY (o.conkey)
              AND n.conrelid = part.attrelid AND n.contype = 'n' AND part.new_attnum = ANY (n.conkey);
            IF FOUND THEN
                EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL', part.name, {literal(column)});
                EXECUTE format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I',
                               part.name, item.new_name, item.old_name);
            END IF;
        END IF;""",
    )


def restore_comment(table: RelationName, column: str) -> str:
    """Render the end of the change's comment: what stood in the old column's remains."""
    return "DO " + dollar_quoted(
        f"""
BEGIN
    EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', {table.regclass}, {literal(column)}, (
        SELECT substring(col_description(attrelid, attnum) FROM E'^[^\\n]*\\n(.*)$') FROM pg_attribute
        WHERE attrelid = {table.regclass} AND attname = {literal(column)}));
END
""",
        "copy",
    )


def _each_part(table: RelationName, column: str, new: str, body: str) -> str:
    """Render a block that does something for the table and for each of its partitions."""
    return "DO " + dollar_quoted(
        f"""
DECLARE
    part record;
    item record;
    alter text;
BEGIN
    FOR part IN
        WITH RECURSIVE {table_tree(table)}
        SELECT o.*, o.atttypid AS old_type, n.atttypid AS new_type, n.attnum AS new_attnum, level,
               o.attrelid::regclass AS name, pg_get_expr(adbin, adrelid) AS default_value,
               col_description(o.attrelid, o.attnum) AS comment
        FROM tree JOIN pg_attribute o ON o.attrelid = relid AND o.attname = {literal(column)}
        JOIN pg_attribute n ON n.attrelid = relid AND n.attname = {literal(new)}
        LEFT JOIN pg_attrdef ON adrelid = o.attrelid AND adnum = o.attnum
        ORDER BY level
    LOOP
        alter := format('ALTER TABLE ONLY %s ALTER COLUMN %I', part.name, {literal(new)});{body}
    END LOOP;
END
""",
        "copy",
    )


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """What must be known of a column.

    Parameters:
        not_null: whether it refuses NULL.
        default: its default, as SQL.
        dependents: what uses it and would be lost with it, each as PostgreSQL describes it.
        citus: whether the table is Citus's.
        keyed: whether the table has a primary key, along which a backfill goes.
        table: the table, with its schema; None is found by its name.
        shown: the table as PostgreSQL prints it, with its schema where that must be said.
        type: its type, as PostgreSQL prints it.
        collation: its collation, as SQL, where it is not its type's own.
        columns: the table's columns, each with its comment.
        triggers: the triggers that may change a row before it is written, each with its comment.
    """

    not_null: bool
    default: str | None = None
    dependents: Sequence[str] = ()
    citus: bool = False
    keyed: bool = True
    table: RelationName | None = None
    shown: str | None = None
    type: str | None = None
    collation: str | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)
    triggers: Mapping[str, str | None] = field(default_factory=dict)


_FACTS = """
    SELECT attnotnull AS not_null, pg_get_expr(adbin, adrelid) AS default,
           EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') AS citus,
           EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisprimary) AS keyed,
           relname, nspname, attrelid::regclass::text AS shown, format_type(atttypid, atttypmod) AS type,
           CASE WHEN attcollation <> typcollation THEN attcollation::regcollation::text END AS collation
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    JOIN pg_class ON pg_class.oid = attrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
    JOIN pg_type ON pg_type.oid = atttypid
    WHERE attrelid = to_regclass(:table) AND attname = :column AND attnum > 0 AND NOT attisdropped
"""
_COLUMNS = """
    SELECT attname, col_description(attrelid, attnum) FROM pg_attribute
    WHERE attrelid = to_regclass(:table) AND NOT attisdropped
"""


def read_column(connection: Connection, table: str, column: str) -> ColumnFacts:
    """Read what `change_type` must know.

    Raises:
        NoSuchColumn: the column is absent.
    """
    name, column = RelationName.of(table), unquoted(column)
    facts = connection.execute(text(_FACTS), {"table": str(name), "column": column}).one_or_none()
    if facts is None:
        raise NoSuchColumn(table, column)
    columns = connection.execute(text(_COLUMNS), {"table": str(name)})
    triggers = run_plain(
        connection,
        f"WITH RECURSIVE {table_tree(name)} SELECT tgname, obj_description(t.oid, 'pg_trigger') "
        f"FROM tree JOIN pg_trigger t ON tgrelid = relid WHERE {BEFORE_ROW} ORDER BY level DESC",
    )
    return ColumnFacts(
        facts.not_null,
        facts.default,
        tuple(run_plain(connection, dependents(name, column)).scalars()),
        facts.citus,
        facts.keyed,
        RelationName(facts.relname, facts.nspname),
        facts.shown,
        facts.type,
        facts.collation,
        dict(map(tuple, columns)),
        dict(map(tuple, triggers)),
    )
