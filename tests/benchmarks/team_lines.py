"""What a team writes to have partitions, shards and replicas: counted in examples/payments."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.unit.test_public_surface import PUBLIC
from tools.house import Function

EXAMPLE = Path(__file__).parents[2] / "examples" / "payments"

_CLASS = r"^class {}\(.*?(?=^class |\Z)"
_TABLE = r"^\[{}\].*?(?=^\[|\Z)"

LINES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "partitions with archive": {
        "payments/policies.py": [r"^.*\Z"],
        "payments/models.py": [
            # Without an archive, the columns of these would be those of Payment and PaymentEvent themselves.
            r"^class PaymentColumns[^\n]*",
            r"^class EventColumns[^\n]*",
            r"^    state: [^\n]*primary_key=True[^\n]*",
            _CLASS.format("PaymentArchive"),
            _CLASS.format("PaymentEventArchive"),
        ],
        "payments/counter.py": [r"^    archived = .*?^    \)"],
        "mes-storage.toml": [r"^policies = [^\n]*", r"^archives = [^\n]*"],
    },
    "sharding": {
        "payments/models.py": [
            r"^from sharding [^\n]*",
            r"^class OfTenant[^\n]*",
            r"^    __table_args__ [^\n]*",
        ],
        "payments/counter.py": [
            r"^from dataclasses [^\n]*",
            r"^from sharding [^\n]*",
            r"^TOPOLOGY = [^\n]*",
            r"^@dataclass.*?\n\n\n",
            r"^    async with open_sessions[^\n]*",
            r"^        app\.state\.storage = [^\n]*",
            r"^def storage_of.*?^Opened = [^\n]*",
            r"^        payment_id=storage\.ids\.next_id[^\n]*",
            r"^    async with storage\.sessions\.write[^\n]*",
            r"^    async with storage\.sessions\.read[^\n]*",
        ],
        "topology.toml": [
            _TABLE.format("trees.registry"),
            r"^buckets = [^\n]*",
            _TABLE.format(r"databases\.registry"),
            _TABLE.format(r"databases\.south"),
        ],
    },
    "replicas with tokens": {
        "payments/counter.py": [
            r"^from readreplica[^\n]*",
            r"^        follow_causality[^\n]*",
            r"^app\.add_middleware\(CausalTokens[^\n]*",
        ],
        "topology.toml": [r"^replicas = [^\n]*"],
        "mes-storage.toml": [_TABLE.format(r"services\.counter\.environment")],
    },
}
"""What is written for each of the three: of each file, what these match."""

_LIBRARIES = "partitions|readreplica|sharding"
_PUBLIC = "|".join(map(re.escape, sorted(PUBLIC, key=len, reverse=True)))

WORKAROUNDS: Mapping[str, str] = {
    "a private name": r"\b(?!self\b|cls\b)\w+\._[a-z]\w*|\bfrom [\w.]+ import _\w+",
    "a module that is not public": rf"^ *(?:from|import) (?!(?:{_PUBLIC})\b(?!\.))(?:{_LIBRARIES})\b",
    "SQL of the library": (
        r"\b(?:hashint8|shard_owns|shard_refuse|shard_identity|shard_map_versions|node_leases|mes_storage_schema"
        r"|migration_ledger|two_phase_decisions|reference_contents|reference_versions)\b"
    ),
    "a check that is silenced": r"#\s*(?:type:\s*ignore|noqa|pyright)|\bignore_(?:errors|missing_imports)",
    "a patch": r"\b(?:monkeypatch|mock|setattr|sys\.modules|__dict__|import_module|__import__)\b",
}
"""What no example should need, as regular expressions."""


def code_lines(text: str, *, is_python: bool) -> set[int]:
    """Return the numbers of the lines that are code: neither blank, nor a comment, nor a docstring."""
    lines = text.splitlines()
    found = {number for number, line in enumerate(lines, start=1) if line.strip() and line.strip()[0] != "#"}
    return found - set(_docstring_lines(ast.parse(text))) if is_python else found


def _docstring_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node) is not None:
            first = node.body[0]
            yield from range(first.lineno, (first.end_lineno or first.lineno) + 1)


def team_lines(example: Path = EXAMPLE) -> dict[str, int]:
    """Count the lines of each of the three.

    Raises:
        ValueError: a pattern matches nothing: the example has changed.
    """
    return {
        part: sum(len(_lines(example / name, patterns)) for name, patterns in files.items())
        for part, files in LINES.items()
    }


def _lines(path: Path, patterns: Sequence[str]) -> set[int]:
    text = path.read_text()
    found: set[int] = set()
    for pattern in patterns:
        matches = list(re.finditer(pattern, text, re.MULTILINE | re.DOTALL))
        if not matches:
            raise ValueError(f"{path}: nothing matches {pattern}")
        for match in matches:
            first = text.count("\n", 0, match.start()) + 1
            found |= set(range(first, first + match[0].rstrip().count("\n") + 1))
    return found & code_lines(text, is_python=path.suffix == ".py")


def workarounds(example: Path = EXAMPLE) -> list[str]:
    """Return the places where the example goes around the library, each with what it is."""
    return [
        f"{path.relative_to(example)}:{number}: {what}: {line.strip()}"
        for path in sorted(example.rglob("*"))
        if path.suffix in {".py", ".toml", ".ini", ".mako", ".sql"}
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for what, pattern in WORKAROUNDS.items()
        if re.search(pattern, line)
    ]
