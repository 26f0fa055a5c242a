"""A fault that goes on happening is logged once a minute, with a count."""

import ast
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from app.kit.logs import QuietHandler, Repeats, configure_logging
from app.log_events import SCHEMA
from ops.cli import WithFields

pytestmark = pytest.mark.field


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)


class Lines:
    """Writes at once."""

    dropped = 0

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        self._stream.write(f"{line}\n")

    def close(self) -> None:
        """There is nothing to wait for."""


def quiet(clock: Clock) -> tuple[logging.Logger, io.StringIO, QuietHandler]:
    stream, logger = io.StringIO(), logging.Logger("test")
    handler = QuietHandler(Lines(stream), Repeats(quiet_seconds=60, clock=clock))
    logger.addHandler(handler)
    return logger, stream, handler


def test_a_fault_is_written_once_and_then_counted() -> None:
    clock = Clock()
    logger, stream, _ = quiet(clock)
    for _ in range(1000):
        logger.warning("away: %s", 1)
    assert stream.getvalue() == "away: 1\n"
    clock.now = 61
    logger.info("another thing")
    assert stream.getvalue().splitlines() == ["away: 1", "away: 1", "another thing"]
    logger.warning("away: %s", 1)
    assert len(stream.getvalue().splitlines()) == 3
    clock.now = 200
    logger.warning("gone: %s", 2)
    assert stream.getvalue().splitlines()[3:] == ["away: 1", "gone: 2"]


def test_what_was_counted_is_written_at_the_end() -> None:
    logger, stream, handler = quiet(Clock())
    for _ in range(3):
        logger.error("away")
    handler.close()
    assert stream.getvalue().splitlines() == ["away", "away"]


def test_other_faults_and_news_are_written_each_time() -> None:
    logger, stream, _ = quiet(Clock())
    for number in range(3):
        logger.info("news")
        logger.warning(f"fault {number}")
        logger.error("died", exc_info=ValueError(number))
    assert stream.getvalue().count("news\n") == 3
    assert stream.getvalue().count("fault ") == 3
    assert stream.getvalue().count("ValueError: ") == 3


def test_faults_of_many_kinds_take_no_more_memory() -> None:
    logger, stream, handler = quiet(Clock())
    for number in range(5000):
        logger.warning(f"fault {number}")
    assert stream.getvalue().count("fault") == 5000
    assert len(handler._repeats._kinds) == 1000


@pytest.mark.usefixtures("restored")
def test_the_fault_of_another_order_is_another_one_but_not_of_very_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging("shop", level="info", schema=SCHEMA)
    log = structlog.get_logger("problem")
    for order_id in range(5000):
        log.error("unavailable", order_id=order_id % 2500, error="away")
    for handler in logging.getLogger().handlers:
        handler.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    named = {line["order"]["id"] for line in lines}
    assert {str(order_id) for order_id in range(500)} <= named
    assert len(lines) < 1100
    said = sum(1 + line.get("mes_storage", {}).get("repeated", 0) for line in lines)
    assert said >= 5000, "each is written or counted"


@pytest.mark.usefixtures("restored")
def test_lines_tell_how_often(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging("shop", level="info", schema=SCHEMA)
    log = structlog.get_logger("problem")
    for number in range(5):
        log.warning("unavailable", path=f"/v1/orders/{number}", error="away")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    for handler in logging.getLogger().handlers:
        handler.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["message"], line.get("mes_storage", {}).get("repeated")) for line in lines] == [
        ("unavailable", None),
        ("Invalid HTTP request received.", None),
        ("unavailable", 4),
        ("Invalid HTTP request received.", 1),
    ]
    assert lines[2]["url"]["path"] == "/v1/orders/4"


LIBRARY_FAULTS = (("mes_1", "lagging"), ("mes_1", "lagging"), ("mes_2", "lagging"))


@pytest.mark.usefixtures("restored")
def test_records_of_the_libraries_are_lines_like_those_of_the_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging("shop", level="info")
    library = logging.getLogger("sharding.directory")
    ours = structlog.get_logger("sharding.directory")
    for replica, fault in LIBRARY_FAULTS:
        with structlog.contextvars.bound_contextvars(message_id=f"of {replica}"):
            library.warning("replica taken out", extra={"replica": replica, "fault": fault})
    library.debug("not written", extra={"replica": "mes_1"})
    for handler in logging.getLogger().handlers:
        handler.close()
    said = stream.getvalue().splitlines()
    stream.truncate(0)
    stream.seek(0)
    configure_logging("shop", level="info")
    for replica, fault in LIBRARY_FAULTS:
        with structlog.contextvars.bound_contextvars(message_id=f"of {replica}"):
            ours.warning("replica taken out", replica=replica, fault=fault)
    for handler in logging.getLogger().handlers:
        handler.close()
    assert [without_time(line) for line in said] == [
        without_time(line) for line in stream.getvalue().splitlines()
    ]
    facts = [json.loads(line)["mes_storage"] for line in said]
    assert [(line["replica"], line.get("repeated")) for line in facts] == [
        ("mes_1", None),
        ("mes_2", None),
        ("mes_1", 1),
    ]


def without_time(line: str) -> list[tuple[str, object]]:
    """The keys and values of a line, in their order."""
    return [(key, value) for key, value in json.loads(line).items() if key != "@timestamp"]


@pytest.mark.usefixtures("restored")
def test_an_error_of_a_library_bears_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging("shop", level="info")
    try:
        int("of a library")
    except ValueError:
        logging.getLogger("readreplica").exception("died", extra={"cluster": "mes_0"})
    for handler in logging.getLogger().handlers:
        handler.close()
    [line] = map(json.loads, stream.getvalue().splitlines())
    assert (line["event"]["action"], line["mes_storage"]["cluster"]) == ("died", "mes_0")
    assert (line["log"]["logger"], line["log.level"]) == ("readreplica", "error")
    assert line["error"]["stack_trace"].endswith("'of a library'")
    assert line["error"]["type"] == "builtins.ValueError"


def fields_of_libraries() -> Iterator[tuple[str, str]]:
    """Yield file and name of each field that a library logs."""
    for package in ("partitions", "readreplica", "sharding"):
        for file in (Path(__file__).parents[2] / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.keyword) and node.arg == "extra" and isinstance(node.value, ast.Dict):
                    yield from ((file.name, ast.literal_eval(key)) for key in node.value.keys if key)


def test_no_field_has_the_name_of_what_every_record_has() -> None:
    """The standard library raises KeyError for one, at the moment when there is something to say."""
    fields = list(fields_of_libraries())
    assert len(fields) > 20
    record = logging.makeLogRecord({})
    assert [each for each in fields if hasattr(record, each[1]) or each[1] in {"message", "asctime"}] == []


def test_mesctl_writes_the_fields_of_a_record_behind_its_message() -> None:
    facts = {"msg": "new primary", "levelname": "WARNING", "node": "db1:5432", "timeline": 2}
    line = WithFields("%(levelname)s: %(message)s").format(logging.makeLogRecord(facts))
    assert line == "WARNING: new primary node='db1:5432' timeline=2"
