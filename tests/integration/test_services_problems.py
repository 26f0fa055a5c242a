"""Bad input: every answer is a problem that says what is wrong, and nothing is half-written."""

import json
import re
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest_asyncio
from httpx import AsyncClient
from sqlalchemy import func, select, text

from app.kit.problem import MEDIA_TYPE
from app.mes.application import build as build_mes
from app.models.shop import ShopOrder, ShopOrderEvent, ShopOutbox
from app.shop.application import build as build_shop
from app.topology import files_url
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.integration.services_rig import (
    MAX_UPLOAD_BYTES,
    START,
    Services,
    client_of,
    fast_settings,
    new_key,
    ok,
    open_services,
    problem,
    save_map,
)

NO_IDS = [2**63, 10**19, "9" * 5000, 0, -1, "ring", "1e3", "%00"]


@pytest_asyncio.fixture
async def services(topology: Topology) -> AsyncIterator[Services]:
    async with open_services(topology) as services:
        yield services


async def test_unknown_order(services: Services) -> None:
    for client in (services.shop, services.crm, services.mes):
        refused = problem(await client.get("/v1/orders/17"), 404)
        assert refused["order_id"] == "17"
        assert refused["instance"] == "/v1/orders/17"
        assert "no order 17" in refused["detail"]
    problem(await services.upload("17"), 404)
    problem(await services.shop.post("/v1/orders/17/submit"), 404)
    problem(await services.take("17"), 404)
    problem(await services.crm.post("/v1/orders/17/approve"), 404)


async def test_order_id_that_is_none(services: Services) -> None:
    for order_id, client in product(NO_IDS, (services.shop, services.crm, services.mes)):
        refused = problem(await client.get(f"/v1/orders/{order_id}"), 422)
        assert "from 1 to 9223372036854775807" in refused["detail"]
        assert "order_id" in refused["detail"]
        assert len(refused["detail"]) < 300


async def test_wrong_transition_names_both_statuses(services: Services) -> None:
    order_id = ok(await services.start(), 201)["order_id"]
    refused = problem(await services.shop.post(f"/v1/orders/{order_id}/submit"), 409)
    assert (refused["current"], refused["wanted"]) == ("INITIATED", "SUBMITTED")
    assert refused["order_id"] == order_id
    shown = ok(await services.shop.get(f"/v1/orders/{order_id}"))
    assert [line["status"] for line in shown["history"]] == ["INITIATED"]


async def test_crm_refuses_what_is_too_early_or_pending(services: Services) -> None:
    order_id = await services.b2b()
    await services.shows(services.crm, order_id, "SUBMITTED")
    problem(await services.crm.post(f"/v1/orders/{order_id}/approve"), 409)
    problem(await services.crm.post(f"/v1/orders/{order_id}/close"), 409)


async def test_wrong_file_type(services: Services, topology: Topology) -> None:
    order_id = ok(await services.start(), 201)["order_id"]
    for name in ("ring.exe", "ring", ".stl.txt", "a" * 300 + ".step"):
        refused = problem(await services.upload(order_id, name=name), 415)
        assert refused["accepted"] == [".stl", ".3mf", ".obj"]
        problem(await services.b2b_response(name=name), 415)
    refused = problem(await services.upload(order_id, content=b"%PDF-1.7\n"), 415)
    assert refused["type"].endswith(":content-mismatch")
    renamed = problem(await services.b2b_response(name="ring.stl", content=b"PK\3\4 and the rest"), 415)
    assert (renamed["suffix"], renamed["found"]) == ("stl", "3mf")
    assert stored_files(topology) == []


async def test_oversize_upload_is_not_read_to_its_end(services: Services, topology: Topology) -> None:
    order_id = ok(await services.start(), 201)["order_id"]
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="ring.stl"\r\n\r\n'
        while sent < 50 * MAX_UPLOAD_BYTES:
            sent += 65_536
            yield b"x" * 65_536

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await services.shop.put(f"/v1/orders/{order_id}/model", content=endless(), headers=headers)
    problem(answer, 413)
    assert sent < 3 * MAX_UPLOAD_BYTES
    assert stored_files(topology) == []
    assert ok(await services.shop.get(f"/v1/orders/{order_id}"))["status"] == "INITIATED"


async def test_oversize_upload_that_says_its_length(services: Services, topology: Topology) -> None:
    order_id = ok(await services.start(), 201)["order_id"]
    # A little too large is found by the file's own size, far too large by the request's.
    for size in (MAX_UPLOAD_BYTES + 1, 5 * MAX_UPLOAD_BYTES):
        problem(await services.upload(order_id, content=b"x" * size), 413)
        problem(await services.b2b_response(content=b"x" * size), 413)
    assert stored_files(topology) == []
    ok(await services.upload(order_id, content=b"x" * MAX_UPLOAD_BYTES))


def stored_files(topology: Topology) -> list[Path]:
    folder = Path(files_url(topology).removeprefix("file://"))
    return [path for path in folder.rglob("*") if path.is_file()]


MALFORMED = [b'{"customer": ', b"\xff\xfe", b"[" * 50_000]
"""Cut off, not UTF-8, too deep."""

INVALID: list[tuple[dict[str, Any], str]] = [
    ({"material": "mithril"}, "body material"),
    ({"finish": 7}, "body finish"),
    ({"quantity": 0}, "body quantity"),
    ({"quantity": 10**30}, "body quantity"),
    ({"quantity": True}, "body quantity"),
    ({"colour": "red"}, "body colour"),
    ({"customer": {"name": "Ada", "email": "nowhere"}}, "body customer.email"),
    ({"customer": {"name": "A\x00da", "email": "a@b.cd"}}, "body customer.name"),
    ({"customer": {"name": "\ud800", "email": "a@b.cd"}}, "body customer.name"),
    ({"customer": {"name": "A" * 201, "email": "a@b.cd"}}, "body customer.name"),
    ({"customer": None}, "body customer"),
]


async def test_malformed_json(services: Services) -> None:
    headers = {"Idempotency-Key": new_key(), "Content-Type": "application/json"}
    for content in MALFORMED:
        problem(await services.shop.post("/v1/orders", content=content, headers=headers), 400)


async def test_invalid_body(services: Services) -> None:
    headers = {"Idempotency-Key": new_key(), "Content-Type": "application/json"}
    for change, where in INVALID:
        # By json.dumps, which escapes what is no text: httpx would refuse to send it.
        content = json.dumps(START | change)
        refused = problem(await services.shop.post("/v1/orders", content=content, headers=headers), 422)
        assert [fault["where"] for fault in refused["faults"]] == [where]
        assert where in refused["detail"]
    problem(await services.shop.post("/v1/orders", headers=headers), 422)


async def test_an_answer_is_short_however_much_is_wrong(services: Services) -> None:
    for faulty in ({"k" * 60_000: 1}, {f"k{number}": 1 for number in range(90)}):
        headers = {"Idempotency-Key": new_key()}
        refused = await services.shop.post("/v1/orders", headers=headers, json=START | faulty)
        assert "body k" in problem(refused, 422)["detail"]
        assert len(refused.content) < 5000


async def test_a_field_that_is_sent_twice(services: Services) -> None:
    refused = problem(await services.b2b_response(quantity=["3", "7"]), 400)
    assert "'quantity' is given 2 times" in refused["detail"]


async def test_unknown_material_of_a_partner(services: Services) -> None:
    refused = problem(await services.b2b_response(material="mithril"), 422)
    assert refused["faults"][0]["where"] == "body material"
    assert "platinum_950" in refused["detail"]
    problem(await services.b2b_response(quantity="many"), 422)


async def test_missing_idempotency_key(services: Services) -> None:
    for client, path in ((services.shop, "/v1/orders"), (services.mes, "/v1/partners/x/orders")):
        refused = problem(await client.post(path, json={}), 400)
        assert "Idempotency-Key" in refused["detail"] or "idempotency-key" in refused["detail"]


async def test_malformed_causal_token(services: Services) -> None:
    refused = problem(await services.mes.get("/v1/orders/17", headers={"Causal-Token": "yesterday"}), 400)
    assert "Causal-Token" in refused["detail"]


async def test_operator_input(services: Services) -> None:
    problem(await services.advance("17", "CLOSED"), 422)
    problem(await services.advance("17", "REJECTED"), 422)
    problem(await services.advance("17", "SHIPPED", reason="because"), 422)
    problem(await services.take("17", operator="  "), 401)
    problem(await services.mes.get("/v1/orders", params={"limit": 0}), 422)
    problem(await services.mes.get("/v1/orders", params={"cursor": "page two"}), 422)
    problem(await services.crm.get("/v1/orders", params={"cursor": "page two"}), 422)


async def test_unknown_path_and_method(services: Services) -> None:
    problem(await services.shop.get("/v2/orders"), 404)
    refused = await services.shop.delete("/v1/orders")
    problem(refused, 405)
    assert "POST" in refused.headers["Allow"]


async def test_pages_for_people(services: Services) -> None:
    for name, client in (("shop", services.shop), ("crm", services.crm), ("mes", services.mes)):
        assert (await client.get("/")).headers["Location"] == "docs"
        for path in ("/healthz", "/readyz"):
            assert ok(await client.get(path)) == {"service": name, "status": "ok", "away": []}
        assert ok(await client.get("/livez")) == {"service": name, "status": "ok"}
        described = ok(await client.get("/openapi.json"))
        for path, operations in described["paths"].items():
            for operation in operations.values() if path != "/livez" else ():
                unavailable = operation["responses"]["503"]["content"]
                assert list(unavailable) == [MEDIA_TYPE]


async def test_database_that_is_away(topology: Topology) -> None:
    gone = without(topology, "mes_1")
    await save_map(topology)
    async with client_of(build_mes(fast_settings(gone), gone)) as mes:
        answers = {order_id: await mes.get(f"/v1/orders/{order_id}") for order_id in range(1, 30)}
        away = [answer for answer in answers.values() if answer.status_code != 404]
        assert 0 < len(away) < len(answers)
        for answer in away:
            refused = problem(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0
            assert "connect" not in refused["detail"]
        listed = await mes.get("/v1/orders", params={"status": "SUBMITTED"})
        problem(listed, 503)


def without(topology: Topology, name: str) -> Topology:
    """Write a topology in which a database is said to be where nothing listens."""
    before, section, after = topology.path.read_text().partition(f"[databases.{name}]")
    content, pool, rest = after.partition("[pool]")
    unreachable = re.sub(r"port = \d+", "port = 1", content)
    path = topology.path.with_name("gone.toml")
    path.write_text(before + section + unreachable + pool + rest)
    return Topology.load(path)


async def test_unforeseen_error_shows_no_internals(topology: Topology) -> None:
    async with client_of(build_shop(fast_settings(topology), topology)) as shop:
        async with (
            open_cluster(topology, "shop", role="shop_owner", application_name="test") as owner,
            owner.write() as session,
        ):
            await session.execute(text("ALTER TABLE orders RENAME TO lost_orders"))
        refused = problem(await shop.get("/v1/orders/17"), 500)
        assert "orders" not in refused["detail"]
        assert "SELECT" not in str(refused)


async def test_nothing_is_half_written_after_refusals(services: Services, topology: Topology) -> None:
    order_id = ok(await services.start(), 201)["order_id"]
    await refuse_all(services.shop, order_id)
    async with (
        open_cluster(topology, "shop", role="shop", application_name="test") as cluster,
        cluster.write() as session,
    ):
        counts = [
            await session.scalar(select(func.count()).select_from(model))
            for model in (ShopOrder, ShopOrderEvent, ShopOutbox)
        ]
    assert counts == [1, 1, 0]


async def refuse_all(shop: AsyncClient, order_id: str) -> None:
    problem(await shop.post(f"/v1/orders/{order_id}/submit"), 409)
    problem(await shop.put(f"/v1/orders/{order_id}/model", files={"file": ("ring.doc", b"")}), 415)
    problem(await shop.put(f"/v1/orders/{order_id}/model", files={"model": ("ring.stl", b"")}), 400)
    problem(await shop.put(f"/v1/orders/{order_id}/model", json={"file": "ring.stl"}), 422)
    problem(await shop.post("/v1/orders", json={}, headers={"Idempotency-Key": new_key()}), 422)
