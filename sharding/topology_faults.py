"""What is wrong with a topology, in words: one line per fault, with the key and the fix. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sharding.pooler import find_pooler_faults

if TYPE_CHECKING:
    from sharding.topology import Topology

Location = tuple[int | str, ...]
_HASHES = 1 << 32


def describe(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Put pydantic's findings into one line each.

    Parameters:
        model: the model that was to be read; it tells which keys there could be.
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
    """Give X for the annotation `X | None`."""
    return get_args(kind)[0] if get_origin(kind) is UnionType else kind


def find_conflicts(topology: "Topology") -> list[str]:
    """Find what is well formed but cannot work: names, places or numbers that contradict each other."""
    return [
        *_bucket_faults(topology.buckets),
        *_place_faults(topology),
        *_replica_faults(topology),
        *_citus_faults(topology),
        *find_pooler_faults(topology),
    ]


def _bucket_faults(buckets: int) -> Iterator[str]:
    if not 1 <= buckets <= _HASHES or buckets & (buckets - 1):
        yield f"buckets: {buckets} does not divide the hash range; use a power of two, such as 64"


def _place_faults(topology: "Topology") -> Iterator[str]:
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


def _replica_faults(topology: "Topology") -> Iterator[str]:
    counts = Counter(
        replica.name for database in topology.databases.values() for replica in database.replicas
    )
    for name, database in topology.databases.items():
        for index, replica in enumerate(database.replicas):
            if counts[replica.name] > 1:
                yield f"databases.{name}.replicas.{index}.name: {replica.name!r} is used twice; rename one"


def _citus_faults(topology: "Topology") -> Iterator[str]:
    """With Citus there is one database to talk to, the coordinator; it knows the workers."""
    if topology.backend != "citus":
        return
    shards = topology.tree("mes")
    if len(shards) != 1:
        yield (
            f"backend: with 'citus' one database has the tree 'mes', the coordinator, and not {len(shards)} "
            f"({', '.join(shards) or 'none'}): it knows its workers itself"
        )
    for name, database in shards.items():
        if database.replicas:
            yield (
                f"databases.{name}.replicas: with 'citus' the rows are on the workers, and a replica of the "
                "coordinator would tell nothing about how fresh they are: remove it"
            )
