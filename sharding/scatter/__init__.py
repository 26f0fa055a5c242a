"""A SELECT over all shards: what can be merged is merged exactly, and everything else is refused by name."""

from sharding.scatter.pages import AnySelect, Bounds, CursorKeys, Page
from sharding.scatter.run import scatter

__all__ = ["AnySelect", "Bounds", "CursorKeys", "Page", "scatter"]
