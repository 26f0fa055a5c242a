"""Binds a unit of work to the shard of its key: a statement that names a key of another shard is refused.

What a statement names is found once for each compiled form, which SQLAlchemy keeps and uses again; an
execution then looks at its parameters only. So `get`, a flush, and `WHERE key = ...` or `IN (...)` are all
seen at the same place, where the statement is sent. A comparison of ranges names no key, and neither do
the forms that docs/explanation/sharding.md lists.

The guard of a shard is a CHECK, and a CHECK sees rows that are written. A writer with an old map, whose
bucket has moved away, would find no row, and get no error. So after an UPDATE that found no row, and after a
DELETE, the shard is asked whether it owns the keys (`ownership.ASK_OWNERSHIP`), in the same transaction.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import BindParameter, Column, Engine, Insert, Table, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BinaryExpression, Tuple
from sqlalchemy.util import immutabledict

from sharding.errors import OtherShard
from sharding.keys import shard_key_of
from sharding.ownership import ASK_OWNERSHIP, REFUSED, read_refusal
from sharding.private_api import driver_cursor
from sharding.shard_map import Route, Routing
from sharding.telemetry import UnitSpan

C = TypeVar("C")

_OPTION = "shard_unit"
_NAMES_A_KEY = frozenset({operators.eq, operators.in_op, operators.is_not_distinct_from})


class ShardBinding(Generic[C]):
    """A unit of work: the key that it was begun for, and the map and the shard that it began with.

    These are the hooks of a session (`readreplica.session_base.SessionHooks`).

    Parameters:
        key: the key of the unit.
        route: the shard that it began with.
        routing: the map that it began with.
        verifies: whether the shard is asked about rows that a statement has not found.
    """

    __slots__ = ("failed", "key", "route", "routing", "started", "statements", "verifies")

    def __init__(self, key: int, route: Route[C], routing: Routing[C], *, verifies: bool = False) -> None:
        self.verifies = verifies
        self.key = key
        self.route = route
        self.routing = routing
        self.statements = 0
        self.failed = False
        self.started: UnitSpan | None = None

    @property
    def options(self) -> immutabledict[str, Any]:
        """The execution options of each statement. Made at each access: kept, they would be a cycle."""
        return immutabledict({_OPTION: self})

    def count_statement(self) -> None:
        """Count a statement; the first one begins the unit."""
        if self.statements == 0 and self.route.meter is not None:
            self.started = self.route.meter.begin()
        self.statements += 1

    def close(self) -> None:
        """Record the unit in the metrics, and reset it for the next attempt."""
        if self.started is not None and self.route.meter is not None:
            self.route.meter.end(self.started, statements=self.statements, failed=self.failed)
        self.started, self.statements, self.failed = None, 0, False

    def check(self, named: Iterable["NamedKey"], parameters: Iterable[Mapping[str, Any]]) -> None:
        """Refuse keys of other shards.

        Raises:
            OtherShard: there is one.
            InvalidShardKey: a key is of a wrong type.
        """
        for values in parameters:
            for bind, table, is_list, place in named:
                if is_list:
                    for key in _listed(bind, values, place):
                        self._check_key(key, table)
                    continue
                value = values.get(bind)
                if value is not None and value != self.key:
                    self._check_key(value, table)

    def _check_key(self, key: Any, table: str) -> None:
        other = self.routing.route_of(key).shard
        if other != self.route.shard:
            raise OtherShard(
                key=self.key, shard=self.route.shard, other_key=key, other_shard=other, table=table
            )


class NamedKey(NamedTuple):
    """A parameter of a statement that is a shard key, and the table whose key it is."""

    bind: str
    table: str
    is_list: bool = False
    place: int = 0
    """Which value of each row is the key, from 1, if it is a list of tuples."""


def _listed(bind: str, values: Mapping[str, Any], place: int) -> Iterator[Any]:
    # Each value of an IN has become a parameter of its own: NAME_1, NAME_2, ...; of tuples NAME_1_1, ...
    for name, value in values.items():
        of, _, number = name.rpartition("_")
        if place:
            of = of.rpartition("_")[0] if number == str(place) else ""
        if of == bind:
            yield value


def keys_of(named: Iterable[NamedKey], parameters: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
    """Yield the keys that a statement names; NULL is no key, for no row has it."""
    for values in parameters:
        for bind, _table, is_list, place in named:
            found = _listed(bind, values, place) if is_list else (values.get(bind),)
            yield from (key for key in found if key is not None)


def register_checks(engine: Engine) -> None:
    """Register the events by which an engine checks the statements of units; a second time does nothing."""
    # The dialect's events. With one listener to the engine's own, each Connection would make itself
    # dispatchers for all of them: half of all that a routed read does beside a plain one.
    event.listen(engine, "do_execute", _execute)
    event.listen(engine, "do_executemany", _execute_many)
    event.listen(engine, "handle_error", _name_refusal, retval=True)


def _execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Check a statement; one of a unit that verifies is run here as well, to see how many rows it found."""
    binding = _check_statement(context)
    if binding is None or not binding.verifies:
        return False
    context.dialect.do_execute(cursor, statement, parameters, context)
    if may_miss_rows(cursor):
        _verify_keys(binding, context)
    return True


def _execute_many(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Do as `_execute` with a statement that is run for many sets of parameters."""
    binding = _check_statement(context)
    if binding is None or not binding.verifies:
        return False
    context.dialect.do_executemany(cursor, statement, parameters, context)
    if may_miss_rows(cursor, sent=len(parameters)):
        _verify_keys(binding, context)
    return True


def _verify_keys(binding: ShardBinding[Any], context: Any) -> None:
    named = getattr(context.compiled, "shard_keys", ())
    found = keys_of(named, context.compiled_parameters if named else ())
    verify_ownership(context.root_connection, {binding.key, *found})


def _check_statement(context: Any) -> ShardBinding[Any] | None:
    """Check a statement, and return the unit that it belongs to; None if it belongs to none."""
    binding: ShardBinding[Any] | None = context.execution_options.get(_OPTION)
    if binding is None:
        return None
    binding.count_statement()
    if context.compiled is not None:
        _check_compiled(binding, context)
    return binding


def _check_compiled(binding: ShardBinding[Any], context: Any) -> None:
    compiled = context.compiled
    try:
        named = compiled.shard_keys
    except AttributeError:
        named = compiled.shard_keys = tuple(named_keys(compiled))
    if named and not hasattr(context, "shard_keys_checked"):
        # An INSERT of many rows comes here once for each batch, always with all of its rows.
        context.shard_keys_checked = True
        binding.check(named, context.compiled_parameters)


def _name_refusal(context: ExceptionContext) -> BaseException | None:
    """Turn a shard's refusal into `BucketNotOwned`, and request that the map is read again."""
    binding = context.connection and context.connection.get_execution_options().get(_OPTION)
    if binding:
        binding.failed = True
    error: Any = context.original_exception
    if getattr(error, "sqlstate", None) != REFUSED:
        return None
    if binding:
        binding.routing.refused()
    return read_refusal(error.diag.message_detail)


def named_keys(compiled: Any) -> Iterable[NamedKey]:
    """Find the parameters of a compiled statement that are shard keys."""
    if not isinstance(compiled, SQLCompiler):
        return
    statement = compiled.statement
    if isinstance(statement, Insert) and isinstance(statement.table, Table):
        yield from _inserted(statement.table, compiled)
    by_key = {parameter.key: name for name, parameter in compiled.binds.items()}
    for part in visitors.iterate(statement) if statement is not None else ():
        if not isinstance(part, BinaryExpression) or part.operator not in _NAMES_A_KEY:
            continue
        for column, value, place in _pairs(part):
            table = _table_of_key(column)
            if table is not None and isinstance(value, BindParameter) and value.key in by_key:
                yield NamedKey(by_key[value.key], table, value.expanding, place)


def _pairs(part: BinaryExpression[Any]) -> Iterator[tuple[Any, Any, int]]:
    if part.operator is operators.in_op and not isinstance(part.right, BindParameter):
        # A list with expressions in it, or a query, which is walked by itself.
        for each in getattr(part.right, "clauses", ()):
            yield from _compared(part.left, each)
        return
    yield from _compared(part.left, part.right)


def _compared(left: Any, right: Any) -> Iterator[tuple[Any, Any, int]]:
    """Yield each pair that is compared, and for a list of tuples the place of the left one in them."""
    if isinstance(left, Tuple) and isinstance(right, Tuple):
        for pair in zip(left.clauses, right.clauses, strict=False):
            yield from _compared(*pair)
    elif isinstance(left, Tuple) and isinstance(right, BindParameter):
        for place, column in enumerate(left.clauses, start=1):
            yield column, right, place
    elif isinstance(right, BindParameter):
        yield left, right, 0
    elif isinstance(left, BindParameter):
        yield right, left, 0


def _inserted(table: Table, compiled: SQLCompiler) -> Iterable[NamedKey]:
    key = shard_key_of(table)
    for name in compiled.binds if key else ():
        # The rows of `values([{}, {}])` are numbered.
        if name == key or (name.startswith(f"{key}_m") and name.removeprefix(f"{key}_m").isdigit()):
            yield NamedKey(name, table.name)


def _table_of_key(column: Any) -> str | None:
    for base in getattr(column, "base_columns", ()):
        table = getattr(base, "table", None)
        if isinstance(base, Column) and table is not None and shard_key_of(table) == base.name:
            return str(table.name)
    return None


_NO_ROW = frozenset({"UPDATE 0", "INSERT 0 0"})


def may_miss_rows(cursor: Any, *, sent: int = 1) -> bool:
    """Return whether a statement may have found no row for one of its keys, or has deleted rows.

    Parameters:
        cursor: it has just run the statement; the server's command tag (`UPDATE 0`) covers text() too.
        sent: how many sets of parameters it was run with.
    """
    tag = driver_cursor(cursor).statusmessage or ""
    if tag.startswith(("DELETE", "MERGE")) or tag in _NO_ROW:
        return True
    return sent > 1 and tag.startswith("UPDATE") and bool(cursor.rowcount < sent)


def verify_ownership(connection: Any, keys: Iterable[int]) -> None:
    """Have the shard check that it owns some keys.

    Parameters:
        connection: SQLAlchemy's, in the transaction of the statement.
        keys: those that the statement names.

    Raises:
        psycopg.Error: it does not own one (SQLSTATE MS001).
    """
    cursor = connection.connection.cursor()
    try:
        cursor.execute(ASK_OWNERSHIP, {"keys": list(keys)})
    finally:
        cursor.close()
