"""Write the reference pages of the documentation: the public API from `__all__`, the verbs from their help.

`tools.docs` puts them beside the pages of docs/.
"""

import importlib
from collections.abc import Iterator, Mapping

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from ops.cli import app
from ops.verbs import VERBS

PACKAGES: Mapping[str, str] = {
    "readreplica": "Sessions on a primary and its replicas, for asyncio.",
    "readreplica.sync": "The same sessions for threads.",
    "sharding": "Sessions by shard key, for asyncio.",
    "sharding.sync": "The same sessions for threads.",
    "partitions": "Policies, plans and their execution.",
    "partitions.online": "Changes of a column or a key while the table is in use.",
    "partitions.migration_ops": "Operations and autogenerate for alembic.",
}
"""The packages whose `__all__` is public, and what each is for."""


def reference_pages() -> Iterator[tuple[str, str]]:
    """Yield the path of each generated page, and its text."""
    for package, summary in PACKAGES.items():
        yield f"reference/api/{package}.md", api_page(package, summary)
    yield "reference/mesctl/mesctl.md", verb_page("mesctl", get_command(app))
    for name, verb in VERBS.items():
        yield f"reference/mesctl/{name}.md", verb_page(f"mesctl {name}", verb.load(name))


def api_page(package: str, summary: str) -> str:
    """Return the page of a package: every name of its `__all__`, with its docstring and signature."""
    names = sorted(importlib.import_module(package).__all__, key=str.lower)
    return "\n".join([f"# {package}", "", summary, "", *(f"::: {package}.{name}" for name in names), ""])


def verb_page(title: str, command: object) -> str:
    """Return the page of a verb: what `--help` shows of it, and of the verbs under it."""
    return "\n\n".join([f"# {title}", *_help_of(title, command, level=2)]) + "\n"


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
