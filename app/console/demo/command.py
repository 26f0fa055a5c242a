"""`mesctl demo`: orders through everything, on a platform of its own, with a verdict at the end."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from app.console.audit.databases import OrderDatabases
from app.console.audit.report import audit
from app.console.audit.rules import OrderFacts
from app.console.demo.census import read_reached, take_census
from app.console.demo.day import Day, give_keys
from app.console.demo.figures import price_ranges, reconcile, stage_times
from app.console.demo.plan import plan_day
from app.console.demo.progress import open_display
from app.console.demo.report import DayReport, describe_stuck, order_prices, print_report
from app.messaging.routing import ServiceName
from app.models.policies import ARCHIVE
from ops.embedded.platform import Platform
from ops.errors import ExitStatus
from ops.fleet import members
from ops.options import options_of
from ops.output import note, print_json
from ops.partitions.archiving import archive_database
from ops.project.project import Project
from ops.shards.service import load_shard_map
from sharding.topology import Topology


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
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


class EmbeddedControl:
    """Controls the embedded platform."""

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
        shards = members(self._topology, self._platform.project, tree=ServiceName.MES)
        return sum(archive_database(self._topology, shard, ended, now)[ended.live] for shard in shards)


def run_demo(chosen: DemoOptions, project: Project, *, console: Console) -> DayReport:
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
    planned_orders = plan_day(orders=chosen.orders, seed=chosen.seed)
    with (
        _platform(chosen, project, console) as platform,
        open_display(console, orders=chosen.orders) as display,
    ):
        topology = platform.topology()
        day = Day(
            topology=topology,
            planned_orders=planned_orders,
            control=EmbeddedControl(platform, topology),
            display=display,
            stall_seconds=chosen.stall_seconds,
            keys=give_keys(topology),
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
def _platform(chosen: DemoOptions, project: Project, console: Console) -> Iterator[Platform]:
    """Start a fresh platform, and stop it at the end, also after an error."""
    platform = Platform(chosen.home, project, safe=chosen.safe)
    if platform.home.exists():
        platform.delete()
    try:
        console.print(f"starting the platform in {chosen.home}", highlight=False, soft_wrap=True)
        platform.up()
        yield platform
    finally:
        if platform.home.exists() and not chosen.keep:
            console.print("stopping the platform", highlight=False)
            platform.down()


def make_report(topology: Topology, day: Day) -> DayReport:
    """Compare the three services' databases with the clients' own list, and put the last page together."""
    databases = OrderDatabases(topology)
    orders: list[OrderFacts] = []
    shard_map = asyncio.run(load_shard_map(topology, ServiceName.MES))
    # The verdict is made of the findings: it wants them all.
    found = audit(databases, shard_of=shard_map.shard_of, keep_findings=sys.maxsize, seen=orders.append)
    verdict = reconcile([int(order_id) for order_id in day.accepted.by_id], orders, found.findings)
    return DayReport(
        census=take_census(databases),
        prices=price_ranges(order_prices(day.accepted, orders)),
        stages=stage_times(read_reached(databases)),
        notes=day.notes,
        audit=found,
        stuck=describe_stuck(orders, verdict.unfinished),
        verdict=verdict,
    )


HOME = Path("build/demo")
"""Never the user's own platform, for a demo begins by deleting the one before."""


def demo(
    context: typer.Context,
    orders: Annotated[int, typer.Option(min=1, help="How many orders are placed.")] = 200,
    seed: Annotated[int, typer.Option(help="Who orders what; the same seed, the same day.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform running.")] = False,
    fsync: Annotated[bool, typer.Option(help="Wait for the disk at every commit.")] = True,
) -> None:
    """Take orders from the customer's click to the archive, kill the MES on the way, and look for every one.

    The platform is its own, in build/demo; an earlier demo there is stopped and deleted. At the end
    the clients' list of accepted orders is compared with the databases of all services; exit status 1 unless
    every order is accounted for. With --keep the last line is the board's URL.
    """
    # SIGTERM stops everything too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell without job control starts what stands before & with SIGINT ignored, and Python leaves it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = options_of(context)
    chosen = DemoOptions(home=HOME, orders=orders, seed=seed, keep=keep, safe=fsync)
    report = run_demo(chosen, options.project(), console=Console(stderr=True))
    if keep:
        note(f"the platform still runs: stop it with `mesctl --home {HOME} down`")
    if options.json:
        print_json(report.as_json())
    else:
        print_report(Console(), report)
        if keep:
            platform = Platform(HOME, options.project())
            print(platform.page(platform.topology()) or "")
    if not report.good:
        raise typer.Exit(ExitStatus.FAILED)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
