"""Shards that Citus keeps: one coordinator instead of a shard map (docs/how-to/citus.md)."""
