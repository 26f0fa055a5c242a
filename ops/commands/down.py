"""`mesctl down`: stop the embedded platform."""

from typing import Annotated

import typer

from ops.embedded.commands import platform_of
from ops.options import options_of
from ops.output import print_json


def down(
    context: typer.Context,
    delete: Annotated[
        bool, typer.Option("--delete", help="Afterwards remove all data of the platform. Asks first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be stopped.")] = False,
) -> None:
    """Stop services, pooler, replicas, primaries and Valkey, in this order. The data stay."""
    platform = platform_of(context)
    steps = platform.plan_down()
    steps += [f"remove the data in {platform.home.path}"] if delete else []
    if not dry_run:
        if delete and not yes:
            typer.confirm(
                f"Remove the platform in {platform.home.path} with all its data?", abort=True, err=True
            )
        (platform.delete if delete else platform.down)()
    if options_of(context).json:
        print_json({"steps": steps})
    elif dry_run or not steps:
        print("\n".join(f"would {step}" for step in steps) or "nothing runs")
