"""What was measured once is not measured again: measurements by the content of the file.

The cache saves work and nothing depends on it: while the shard of a digest is away, its model is measured.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from app.models.mes import ModelMeasurement
from app.pricing.measurement import Measurement, Outcome, Unmeasurable
from app.pricing.outages import DATABASE_AWAY, first_line
from readreplica.errors import is_unsupported
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken
from sharding.sessions import ShardedSessions
from sharding.shard_map import key_of_text

log: structlog.stdlib.BoundLogger = structlog.get_logger("pricing")


class MeasurementCache:
    """The measurements of all shards; each lies on the shard of its digest's key.

    The name of a measurement is the digest together with the suffix: the same bytes are a ring as STL and
    damaged as OBJ, and a customer who renames the file must not meet the old verdict.
    """

    def __init__(self, sessions: ShardedSessions, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Make a cache over the MES shards; `clock` counts the seconds of a measurement."""
        self._sessions = sessions
        self._clock = clock
        self._written = CausalToken()
        self._busy: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def get_or_measure(self, digest: str, measure: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Look a model up, or measure it and remember the outcome if it is final.

        Orders with the same model that come together in this process wait for the first of them. Two
        processes may measure the same model once each; the first one's measurement stays.

        Parameters:
            digest: the digest of the content, with the suffix.
            measure: measures the model.
        """
        lock = self._busy.setdefault(digest, asyncio.Lock())
        async with lock:
            known = await self._get(digest)
            if known is not None:
                return known
            started = self._clock()
            outcome = await measure()
            if isinstance(outcome, Measurement) or outcome.final:
                await self._put(digest, outcome, seconds=self._clock() - started)
            return outcome

    async def _get(self, digest: str) -> Outcome | None:
        key = key_of_text(digest)
        named = select(ModelMeasurement).where(
            ModelMeasurement.digest_key == key, ModelMeasurement.digest == digest
        )
        try:
            async with self._sessions.read(key, after=self._written) as session:
                row = await session.scalar(named)
        except DATABASE_AWAY as error:
            if is_unsupported(error):
                raise
            log.warning("cache_not_read", digest=digest, error=first_line(error))
            return None
        return None if row is None else _outcome(row)

    async def _put(self, digest: str, outcome: Outcome, *, seconds: float) -> None:
        key = key_of_text(digest)
        row = {"digest_key": key, "digest": digest, "seconds": seconds, **_columns(outcome)}

        async def work(session: WriteSession) -> None:
            await session.execute(insert(ModelMeasurement).values(row).on_conflict_do_nothing())

        try:
            written = await self._sessions.transact(key, work)
        except DATABASE_AWAY as error:
            if is_unsupported(error):
                raise
            log.warning("cache_not_written", digest=digest, error=first_line(error))
        else:
            self._written = self._written.merge(written.token)


def _columns(outcome: Outcome) -> dict[str, object]:
    if isinstance(outcome, Unmeasurable):
        return {"rejection": outcome.reason}
    return {
        "volume_mm3": outcome.volume_mm3,
        "area_mm2": outcome.area_mm2,
        "extents_mm": list(outcome.extents_mm),
        "polygons": outcome.polygons,
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
