"""`mesctl doctor`: what is wrong with a project, its references, its topology and its databases."""

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import SQLAlchemyError

from ops.errors import ExitStatus
from ops.fleet import open_watched
from ops.migrate.library import part_of
from ops.migrate.phases import read_phases
from ops.migrate.scripts import Scripts
from ops.options import options_of
from ops.output import note, show_rows
from ops.project.file import line_of
from ops.project.project import Project, ProjectTree, ReferenceBroken
from ops.verbs import VERBS
from partitions.archive_policy import ArchivePolicy
from partitions.declare import check_policies
from partitions.models import table_name
from partitions.policy import ListPartitions, MonthlyRange
from partitions.policy_errors import PolicyError, TableNotDeclared
from readreplica.errors import one_line
from sharding.keys import GuardedTable, guarded_tables
from sharding.ownership import CHECK_NAME, read_identity
from sharding.schema import Part, newest_version, read_version
from sharding.topology import Database, Topology

OLDEST_SERVER = 150000

LIBRARIES = ("partitions", "readreplica", "sharding")
"""What a project imports of ours. A folder `ops` of its own harms nothing: see `ops.__main__`."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: where it stands, what it is, and how it is mended."""

    where: str
    problem: str
    fix: str


def check_project(project: Project) -> Iterator[Finding]:
    """List what is wrong with a project file and with all that it refers to; it connects to nothing."""
    yield from _check_packages(project.root)
    for tree in project.trees.values():
        yield from _check_tree(project, tree)
    for name, command in project.file.commands.items():
        key = f"commands.{name}.run"
        if name in VERBS:
            yield _at(project, key, "mesctl has a verb of this name, which is run instead", "rename it")
        yield from _import(project, key, command.run)
    for name, service in project.file.services.items():
        if not _is_module(service.module):
            key = f"services.{name}.module"
            yield _at(
                project, key, f"there is no module {service.module!r}", "correct it, or remove the service"
            )
    yield from _check_up(project)
    if routes := project.file.gateway.routes:
        yield from _import(project, "gateway.routes", routes)
    for name, reference in project.file.monitoring.model_dump(exclude_none=True).items():
        yield from _import(project, f"monitoring.{name}", reference)


def check_topology(project: Project, topology: Topology) -> Iterator[Finding]:
    """List where a topology and a project contradict each other; it connects to nothing."""
    file = topology.path.name
    for name, tree in topology.trees.items():
        if name not in project.trees and tree.kind == "directory":
            continue  # it has the library's tables, and no others
        if name not in project.trees:
            fix = f"add [trees.{name}] to {project.path.name}, or take the tree out of {file}"
            yield Finding(f"{file}: trees.{name}", "the project does not name this tree", fix)
            continue
        keyed = _keyed_tables(project.trees[name])
        if keyed is None:
            continue  # `check_project` says why
        if tree.kind == "sharded" and not keyed:
            fix = 'declare it: Table(..., info=shard_key("COLUMN"))'
            yield Finding(f"{file}: trees.{name}.kind", "no table of a sharded tree has a shard key", fix)
        if tree.kind == "single" and keyed:
            tables = ", ".join(each.table for each in keyed)
            fix = 'kind = "sharded", or take shard_key() off the tables'
            yield Finding(f"{file}: trees.{name}.kind", f"'single' tree, and {tables} have shard keys", fix)
    for name in project.trees.keys() - topology.trees.keys():
        fix = f"add [trees.{name}] and a database, or take the tree out of {project.path.name}"
        yield Finding(f"{project.path.name}: trees.{name}", f"{file} has no such tree", fix)


def _keyed_tables(tree: ProjectTree) -> list[GuardedTable] | None:
    try:
        return guarded_tables(tree.metadata)
    except ReferenceBroken:
        return None


def check_databases(topology: Topology) -> Iterator[Finding]:
    """Connect to each database as its owner and as its services do, and list what fails."""
    for name, database in sorted(topology.databases.items()):
        for role in dict.fromkeys((database.owner, *topology.users_of(name))):
            yield from _check_connection(topology, database, role)


def check_library(project: Project, topology: Topology) -> Iterator[Finding]:
    """List what lacks of the library's schema: in directories and shards, the shard maps and the guards."""
    for name in sorted(topology.databases):
        database = topology.database(name)
        part = part_of(topology, database.tree)
        if part is None:
            continue
        url = topology.url(database, role=database.owner, direct=True)
        try:
            with (
                open_watched(url, {"application_name": "mesctl doctor"}) as engine,
                engine.connect() as connection,
            ):
                yield from _check_part(connection, project, topology, database, part)
        except SQLAlchemyError:
            continue  # `check_databases` says why


def _check_part(
    connection: Connection, project: Project, topology: Topology, database: Database, part: Part
) -> Iterator[Finding]:
    version, newest = read_version(connection, part), newest_version(part)
    if version != newest:
        fix = "mesctl migrate upgrade" if version < newest else "use the release that made it"
        problem = f"its library schema is of version {version}, and this mesctl knows {newest}"
        yield Finding(database.name, problem, fix)
    elif part == "directory":
        yield from _check_maps(connection, topology, database)
    elif database.tree in project.trees:
        yield from _check_guards(connection, project.trees[database.tree], database)


def _check_maps(connection: Connection, topology: Topology, directory: Database) -> Iterator[Finding]:
    known = set(connection.scalars(text("SELECT tree FROM public.shard_map_versions")))
    for tree in topology.names_of_kind("sharded"):
        is_plain = topology.trees[tree].backend != "citus"
        if is_plain and tree not in known and topology.directory_of(tree).name == directory.name:
            problem = f"has no shard map of the tree {tree}"
            yield Finding(directory.name, problem, f"mesctl shards init --tree {tree}")


def _check_guards(connection: Connection, tree: ProjectTree, shard: Database) -> Iterator[Finding]:
    if not shard.is_coordinator and read_identity(connection) is None:
        problem = "does not know which shard it is, and refuses no row"
        yield Finding(shard.name, problem, f"mesctl shards init --tree {tree.name}")
    rows = connection.execute(_TABLES, {"check": CHECK_NAME})
    standing = {row.table: row.is_guarded for row in rows}
    for table, key in _keyed_tables(tree) or ():
        if standing.get(table) is False:
            fix = f'a revision with op.create_shard_guard("{table}", key="{key}")'
            yield Finding(f"{shard.name}: {table}", "has a shard key, and no guard: it takes any row", fix)


# Whether each table has the guard; what has no table yet is another matter.
_TABLES = text("""
    SELECT c.relname AS table,
           EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid AND conname = :check) AS is_guarded
    FROM pg_class c WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
""")


def _check_packages(root: Path) -> Iterator[Finding]:
    """Find packages of the team's that have the name of a library: only one of the two can be imported."""
    for name in LIBRARIES:
        own = Path(sys.modules[name].__path__[0]).resolve() if name in sys.modules else None
        for theirs in (root / name, root / f"{name}.py"):
            if theirs.exists() and theirs.resolve() != own:
                fix = "rename it: only one of the two can be imported"
                yield Finding(str(theirs), f"has the name of the library {name!r}", fix)


def _check_tree(project: Project, tree: ProjectTree) -> Iterator[Finding]:
    try:
        metadata = tree.metadata
    except ReferenceBroken as fault:
        yield _broken(project, fault)
        return
    yield from _check_policies(project, tree, "policies", metadata)
    yield from _check_policies(project, tree, "archives", metadata)
    if tree.entry.archived is not None:
        yield from _import(project, f"trees.{tree.name}.archived", tree.entry.archived)
    yield from _check_keys(project, tree, metadata)
    yield from _check_revisions(project, tree)


def _check_policies(project: Project, tree: ProjectTree, name: str, metadata: MetaData) -> Iterator[Finding]:
    key = f"trees.{tree.name}.{name}"
    try:
        policies: tuple[Any, ...] = getattr(tree, name)
    except ReferenceBroken as fault:
        yield _broken(project, fault)
        return
    for policy in policies:
        tables = _tables_of(policy) if name == "policies" else _archived_by(policy)
        if not tables:
            yield _at(project, key, f"{policy!r} is no such policy", "name a tuple of policies")
        for table in sorted(tables - set(map(table_name, metadata.tables.values()))):
            fix = "declare the table, or correct the name"
            yield _at(project, key, f"the metadata has no table {table!r}", fix)


def _check_keys(project: Project, tree: ProjectTree, metadata: MetaData) -> Iterator[Finding]:
    """Look whether PostgreSQL would take the tables, and whether months can be made of their keys."""
    try:
        if all(map(_tables_of, tree.policies)) and all(map(_archived_by, tree.archives)):
            check_policies(metadata, tree.policies, tree.archives)
    except (ReferenceBroken, TableNotDeclared):
        return  # it has been named by then
    except PolicyError as fault:
        yield _at(project, f"trees.{tree.name}.policies", str(fault), "correct the model, or the policy")


def _tables_of(policy: object) -> set[str]:
    return {policy.table} if isinstance(policy, ListPartitions | MonthlyRange) else set()


def _archived_by(policy: object) -> set[str]:
    return {*policy.moves.keys(), *policy.moves.values()} if isinstance(policy, ArchivePolicy) else set()


def _check_revisions(project: Project, tree: ProjectTree) -> Iterator[Finding]:
    key = f"trees.{tree.name}.revisions"
    if not tree.revisions.is_dir():
        yield _at(project, key, f"there is no folder {tree.revisions}", "make it, or correct the path")
        return
    try:
        read_phases(Scripts(tree, tree.revisions).line())
    except CommandError as fault:
        yield _at(project, key, str(fault), "correct the revision")


def _check_up(project: Project) -> Iterator[Finding]:
    up = project.file.up
    if up.fill is not None:
        yield from _import(project, "up.fill", up.fill)
    if up.template is not None:
        try:
            Topology.load(project.root / up.template)
        except Exception as fault:
            yield _at(project, "up.template", str(fault), "correct it")


def _check_connection(topology: Topology, database: Database, role: str) -> Iterator[Finding]:
    url, where = topology.url(database, role=role, direct=True), f"{database.name} as {role}"
    try:
        with (
            open_watched(url, {"application_name": "mesctl doctor"}) as engine,
            engine.connect() as connection,
        ):
            version = int(connection.scalar(text("SHOW server_version_num")) or 0)
    except SQLAlchemyError as fault:
        yield Finding(
            where,
            f"cannot be connected to: {one_line(fault)}",
            "start it, or correct address, role or password",
        )
        return
    if version < OLDEST_SERVER:
        yield Finding(where, f"is PostgreSQL {version // 10000}", "use PostgreSQL 15 or newer")


def _import(project: Project, key: str, reference: str) -> Iterator[Finding]:
    try:
        project.resolve(key, reference)
    except ReferenceBroken as fault:
        yield _broken(project, fault)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _broken(project: Project, fault: ReferenceBroken) -> Finding:
    return _at(project, fault.key, fault.problem, "correct the reference, or install what it needs")


def _at(project: Project, key: str, problem: str, fix: str) -> Finding:
    line = line_of(project.path, key)
    return Finding(f"{project.path.name}{f':{line}' if line else ''} {key}", problem, fix)


def doctor(
    context: typer.Context,
    databases: Annotated[bool, typer.Option(help="Connect to the databases as well.")] = True,
) -> None:
    """Check every reference of the project and every database.

    It imports what the project file names, reads the revisions, compares project and topology, and connects
    to each database as its owner and as its services do. Nothing is changed. Exit status 1 if anything is
    wrong.
    """
    options = options_of(context)
    project = options.project()
    note(f"project: {project.path}")
    findings = list(check_project(project))
    if options.topology_path.exists():
        topology = options.topology()
        note(f"topology: {topology.path}")
        findings += check_topology(project, topology)
        if databases:
            findings += [*check_databases(topology), *check_library(project, topology)]
    else:
        note(f"topology: there is no {options.topology_path}; `mesctl up` makes one from a template")

    show_rows(options, [asdict(each) for each in findings], empty="nothing is wrong")
    if findings:
        raise typer.Exit(ExitStatus.FAILED)
