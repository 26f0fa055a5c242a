"""Callers of one process that want the same measurement: `python -m tests.integration.measuring_callers`.

    TOPOLOGY DIGEST CALLERS [hold]

It writes `measuring` when it begins to measure, with `hold` never ends that, and writes `answers N` when all
of its callers have their answer.
"""

import asyncio
import sys
from functools import partial
from pathlib import Path

from app.pricing.cache import MeasurementCache
from app.pricing.measurement import Measurement, Outcome
from sharding.sessions import open_sessions
from sharding.topology import Topology

MEASURED = Measurement(volume_mm3=502.0, area_mm2=753.0, extents_mm=(22.0, 22.0, 4.0), polygons=960)
TAKES_SECONDS = 0.5


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _measure(*, hold: bool) -> Outcome:
    _say("measuring")
    await asyncio.sleep(3600 if hold else TAKES_SECONDS)
    return MEASURED


async def main(path: Path, digest: str, callers: int, *, hold: bool) -> None:
    """Ask for one measurement by many callers at once."""
    async with open_sessions(Topology.load(path), role="mes", application_name="callers") as sessions:
        cache = MeasurementCache(sessions)
        _say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        measure = partial(_measure, hold=hold)
        found = await asyncio.gather(*(cache.get_or_measure(digest, measure) for _ in range(callers)))
        assert set(found) == {MEASURED}
        _say(f"answers {len(found)}")


if __name__ == "__main__":
    _, topology, name, count, *rest = sys.argv
    asyncio.run(main(Path(topology), name, int(count), hold="hold" in rest))
