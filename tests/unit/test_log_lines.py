"""What lines never hold, and what becomes of them when they cannot be written."""

import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from app.console.logs import flat
from app.kit import log_writer
from app.kit.log_masks import LONGEST_TEXT, mask, mask_text
from app.kit.log_writer import MOST_BYTES, LogWriter, RotatingFile
from app.kit.logs import QuietHandler, bind, configure_logging, log_each
from app.log_events import SCHEMA
from ops.waiting import wait_until
from tests.unit.test_services_logs import restored

__all__ = ["restored"]

SECRETS = [
    "connection to postgresql://shop:hunter2@db1:5432/shop failed",
    "redis://:hunter2@cache:6379/0 is away",
    "password=hunter2 host=db1",
    "Authorization: hunter2, and more",
    "'db_password': 'hunter2'",
    "[SQL: INSERT INTO orders]\n[parameters: {'name': 'Ada', 'street': 'hunter2'}]\n(Background: x)",
    "DETAIL:  Failing row contains (17, Ada, hunter2, 4).",
    "DETAIL:  Key (customer_name)=(hunter2) already exists.",
    "there is no customer hunter2@example.org",
    "GET /v1/orders?key=mk_4q0z8kx1c7vd_hunter2hunter2hunter2hunter2",
    "GET /v1/orders?key=mt_4q0z8kx1c7vd_hunter2hunter2hunter2hunter2",
    "nothing opens by eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxNyJ9hunter2.c2lnbmF0dXJl",
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_in_a_text_is_masked(text: str) -> None:
    masked = mask_text(text)
    assert "hunter2" not in masked
    assert "***" in masked


@pytest.mark.parametrize(
    "name",
    [
        *("password", "db_passwd", "cursor_secret", "Authorization", "cookie", "api_key", "causal_token"),
        *("email", "customer_email", "customer_name", "phone", "street", "postcode", "client_ip"),
        "delivery_address",
    ],
)
def test_a_fact_with_the_name_of_a_secret_or_of_an_address_is_masked(name: str) -> None:
    assert mask(name, "hunter2") == "***"
    assert mask("detail", {"order": {name: ["hunter2"]}}) == {"order": {name: "***"}}


@pytest.mark.parametrize(
    "text",
    [
        "order 17 is SHIPPED and cannot become PACKAGING",
        "connection failed: host db1:5432, role shop",
        "set MES_STORAGE_TOKEN_KEYS in every process",
        "key 'k1' of crm is not among MES_STORAGE_MESSAGE_KEYS",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask_text(text) == text
    assert mask("address", "db1:5432") == "db1:5432"


def test_a_text_is_cut_off() -> None:
    assert len(mask_text("x" * 10**6)) < LONGEST_TEXT + 50


@pytest.mark.parametrize(
    "piece", ["a-", "secret-", "a.", "a+", "://a", "a@", "[parameters: ", ")=(", "'a", "mk_a", "eyJa."]
)
def test_masking_costs_no_square_of_a_strangers_text(piece: str) -> None:
    """Ten times the text takes about ten times as long, and not a hundred times."""

    def seconds(text: str) -> float:
        started = time.process_time()
        for _ in range(3):
            mask_text(text)
        return time.process_time() - started

    short, long = (f"/{piece * (size // len(piece))}:@=" for size in (1_500, 15_000))
    assert seconds(long) < 40 * seconds(short) + 0.05


def test_credentials_are_masked_with_their_scheme() -> None:
    assert mask_text("Authorization: Bearer abc123") == "Authorization: ***"
    assert mask_text("password='a b,c' host=x") == "password=*** host=x"


def lines_of(path: Path) -> list[dict[str, object]]:
    return [flat(json.loads(line)) for line in path.read_text().splitlines()]


def end_logging() -> None:
    for handler in logging.getLogger().handlers:
        handler.close()


@pytest.fixture
def log(restored: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "log"
    with path.open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logging("mes", level="info", schema=SCHEMA)
    structlog.contextvars.clear_contextvars()
    return path


def test_lines_of_other_libraries_bear_the_order_and_the_trace(log: Path) -> None:
    bind(order_id=17)
    with TracerProvider().get_tracer("test").start_as_current_span("take") as span:
        ids = span.get_span_context()
        structlog.get_logger("mes").error("unforeseen", path="/v1/orders/17/take", error="no ring")
        logging.getLogger("sqlalchemy.pool").error("cannot reset redis://:hunter2@cache")
        logging.getLogger("sharding.keyed").warning("Shard map taken late", extra={"shard": "mes_0"})
    structlog.contextvars.clear_contextvars()
    end_logging()
    lines = lines_of(log)
    assert len(lines) == 3
    for line in lines:
        assert (line["order.id"], line["service.name"], line["process.pid"]) == ("17", "mes", os.getpid())
        assert line["trace.id"] == trace.format_trace_id(ids.trace_id)
        assert line["span.id"] == trace.format_span_id(ids.span_id)
    assert [line.get("event.action") for line in lines] == ["unforeseen", None, "shard_map_taken_late"]
    assert [line.get("event.outcome") for line in lines] == ["failure", None, "failure"]
    assert lines[1]["message"] == "cannot reset redis://:***@cache"
    assert lines[2]["mes_storage.shard"] == "mes_0"


def test_lines_that_are_made_together_are_those_that_are_made_one_by_one(log: Path) -> None:
    each: list[dict[str, object]] = [
        {"order_id": "17", "stream": "orders:mes", "attempt": 2},
        {"order_id": 17, "stream": 'orders:"mes"\n', "attempt": True, "detail": {"email": "ada@example.org"}},
        {"order_id": None, "stream": "redis://:hunter2@cache", "attempt": 1.5},
    ]
    bound = structlog.get_logger("relay").bind(database="shop")
    log_each(bound, "message_sent", each)
    for facts in each:
        bound.info("message_sent", **facts)
    end_logging()
    lines = [{**line, "@timestamp": ""} for line in lines_of(log)]
    assert lines[:3] == lines[3:]
    assert "hunter2" not in log.read_text()


class Stuck:
    """A pipe whose reader does not read, until it is let to."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.entered = threading.Event()
        self.data = b""

    def write(self, data: bytes) -> int:
        self.entered.set()
        self.goes_on.wait(60)
        self.data += data
        return len(data)


def test_a_stuck_reader_stops_no_one_and_what_it_did_not_get_is_counted() -> None:
    output = Stuck()
    counted: list[int] = []
    told = "{} dropped".format
    writer = LogWriter(output, tell_dropped=told, count_dropped=counted.append, most_lines=10)
    writer.write("first")
    assert output.entered.wait(60)
    for number in range(100):
        writer.write(f"line {number}")
    assert writer.dropped == sum(counted) == 90
    output.goes_on.set()
    writer.close(timeout_seconds=60)
    lines = output.data.decode().splitlines()
    assert lines[:3] == ["first", "90 dropped", "line 0"]
    assert len(lines) == 12


MEGABYTE = 10**6


def test_lines_of_a_megabyte_wait_up_to_a_number_of_bytes_and_the_rest_is_counted() -> None:
    output = Stuck()
    counted: list[int] = []
    told = "{} dropped".format
    writer = LogWriter(output, tell_dropped=told, count_dropped=counted.append)
    writer.write("first")
    assert output.entered.wait(60)
    tracemalloc.start()
    for _ in range(100):
        writer.write("x" * MEGABYTE)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = MOST_BYTES // (MEGABYTE + 1)
    assert held < MOST_BYTES + MEGABYTE
    assert writer.dropped == sum(counted) == 100 - kept
    writer.write("a short one has room")
    output.goes_on.set()
    writer.close(timeout_seconds=60)
    lines = output.data.decode().splitlines()
    assert lines[:2] == ["first", f"{100 - kept} dropped"]
    assert [len(line) for line in lines[2:-1]] == [MEGABYTE] * kept
    assert lines[-1] == "a short one has room"


def test_there_is_room_again_when_long_lines_were_written_or_dropped() -> None:
    disk = Full(room=0)
    writer = LogWriter(disk, tell_dropped="{} dropped".format, most_bytes=10)
    for number in range(1, 4):
        writer.write("ten bytes")
        wait_for(lambda many=number: writer.dropped == many)  # type: ignore[misc]  # a default
        wait_for(lambda: writer.waiting_bytes == 0)
    writer.write("no line of this length ever has room")
    assert writer.dropped == 4
    disk.room = 1000
    writer.write("fits now")
    writer.close(timeout_seconds=60)
    assert disk.data.decode().splitlines() == ["4 dropped", "fits now"]


def test_the_end_of_a_process_does_not_wait_for_a_stuck_reader() -> None:
    output = Stuck()
    writer = LogWriter(output, tell_dropped=str)
    writer.write("line")
    writer.close(timeout_seconds=0.01)
    output.goes_on.set()


class Full:
    """A disk that is full after some bytes, until there is room."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.data = b""

    def write(self, data: bytes) -> int:
        part = data[: self.room]
        if not part:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(part)
        self.data += part
        return len(part)


def wait_for(condition: Callable[[], bool]) -> None:
    assert wait_until(condition, timeout_seconds=60)


def test_a_full_disk_costs_lines_and_they_are_counted_when_there_is_room() -> None:
    disk = Full(room=9)
    writer = LogWriter(disk, tell_dropped="{} dropped".format)
    writer.write("one")
    wait_for(lambda: disk.data == b"one\n")
    writer.write("two too long")
    wait_for(lambda: writer.dropped == 1)
    writer.write("three")
    wait_for(lambda: writer.dropped == 2)
    disk.room = 1000
    writer.write("four")
    writer.close(timeout_seconds=60)
    # What was cut stands on a line of its own.
    assert disk.data.decode().splitlines() == ["one", "two t", "2 dropped", "four"]


def test_a_service_outlives_a_device_that_is_full(restored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 (closed at once below)
    monkeypatch.setattr(sys, "stderr", full)
    configure_logging("mes", level="info")
    full.close()
    structlog.get_logger("mes").info("line")
    [handler] = logging.getLogger().handlers
    assert isinstance(handler, QuietHandler)
    writer = handler.writer
    assert isinstance(writer, LogWriter)
    wait_for(lambda: writer.dropped == 1)
    end_logging()


CLOSED = """
import logging, structlog
from app.kit.logs import configure_logging
configure_logging("mes", level="info")
[handler] = logging.getLogger().handlers
log = structlog.get_logger("mes")
for number in range(3):
    log.info("line")
while handler.writer.dropped < 3:
    pass
print("goes on", flush=True)
"""


def test_a_service_outlives_the_reader_of_its_stderr() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", CLOSED]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, timeout=60, check=True)
    os.close(writer)
    assert done.stdout == b"goes on\n"


def test_a_service_runs_without_a_stderr() -> None:
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, CLOSED]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True)
    assert done.stdout == b"goes on\n"


def test_a_file_that_has_grown_begins_anew_and_a_few_older_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "shop.log"
    file = RotatingFile(path, max_bytes=10, kept=2)
    for number in range(5):
        file.write(f"line number {number}\n".encode())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["shop.log", "shop.log.1", "shop.log.2"]
    assert [(tmp_path / name).read_text() for name in ("shop.log.2", "shop.log.1", "shop.log")] == [
        "line number 2\n", "line number 3\n", "line number 4\n",
    ]  # fmt: skip


def test_a_file_that_another_process_has_just_rotated_is_not_rotated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is faster by the moment between the look at the size and the lock."""
    path = tmp_path / "shop.log"
    ours, other = (RotatingFile(path, max_bytes=10, kept=2) for _ in range(2))
    ours.write(b"it has grown\n")
    alone = log_writer._alone

    def late(folder: Path) -> AbstractContextManager[bool]:
        monkeypatch.setattr(log_writer, "_alone", alone)
        other.write(b"new\n")
        return alone(folder)

    monkeypatch.setattr(log_writer, "_alone", late)
    ours.write(b"ours\n")
    assert path.read_text() == "new\nours\n"
    assert (tmp_path / "shop.log.1").read_text() == "it has grown\n"
    assert not (tmp_path / "shop.log.2").exists()


def test_a_file_that_logrotate_has_renamed_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "shop.log"
    file = RotatingFile(path, max_bytes=1000, kept=2)
    file.write(b"one\n")
    path.rename(tmp_path / "shop.log.1")
    file.write(b"two\n")
    path.unlink()
    file.write(b"three\n")
    assert path.read_text() == "three\n"
    assert (tmp_path / "shop.log.1").read_text() == "one\n"


MOVES = """
import sys
import time
from pathlib import Path
from app.kit.log_writer import RotatingFile
file = RotatingFile(Path(sys.argv[1]), max_bytes=10, kept=1)
for number in range(3):
    file.write(b"a line of ten\\n")
print("a traceback", file=sys.stderr)
"""


def test_the_stderr_of_a_service_moves_along(tmp_path: Path) -> None:
    path = tmp_path / "shop.log"
    with path.open("ab") as stderr:
        subprocess.run([sys.executable, "-c", MOVES, str(path)], stderr=stderr, check=True)
    assert path.read_text() == "a line of ten\na traceback\n"
