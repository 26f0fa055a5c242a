"""What must leave no machine: secrets, passwords in URLs, and what people wrote into statements."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sharding.topology import Topology

MASK = "(masked)"
SHORTEST_SECRET = 4
"""A shorter one would be found in every other word."""

_SECRET_NAME = re.compile(r"passw|secret|key|token|credential|passphrase|conninfo|_command", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^\s:/@\"']*):[^\s\"']*@")
_IN_URL = re.compile(r"://[^\s:/@\"']*:([^\s\"']*)@")
# `PGPASSWORD=`, `"api_key": "`, `{\"password\": \"`, `Authorization: Bearer `, `..._MESSAGE_KEYS=`.
_ASSIGNED = re.compile(
    r"((?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|(?-i:[A-Z0-9]_KEYS?))\\?[\"']?\s*[=:]\s*"
    r"|authorization\\?[\"']?\s*[=:]\s*(?:\\?[\"'])?(?:bearer|basic)\s+)"
    r"('(?:[^'\\]|\\.|'')*'?|\\\"[^\"]*\"?|\"(?:[^\"\\]|\\.)*\"?|[^\s,;]+)",
    re.IGNORECASE,
)

# Escapes first: in E'' a backslash keeps a quote, and elsewhere it does not.
_LITERALS = re.compile(
    r"""\b[eE]'(?:[^'\\]|''|\\.)*'?     # E'it''s \'this\''
      | (?:\b[uUbBxX]&?)?'(?:[^']|'')*'?  # 'it''s this', also where the text was cut
      | \$(\w*)\$.*?(?:\$\1\$|\Z)       # $tag$this$tag$
      | /\*.*?(?:\*/|\Z) | --[^\n]*     # comments
      | (?<![\w$"])\d+(?:\.\d+)?        # 42, and not $1 or t1
    """,
    re.VERBOSE | re.DOTALL,
)
# What PostgreSQL writes behind these words is what was sent, with its values.
_LOGGED_SQL = re.compile(r"\b(STATEMENT|DETAIL|QUERY|CONTEXT|statement|execute [^:]*):\s+(.*)", re.DOTALL)
_KEY_VALUES = re.compile(r"=\((?:[^()]|\([^()]*\))*\)")


def without_literals(statement: str) -> str:
    """Return SQL with `?` in place of every value and comment."""
    return _LITERALS.sub("?", statement)


def masked_log_line(line: str) -> str:
    """Return a line of a log without the values of the statements that it quotes."""
    if line.startswith("\t"):  # PostgreSQL continues a statement so
        return without_literals(line)
    return _LOGGED_SQL.sub(
        lambda match: f"{match[1]}: {without_literals(_KEY_VALUES.sub('=(?)', match[2]))}", line
    )


class Masker:
    """Takes known secrets, and what looks like one, out of a text.

    Parameters:
        secrets: the texts that must not be seen.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        known = sorted({each for each in secrets if len(each) >= SHORTEST_SECRET}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        """Return the text without them."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        return _ASSIGNED.sub(rf"\1{MASK}", _URL_PASSWORD.sub(rf"\1:{MASK}@", text))


def masked_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings by name, without the values of those whose name says that they are secret."""
    return {name: MASK if _SECRET_NAME.search(name) else value for name, value in sorted(settings.items())}


def secrets_of(topology: Topology, environ: Mapping[str, str] = os.environ) -> set[str]:
    """Find the secrets that this machine knows of a platform: in its files, and in the environment."""
    found = {value for name, value in environ.items() if _SECRET_NAME.search(name) and _is_ours(name)}
    # `NAME=SECRET,...` as keys are written.
    found |= {part for value in found for part in re.split(r"[=,]", value)[1:]}
    found |= set(_IN_URL.findall(topology.path.read_text()))
    files = [Path(environ.get("PGPASSFILE", "~/.pgpass")).expanduser()]
    if topology.passfile is not None:
        files.append(topology.path.parent / topology.passfile)
    for path in files:
        if path.is_file():
            found |= set(passwords_in(path.read_text()))
    return found


def _is_ours(name: str) -> bool:
    return name.startswith(("MES_STORAGE_", "PG"))


def passwords_in(passfile: str) -> Iterable[str]:
    """Return the passwords of libpq's passfile, where `:` and a backslash are escaped by a backslash."""
    for line in passfile.splitlines():
        fields = re.split(r"(?<!\\):", line, maxsplit=4)
        if len(fields) == 5 and not line.startswith("#"):
            yield re.sub(r"\\(.)", r"\1", fields[4])
