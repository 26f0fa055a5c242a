"""Logs of a service: one JSON object per line on stderr, the libraries' lines included.

The application logs by structlog. Our libraries log by the standard library's logging, with fields in
`extra`: their lines look the same.
"""

import logging
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

QUIET_SECONDS = 60.0
"""How long a fault that was logged is only counted."""

_MOST_KINDS = 1000
# What differs between two occurrences of one fault.
_VARYING = frozenset({"timestamp", "path", "order_id", "message_id", "attempt"})
# Our libraries' loggers: what their records bear beside this is a field, from `extra`.
_LIBRARIES = frozenset({"partitions", "readreplica", "sharding"})
_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@dataclass
class _Kind:
    """What was seen of one fault."""

    since: float
    last: logging.LogRecord
    held_back: int = 0


class Repeats:
    """Counts the faults that were logged a moment ago, so that only new ones are written."""

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


def _identity(record: logging.LogRecord) -> Hashable:
    """Return what two records of one fault have in common."""
    if not isinstance(record.msg, dict):
        error = record.exc_info[1] if record.exc_info else None
        return record.name, record.levelno, str(record.msg), repr(error)
    facts = {name: fact for name, fact in record.msg.items() if name not in _VARYING}
    if "exception" in facts:
        facts["exception"] = str(facts["exception"]).rstrip().rpartition("\n")[2]
    return record.name, record.levelno, tuple(sorted((name, str(fact)) for name, fact in facts.items()))


class QuietHandler(logging.StreamHandler[TextIO]):
    """Writes a fault that goes on happening once a minute, with how often it has."""

    def __init__(self, stream: TextIO, repeats: Repeats, *, processors: Sequence[Processor] = ()) -> None:
        """Write to a stream.

        Parameters:
            stream: where the lines go.
            repeats: counts the faults that go on.
            processors: what makes an event of a library's record, as structlog does of the application's.
        """
        super().__init__(stream)
        self._repeats = repeats
        self._processors = processors

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it; and first what has been counted long enough."""
        for late in self._repeats.due():
            super().emit(late)
        if isinstance(record.msg, str) and record.name.partition(".")[0] in _LIBRARIES:
            record = _as_event(record, self._processors)
        if self._repeats.admit(record):
            super().emit(record)

    def close(self) -> None:
        """Write what was counted."""
        for late in self._repeats.due(all_of_them=True):
            super().emit(late)
        super().close()


def _as_event(record: logging.LogRecord, processors: Sequence[Processor]) -> logging.LogRecord:
    """Return a library's record as structlog would have made it, with the fields and the context of now."""
    facts = vars(record)
    event: EventDict = {name: fact for name, fact in facts.items() if name not in _OF_EVERY_RECORD}
    event["event"] = record.getMessage()
    if record.exc_info:
        event["exc_info"] = record.exc_info
    logger, level = logging.getLogger(record.name), record.levelname.lower()
    for process in processors:
        event = cast("EventDict", process(logger, level, event))
    made = {"msg": event, "args": (), "exc_info": None, "exc_text": None, "_logger": logger, "_name": level}
    return logging.makeLogRecord(facts | made)


def _tell_repeated(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: Any = event["_record"]
    if repeated := getattr(record, "repeated", 0):
        event["repeated"] = repeated
    return event


def configure_logging(service: str, *, level: str) -> None:
    """Send every log line of this process to stderr as JSON; see `QuietHandler`.

    Parameters:
        service: stands in each line.
        level: the least severe level that is written, such as "info".
    """

    def name_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
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
    handler = QuietHandler(sys.stderr, Repeats(), processors=common)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            # For lines that come from the standard library's logging: uvicorn's, for example.
            foreign_pre_chain=common,
            processors=[
                _tell_repeated,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
