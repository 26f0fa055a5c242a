"""The queries for what belongs to no table, in the order of pg_dump, and for the grants on everything.

Their columns are those of `ops.migrate.catalogue.tables`.
"""

from ops.migrate.catalogue.fragments import (
    PER_SHARD,
    made_in,
    online_change,
    options,
    owner,
    qualified,
    select_single,
    user_made,
)
from partitions.sql import literal
from sharding.ownership import GUARD_FUNCTION as GUARD

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
               'SET ' || array_to_string(proconfig, ', '), {owner("proowner")})
           || {online_change("obj_description(o.oid, 'pg_proc')")}, NULL, NULL
    FROM pg_proc o JOIN pg_language l ON l.oid = prolang
    WHERE {made_in("pg_proc", "pro")}
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
        {owner("typowner")}), NULL, NULL
    FROM pg_type o
    WHERE {made_in("pg_type", "typ")}
      AND (typtype IN ('e', 'd', 'r', 'p') OR typtype = 'b' AND NOT EXISTS (
               SELECT FROM pg_type element WHERE element.typarray = o.oid)
           OR typtype = 'c' AND EXISTS (SELECT FROM pg_class WHERE pg_class.oid = typrelid AND relkind = 'c'))
"""

_DATABASE_OWNER = "(SELECT oid FROM pg_roles WHERE rolname = 'pg_database_owner')"

_SINGLE = (
    select_single(
        "schema",
        "quote_ident(nspname)",
        f"concat({owner('nspowner')})",
        f"schemas o WHERE nspname <> 'public' AND {user_made('pg_namespace', 'o.oid')}",
    ),
    # It stands in every database, so it is no fact itself.
    "SELECT 'owner', 'schema public', nspowner::regrole::text, '', NULL, NULL FROM schemas "
    f"WHERE nspname = 'public' AND nspowner NOT IN ({_DATABASE_OWNER}, (SELECT oid FROM migrating))",
    select_single("extension", "quote_ident(extname)", "''", "pg_extension WHERE extname <> 'plpgsql'"),
    select_single(
        "operator",
        "o.oid::regoperator::text",
        "concat_ws(' ', oprcode, 'COMMUTATOR ' || nullif(oprcom, 0)::regoperator, "
        "'NEGATOR ' || nullif(oprnegate, 0)::regoperator, 'RESTRICT ' || nullif(oprrest, 0), "
        "'JOIN ' || nullif(oprjoin, 0), CASE WHEN oprcanhash THEN 'HASHES' END, "
        f"CASE WHEN oprcanmerge THEN 'MERGES' END, {owner('oprowner')})",
        f"pg_operator o WHERE {made_in('pg_operator', 'opr')}",
    ),
    select_single(
        "operator family",
        f"{qualified('opfname')} || ' USING ' || amname",
        "concat_ws(' ', (SELECT string_agg(concat_ws(' ', amopstrategy, amopopr::regoperator), ', ' "
        "ORDER BY amopstrategy, amopopr::regoperator::text) FROM pg_amop WHERE amopfamily = o.oid), "
        "(SELECT string_agg(concat_ws(' ', amprocnum, amproc::regprocedure), ', ' "
        "ORDER BY amprocnum, amproc::regprocedure::text) FROM pg_amproc WHERE amprocfamily = o.oid), "
        f"{owner('opfowner')})",
        "pg_opfamily o JOIN pg_am a ON a.oid = opfmethod JOIN pg_namespace n ON n.oid = opfnamespace "
        f"WHERE {made_in('pg_opfamily', 'opf')}",
    ),
    select_single(
        "operator class",
        f"{qualified('opcname')} || ' USING ' || amname",
        "concat_ws(' ', 'FOR TYPE', opcintype::regtype, CASE WHEN opcdefault THEN 'DEFAULT' END, "
        f"'STORAGE ' || nullif(opckeytype, 0)::regtype, opfname, {owner('opcowner')})",
        "pg_opclass o JOIN pg_am a ON a.oid = opcmethod JOIN pg_namespace n ON n.oid = opcnamespace "
        f"JOIN pg_opfamily f ON f.oid = opcfamily WHERE {made_in('pg_opclass', 'opc')}",
    ),
    select_single(
        "cast",
        "format('(%s AS %s)', castsource::regtype, casttarget::regtype)",
        "concat_ws(' ', nullif(castfunc, 0)::regprocedure, castcontext::text, castmethod::text)",
        f"pg_cast o WHERE {user_made('pg_cast', 'o.oid')}",
    ),
    select_single(
        "collation",
        "o.oid::regcollation::text",
        "concat_ws(' ', collprovider::text, collcollate, collctype, "
        "coalesce(to_jsonb(o) ->> 'colllocale', to_jsonb(o) ->> 'colliculocale'), "
        f"CASE WHEN NOT collisdeterministic THEN 'NONDETERMINISTIC' END, {owner('collowner')})",
        f"pg_collation o WHERE {made_in('pg_collation', 'coll')}",
    ),
    select_single(
        "conversion",
        qualified("conname"),
        f"concat_ws(' ', conproc, CASE WHEN condefault THEN 'DEFAULT' END, {owner('conowner')})",
        "pg_conversion o JOIN pg_namespace n ON n.oid = connamespace "
        f"WHERE {made_in('pg_conversion', 'con')}",
    ),
    select_single(
        "text search configuration",
        "o.oid::regconfig::text",
        "concat_ws(' ', prsname, (SELECT string_agg(concat_ws(' ', maptokentype, mapdict::regdictionary), "
        "', ' ORDER BY maptokentype, mapseqno) FROM pg_ts_config_map WHERE mapcfg = o.oid), "
        f"{owner('cfgowner')})",
        f"pg_ts_config o JOIN pg_ts_parser p ON p.oid = cfgparser WHERE {made_in('pg_ts_config', 'cfg')}",
    ),
    select_single(
        "text search dictionary",
        "o.oid::regdictionary::text",
        f"concat_ws(' ', tmplname, dictinitoption, {owner('dictowner')})",
        f"pg_ts_dict o JOIN pg_ts_template t ON t.oid = dicttemplate WHERE {made_in('pg_ts_dict', 'dict')}",
    ),
    select_single(
        "text search parser",
        qualified("prsname"),
        "concat_ws(' ', prsstart, prstoken, prsend, prsheadline, prslextype)",
        f"pg_ts_parser o JOIN pg_namespace n ON n.oid = prsnamespace WHERE {made_in('pg_ts_parser', 'prs')}",
    ),
    select_single(
        "text search template",
        qualified("tmplname"),
        "concat_ws(' ', tmplinit, tmpllexize)",
        "pg_ts_template o JOIN pg_namespace n ON n.oid = tmplnamespace "
        f"WHERE {made_in('pg_ts_template', 'tmpl')}",
    ),
    select_single(
        "language",
        "quote_ident(lanname)",
        "concat_ws(' ', lanplcallfoid::regproc, CASE WHEN lanpltrusted THEN 'TRUSTED' END, "
        f"{owner('lanowner')})",
        f"pg_language o WHERE {user_made('pg_language', 'o.oid')}",
    ),
    select_single(
        "transform",
        "format('FOR %s LANGUAGE %s', trftype::regtype, lanname)",
        "concat_ws(' ', nullif(trffromsql, 0), nullif(trftosql, 0))",
        f"pg_transform o JOIN pg_language l ON l.oid = trflang WHERE {user_made('pg_transform', 'o.oid')}",
    ),
    select_single(
        "access method",
        "quote_ident(amname)",
        "amtype::text || ' ' || amhandler",
        f"pg_am o WHERE {user_made('pg_am', 'o.oid')}",
    ),
    select_single(
        "event trigger",
        "quote_ident(evtname)",
        "concat_ws(' ', 'ON', evtevent, '(' || array_to_string(evttags, ', ') || ')', evtfoid::regprocedure, "
        "CASE WHEN evtenabled <> 'O' THEN '(enabled: ' || evtenabled::text || ')' END, "
        f"{owner('evtowner')})",
        f"pg_event_trigger o WHERE {user_made('pg_event_trigger', 'o.oid')}",
    ),
    select_single(
        "foreign data wrapper",
        "quote_ident(fdwname)",
        "concat_ws(' ', nullif(fdwhandler, 0)::regprocedure, nullif(fdwvalidator, 0)::regprocedure, "
        f"{options('fdwoptions')}, {owner('fdwowner')})",
        f"pg_foreign_data_wrapper o WHERE {user_made('pg_foreign_data_wrapper', 'o.oid')}",
    ),
    select_single(
        "server",
        "quote_ident(srvname)",
        "concat_ws(' ', 'TYPE ' || srvtype, 'VERSION ' || srvversion, 'FOREIGN DATA WRAPPER ' || fdwname, "
        f"{options('srvoptions')}, {owner('srvowner')})",
        "pg_foreign_server o JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw "
        f"WHERE {user_made('pg_foreign_server', 'o.oid')}",
    ),
    # Its options hold passwords.
    select_single(
        "user mapping",
        "format('FOR %I SERVER %I', usename, srvname)",
        "''",
        "pg_user_mappings",
    ),
    select_single("publication", "quote_ident(pubname)", "''", "pg_publication"),
    select_single(
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
        FROM pg_proc o WHERE {made_in("pg_proc", "pro")}
        UNION ALL
        SELECT 'grant on type', o.oid::regtype::text, typowner, typacl, 'T', acldefault('T', typowner), NULL
        FROM pg_type o WHERE typacl IS NOT NULL AND {made_in("pg_type", "typ")}
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

OBJECT_QUERIES = (_FUNCTIONS, _TYPES, *_SINGLE, _SETTINGS, _GRANTS)
