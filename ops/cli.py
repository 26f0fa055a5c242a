"""`mesctl`: the parser, and the one place where an error becomes a line on stderr and an exit status."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from ops.errors import ExitStatus, OpsError, command_for
from ops.options import Options
from ops.project.file import ProjectInvalid, ProjectMissing, ProjectSection, find_section, read_section
from ops.tracing import run_traced
from ops.verbs import PROJECT, LazyGroup

app = typer.Typer(
    name="mesctl",
    cls=LazyGroup,  # the verbs are listed in ops.verbs
    help="Run and change the databases of a project. The options may stand before or after the verb.",
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 3 nothing was changed because a check refused it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

GLOBAL_FLAGS = ("--json",)
GLOBAL_VALUES = ("--home", "--topology", "--project")

EXPECTED = (
    "partitions.errors:PartitionError",
    "sharding.errors:ShardingError",
    "readreplica.errors:ReadReplicaError",
    "alembic.util:CommandError",
    "sqlalchemy.exc:DBAPIError",
    "psycopg:Error",
    "builtins:OSError",
)
"""Errors of the world, beside our own. Any other is a bug."""

STATUSES = {
    "sharding.errors:TopologyError": ExitStatus.USAGE,
    "sharding.errors:TreeUnclear": ExitStatus.USAGE,
    "sharding.errors:UnknownTree": ExitStatus.USAGE,
    "sharding.errors:DirectoryMissing": ExitStatus.USAGE,
    "sharding.errors:CitusRefused": ExitStatus.REFUSED,
}
"""Of those, the ones with another status than FAILED."""

INTERRUPTED = 130
"""What shells give for a process that SIGINT ended."""


@app.callback()
def choose(
    context: typer.Context,
    project: Annotated[
        Path | None,
        typer.Option(
            envvar="MES_STORAGE_PROJECT",
            help="The project file, mes-storage.toml or pyproject.toml; else the nearest from here upwards.",
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            envvar="MES_STORAGE_HOME",
            help="The folder of the embedded platform; else .platform beside the project file.",
        ),
    ] = None,
    topology: Annotated[
        Path | None,
        typer.Option(
            envvar="MES_STORAGE_TOPOLOGY",
            help="The file that describes the platform; else the project's, or HOME/topology.toml.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result for programs.")] = False,
) -> None:
    """Remember what holds for every verb."""
    context.obj = Options(
        json=as_json,
        named_home=home,
        named_topology=topology,
        named_project=project,
        section=PROJECT.get(),
    )


def main() -> None:
    """Run `mesctl` with the arguments of this process, and exit."""
    handler = logging.StreamHandler()
    handler.setFormatter(WithFields("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    sys.exit(run(sys.argv[1:]))


class WithFields(logging.Formatter):
    """Puts the fields of a record, from `extra`, behind its message."""

    _own = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name that logging calls)
        """Return the line of a record."""
        fields = (f" {name}={fact!r}" for name, fact in vars(record).items() if name not in self._own)
        return super().formatMessage(record) + "".join(fields)


def run(arguments: Sequence[str]) -> int:
    """Run `mesctl` and return its exit status; an error is one line on stderr.

    Parameters:
        arguments: what stands behind `mesctl`.

    Raises:
        Exception: one that is a bug; its traceback is shown.
    """
    return run_traced(partial(_run, arguments))


def _run(arguments: Sequence[str]) -> int:
    try:
        words = globals_first(arguments)
        PROJECT.set(project_of(words))
        status = app(args=words, prog_name="mesctl", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        exit_status = exit_status_of(error)
        if exit_status is None:
            raise
        message = with_command(message_of(error), error)
        if message:  # none where the help was shown instead
            print(f"mesctl: {message}", file=sys.stderr)
        return exit_status
    if status == INTERRUPTED:  # typer makes this of a KeyboardInterrupt in a verb
        print(f"mesctl: {message_of(KeyboardInterrupt())}", file=sys.stderr)
    return status if isinstance(status, int) else ExitStatus.DONE


def project_of(words: Sequence[str]) -> ProjectSection | None:
    """Read the project file of this run; None where there is none, or none that can be read.

    Parameters:
        words: the arguments, with the options of every verb before the verb.
    """
    named = os.environ.get("MES_STORAGE_PROJECT")
    for option, value in zip(words, [*words[1:], ""], strict=False):
        if option == "--project":
            named = value
        elif option.startswith("--project="):
            named = option.partition("=")[2]
    try:
        return read_section(Path(named)) if named else find_section(Path())
    except (ProjectMissing, ProjectInvalid):
        return None  # help and `init` do without; a command that needs it says what is wrong


def exit_status_of(error: BaseException) -> int | None:
    """Return the exit status of an error, None for one that is a bug."""
    match error:
        case TyperException():
            return error.exit_code
        case OpsError():
            return error.exit_status
        case typer.Abort():
            return ExitStatus.REFUSED
        case KeyboardInterrupt():
            return INTERRUPTED
    for place, status in STATUSES.items():
        if is_a(error, place):
            return status
    return ExitStatus.FAILED if is_a(error, *EXPECTED) else None


def is_a(error: BaseException, *places: str) -> bool:
    """Return whether an error is of one of these classes, MODULE:NAME each.

    None is imported for it: an error of a module that was not imported cannot have been raised.
    """
    named = (place.split(":") for place in places)
    found = [getattr(sys.modules[module], name) for module, name in named if module in sys.modules]
    return isinstance(error, tuple(found))


def message_of(error: BaseException) -> str:
    """Return the message of an error for the terminal."""
    match error:
        case TyperException():
            return error.format_message()
        case OSError(filename=str() as name, strerror=str() as why):
            return f"{name}: {why}"
        case typer.Abort():
            return "not confirmed: nothing was changed"
        case KeyboardInterrupt():
            return "interrupted; the same command again continues"
    if is_a(error, "sqlalchemy.exc:DBAPIError", "psycopg:Error"):
        from readreplica.errors import one_line  # with SQLAlchemy, which help does without

        return one_line(error)
    return str(error)


def with_command(message: str, error: BaseException) -> str:
    """Add the command that helps, if there is one."""
    command = command_for(error)
    return f"{message} ({command})" if command else message


def globals_first(arguments: Sequence[str]) -> list[str]:
    """Move the options that every verb has before the verb: `mesctl status --json` works as well."""
    before: list[str] = []
    after: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            return [*before, *after, word, *words]
        if word in GLOBAL_FLAGS or word.startswith(tuple(f"{option}=" for option in GLOBAL_VALUES)):
            before.append(word)
        elif word in GLOBAL_VALUES:
            before += [word, _value_of(word, words)]
        else:
            after.append(word)
    return before + after


def _value_of(option: str, words: Iterator[str]) -> str:
    for value in words:
        return value
    raise typer.BadParameter(f"{option} requires an argument")
