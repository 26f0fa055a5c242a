"""What alembic runs, whichever the tree: all databases of the tree, each under a lock.

The tree is the section of alembic.ini (`alembic -n TREE ...`), or the only one of the project. The topology
is handed over by a program as `config.attributes["topology"]`, or named by `-x topology=PATH`, or by
MES_STORAGE_TOPOLOGY. `upgrade` and `downgrade` do what `mesctl migrate` does; other commands visit one
database after another. Autogenerate compares the metadata of the tree, with the policies of its tables.
"""

import io
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from logging.config import fileConfig
from pathlib import Path
from typing import TextIO

from alembic import command, context
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData

from ops.errors import OpsError
from ops.migrate import library, mark
from ops.migrate.adoption import claim, examine
from ops.migrate.connect import open_owner, take_lock
from ops.migrate.outcome import Direction
from ops.migrate.run import migrate
from ops.migrate.scripts import Scripts
from ops.project.project import Project, ProjectTree
from partitions.migration_ops import PLUGINS, POLICIES, ignore_undeclared_partitions
from partitions.sql import identifier
from sharding.errors import ShardingError
from sharding.migration_ops import PLUGINS as GUARD_PLUGINS
from sharding.schema import newest_version
from sharding.topology import Topology

DIRECTIONS: dict[object, Direction] = {command.upgrade: "up", command.downgrade: "down"}

READING = {command.current, command.check, command.revision}
"""Commands that change no database."""


@contextmanager
def reading_unvalidated_checks() -> Iterator[None]:
    """Bear with SQLAlchemy 2.1, which reads that a CHECK is NOT VALID and warns of its own word for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Can't validate argument 'dialect_options'")
        yield


def metadata_of(tree: ProjectTree) -> MetaData:
    """Return what the models of a tree declare, with its policies where autogenerate finds them."""
    tree.metadata.info[POLICIES] = tree.policies
    return tree.metadata


def the_project() -> Project:
    """Return the project: handed over, or found from the folder of alembic.ini upwards."""
    given = context.config.attributes.get("project")
    if isinstance(given, Project):
        return given
    ini = context.config.config_file_name
    return Project.find(Path(ini).parent if ini else Path())


def the_tree() -> ProjectTree:
    """Return the tree whose section of alembic.ini is in use; without `-n`, the only tree."""
    trees, section = the_project().trees, context.config.config_ini_section
    if section in trees:
        return trees[section]
    if section == "alembic" and len(trees) == 1:
        return next(iter(trees.values()))
    name = next(iter(trees))
    raise CommandError(f"no tree {section!r}: name one of {', '.join(trees)}, as in `alembic -n {name} ...`")


def the_topology() -> Topology:
    """Find the topology: handed over, by -x, by the environment, or in the project file."""
    given = context.config.attributes.get("topology")
    if isinstance(given, Topology):
        return given
    path = context.get_x_argument(as_dictionary=True).get("topology") or os.environ.get(
        "MES_STORAGE_TOPOLOGY"
    )
    own = the_project().topology_path
    if not path and own is None:
        raise CommandError(
            "no topology: the project file names none; set MES_STORAGE_TOPOLOGY, or give `-x topology=PATH`"
        )
    return Topology.load(str(path or own))


def the_command() -> object:
    """Return the function of `alembic.command` that was typed; None if a program called it."""
    options = context.config.cmd_opts
    return options.cmd[0] if options else None


def the_fleet_command() -> tuple[Direction, str] | None:
    """Return the direction and the target, if this is `alembic upgrade` or `alembic downgrade`."""
    direction = DIRECTIONS.get(the_command())
    options = context.config.cmd_opts
    return (direction, options.revision) if options and direction else None


def leave_out(tables: Collection[str]) -> Callable[..., bool]:
    """Make alembic's `include_object`: it leaves out the tables that the library owns."""
    return lambda _object, name, kind, _reflected, _compare_to: not (kind == "table" and name in tables)


def visit(connection: Connection, topology: Topology, database: str, tree: ProjectTree) -> None:
    """Run the command in one database, if it is one of the tree; a migration of it waits meanwhile."""
    take_lock(connection, database)
    if the_command() not in READING:
        claim(connection, topology, tree, database)
    elif not (found := examine(connection, topology, tree, database)).is_ours:
        raise found.refusal
    connection.rollback()
    metadata, part = metadata_of(tree), library.part_of(topology, tree.name)
    plugins = (*PLUGINS, *GUARD_PLUGINS) if part == "shard" else PLUGINS
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=tree.version_table,
        transaction_per_migration=True,
        include_schemas=any(table.schema for table in metadata.tables.values()),
        include_name=ignore_undeclared_partitions(connection, metadata),
        include_object=leave_out(library.tables_of(part)),
        autogenerate_plugins=plugins,
        compare_server_default=True,
    )
    with context.begin_transaction(), reading_unvalidated_checks():
        context.run_migrations()


def run_online() -> None:
    """Run the command in every database of the tree."""
    tree, topology, asked = the_tree(), the_topology(), the_fleet_command()
    if asked is not None:
        direction, target = asked
        migrate(topology, tree, direction, target, report=partial(context.config.print_stdout, "%s"))
        return
    for name in topology.databases_of(tree.name):
        context.config.print_stdout("%s: %s", tree.name, name)
        with open_owner(topology, name) as engine, engine.connect() as connection:
            visit(connection, topology, name, tree)


class OfflineScript(io.StringIO):
    """Takes alembic's script on its way out.

    A database that went back to base still has the version table; one that has none gets it with its mark.
    """

    def __init__(self, out: TextIO, tree: ProjectTree) -> None:
        super().__init__()
        self._out = out
        self._tree = tree

    def write(self, text: str) -> int:
        """Pass a statement on."""
        create = f"CREATE TABLE {identifier(self._tree.version_table)} ("
        if not text.startswith(create):
            return self._out.write(text)
        made = text.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1)
        return self._out.write(f"{made}{mark.statement(self._tree)};\n\n")


def library_script(tree: ProjectTree) -> tuple[str, str]:
    """Return what makes the library's schema before the revisions, and what behind them.

    Where it stands already, that changes nothing.
    """
    if the_command() is not command.upgrade:
        return "", ""
    try:
        topology = the_topology()
    except CommandError:
        why = "only a topology says which part of it this tree has"
        return f"-- The library's schema is left out: {why}.\n\n", ""
    part, databases = library.part_of(topology, tree.name), topology.databases_of(tree.name)
    if part is None or not databases:
        return "", ""
    grantees = library.grantees_of(topology, next(iter(databases)))
    scripts = Scripts(tree, tree.revisions)
    if scripts.library_recorder is None:
        return library.render(part, range(1, newest_version(part) + 1), grantees), ""
    target = context.get_revision_argument()
    behind = library.following(part, scripts, scripts.applied(target if isinstance(target, str) else None))
    return "", library.render(part, behind, grantees if behind else None)


def run_offline() -> None:
    """Print one script; it is the same for every database of the tree."""
    tree = the_tree()
    output = context.config.output_buffer or sys.stdout
    before, behind = "", ""
    if context.config.cmd_opts is not None:  # a program asks for the library's part by itself
        before, behind = library_script(tree)
    output.write(before)
    context.configure(
        dialect_name="postgresql",
        target_metadata=metadata_of(tree),
        version_table=tree.version_table,
        transaction_per_migration=True,
        output_buffer=OfflineScript(output, tree),
    )
    # What a revision prints is no SQL.
    with context.begin_transaction(), redirect_stdout(sys.stderr):
        context.run_migrations()
    output.write(behind)


def run() -> None:
    """Do what alembic was asked for; a team's env.py calls this."""
    if context.config.file_config.has_section("loggers"):
        assert context.config.config_file_name is not None
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    try:
        if context.is_offline_mode():
            run_offline()
        else:
            run_online()
    except (OpsError, ShardingError) as fault:
        if isinstance(fault, CommandError):
            raise
        raise CommandError(str(fault)) from fault
