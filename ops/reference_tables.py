"""What `mesctl shards reference` does: publish a version, bring every shard to it, compare."""

import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from sqlalchemy import Table, TextClause
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError

from ops.errors import ExitStatus, OpsError
from ops.fleet import connect_line, naming
from ops.project import ProjectTree
from ops.shard_writes import Refused, Shards, connect_directory, open_shards
from readreplica.errors import one_line
from sharding.errors import ShardTimedOut
from sharding.keys import reference_tables
from sharding.topology import Database, Topology
from sharding.writes.errors import (
    ReferenceAhead,
    ReferenceConflict,
    ReferenceInvalid,
    ReferenceMismatch,
    UnknownReference,
)
from sharding.writes.reference import (
    LOCK_VERSION,
    PUBLISH,
    RECORD_VERSION,
    Content,
    Difference,
    ReferenceCopy,
    apply,
    fault_of,
    fault_of_number,
    next_version,
    read_copy,
    read_differences,
    remove_others,
    shape,
    upsert,
)

SECONDS = 15.0
Rows: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]
_TROUBLE = (SQLAlchemyError, psycopg.Error, ShardTimedOut, ReferenceMismatch, OSError)


class FileUnusable(OpsError):
    """The file with the rows cannot be read, or holds something else."""

    exit_status = ExitStatus.USAGE

    def __init__(self, path: Path, fault: str) -> None:
        self.path = path
        super().__init__(f"{path.name}: {fault}")


class NoShard(OpsError):
    """No shard can be asked which form the rows have in their table."""

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(f"no shard can be reached to check the rows of {table}: nothing was changed")


class NotEverywhere(OpsError):
    """A version was published, and some shards did not get it."""

    def __init__(self, failed: Sequence["Outcome"]) -> None:
        self.failed = tuple(failed)
        first = self.failed[0]
        super().__init__(
            f"version {first.version} of {first.table} is not on {first.shard}: {first.error}; "
            "`mesctl shards reference sync` brings it there"
        )


@dataclass(frozen=True)
class State:
    """One reference table on one shard; `fault` is None if the copy is as published."""

    table: str
    shard: str
    published: int
    version: int | None
    rows: int | None
    fault: str | None
    differences: Sequence[Difference] = field(default=())


@dataclass(frozen=True)
class Outcome:
    """What was done with one reference table on one shard."""

    table: str
    shard: str
    version: int
    done: str
    error: str | None = None


def tables_of(tree: ProjectTree) -> Mapping[str, Table]:
    """Return the reference tables of a tree by name, as its models declare them, in the order of loading."""
    return {table.name: table for table in reference_tables(tree.metadata)}


def read_file(path: Path, tree: ProjectTree) -> Rows:
    """Read rows from a TOML file: an array of tables for each reference table. Numbers stay exact.

    Parameters:
        path: the file.
        tree: whose reference tables these are.

    Raises:
        FileUnusable: it cannot be read, is something else, or has a number that its column does not take.
        UnknownReference: it names a table that is no reference table of the tree.
    """
    tables = tables_of(tree)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise FileUnusable(path, f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileUnusable(path, f"is not TOML: {error}") from error
    for table, rows in content.items():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise FileUnusable(path, f"{table} must be an array of tables: write [[{table}]] before each row")
        if table not in tables:
            raise UnknownReference(table, tables)
        if fault := _fault_in(tables[table], rows):
            raise FileUnusable(path, f"{table}, {fault}")
    return content


@dataclass(frozen=True)
class _References:
    """The reference tables of a tree, its open shards, and what its directory has published."""

    tables: Mapping[str, Table]
    shards: Shards
    directory: Database

    async def newest(self, table: str) -> Content | None:
        with naming(self.directory):
            return await self.shards.references.newest(table)

    async def publish(self, content: Content) -> None:
        with naming(self.directory):
            await self.shards.references.publish(content)


@asynccontextmanager
async def _open(topology: Topology, tree: ProjectTree) -> AsyncIterator[_References]:
    async with open_shards(topology, tree.name) as shards:
        yield _References(tables_of(tree), shards, topology.directory_of(tree.name))


async def check(topology: Topology, tree: ProjectTree, *, limit: int) -> list[State]:
    """Compare every copy on every shard with what is published; return `limit` differing rows of each.

    Raises:
        DatabasesFailed: the directory does not answer.
    """
    async with _open(topology, tree) as references:
        return [
            await _state(references.shards, shard, table, await references.newest(name), limit)
            for name, table in references.tables.items()
            for shard in references.shards.clusters
        ]


async def sync(topology: Topology, tree: ProjectTree) -> list[Outcome]:
    """Bring every copy that is behind, or was changed by hand, to what is published.

    Raises:
        Refused: a shard is ahead of the directory; nothing was changed.
        DatabasesFailed: the directory does not answer.
    """
    async with _open(topology, tree) as references:
        wanting = await _wanting(references)
        return [await _apply(references, shard, content) for content, names in wanting for shard in names]


async def render_sync(topology: Topology, tree: ProjectTree) -> str:
    """Return what `sync` would run, as psql accepts it."""
    async with _open(topology, tree) as references:
        wanting = await _wanting(references)
    scripts = [
        _render(topology, references.tables[content.table], content, names) for content, names in wanting
    ]
    return "".join(scripts) or "-- nothing to do\n"


async def load(topology: Topology, tree: ProjectTree, rows: Rows) -> list[Outcome]:
    """Publish rows as the next versions of their tables, where they are new, and bring every shard to them.

    Raises:
        UnknownReference: the rows are of a table that is no reference table of the tree.
        Refused: the rows cannot be the content of their table, or somebody else published one meanwhile.
        NoShard: no shard can be asked.
        DatabasesFailed: the directory does not answer.
    """
    outcomes: list[Outcome] = []
    async with _open(topology, tree) as references:
        for content, is_new in await _contents(references, rows):
            if is_new:
                try:
                    await references.publish(content)
                except ReferenceConflict as error:
                    raise Refused(error) from error
            outcomes += [await _apply(references, shard, content) for shard in references.shards.clusters]
    return outcomes


async def render_load(topology: Topology, tree: ProjectTree, rows: Rows) -> str:
    """Return what `load` would run, as psql accepts it."""
    async with _open(topology, tree) as references:
        contents = await _contents(references, rows)
    scripts = []
    for content, is_new in contents:
        if is_new:
            scripts.append(connect_directory(topology, tree.name) + _publishing(tree.name, content))
        shards = list(topology.databases_of(tree.name))
        scripts.append(_render(topology, references.tables[content.table], content, shards))
    return "".join(scripts)


def raise_failures(outcomes: Sequence[Outcome]) -> None:
    """Refuse to go on if a shard did not get its copy.

    Raises:
        NotEverywhere: at least one did not.
    """
    failed = [each for each in outcomes if each.error]
    if failed:
        raise NotEverywhere(failed)


async def is_unpublished(topology: Topology, tree: ProjectTree) -> bool:
    """Return whether no reference table of the tree was ever published."""
    async with _open(topology, tree) as references:
        return not any([await references.newest(name) for name in references.tables])


def _fault_in(table: Table, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what is wrong with the first number that no shard would take; None if nothing is."""
    for number, row in enumerate(rows, start=1):
        for name in row.keys() & table.c.keys():
            if fault := fault_of_number(table.c[name], row[name]):
                return f"row {number}: {name} {fault}"
    return None


async def _contents(references: _References, rows: Rows) -> list[tuple[Content, bool]]:
    """Make every content before anything is written: what is wrong in the last table stops the first."""
    for name in rows:
        if name not in references.tables:
            raise UnknownReference(name, references.tables)
    contents = []
    for name in filter(rows.__contains__, references.tables):
        table, newest = references.tables[name], await references.newest(name)
        if fault := _fault_in(table, rows[name]):
            raise Refused(ReferenceInvalid(name, fault))
        copies, engine_of = [], None
        for shard, cluster in references.shards.clusters.items():
            try:
                copies.append(await read_copy(cluster.primary, table, shard=shard, seconds=SECONDS))
                engine_of = engine_of or cluster.primary
            except _TROUBLE:
                continue  # it is reported when it is written to
        if engine_of is None:
            raise NoShard(name)
        version = next_version(newest, copies)
        try:
            content = await shape(engine_of, table, rows[name], version=version)
        except ReferenceInvalid as error:
            raise Refused(error) from error
        is_same = newest is not None and newest.checksum == content.checksum and newest.version == version - 1
        contents.append((newest, False) if is_same and newest else (content, True))
    return contents


async def _state(shards: Shards, shard: str, table: Table, content: Content | None, limit: int) -> State:
    engine, published = shards.clusters[shard].primary, content.version if content else 0
    try:
        copy = await read_copy(engine, table, shard=shard, seconds=SECONDS)
        fault = _fault(copy, content)
        differences = []
        if fault and content and limit:
            differences = await read_differences(
                engine, table, content, shard=shard, seconds=SECONDS, limit=limit
            )
    except _TROUBLE as error:
        return State(str(table.name), shard, published, None, None, one_line(error))
    return State(str(table.name), shard, published, copy.version, copy.rows, fault, differences)


def _fault(copy: ReferenceCopy, content: Content | None) -> str | None:
    try:
        return fault_of(copy, content)
    except ReferenceAhead as error:
        return str(error)


async def _wanting(references: _References) -> list[tuple[Content, list[str]]]:
    """Find the shards that are not as published, or cannot tell."""
    wanting = []
    for name, table in references.tables.items():
        content = await references.newest(name)
        if content is None:
            continue
        names = []
        for shard, cluster in references.shards.clusters.items():
            try:
                copy = await read_copy(cluster.primary, table, shard=shard, seconds=SECONDS)
                if fault_of(copy, content):
                    names.append(shard)
            except ReferenceAhead as error:
                raise Refused(error) from error
            except _TROUBLE:
                names.append(shard)
        wanting.append((content, names))
    return wanting


async def _apply(references: _References, shard: str, content: Content) -> Outcome:
    engine, table = references.shards.clusters[shard].primary, references.tables[content.table]
    try:
        done = await apply(engine, table, content, shard=shard, seconds=SECONDS)
    except _TROUBLE as error:
        return Outcome(content.table, shard, content.version, "failed", one_line(error))
    return Outcome(content.table, shard, content.version, "as published" if done else "later already")


def _render(topology: Topology, table: Table, content: Content, shards: Sequence[str]) -> str:
    rows = {"rows": content.rows_json}
    noted = {"table": content.table, "version": content.version, "checksum": content.checksum}
    statements = [
        _literal(remove_others(table), rows),
        _literal(upsert(table), rows),
        _literal(LOCK_VERSION, {"table": content.table}),
        _literal(RECORD_VERSION, noted),
    ]
    body = "".join(["BEGIN;\n", *(f"{statement};\n" for statement in statements), "COMMIT;\n"])
    databases = map(topology.database, shards)
    return "".join(connect_line(topology, base, role=base.role) + body for base in databases)


def _publishing(tree: str, content: Content) -> str:
    values = {
        "tree": tree,
        "table": content.table,
        "version": content.version,
        "rows": content.rows_json,
        "checksum": content.checksum,
    }
    return f"{_literal(PUBLISH, values)};\n"


def _literal(statement: TextClause, values: Mapping[str, Any]) -> str:
    # Named parameters: the other styles double a percent sign, which psql would take as it is.
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    bound = statement.bindparams(**values)
    return str(bound.compile(dialect=dialect, compile_kwargs={"literal_binds": True})).strip()
