"""Writes over shards: bulk by shard, a unit of work on several shards, and tables that every shard has."""

from sharding.writes.bulk import bulk
from sharding.writes.prepared import Decisions
from sharding.writes.reference import References
from sharding.writes.rows import BulkReport, Mode, ShardReport
from sharding.writes.two_phase import TwoPhaseUnit, two_phase

__all__ = [
    "BulkReport",
    "Decisions",
    "Mode",
    "References",
    "ShardReport",
    "TwoPhaseUnit",
    "bulk",
    "two_phase",
]
