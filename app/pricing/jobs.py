"""The leases on `pricing_jobs`: who prices which order, and until when. SQL only; time is the database's.

A lease is taken in a short transaction and worked on outside any: pricing takes seconds to minutes, and a
transaction held that long stops vacuum. A worker that is killed lets its lease expire. `attempts` counts the
leases, and so tells a stale holder from the present one as well.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, delete, func, select, update

from app.models.mes import PricingJob
from readreplica.sessions import WriteSession


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to price an order.

    Parameters:
        order_id: the order.
        holder: the worker that has it.
        attempt: the number of this lease, from 1.
    """

    order_id: int
    holder: str
    attempt: int


async def lease(session: WriteSession, *, holder: str, lease_seconds: float) -> Lease | None:
    """Take the job on this shard that has waited longest, if there is one that nobody holds.

    Parameters:
        session: a transaction of its own, committed at once.
        holder: the worker.
        lease_seconds: when others may take the job again.
    """
    # Jobs that another worker is about to take are skipped, so that workers never queue for one row.
    longest_waiting = (
        select(PricingJob.order_id)
        .where(PricingJob.lease_expires_at <= func.now())
        .order_by(PricingJob.lease_expires_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    taken = await session.execute(
        update(PricingJob)
        .where(PricingJob.order_id == longest_waiting.scalar_subquery())
        .values(
            leased_by=holder,
            lease_expires_at=func.now() + timedelta(seconds=lease_seconds),
            attempts=PricingJob.attempts + 1,
        )
        .returning(PricingJob.order_id, PricingJob.attempts)
    )
    row = taken.one_or_none()
    return row and Lease(order_id=row.order_id, holder=holder, attempt=row.attempts)


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


async def finish(session: WriteSession, held: Lease) -> bool:
    """Delete the job, in the transaction that settles its order.

    Returns:
        False if the lease has expired and another worker has taken the job: the order is not to be touched.
    """
    deleted = await session.execute(delete(PricingJob).where(_is(held)).returning(PricingJob.order_id))
    return deleted.first() is not None


async def give_back(session: WriteSession, held: Lease, *, rest_seconds: float, counted: bool) -> None:
    """Let the job go, to be taken again later. If another worker has it already, nothing changes.

    Parameters:
        held: the lease.
        rest_seconds: when it may be taken again.
        counted: whether the attempt counts; it does not when the order had no part in its end.
    """
    await session.execute(
        update(PricingJob)
        .where(_is(held))
        .values(
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
