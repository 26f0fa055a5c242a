"""`python -m tools.house [--check]`: count what makes code hard to find one's way in, and pages hard to read.

It reads the packages that ship, without generated files and revisions, and docs/. `make check` checks;
`make bench ONLY=house` prints the counts beside their limits.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parents[1]
PACKAGES = ("partitions", "readreplica", "sharding", "app", "ops", "tools")
GENERATED = "# Generated from "
SMALL_LINES = 50

FIRST_WORDS = frozenset({"Give", "Gives", "Tell", "Tells", "Say", "Says"})
"""A docstring begins with what the function does or returns, as in the manuals of SQLAlchemy."""
AVOIDED = re.compile(r"\b(nobody|whoever|told|called off)\b", re.IGNORECASE)
"""Words that readers abroad stumble over: say who or what it is, and what it is sent, knows or cancels."""

LONG_SENTENCE_WORDS = 30
_CODE_BLOCK = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$", re.MULTILINE | re.DOTALL)
_NOT_PROSE = re.compile(r"^ *(?:\||#|:::|<!--).*$", re.MULTILINE)
_LINK = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
_BLOCK_END = re.compile(r"\n\s*\n|^\s*(?:[-*+]|\d+\.)\s+", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])[)\"'*_]*\s+(?=[\"'(*_`]*[A-Z0-9`])")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A file of Python: its dotted name and its text."""

    name: str
    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return self.text.count("\n")

    @property
    def functions(self) -> Iterator[Function]:
        """Every function and method, also those inside of others."""
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))

    @property
    def public_classes(self) -> Iterator[str]:
        """The names of its classes that begin with no underscore."""
        return (
            node.name for node in self.tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"
        )

    def imports(self, known: Container[str]) -> Iterator[str]:
        """Return the modules that it imports, wherever the statement stands.

        Parameters:
            known: the modules that there are: they say if `from a import b` means `a.b` or a name in `a`.
        """
        for node in ast.walk(self.tree):
            match node:
                case ast.Import():
                    yield from (alias.name for alias in node.names)
                case ast.ImportFrom(module=str() as module):
                    names = (f"{module}.{alias.name}" for alias in node.names)
                    yield from (name if name in known else module for name in names)

    @property
    def docstrings(self) -> Iterator[tuple[int, str]]:
        """The line and the text of each docstring of the module, its classes and its functions."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | ast.ClassDef | Function) and (text := ast.get_docstring(node)):
                yield node.body[0].lineno, text

    @property
    def comments(self) -> Iterator[tuple[int, str]]:
        """The line and the text of each comment."""
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def read_modules(root: Path = ROOT, packages: Iterable[str] = PACKAGES) -> list[Module]:
    """Read the modules of some packages, without generated ones."""
    found = []
    for path in sorted(path for package in packages for path in (root / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if not text.startswith(GENERATED):
            found.append(Module(name, path.relative_to(root), text))
    return found


def classes_in_two_modules(modules: Iterable[Module]) -> Mapping[str, Sequence[str]]:
    """Return the names of public classes that stand in two modules or more, with these modules."""
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        for name in module.public_classes:
            places[name].append(module.name)
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


def import_cycles(modules: Iterable[Module]) -> list[Sequence[str]]:
    """Return one cycle after another, each broken where it was found, until none is left.

    All imports count, those for the type checker and those inside of functions too.
    """
    known = {module.name: module for module in modules}
    graph = {
        name: {each for each in module.imports(known) if each in known and each != name}
        for name, module in known.items()
    }
    cycles: list[Sequence[str]] = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            cycle: list[str] = error.args[1]
            cycles.append(cycle)
            graph[cycle[1]].discard(cycle[0])
        else:
            return cycles


def length_of(function: Function) -> int:
    """Count the lines of a function without its docstring and its decorators."""
    first = function.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    documented = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - documented


@dataclass(frozen=True)
class Sizes:
    """How large modules and functions are, in lines."""

    modules: int
    small_modules: int
    largest_module: int
    function_median: float
    function_p90: float
    function_max: int


def sizes_of(modules: Sequence[Module]) -> Sizes:
    """Measure modules; an `__init__` is none of them, since it only names what a package gives."""
    counted = [module for module in modules if module.path.name != "__init__.py"]
    lengths = [length_of(function) for module in modules for function in module.functions]
    return Sizes(
        modules=len(counted),
        small_modules=sum(module.lines < SMALL_LINES for module in counted),
        largest_module=max(module.lines for module in counted),
        function_median=median(lengths),
        function_p90=quantiles(lengths, n=10)[-1],
        function_max=max(lengths),
    )


CONCEPTS: Mapping[str, str] = {
    "what an outage is (SQLSTATE classes)": r"57P0[1-3]",
    "what a conflict is (SQLSTATE)": r'"40001"',
    "how an advisory lock is taken": r"pg_(try_)?advisory",
    "how long a connection may take": r"CONNECT_TIMEOUT_SECONDS\s*=",
    "the LSN and timeline of a server": r"pg_(current|last)_wal|pg_control_checkpoint",
    "what lag means": r"pg_last_xact_replay_timestamp|^class ReplicaLag\b",
    "the hash of a shard key": r"^def hashint8\b",
    "the bucket of a key in SQL": r"^def bucket_sql\b",
    "the time inside an id": r"^def id_time_ms\b",
    "the transition table of statuses": r"^def check_transition\b",
    "how an identifier is quoted": r"^def identifier\b",
    "an error on one line": r"^def (one_line|words_of)\b|str\(.*\borig\b.*\.split",
    "how a socket is cut": r"\.shutdown\(socket\.SHUT_RDWR\)",
    "the SQLSTATE of a refused row": r'"MS001"',
    "the exit statuses": r"^class ExitStatus\b",
    "problem+json": r"MEDIA_TYPE = \"application/problem\+json\"",
    "what a partition bound is": r"^class KeyRange\b",
    "the price formula": r"^def machine_eur\b",
    "the mark on a detached partition": r"^class (Detached)?Mark\b",
    "which node is the primary": r"^def elect\b",
}
"""Twenty things that somebody may want to change, and the text by which their one place is known."""


def places_of_concepts(modules: Iterable[Module]) -> Mapping[str, Sequence[str]]:
    """Return the modules in which each concept stands."""
    texts = [module for module in modules if module.path.name != Path(__file__).name]
    return {
        concept: [module.name for module in texts if re.search(pattern, module.text, re.MULTILINE)]
        for concept, pattern in CONCEPTS.items()
    }


def wording(modules: Iterable[Module]) -> Iterator[str]:
    """Yield each docstring that begins with one of `FIRST_WORDS`, and each text with a word of `AVOIDED`."""
    for module in modules:
        for line, text in module.docstrings:
            if text.split(maxsplit=1)[0] in FIRST_WORDS:
                yield f"{module.path}:{line}: begins with {text.split(maxsplit=1)[0]!r}"
        for line, text in (*module.docstrings, *module.comments):
            if found := AVOIDED.search(text):
                yield f"{module.path}:{line}: {found[0]!r}"


def sentence_lengths(text: str) -> list[int]:
    """Return how many words each sentence of a page has.

    Code blocks, tables, headings and the targets of links are left out. An item of a list and a
    paragraph end a sentence, also where no full stop stands.

    Parameters:
        text: the page, in Markdown.
    """
    prose = _LINK.sub(r"\1", _NOT_PROSE.sub("\n", _CODE_BLOCK.sub("\n\n", text)))
    blocks = (" ".join(block.split()) for block in _BLOCK_END.split(prose))
    sentences = (sentence for block in blocks for sentence in _SENTENCE_END.split(block))
    lengths = (sum(bool(re.search(r"\w", word)) for word in sentence.split()) for sentence in sentences)
    return [length for length in lengths if length]


def pages(root: Path = ROOT) -> list[Path]:
    """Return the written pages of the documentation."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def counts_of(modules: Sequence[Module]) -> Mapping[str, tuple[float, float]]:
    """Return what was counted and the most that is good enough, by its name."""
    sizes = sizes_of(modules)
    places = places_of_concepts(modules).values()
    words = [length for page in pages() for length in sentence_lengths(page.read_text(encoding="utf-8"))]
    return {
        "public class names in two modules": (len(classes_in_two_modules(modules)), 0),
        "import cycles": (len(import_cycles(modules)), 0),
        "concepts that are not in exactly one file": (sum(len(where) != 1 for where in places), 0),
        "texts that begin or speak as the manuals do not": (len(list(wording(modules))), 0),
        # A new module needs a reason: the last ones are app.access (with its connection to Redis, and
        # `app.access.oidc`, which alone knows how OpenID providers are asked), the partners' quotes and
        # entity tags, what rotates the gateway's log, the board with its pages, and the DBA's pages; and
        # for the board: pieces, prices, filters, letters, and where an order is stored.
        "modules": (sizes.modules, 431),
        f"modules below {SMALL_LINES} lines": (sizes.small_modules, 50),
        "lines of the largest module": (sizes.largest_module, 500),
        "lines of a function, median": (sizes.function_median, 8),
        "lines of a function, 90th percentile": (sizes.function_p90, 20),
        "words of a sentence of the documentation, 90th percentile": (
            quantiles(words, n=10)[-1],
            LONG_SENTENCE_WORDS,
        ),
    }


def faults_of(modules: Sequence[Module]) -> Iterator[str]:
    """Yield the names and places behind the counts that should be 0."""
    for name, where in classes_in_two_modules(modules).items():
        yield f"class {name}: {', '.join(where)}"
    for cycle in import_cycles(modules):
        yield f"cycle: {' <- '.join(cycle)}"
    for concept, where in places_of_concepts(modules).items():
        if len(where) != 1:
            yield f"{concept}: {', '.join(where) or 'nowhere'}"
    yield from wording(modules)


def main() -> int:
    """Print every fault and every count; with `--check`, fail if a count is above its limit."""
    parser = argparse.ArgumentParser(description="Count what makes the code hard to find one's way in.")
    parser.add_argument("--check", action="store_true", help="fail if a count is above its limit")
    modules = read_modules()
    for fault in faults_of(modules):
        print(fault)
    counts = counts_of(modules)
    for name, (count, limit) in counts.items():
        print(f"{count:6.4g}  (at most {limit:g})  {name}")
    is_above = any(count > limit for count, limit in counts.values())
    return 1 if parser.parse_args().check and is_above else 0


if __name__ == "__main__":
    sys.exit(main())
