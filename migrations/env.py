"""What alembic runs, whichever the tree: the tree's databases one after another, each under a lock.

The tree is the section of alembic.ini (`alembic -n mes ...`). The topology is handed over by
`migrations.run`, or named by `-x topology=PATH`, or by the environment variable MES_STORAGE_TOPOLOGY.
"""

import os
from logging.config import fileConfig

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, pool, text

from migrations.compare import PLUGINS, ignore_undeclared_partitions
from migrations.trees import METADATA, owner_of
from sharding.errors import TopologyError
from sharding.topology import Topology, Tree

# Another migration of the same database is waited for, but not for ever.
LOCK = text(
    "SELECT set_config('lock_timeout', '60s', true), pg_advisory_lock(hashtext('mes-storage migrations'))"
)


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


def migrate(connection: Connection, tree: Tree) -> None:
    """Run the command in one database; a second migration of it waits meanwhile."""
    connection.execute(LOCK)
    connection.commit()  # alembic opens a transaction of its own for each migration; the lock outlives them
    context.configure(
        connection=connection,
        target_metadata=METADATA[tree],
        transaction_per_migration=True,
        include_name=ignore_undeclared_partitions(connection, METADATA[tree]),
        autogenerate_plugins=PLUGINS,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run the command in every database of the tree."""
    tree, topology = the_tree(), the_topology()
    for name, database in topology.tree(tree).items():
        context.config.print_stdout("%s: %s", tree, name)
        url = topology.url(database, role=owner_of(tree))
        engine = create_engine(url, poolclass=pool.NullPool)
        with engine.connect() as connection:
            migrate(connection, tree)


def run_offline() -> None:
    """Print one script; it is the same for every database of the tree."""
    context.configure(
        dialect_name="postgresql",
        target_metadata=METADATA[the_tree()],
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
if context.is_offline_mode():
    run_offline()
else:
    run_online()
