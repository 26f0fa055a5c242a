"""Sessions by shard key for threads: the same names, with `with` and without `await`. No scatter.

Generated from the files of the same names one floor up by `make twins`, but for `map_watch`, `sessions` and
this one.
"""

from sharding.topology import Topology

__all__ = ["ShardedSessions", "Topology", "open_sessions"]
