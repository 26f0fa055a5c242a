"""Migrations for programs: what `alembic -n TREE ...` does, for a topology that is at hand."""

import io
from collections.abc import Mapping
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, pool

from migrations.trees import owner_of
from sharding.topology import Topology, Tree

HERE = Path(__file__).parent


def upgrade(topology: Topology, tree: Tree, revision: str = "head") -> None:
    """Bring every database of a tree up to a revision, one transaction for each migration.

    Parameters:
        topology: where the databases are.
        tree: `shop`, `crm`, `mes` or `directory`.
        revision: as alembic takes it: `head`, `0002`, `+1`.
    """
    command.upgrade(_config(tree, topology), revision)


def downgrade(topology: Topology, tree: Tree, revision: str) -> None:
    """Take every database of a tree back to a revision; `base` drops everything."""
    command.downgrade(_config(tree, topology), revision)


def render_upgrade(tree: Tree, revision: str = "head", *, start: str | None = None) -> str:
    """Give the script that `upgrade` would run, as psql accepts it.

    Parameters:
        tree: the migration tree.
        revision: where to end.
        start: the revision of the database; None is one that was never migrated.
    """
    script = io.StringIO()
    command.upgrade(_config(tree, output=script), f"{start or 'base'}:{revision}", sql=True)
    # A database that went back to base still has alembic's own table.
    return script.getvalue().replace(
        "CREATE TABLE alembic_version", "CREATE TABLE IF NOT EXISTS alembic_version"
    )


def render_downgrade(tree: Tree, revision: str, *, start: str) -> str:
    """Give the script that `downgrade` would run on a database of revision `start`, as psql accepts it."""
    script = io.StringIO()
    command.downgrade(_config(tree, output=script), f"{start}:{revision}", sql=True)
    return script.getvalue()


def current(topology: Topology, tree: Tree) -> Mapping[str, str | None]:
    """Read the revision of every database of a tree; None is a database that was never migrated."""
    found: dict[str, str | None] = {}
    for name, database in topology.tree(tree).items():
        engine = create_engine(topology.url(database, role=owner_of(tree)), poolclass=pool.NullPool)
        with engine.connect() as connection:
            found[name] = MigrationContext.configure(connection).get_current_revision()
    return found


def head(tree: Tree) -> str | None:
    """Name the newest revision of a tree."""
    return ScriptDirectory.from_config(_config(tree)).get_current_head()


def pending(tree: Tree, start: str | None) -> Mapping[str, str]:
    """List the revisions that a database of revision `start` lacks, oldest first, with what each brings."""
    scripts = ScriptDirectory.from_config(_config(tree))
    lacking = reversed(list(scripts.iterate_revisions("head", start or "base")))
    return {script.revision: script.doc for script in lacking}


def _config(tree: Tree, topology: Topology | None = None, output: io.StringIO | None = None) -> Config:
    # No alembic.ini: an installed package has none. env.py finds the tree in the section's name.
    quiet = io.StringIO()
    config = Config(ini_section=tree, stdout=quiet, output_buffer=output)
    config.set_main_option("script_location", str(HERE))
    config.set_main_option("version_locations", str(HERE / tree / "versions"))
    config.set_main_option("path_separator", "newline")
    config.attributes["topology"] = topology
    return config
