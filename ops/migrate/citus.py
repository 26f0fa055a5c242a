"""What comes after the revisions when Citus keeps the shards: the tables are distributed.

The revisions are the same as on plain PostgreSQL. What is distributed already is left alone, so this is done
after every upgrade, and a table that a later revision makes is distributed after that revision.
"""

from collections.abc import Callable, Iterator

from sqlalchemy import Connection, text

from ops.project import ProjectTree
from sharding.citus.catalog import read_tables, require_citus
from sharding.citus.distribute import Distribution, coordinator_ownership, missing
from sharding.ownership import record_identity
from sharding.topology import Topology

Report = Callable[[str], None]

# A partition follows its parent, and comes with it.
_PRESENT = text("""
    SELECT relname FROM pg_class
    WHERE relnamespace = to_regnamespace('public') AND relkind IN ('r', 'p') AND NOT relispartition
""")
_IS_NAMED = text("SELECT EXISTS (SELECT FROM public.shard_identity)")


def is_on_citus(topology: Topology, tree: str) -> bool:
    """Return whether a tree's database is a coordinator."""
    return topology.trees[tree].backend == "citus"


def distribute(connection: Connection, topology: Topology, tree: ProjectTree, *, report: Report) -> list[str]:
    """Distribute what is declared and is not so yet, each table in a transaction of its own.

    A table that has rows takes them along; the local copy that Citus leaves is hidden, and is given back by
    `SELECT truncate_local_data_after_distributing_table(...)`.

    Parameters:
        connection: to the coordinator, as the owner.
        topology: where the coordinator is.
        tree: whose tables are distributed, as their `info` declares.
        report: is told a line about each table.

    Returns:
        The tables that were distributed.

    Raises:
        CitusMissing: the database has no Citus.
        DistributionConflict: a table is distributed in another way.
    """
    database = topology.coordinator_of(tree.name)
    require_citus(connection, database.name)
    present = set(connection.scalars(_PRESENT))
    left = missing(Distribution.of(tree.metadata), present=present, placed=read_tables(connection))
    connection.commit()
    for placement in left:
        connection.exec_driver_sql(placement.statement())
        connection.commit()
        report(f"{placement.table}: {placement.words}")
    if "shard_identity" in present and not connection.scalar(_IS_NAMED):
        # As on a plain shard: whoever connects finds out that this is the database that he means. The guard
        # has nothing to refuse here, and stays `RETURN true`, which the planner leaves out.
        connection.exec_driver_sql(record_identity(coordinator_ownership(topology, tree.name)))
    connection.commit()
    return [placement.table for placement in left]


def script(topology: Topology, tree: ProjectTree) -> str:
    """Give what `distribute` would run as psql accepts it; what stands already is left alone by it too."""
    return "".join(f"{statement};\n\n" for statement in _statements(topology, tree))


def _statements(topology: Topology, tree: ProjectTree) -> Iterator[str]:
    for placement in Distribution.of(tree.metadata).placements():
        yield placement.statement()
    insert = record_identity(coordinator_ownership(topology, tree.name))
    # A coordinator that knows its name keeps it, and the version that it was told of.
    yield insert[: insert.index("ON CONFLICT")] + "ON CONFLICT (singleton) DO NOTHING"
