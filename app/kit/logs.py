"""Logs of a service: one JSON object per line in the names of the Elastic Common Schema (ECS).

The application logs by structlog, and names an event and short facts: `log.info("message_sent", stream=...)`.
Our libraries log by the standard library's logging, with fields in `extra`, and others' by text alone: their
lines look the same. A `LogSchema` says which field of ECS each fact is; what it does not know is one of ours,
`mes_storage.NAME`. What is bound to the context (`bind`) stands in every line.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, Protocol, Self, TextIO, cast
from uuid import uuid4

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from app import instruments
from app.kit.log_masks import mask, mask_text
from app.kit.log_writer import DescriptorOutput, LogWriter, NoOutput, Output, RotatingFile, StreamOutput

QUIET_SECONDS = 60.0
"""How long a fault that was logged is only counted."""

ECS_VERSION = "9.4.0"
"""The version of ECS whose names and types are used; app/console/monitoring/elastic/ecs.json has them."""

OURS = "mes_storage."
"""The beginning of fields that ECS does not have."""

_MOST_KINDS = 1000
# What differs between two occurrences of one fault.
_VARYING = frozenset(
    {"timestamp", "path", "message_id", "attempt", "duration_ns", "trace_id", "span_id", "exception"}
)
_ORDER = frozenset({"order_id"})
# Our libraries' loggers: what their records bear beside this is a field, from `extra`.
_LIBRARIES = frozenset({"partitions", "readreplica", "sharding"})
_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

DROPPED = "log_lines_dropped"


@dataclass(frozen=True)
class LogSchema:
    """What the lines of an application hold.

    `fields`: the ECS name of each short one; `outcomes`: `event.outcome` where the level does not say it;
    `texts`: facts whose values are identifiers, and so text, whatever they are in the program.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    outcomes: Mapping[str, str] = field(default_factory=dict)
    texts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LogFile:
    """A file for the lines, instead of stderr: its size, and how many older ones are kept."""

    path: Path
    max_bytes: int
    kept: int


class LineWriter(Protocol):
    """Takes lines, and never waits."""

    def write(self, line: str) -> None:
        """Take a line."""

    def close(self) -> None:
        """Write what was taken."""


@dataclass
class _Kind:
    """What was seen of one fault."""

    since: float
    last: logging.LogRecord
    held_back: int = 0


class Repeats:
    """Counts the faults that were logged a moment ago, so that only new ones are written.

    The fault of another order is another one, as long as there are not very many.
    """

    def __init__(
        self, *, quiet_seconds: float = QUIET_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._quiet_seconds = quiet_seconds
        self._clock = clock
        self._kinds: dict[Hashable, _Kind] = {}

    def admit(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record now; of one that is a fault, its like are counted from then on."""
        if record.levelno < logging.WARNING:
            return True
        key = _identity(record)
        if key not in self._kinds and len(self._kinds) >= _MOST_KINDS // 2:
            key = _identity(record, but=_ORDER)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) < _MOST_KINDS:
                self._kinds[key] = _Kind(self._clock(), record)
            return True
        kind.held_back += 1
        kind.last = record
        return False

    def due(self, *, all_of_them: bool = False) -> list[logging.LogRecord]:
        """Return the last of each fault whose quiet time is over, with `repeated`, and begin anew."""
        now = self._clock()
        ended = [
            key for key, kind in self._kinds.items() if all_of_them or now - kind.since >= self._quiet_seconds
        ]
        kinds = [(key, self._kinds.pop(key)) for key in ended]
        late = [(key, kind) for key, kind in kinds if kind.held_back]
        for key, kind in late:
            kind.last.repeated = kind.held_back
            self._kinds[key] = _Kind(now, kind.last)
        return [kind.last for _, kind in late]


def _identity(record: logging.LogRecord, *, but: frozenset[str] = frozenset()) -> Hashable:
    """Return what two records of one fault have in common."""
    if not isinstance(record.msg, dict):
        error = record.exc_info[1] if record.exc_info else None
        return record.name, record.levelno, str(record.msg), repr(error)
    facts = {name: fact for name, fact in record.msg.items() if name not in _VARYING | but}
    if "exception" in record.msg:
        facts["exception"] = str(record.msg["exception"]).rstrip().rpartition("\n")[2]
    return record.name, record.levelno, tuple(sorted((name, str(fact)) for name, fact in facts.items()))


class QuietHandler(logging.Handler):
    """Writes a fault that goes on happening once a minute, with how often it has."""

    def __init__(
        self,
        writer: LineWriter,
        repeats: Repeats,
        *,
        processors: Sequence[Processor] = (),
        schema: LogSchema | None = None,
    ) -> None:
        """Write lines.

        Parameters:
            writer: takes them.
            repeats: counts the faults that go on.
            processors: what makes an event of a library's record, as structlog does of the application's.
            schema: what the lines of `emit_each` hold.
        """
        super().__init__()
        self.writer = writer
        self._repeats = repeats
        self._processors = processors
        self._to_ecs = _ToEcs.by(schema)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it; and first what has been counted long enough."""
        try:
            for late in self._repeats.due():
                self.writer.write(self.format(late))
            if isinstance(record.msg, str) and self._processors:
                record = _as_event(record, self._processors)
            if record.levelno >= logging.ERROR and isinstance(record.msg, dict):
                # Each of them, also what is only counted here.
                instruments.error_logged(_action(record.msg) or record.name)
            if self._repeats.admit(record):
                self.writer.write(self.format(record))
        except Exception:  # as every handler of the standard library does: a line is not worth a request
            self.handleError(record)

    def emit_each(self, logger: logging.Logger, event: EventDict, each: Iterable[Mapping[str, Any]]) -> None:
        """Write a line of the level INFO for each of many, of which all but `each` is worked out once."""
        for process in self._processors:
            event = cast("EventDict", process(logger, "info", event))
        line = self._to_ecs(logger, "info", event)
        forms: dict[tuple[str, ...], _Form] = {}
        lines = []
        for facts in each:
            names = tuple([name for name, fact in facts.items() if fact is not None])
            if names not in forms:
                forms[names] = self._to_ecs.form(line, names)
            lines.append(forms[names].fill(facts))
        self.writer.write(*lines)

    def close(self) -> None:
        """Write what was counted."""
        for late in self._repeats.due(all_of_them=True):
            self.writer.write(self.format(late))
        self.writer.close()
        super().close()


def log_each(log: structlog.stdlib.BoundLogger, event: str, each: Collection[Mapping[str, Any]]) -> None:
    """Log an event at the level INFO for each of many, with the facts of each: a line costs a fifth.

    Parameters:
        log: the logger; what is bound to it stands in every line.
        event: the event's name.
        each: the facts of each.
    """
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, QuietHandler)]
    if not handlers:  # the program has logging of its own
        for facts in each:
            log.info(event, **facts)
        return
    logger = logging.getLogger(log.name)
    if each and logger.isEnabledFor(logging.INFO):
        for handler in handlers:
            handler.emit_each(logger, {**structlog.get_context(log), "event": event}, each)


def _as_event(record: logging.LogRecord, processors: Sequence[Processor]) -> logging.LogRecord:
    """Return a library's record as structlog would have made it, with the fields and the context of now."""
    facts = vars(record)
    is_ours = record.name.partition(".")[0] in _LIBRARIES
    event: EventDict = {}
    if is_ours:
        event.update((name, fact) for name, fact in facts.items() if name not in _OF_EVERY_RECORD)
    event["event"] = record.getMessage()
    if record.exc_info:
        event["exc_info"] = record.exc_info
    logger, level = logging.getLogger(record.name), record.levelname.lower()
    if not is_ours:
        event["is_text"] = True
    for process in processors:
        event = cast("EventDict", process(logger, level, event))
    made = {"msg": event, "args": (), "exc_info": None, "exc_text": None, "_logger": logger, "_name": level}
    return logging.makeLogRecord(facts | made)


_of_request: ContextVar[dict[str, Any]] = ContextVar("of_request")


def bind(**facts: Any) -> None:
    """Have these facts in every line from here on, and in the line of the request that this is a part of.

    A request is worked on in a task of its own, whose context the middleware does not see.
    """
    structlog.contextvars.bind_contextvars(**facts)
    _of_request.get({}).update(facts)


def begin_request(**facts: Any) -> dict[str, Any]:
    """Begin with these facts alone, and return where `bind` puts more of them."""
    structlog.contextvars.clear_contextvars()
    shared: dict[str, Any] = {}
    _of_request.set(shared)
    bind(**facts)
    return shared


def _name_error(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the type and the message of the error that the line is about."""
    about = event.get("exc_info")
    error = about if isinstance(about, BaseException) else None
    if about and error is None:
        error = (about if isinstance(about, tuple) else sys.exc_info())[1]
    if error is not None:
        event.setdefault("error", str(error))
        event.setdefault("error_type", f"{type(error).__module__}.{type(error).__qualname__}")
    return event


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the ids of the span that is being made, if one is."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _tell_repeated(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: Any = event["_record"]
    if repeated := getattr(record, "repeated", 0):
        event["repeated"] = repeated
    return event


_OF_ALL: Mapping[str, str] = {
    "timestamp": "@timestamp",
    "level": "log.level",
    "logger": "log.logger",
    "service": "service.name",
    "error": "error.message",
    "error_type": "error.type",
    "exception": "error.stack_trace",
    "trace_id": "trace.id",
    "span_id": "span.id",
}
_OF_NONE = frozenset({"event", "is_text"})
_FAULTS = frozenset({"warning", "error", "critical"})


def _action(event: Mapping[str, Any]) -> str | None:
    """Return `event.action`: an event's name, or our libraries' text as a name; None of another library's."""
    if event.get("is_text"):
        return None
    return _as_name(str(event["event"]))


@lru_cache(maxsize=1000)
def _as_name(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_").lower()


@dataclass(frozen=True)
class _ToEcs:
    """Renames the facts of a line, masks what must not stand in one, and adds what all have."""

    schema: LogSchema
    names: Mapping[str, str]
    pid: int = field(default_factory=os.getpid)

    @classmethod
    def by(cls, schema: LogSchema | None) -> Self:
        """Return the one of a schema."""
        schema = schema or LogSchema()
        return cls(schema, {**_OF_ALL, **schema.fields})

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        line = self.renamed(event)
        action = _action(event)
        if action is not None:
            line["event.action"] = action
            default = "failure" if event.get("level") in _FAULTS else "success"
            line["event.outcome"] = self.schema.outcomes.get(action, default)
        # Masked first: a key is known by its underscores.
        line["event"] = mask_text(str(event["event"])).replace("_", " ").strip()
        line["process.pid"] = self.pid
        return line

    def renamed(self, event: Mapping[str, Any]) -> EventDict:
        """Return facts by their names in ECS, without what must not be seen."""
        names, texts = self.names, self.schema.texts
        return {
            names.get(name) or f"{OURS}{name}": mask(name, str(fact) if name in texts else fact)
            for name, fact in event.items()
            if name not in _OF_NONE and fact is not None
        }

    def form(self, line: Mapping[str, Any], names: Sequence[str]) -> "_Form":
        """Return the form of a line, made of what all have, with room for facts of these names."""
        room = uuid4().hex
        empty = {self.names.get(name) or f"{OURS}{name}": f"{room}{at}" for at, name in enumerate(names)}
        *parts, end = re.split(f'"{room}([0-9]+)"', _to_line(None, "info", {**line, **empty}))
        before = [(text, names[int(at)]) for text, at in zip(parts[::2], parts[1::2], strict=True)]
        return _Form(before, end, frozenset(self.schema.texts))


@dataclass(frozen=True)
class _Form:
    """A line but for some of its facts: what stands before each, and its name; and what stands at the end."""

    before: Sequence[tuple[str, str]]
    end: str
    texts: frozenset[str]

    def fill(self, facts: Mapping[str, Any]) -> str:
        """Write the line with these facts."""
        written = self._written
        return "".join([f"{before}{written(name, facts[name])}" for before, name in self.before]) + self.end

    def _written(self, name: str, fact: Any) -> str:
        shown = mask(name, str(fact) if name in self.texts else fact)
        if type(shown) is str:
            return encode_basestring(shown)
        return str(shown) if type(shown) is int else _ENCODER.encode(shown)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=repr)
# ECS wants these at the beginning of a line, for the eye of a reader; the level is not within another field.
_FIRST = ("@timestamp", "log.level", "message")


@lru_cache(maxsize=1000)
def _parts(name: str) -> tuple[tuple[str, ...], str]:
    *outer, last = name.split(".")
    return tuple(outer), last


def _to_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Write the facts of a line as JSON, with a field a.b as b within a.

    ecs-logging makes the same line, and takes a third of the time of a whole line longer.
    """
    line = {**event, "ecs.version": ECS_VERSION, "message": event["event"]}
    del line["event"]
    first = ",".join(f'"{name}":{_ENCODER.encode(line.pop(name))}' for name in _FIRST)
    nested: dict[str, Any] = {}
    for name, fact in line.items():
        outer, last = _parts(name)
        inner = nested
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = fact
    return f"{{{first},{_ENCODER.encode(nested)[1:]}"


def configure_logging(
    service: str, *, level: str, schema: LogSchema | None = None, file: LogFile | None = None
) -> None:
    """Write every log line of this process as JSON; see `QuietHandler` and `LogWriter`.

    Parameters:
        service: stands in each line.
        level: the least severe level that is written, such as "info".
        schema: what the lines hold.
        file: where they go; stderr without it.

    Raises:
        OSError: the file cannot be opened.
    """

    def name_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        _name_error,
        structlog.processors.format_exc_info,
        name_service,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *common,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=common,
        processors=[
            _tell_repeated,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _ToEcs.by(schema),
            _to_line,
        ],
    )

    def tell_dropped(count: int) -> str:
        return render_line(service, schema or LogSchema(), "warning", DROPPED, count=count)

    def count_dropped(count: int) -> None:
        instruments.telemetry_dropped("logs", count)

    writer = LogWriter(_output(file), tell_dropped=tell_dropped, count_dropped=count_dropped)
    handler = QuietHandler(writer, Repeats(), processors=common, schema=schema)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def render_line(service: str, schema: LogSchema, level: str, event: str, /, **facts: Any) -> str:
    """Return a line as `configure_logging` has them written, in the span of the caller."""
    now = datetime.now(UTC).isoformat()
    said: EventDict = {"event": event, "level": level, "logger": "logs", "service": service, "timestamp": now}
    ecs = _ToEcs.by(schema)(None, level, _add_trace(None, level, {**said, **facts}))
    return _to_line(None, level, ecs)


def _output(file: LogFile | None) -> Output:
    if file is not None:
        return RotatingFile(file.path, max_bytes=file.max_bytes, kept=file.kept)
    stream = cast("TextIO | None", sys.stderr)
    if stream is None:
        return NoOutput()
    try:
        return DescriptorOutput(stream.fileno())
    except (OSError, ValueError):  # it has none, or is closed
        return NoOutput() if stream.closed else StreamOutput(stream)
