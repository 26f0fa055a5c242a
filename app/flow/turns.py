"""The turns of those who send orders to be priced: one who sends a thousand delays nobody else's by them.

Fair queueing by start times (Goyal, Vin and Cheng, SIGCOMM 1996), on each shard by itself. A job's `position` is one
step behind its sender's last one, and never before the job that was reached: so the jobs of a sender stand a step
apart, and those of all senders are taken in turn. A sender who has none yet stands half a step behind what was
reached, before the next one of any other.

No position is filled for ever: one is given only while a job half a step before it is worked on, or is the first
that waits. So whatever comes later, every job is reached.
"""

from hashlib import sha256

from sqlalchemy import func, select

from app.messaging.events import OrderSubmitted
from app.models.mes import PricingJob
from readreplica.sessions import WriteSession
from sharding.shard_map import key_of_text

STEP = 1.0
"""Between two jobs of one sender."""

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
    behind = (level or 0.0) + STEP / 2
    return behind if last is None else max(behind, last + STEP)


async def enqueue(session: WriteSession, job: PricingJob) -> None:
    """Insert a job at its sender's next position; other transactions of the sender wait for the end of this one.

    Read one by one and in a lock: Citus takes no subquery in VALUES, and two that read the same last position
    would stand at the same one.
    """
    await session.execute(select(func.pg_advisory_xact_lock(key_of_text(f"pricing {job.sender}"))))
    job.position = next_position(
        reached=await session.scalar(select(func.max(PricingJob.position)).where(IS_LEASED)),
        first=await session.scalar(select(func.min(PricingJob.position)).where(~IS_LEASED)),
        last=await session.scalar(
            select(func.max(PricingJob.position)).where(PricingJob.sender == job.sender)
        ),
    )
    session.add(job)
    await session.flush()
