"""Writes over shards: bulk by shard, a unit of work on several shards, and tables that every shard has."""

from sharding.writes.bulk import bulk
from sharding.writes.report import BulkReport, ShardReport
from sharding.writes.target import Mode

__all__ = ["BulkReport", "Mode", "ShardReport", "bulk"]
