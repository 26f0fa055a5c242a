"""The queries of `catalogue`: one SELECT for each kind of object, in the order in which pg_dump walks them.

Each gives `kind`, `table`, `name` and `definition` of a `Fact`; `measured_by`, the partitioned table that a
partition of a range is compared with; and `counterpart`, the name that the same object has there.

PostgreSQL 15 to 18 give the same facts: what only the newer ones have (privilege MAINTAIN, NOT NULL as a
constraint, virtual columns) is rendered so that its default is invisible, and columns that were renamed
between them are read through `to_jsonb`.
"""

from partitions.online.backfill import PROGRESS_TABLE
from partitions.online.change import MARK
from partitions.sql import literal
from sharding.ownership import GUARD_FUNCTION as GUARD

PER_SHARD = "mes-storage: per shard"
"""The comment on a function whose body differs between the databases of a tree."""

UNDER_WAY = " -- online change: "
"""Stands in a definition behind what PostgreSQL says, and before the name of the change."""

FIRST_OID = 16384
"""The first oid of a user's object; those below are PostgreSQL's own, for pg_dump as well."""


def _change(comment: str) -> str:
    """Render the online change that an object's comment names, as it stands behind its definition."""
    # In its first line: a column's own comment may stand below.
    first_line = literal(f"^{MARK}([^\n]*)")
    name = f"substring({comment} FROM {first_line})"
    return f"coalesce({literal(UNDER_WAY)} || {name}, '')"


def _comment(part: str, catalog: str) -> str:
    """Render the comment of a partition's index or trigger; an online change marks only the table's."""
    return f"coalesce(obj_description({part}.oid, '{catalog}'), obj_description(whole.oid, '{catalog}'))"


def _owner(column: str) -> str:
    """Render an object's owner, unless it is the role that migrates, which each installation names."""
    return f"CASE WHEN {column} <> (SELECT oid FROM migrating) THEN 'OWNER ' || {column}::regrole END"


def _by_hand(catalog: str, oid: str) -> str:
    """Render whether an object is not PostgreSQL's own, and comes with no extension and no type."""
    # A sequence that comes with a column is a fact; the functions and casts of a range are none.
    kinds = "'e'" if catalog == "pg_class" else "'e', 'i'"
    member = (
        f"EXISTS (SELECT FROM pg_depend WHERE classid = '{catalog}'::regclass AND objid = {oid} "
        f"AND deptype IN ({kinds}))"
    )
    return f"{oid} >= {FIRST_OID} AND NOT {member}"


def _in_schema(catalog: str, prefix: str) -> str:
    """Render that, and that it is in a schema of the database's users."""
    return f"{_by_hand(catalog, 'o.oid')} AND o.{prefix}namespace IN (SELECT oid FROM schemas)"


def _single(kind: str, name: str, definition: str, source: str) -> str:
    """Render the SELECT of objects that belong to no table."""
    return f"SELECT {literal(kind)}, {name}, {name}, {definition}, NULL, NULL FROM {source}"


def _options(column: str) -> str:
    """Render the options of a foreign object, in the order of their names."""
    return (
        f"'OPTIONS (' || (SELECT string_agg(option, ', ' ORDER BY option) FROM unnest({column}) AS option)"
        " || ')'"
    )


_QUALIFIED = (
    "CASE WHEN n.nspname = 'public' THEN '' ELSE quote_ident(n.nspname) || '.' END || quote_ident({name})"
)


def _named(column: str) -> str:
    """Render the name of an object `o` of schema `n`, for catalogues that have no reg-type."""
    return _QUALIFIED.format(name=column)


_WITH = f"""
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
          AND {_by_hand("pg_class", "c.oid")}
          -- a partition that waits, detached, for its end, and says so: it is the policies' as well
          AND (c.relispartition OR coalesce(obj_description(c.oid, 'pg_class'), '')
               !~ '^{{"state": "(detached|prepared)", "table"')
    ),
    tables AS (SELECT * FROM ours WHERE relkind <> 'S')
"""

_TABLES = f"""
    SELECT CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
           ELSE 'table' END AS kind, label AS "table", label AS name,
           concat_ws(' ', coalesce('PARTITION BY ' || pg_get_partkeydef(t.oid), pg_get_viewdef(t.oid)),
               CASE WHEN NOT relispartition THEN
                   'INHERITS (' || (SELECT string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno)
                                    FROM pg_inherits WHERE inhrelid = t.oid) || ')' END,
               'OF ' || format_type(nullif(reloftype, 0), NULL),
               (SELECT 'SERVER ' || quote_ident(srvname) FROM pg_foreign_table JOIN pg_foreign_server s
                ON s.oid = ftserver WHERE ftrelid = t.oid),
               (SELECT {_options("ftoptions")} FROM pg_foreign_table WHERE ftrelid = t.oid),
               (SELECT 'USING ' || quote_ident(amname) FROM pg_am
                WHERE pg_am.oid = relam AND amname <> 'heap' AND relkind IN ('r', 'm')),
               CASE WHEN relpersistence = 'u' THEN 'UNLOGGED' END,
               CASE WHEN relkind = 'm' AND NOT relispopulated THEN 'WITH NO DATA' END,
               'WITH (' || array_to_string(reloptions, ', ') || ')',
               (SELECT 'TOAST WITH (' || array_to_string(toast.reloptions, ', ') || ')'
                FROM pg_class toast WHERE toast.oid = t.reltoastrelid),
               -- of a month it is the policy's
               (SELECT 'TABLESPACE ' || quote_ident(spcname) FROM pg_tablespace s
                WHERE s.oid = reltablespace AND measured_by IS NULL),
               'REPLICA IDENTITY ' || CASE relreplident WHEN 'n' THEN 'NOTHING' WHEN 'f' THEN 'FULL'
                                                        WHEN 'i' THEN 'USING INDEX' END,
               CASE WHEN relrowsecurity THEN 'ROW LEVEL SECURITY' END,
               CASE WHEN relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END,
               {_owner("relowner")}) AS definition,
           measured_by, NULL AS counterpart
    FROM tables t
"""

_PARTITIONS = """
    SELECT 'partition', inhparent::regclass::text, label, pg_get_expr(relpartbound, t.oid), NULL, NULL
    FROM tables t JOIN pg_inherits ON inhrelid = t.oid WHERE relispartition AND measured_by IS NULL
"""

# NOT NULL has constraints since PostgreSQL 18; the columns say it already. An identity belongs to the
# partitioned table, and since PostgreSQL 17 its partitions show it as well.
_COLUMNS = f"""
    SELECT 'column', label, a.attname,
           concat_ws(' ', format_type(a.atttypid, a.atttypmod),
               (SELECT 'COLLATE ' || a.attcollation::regcollation FROM pg_type
                WHERE pg_type.oid = a.atttypid AND typcollation <> a.attcollation),
               CASE WHEN a.attnotnull THEN 'NOT NULL' END,
               (SELECT concat_ws(' ', CASE WHEN NOT convalidated THEN 'NOT VALID' END,
                                 CASE WHEN connoinherit THEN 'NO INHERIT' END)
                FROM pg_constraint WHERE conrelid = t.oid AND contype = 'n' AND conkey = ARRAY[a.attnum]
                AND NOT (convalidated AND NOT connoinherit)),
               CASE WHEN NOT relispartition THEN
                   CASE a.attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY'
                                      WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END END,
               CASE WHEN a.attgenerated <> '' THEN 'GENERATED ALWAYS AS'
                    WHEN d.adbin IS NOT NULL THEN 'DEFAULT' END,
               pg_get_expr(d.adbin, d.adrelid),
               CASE a.attgenerated WHEN 's' THEN 'STORED' WHEN 'v' THEN 'VIRTUAL' END,
               (SELECT 'STORAGE ' || CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL'
                                                       WHEN 'x' THEN 'EXTENDED' ELSE 'MAIN' END
                FROM pg_type WHERE pg_type.oid = a.atttypid AND typstorage <> a.attstorage),
               {_options("a.attfdwoptions")})
           || {_change("coalesce(col_description(t.oid, a.attnum), whole.comment)")}, measured_by, NULL
    FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    -- an online change marks what it makes on the partitioned table alone
    LEFT JOIN LATERAL (
        SELECT col_description(p.attrelid, p.attnum) AS comment FROM pg_inherits
        JOIN pg_attribute p ON p.attrelid = inhparent AND p.attname = a.attname
        WHERE inhrelid = t.oid AND NOT p.attisdropped LIMIT 1) whole ON relispartition
    WHERE t.relkind <> 'v' OR d.adbin IS NOT NULL
"""

# Apart from the column: months, which CREATE TABLE ... LIKE makes, do not have all that their table has.
# Debian's PostgreSQL 15 keeps a note of its own in attoptions.
_COLUMN_OPTIONS = """
    SELECT 'column options', label, a.attname, o.words, measured_by, NULL
    FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    CROSS JOIN LATERAL (SELECT concat_ws(' ',
        'STATISTICS ' || nullif(a.attstattarget, -1),
        CASE a.attcompression WHEN 'p' THEN 'COMPRESSION pglz' WHEN 'l' THEN 'COMPRESSION lz4' END,
        (SELECT string_agg(option, ', ' ORDER BY option) FROM unnest(a.attoptions) AS option
         WHERE starts_with(option, 'n_distinct'))) AS words) o
    WHERE o.words <> ''
"""

# A CHECK of a month that says what its bound says is made by policy, or left by a detach, and does no harm.
_NOISE = literal(r"[()']|::[a-z ]+|^CHECK ")


def _words(definition: str) -> str:
    """Render a condition on the partition key without what PostgreSQL writes around its words."""
    not_null = "'(' || quote_ident(key.attname) || ' IS NOT NULL) AND '"
    return f"regexp_replace(replace({definition}, {not_null}, ''), {_NOISE}, '', 'g')"


_SAYS_BOUND = f"""
    contype = 'c' AND EXISTS (
        SELECT FROM pg_inherits JOIN pg_partitioned_table ON partrelid = inhparent
        JOIN pg_attribute key ON key.attrelid = partrelid AND key.attnum = partattrs[0]
        WHERE inhrelid = t.oid
          AND {_words("pg_get_constraintdef(k.oid)")} = {_words("pg_get_partition_constraintdef(t.oid)")})
"""

# What a partition has inherited cannot be changed there.
_CONSTRAINTS = f"""
    SELECT 'constraint', label, conname,
           pg_get_constraintdef(k.oid) || {_change("obj_description(k.oid, 'pg_constraint')")},
           measured_by, NULL
    FROM tables t JOIN pg_constraint k ON k.conrelid = t.oid
    WHERE contype NOT IN ('n', 't') AND conparentid = 0 AND NOT (relispartition AND coninhcount > 0)
      AND NOT (measured_by IS NOT NULL AND {_SAYS_BOUND})
"""

_INDEXES = f"""
    SELECT 'index', label, i.relname,
           replace(pg_get_indexdef(i.oid), ' ON ONLY ', ' ON ') || more.words
           || {_change(_comment("i", "pg_class"))},
           measured_by, whole.relname
    FROM tables t JOIN pg_index x ON x.indrelid = t.oid JOIN pg_class i ON i.oid = x.indexrelid
    LEFT JOIN pg_inherits h ON h.inhrelid = i.oid LEFT JOIN pg_class whole ON whole.oid = h.inhparent
    CROSS JOIN LATERAL (SELECT concat(
        (SELECT ' TABLESPACE ' || quote_ident(spcname) FROM pg_tablespace s
         WHERE s.oid = i.reltablespace AND measured_by IS NULL),
        (SELECT string_agg(format(' STATISTICS %s ON %s', attstattarget, attnum), '' ORDER BY attnum)
         FROM pg_attribute WHERE attrelid = i.oid AND attstattarget >= 0),
        CASE WHEN x.indisclustered THEN ' CLUSTER' END,
        CASE WHEN x.indisreplident THEN ' REPLICA IDENTITY' END,
        CASE WHEN NOT x.indisvalid THEN ' INVALID' END) AS words) more
    WHERE measured_by IS NULL OR whole.oid IS NULL OR more.words <> ''
       OR i.reloptions IS DISTINCT FROM whole.reloptions
"""

_TRIGGERS = f"""
    SELECT 'trigger', label, g.tgname,
           pg_get_triggerdef(g.oid)
           || CASE g.tgenabled WHEN 'O' THEN '' ELSE ' (enabled: ' || g.tgenabled::text || ')' END
           || {_change(_comment("g", "pg_trigger"))},
           measured_by, whole.tgname
    FROM ours t JOIN pg_trigger g ON g.tgrelid = t.oid LEFT JOIN pg_trigger whole ON whole.oid = g.tgparentid
    WHERE NOT g.tgisinternal AND (measured_by IS NULL OR whole.tgenabled IS DISTINCT FROM g.tgenabled)
    UNION ALL
    SELECT 'disabled constraint trigger', label, coalesce(conname, tgname),
           string_agg(DISTINCT tgenabled::text, ', '), measured_by, NULL
    FROM ours t JOIN pg_trigger g ON g.tgrelid = t.oid LEFT JOIN pg_constraint k ON k.oid = g.tgconstraint
    WHERE tgisinternal AND tgenabled <> 'O' GROUP BY 1, 2, 3, 5
    UNION ALL
    SELECT 'rule', label, rulename,
           pg_get_ruledef(r.oid)
           || CASE ev_enabled WHEN 'O' THEN '' ELSE ' (enabled: ' || ev_enabled::text || ')' END,
           measured_by, NULL
    FROM ours t JOIN pg_rewrite r ON r.ev_class = t.oid WHERE rulename <> '_RETURN' OR ev_enabled <> 'O'
    UNION ALL
    SELECT 'policy', label, polname,
           concat_ws(' ', CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
               'FOR ' || CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                     WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
               'TO ' || (SELECT string_agg(coalesce(nullif(role, 0)::regrole::text, 'PUBLIC'), ', '
                                           ORDER BY nullif(role, 0)::regrole::text)
                         FROM unnest(polroles) AS role),
               'USING (' || pg_get_expr(polqual, polrelid) || ')',
               'WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')'), measured_by, NULL
    FROM ours t JOIN pg_policy p ON p.polrelid = t.oid
    UNION ALL
    SELECT 'statistics', label, {_named("stxname")},
           concat_ws(' ', array_to_string(stxkind::text[], ', '),
                     'ON ' || pg_get_statisticsobjdef_columns(o.oid),
                     'STATISTICS ' || nullif(stxstattarget, -1), {_owner("stxowner")}), measured_by, NULL
    FROM tables t JOIN pg_statistic_ext o ON o.stxrelid = t.oid JOIN pg_namespace n ON n.oid = stxnamespace
"""

_SEQUENCES = f"""
    SELECT 'sequence', coalesce(d.refobjid::regclass::text, label), label,
           concat_ws(' ', 'AS ' || nullif(format_type(seqtypid, NULL), 'bigint'),
               'START ' || nullif(seqstart, CASE WHEN seqincrement > 0 THEN seqmin ELSE seqmax END),
               'INCREMENT ' || nullif(seqincrement, 1),
               'MINVALUE ' || nullif(seqmin, CASE WHEN seqincrement > 0 THEN 1 ELSE -widest END),
               'MAXVALUE ' || nullif(seqmax, CASE WHEN seqincrement > 0 THEN widest - 1 ELSE -1 END),
               'CACHE ' || nullif(seqcache, 1), CASE WHEN seqcycle THEN 'CYCLE' END,
               CASE WHEN relpersistence = 'u' THEN 'UNLOGGED' END,
               CASE d.deptype WHEN 'i' THEN 'IDENTITY OF ' ELSE 'OWNED BY ' END || a.attname,
               {_owner("relowner")}), NULL, NULL
    FROM ours s JOIN pg_sequence q ON q.seqrelid = s.oid
    CROSS JOIN LATERAL (SELECT CASE format_type(seqtypid, NULL) WHEN 'smallint' THEN 32768
                        WHEN 'integer' THEN 2147483648 ELSE 9223372036854775808 END AS widest) w
    LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.deptype IN ('a', 'i')
        AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
    LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
"""

# A body that is parsed already is no text: the guard of a shard has one, and each shard another.
_FUNCTIONS = f"""
    SELECT CASE prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END,
           o.oid::regprocedure::text, o.oid::regprocedure::text,
           concat_ws(' ',
               CASE WHEN obj_description(o.oid, 'pg_proc') = {literal(PER_SHARD)} THEN 'per shard'
                    WHEN prokind <> 'a' THEN 'md5 ' || md5(concat(prosrc, probin,
                        CASE WHEN o.oid IS DISTINCT FROM to_regprocedure({literal(GUARD)})
                        THEN pg_get_function_sqlbody(o.oid) END)) END,
               (SELECT concat_ws(' ', aggkind::text, 'SFUNC', aggtransfn, 'STYPE', aggtranstype::regtype,
                           'SSPACE ' || nullif(aggtransspace, 0), 'FINALFUNC', aggfinalfn, aggfinalextra,
                           aggfinalmodify::text, 'COMBINEFUNC', aggcombinefn, aggserialfn, aggdeserialfn,
                           'MOVING', aggmtransfn, aggminvtransfn, aggmtranstype::regtype, aggmtransspace,
                           aggmfinalfn, aggmfinalextra, aggmfinalmodify::text, aggminitval,
                           'INITCOND ' || agginitval, 'SORTOP ' || nullif(aggsortop, 0)::regoperator)
                FROM pg_aggregate WHERE aggfnoid = o.oid),
               '(' || nullif(pg_get_function_arguments(o.oid), '') || ')',
               'RETURNS ' || pg_get_function_result(o.oid), 'LANGUAGE ' || lanname,
               CASE provolatile WHEN 'i' THEN 'IMMUTABLE' WHEN 's' THEN 'STABLE' END,
               CASE WHEN proisstrict THEN 'STRICT' END, CASE WHEN prosecdef THEN 'SECURITY DEFINER' END,
               CASE WHEN proleakproof THEN 'LEAKPROOF' END, CASE WHEN prokind = 'w' THEN 'WINDOW' END,
               CASE proparallel WHEN 's' THEN 'PARALLEL SAFE' WHEN 'r' THEN 'PARALLEL RESTRICTED' END,
               'COST ' || nullif(procost, CASE WHEN lanname IN ('internal', 'c') OR prokind = 'a'
                                              THEN 1 ELSE 100 END),
               'ROWS ' || nullif(prorows, CASE WHEN proretset THEN 1000 ELSE 0 END),
               'SUPPORT ' || nullif(prosupport, 0),
               'TRANSFORM ' || array_to_string(protrftypes::regtype[], ', '),
               'SET ' || array_to_string(proconfig, ', '), {_owner("proowner")})
           || {_change("obj_description(o.oid, 'pg_proc')")}, NULL, NULL
    FROM pg_proc o JOIN pg_language l ON l.oid = prolang
    WHERE {_in_schema("pg_proc", "pro")}
"""

_TYPES = f"""
    SELECT 'type', o.oid::regtype::text, o.oid::regtype::text, concat_ws(' ',
        CASE typtype
        WHEN 'e' THEN 'ENUM (' || (SELECT string_agg(enumlabel, ', ' ORDER BY enumsortorder)
                                   FROM pg_enum WHERE enumtypid = o.oid) || ')'
        WHEN 'c' THEN '(' || (SELECT string_agg(concat_ws(' ', quote_ident(attname),
                                  format_type(atttypid, atttypmod),
                                  'COLLATE ' || nullif(attcollation, 100)::regcollation),
                                  ', ' ORDER BY attnum)
                              FROM pg_attribute
                              WHERE attrelid = typrelid AND attnum > 0 AND NOT attisdropped) || ')'
        WHEN 'r' THEN (SELECT concat_ws(' ', 'RANGE OF', rngsubtype::regtype,
                           'MULTIRANGE', rngmultitypid::regtype, nullif(rngcollation, 0)::regcollation,
                           opcname, nullif(rngcanonical, 0), nullif(rngsubdiff, 0))
                       FROM pg_range JOIN pg_opclass c ON c.oid = rngsubopc WHERE rngtypid = o.oid)
        WHEN 'b' THEN concat_ws(' ', 'BASE', typlen, typbyval, typalign::text, typstorage::text,
                                typcategory::text, typispreferred, typdelim::text, typinput, typoutput,
                                typreceive, typsend, typmodin, typmodout, typanalyze,
                                nullif(typelem, 0)::regtype)
        WHEN 'd' THEN concat_ws(' ', 'DOMAIN', format_type(typbasetype, typtypmod),
                                (SELECT 'COLLATE ' || o.typcollation::regcollation FROM pg_type base
                                 WHERE base.oid = o.typbasetype AND base.typcollation <> o.typcollation),
                                CASE WHEN typnotnull THEN 'NOT NULL' END)
        ELSE 'SHELL' END,
        'DEFAULT ' || typdefault,
        (SELECT string_agg(quote_ident(conname) || ' ' || pg_get_constraintdef(k.oid), ', ' ORDER BY conname)
         FROM pg_constraint k WHERE contypid = o.oid AND contype = 'c'),
        {_owner("typowner")}), NULL, NULL
    FROM pg_type o
    WHERE {_in_schema("pg_type", "typ")}
      AND (typtype IN ('e', 'd', 'r', 'p') OR typtype = 'b' AND NOT EXISTS (
               SELECT FROM pg_type element WHERE element.typarray = o.oid)
           OR typtype = 'c' AND EXISTS (SELECT FROM pg_class WHERE pg_class.oid = typrelid AND relkind = 'c'))
"""

_DATABASE_OWNER = "(SELECT oid FROM pg_roles WHERE rolname = 'pg_database_owner')"

_SINGLE = (
    _single(
        "schema",
        "quote_ident(nspname)",
        f"concat({_owner('nspowner')})",
        f"schemas o WHERE nspname <> 'public' AND {_by_hand('pg_namespace', 'o.oid')}",
    ),
    # It stands in every database, so it is no fact itself.
    "SELECT 'owner', 'schema public', nspowner::regrole::text, '', NULL, NULL FROM schemas "
    f"WHERE nspname = 'public' AND nspowner NOT IN ({_DATABASE_OWNER}, (SELECT oid FROM migrating))",
    _single("extension", "quote_ident(extname)", "''", "pg_extension WHERE extname <> 'plpgsql'"),
    _single(
        "operator",
        "o.oid::regoperator::text",
        "concat_ws(' ', oprcode, 'COMMUTATOR ' || nullif(oprcom, 0)::regoperator, "
        "'NEGATOR ' || nullif(oprnegate, 0)::regoperator, 'RESTRICT ' || nullif(oprrest, 0), "
        "'JOIN ' || nullif(oprjoin, 0), CASE WHEN oprcanhash THEN 'HASHES' END, "
        f"CASE WHEN oprcanmerge THEN 'MERGES' END, {_owner('oprowner')})",
        f"pg_operator o WHERE {_in_schema('pg_operator', 'opr')}",
    ),
    _single(
        "operator family",
        f"{_named('opfname')} || ' USING ' || amname",
        "concat_ws(' ', (SELECT string_agg(concat_ws(' ', amopstrategy, amopopr::regoperator), ', ' "
        "ORDER BY amopstrategy, amopopr::regoperator::text) FROM pg_amop WHERE amopfamily = o.oid), "
        "(SELECT string_agg(concat_ws(' ', amprocnum, amproc::regprocedure), ', ' "
        "ORDER BY amprocnum, amproc::regprocedure::text) FROM pg_amproc WHERE amprocfamily = o.oid), "
        f"{_owner('opfowner')})",
        "pg_opfamily o JOIN pg_am a ON a.oid = opfmethod JOIN pg_namespace n ON n.oid = opfnamespace "
        f"WHERE {_in_schema('pg_opfamily', 'opf')}",
    ),
    _single(
        "operator class",
        f"{_named('opcname')} || ' USING ' || amname",
        "concat_ws(' ', 'FOR TYPE', opcintype::regtype, CASE WHEN opcdefault THEN 'DEFAULT' END, "
        f"'STORAGE ' || nullif(opckeytype, 0)::regtype, opfname, {_owner('opcowner')})",
        "pg_opclass o JOIN pg_am a ON a.oid = opcmethod JOIN pg_namespace n ON n.oid = opcnamespace "
        f"JOIN pg_opfamily f ON f.oid = opcfamily WHERE {_in_schema('pg_opclass', 'opc')}",
    ),
    _single(
        "cast",
        "format('(%s AS %s)', castsource::regtype, casttarget::regtype)",
        "concat_ws(' ', nullif(castfunc, 0)::regprocedure, castcontext::text, castmethod::text)",
        f"pg_cast o WHERE {_by_hand('pg_cast', 'o.oid')}",
    ),
    _single(
        "collation",
        "o.oid::regcollation::text",
        "concat_ws(' ', collprovider::text, collcollate, collctype, "
        "coalesce(to_jsonb(o) ->> 'colllocale', to_jsonb(o) ->> 'colliculocale'), "
        f"CASE WHEN NOT collisdeterministic THEN 'NONDETERMINISTIC' END, {_owner('collowner')})",
        f"pg_collation o WHERE {_in_schema('pg_collation', 'coll')}",
    ),
    _single(
        "conversion",
        _named("conname"),
        f"concat_ws(' ', conproc, CASE WHEN condefault THEN 'DEFAULT' END, {_owner('conowner')})",
        "pg_conversion o JOIN pg_namespace n ON n.oid = connamespace "
        f"WHERE {_in_schema('pg_conversion', 'con')}",
    ),
    _single(
        "text search configuration",
        "o.oid::regconfig::text",
        "concat_ws(' ', prsname, (SELECT string_agg(concat_ws(' ', maptokentype, mapdict::regdictionary), "
        "', ' ORDER BY maptokentype, mapseqno) FROM pg_ts_config_map WHERE mapcfg = o.oid), "
        f"{_owner('cfgowner')})",
        f"pg_ts_config o JOIN pg_ts_parser p ON p.oid = cfgparser WHERE {_in_schema('pg_ts_config', 'cfg')}",
    ),
    _single(
        "text search dictionary",
        "o.oid::regdictionary::text",
        f"concat_ws(' ', tmplname, dictinitoption, {_owner('dictowner')})",
        "pg_ts_dict o JOIN pg_ts_template t ON t.oid = dicttemplate "
        f"WHERE {_in_schema('pg_ts_dict', 'dict')}",
    ),
    _single(
        "text search parser",
        _named("prsname"),
        "concat_ws(' ', prsstart, prstoken, prsend, prsheadline, prslextype)",
        "pg_ts_parser o JOIN pg_namespace n ON n.oid = prsnamespace "
        f"WHERE {_in_schema('pg_ts_parser', 'prs')}",
    ),
    _single(
        "text search template",
        _named("tmplname"),
        "concat_ws(' ', tmplinit, tmpllexize)",
        "pg_ts_template o JOIN pg_namespace n ON n.oid = tmplnamespace "
        f"WHERE {_in_schema('pg_ts_template', 'tmpl')}",
    ),
    _single(
        "language",
        "quote_ident(lanname)",
        "concat_ws(' ', lanplcallfoid::regproc, CASE WHEN lanpltrusted THEN 'TRUSTED' END, "
        f"{_owner('lanowner')})",
        f"pg_language o WHERE {_by_hand('pg_language', 'o.oid')}",
    ),
    _single(
        "transform",
        "format('FOR %s LANGUAGE %s', trftype::regtype, lanname)",
        "concat_ws(' ', nullif(trffromsql, 0), nullif(trftosql, 0))",
        f"pg_transform o JOIN pg_language l ON l.oid = trflang WHERE {_by_hand('pg_transform', 'o.oid')}",
    ),
    _single(
        "access method",
        "quote_ident(amname)",
        "amtype::text || ' ' || amhandler",
        f"pg_am o WHERE {_by_hand('pg_am', 'o.oid')}",
    ),
    _single(
        "event trigger",
        "quote_ident(evtname)",
        "concat_ws(' ', 'ON', evtevent, '(' || array_to_string(evttags, ', ') || ')', evtfoid::regprocedure, "
        "CASE WHEN evtenabled <> 'O' THEN '(enabled: ' || evtenabled::text || ')' END, "
        f"{_owner('evtowner')})",
        f"pg_event_trigger o WHERE {_by_hand('pg_event_trigger', 'o.oid')}",
    ),
    _single(
        "foreign data wrapper",
        "quote_ident(fdwname)",
        "concat_ws(' ', nullif(fdwhandler, 0)::regprocedure, nullif(fdwvalidator, 0)::regprocedure, "
        f"{_options('fdwoptions')}, {_owner('fdwowner')})",
        f"pg_foreign_data_wrapper o WHERE {_by_hand('pg_foreign_data_wrapper', 'o.oid')}",
    ),
    _single(
        "server",
        "quote_ident(srvname)",
        "concat_ws(' ', 'TYPE ' || srvtype, 'VERSION ' || srvversion, 'FOREIGN DATA WRAPPER ' || fdwname, "
        f"{_options('srvoptions')}, {_owner('srvowner')})",
        "pg_foreign_server o JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw "
        f"WHERE {_by_hand('pg_foreign_server', 'o.oid')}",
    ),
    # Its options hold passwords.
    _single(
        "user mapping",
        "format('FOR %I SERVER %I', usename, srvname)",
        "''",
        "pg_user_mappings",
    ),
    _single("publication", "quote_ident(pubname)", "''", "pg_publication"),
    _single(
        "subscription",
        "quote_ident(subname)",
        "''",
        "pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
    ),
)

_SETTINGS = """
    SELECT 'setting', 'database' || coalesce(' of role ' || nullif(setrole, 0)::regrole, ''),
           split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1), NULL, NULL
    FROM pg_db_role_setting CROSS JOIN unnest(setconfig) AS setting
    WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL
    SELECT 'security label', identity, provider, label, NULL, NULL
    FROM pg_seclabel CROSS JOIN LATERAL pg_identify_object(classoid, objoid, objsubid)
"""

# Only what differs from the default: PostgreSQL writes an ACL with all of it at the first GRANT, and MAINTAIN
# is in it since 17.
_GRANTS = f"""
    SELECT a.kind, a."table", g.grantee,
           CASE WHEN a.object = 'r' AND g.count = (SELECT count(*) FROM aclexplode(acldefault('r', a.owner)))
                     AND NOT g.any_revoked THEN 'ALL' || g.grantable ELSE g.privileges END,
           a.measured_by, NULL
    FROM (
        SELECT 'grant' AS kind, label AS "table", relowner AS owner, relacl AS acl,
               CASE relkind WHEN 'S' THEN 's' ELSE 'r' END AS object,
               acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner) AS usual, measured_by
        FROM ours
        UNION ALL
        SELECT 'grant on ' || CASE prokind WHEN 'p' THEN 'procedure' ELSE 'function' END,
               o.oid::regprocedure::text, proowner, proacl, 'f', acldefault('f', proowner), NULL
        FROM pg_proc o WHERE {_in_schema("pg_proc", "pro")}
        UNION ALL
        SELECT 'grant on type', o.oid::regtype::text, typowner, typacl, 'T', acldefault('T', typowner), NULL
        FROM pg_type o WHERE typacl IS NOT NULL AND {_in_schema("pg_type", "typ")}
        UNION ALL
        SELECT 'grant on schema', quote_ident(nspname), nspowner, nspacl, 'n',
               acldefault('n', nspowner) || CASE WHEN nspname = 'public'
                   THEN ARRAY[makeaclitem(0, nspowner, 'USAGE', false)] ELSE '{{}}'::aclitem[] END, NULL
        FROM schemas o
        WHERE NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_namespace'::regclass AND objid = o.oid
                          AND deptype = 'e')
        UNION ALL
        SELECT 'grant on language', quote_ident(lanname), lanowner, lanacl, 'l',
               acldefault('l', lanowner), NULL
        FROM pg_language
        UNION ALL
        SELECT 'grant on foreign data wrapper', quote_ident(fdwname), fdwowner, fdwacl, 'F',
               acldefault('F', fdwowner), NULL
        FROM pg_foreign_data_wrapper
        UNION ALL
        SELECT 'grant on foreign server', quote_ident(srvname), srvowner, srvacl, 'S',
               acldefault('S', srvowner), NULL
        FROM pg_foreign_server
        UNION ALL
        -- one of a schema comes on top of what holds everywhere
        SELECT 'default privileges', concat_ws(' ',
                   CASE WHEN defaclrole <> (SELECT oid FROM migrating)
                        THEN 'FOR ROLE ' || defaclrole::regrole END,
                   'IN SCHEMA ' || nullif(defaclnamespace, 0)::regnamespace,
                   CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES'
                                      WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' ELSE 'SCHEMAS' END),
               defaclrole, defaclacl, defaclobjtype::text,
               CASE WHEN defaclnamespace = 0 THEN acldefault(
                   CASE defaclobjtype WHEN 'S' THEN 's' ELSE defaclobjtype END::"char", defaclrole) END, NULL
        FROM pg_default_acl WHERE defaclobjtype IN ('r', 'S', 'f', 'T', 'n')
    ) a CROSS JOIN LATERAL (
        SELECT CASE grantee WHEN 0 THEN 'PUBLIC' WHEN a.owner THEN 'OWNER' ELSE grantee::regrole::text END,
               string_agg(concat(CASE WHEN now IS NULL THEN 'no ' END, privilege_type,
                                 CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END),
                          ', ' ORDER BY privilege_type),
               count(now), bool_or(now IS NULL),
               CASE WHEN bool_and(is_grantable) THEN ' WITH GRANT OPTION' ELSE '' END
        FROM (SELECT DISTINCT true AS now, grantee, privilege_type, is_grantable
              FROM aclexplode(coalesce(a.acl, a.usual))) current
        FULL JOIN (SELECT DISTINCT true AS usually, grantee, privilege_type, is_grantable
                   FROM aclexplode(a.usual)) usual USING (grantee, privilege_type, is_grantable)
        WHERE now IS NULL OR usually IS NULL GROUP BY grantee
    ) g (grantee, privileges, count, any_revoked, grantable)
    UNION ALL
    SELECT 'column grant', label, coalesce(nullif(g.grantee, 0)::regrole::text, 'PUBLIC'),
           string_agg(format('%s (%I)%s', privilege_type, attname,
                             CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END),
                      ', ' ORDER BY privilege_type, attname), measured_by, NULL
    FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND NOT attisdropped
    CROSS JOIN aclexplode(attacl) g GROUP BY label, g.grantee, measured_by
"""

FACTS = f"WITH {_WITH} " + " UNION ALL ".join(
    (
        _TABLES,
        _PARTITIONS,
        _COLUMNS,
        _COLUMN_OPTIONS,
        _CONSTRAINTS,
        _INDEXES,
        _TRIGGERS,
        _SEQUENCES,
        _FUNCTIONS,
        _TYPES,
        *_SINGLE,
        _SETTINGS,
        _GRANTS,
    )
)
"""Everything, in one statement: of one moment."""
