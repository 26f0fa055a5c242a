"""The verbs of `mesctl`, each imported when it is run: a verb pays for what it needs, and help for none."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from ops.project.file import ProjectSection, commands_of
from ops.tracing import VERB


@dataclass(frozen=True)
class LazyCommand:
    """Where a verb is, and its line in the help of `mesctl`.

    `reference` is MODULE:NAME; what stands there is a function or, for a group of verbs, a `typer.Typer`.
    `summary` is the first sentence of its own help (a test compares them).
    """

    reference: str
    summary: str
    section: ProjectSection | None = None
    """For a command of the project: the file that adds it."""

    def load(self, name: str) -> TyperCommand | TyperGroup:
        """Import the verb and make the parser of its arguments."""
        found = self._import(name)
        if isinstance(found, typer.Typer):
            group = get_group(found)
            group.name = name
            return group
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(name)(found)
        command = get_command(alone)
        assert isinstance(command, TyperCommand)
        return command

    def _import(self, name: str) -> Any:
        if self.section is not None:
            from ops.project.project import Project

            return Project.of(self.section).resolve(f"commands.{name}.run", self.reference)
        module, _, attribute = self.reference.partition(":")
        return getattr(import_module(module), attribute)


VERBS: Mapping[str, LazyCommand] = {
    "up": LazyCommand(
        "ops.embedded.commands:up",
        "Start what the topology has on this machine: PostgreSQL, PgBouncer,"
        " Valkey, and the project's services.",
    ),
    "down": LazyCommand(
        "ops.embedded.commands:down",
        "Stop services, pooler, replicas, primaries and Valkey, in this order. The data stay.",
    ),
    "status": LazyCommand(
        "ops.embedded.commands:status",
        "Show the topology (passwords masked) and the state of every component that mesctl runs.",
    ),
    "problems": LazyCommand(
        "ops.problems.commands:problems",
        "Show what is wrong at this moment, worst first, each with since when and the command that helps.",
    ),
    "bundle": LazyCommand(
        "ops.problems.bundle:bundle",
        "Write everything that an incident needs into one archive, without secrets.",
    ),
    "migrate": LazyCommand("ops.migrate.commands:app", "Show and change the schema of every database."),
    "partitions": LazyCommand(
        "ops.partitions.commands:app", "Show, plan and change the partitions of every database."
    ),
    "archive": LazyCommand(
        "ops.partitions.archive_commands:app", "Move finished rows out of the live tables of every database."
    ),
    "shards": LazyCommand("ops.shards.commands:app", "Show, check and plan the shard map."),
    "replicas": LazyCommand("ops.replicas.commands:app", "Show the replicas, and switch over to one."),
    "pgbouncer": LazyCommand(
        "ops.pgbouncer.commands:app", "Write, check and steer the pooler in front of the databases."
    ),
    "monitoring": LazyCommand("ops.monitoring.commands:app", "Watch the platform."),
    "pages": LazyCommand("ops.pages.commands:app", "Serve the DBA's pages, and make a link that opens them."),
    "gateway": LazyCommand(
        "ops.gateway.commands:app", "Write, check and reload the gateway in front of the services."
    ),
    "forecast": LazyCommand(
        "ops.forecast.commands:forecast",
        "Forecast how the platform grows, and when which disk, shard, id space or connection limit is full.",
    ),
    "init": LazyCommand("ops.project.init:init", "Write the files that a project begins with."),
    "doctor": LazyCommand(
        "ops.project.doctor:doctor", "Check every reference of the project and every database."
    ),
}
"""In the order of the help; those of the project come behind them."""


PROJECT: ContextVar[ProjectSection | None] = ContextVar("PROJECT", default=None)
"""The project file of this run of `mesctl`, read once; the parser is made before any option is read."""


def known_verbs() -> Mapping[str, LazyCommand]:
    """Return the verbs of `mesctl`, and behind them those of the project, none of which hides one."""
    section = PROJECT.get()
    if section is None:
        return VERBS
    own = {name: LazyCommand(*entry, section=section) for name, entry in commands_of(section).items()}
    return {**VERBS, **{name: verb for name, verb in own.items() if name not in VERBS}}


class LazyGroup(TyperGroup):
    """A group that knows the names and summaries of its verbs, and imports the one that is run."""

    def __init__(self, *, commands: Any = None, **attributes: Any) -> None:
        self._verbs = known_verbs()
        named = {name: TyperCommand(name, help=verb.summary) for name, verb in self._verbs.items()}
        super().__init__(commands={**named, **(commands or {})}, **attributes)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb that `args` begin with; an error on a wrong name has those that are near it."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and name in self._verbs:
            VERB.set(f"mesctl {name}")
            command = self._verbs[name].load(name)
        return name, command, rest
