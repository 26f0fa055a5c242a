"""A real shipper, rsyslog, between a service's log and a bulk endpoint; and the files for Elasticsearch.

Elasticsearch and Kibana themselves are in no registry here. What the receiver gets is held against the index
template, and the template's types against the vendored part of ECS.
"""

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no stubs but a package of their own
import pytest

from app.console.logs import flat
from app.kit.log_writer import RotatingFile
from app.kit.logs import ECS_VERSION, render_line
from app.log_events import EVENTS, EVERY_LINE, SCHEMA
from ops.waiting import wait_until
from tests.needs import require

MONITORING = Path(__file__).parents[2] / "app" / "console" / "monitoring"
ELASTIC = MONITORING / "elastic"
ECS: Mapping[str, Mapping[str, Any]] = json.loads((ELASTIC / "ecs.json").read_text())["fields"]
TEMPLATE = json.loads((ELASTIC / "index-template.json").read_text())
OURS = {"order", "messaging", "mes_storage"}


class Bulk(ThreadingHTTPServer):
    """Takes documents as Elasticsearch's `_bulk` does: each id once, and none while it is too busy.

    `away` requests get no answer, and `busy` documents a 429 in an answer that takes the others.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.documents: dict[str, dict[str, Any]] = {}
        self.indices: set[str] = set()
        self.away = 0
        self.busy = 0

    def take(self, body: bytes) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in body.splitlines()]
        return [
            self._create(head["create"], line) for head, line in zip(lines[::2], lines[1::2], strict=True)
        ]

    def _create(self, head: Mapping[str, Any], document: dict[str, Any]) -> dict[str, Any]:
        if self.busy:
            self.busy -= 1
            reason = "rejected execution of coordinating operation"
            error = {"type": "es_rejected_execution_exception", "reason": reason}
            return {"create": {"_id": head["_id"], "status": 429, "error": error}}
        if head["_id"] in self.documents:
            return {
                "create": {
                    "_id": head["_id"],
                    "status": 409,
                    "error": {"type": "conflict", "reason": "known"},
                }
            }
        self.documents[head["_id"]] = document
        self.indices.add(head["_index"])
        return {"create": {"status": 201, "_id": head["_id"]}}


class _Handler(BaseHTTPRequestHandler):
    server: Bulk

    def do_GET(self) -> None:
        self._answer(200, b"")

    do_HEAD = do_GET  # noqa: N815 (the name that http.server calls)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/_bulk" or self.headers["Authorization"] != "Basic c2hpcHBlcjp4":
            self._answer(401, b"{}")
        elif self.server.away:
            self.server.away -= 1
            self.close_connection = True
        else:
            items = self.server.take(body)
            errors = any(item["create"]["status"] != 201 for item in items)
            self._answer(200, json.dumps({"took": 1, "errors": errors, "items": items}).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def bulk() -> Iterator[Bulk]:
    with Bulk() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def rsyslog(tmp_path: Path, port: int) -> Iterator[None]:
    spool = tmp_path / "spool"
    spool.mkdir(exist_ok=True)
    environment = {
        "MES_STORAGE_LOGS": str(tmp_path / "logs"),
        "ELASTIC_HOST": "127.0.0.1",
        "ELASTIC_PORT": str(port),
        "ELASTIC_HTTPS": "off",
        "ELASTIC_USER": "shipper",
        "ELASTIC_PASSWORD": "x",
        "RSYSLOG_SPOOL": str(spool),
    }
    configuration = MONITORING / "rsyslog" / "mes-storage.conf"
    program = str(require("rsyslog"))
    command = [program, "-n", "-f", str(configuration), "-i", str(tmp_path / "rsyslog.pid")]
    subprocess.run([*command, "-N1"], env=os.environ | environment, check=True, capture_output=True)
    with (tmp_path / "rsyslog.out").open("wb") as said:
        running = subprocess.Popen(command, env=os.environ | environment, stdout=said, stderr=said)
        try:
            yield
        finally:
            running.terminate()
            running.wait(timeout=30)


def lines(first: int, count: int) -> bytes:
    made = (
        render_line(
            "crm",
            SCHEMA,
            "error",
            "message_not_sent",
            order_id=number,
            message_id="00000000-0000-4000-8000-000000000001",
            message_type="order.approved",
            stream="orders:mes",
            database="crm",
            error="WRONGTYPE, said Redis",
            duration_ns=12,
            attempt=3,
        )
        for number in range(first, first + count)
    )
    return "".join(f"{line}\n" for line in made).encode()


@pytest.mark.long
def test_every_line_arrives_once_though_the_receiver_is_busy_and_the_file_rotates(
    bulk: Bulk, tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    log = RotatingFile(tmp_path / "logs" / "crm.log", max_bytes=200_000, kept=3)
    log.write(b"Traceback (most recent call last):\n" + lines(0, 50))

    def arrived(count: int) -> bool:
        return wait_until(lambda: len(bulk.documents) >= count, timeout_seconds=60)

    with rsyslog(tmp_path, bulk.server_address[1]):
        assert arrived(50)
        bulk.away, bulk.busy = 1, 20
        for first in range(50, 1050, 100):
            log.write(lines(first, 100))
        assert arrived(1050)
    assert bulk.indices == {"logs-mes_storage-default"}
    assert len(list((tmp_path / "logs").iterdir())) > 1, "it has rotated"
    ids = sorted(int(document["order"]["id"]) for document in bulk.documents.values())
    assert ids == list(range(1050))
    # Made once: `jsonschema.validate` holds the schema itself against its own each time.
    documents = jsonschema.Draft202012Validator(schema_of(TEMPLATE["template"]["mappings"]))
    for document in bulk.documents.values():
        documents.validate(expanded(document))


JSON_TYPES: Mapping[str, Mapping[str, Any]] = {
    "date": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"},
    "keyword": {"type": "string"},
    "match_only_text": {"type": "string"},
    "wildcard": {"type": "string"},
    "long": {"type": "integer"},
    "flattened": {"type": "object"},
}


def schema_of(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Make a JSON schema of a mapping; what it does not name is a text, or one of ours."""
    made = {
        name: schema_of(each) if "properties" in each else dict(JSON_TYPES[each["type"]])
        for name, each in mapping["properties"].items()
    }
    return {"type": "object", "properties": made}


def expanded(document: Mapping[str, Any]) -> dict[str, Any]:
    """Write fields with dots as objects, as Elasticsearch does."""
    found: dict[str, Any] = {}
    for name, value in flat(document).items():
        *path, last = name.split(".")
        place = found
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return found


def types_of(mapping: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, each in mapping["properties"].items():
        if "properties" in each:
            yield from types_of(each, f"{before}{name}.")
        else:
            yield f"{before}{name}", each


def test_the_types_of_the_template_are_those_of_ecs() -> None:
    types = dict(types_of(TEMPLATE["template"]["mappings"]))
    of_ecs = {name for name in types if name.partition(".")[0] not in OURS}
    assert of_ecs == ECS.keys()
    for name in of_ecs:
        assert types[name]["type"] == ECS[name]["type"], name
        assert types[name].get("ignore_above") == ECS[name].get("ignore_above"), name
    assert json.loads((ELASTIC / "ecs.json").read_text())["version"] == ECS_VERSION


def test_every_field_of_the_table_has_a_type() -> None:
    types = dict(types_of(TEMPLATE["template"]["mappings"]))
    fields = (
        {name for event in EVENTS.values() for name in event.fields}
        | EVERY_LINE
        | set(SCHEMA.fields.values())
    )
    # Of ours those that are texts are mapped by the dynamic template.
    assert {name for name in fields - types.keys() if not name.startswith("mes_storage.")} == set()


def test_a_line_with_a_field_of_another_type_is_found() -> None:
    schema = schema_of(TEMPLATE["template"]["mappings"])
    [line] = [json.loads(line) for line in lines(17, 1).splitlines()]
    jsonschema.validate(expanded(line), schema)
    line["order"]["id"] = 17
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(expanded(line), schema)


def test_kibanas_views_name_fields_that_are_logged() -> None:
    objects = [json.loads(line) for line in (ELASTIC / "kibana.ndjson").read_text().splitlines()]
    known = (
        {name for event in EVENTS.values() for name in event.fields}
        | EVERY_LINE
        | {"trace.id", "event.action"}
    )
    [view] = [each["id"] for each in objects if each["type"] == "index-pattern"]
    searches = [each for each in objects if each["type"] == "search"]
    assert len(searches) == 4
    for search in searches:
        assert set(search["attributes"]["columns"]) <= known
        assert [reference["id"] for reference in search["references"]] == [view]
        source = json.loads(search["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])
        assert source["query"]["language"] == "kuery"
    policy = json.loads((ELASTIC / "lifecycle.json").read_text())["policy"]
    assert list(policy["phases"]) == ["hot", "warm", "delete"]
    assert TEMPLATE["template"]["settings"]["index"]["lifecycle"]["name"] == "logs-mes_storage"
