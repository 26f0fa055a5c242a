"""The verbs of `mesctl`, each imported when it is run: a verb pays for what it needs, and help for none."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group


@dataclass(frozen=True)
class Verb:
    """Where a verb is, and its line in the help of `mesctl`.

    `place` is MODULE:NAME below ops.commands; what stands there is a function or, for a group of verbs, a
    `typer.Typer`. `summary` is the first sentence of its own help (a test compares them).
    """

    place: str
    summary: str

    def load(self, name: str) -> TyperCommand | TyperGroup:
        """Import the verb and make the parser of its arguments."""
        module, _, attribute = self.place.partition(":")
        found = getattr(import_module(f"ops.commands.{module}"), attribute)
        if isinstance(found, typer.Typer):
            group = get_group(found)
            group.name = name
            return group
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(name)(found)
        command = get_command(alone)
        assert isinstance(command, TyperCommand)
        return command


VERBS: Mapping[str, Verb] = {
    "up": Verb(
        "up:up",
        "Start PostgreSQL (five clusters, two replicas), Valkey and the services on this machine.",
    ),
    "down": Verb(
        "down:down",
        "Stop services, pooler, replicas, primaries and Valkey, in this order. The data stay.",
    ),
    "status": Verb(
        "status:status",
        "Show the topology (passwords masked) and the state of every component that mesctl runs.",
    ),
    "migrate": Verb("migrate:app", "Show and change the schema of every database."),
    "partitions": Verb("partitions:app", "Show, plan and change the partitions of every MES shard."),
    "archive": Verb("archive:app", "Move finished orders out of the live tables of every MES shard."),
    "shards": Verb("shards:app", "Show, check and plan the shard map."),
    "replicas": Verb("replicas:app", "Show the replicas, and switch over to one."),
    "pgbouncer": Verb("pgbouncer:app", "Write, check and steer the pooler in front of the databases."),
    "orders": Verb("orders:app", "Find orders, and prove that none is lost."),
    "demo": Verb(
        "demo:demo",
        "Take orders from the customer's click to the archive, kill the MES on the way, and look for "
        "every one.",
    ),
}
"""In the order of the help. A verb that a module adds to the `typer.Typer` itself comes behind them."""


class LazyVerbs(TyperGroup):
    """A group that knows the names and summaries of its verbs, and imports the one that is run."""

    def __init__(self, *, commands: Any = None, **attributes: Any) -> None:
        named = {name: TyperCommand(name, help=verb.summary) for name, verb in VERBS.items()}
        super().__init__(commands={**named, **(commands or {})}, **attributes)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb that `args` begin with; a wrong name is told with those that are near it."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and name in VERBS:
            command = VERBS[name].load(name)
        return name, command, rest
