"""How the MES tables are placed when Citus keeps the shards: `mesctl migrate upgrade` obeys this."""

from app.models.mes import MesBase
from sharding.citus.distribute import Distribution
from sharding.keys import guarded_tables

_PARTITIONS = [name for name, table in MesBase.metadata.tables.items() if "partition_of" in table.info]

MES_DISTRIBUTION = Distribution(
    keyed=tuple(guarded_tables(MesBase.metadata, apart=_PARTITIONS)),
    together="order_id",
    references=frozenset({"materials", "finishes", "tariffs"}),
    local=frozenset({"shard_identity", "reference_versions"}),
)
"""Everything of one order stands together; tables with other keys are groups of their own, and what is small
and read everywhere has a copy on every node."""
