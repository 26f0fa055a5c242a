"""What was measured once is not measured again: by the content of the file, and by the points of the piece.

The cache saves work and nothing depends on it: while the shard of a digest is away, its model is measured.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

import structlog
from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from app.models.mes import MeasurementClaim, ModelMeasurement, ModelShape
from app.pricing.measurement import (
    READER,
    Examined,
    KnownShape,
    Measurement,
    Outcome,
    ShapeFacts,
    Unmeasurable,
    scale_between,
)
from readreplica.errors import Unavailable, is_unsupported, one_line
from readreplica.sessions import AnySession, WriteSession
from readreplica.token import CausalToken
from sharding.sessions import ShardedSessions
from sharding.shard_map import key_of_text

Answer = TypeVar("Answer")

log: structlog.stdlib.BoundLogger = structlog.get_logger("pricing")

# OSError covers TimeoutError and connections that are refused outside of SQLAlchemy.
DATABASE_AWAY = (SQLAlchemyError, Unavailable, OSError)
"""What a unit of work raises when its database is away or too busy."""

CLAIM_SECONDS = 5.0
"""After how long a dead worker's claim is another's. One at work renews its own three times as often."""
POLL_SECONDS = 0.1
"""How often one that waits for another worker's measurement looks for it."""
CANDIDATES = 3
"""So many known pieces are compared with a file: of those with its counts and proportions, the newest."""
SHAPES_KEPT = timedelta(days=180)
_SWEPT_AT_ONCE = 10


class MeasurementCache:
    """The measurements of all shards; each lies on the shard of its digest's key.

    The name of a measurement is the digest together with the suffix: the same bytes are a ring as STL and
    damaged as OBJ, and a customer who renames the file must not meet the old verdict.
    """

    def __init__(
        self,
        sessions: ShardedSessions,
        *,
        clock: Callable[[], float] = time.monotonic,
        claim_seconds: float = CLAIM_SECONDS,
    ) -> None:
        """Make a cache over the MES shards.

        Parameters:
            sessions: the shards.
            clock: counts the seconds of a measurement.
            claim_seconds: after how long a model that a dead worker was measuring is another's to measure.
        """
        self._sessions = sessions
        self._clock = clock
        self._claim_seconds = claim_seconds
        self._written = CausalToken()
        self._busy: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def get_or_measure(self, digest: str, measure: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Look a model up, or measure it and remember the outcome if it is final.

        Of all workers that come with the same model at once, in whatever process, one measures. The others
        wait, and take over what one that died was measuring. While the shard is away each measures.

        Parameters:
            digest: the digest of the content, with the suffix.
            measure: measures the model.
        """
        lock = self._busy.setdefault(digest, asyncio.Lock())
        async with lock:
            while True:
                known = await self._get(digest)
                if known is not None:
                    return known
                holder = uuid4()
                claimed = await self._claim(digest, holder)
                if isinstance(claimed, Measurement | Unmeasurable):
                    return claimed
                if claimed:
                    return await self._measure(digest, holder, measure)
                await asyncio.sleep(POLL_SECONDS)

    async def _get(self, digest: str) -> Outcome | None:
        key = key_of_text(digest)
        try:
            async with self._sessions.read(key, after=self._written) as session:
                return await _find(session, key, digest)
        except DATABASE_AWAY as error:
            _raise_unsupported(error)
            log.warning("cache_not_read", digest=digest, error=one_line(error))
            return None

    async def _claim(self, digest: str, holder: UUID) -> Outcome | bool:
        """Claim a model; return its outcome if it is there by now, else whether it is to be measured here."""
        key = key_of_text(digest)

        async def work(session: WriteSession) -> Outcome | bool:
            claimed = await _take_claim(session, key, digest, holder=holder, seconds=self._claim_seconds)
            if not claimed:
                return False
            # One that has ended since it was looked for, or is not on the replica yet.
            known = await _find(session, key, digest)
            if known is None:
                return True
            await session.execute(delete(MeasurementClaim).where(*_is_claim(key, digest, holder)))
            return known

        claimed = await self._write(digest, work)
        return True if claimed is None else claimed

    async def _measure(self, digest: str, holder: UUID, measure: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Measure a claimed model; its claim ends as the outcome is written."""
        started = self._clock()
        outcome: Outcome | None = None
        renewing = asyncio.create_task(self._renew(digest, holder))
        try:
            outcome = await measure()
            return outcome
        finally:
            renewing.cancel()
            await self._end(digest, holder, outcome, seconds=self._clock() - started)

    async def _renew(self, digest: str, holder: UUID) -> None:
        renew = partial(renew_claim, digest=digest, holder=holder, seconds=self._claim_seconds)
        while True:
            await asyncio.sleep(self._claim_seconds / 3)
            await self._write(digest, renew)

    async def _end(self, digest: str, holder: UUID, outcome: Outcome | None, *, seconds: float) -> None:
        key = key_of_text(digest)
        is_final = isinstance(outcome, Measurement) or (outcome is not None and outcome.final)

        async def work(session: WriteSession) -> None:
            if outcome is not None and is_final:
                await _put(session, {"digest_key": key, "digest": digest, "seconds": seconds}, outcome)
            await session.execute(delete(MeasurementClaim).where(*_is_claim(key, digest, holder)))

        await self._write(digest, work)

    async def _write(self, digest: str, work: Callable[[WriteSession], Awaitable[Answer]]) -> Answer | None:
        """Run a transaction on the shard of a digest; None while that is away."""
        try:
            written = await self._sessions.transact(key_of_text(digest), work)
        except DATABASE_AWAY as error:
            _raise_unsupported(error)
            log.warning("cache_not_written", digest=digest, error=one_line(error))
            return None
        self._written = self._written.merge(written.token)
        return written.value


@dataclass
class ShapeIndex:
    """The pieces that were measured, by their counts of polygons and points; made anew for each measurement.

    Parameters:
        sessions: the MES shards; a shape lies on the shard of its name's key.
        recognised: whether the piece was a known one.
    """

    sessions: ShardedSessions
    recognised: bool = False

    async def find(self, facts: ShapeFacts) -> list[KnownShape]:
        """Return the known pieces that a piece of these facts may be, in whatever size."""
        key = key_of_text(facts.name)
        try:
            async with self.sessions.read(key) as session:
                return await _find_shapes(session, key, facts)
        except DATABASE_AWAY as error:
            _raise_unsupported(error)
            log.warning("cache_not_read", digest=facts.name, error=one_line(error))
            return []

    async def keep(self, found: Examined) -> None:
        """Keep the shape of a piece that was measured, and sweep a few that are old."""
        self.recognised = found.recognised
        shape = found.shape
        if shape is None:
            return
        key = key_of_text(shape.name)

        async def work(session: WriteSession) -> None:
            await sweep_shapes(session)
            await session.execute(insert(ModelShape).values(_shape_row(key, shape)).on_conflict_do_nothing())

        try:
            await self.sessions.transact(key, work)
        except DATABASE_AWAY as error:
            _raise_unsupported(error)
            log.warning("cache_not_written", digest=shape.name, error=one_line(error))


def _raise_unsupported(error: Exception) -> None:
    """Raise what the server does not support: that is no outage, and no log line alone."""
    if is_unsupported(error):
        raise error


def _is_claim(key: int, digest: str, holder: UUID) -> tuple[ColumnElement[bool], ...]:
    claim = MeasurementClaim
    return claim.digest_key == key, claim.digest == digest, claim.holder == holder


async def _take_claim(session: WriteSession, key: int, digest: str, *, holder: UUID, seconds: float) -> bool:
    """Claim a model that no worker is measuring, or one whose worker has died."""
    claim = MeasurementClaim
    # Two statements: Citus takes no now() in ON CONFLICT.
    ended = delete(claim).where(claim.digest_key == key, claim.digest == digest)
    await session.execute(
        ended.where(claim.expires_at <= func.now()), execution_options={"synchronize_session": False}
    )
    until = func.now() + timedelta(seconds=seconds)
    row = insert(claim).values(digest_key=key, digest=digest, holder=holder, expires_at=until)
    taken = row.on_conflict_do_nothing().returning(claim.digest_key)
    return (await session.execute(taken)).first() is not None


async def renew_claim(session: WriteSession, *, digest: str, holder: UUID, seconds: float) -> None:
    """Keep a claim for as long again, while its model is measured."""
    until = func.now() + timedelta(seconds=seconds)
    own = _is_claim(key_of_text(digest), digest, holder)
    await session.execute(update(MeasurementClaim).where(*own).values(expires_at=until))


async def _find(session: AnySession, key: int, digest: str) -> Outcome | None:
    row = await session.scalar(
        select(ModelMeasurement).where(
            ModelMeasurement.digest_key == key,
            ModelMeasurement.digest == digest,
            ModelMeasurement.reader == READER,
        )
    )
    return None if row is None else _outcome(row)


async def _put(session: WriteSession, named: dict[str, object], outcome: Outcome) -> None:
    """Write an outcome, unless there is one; that of another version of the readers is replaced."""
    row = insert(ModelMeasurement).values({**named, "reader": READER, **_columns(outcome)})
    columns = ("reader", "seconds", "volume_mm3", "area_mm2", "extents_mm", "polygons", "rejection")
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[ModelMeasurement.digest_key, ModelMeasurement.digest],
            set_={name: row.excluded[name] for name in columns},
            where=ModelMeasurement.reader != row.excluded.reader,
        )
    )


async def _find_shapes(session: AnySession, key: int, facts: ShapeFacts) -> list[KnownShape]:
    of_counts = select(ModelShape.digest, ModelShape.extents_mm).where(
        ModelShape.shape_key == key, ModelShape.name == facts.name
    )
    rows = (await session.execute(of_counts.order_by(ModelShape.measured_at.desc()))).all()
    alike = [row.digest for row in rows if scale_between(row.extents_mm, facts.extents_mm) is not None]
    if not alike:
        return []
    wanted = select(ModelShape).where(ModelShape.shape_key == key, ModelShape.digest.in_(alike[:CANDIDATES]))
    return [_shape(row) for row in (await session.scalars(wanted)).all()]


async def sweep_shapes(session: WriteSession, *, kept: timedelta = SHAPES_KEPT) -> None:
    """Delete a few shapes that are old, by their keys: Citus deletes from one shard at a time."""
    shape = ModelShape
    old = select(shape.shape_key, shape.digest).where(shape.measured_at < func.now() - kept)
    for key, digest in (await session.execute(old.limit(_SWEPT_AT_ONCE))).all():
        await session.execute(delete(shape).where(shape.shape_key == key, shape.digest == digest))


def _shape_row(key: int, shape: KnownShape) -> dict[str, object]:
    return {
        "shape_key": key,
        "digest": shape.digest,
        "name": shape.name,
        "points": shape.points,
        "faces_digest": shape.faces_digest,
        "smallest_body_mm3": shape.smallest_body_mm3,
        **_measures(shape.measured),
    }


def _shape(row: ModelShape) -> KnownShape:
    x, y, z = row.extents_mm
    return KnownShape(
        points=row.points,
        faces_digest=row.faces_digest,
        smallest_body_mm3=row.smallest_body_mm3,
        measured=Measurement(
            volume_mm3=row.volume_mm3, area_mm2=row.area_mm2, extents_mm=(x, y, z), polygons=row.polygons
        ),
    )


def _columns(outcome: Outcome) -> dict[str, object]:
    return {"rejection": outcome.reason} if isinstance(outcome, Unmeasurable) else _measures(outcome)


def _measures(measured: Measurement) -> dict[str, object]:
    return {
        "volume_mm3": measured.volume_mm3,
        "area_mm2": measured.area_mm2,
        "extents_mm": list(measured.extents_mm),
        "polygons": measured.polygons,
    }


def _outcome(row: ModelMeasurement) -> Outcome:
    if row.rejection is not None:
        return Unmeasurable(reason=row.rejection)
    assert row.volume_mm3 is not None
    assert row.area_mm2 is not None
    assert row.extents_mm is not None
    assert row.polygons is not None
    x, y, z = row.extents_mm
    return Measurement(
        volume_mm3=row.volume_mm3, area_mm2=row.area_mm2, extents_mm=(x, y, z), polygons=row.polygons
    )
