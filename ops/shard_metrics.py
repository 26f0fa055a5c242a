"""Metrics of the shards in Prometheus' text format, for the node exporter's textfile collector."""

from collections.abc import Sequence

from ops.shards.service import ShardRow, skew
from sharding.shard_map import ShardMap

_HELP = {
    "rows": "Rows, live and archived.",
    "bytes": "Size of the database.",
    "buckets": "Buckets that the map gives to the shard.",
    "told_map_version": "The map version that the shard was told of last.",
}


def render_shard_metrics(tree: str, shard_map: ShardMap, rows: Sequence[ShardRow]) -> str:
    """Return the file: a gauge for each thing that `mesctl shards list` shows, and the skew over all."""
    lines = []
    for name, meaning in _HELP.items():
        lines += [f"# HELP mes_storage_shard_{name} {meaning}", f"# TYPE mes_storage_shard_{name} gauge"]
        for row in rows:
            value = {
                "rows": row.live_rows + row.archived_rows,
                "bytes": row.bytes,
                "buckets": row.buckets,
                "told_map_version": row.map_version or 0,
            }[name]
            lines.append(f'mes_storage_shard_{name}{{tree="{tree}",shard="{row.shard}"}} {value}')
    for name, meaning, number in (
        ("shard_map_version", "The map version in force.", shard_map.version),
        ("shard_skew_ratio", "Rows of the fullest shard over the mean.", round(skew(rows), 4)),
    ):
        lines += [f"# HELP mes_storage_{name} {meaning}", f"# TYPE mes_storage_{name} gauge"]
        lines.append(f'mes_storage_{name}{{tree="{tree}"}} {number}')
    return "\n".join([*lines, ""])
