"""`mesctl demo`: orders through everything, on a platform of its own, with a verdict at the end."""

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from app.console.demo.report import print_report
from app.console.demo.run import DemoWish, run_demo
from ops.errors import ExitStatus
from ops.options import options_of
from ops.output import note, print_json

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

    The platform is its own, in build/demo; an earlier demo there is stopped and deleted. The last line
    compares the clients' list of accepted orders with the databases of all services; exit status 1 unless
    every order is accounted for.
    """
    # Whoever ends us by SIGTERM wants everything stopped too, just as at Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell without job control starts what stands before & with SIGINT ignored, and Python leaves it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = options_of(context)
    wish = DemoWish(home=HOME, orders=orders, seed=seed, keep=keep, safe=fsync)
    report = run_demo(wish, options.project(), console=Console(stderr=True))
    if keep:
        note(f"the platform still runs: stop it with `mesctl --home {HOME} down`")
    if options.json:
        print_json(report.as_json())
    else:
        print_report(Console(), report)
    if not report.good:
        raise typer.Exit(ExitStatus.FAILED)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
