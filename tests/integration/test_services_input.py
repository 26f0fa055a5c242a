"""Hostile input: what is large, doubled, invisible or no number is refused with a sentence, and quickly."""

import json
import time
import unicodedata
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from httpx import AsyncClient, Response

from app.kit.strict import LONGEST_NUMBER
from app.models.shop import ShopOrder
from app.schemas import _INVISIBLE_IN_LINE
from app.settings import Settings
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.integration.services_rig import (
    MAX_UPLOAD_BYTES,
    START,
    Services,
    new_key,
    ok,
    open_services,
    problem,
)

pytestmark = pytest.mark.field
LIMIT = Settings.model_fields["max_json_bytes"].default


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def services(module_topology: Topology) -> AsyncIterator[Services]:
    async with open_services(module_topology) as services:
        yield services


async def send(client: AsyncClient, content: bytes | AsyncIterator[bytes], **headers: str) -> Response:
    json_headers = {"Idempotency-Key": new_key(), "Content-Type": "application/json"}
    return await client.post("/v1/orders", content=content, headers=json_headers | headers)


def with_keys(count: int) -> bytes:
    return json.dumps(START | {f"k{number}": 1 for number in range(count)}).encode()


async def pieces(content: bytes, *, taken: list[int]) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 16_384):
        taken.append(start)
        yield content[start : start + 16_384]


async def test_a_large_body_is_refused_before_it_is_read(services: Services) -> None:
    content = with_keys(1_000_000)
    taken: list[int] = []
    for body in (content, pieces(content, taken=taken)):
        began = time.process_time()
        refused = problem(await send(services.shop, body), 413)
        assert time.process_time() - began < 0.5
        assert str(LIMIT) in refused["detail"]
    assert len(taken) <= LIMIT // 16_384 + 1
    for path in ("approve", "cancel", "close"):
        problem(await services.crm.post(f"/v1/orders/17/{path}", content=content), 413)
    for path in ("take", "advance"):
        problem(await services.mes.post(f"/v1/orders/17/{path}", content=content), 413)


async def test_who_acts_is_not_said_in_a_body(services: Services) -> None:
    for path in ("/v1/orders/17/take", "/v1/orders/17/take?x=1"):
        refused = problem(await services.mes.post(path, json={"operator": "Rosa"}), 400)
        assert "this takes none" in refused["detail"]
        problem(await services.mes.post(path, json={}), 404)
    problem(await services.crm.post("/v1/orders/17/approve", json={"actor": "Sara"}), 400)
    problem(await services.crm.post("/v1/orders/17/cancel", json={"actor": "Sara", "reason": "dear"}), 422)


async def test_a_file_is_no_way_around_the_limit_of_json(services: Services) -> None:
    content = b"{" + b" " * LIMIT + b"}"
    for kind in ("multipart/form-data; boundary=b", "application/x-www-form-urlencoded", "text/plain"):
        problem(await send(services.shop, content, **{"Content-Type": kind}), 413)


COSTLY = [
    (with_keys(4000), "4004 keys"),
    (b'{"customer": ' + with_keys(3000) + b"}", "3004 keys"),
    (b'{"quantity": ' + b"9" * 60_000 + b"}", "a number is longer"),
    (b'{"quantity": 1.' + b"9" * 60_000 + b"}", "a number is longer"),
    (b'{"customer": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", "deeper than"),
    (b'{"a": ' * 200 + b"1" + b"}" * 200, "deeper than"),
    (b'{"quantity": NaN}', "NaN"),
    (b'{"quantity": -Infinity}', "-Infinity"),
]


@pytest.mark.parametrize(("content", "said"), COSTLY, ids=range(len(COSTLY)))
async def test_json_that_costs_much_is_refused_while_it_is_read(
    services: Services, content: bytes, said: str
) -> None:
    began = time.process_time()
    answer = await send(services.shop, content)
    assert time.process_time() - began < 0.2
    assert said in problem(answer, 400)["detail"]
    assert len(answer.content) < 1000


async def test_a_number_as_long_as_any_is_read(services: Services) -> None:
    for number in ("9" * LONGEST_NUMBER, "1e" + "9" * 20, "-1", "2.5"):
        content = json.dumps(START).replace('"quantity": 2', f'"quantity": {number}').encode()
        assert problem(await send(services.shop, content), 422)["faults"][0]["where"] == "body quantity"


TWICE = [
    b'{"quantity": 2, "quantity": 999}',
    b'{"customer": {"name": "Ada", "name": "Eve"}}',
    b'{"quantity": 2, "quantit\\u0079": 999}',
]


@pytest.mark.parametrize("content", TWICE)
async def test_a_key_that_stands_twice_in_json(services: Services, content: bytes) -> None:
    assert "2 times" in problem(await send(services.shop, content), 400)["detail"]


async def test_a_name_that_stands_twice_in_a_form_or_a_query(services: Services) -> None:
    refused = problem(await services.b2b_response(quantity=["3", "7"]), 400)
    assert "'quantity' is given 2 times" in refused["detail"]
    for client in (services.crm, services.mes):
        for query in ("limit=1&limit=2", "limit=1&lim%69t=2", "status=SUBMITTED&status=", "x=1&x=2"):
            refused = problem(await client.get(f"/v1/orders?{query}"), 400)
            assert "is given 2 times" in refused["detail"]
    refused = problem(await services.b2b_response(quantit_y="7"), 400)
    assert "there is no field 'quantit_y', but file, finish, material, quantity" in refused["detail"]
    two_files = [("file", ("a.stl", b"a")), ("file", ("b.stl", b"b"))]
    answer = await services.shop.put("/v1/orders/17/model", files=two_files)
    assert "'file' is given 2 times" in problem(answer, 400)["detail"]


NOT_WHOLE = [
    "1_0",
    "+3",
    "-3",
    " 3",
    "3 ",
    "1e1",
    "3.0",
    "03",
    "\u0663",
    "\uff13",
    "0x3",
    "",
    "\u00b3",
    "3\n",
]


@pytest.mark.parametrize("figures", NOT_WHOLE)
async def test_a_number_in_a_form_or_a_query_is_in_plain_figures(services: Services, figures: str) -> None:
    refused = problem(await services.b2b_response(quantity=figures), 422)
    assert refused["faults"][0]["where"] == "body quantity"
    for client in (services.crm, services.mes):
        problem(await client.get("/v1/orders", params={"limit": figures}), 422)
    problem(await services.crm.get("/v1/orders", params={"cursor": figures}), 422)
    if figures.strip():
        for client in (services.shop, services.crm, services.mes):
            problem(await client.get("/v1/orders/" + figures.replace("\n", "%0A")), 422)


async def test_numbers_in_plain_figures(services: Services) -> None:
    assert ok(await services.b2b_response(quantity="10"), 202)["summary"].startswith("10 x")
    for quantity in ("0", "1001", "9" * 18):
        problem(await services.b2b_response(quantity=quantity), 422)
    for client in (services.crm, services.mes):
        ok(await client.get("/v1/orders", params={"limit": "200"}))


INVISIBLE = [
    "\x00",
    "\x1b",
    "\x7f",
    "\x85",
    "\u200b",
    "\u202e",
    "\u2066",
    "\ufeff",
    "\u2028",
    "\u3164",
    "\U000e0041",
]


@pytest.mark.parametrize("character", INVISIBLE)
@pytest.mark.parametrize("name", ["{}Ada", "A{}da", "Ada{}", "{}"])
async def test_what_cannot_be_seen_is_in_no_name(services: Services, character: str, name: str) -> None:
    name = name.format(character)
    for customer in ({"name": name}, {"email": f"{name}@example.org"}, {"email": f"ada@{name}.org"}):
        refused = problem(await services.start(customer=START["customer"] | customer), 422)
        [field] = customer
        assert refused["faults"][0]["where"] == f"body customer.{field}"
        assert f"U+{ord(character):04X}" in refused["detail"]
    cancel = {"reason": name}
    problem(await services.crm.post("/v1/orders/17/cancel", json=cancel), 422)
    answer = await services.mes.post(f"/v1/partners/{escaped(name)}/orders", **partner_order())
    assert problem(answer, 422)["faults"][0]["where"] == "path partner"


def escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def partner_order() -> dict[str, Any]:
    return {
        "files": {"file": ("ring.stl", b"solid")},
        "data": {"material": "brass", "finish": "matte", "quantity": "3"},
        "headers": {"Idempotency-Key": new_key()},
    }


@pytest.mark.parametrize("name", ["Ada", "Łukasz Ożóg", "渡辺 健", "עדה", "آدا", "O'Neill-Śmith", "Ada 💍"])
async def test_names_of_people_are_taken(services: Services, name: str) -> None:
    customer = {"name": f"  {name} ", "email": "ada@exämple.org"}
    assert ok(await services.start(customer=customer), 201)["customer"]["name"] == name


async def test_a_reason_may_have_lines(services: Services) -> None:
    body = {"reason": "she\nchanged\r\n\ther mind"}
    problem(await services.crm.post("/v1/orders/17/cancel", json=body), 404)


def test_invisible_is_what_unicode_says() -> None:
    # These of category Cf are drawn, and those of the last range join hieroglyphs.
    seen = {
        *range(0x600, 0x606),
        0x6DD,
        0x70F,
        0x890,
        0x891,
        0x8E2,
        0x110BD,
        0x110CD,
        *range(0x13430, 0x13440),
    }
    for code in set(range(0x110000)) - seen:
        if unicodedata.category(chr(code)) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            assert _INVISIBLE_IN_LINE.search(chr(code)), f"U+{code:04X}"


async def test_an_order_from_before_these_rules_is_shown(
    services: Services, module_topology: Topology
) -> None:
    order_id = ok(await services.start(), 201)["order_id"]
    async with (
        open_cluster(module_topology, "shop", role="shop", application_name="test") as cluster,
        cluster.write() as session,
    ):
        order = await session.get_one(ShopOrder, int(order_id))
        order.customer_name = "A\u200bda"
    assert ok(await services.shop.get(f"/v1/orders/{order_id}"))["customer"]["name"] == "A\u200bda"


NOT_UTF_8 = ["%ff", "%C3%28", "%ED%A0%80", "a%80", "%", "%zz", "%0"]


@pytest.mark.parametrize("raw", NOT_UTF_8)
async def test_a_path_and_a_query_are_utf_8(services: Services, raw: str) -> None:
    for client, path in (
        (services.mes, f"/v1/partners/{raw}/orders"),
        (services.shop, f"/v1/orders/{raw}"),
        (services.crm, f"/v1/orders?status={raw}"),
        (services.crm, f"/v1/orders?{raw}=1"),
    ):
        # As it is: httpx would escape what is broken.
        url = client.base_url.copy_with(raw_path=path.encode())
        answer = await client.request("POST" if "partners" in path else "GET", url)
        refused = problem(answer, 400)
        assert "UTF-8" in refused["detail"] or "hexadecimal" in refused["detail"]


JSON_NOT_UTF_8 = [
    json.dumps(START).encode("utf-16"),
    json.dumps(START).encode("utf-32"),
    b"\xef\xbb\xbf" + json.dumps(START).encode(),
    json.dumps(START).replace("Ada", "\xe4").encode("latin-1"),
]


@pytest.mark.parametrize("content", JSON_NOT_UTF_8, ids=["utf-16", "utf-32", "mark", "latin-1"])
async def test_json_is_utf_8(services: Services, content: bytes) -> None:
    problem(await send(services.shop, content), 400)


@pytest.mark.parametrize("key", ["\\ud800", "\\u0000", "\\u202e", "k" * 50_000])
async def test_an_unknown_key_of_any_kind_is_answered(services: Services, key: str) -> None:
    answer = await send(services.shop, json.dumps(START).replace("{", '{"' + key + '": 1, ', 1).encode())
    problem(answer, 422)
    assert len(answer.content) < 1000


async def test_a_multipart_body_of_many_small_parts_is_refused_at_once(services: Services) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="quantity"\r\n\r\n1\r\n'
    nearly = b"\r\n--" * (MAX_UPLOAD_BYTES // 4)
    for content in (part * 2000, nearly, b"--b\r\nX: " + b"y" * MAX_UPLOAD_BYTES):
        began = time.process_time()
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = await services.shop.put("/v1/orders/17/model", content=content, headers=headers)
        problem(answer, 400)
        assert time.process_time() - began < 1
