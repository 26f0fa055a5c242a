"""The topology file of the embedded platform: written from the project's template, and edited key by key.

An edit is tried on the text and proved by the parser: exactly the wanted value changes, and comments stay.
"""

import dataclasses
import json
import re
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from ops.embedded.errors import PortsTaken, TopologyNotEdited
from ops.embedded.shape import Key, ListenAddress
from ops.ports import LOOPBACK, START_ATTEMPTS, NoFreePort, PortPicker, PortTaken
from sharding.topology import Topology

HEAD = """\
# Written by `mesctl up` from {template}.
# Edit what you like; a port that is found taken is replaced, and nothing else.
"""

PASSFILE = "pgpass"

ONCE_GLOBAL = ("backend", "buckets")
"""Keys that stood at the top of the file in release 0.1, and belong to the sharded trees."""


Report = Callable[[str], None]


@dataclass(frozen=True)
class Draft:
    """The text of the topology file as it should be.

    `added` are the tables that it did not have, whose ports are still those of the template; `notes` says in
    a line each what is to change.
    """

    text: str
    added: tuple[Key, ...]
    notes: tuple[str, ...] = ()

    def is_new(self, address: ListenAddress) -> bool:
        """Whether an address stands in a table that was added."""
        return any(key[: len(table)] == table for key in address.keys for table in self.added)


def draft_new(template: Path, *, named: str) -> Draft:
    """Draft the topology of a new platform: the template, under a head of our own.

    Parameters:
        named: how the project names the template.
    """
    text = re.sub(r"\A(?:#.*\n|\s*\n)+", "", template.read_text(encoding="utf-8"))
    passfile = "" if "passfile" in tomllib.loads(text) else f'passfile = "{PASSFILE}"\n'
    return Draft(f"{HEAD.format(template=named)}{passfile}{text}", ((),), (f"write it from {named}",))


def draft_mended(path: Path, template: Path | None) -> Draft:
    """Draft the file as it is, with the trees and the application's tables that it lacks of the template.

    A file of release 0.1 has no trees, and `backend` and `buckets` for all of them.
    """
    text = path.read_text(encoding="utf-8")
    if template is None or not _is_toml(text):  # who reads it says what is wrong
        return Draft(text, added=())
    content, pattern = tomllib.loads(text), tomllib.loads(template.read_text(encoding="utf-8"))
    moved = {} if "trees" in content else {key: content[key] for key in ONCE_GLOBAL if key in content}
    for key in moved:
        text = _without_line(text, key, path)
    tables = dict(_lacking(content, pattern, moved))
    mended = "\n".join([text, *(_table(key, table) for key, table in tables.items())])
    if not _is_toml(mended):
        return Draft(text, added=())
    notes = [f"add [{'.'.join(map(str, key))}]" for key in tables]
    notes += [f"move {key} into the sharded trees" for key in moved]
    return Draft(mended, tuple(tables), tuple(notes))


def _lacking(
    content: Mapping[str, Any], pattern: Mapping[str, Any], moved: Mapping[str, Any]
) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    """Find the tables of the template that a file needs: whole trees, and what belongs to the application."""
    with_databases = {base.get("tree") for base in _tables(content, "databases").values()}
    for name, tree in _tables(pattern, "trees").items():
        if name in _tables(content, "trees"):
            continue
        yield ("trees", name), tree | (dict(moved) if tree["kind"] == "sharded" else {})
        for database, base in _tables(pattern, "databases").items():
            if base["tree"] == name and name not in with_databases:
                yield ("databases", database), base
    for name, table in pattern.items():
        if name in Topology.model_fields:
            continue
        if name == "services":
            there = _tables(content, name)
            yield from (((name, key), table[key]) for key in table if key not in there)
        elif name not in content:
            yield (name,), table


def _tables(content: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Return the tables below a key of the file; what is none is for the reader to refuse."""
    found = content.get(name, {})
    if not isinstance(found, dict):
        return {}
    return {key: table for key, table in found.items() if isinstance(table, dict)}


def with_free_ports(draft: Draft, addresses: Iterable[ListenAddress], picker: PortPicker, path: Path) -> str:
    """Replace the port of every new address of a draft by one that is free.

    Raises:
        NoFreePort: there is none.
        TopologyNotEdited: the file writes a port in a way that is not understood.
    """
    text = draft.text
    for address in addresses:
        if draft.is_new(address):
            text = with_port(text, address, picker.pick(address.host), path)
    return text


def with_port(text: str, address: ListenAddress, port: int, path: Path) -> str:
    """Replace the port of an address, and leave the rest of the text as it is.

    Raises:
        TopologyNotEdited: the file writes the port in a way that is not understood.
    """
    for key in address.keys:
        text = _with_value(text, key, port, path)
    return text


def _with_value(text: str, key: Key, port: int, path: Path) -> str:
    content = tomllib.loads(text)
    wanted = deepcopy(content)
    *way, last = key
    table: Any = wanted
    for part in way:
        table = table[part]
    old = table[last]
    table[last] = _url_with_port(old, port) if isinstance(old, str) else port
    if table[last] == old:
        return text
    for match in re.finditer(rf"(?<!\w){re.escape(str(old))}(?!\w)", text):
        changed = f"{text[: match.start()]}{table[last]}{text[match.end() :]}"
        if _means(changed, wanted):
            return changed
    raise TopologyNotEdited(path, ".".join(map(str, key)), repr(table[last]))


def _url_with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return parts._replace(netloc=f"{user}{host}:{port}").geturl()


def _means(text: str, content: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == content
    except tomllib.TOMLDecodeError:
        return False


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _without_line(text: str, key: str, path: Path) -> str:
    changed = re.sub(rf"(?m)^{key}\s*=.*\n?", "", text, count=1)
    if not _means(changed, {name: value for name, value in tomllib.loads(text).items() if name != key}):
        raise TopologyNotEdited(path, key, "it into [trees.NAME] of the sharded trees")
    return changed


def _table(key: Key, table: Mapping[str, Any]) -> str:
    lines = [f"{name} = {_value(value)}\n" for name, value in table.items()]
    return f"[{'.'.join(map(str, key))}]\n{''.join(lines)}"


def _value(value: Any) -> str:
    match value:
        case dict():
            return (
                f"{{ {', '.join(f'{json.dumps(name)} = {_value(part)}' for name, part in value.items())} }}"
            )
        case list():
            return f"[ {', '.join(map(_value, value))} ]"
        case str() | bool():
            return json.dumps(value, ensure_ascii=False)
    return str(value)


def load_text(text: str, name: str) -> Topology:
    """Read a topology that stands in no file yet.

    Parameters:
        name: of the file, for errors.

    Raises:
        TopologyError: it is wrong.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_text(text, encoding="utf-8")
        return Topology.load(path)


def with_pooler(text: str, *, port: int, version: str) -> str:
    """Add the section of a pooler, with all that has a default left to it."""
    section = f'[pgbouncer]\nhost = "{LOOPBACK}"\nport = {port}\nversion = "{version}"\n'
    return f"{text.rstrip()}\n\n{section}"


def without_pooler(text: str) -> str:
    """Remove the section of the pooler, and its services."""
    # A table ends where the next one begins.
    tables = re.split(r"(?m)^(?=\[)", text)
    left = "".join(table for table in tables if not re.match(r"\[pgbouncer[\].]", table))
    return f"{left.rstrip()}\n"


def with_keys(text: str, table: str, ports: Mapping[str, int]) -> str:
    """Add keys with ports to a table, which is added where there is none."""
    if not ports:
        return text
    lines = "".join(f"{key} = {port}\n" for key, port in ports.items())
    header = re.search(rf"(?m)^\[{table}\][^\n]*\n", text)
    if header is None:
        return f"{text.rstrip()}\n\n[{table}]\n{lines}"
    return f"{text[: header.end()]}{lines}{text[header.end() :]}"


def without_keys(text: str, table: str, keys: Iterable[str]) -> str:
    """Remove the lines of keys from a table."""
    # A table ends where the next one begins.
    tables = re.split(r"(?m)^(?=\[)", text)
    lines = re.compile(rf"(?m)^(?:{'|'.join(keys)})\s*=.*\n?")
    return "".join(lines.sub("", each) if re.match(rf"\[{table}\]", each) else each for each in tables)


def replace_file(path: Path, text: str) -> None:
    """Write the file; it appears only when it is complete."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


class ComponentPorts:
    """The addresses of a platform's components, as its topology file has them; components start in parallel.

    Parameters:
        topology: the file.
        picker: picks other ports; None leaves the file as it is.
        changed: what the file said in another way before.
    """

    def __init__(
        self,
        addresses: Mapping[str, ListenAddress],
        *,
        topology: Path,
        picker: PortPicker | None,
        report: Report,
        changed: Iterable[str] = (),
    ) -> None:
        self._places = dict(addresses)
        self._topology = topology
        self._picker = picker
        self._report = report
        self._lock = threading.Lock()
        self.moved: set[str] = set(changed)

    def __getitem__(self, component: str) -> int:
        return self._places[component].port

    def __contains__(self, component: str) -> bool:
        return component in self._places

    def start(self, component: str, start: Callable[[int], bool]) -> bool:
        """Call `start` with the component's port; give it another port if a stranger has that one.

        Returns:
            what `start` gave.

        Raises:
            NoFreePort: several ports were lost in a row.
            PortsTaken: the port is lost, and the file is not ours to edit.
        """
        for _ in range(START_ATTEMPTS):
            try:
                return start(self[component])
            except PortTaken as taken:
                self._move(component, taken)
        raise NoFreePort(START_ATTEMPTS)

    def _move(self, component: str, taken: PortTaken) -> None:
        with self._lock:
            old = self._places[component]
            if self._picker is None:
                raise PortsTaken(self._topology, fault_of(old, taken.holder)) from taken
            new = self._picker.pick(old.host)
            text = self._topology.read_text(encoding="utf-8")
            replace_file(self._topology, with_port(text, old, new, self._topology))
            self._places[component] = dataclasses.replace(old, port=new)
            self.moved.add(component)
        self._report(f"{component}: port {old.port} is taken by {taken.holder}; moved to port {new}")


def fault_of(address: ListenAddress, holder: str) -> str:
    """Describe what has the port that a key of the topology names, in one line."""
    key = ".".join(map(str, address.keys[0]))
    return (
        f"{key}: port {address.port} on {address.host} is taken by {holder}: stop that, or name another port"
    )
