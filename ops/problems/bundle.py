"""`mesctl bundle`: what an incident needs in one file, without secrets, in bounded size and time."""

import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import text

from ops.errors import ExitStatus, OpsError
from ops.options import Options, options_of
from ops.output import note, print_json
from ops.problems.masking import Masker, masked_log_line, masked_settings, secrets_of, without_literals
from ops.problems.service import first_line
from ops.problems.sources import read_facts, reading
from sharding.topology import Database, Topology

MOST_BYTES = 2 << 20
"""Of each file in the archive; of a log it is the end."""

DATABASES_AT_ONCE = 4
COMMANDS_AT_ONCE = 2
"""Each is a process, which needs a core to start."""

COMMAND_SHARE = 0.5
"""Of the time for all: a command that hangs leaves the rest to others."""

_ACTIVITY = text("""
    SELECT pid, usename::text, application_name, backend_type, state, wait_event_type, wait_event,
           backend_start, xact_start, query_start, state_change, backend_xmin::text, query
    FROM pg_stat_activity WHERE datname = current_database() OR datname IS NULL
    ORDER BY xact_start NULLS LAST LIMIT 500
""")
_LOCKS = text("""
    SELECT pid, locktype, relation::regclass::text, mode, granted, waitstart
    FROM pg_locks WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY granted, waitstart LIMIT 1000
""")
_SETTINGS = text("SELECT name, setting FROM pg_settings WHERE source NOT IN ('default', 'override')")


class BundleExists(OpsError):
    """There is a file of this name, which is not overwritten."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is there already: name another, or remove it")


@dataclass(frozen=True, slots=True)
class BundlePart:
    """A file of the archive: its content, or why there is none."""

    name: str
    content: bytes
    seconds: float
    error: str | None = None
    is_cut: bool = False


Produce = Callable[[], str]


def collect(options: Options, *, log_lines: int, seconds: float) -> list[BundlePart]:
    """Read all that belongs into a bundle, several parts at once; one that cannot be read says why.

    What lies on this machine is read first, and databases apart from commands: a server that does not answer
    costs what comes from it, and nothing else.

    Parameters:
        options: of the run of `mesctl`.
        log_lines: how many lines of each log, from its end.
        seconds: how long it may take together, about.
    """
    topology = options.topology()
    mask, until = Masker(secrets_of(topology)), time.monotonic() + seconds
    local = [_produce(*part, mask, until) for part in _local_parts(options, topology, log_lines=log_lines)]
    with ThreadPoolExecutor(COMMANDS_AT_ONCE) as commands, ThreadPoolExecutor(DATABASES_AT_ONCE) as databases:
        jobs = [
            *(
                commands.submit(_produce, *part, mask, until)
                for part in _verb_parts(options, topology, until, COMMAND_SHARE * seconds)
            ),
            *(databases.submit(_produce, *part, mask, until) for part in _database_parts(topology)),
        ]
        return [*(job.result() for job in jobs), *local]


def _produce(name: str, produce: Produce, mask: Masker, until: float) -> BundlePart:
    began = time.monotonic()
    if began >= until:
        return BundlePart(name, b"", 0, "no time was left for it")
    try:
        content = mask(produce()).encode()
    except Exception as error:  # whatever it is: the rest of the bundle is wanted all the more
        return BundlePart(name, b"", time.monotonic() - began, mask(first_line(error)))
    cut = content[-MOST_BYTES:]
    return BundlePart(name, cut, time.monotonic() - began, is_cut=len(cut) < len(content))


Part = tuple[str, Produce]
"""The name of a file of the archive, and what makes it."""


def _verb_parts(options: Options, topology: Topology, until: float, seconds: float) -> Iterator[Part]:
    for name, words in _commands(topology).items():
        yield f"{name}.json", partial(_run, options, words, until, seconds)


def _database_parts(topology: Topology) -> Iterator[Part]:
    for name, database in topology.databases.items():
        yield f"databases/{name}.json", partial(_database, topology, database)


def _local_parts(options: Options, topology: Topology, *, log_lines: int) -> Iterator[Part]:
    yield "topology.json", lambda: _json(topology.masked())
    yield "versions.json", lambda: _json(_versions())
    yield "environment.json", lambda: _json(masked_settings(_environment()))
    for log in sorted((options.home / "logs").glob("*.log*")):
        yield f"logs/{log.name}", partial(_tail, log, log_lines)


def _commands(topology: Topology) -> Mapping[str, list[str]]:
    commands = {
        "problems": ["problems"],
        "status": ["status"],
        "replicas": ["replicas", "list"],
        "partitions-check": ["partitions", "check"],
        "migrations": ["migrate", "status"],
    }
    for tree in topology.names_of_kind("sharded"):
        commands[f"in-doubt-{tree}"] = ["shards", "in-doubt", "list", "--tree", tree]
        commands[f"shards-{tree}"] = ["shards", "list", "--tree", tree]
        commands[f"shards-check-{tree}"] = ["shards", "check", "--tree", tree]
    return commands


class CommandSilent(OpsError):
    """A command of mesctl has printed nothing, or was not done in time."""


def _run(options: Options, words: list[str], until: float, seconds: float) -> str:
    """Run a verb in a process of its own, which is ended when its time is over."""
    shared = ["--json", "--home", str(options.home), "--project", str(options.project().path)]
    if options.named_topology is not None:
        shared += ["--topology", str(options.named_topology)]
    seconds = max(0.1, min(seconds, until - time.monotonic()))
    command = [sys.executable, "-m", "ops", *shared, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise CommandSilent(f"mesctl {' '.join(words)} was not done within {seconds:.1f} s") from None
    if not done.stdout.strip():
        raise CommandSilent(done.stderr.strip() or f"it ended with {done.returncode}")
    said = f"\n{done.stderr}" if done.returncode and done.stderr else ""
    return f"{done.stdout}{said}"


def _database(topology: Topology, database: Database) -> str:
    with reading(topology, database, role=database.owner) as connection:
        facts = read_facts(connection, topology, database)
        activity = [dict(row) for row in connection.execute(_ACTIVITY).mappings()]
        locks = [dict(row) for row in connection.execute(_LOCKS).mappings()]
        settings = dict(map(tuple, connection.execute(_SETTINGS)))
        version = connection.exec_driver_sql("SELECT version()").scalar_one()
    for row in activity:
        row["query"] = without_literals(row["query"] or "")
    found = {"version": version, "facts": asdict(facts), "settings": masked_settings(settings)}
    return _json({**found, "activity": activity, "locks": locks})


def _versions() -> dict[str, Any]:
    packages = {each.metadata["Name"]: each.version for each in distributions()}
    return {"python": sys.version, "system": platform.platform(), "packages": dict(sorted(packages.items()))}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(("MES_STORAGE_", "PG"))}


def _tail(log: Path, lines: int) -> str:
    with log.open("rb") as file:
        begin = max(0, log.stat().st_size - MOST_BYTES)
        file.seek(begin)
        found = file.read(MOST_BYTES).decode(errors="replace").splitlines(keepends=True)
    if begin:
        del found[:1]  # a part of a line, which does not say any more what it is
    return "".join(map(masked_log_line, found[-lines:] if lines else ()))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, default=str)


def write_bundle(path: Path, parts: list[BundlePart], manifest: Mapping[str, Any]) -> None:
    """Write the archive, readable by its owner alone; the file is there whole, or not at all."""
    partial_file = path.with_name(f".{path.name}.{os.getpid()}")
    folder = path.name.partition(".")[0]
    try:
        with partial_file.open("xb") as raw:
            partial_file.chmod(0o600)
            with tarfile.open(fileobj=raw, mode="w:gz") as archive:
                _add(archive, f"{folder}/manifest.json", _json(manifest).encode())
                for part in parts:
                    if part.error is None:
                        _add(archive, f"{folder}/{part.name}", part.content)
            raw.flush()
            os.fsync(raw.fileno())
        partial_file.replace(path)
    finally:
        partial_file.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
    archive.addfile(entry, io.BytesIO(content))


def bundle(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The archive to write, NAME.tar.gz.", show_default=False)],
    *,
    log_lines: Annotated[int, typer.Option(min=0, help="Lines of each log, from its end.")] = 2_000,
    seconds: Annotated[float, typer.Option(min=5, max=600, help="How long it may take, about.")] = 60.0,
) -> None:
    """Write everything that an incident needs into one archive, without secrets.

    Problems, status, topology, versions, replicas, shards, partitions, units in doubt, migrations, locks,
    sessions without the values of their statements, settings, and the end of each log of the embedded
    platform. What cannot be read is named, on stderr and in manifest.json; the rest is written all the same.
    """
    if file.exists():
        raise BundleExists(file)
    options = options_of(context)
    parts = collect(options, log_lines=log_lines, seconds=seconds)
    unread = {part.name: part.error for part in parts if part.error is not None}
    manifest = {
        "made_at": datetime.now(UTC),
        "topology": options.topology_path.name,
        "parts": {
            part.name: {"seconds": round(part.seconds, 2), "bytes": len(part.content), "cut": part.is_cut}
            for part in parts
            if part.error is None
        },
        "unread": unread,
    }
    write_bundle(file, parts, manifest)
    for name, error in unread.items():
        note(f"not read: {name}: {error}")
    if options.json:
        print_json({"file": str(file), "bytes": file.stat().st_size, "unread": unread})
    else:
        print(f"{file}: {len(parts) - len(unread)} files, {file.stat().st_size} bytes")
