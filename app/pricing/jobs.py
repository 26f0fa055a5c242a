"""The queue `pricing_jobs`: who prices which order, and until when. SQL only; time is the database's.

Senders take turns: the job with the smallest `position` comes next (`app.flow.turns`).

A lease is taken in a short transaction and worked on outside any: pricing takes seconds to minutes, and a
transaction held that long stops vacuum. A worker that is killed lets its lease expire. `attempts` counts the
leases, and so distinguishes a stale holder from the present one as well. `expired_leases` counts those that
ended without a word: also a worker whose database was away for a while lets its lease expire, and the order
has no part in that.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, case, delete, func, select, update

from app.flow.turns import HAS_TURN, IS_LEASED, STEP, TURNS, place_jobs
from app.kit.telemetry import FRESH
from app.models.mes import PricingJob
from readreplica.sessions import WriteSession

# Of those that others are taking at this moment, the next one is tried.
_CHOICE = 8
# What asks has fewer workers than this.
_MOST_COUNTED = 1000
_IS_FREE = and_(PricingJob.lease_expires_at <= func.now(), HAS_TURN)
_IS_FRESH = (PricingJob.created_at > func.now() - FRESH).label("is_fresh")


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to price an order.

    Parameters:
        order_id: the order.
        holder: the worker that has it.
        attempt: the number of this lease, from 1.
        expired: how many leases before it have expired.
        traceparent: of what has made the job.
        is_fresh: whether that was just now, so that the work is a part of its trace.
    """

    order_id: int
    holder: str
    attempt: int
    expired: int = 0
    traceparent: str | None = None
    is_fresh: bool = True

    @property
    def tries(self) -> int:
        """How many times the order was tried until its try had an end, this one included."""
        return self.attempt - self.expired


async def first(session: WriteSession) -> float | None:
    """Return the position of the job on this shard whose turn it is; None if none may be taken.

    Jobs that have no position yet get one.
    """
    await place_jobs(session)
    return await session.scalar(select(PricingJob.position).where(_IS_FREE).order_by(*TURNS).limit(1))


async def lease(session: WriteSession, *, holder: str, lease_seconds: float) -> Lease | None:
    """Take the job on this shard whose turn it is, if there is one without a lease.

    Parameters:
        session: a transaction of its own, committed at once.
        holder: the worker.
        lease_seconds: when others may take the job again.
    """
    tried: list[int] = []
    while waiting := await _waiting(session, but=tried):
        for order_id in waiting:
            taken = await _take(session, order_id, holder=holder, lease_seconds=lease_seconds)
            if taken is not None:
                return taken
        tried += waiting
    return None


async def _waiting(session: WriteSession, *, but: Collection[int]) -> Sequence[int]:
    """Select a few of the jobs that may be taken, the one whose turn it is first, without a lock."""
    free = select(PricingJob.order_id).where(_IS_FREE).order_by(*TURNS).limit(_CHOICE)
    return (await session.scalars(free.where(PricingJob.order_id.not_in(but)) if but else free)).all()


async def _take(session: WriteSession, order_id: int, *, holder: str, lease_seconds: float) -> Lease | None:
    """Take a job, unless another worker has taken it since, or is about to: workers never queue for a row.

    Both rows are named by the key, for Citus locks rows of one shard only.
    """
    locked = select(PricingJob.order_id).where(PricingJob.order_id == order_id, _IS_FREE)
    taken = await session.execute(
        update(PricingJob)
        .where(
            PricingJob.order_id == order_id,
            PricingJob.order_id == locked.with_for_update(skip_locked=True).scalar_subquery(),
        )
        .values(
            leased_by=holder,
            lease_expires_at=func.now() + timedelta(seconds=lease_seconds),
            attempts=PricingJob.attempts + 1,
            expired_leases=PricingJob.expired_leases + case((IS_LEASED, 1), else_=0),
        )
        .returning(PricingJob.attempts, PricingJob.expired_leases, PricingJob.traceparent, _IS_FRESH)
    )
    row = taken.first()
    if row is None:
        return None
    attempt, expired, traceparent, is_fresh = row
    return Lease(
        order_id=order_id,
        holder=holder,
        attempt=attempt,
        expired=expired,
        traceparent=traceparent,
        is_fresh=is_fresh,
    )


async def count(session: WriteSession) -> int:
    """Count the jobs of this shard, up to a bound."""
    some = select(PricingJob.order_id).limit(_MOST_COUNTED).subquery()
    return await session.scalar(select(func.count()).select_from(some)) or 0


async def renew(session: WriteSession, held: Lease, *, lease_seconds: float) -> bool:
    """Keep a job for as long again, while its holder is at work.

    Returns:
        False if another worker has the job, because the lease had expired.
    """
    renewed = await session.execute(
        update(PricingJob)
        .where(_is(held))
        .values(lease_expires_at=func.now() + timedelta(seconds=lease_seconds))
        .returning(PricingJob.order_id)
    )
    return renewed.first() is not None


async def is_held(session: WriteSession, held: Lease) -> bool:
    """Whether a lease still stands: its order was not cancelled, and no other worker has taken the job."""
    return await session.scalar(select(PricingJob.order_id).where(_is(held))) is not None


async def finish(session: WriteSession, held: Lease) -> bool:
    """Delete the job, in the transaction that settles its order.

    Returns:
        False if the lease has expired and another worker has taken the job: the order is not to be touched.
    """
    deleted = await session.execute(delete(PricingJob).where(_is(held)).returning(PricingJob.order_id))
    return deleted.first() is not None


async def give_back(session: WriteSession, held: Lease, *, rest_seconds: float, counted: bool) -> None:
    """End the lease, so that the job is taken again later. If another worker has it already, nothing changes.

    A job that is to rest goes behind those that wait for their first attempt: jobs that fail again and again
    would otherwise always be the next ones.

    Parameters:
        held: the lease.
        rest_seconds: when it may be taken again.
        counted: whether the attempt counts; it does not when the order had no part in its end.
    """
    released = update(PricingJob).where(_is(held))
    if rest_seconds > 0:
        reached = await session.scalar(select(func.max(PricingJob.position)).where(IS_LEASED))
        released = released.values(position=(reached or 0) + STEP)
    await session.execute(
        released.values(
            leased_by=None,
            lease_expires_at=func.now() + timedelta(seconds=rest_seconds),
            attempts=held.attempt if counted else held.attempt - 1,
        )
    )


def _is(held: Lease) -> ColumnElement[bool]:
    return and_(
        PricingJob.order_id == held.order_id,
        PricingJob.leased_by == held.holder,
        PricingJob.attempts == held.attempt,
    )
