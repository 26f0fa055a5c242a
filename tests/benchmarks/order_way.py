"""Count the modules that an order's id passes through, from an endpoint to COMMIT.

A module counts if one of its functions is called with the id: the int itself, or data that holds it (a
dataclass, a Pydantic model, a mapped object, a tuple, a dictionary). What carries the id but is opaque to its
callee does not count: a unit of work, which is a callable, and the hooks of a session, of which `readreplica`
reads nothing. Who follows the id need not open that module; `OrderWay.carriers` names it.

Only our packages count, and only calls made for the request: other tasks work on the same orders beside it.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from types import CodeType, FrameType, FunctionType
from typing import Any

import greenlet  # type: ignore[import-untyped]  # it ships no types
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase

PACKAGES = frozenset(("app", "sharding", "readreplica", "partitions"))
COMMIT = "readreplica.connections", "commit"
_VARARGS, _VARKEYWORDS = 0x04, 0x08
_IS_TRACED: ContextVar[bool] = ContextVar("order_way_is_traced", default=False)


@dataclass
class OrderWay:
    """The modules that received each integer, in that order, with the first function that did.

    Parameters:
        begins_in: how the name of the first module ends, such as ".endpoints"; nothing before it counts.
        received: by integer, for an order's id is not known before the order is made.
        opaque: the same for modules that got the integer in something that they do not look into.
        is_committed: whether COMMIT was reached, at which the counting ends.
    """

    begins_in: str = ""
    received: dict[int, dict[str, str]] = field(default_factory=dict)
    opaque: dict[int, dict[str, str]] = field(default_factory=dict)
    is_committed: bool = False
    _has_begun: bool = False

    def modules(self, order_id: int) -> Mapping[str, str]:
        """Return the modules in which a function received the id, each with that function."""
        return self.received.get(order_id, {})

    def carriers(self, order_id: int) -> Mapping[str, str]:
        """Return the modules through which the id went in something opaque only."""
        passed = self.opaque.get(order_id, {})
        return {name: function for name, function in passed.items() if name not in self.modules(order_id)}

    def describe(self, order_id: int) -> str:
        """Return one line for each module: its place, its name and the function."""
        lines = [
            f"{place:2}. {module} ({function})"
            for place, (module, function) in enumerate(self.modules(order_id).items(), start=1)
        ]
        carriers = ", ".join(f"{name} ({function})" for name, function in self.carriers(order_id).items())
        return "\n".join([*lines, f"carried unread through: {carriers or 'no module'}"])

    def profile(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Look at one call; `sys.setprofile` takes this."""
        if event != "call" or self.is_committed or not _IS_TRACED.get():
            return
        module, code = str(frame.f_globals.get("__name__", "")), frame.f_code
        if module.partition(".")[0] not in PACKAGES:
            return
        self._has_begun = self._has_begun or module.endswith(self.begins_in)
        if (module, code.co_name) == COMMIT:
            self.is_committed = True
        elif self._has_begun:
            self._note(module, code.co_name, _arguments(code, frame.f_locals))

    def _note(self, module: str, function: str, arguments: list[Any]) -> None:
        for argument in arguments:
            for found in _integers(argument):
                self.received.setdefault(found, {}).setdefault(module, function)
            for found in _hidden_integers(argument):
                self.opaque.setdefault(found, {}).setdefault(module, function)


def _arguments(code: CodeType, values: Mapping[str, Any]) -> list[Any]:
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & _VARARGS) + bool(code.co_flags & _VARKEYWORDS)
    return [values[name] for name in code.co_varnames[:count] if name in values]


def _integers(value: Any, *, depth: int = 2) -> Iterator[int]:
    """Yield the integers that an argument is, or holds as data."""
    if type(value) is int:
        yield value
    elif depth:
        for part in _parts(value):
            yield from _integers(part, depth=depth - 1)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, BaseModel | DeclarativeBase):
        return list(vars(value).values())
    if is_dataclass(value):
        return [getattr(value, name, None) for name in value.__dataclass_fields__]
    return []


def _hidden_integers(value: Any) -> Iterator[int]:
    """Yield the integers in a callable (what is bound to it), or in an object that is no data."""
    parts: list[Any] = []
    if isinstance(value, partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, FunctionType):
        parts = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    elif hasattr(type(value), "__slots__") and type(value).__module__.partition(".")[0] in PACKAGES:
        parts = [getattr(value, name, None) for name in type(value).__slots__]
    for part in parts:
        yield from _integers(part)
        if isinstance(part, partial | FunctionType):
            yield from _hidden_integers(part)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


@contextmanager
def tracing(*, begins_in: str = "") -> Iterator[OrderWay]:
    """Record what the calls of this context receive; the tasks that it starts have the same context.

    SQLAlchemy runs the statements of asyncio in greenlets, and a profile function is each greenlet's own.

    Parameters:
        begins_in: how the name of the first module that counts ends.

    Yields:
        The way, which is complete once COMMIT was reached.
    """
    way = OrderWay(begins_in)
    earlier = greenlet.gettrace()

    def switched(_event: str, _greenlets: tuple[Any, Any]) -> None:
        sys.setprofile(way.profile)

    token = _IS_TRACED.set(True)
    greenlet.settrace(switched)
    sys.setprofile(way.profile)
    try:
        yield way
    finally:
        sys.setprofile(None)
        greenlet.settrace(earlier)
        _IS_TRACED.reset(token)
