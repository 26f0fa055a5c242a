"""`mesctl`: the parser, and the one place where an error becomes a line on stderr and an exit status."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from ops.advice import command_for
from ops.errors import ExitStatus, OpsError
from ops.options import Options
from ops.project_file import ProjectInvalid, ProjectMissing, find_file, read_section
from ops.verbs import PROJECT_FILE, LazyVerbs

app = typer.Typer(
    name="mesctl",
    cls=LazyVerbs,  # the verbs are listed in ops.verbs
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
    context.obj = Options(json=as_json, named_home=home, named_topology=topology, named_project=project)


def main() -> None:
    """Run `mesctl` with the arguments of this process, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run `mesctl` and give its exit status; an error is one line on stderr.

    Parameters:
        arguments: what stands behind `mesctl`.

    Raises:
        Exception: only one that nobody foresaw; its traceback is what we want to see.
    """
    try:
        words = globals_first(arguments)
        PROJECT_FILE.set(project_file_of(words))
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


def project_file_of(words: Sequence[str]) -> Path | None:
    """Return the project file of this run, for the verbs that it adds; None where there is none to be read.

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
        path = Path(named) if named else find_file(Path())
        read_section(path)
    except (ProjectMissing, ProjectInvalid):
        return None  # help and `init` do without; a verb that needs it says what is wrong
    return path


def exit_status_of(error: BaseException) -> int | None:
    """Give the exit status of an error, None for one that is a bug."""
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
    """Tell whether an error is of one of these classes, MODULE:NAME each.

    None is imported for it: an error of a module that nobody has imported cannot have been raised.
    """
    named = (place.split(":") for place in places)
    found = [getattr(sys.modules[module], name) for module, name in named if module in sys.modules]
    return isinstance(error, tuple(found))


def message_of(error: BaseException) -> str:
    """Give the words of an error for the person at the terminal."""
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
        # SQLAlchemy's own text adds the statement and a link; the driver's says what is wrong.
        return " ".join(str(getattr(error, "orig", error)).split())
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
