"""An index gets another predicate, and all else of it stays: its own definition is what is built anew.

Each phase is a query whose rows are statements: what is still missing, as the catalogue shows it. Online they
are asked for and run one by one; a script lets psql do both. So a killed run goes on where it stopped:

1. what earlier runs left is dropped;
2. an index of another name is built, of a partitioned table ON ONLY it and on each partition, and attached;
3. it gets the comment and the statistics targets of the old one;
4. the two change their names in one transaction: until here the old index serves, from here the new one;
5. the old one is dropped.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from alembic.operations import Operations
from sqlalchemy import Connection, Row

from partitions.deparse import definition_sql, predicate_sql, same_predicates
from partitions.errors import ActionFailed
from partitions.executor import Executor
from partitions.migration_ops.runner import (
    AutocommitAction,
    autocommit,
    execute,
    fetch,
    gexec,
    print_in_autocommit,
    run_in_transaction,
)
from partitions.sql import HASH_LETTERS, cut, cut_sql, dollar_quoted, hash_sql, literal, regclass
from partitions.steps import ExecutionMode, LockTimeouts, SqlStep, do_block, render_step

_SAME = "mes_storage.same_predicates"
"""The session's setting that has the predicates which say what is wanted."""

_FUNCTION = "pg_temp.mes_storage_replaced_index()"
_NODES = f"{_FUNCTION} AS node"
"""The index on its table, and its parts on the partitions, as a function of the session has them.

A view would say the same, and be planned anew, for milliseconds, in each of the twenty queries that read it.
"""

_COLUMNS = (
    "depth integer, tab oid, fresh_above oid, standing oid, base text, fresh oid, retired oid, root oid, "
    'is_done boolean, kind "char", space text, table_name text, fresh_name text, retired_name text'
)

FRESH, RETIRED = "new", "old"
"""Words in the name of the index that is built, and of the one that it has replaced."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Statements that a query returns.

    Parameters:
        query: its rows are `statement`, and the index, as SQL has it, that the statement builds.
        mode: how they are run.
        in_one_transaction: all of them in one transaction; otherwise one by one.
    """

    query: str
    mode: ExecutionMode
    in_one_transaction: bool = False

    def fetch(self, connection: Connection) -> Sequence[Row[Any]]:
        """Return the statements that are missing."""
        return connection.exec_driver_sql(self.query).all()

    def steps(self, rows: Iterable[Row[Any]]) -> Iterator[SqlStep]:
        """Make steps of what `fetch` returned."""
        if self.in_one_transaction:
            yield SqlStep(tuple(row.statement for row in rows), mode=self.mode)
        else:
            yield from (_step(self.mode, row.statement, row.builds) for row in rows)

    def script(self) -> str:
        """Render the query for psql, which runs what it returns."""
        return gexec(f"SELECT statement FROM (\n{self.query}\n) AS missing")


@dataclass(frozen=True, slots=True)
class Replacement:
    """The replacement of an index.

    Parameters:
        index: its name.
        table: its table, which may be a partitioned one.
        schema: their schema; without it, PostgreSQL looks along its search path.
        where: the new predicate; None for an index of all rows.
        concurrently: no writer is stopped.
        otherwise: the CREATE INDEX for a database that has no such index; without it, that is refused.
    """

    index: str
    table: str
    schema: str | None
    where: str | None
    concurrently: bool
    otherwise: str | None = None

    @property
    def summary(self) -> str:
        """What is done, in a few words."""
        return f"replace index {self.index}"

    def absent(self) -> Iterator[Phase]:
        """Return the phase that makes an index which is not there at all."""
        if self.otherwise is not None:
            found = f"SELECT {_own(regclass(self.table, self.schema), literal(cut(self.index)))} IS NULL"
            query = f"SELECT {literal(self.otherwise)} AS statement, NULL AS builds WHERE ({found})"
            yield Phase(query, self._mode)

    def begin(self) -> tuple[str, ...]:
        """Render what refuses an index that cannot be replaced, and finds out what stands of the new one."""
        candidates = (
            f"SELECT {predicate_sql('found')} FROM {_NODES} JOIN pg_index AS found "
            "ON found.indexrelid IN (standing, fresh)"
        )
        same = same_predicates(
            self.table, self.schema, self.where or "", candidates, setting=_SAME, may_lack=False
        )
        # The names of the columns that it returns are columns in its query, too.
        body = f"#variable_conflict use_column\nBEGIN RETURN QUERY {self._nodes()}; END"
        create = (
            f"CREATE OR REPLACE FUNCTION {_FUNCTION} RETURNS TABLE ({_COLUMNS})\n"
            f"LANGUAGE plpgsql STABLE ROWS 10 AS {dollar_quoted(body, 'nodes')}"
        )
        return (create, do_block(same, self._refusals()))

    def end(self) -> str:
        """Render the end of what `begin` has made in the session."""
        return f"DROP FUNCTION {_FUNCTION}"

    def phases(self) -> Iterator[Phase]:
        """Return the phases, in their order."""
        yield from self.drops()
        yield Phase(self._create_on_parents(), ExecutionMode.TRANSACTION)
        yield Phase(self._build(), self._mode)
        yield Phase(self._attach(), ExecutionMode.TRANSACTION)
        yield Phase(self._copy_properties(), ExecutionMode.TRANSACTION)
        # The planner knows nothing yet of what the expressions of a new index give.
        yield Phase(self._analyze(), self._mode)
        yield Phase(self._swap(), ExecutionMode.TRANSACTION, in_one_transaction=True)
        yield from self.drops()

    def drops(self) -> Iterator[Phase]:
        """Return the phases that drop what was replaced, and what a failed or killed build left."""
        yield Phase(self._drop("i"), self._mode)
        # CONCURRENTLY is refused for the index of a partitioned table.
        yield Phase(
            self._drop("I"), ExecutionMode.EXCLUSIVE if self.concurrently else ExecutionMode.TRANSACTION
        )

    @property
    def _mode(self) -> ExecutionMode:
        return ExecutionMode.AUTOCOMMIT if self.concurrently else ExecutionMode.TRANSACTION

    def _nodes(self) -> str:
        """Render the query of the table and its partitions, and of the indexes that are concerned.

        `standing` is the index that serves, `fresh` the one that is built, `retired` one that was replaced.
        """
        return f"""WITH RECURSIVE tree AS (
    SELECT 0 AS depth, index.indrelid AS tab, NULL::oid AS fresh_above, index.indexrelid AS standing,
           named.relname::text AS base,
           {_own("index.indrelid", _side_name("named.relname::text", FRESH))} AS fresh,
           {_own("index.indrelid", _side_name("named.relname::text", RETIRED))} AS retired
    FROM pg_index AS index JOIN pg_class AS named ON named.oid = index.indexrelid
    WHERE index.indrelid = {regclass(self.table, self.schema)} AND named.relname = {literal(cut(self.index))}
  UNION ALL
    SELECT depth + 1, child.oid, tree.fresh, part.indexrelid, named.base,
           coalesce(attached.indexrelid, {_own("child.oid", _side_name("named.base", FRESH))}),
           {_own("child.oid", _side_name("named.base", RETIRED))}
    FROM tree JOIN pg_class AS parent ON parent.oid = tree.tab AND parent.relkind = 'p'
    JOIN pg_inherits AS link ON link.inhparent = tree.tab AND NOT link.inhdetachpending
    JOIN pg_class AS child ON child.oid = link.inhrelid AND child.relkind IN ('r', 'p')
    LEFT JOIN LATERAL ({_part_of("tree.standing", "child.oid")}) AS part ON true
    LEFT JOIN LATERAL ({_part_of("tree.fresh", "child.oid")}) AS attached ON true
    CROSS JOIN LATERAL (SELECT coalesce(
        (SELECT relname::text FROM pg_class WHERE oid = part.indexrelid),
        (child.relname || '_' || {literal(cut(self.index))})::name::text) AS base) AS named
),
whole AS (
    SELECT standing AS root, indisvalid AND {_is_wanted("pg_index")} AS is_done
    FROM tree JOIN pg_index ON indexrelid = standing WHERE depth = 0
)
SELECT tree.*, whole.*, pg_class.relkind AS kind, quote_ident(nspname) AS space,
       quote_ident(nspname) || '.' || quote_ident(pg_class.relname) AS table_name,
       {_side_name("base", FRESH)} AS fresh_name, {_side_name("base", RETIRED)} AS retired_name
FROM tree CROSS JOIN whole JOIN pg_class ON pg_class.oid = tab
JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace"""

    def _refusals(self) -> str:
        absent = literal(f"{self.table} has no index {self.index}")
        faults = [
            "SELECT format('%s is a part of the index %s: replace that one', base, inhparent::regclass) "
            f"FROM {_NODES} JOIN pg_inherits ON inhrelid = standing WHERE depth = 0",
            "SELECT format('%s belongs to the constraint %I of %s: drop that first', base, "
            f"conname, conrelid::regclass) FROM {_NODES} JOIN pg_constraint ON conindid = standing",
            "SELECT format('%s exists and is no index of %s: rename it, %s needs the name', "
            f"relname, table_name, base) FROM {_NODES} "
            "JOIN pg_class ON relname IN (fresh_name, retired_name) "
            "WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = tab) "
            "AND NOT EXISTS (SELECT FROM pg_index WHERE indexrelid = pg_class.oid AND indrelid = tab)",
        ]
        if self.where is not None:
            faults.append(
                "SELECT format('%s is the %s of %s, which no partial index can be: choose another first', "
                "base, CASE WHEN indisclustered THEN 'CLUSTER mark' ELSE 'replica identity' END, table_name) "
                f"FROM {_NODES} JOIN pg_index ON indexrelid = standing "
                # The mark alone outlives a change to another replica identity.
                "JOIN pg_class ON pg_class.oid = tab "
                "WHERE NOT is_done AND (indisclustered OR indisreplident AND relreplident = 'i')"
            )
        found = " UNION ALL ".join(f"({fault})" for fault in faults)
        return f"""DECLARE fault text; BEGIN
        IF NOT EXISTS (SELECT FROM {_NODES}) THEN
            RAISE EXCEPTION USING MESSAGE = {absent};
        END IF;
        SELECT * INTO fault FROM ({found}) AS faults LIMIT 1;
        IF fault IS NOT NULL THEN
            RAISE EXCEPTION USING MESSAGE = fault;
        END IF;
    END"""

    def _drop(self, kind: str) -> str:
        """Render the drop of what was replaced, and of what was built and is of no use."""
        how = "CONCURRENTLY " if self.concurrently and kind == "i" else ""
        return f"""SELECT 'DROP INDEX {how}IF EXISTS ' || {_name("indexrelid")} AS statement, NULL AS builds
FROM {_NODES} JOIN pg_index AS found ON indexrelid IN (fresh, retired) AND indrelid = tab
JOIN pg_class ON pg_class.oid = indexrelid AND relkind = '{kind}' AND NOT relispartition
WHERE indexrelid = retired AND standing IS NOT NULL
   OR indexrelid = fresh AND (is_done OR NOT {_is_wanted("found")} OR relkind = 'i' AND NOT indisvalid)
ORDER BY depth, relname"""

    def _create_on_parents(self) -> str:
        return self._create("kind = 'p'", "", "ONLY ")

    def _build(self) -> str:
        return self._create("kind <> 'p'", "CONCURRENTLY " if self.concurrently else "", "")

    def _create(self, condition: str, how: str, only: str) -> str:
        where = literal("" if self.where is None else f" WHERE {self.where}")
        return f"""SELECT concat('CREATE ', CASE WHEN indisunique THEN 'UNIQUE ' END, 'INDEX {how}',
              quote_ident(fresh_name), ' ON {only}', table_name, ' ',
              {_body("source")}, {where}) AS statement,
       space || '.' || quote_ident(fresh_name) AS builds
FROM {_NODES} JOIN pg_index AS source ON source.indexrelid = coalesce(standing, root)
WHERE fresh IS NULL AND NOT is_done AND {condition}
ORDER BY depth, table_name"""

    def _attach(self) -> str:
        parts = f"{_name('fresh_above')}, {_name('fresh')}"
        return f"""SELECT format('ALTER INDEX %s ATTACH PARTITION %s', {parts}) AS statement, NULL AS builds
FROM {_NODES} WHERE depth > 0 AND NOT is_done AND fresh IS NOT NULL
  AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = fresh)
ORDER BY depth DESC, table_name"""

    def _copy_properties(self) -> str:
        """Render what CREATE INDEX cannot say."""
        index = _name("fresh")
        return f"""SELECT statement, NULL AS builds FROM {_NODES} CROSS JOIN LATERAL (
    SELECT format('COMMENT ON INDEX %s IS %L', {index}, description) AS statement
    FROM pg_description WHERE objoid = standing AND classoid = 'pg_class'::regclass AND objsubid = 0
    UNION ALL
    SELECT format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', {index}, attnum, attstattarget)
    FROM pg_attribute WHERE attrelid = standing AND attstattarget >= 0
    UNION ALL
    SELECT format('ALTER INDEX %s DEPENDS ON EXTENSION %I', {index}, extname)
    FROM pg_depend JOIN pg_extension ON pg_extension.oid = refobjid AND refclassid = 'pg_extension'::regclass
    WHERE classid = 'pg_class'::regclass AND objid = standing AND deptype = 'x'
) AS properties WHERE NOT is_done AND fresh IS NOT NULL
ORDER BY depth, table_name, statement"""

    def _analyze(self) -> str:
        return f"""SELECT 'ANALYZE ' || table_name AS statement, NULL AS builds
FROM {_NODES} JOIN pg_index ON indexrelid = fresh
WHERE NOT is_done AND kind <> 'p' AND indexprs IS NOT NULL ORDER BY table_name"""

    def _swap(self) -> str:
        """Render the renaming; a partition that had no part of the old index keeps the new one's name."""
        unfinished = literal(
            do_block(
                "RAISE EXCEPTION USING MESSAGE = "
                + literal(f"the new index {self.index} is not valid: a partition came or went; run it again")
            )
        )
        return f"""SELECT statement, NULL AS builds FROM {_NODES} CROSS JOIN LATERAL (
    SELECT 0 AS place, {unfinished} AS statement
    WHERE depth = 0 AND NOT coalesce((SELECT indisvalid FROM pg_index WHERE indexrelid = fresh), false)
    UNION ALL
    SELECT 1, format('ALTER INDEX %s RENAME TO %I', {_name("standing")}, retired_name)
    WHERE standing IS NOT NULL
    UNION ALL
    SELECT 2, format('ALTER INDEX %s RENAME TO %I', {_name("fresh")}, base)
    WHERE standing IS NOT NULL OR to_regclass(space || '.' || quote_ident(base)) IS NULL
) AS renamings WHERE NOT is_done
ORDER BY depth, table_name, place"""


def _side_name(base: str, word: str) -> str:
    """Write the name of an index beside another one; it differs for names that begin alike."""
    room = len(word) + HASH_LETTERS + 2
    return f"({cut_sql(base, room_bytes=room)} || '_{word}_' || {hash_sql(base)})"


def _own(table: str, name: str) -> str:
    """Write the oid of an index by its table and name."""
    return (
        "(SELECT own.indexrelid FROM pg_index AS own\n"
        "            JOIN pg_class AS own_name ON own_name.oid = own.indexrelid\n"
        f"            WHERE own.indrelid = {table} AND own_name.relname = {name})"
    )


def _part_of(index: str, table: str) -> str:
    return (
        "SELECT part.indexrelid FROM pg_index AS part JOIN pg_inherits ON inhrelid = part.indexrelid "
        f"WHERE part.indrelid = {table} AND inhparent = {index}"
    )


def _name(index: str) -> str:
    """Write the name of an index with its schema."""
    return (
        "(SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class "
        f"JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = {index})"
    )


def _is_wanted(index: str) -> str:
    """Write whether an index has the predicate that is wanted."""
    return f"{predicate_sql(index)} = ANY (current_setting('{_SAME}', true)::text[])"


def _body(source: str) -> str:
    """Write what stands in an index's definition between the table's name and WHERE, with its tablespace."""
    definition = definition_sql(f"{source}.indexrelid")
    predicate = predicate_sql(source)
    tail = f"CASE WHEN {source}.indpred IS NULL THEN 0 ELSE length(' WHERE ' || {predicate}) END"
    return f"left({definition}, length({definition}) - {tail}) || {_tablespace(source)}"


def _tablespace(source: str) -> str:
    """Write the tablespace, which no definition has; the setting default_tablespace does not count."""
    return f"""coalesce((SELECT ' TABLESPACE ' || quote_ident(spcname) FROM pg_class AS placed
        JOIN pg_tablespace ON pg_tablespace.oid = coalesce(nullif(placed.reltablespace, 0),
            CASE WHEN placed.relkind = 'i' THEN
                (SELECT dattablespace FROM pg_database WHERE datname = current_database()) END)
        WHERE placed.oid = {source}.indexrelid), '')"""


def replace_index(operations: Operations, replacement: Replacement, timeouts: LockTimeouts) -> None:
    """Replace an index or print how: concurrently in front of the migration's transaction, else in it."""
    as_sql = operations.get_context().as_sql
    if replacement.concurrently and as_sql:
        print_in_autocommit(operations, _script(replacement, timeouts), timeouts)
    elif replacement.concurrently:
        with autocommit(operations, timeouts) as executor:
            _replace_in_autocommit(executor, replacement)
    else:
        _replace_in_transaction(operations, replacement, timeouts)


def _replace_in_autocommit(executor: Executor, replacement: Replacement) -> None:
    def run(*steps: SqlStep) -> None:
        executor.run(AutocommitAction(table=replacement.table, summary=replacement.summary, parts=steps))

    def run_all(phases: Iterable[Phase]) -> None:
        for phase in phases:
            run(*phase.steps(executor.ask(phase.fetch)))

    run_all(replacement.absent())
    run(SqlStep(replacement.begin()))
    try:
        run_all(replacement.phases())
    except ActionFailed:
        # Duplicates, say: what is INVALID now would refuse the rows of the application.
        run_all(replacement.drops())
        raise
    run(SqlStep((replacement.end(),)))


def _replace_in_transaction(operations: Operations, replacement: Replacement, timeouts: LockTimeouts) -> None:
    def run_all(phases: Iterable[Phase]) -> None:
        for phase in phases:
            if operations.get_context().as_sql:
                execute(operations, phase.script())
            else:
                for row in fetch(operations, phase.query).all():
                    execute(operations, row.statement)

    run_in_transaction(operations, (), timeouts)
    run_all(replacement.absent())
    for statement in replacement.begin():
        execute(operations, statement)
    run_all(replacement.phases())
    execute(operations, replacement.end())


def _script(replacement: Replacement, timeouts: LockTimeouts) -> Iterator[str]:
    yield from chain.from_iterable(_lines(phase, timeouts) for phase in replacement.absent())
    yield from render_step(SqlStep(replacement.begin()), timeouts)
    yield from chain.from_iterable(_lines(phase, timeouts) for phase in replacement.phases())
    yield from render_step(SqlStep((replacement.end(),)), timeouts)


def _lines(phase: Phase, timeouts: LockTimeouts) -> tuple[str, ...]:
    return render_step(SqlStep((phase.script(),), mode=phase.mode), timeouts)


def _step(mode: ExecutionMode, statement: str, builds: str | None) -> SqlStep:
    if builds is None or mode is not ExecutionMode.AUTOCOMMIT:
        return SqlStep((statement,), mode=mode)
    built = f"SELECT FROM pg_index WHERE indexrelid = to_regclass({literal(builds)}) AND indisvalid"
    return SqlStep(
        (statement,),
        mode=mode,
        done=f"SELECT EXISTS ({built})",
        # An attempt that was cut off left it INVALID.
        cleanup=(f"DROP INDEX CONCURRENTLY IF EXISTS {builds}",),
    )
