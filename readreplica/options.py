"""How a cluster's monitor, waits and budgets behave. Given by the caller; nothing here reads settings."""

from dataclasses import dataclass

CONNECT_TIMEOUT_SECONDS = 3
"""How long a connection may take to open: of the sessions, and of the monitor."""


@dataclass(frozen=True, kw_only=True)
class ReplicaOptions:
    """The numbers behind routing, waiting and failover; the defaults suit replicas on one network."""

    replay_wait_seconds: float = 0.05
    """How long a read with a token waits for a replica before it takes the primary."""

    poll_seconds: float = 1.0
    """How often the monitor polls each node."""

    answer_seconds: float = 1.0
    """How long a node may take to answer the monitor; also its statement_timeout there."""

    eject_lag_seconds: float = 30.0
    """A replica that is further behind is ejected."""

    eject_lag_bytes: int = 256 << 20
    """A replica that is further behind in the WAL is ejected."""

    eject_polls: int = 2
    """After how many bad polls in a row a replica is ejected."""

    readmit_polls: int = 3
    """After how many good polls in a row a replica is readmitted: more than `eject_polls`, for it has to
    prove itself, and each reader that comes back to it finds cold caches there."""

    expect_walreceiver: bool = True
    """Whether a replica that is behind and has no walreceiver is at fault. False for replicas that restore
    from an archive."""

    fallback_per_second: float = 200.0
    """How many reads a second this process may send to the primary because no replica was fit."""

    fallback_burst: int = 200
    """How many of them may come at once after a quiet time."""

    fallback_concurrency: int = 10
    """How many connections to the primary such reads may hold at a time."""

    failover_wait_seconds: float = 0.0
    """How long `transact` waits for a new primary before it raises the outage."""

    plausible_wal_bytes_per_second: int = 4 << 30
    """A token further beyond the primary's last known position than this allows is from no commit."""


DEFAULTS = ReplicaOptions()
