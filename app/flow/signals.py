"""What the MES measures of itself, and how much each is over its limit."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select

from app import instruments
from app.flow.grants import PARTNERS
from app.models.mes import PricingJob
from readreplica.cluster import Cluster
from readreplica.sessions import AnySession

SENDERS = ("shop", "crm", PARTNERS)
"""Who sends to the MES, and is granted something."""

MOST_COUNTED = 10_000


@dataclass(frozen=True, kw_only=True)
class Signal:
    """Something that is measured.

    Parameters:
        limit: from where on it slows the senders.
        unit: of the limit.
        what: what it says, with `{value}`, for people.
        senders: whom it slows.
    """

    limit: float
    unit: str
    what: str
    senders: tuple[str, ...] = SENDERS


_ORDERS = ("shop", PARTNERS)  # what the CRM sends makes no price

SIGNALS: Mapping[str, Signal] = {
    "pricing_age": Signal(limit=60.0, unit="s", what="pricing queue is {value:.0f} s old", senders=_ORDERS),
    "pricing_jobs": Signal(
        limit=1000.0, unit="jobs", what="{value:.0f} orders wait for a price", senders=_ORDERS
    ),
    "pool_wait": Signal(limit=0.5, unit="s", what="a connection is waited for {value:.2f} s"),
    "replica_lag": Signal(limit=10.0, unit="s", what="a replica is {value:.0f} s behind"),
    "event_loop": Signal(limit=0.5, unit="s", what="the event loop is {value:.2f} s late"),
    # What was taken in waits safely, and what is not yet, for an answer.
    "creation_wait": Signal(
        limit=0.05, unit="s", what="a new order waits {value:.2f} s to be taken in", senders=_ORDERS
    ),
}
"""All of them, in one table; the limit of `pricing_age` is a setting."""


@dataclass(frozen=True)
class Pressure:
    """How much the MES is pressed: 1 is at the limit of the signal that is worst."""

    value: float
    reason: str


def pressures(measured: Mapping[str, float], signals: Mapping[str, Signal]) -> dict[str, float]:
    """Return each signal as a share of its limit; what was not measured presses nothing."""
    return {name: measured.get(name, 0.0) / signal.limit for name, signal in signals.items()}


def pressure_on(sender: str, measured: Mapping[str, float], signals: Mapping[str, Signal]) -> Pressure:
    """Return the worst of what slows a sender, and it in words."""
    about = {name: signal for name, signal in signals.items() if sender in signal.senders}
    shares = pressures(measured, about)
    worst = max(shares, key=lambda name: shares[name])
    return Pressure(shares[worst], about[worst].what.format(value=measured.get(worst, 0.0)))


async def pricing_queue(session: AnySession) -> tuple[float, int]:
    """Return how long the oldest free pricing job of a shard is due, in seconds, and how many are."""
    due = PricingJob.lease_expires_at <= func.now()
    waiting = select(PricingJob.lease_expires_at).where(due).order_by(PricingJob.lease_expires_at)
    counted = waiting.limit(MOST_COUNTED).subquery()
    row = (
        await session.execute(
            select(
                func.count(),
                func.extract("epoch", func.now() - func.min(counted.c.lease_expires_at)),
            ).select_from(counted)
        )
    ).one()
    return float(row[1] or 0.0), int(row[0])


def replica_lag(cluster: Cluster, *, now: float) -> float:
    """Return how many seconds the replica of a cluster is behind that is furthest behind, of those in use."""
    monitor = cluster.monitor
    replicas = [
        node for node in monitor.nodes.values() if node is not monitor.primary and not node.health.ejected
    ]
    lags = [monitor.lag(node, now=now).seconds for node in replicas]
    return max((lag for lag in lags if lag is not None), default=0.0)


def of_process() -> dict[str, float]:
    """Return what this process measures of itself."""
    return {
        "pool_wait": instruments.recent_pool_wait.mean(),
        "event_loop": instruments.recent_lag.mean(),
        "creation_wait": instruments.recent_creation_wait.mean(),
    }
