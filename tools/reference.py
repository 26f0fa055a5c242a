"""Write the reference pages of the documentation: the public API from `__all__`, the verbs from their help.

`tools.docs` puts them beside the pages of docs/.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from itertools import groupby
from pkgutil import walk_packages

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from ops.cli import app
from ops.errors import COMMANDS
from ops.verbs import VERBS
from partitions.errors import PartitionError
from readreplica.errors import ReadReplicaError
from sharding.errors import ShardingError

PACKAGES: Mapping[str, str] = {
    "readreplica": "Sessions on a primary and its replicas, for asyncio.",
    "readreplica.asgi": "Middleware that carries causal tokens through a service; the extra `asgi`.",
    "readreplica.httpx": "Hooks that carry causal tokens from one service to another.",
    "readreplica.redis": "Tokens of callers that keep none; the extra `redis`.",
    "readreplica.sync": "The same sessions for threads.",
    "sharding": "Sessions by shard key, for asyncio.",
    "sharding.sync": "The same sessions for threads.",
    "partitions": "Policies, plans and their execution.",
    "partitions.online": "Changes of a column or a key while the table is in use.",
    "partitions.migration_ops": "Operations and autogenerate for alembic.",
}
"""The packages whose `__all__` is public, and what each is for."""

BASES: Mapping[str, type[Exception]] = {
    "readreplica": ReadReplicaError,
    "sharding": ShardingError,
    "partitions": PartitionError,
}
"""The base of each library's errors."""


def reference_pages() -> Iterator[tuple[str, str]]:
    """Yield the path of each generated page, and its text."""
    for package, summary in PACKAGES.items():
        yield f"reference/api/{package}.md", api_page(package, summary)
    yield "reference/errors.md", errors_page()
    yield "reference/mesctl/mesctl.md", verb_page("mesctl", get_command(app)) + _table_of_verbs()
    for name, verb in VERBS.items():
        yield f"reference/mesctl/{name}.md", verb_page(f"mesctl {name}", verb.load(name))


def api_page(package: str, summary: str) -> str:
    """Return the page of a package: every name of its `__all__`, with its docstring and signature."""
    names = sorted(importlib.import_module(package).__all__, key=str.lower)
    return "\n".join([f"# {package}", "", summary, "", *(f"::: {package}.{name}" for name in names), ""])


def errors_page() -> str:
    """Return the page of all errors of the libraries, by module, with the command that helps with each."""
    lines = [
        "# Errors",
        "",
        "Each library has one base class, so `except ShardingError` takes all errors of `sharding`. "
        "An error has its facts as attributes, and its message names the object and the fix. "
        "`mesctl` adds the command that helps.",
    ]
    for package, base in BASES.items():
        found = sorted(_subclasses(base, package), key=lambda kind: (kind.__module__, kind.__name__))
        lines += ["", f"## {package}: `{base.__name__}`"]
        for module, kinds in groupby(found, key=lambda kind: kind.__module__):
            lines += ["", f"`{module}`", "", "| error | when | command |", "| --- | --- | --- |"]
            lines += [
                f"| `{kind.__name__}` | {_cell(_summary(kind))} | {_cell(_command(kind))} |" for kind in kinds
            ]
    return "\n".join([*lines, ""])


def _subclasses(base: type[Exception], package: str) -> set[type[Exception]]:
    """Return the errors of a package's own modules; those for threads have the same names."""
    for module in walk_packages(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)
    found: set[type[Exception]] = set()
    waiting = [base]
    while waiting:
        kind = waiting.pop()
        if kind.__module__.startswith(package) and ".sync" not in kind.__module__:
            found.add(kind)
        waiting += kind.__subclasses__()
    return found


def _summary(kind: type[Exception]) -> str:
    return (inspect.getdoc(kind) or "").split("\n\n", 1)[0]


def _command(kind: type[Exception]) -> str:
    command = COMMANDS.get(f"{kind.__module__}:{kind.__name__}")
    return f"`{command}`" if isinstance(command, str) else ""


def verb_page(title: str, command: object) -> str:
    """Return the page of a verb: what `--help` shows of it, and of the verbs under it."""
    return "\n\n".join([f"# {title}", *_help_of(title, command, level=2)]) + "\n"


def _table_of_verbs() -> str:
    rows = [f"| [{name}]({name}.md) | {_cell(verb.summary)} |" for name, verb in VERBS.items()]
    return "\n".join(["", "| verb | what it does |", "| --- | --- |", *rows, ""])


def _help_of(title: str, command: object, *, level: int) -> Iterator[str]:
    assert isinstance(command, TyperCommand | TyperGroup)
    context = typer.Context(command, info_name=title)
    yield f"```text\n{command.get_usage(context)}\n```"
    yield from filter(None, [command.help])
    records = [param.get_help_record(context) for param in command.params]
    rows = [f"| `{name}` | {_cell(words)} |" for name, words in filter(None, records)]
    if rows:
        yield "\n".join(["| option | what it does |", "| --- | --- |", *rows])
    if isinstance(command, TyperGroup) and title != "mesctl":
        for name, verb in command.commands.items():
            yield f"{'#' * level} {title} {name}"
            yield from _help_of(f"{title} {name}", verb, level=level + 1)


def _cell(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")
