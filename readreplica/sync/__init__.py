"""The package for threads: the same names, with `with` and without `await`.

Generated from the files of the same names one floor up by `make twins`, but for `concurrency` and `__init__`.
"""

from readreplica.sync.cluster import Cluster
from readreplica.sync.sessions import AnySession, ReadSession, WriteSession
from readreplica.token import CausalToken

__all__ = ["AnySession", "CausalToken", "Cluster", "ReadSession", "WriteSession"]
