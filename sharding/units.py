"""A unit of work stays on the shard of its key: a statement that names a key of another shard is refused.

What a statement names is found once for each compiled form, which SQLAlchemy keeps and uses again; an
execution then looks at its parameters only. So `get`, a flush, and `WHERE key = ...` or `IN (...)` are all
seen at the same place, where the statement goes out. A comparison of ranges names no key, and neither do
the forms that docs/sharding.md lists.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, Column, Engine, Insert, Table, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BinaryExpression, Tuple
from sqlalchemy.util import immutabledict

from sharding.errors import OtherShard
from sharding.keys import shard_key_of
from sharding.ownership import REFUSED, read_refusal
from sharding.shard_binding import may_miss_rows, verify_ownership
from sharding.shard_map import Route, Routing
from sharding.telemetry import UnitSpan

_OPTION = "shard_unit"
_NAMES_A_KEY = frozenset({operators.eq, operators.in_op, operators.is_not_distinct_from})


class Unit:
    """A unit of work: the key that it was begun for, and the map and the shard that it began with.

    With `asks` the shard is asked about the rows that a statement has not found (`sharding.shard_binding`).

    A session takes it along (`readreplica.session_base.SessionHooks`).
    """

    __slots__ = ("asks", "failed", "key", "route", "routing", "started", "statements")

    def __init__(self, key: int, route: Route[Any], routing: Routing[Any], *, asks: bool = False) -> None:
        self.asks = asks
        self.key = key
        self.route = route
        self.routing = routing
        self.statements = 0
        self.failed = False
        self.started: UnitSpan | None = None

    @property
    def options(self) -> immutabledict[str, Any]:
        """What each statement of the unit carries. Made when asked for: kept, it would be a cycle."""
        return immutabledict({_OPTION: self})

    def close(self) -> None:
        """Count it, and be ready to be done again."""
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
    """Give the keys that a statement has named; NULL is one that no row has."""
    for values in parameters:
        for bind, _table, is_list, place in named:
            found = _listed(bind, values, place) if is_list else (values.get(bind),)
            yield from (key for key in found if key is not None)


def watch_units(engine: Engine) -> None:
    """Have an engine check the statements of units, and name the shard's refusals; again, it does nothing."""
    # The dialect's events. With one listener to the engine's own, each Connection would make itself
    # dispatchers for all of them: half of all that a routed read does beside a plain one.
    event.listen(engine, "do_execute", _execute)
    event.listen(engine, "do_executemany", _execute_many)
    event.listen(engine, "handle_error", _name_refusal, retval=True)


def _execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Check a statement; one of a unit that asks is run here as well, to see what became of it."""
    unit: Unit | None = context.execution_options.get(_OPTION)
    if unit is None:
        return False
    _check_statement(unit, context)
    if not unit.asks:
        return False
    context.dialect.do_execute(cursor, statement, parameters, context)
    if may_miss_rows(cursor):
        _ask(unit, context)
    return True


def _execute_many(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Do as `_execute` with a statement that is run for many sets of parameters."""
    unit: Unit | None = context.execution_options.get(_OPTION)
    if unit is None:
        return False
    _check_statement(unit, context)
    if not unit.asks:
        return False
    context.dialect.do_executemany(cursor, statement, parameters, context)
    if may_miss_rows(cursor, sent=len(parameters)):
        _ask(unit, context)
    return True


def _ask(unit: Unit, context: Any) -> None:
    named = getattr(context.compiled, "shard_keys", ())
    verify_ownership(
        context.root_connection, {unit.key, *keys_of(named, context.compiled_parameters if named else ())}
    )


def _check_statement(unit: Unit, context: Any) -> None:
    if unit.statements == 0 and unit.route.meter is not None:
        unit.started = unit.route.meter.begin()
    unit.statements += 1
    compiled = context.compiled
    if compiled is None:
        return
    try:
        named = compiled.shard_keys
    except AttributeError:
        named = compiled.shard_keys = tuple(named_keys(compiled))
    if named and not hasattr(context, "shard_keys_checked"):
        # An INSERT of many rows comes here once for each batch, always with all of its rows.
        context.shard_keys_checked = True
        unit.check(named, context.compiled_parameters)


def _name_refusal(context: ExceptionContext) -> BaseException | None:
    """Turn a shard's refusal into `BucketNotOwned`, and have the map read again."""
    unit = context.connection and context.connection.get_execution_options().get(_OPTION)
    if unit:
        unit.failed = True
    error: Any = context.original_exception
    if getattr(error, "sqlstate", None) != REFUSED:
        return None
    if unit:
        unit.routing.refused()
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
    """Give each pair that is compared, and for a list of tuples the place of the left one in them."""
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
