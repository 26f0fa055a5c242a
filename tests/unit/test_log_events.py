"""The table of events against every call of a logger in the order system."""

import ast
from collections.abc import Iterator
from pathlib import Path

from app.log_events import EVENTS, LIFE, STATUS_EVENTS, facts_of_path
from app.models.status import Status

APP = Path(__file__).parents[2] / "app"
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
# They give to a logger what their own callers name.
RELAYED = {("middleware.py", "write"), ("orders.py", "info")}


def is_log(call: ast.Call) -> bool:
    match call.func:
        case ast.Attribute(value=ast.Name(id="log" | "_deadline_log"), attr=level):
            return level in LEVELS
        case ast.Attribute(value=ast.Attribute(attr="log" | "_log"), attr=level):
            return level in LEVELS
        case ast.Name(id="log_change" | "log_each" | "write"):
            return True
    return False


def event_of(call: ast.Call) -> ast.expr:
    """Return the argument that names the event: the second one of `log_change` and `log_each`."""
    return call.args[1 if isinstance(call.func, ast.Name) and call.func.id != "write" else 0]


def logged() -> Iterator[tuple[str, int, str, str]]:
    """Yield file, line, event and level of each call."""
    for file in APP.rglob("*.py"):
        if "console" in file.parts or file.name in {"logs.py", "log_writer.py"}:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and is_log(node) and node.args:
                event = event_of(node)
                name = node.func.attr if isinstance(node.func, ast.Attribute) else "info"
                if isinstance(event, ast.Constant):
                    yield file.name, node.lineno, str(event.value), "error" if name == "exception" else name
                else:
                    known = isinstance(event, ast.Subscript) and ast.unparse(event.value) == "STATUS_EVENTS"
                    assert known or (file.name, name) in RELAYED, f"{file}:{node.lineno} names no event"


def test_every_line_that_is_logged_is_in_the_table() -> None:
    found = list(logged())
    assert len(found) > 50
    assert [each for each in found if each[2] not in EVENTS] == []
    assert [each for each in found if each[3] not in EVENTS[each[2]].levels] == []


def test_every_event_of_the_table_is_logged() -> None:
    said = {event for *_, event, _ in logged()} | set(STATUS_EVENTS.values())
    others = {"log_lines_dropped", "order_archived"}  # by the writer, by the archive job
    assert EVENTS.keys() - said == others


def test_every_status_has_its_event() -> None:
    assert STATUS_EVENTS.keys() == set(Status)
    assert set(STATUS_EVENTS.values()) <= LIFE.keys()
    assert all("order.id" in event.fields for name, event in LIFE.items() if "request" not in name)


def test_an_order_is_found_in_a_path() -> None:
    assert facts_of_path("/v1/orders/17/take") == facts_of_path("/v1/orders/17") == {"order_id": "17"}
    for other in ("/v1/orders", "/v1/orders/", "/v1/orders/17x", f"/v1/orders/{'9' * 20}", "/orders/a/17"):
        assert facts_of_path(other) == {}
