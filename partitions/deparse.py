"""Indexes and predicates as PostgreSQL prints them, so that two spellings of one thing can be compared.

PostgreSQL does the reading: an object is made of a text, printed, and taken back. What it prints may change
when it is read again (`varchar IN (...)` gets other casts), so it is read until it stands still.
"""

from partitions.sql import literal, qualified, regclass

_TAKE_BACK = "MS000"
"""An SQLSTATE of our own: it ends a subtransaction, and so takes back what was made in it."""

_ROUNDS = 8


def definition_sql(index: str) -> str:
    """Render the query of what stands behind the table's name in CREATE INDEX.

    Parameters:
        index: an SQL expression, the index's oid.
    """
    head = (
        "concat('CREATE ', CASE WHEN made.indisunique THEN 'UNIQUE ' END, 'INDEX ', "
        "quote_ident(named.relname), ' ON ', CASE WHEN named.relkind = 'I' THEN 'ONLY ' END, "
        "CASE WHEN pg_namespace.oid = pg_my_temp_schema() THEN 'pg_temp' ELSE quote_ident(nspname) END, '.', "
        "quote_ident(of_table.relname), ' ')"
    )
    return (
        f"(SELECT substr(pg_get_indexdef(named.oid), length({head}) + 1)\n"
        "        FROM pg_index AS made JOIN pg_class AS named ON named.oid = made.indexrelid\n"
        "        JOIN pg_class AS of_table ON of_table.oid = made.indrelid\n"
        "        JOIN pg_namespace ON pg_namespace.oid = of_table.relnamespace\n"
        f"        WHERE made.indexrelid = {index})"
    )


def predicate_sql(index: str) -> str:
    """Render an expression for the predicate of an index; an empty text when it has none.

    Parameters:
        index: the name of a row of pg_index in the query around it.
    """
    # With the same flags as pg_get_indexdef prints it.
    return f"coalesce(pg_get_expr({index}.indpred, {index}.indrelid), '')"


def same_predicates(
    table: str, schema: str | None, wanted: str, candidates: str, *, setting: str, may_lack: bool
) -> str:
    """Render a statement for `do_block` that finds which predicates say the same as `wanted`.

    Parameters:
        table: the table.
        schema: its schema.
        wanted: a predicate as a person writes it; an empty text for none.
        candidates: a query whose rows are predicates.
        setting: the session's setting that has those which are the same afterwards, as an array of text.
        may_lack: a predicate of columns, types or values that do not exist yet is the same as none.
    """
    source = literal(f"SELECT 1 AS one FROM {qualified(table, schema)}")
    condition = "CASE WHEN {0} = '' THEN '' ELSE ' WHERE ' || {0} END"
    lacking = (
        "WHEN undefined_column OR undefined_function OR undefined_object OR datatype_mismatch "
        "OR invalid_text_representation THEN NULL;"
        if may_lack
        else ""
    )
    body = _settle(
        "EXECUTE 'CREATE OR REPLACE TEMP VIEW mes_storage_probe AS ' || form",
        "pg_get_viewdef('pg_temp.mes_storage_probe'::regclass)",
        lacking=lacking,
    )
    distinct = f"SELECT DISTINCT predicate FROM ({candidates}) AS these (predicate)"
    given = f"ARRAY[{literal(wanted)}] || ARRAY({distinct})"
    return f"""DECLARE
        given constant text[] := {given};
        forms text[] := '{{}}';
        form text;
        before text;
        same text[] := '{{}}';
    BEGIN
        FOR which IN 1 .. cardinality(given) LOOP
            form := {source} || {condition.format("given[which]")};
            {body}
            IF forms[which] = forms[1] THEN same := same || given[which]; END IF;
        END LOOP;
        PERFORM set_config({literal(setting)}, same::text, false);
    END"""


def refuse_other(index: str, table: str, schema: str | None, definition: str, *, unique: bool) -> str:
    """Render a statement for `do_block` that refuses an index of the name which has another definition."""
    # LIKE gives columns of the same types; the name, for a predicate may say it in front of a column.
    probe = qualified(table, "pg_temp")
    kind = "UNIQUE INDEX" if unique else "INDEX"
    body = _settle(
        f"EXECUTE 'CREATE INDEX mes_storage_probe_' || round || {literal(f' ON {probe} ')} || form",
        definition_sql("to_regclass('pg_temp.mes_storage_probe_' || round)"),
        prepare=f"CREATE TEMP TABLE {probe} (LIKE {qualified(table, schema)});",
    )
    fault = literal(f"{index} exists and is not the {kind} {definition} of {table}: drop or rename it")
    return f"""DECLARE
        given text[];
        forms text[] := '{{}}';
        form text;
        before text;
        differs boolean;
    BEGIN
        SELECT ARRAY[{literal(definition)}, {definition_sql("taken.indexrelid")}], indisunique <> {unique}
        INTO given, differs FROM pg_index AS taken JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indexrelid = {regclass(index, schema)} AND (indisvalid OR relkind = 'I');
        FOR which IN 1 .. coalesce(cardinality(given), 0) LOOP
            form := given[which];
            {body}
        END LOOP;
        IF differs OR forms[1] <> forms[2] THEN
            RAISE EXCEPTION USING MESSAGE = {fault};
        END IF;
    END"""


def _settle(make: str, read: str, *, prepare: str = "", lacking: str = "") -> str:
    """Render the printing of `form` until it stands still, into `forms[which]`."""
    return f"""BEGIN
                {prepare}
                FOR round IN 1 .. {_ROUNDS} LOOP
                    before := form;
                    {make};
                    form := {read};
                    EXIT WHEN form = before;
                END LOOP;
                RAISE EXCEPTION USING ERRCODE = '{_TAKE_BACK}';
            EXCEPTION WHEN SQLSTATE '{_TAKE_BACK}' THEN forms[which] := form; {lacking}
            END;"""
