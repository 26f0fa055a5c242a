"""What alembic runs, whichever the tree: all databases of the tree, each under a lock.

The tree is the section of alembic.ini (`alembic -n mes ...`). The topology is handed over by a program as
`config.attributes["topology"]`, or named by `-x topology=PATH`, or by MES_STORAGE_TOPOLOGY. `upgrade` and
`downgrade` do what `mesctl migrate` does; other commands visit one database after another.
"""

import io
import os
import sys
from contextlib import redirect_stdout
from functools import partial
from logging.config import fileConfig
from typing import TextIO

from alembic import command, context
from alembic.util import CommandError
from sqlalchemy import Connection

from migrations.compare import PLUGINS, ignore_undeclared_partitions, reading_unvalidated_checks
from migrations.connect import open_owner, take_lock
from migrations.outcome import Direction
from migrations.run import migrate
from migrations.trees import METADATA
from sharding.errors import TopologyError
from sharding.topology import Topology, Tree

DIRECTIONS: dict[object, Direction] = {command.upgrade: "up", command.downgrade: "down"}


def the_tree() -> Tree:
    """Name the tree whose section of alembic.ini is in use."""
    section = context.config.config_ini_section
    for tree in METADATA:
        if tree == section:
            return tree
    raise CommandError(f"no tree {section!r}: name one of {', '.join(METADATA)}, as in `alembic -n mes ...`")


def the_topology() -> Topology:
    """Find the topology: handed over, by -x, or by the environment."""
    given = context.config.attributes.get("topology")
    if isinstance(given, Topology):
        return given
    path = context.get_x_argument(as_dictionary=True).get("topology") or os.environ.get(
        "MES_STORAGE_TOPOLOGY"
    )
    if not isinstance(path, str) or not path:
        raise CommandError("no topology: set MES_STORAGE_TOPOLOGY, or give `-x topology=PATH`")
    try:
        return Topology.load(path)
    except TopologyError as fault:
        raise CommandError(str(fault)) from fault


def the_fleet_command() -> tuple[Direction, str] | None:
    """Tell the direction and the target, if this is `alembic upgrade` or `alembic downgrade`."""
    options = context.config.cmd_opts
    direction = DIRECTIONS.get(options.cmd[0]) if options else None
    return (direction, options.revision) if options and direction else None


def visit(connection: Connection, database: str, tree: Tree) -> None:
    """Run the command in one database; a migration of it waits meanwhile."""
    take_lock(connection, database)
    context.configure(
        connection=connection,
        target_metadata=METADATA[tree],
        transaction_per_migration=True,
        include_name=ignore_undeclared_partitions(connection, METADATA[tree]),
        autogenerate_plugins=PLUGINS,
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
    for name in topology.tree(tree):
        context.config.print_stdout("%s: %s", tree, name)
        with open_owner(topology, name) as engine, engine.connect() as connection:
            visit(connection, name, tree)


class OfflineScript(io.StringIO):
    """Takes alembic's script on its way out. A database that went back to base still has alembic's table."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def write(self, text: str) -> int:
        """Pass a statement on."""
        create = "CREATE TABLE alembic_version"
        return self._out.write(text.replace(create, create.replace("TABLE", "TABLE IF NOT EXISTS")))


def run_offline() -> None:
    """Print one script; it is the same for every database of the tree."""
    context.configure(
        dialect_name="postgresql",
        target_metadata=METADATA[the_tree()],
        transaction_per_migration=True,
        output_buffer=OfflineScript(context.config.output_buffer or sys.stdout),
    )
    # What a revision prints is no SQL.
    with context.begin_transaction(), redirect_stdout(sys.stderr):
        context.run_migrations()


if context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
if context.is_offline_mode():
    run_offline()
else:
    run_online()
