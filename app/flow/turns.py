"""The turns of those who send orders to be priced: one who sends a thousand delays no one else's by them.

Fair queueing by start times (Goyal, Vin and Cheng, SIGCOMM 1996), on each shard by itself. A job's `position`
is one step behind its sender's last one, and never before the job that was reached: so the jobs of a sender
stand a step apart, and those of all senders are taken in turn. A sender who has none yet stands a quarter of
a step behind what was reached, before the next one of any other.

A job that was inserted without `enqueue` has no sender, and is taken by no one until a worker has given it a
position: code of a release before turns writes such ones while the services are upgraded.

No position is filled for ever: one is given only while a job a quarter of a step before it is worked on, or
is the first that waits. So whatever comes later, every job is reached. A worker goes over the shards in the
same way (`ShardTurns`): each shard's positions are shifted so that what is first is never in the past.
"""

from collections.abc import Mapping
from hashlib import sha256

from sqlalchemy import func, select, text, update

from app.messaging.events import OrderSubmitted
from app.models.mes import MesOrder, PricingJob
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

NO_SENDER = ""
"""The sender of a job that was inserted without its position."""

HAS_TURN = PricingJob.sender != NO_SENDER

FARTHEST_STEPS = 16 * STEP
"""How far ahead of what a worker has reached the first job of a shard counts at most."""

_PLACED_AT_ONCE = 50


def sender_of(submitted: OrderSubmitted, order_id: int) -> str:
    """Return who has sent an order: the partner, or the customer, whose address is not written down."""
    if submitted.partner is not None:
        return f"partner {submitted.partner}"
    if submitted.customer is not None:
        return f"customer {sha256(submitted.customer.email.lower().encode()).hexdigest()[:16]}"
    return f"order {order_id}"


def sender_of_order(order_id: int, partner: str | None) -> str:
    """Return who has sent an order, as far as the MES knows: no customer's address is kept there."""
    return f"partner {partner}" if partner is not None else f"order {order_id}"


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
            # What was empty for a while has earned nothing by it. And where the jobs of a thousand positions
            # were cancelled, those behind them do not wait for as many of the other shards.
            earliest, latest = self._reached - position, self._reached + FARTHEST_STEPS - position
            self._shifts[shard] = min(max(self._shifts.get(shard, -position), earliest), latest)
        return sorted(firsts, key=lambda shard: firsts[shard] + self._shifts[shard])

    def took(self, shard: str, position: float) -> None:
        """Note that a job was taken."""
        self._reached = max(self._reached, position + self._shifts[shard])


async def enqueue(session: WriteSession, job: PricingJob) -> None:
    """Insert a job at its sender's next position; the sender waits for the end of this one elsewhere.

    Read one by one and in a lock: Citus takes no subquery in VALUES, and two that read the same last position
    would stand at the same one.
    """
    job.position = await _position(session, job.sender)
    session.add(job)
    await session.flush()


async def _position(session: WriteSession, sender: str) -> float:
    await session.execute(text(wait_until_commit_sql(str(key_of_text(f"pricing {sender}")))))
    first = select(func.min(PricingJob.position)).where(~IS_LEASED, HAS_TURN)
    return next_position(
        reached=await session.scalar(select(func.max(PricingJob.position)).where(IS_LEASED, HAS_TURN)),
        first=await session.scalar(first),
        last=await session.scalar(select(func.max(PricingJob.position)).where(PricingJob.sender == sender)),
    )


async def _sender(session: WriteSession, order_id: int) -> str:
    partner = await session.scalar(select(MesOrder.partner).where(MesOrder.order_id == order_id))
    return sender_of_order(order_id, partner)


async def place_jobs(session: WriteSession) -> None:
    """Place jobs that were inserted without a position, each sender's oldest first.

    Each by its key, and only where it has none by now: other workers do the same, in the same order of locks.
    """
    job = PricingJob
    bare = select(job.order_id).where(job.sender == NO_SENDER).order_by(job.created_at).limit(_PLACED_AT_ONCE)
    found = [(await _sender(session, order_id), order_id) for order_id in (await session.scalars(bare)).all()]
    for sender, order_id in sorted(found, key=lambda each: each[0]):
        position = await _position(session, sender)
        await session.execute(
            update(job)
            .where(job.order_id == order_id, job.sender == NO_SENDER)
            .values(sender=sender, position=position),
            execution_options={"synchronize_session": False},
        )
