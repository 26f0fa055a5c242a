"""The turns of those who send orders to be priced: one who sends a thousand delays no one else's by them.

Fair queueing by start times (Goyal, Vin and Cheng, SIGCOMM 1996), on each shard by itself. A job's `position`
is one step behind its sender's last one, and never before the job that was reached: so the jobs of a sender
stand a step apart, and those of all senders are taken in turn. A sender who has none yet stands a quarter of
a step behind what was reached, before the next one of any other.

No position is filled for ever: one is given only while a job a quarter of a step before it is worked on, or
is the first that waits. So whatever comes later, every job is reached. A worker goes over the shards in the
same way (`ShardTurns`): each shard's positions are shifted so that what is first is never in the past.
"""

from collections.abc import Mapping
from hashlib import sha256

from sqlalchemy import func, select, text

from app.messaging.events import OrderSubmitted
from app.models.mes import PricingJob
from partitions.advisory_lock import wait_until_commit_sql
from readreplica.sessions import WriteSession
from sharding.shard_map import key_of_text

STEP = 1.0
"""Between two jobs of one sender."""

NEWCOMER_STEP = STEP / 4
"""How far behind what was reached one stands who has no job yet."""

TURNS = (PricingJob.position, PricingJob.created_at)
"""The order in which jobs are taken."""

IS_LEASED = PricingJob.leased_by.is_not(None)
"""As the predicate of the index, and so whether or not the lease has expired."""


def sender_of(submitted: OrderSubmitted, order_id: int) -> str:
    """Return who has sent an order: the partner, or the customer, whose address is not written down."""
    if submitted.partner is not None:
        return f"partner {submitted.partner}"
    if submitted.customer is not None:
        return f"customer {sha256(submitted.customer.email.lower().encode()).hexdigest()[:16]}"
    return f"order {order_id}"


def next_position(*, reached: float | None, first: float | None, last: float | None) -> float:
    """Return the position of a new job.

    Parameters:
        reached: the greatest of the jobs that are worked on, None if none is.
        first: the smallest of those that wait.
        last: the greatest of the same sender's.
    """
    level = reached if reached is not None else first
    behind = (level or 0.0) + NEWCOMER_STEP
    return behind if last is None else max(behind, last + STEP)


class ShardTurns:
    """The order in which one worker asks the shards, by the position of the first job on each. Pure."""

    def __init__(self) -> None:
        self._reached = 0.0
        self._shifts: dict[str, float] = {}

    def order(self, firsts: Mapping[str, float]) -> list[str]:
        """Return the shards that have a job, the one whose turn it is first.

        Parameters:
            firsts: the position of the first job on each.
        """
        for shard, position in firsts.items():
            # What was empty for a while has earned nothing by it.
            self._shifts[shard] = max(self._shifts.get(shard, -position), self._reached - position)
        return sorted(firsts, key=lambda shard: firsts[shard] + self._shifts[shard])

    def took(self, shard: str, position: float) -> None:
        """Note that a job was taken."""
        self._reached = max(self._reached, position + self._shifts[shard])


async def enqueue(session: WriteSession, job: PricingJob) -> None:
    """Insert a job at its sender's next position; the sender waits for the end of this one elsewhere.

    Read one by one and in a lock: Citus takes no subquery in VALUES, and two that read the same last position
    would stand at the same one.
    """
    await session.execute(text(wait_until_commit_sql(str(key_of_text(f"pricing {job.sender}")))))
    job.position = next_position(
        reached=await session.scalar(select(func.max(PricingJob.position)).where(IS_LEASED)),
        first=await session.scalar(select(func.min(PricingJob.position)).where(~IS_LEASED)),
        last=await session.scalar(
            select(func.max(PricingJob.position)).where(PricingJob.sender == job.sender)
        ),
    )
    session.add(job)
    await session.flush()
