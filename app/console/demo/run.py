"""The demo from nothing to the verdict: a platform of its own, a day with all clients, the last page."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from app.console.audit.books import Books
from app.console.audit.facts import OrderFacts, Service
from app.console.audit.run import audit
from app.console.demo.census import read_reached, take_census
from app.console.demo.day import Day
from app.console.demo.figures import price_ranges, stage_times
from app.console.demo.plan import plan_day
from app.console.demo.progress import open_display
from app.console.demo.report import DayReport, describe_stuck, order_prices
from app.console.demo.verdict import account
from app.models.policies import ARCHIVE
from ops.embedded.platform import Platform
from ops.fleet import members
from ops.partitions.archiving import archive_database
from ops.project.project import Project
from ops.shards.service import load_shard_map
from sharding.topology import Topology


@dataclass(frozen=True, kw_only=True)
class DemoWish:
    """What the demo is asked for.

    Parameters:
        home: the folder of its own platform; what is there from an earlier demo is stopped and deleted.
        orders: how many orders are placed.
        seed: decides who orders what; the same seed, the same day.
        keep: leave the platform running at the end.
        safe: wait for the disk at every commit.
        stall_seconds: the day is given up when nothing at all has changed for so long.
    """

    home: Path
    orders: int = 200
    seed: int = 1
    keep: bool = False
    safe: bool = True
    stall_seconds: float = 90.0


class Backstage:
    """What happens to the platform behind the clients' backs."""

    def __init__(self, platform: Platform, topology: Topology) -> None:
        self._platform = platform
        self._topology = topology

    def crash_mes(self) -> int | None:
        """Kill the MES process with SIGKILL and return its pid."""
        return self._platform.kill_service("mes")

    def start_mes(self) -> None:
        """Start the MES process again, and wait until it is healthy."""
        self._platform.start_service("mes")

    def archive(self) -> int:
        """Archive what has ended so far, as `mesctl archive run --grace 0s` does; return how many orders."""
        ended, now = replace(ARCHIVE, grace=timedelta(0)), datetime.now(UTC)
        shards = members(self._topology, self._platform.project, tree=Service.MES)
        return sum(archive_database(self._topology, shard, ended, now)[ended.live] for shard in shards)


def run_demo(wish: DemoWish, project: Project, *, console: Console) -> DayReport:
    """Run the demo.

    Parameters:
        project: has the template of the platform.
        console: where the progress is shown; the report is the caller's to print.

    Returns:
        The last page; `report.good` says whether every order is accounted for.

    Raises:
        EmbeddedError: the platform did not come up.
        DemoError: a client was refused what it must get, or a service was away for too long.
    """
    errands = plan_day(orders=wish.orders, seed=wish.seed)
    with _platform(wish, project, console) as platform, open_display(console, orders=wish.orders) as display:
        topology = platform.topology()
        day = Day(
            topology=topology,
            errands=errands,
            backstage=Backstage(platform, topology),
            display=display,
            stall_seconds=wish.stall_seconds,
        )
        try:
            asyncio.run(day.live())
        except ExceptionGroup as failed:
            # One client's fault ends the day for all of them.
            raise _first_of(failed) from failed
        return make_report(topology, day)


def _first_of(failed: ExceptionGroup[Exception]) -> Exception:
    first = failed.exceptions[0]
    return _first_of(first) if isinstance(first, ExceptionGroup) else first


@contextmanager
def _platform(wish: DemoWish, project: Project, console: Console) -> Iterator[Platform]:
    """Have a fresh platform, and stop it whatever happens."""
    platform = Platform(wish.home, project, safe=wish.safe)
    if platform.home.exists():
        platform.delete()
    try:
        console.print(f"starting the platform in {wish.home}", highlight=False, soft_wrap=True)
        platform.up()
        yield platform
    finally:
        if platform.home.exists() and not wish.keep:
            console.print("stopping the platform", highlight=False)
            platform.down()


def make_report(topology: Topology, day: Day) -> DayReport:
    """Compare the three services' databases with the clients' own list, and put the last page together."""
    books = Books(topology)
    orders: list[OrderFacts] = []
    shard_map = asyncio.run(load_shard_map(topology, Service.MES))
    # The verdict is made of the findings: it wants them all.
    found = audit(books, shard_of=shard_map.shard_of, keep_findings=sys.maxsize, seen=orders.append)
    verdict = account([int(order_id) for order_id in day.ledger.accepted], orders, found.findings)
    return DayReport(
        census=take_census(books),
        prices=price_ranges(order_prices(day.ledger, orders)),
        stages=stage_times(read_reached(books)),
        notes=day.notes,
        audit=found,
        stuck=describe_stuck(orders, verdict.unfinished),
        verdict=verdict,
    )
