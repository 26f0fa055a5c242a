"""What goes over from a column to the one that takes its place, read when it goes over. Pure.

By blocks of PL/pgSQL: what stands is known under the lock alone, and each partition has its own.
"""

from partitions.online.change import MARK
from partitions.online.users import tree
from partitions.sql import RelationName, dollar_quoted, literal


def carry_storage(table: RelationName, column: str, new: str) -> str:
    """Render how values are stored and counted: STATISTICS, n_distinct, and STORAGE and COMPRESSION, too,
    where the new type has a choice.
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
        IF {_storage("becomes")} <> 'p' THEN
            IF part.attstorage <> {_storage("was")} THEN
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


def carry_grants(table: RelationName, column: str, new: str) -> str:
    """Render what the column's own privileges allow."""
    return _each_part(table, column, new, _GRANTS.format(new=literal(new)))


_GRANTS = """
        FOR item IN SELECT * FROM aclexplode(part.attacl) LOOP
            EXECUTE format('GRANT %s (%I) ON %s TO %s%s', item.privilege_type, {new}, part.name,
                CASE item.grantee WHEN 0 THEN 'PUBLIC' ELSE item.grantee::regrole::text END,
                CASE WHEN item.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        END LOOP;"""


def carry_rest(table: RelationName, column: str, new: str, to: str, change: str) -> str:
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
            IF (item.seqtypid, part.becomes) IN (
                ('int4'::regtype, 'int8'::regtype), ('int2'::regtype, 'int8'::regtype),
                ('int2'::regtype, 'int4'::regtype)
            ) THEN
                EXECUTE format('ALTER SEQUENCE %s AS %s', item.name, part.becomes::regtype);
            END IF;
        END LOOP;
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', part.name, {literal(new)}, CASE WHEN part.level = 0
            THEN concat_ws(E'\\n', {literal(MARK + change)}, part.comment) ELSE part.comment END);
        IF part.level = 0 THEN
            SELECT o.conname AS was, n.conname AS becomes INTO item FROM pg_constraint o, pg_constraint n
            WHERE o.conrelid = part.attrelid AND o.contype = 'n' AND part.attnum = ANY (o.conkey)
              AND n.conrelid = part.attrelid AND n.contype = 'n' AND part.new_attnum = ANY (n.conkey);
            IF FOUND THEN
                EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL', part.name, {literal(column)});
                EXECUTE format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I',
                               part.name, item.becomes, item.was);
            END IF;
        END IF;""",
    )


def uncover_comment(table: RelationName, column: str) -> str:
    """Render the end of the change's comment: what stood in the old column's remains."""
    return "DO " + dollar_quoted(
        f"""
BEGIN
    EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', {table.regclass}, {literal(column)}, (
        SELECT substring(col_description(attrelid, attnum) FROM E'^[^\\n]*\\n(.*)$') FROM pg_attribute
        WHERE attrelid = {table.regclass} AND attname = {literal(column)}));
END
""",
        "carry",
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
        WITH RECURSIVE {tree(table)}
        SELECT o.*, o.atttypid AS was, n.atttypid AS becomes, n.attnum AS new_attnum, level,
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
        "carry",
    )
