"""Orders over many PostgreSQL clusters: topology, order ids, the shard map, and sessions by order id."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharding.directory import Directory, open_id_generator
    from sharding.engines import open_cluster
    from sharding.errors import (
        BucketNotOwned,
        InvalidShardKey,
        OtherShard,
        ScatterRefused,
        ShardFailed,
        ShardingError,
        ShardTimedOut,
        ShardUnnamed,
        TopologyError,
        WrongShard,
    )
    from sharding.ids import IdGenerator, first_id_at, instant_of
    from sharding.keys import change_log, reference_table, shard_key
    from sharding.scatter.pages import Bounds, CursorKeys, Page
    from sharding.sessions import ShardedSessions, open_ids, open_sessions
    from sharding.shard_map import ShardMap, key_of_text
    from sharding.topology import Topology
    from sharding.writes.bulk import BulkFailed
    from sharding.writes.errors import TargetRefused, UnitInDoubt, UnitRefused
    from sharding.writes.prepared import Decisions
    from sharding.writes.reference import References
    from sharding.writes.rows import BulkReport, Mode
    from sharding.writes.two_phase import TwoPhaseUnit

__all__ = [
    "Bounds",
    "BucketNotOwned",
    "BulkFailed",
    "BulkReport",
    "CursorKeys",
    "Decisions",
    "Directory",
    "IdGenerator",
    "InvalidShardKey",
    "Mode",
    "OtherShard",
    "Page",
    "References",
    "ScatterRefused",
    "ShardFailed",
    "ShardMap",
    "ShardTimedOut",
    "ShardUnnamed",
    "ShardedSessions",
    "ShardingError",
    "TargetRefused",
    "Topology",
    "TopologyError",
    "TwoPhaseUnit",
    "UnitInDoubt",
    "UnitRefused",
    "WrongShard",
    "change_log",
    "first_id_at",
    "instant_of",
    "key_of_text",
    "open_cluster",
    "open_id_generator",
    "open_ids",
    "open_sessions",
    "reference_table",
    "shard_key",
]

_NAMES = {
    "directory": (
        "Directory",
        "open_id_generator",
    ),
    "engines": ("open_cluster",),
    "errors": (
        "BucketNotOwned",
        "InvalidShardKey",
        "OtherShard",
        "ScatterRefused",
        "ShardFailed",
        "ShardTimedOut",
        "ShardUnnamed",
        "ShardingError",
        "TopologyError",
        "WrongShard",
    ),
    "ids": (
        "IdGenerator",
        "first_id_at",
        "instant_of",
    ),
    "keys": (
        "change_log",
        "reference_table",
        "shard_key",
    ),
    "scatter.pages": (
        "Bounds",
        "CursorKeys",
        "Page",
    ),
    "sessions": (
        "ShardedSessions",
        "open_ids",
        "open_sessions",
    ),
    "shard_map": (
        "ShardMap",
        "key_of_text",
    ),
    "topology": ("Topology",),
    "writes.bulk": ("BulkFailed",),
    "writes.errors": (
        "TargetRefused",
        "UnitInDoubt",
        "UnitRefused",
    ),
    "writes.prepared": ("Decisions",),
    "writes.reference": ("References",),
    "writes.rows": (
        "BulkReport",
        "Mode",
    ),
    "writes.two_phase": ("TwoPhaseUnit",),
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name when it is used first, so that `import sharding.keys` loads no other module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
