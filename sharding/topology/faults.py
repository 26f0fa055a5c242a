"""What is wrong with a topology, in words: one line per fault, with the key and the fix. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sharding.topology.model import PgBouncer, TopologyModel, Tree, databases_of_service, services_of

Location = tuple[int | str, ...]
_HASHES = 1 << 32


def describe(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Put pydantic's findings into one line each.

    Parameters:
        model: the model that was to be read; it has the keys that there could be.
        error: what pydantic found.

    Returns:
        Lines like `databases.shop.primry: unknown key; did you mean 'primary'?`.
    """
    return [_line(model, details) for details in error.errors(include_url=False)]


def _line(model: type[BaseModel], details: ErrorDetails) -> str:
    location: Location = details["loc"]
    key = ".".join(str(part) for part in location if part != "[key]")
    match details["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; {_advice(str(location[-1]), _keys_at(model, location[:-1]))}"
        case "missing":
            return f"{key}: missing key; add it"
        case "literal_error":
            allowed = details["ctx"]["expected"]
            return f"{key}: {details['input']!r} is unknown; it is one of {allowed}"
        case "string_pattern_mismatch":
            return f"{key}: {details['input']!r} is no name; use a-z, 0-9 and _, beginning with a letter"
        case _:
            message, value = details["msg"], details["input"]
            return f"{key}: {message[0].lower()}{message[1:]}; it is {value!r} ({type(value).__name__})"


def _advice(wrong: str, known: Iterable[str]) -> str:
    close = get_close_matches(wrong, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"


def _keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """List the keys that a place in the file may have, by walking the model's annotations."""
    found: Any = model
    for part in location:
        found = _without_none(found)
        if get_origin(found) in (dict, tuple):
            # dict[Name, X] holds X, and tuple[X, ...] holds X.
            found = [kind for kind in get_args(found) if isinstance(kind, type)][-1]
        else:
            found = found.model_fields[part].annotation
    return list(_without_none(found).model_fields)


def _without_none(kind: Any) -> Any:
    """Return X for the annotation `X | None`."""
    return get_args(kind)[0] if get_origin(kind) is UnionType else kind


def find_layout_faults(content: Mapping[str, Any], *, known: Iterable[str]) -> list[str]:
    """Find what stands at the top of the file and cannot be there: other faults would only follow from it.

    Parameters:
        content: the file.
        known: the keys of a topology. A table of another name belongs to the application, unless its name
            looks like one of these.
    """
    return [*_top_faults(content, list(known)), *_tree_faults(content)]


def _top_faults(content: Mapping[str, Any], known: list[str]) -> Iterator[str]:
    for key, value in content.items():
        if key in {"backend", "buckets"}:
            yield f"{key}: belongs to a tree; move it into [trees.NAME]"
        elif key not in known and (
            not isinstance(value, dict) or get_close_matches(key, known, n=1, cutoff=0.8)
        ):
            yield f"{key}: unknown key; {_advice(key, known)}"


def _tree_faults(content: Mapping[str, Any]) -> Iterator[str]:
    """Find trees without a section. None is guessed: read as `single`, the shards would lose their guard."""
    trees, databases = content.get("trees", {}), content.get("databases", {})
    if not isinstance(trees, dict) or not isinstance(databases, dict):
        return
    wanted = [base.get("tree") for base in databases.values() if isinstance(base, dict)]
    names = {name for name in wanted if isinstance(name, str)} - trees.keys()
    for name in sorted(names):
        yield (
            f'trees.{name}: missing section; add [trees.{name}] with kind = "single", "sharded" or '
            '"directory"'
        )


def find_conflicts(topology: TopologyModel) -> list[str]:
    """Find what is well formed but cannot work: names, places or numbers that contradict each other."""
    trees = list(_kind_faults(topology))
    return [
        *trees,
        *_bucket_faults(topology),
        *_address_faults(topology),
        *_replica_faults(topology),
        *_citus_faults(topology),
        # Whose databases a service uses, the trees say.
        *(() if trees else _pooler_faults(topology)),
    ]


def _kind_faults(topology: TopologyModel) -> Iterator[str]:
    directories = topology.names_of_kind("directory")
    for name, tree in topology.trees.items():
        databases = topology.databases_of(name)
        if not databases:
            yield (
                f"trees.{name}: no database has this tree; add [databases.NAME] with tree = {name!r}, "
                "or remove it"
            )
        if tree.kind == "directory" and len(databases) > 1:
            yield (
                f"trees.{name}: a directory is one database, and {', '.join(databases)} are "
                f"{len(databases)}; give the others trees of their own"
            )
        if tree.kind == "single" and len(databases) > 1:
            yield (
                f"trees.{name}.kind: {', '.join(databases)} are {len(databases)} databases, and 'single' has "
                "one; give the others trees of their own, or make it 'sharded'"
            )
        yield from _directory_faults(name, tree, directories)


def _directory_faults(name: str, tree: Tree, directories: list[str]) -> Iterator[str]:
    key = f"trees.{name}.directory"
    if tree.kind == "directory":
        if tree.directory is not None:
            yield f"{key}: a directory has none itself; remove the key"
    elif tree.directory is not None:
        if tree.directory not in directories:
            known = ", ".join(directories) or "none"
            yield f"{key}: {tree.directory!r} is no tree of kind 'directory'; known are {known}"
    elif len(directories) > 1:
        yield f"{key}: missing key; there are several directories, so name one of {', '.join(directories)}"
    elif not directories and tree.kind == "sharded" and tree.backend != "citus":
        yield (
            f"{key}: a sharded tree needs a directory, which keeps its shard map; add [trees.directory] with "
            'kind = "directory", and a database with tree = "directory"'
        )


def _bucket_faults(topology: TopologyModel) -> Iterator[str]:
    for name, tree in topology.trees.items():
        buckets = tree.buckets
        if not 1 <= buckets <= _HASHES or buckets & (buckets - 1):
            yield (
                f"trees.{name}.buckets: {buckets} does not divide the hash range; use a power of two, "
                "such as 64"
            )


def _address_faults(topology: TopologyModel) -> Iterator[str]:
    first: dict[tuple[str, int, str], str] = {}
    for name, database in topology.databases.items():
        place = (database.primary.host, database.primary.port, database.dbname)
        holder = first.setdefault(place, name)
        if holder != name:
            host, port, dbname = place
            yield (
                f"databases.{name}.dbname: {dbname!r} on {host}:{port} is databases.{holder} already; "
                "give it a dbname or a primary of its own"
            )


def _replica_faults(topology: TopologyModel) -> Iterator[str]:
    counts = Counter(
        replica.name for database in topology.databases.values() for replica in database.replicas
    )
    for name, database in topology.databases.items():
        for index, replica in enumerate(database.replicas):
            if counts[replica.name] > 1:
                yield f"databases.{name}.replicas.{index}.name: {replica.name!r} is used twice; rename one"


def _citus_faults(topology: TopologyModel) -> Iterator[str]:
    """With Citus there is one database to talk to, the coordinator; it knows the workers."""
    for name, tree in topology.trees.items():
        if tree.backend != "citus":
            continue
        if tree.kind != "sharded":
            yield f"trees.{name}.backend: 'citus' is for a tree of kind 'sharded'; remove the key"
            continue
        shards = topology.databases_of(name)
        if len(shards) > 1:
            yield (
                f"trees.{name}.backend: with 'citus' a tree has one database, the coordinator, and not "
                f"{len(shards)} ({', '.join(shards)}): it knows its workers itself"
            )
        for shard, database in shards.items():
            if database.replicas:
                yield (
                    f"databases.{shard}.replicas: with 'citus' the rows are on the workers, and a replica of "
                    "the coordinator would say nothing about how fresh they are: remove it"
                )


def _pooler_faults(topology: TopologyModel) -> Iterator[str]:
    """Find what is well formed in [pgbouncer] but cannot work."""
    pooler = topology.pgbouncer
    if pooler is None:
        return
    if pooler.processes > 1 and pooler.socket_dir is None:
        yield (
            f"pgbouncer.socket_dir: missing key; {pooler.processes} processes share one port, so give a "
            "folder for the sockets by which each is administered"
        )
    yield from _service_faults(topology)
    yield from _node_faults(topology, pooler)


def _service_faults(topology: TopologyModel) -> Iterator[str]:
    for name, service in services_of(topology).items():
        key = f"pgbouncer.services.{name}.databases"
        if not databases_of_service(topology, name, service):
            yield f"{key}: missing key; no tree has the role {name!r}, so list the databases that it uses"
        for database in service.databases or ():
            if database not in topology.databases:
                yield f"{key}: {database!r} is no database of this file; add or remove it"


def _node_faults(topology: TopologyModel, pooler: PgBouncer) -> Iterator[str]:
    for name, database in topology.databases.items():
        if (pooler.host, pooler.port) == (database.primary.host, database.primary.port):
            yield (
                f"pgbouncer.port: {pooler.host}:{pooler.port} is databases.{name}.primary; "
                "give the pooler a port of its own"
            )
        for index, replica in enumerate(database.replicas):
            if replica.name in topology.databases:
                yield (
                    f"databases.{name}.replicas.{index}.name: {replica.name!r} is a database, too, and the "
                    "pooler could not tell them apart; rename the replica"
                )
