"""The watcher: counts the orders all day, lets things happen on the way, and says when the day is over."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.console.audit.books import Books
from app.console.audit.facts import Service
from app.console.demo.census import Census, take_census
from app.console.demo.ledger import Ledger
from app.console.demo.plan import Errand
from app.console.demo.progress import Display
from app.models.status import Channel

CRASH_SHARE = 0.4
"""The MES is killed when this share of the orders has ended: the others are then at every stage."""
ARCHIVE_SHARE = 0.6
"""The archive job runs when this share has ended, beside the traffic of the others."""
OUTAGE_SECONDS = 1.0
CENSUS_EVERY_SECONDS = 0.5


class Backstage(Protocol):
    """What is done to the platform behind the clients' backs. Every call blocks."""

    def crash_mes(self) -> int | None:
        """Kill the MES process with SIGKILL and return its pid."""

    def start_mes(self) -> None:
        """Start the MES process again, and wait until it is healthy."""

    def archive(self) -> int:
        """Archive the orders that have ended so far, and return how many."""


@dataclass(kw_only=True)
class Watcher:
    """Watches one day.

    Parameters:
        books: the services' databases, where the orders are counted.
        errands: what was to be ordered.
        ledger: what was accepted.
        stall_seconds: the day is given up when nothing at all has changed for so long.
        notes: after the day, sentences about what happened.
    """

    books: Books
    errands: Sequence[Errand]
    ledger: Ledger
    backstage: Backstage
    display: Display
    stall_seconds: float
    notes: list[str] = field(default_factory=list)

    async def watch(self) -> bool:
        """Show the progress and let things happen on the way, until all is settled or nothing moves.

        Returns:
            Whether all is settled.
        """
        coming = [(CRASH_SHARE, self._crash), (ARCHIVE_SHARE, self._archive)]
        async with asyncio.TaskGroup() as happening:
            async for census in self._censuses():
                self.display.show(census)
                while coming and census.ended(Service.MES) >= coming[0][0] * len(self.errands):
                    happening.create_task(coming.pop(0)[1](census))
                if self._is_settled(census):
                    return True
        self.notes.append(f"nothing moved for {self.stall_seconds:.0f} s, and not everything was settled")
        return False

    async def _censuses(self) -> AsyncIterator[Census]:
        """Count again and again, for as long as something changes."""
        last: Census | None = None
        changed_at = time.monotonic()
        while time.monotonic() < changed_at + self.stall_seconds:
            census = await asyncio.to_thread(take_census, self.books)
            if census != last:
                last, changed_at = census, time.monotonic()
            yield census
            await asyncio.sleep(CENSUS_EVERY_SECONDS)

    def _is_settled(self, census: Census) -> bool:
        """Whether every order was accepted, has ended wherever it must stand, and no message is owed."""
        b2c = sum(errand.channel is Channel.B2C for errand in self.errands)
        wanted = {Service.SHOP: b2c, Service.CRM: len(self.errands), Service.MES: len(self.errands)}
        ended = all(census.ended(service) >= count for service, count in wanted.items())
        return ended and census.owed == 0 and len(self.ledger.accepted) == len(self.errands)

    async def _crash(self, census: Census) -> None:
        ended = census.ended(Service.MES)
        started = time.monotonic()
        pid = await asyncio.to_thread(self.backstage.crash_mes)
        self.display.say(f"MES (pid {pid}) killed with SIGKILL, {ended} of {len(self.errands)} orders ended")
        await asyncio.sleep(OUTAGE_SECONDS)
        await asyncio.to_thread(self.backstage.start_mes)
        away = time.monotonic() - started
        self.display.say(f"MES is back after {away:.1f} s")
        self.notes.append(f"MES was killed when {ended} orders had ended, and was away for {away:.1f} s")

    async def _archive(self, census: Census) -> None:
        under_way = len(self.errands) - census.ended(Service.MES)
        moved = await asyncio.to_thread(self.backstage.archive)
        self.display.say(f"archive job: {moved} orders moved to their months")
        self.notes.append(f"the archive job moved {moved} orders beside the traffic of {under_way} others")
