"""What partners do beside ordering: their list, one order, their own reference, many at once."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import Engine, create_engine, delete, insert, text
from sqlalchemy.pool import NullPool

from app.access.table import DEPRECATED, RULES
from app.kit.caller import Role
from app.kit.clock import utc_now
from app.mes import repository
from app.mes.repository import orders_of_partner
from app.messaging import inbox
from app.messaging.events import Item, OrderSubmitted
from app.messaging.message import Message
from app.models.mes import Intake, MesArchivedOrder, MesArchivedOrderEvent, MesArchivedOrderItem
from app.models.status import Channel, Status
from app.orders import MES
from readreplica.sessions import WriteSession
from sharding.ids import first_id_at
from sharding.topology import Topology
from tests.callers import acting
from tests.integration.messaging_rig import until
from tests.integration.services_rig import MODEL, Json, Services, new_key, ok, open_services, problem
from tests.integration.test_services_operators import add_month

PARTNER = "atelier-nord"
ORDERS = f"/v1/partners/{PARTNER}/orders"


def as_partner() -> dict[str, str]:
    """Return the header of the partner; its token is good for five minutes."""
    return acting(PARTNER, Role.PARTNER)


MARCH = datetime(2026, 3, 1, tzinfo=UTC)


@pytest_asyncio.fixture
async def services(topology: Topology) -> AsyncIterator[Services]:
    async with open_services(topology) as services:
        yield services


async def list_of(services: Services, **query: Any) -> Json:
    return ok(await services.mes.get(ORDERS, params=query, headers=as_partner()))


async def test_pages_over_all_shards_have_each_order_once_and_none_of_others(services: Services) -> None:
    own = {await services.b2b() for _ in range(7)}
    other = await services.mes.post(
        "/v1/partners/bijoux-sud/orders",
        files={"file": ("ring.stl", MODEL)},
        data={"material": "brass", "finish": "matte", "quantity": "1"},
        headers={"Idempotency-Key": new_key()},
    )
    await services.placed(other)
    seen: list[str] = []
    cursor = None
    while True:
        page = await list_of(services, limit=3, **({"cursor": cursor} if cursor else {}))
        seen += [order["order_id"] for order in page["orders"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(own, key=int, reverse=True)


async def test_a_cursor_is_good_for_its_own_query_alone(services: Services) -> None:
    for _ in range(3):
        await services.b2b()
    cursor = (await list_of(services, limit=1))["next_cursor"]
    for query in ({"cursor": cursor[:-2] + "AA"}, {"cursor": cursor, "status": "CLOSED"}):
        problem(await services.mes.get(ORDERS, params={"limit": 1, **query}, headers=as_partner()), 422)


async def test_the_partners_reference_is_kept_shown_and_found(services: Services) -> None:
    first, second = [
        await services.placed(await services.b2b_response(reference="PO-1017", quantity=str(number)))
        for number in (1, 2)
    ]
    plain = await services.b2b()
    found = (await list_of(services, reference="PO-1017"))["orders"]
    assert [order["order_id"] for order in found] == [second, first]  # need not be unique
    assert {order["reference"] for order in found} == {"PO-1017"}
    shown = ok(await services.mes.get(f"{ORDERS}/{plain}", headers=as_partner()))
    assert shown["reference"] is None
    assert ok(await services.mes.get(f"/v1/orders/{first}"))["reference"] == "PO-1017"
    await services.price(first)
    priced = (await list_of(services, reference="PO-1017", status="PRICE_CALCULATED"))["orders"]
    assert [order["order_id"] for order in priced] == [first]
    assert priced[0]["price"] == "412.50"


@pytest.mark.parametrize("reference", ["x" * 65, "a\u200bb", " "])
async def test_a_reference_that_is_none_is_refused(services: Services, reference: str) -> None:
    problem(await services.b2b_response(reference=reference), 422)


async def test_the_reference_is_shown_while_the_order_waits_and_belongs_to_the_request(
    services: Services,
) -> None:
    key = new_key()
    made = ok(await services.b2b_response(key=key, reference="A"), 202)
    assert made["reference"] == "A"
    shown = ok(await services.mes.get(f"{ORDERS}/{made['order_id']}", headers=as_partner()))
    assert shown["reference"] == "A"
    assert ok(await services.b2b_response(key=key, reference="A"), 200)["reference"] == "A"
    assert problem(await services.b2b_response(key=key), 422)["order_id"] == made["order_id"]


async def test_an_order_is_shown_without_names_of_staff_and_by_its_tag(services: Services) -> None:
    order_id = await services.approved()
    ok(await services.take(order_id, operator="Rosa"))
    answer = await services.mes.get(f"{ORDERS}/{order_id}", headers=as_partner())
    shown = ok(answer)
    assert "Rosa" not in answer.text
    assert "Sara" not in answer.text
    assert [line["status"] for line in shown["history"]] == [
        "SUBMITTED",
        "PRICE_CALCULATED",
        "MANUFACTURING_APPROVED",
        "MANUFACTURING_STARTED",
    ]
    assert shown["history"][1]["price"] == shown["price"] == "412.50"
    tag = answer.headers["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = await services.mes.get(
            f"{ORDERS}/{order_id}", headers={**as_partner(), "If-None-Match": known}
        )
        assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", tag)
    ok(await services.advance(order_id, "MANUFACTURING_COMPLETED"))
    changed = await services.mes.get(f"{ORDERS}/{order_id}", headers={**as_partner(), "If-None-Match": tag})
    assert ok(changed)["status"] == "MANUFACTURING_COMPLETED"


async def test_anothers_order_is_as_none(services: Services) -> None:
    order_id = await services.b2b()
    theirs = "/v1/partners/bijoux-sud/orders"
    said = [
        problem(await services.mes.get(f"{theirs}/{each}", headers=acting("bijoux-sud", Role.PARTNER)), 404)
        for each in (order_id, "17")
    ]
    assert str(said[0]).replace(order_id, "ID") == str(said[1]).replace("17", "ID")
    # Of another's path not even whether there is such a partner.
    problem(await services.mes.get(ORDERS, headers=acting("bijoux-sud", Role.PARTNER)), 404)


async def test_archived_orders_have_a_list_of_their_own(services: Services, topology: Topology) -> None:
    order_id = first_id_at(MARCH) + 5
    await add_month(topology, services.shards.shard_of(order_id))
    row = {"order_id": order_id, "status": Status.CLOSED, "at": MARCH}
    order = {
        "order_id": order_id,
        "status": Status.CLOSED,
        "channel": Channel.B2B,
        "summary": "a ring",
        "partner": PARTNER,
        "reference": "old",
        "version": 4,
        "price": 10,
    }
    quote = {"price": "10.00", "price_valid_until": "2026-04-01T00:00:00+00:00"}
    item = {
        "line_no": 1,
        "material": "brass",
        "finish": "matte",
        "quantity": 1,
        "model_key": "k",
        "model_name": "r",
    }
    async with services.shards.write(order_id) as session:
        await session.execute(insert(MesArchivedOrder).values(order))
        await session.execute(insert(MesArchivedOrderItem).values({"order_id": order_id, **item}))
        await session.execute(
            insert(MesArchivedOrderEvent).values({**row, "event_no": 1, "actor": "Rosa", "detail": quote})
        )
    after = {"Causal-Token": session.token.encode()}
    asked = {"archived": "true", "reference": "old"}
    page = ok(await services.mes.get(ORDERS, params=asked, headers=as_partner() | after))
    assert [each["order_id"] for each in page["orders"]] == [str(order_id)]
    assert (await list_of(services))["orders"] == []
    shown = ok(await services.mes.get(f"{ORDERS}/{order_id}", headers=as_partner() | after))
    assert shown["price_valid_until"] == "2026-04-01T00:00:00Z"


async def uploaded(services: Services, partner: str = PARTNER) -> str:
    answer = await services.mes.post(
        f"/v1/partners/{partner}/models",
        files={"file": ("ring.stl", MODEL)},
        headers=acting(partner, Role.PARTNER),
    )
    return str(ok(answer, 201)["model"])


def one(model: str, **changes: Any) -> Json:
    return {
        "idempotency_key": new_key(),
        "model": model,
        "material": "brass",
        "finish": "matte",
        "quantity": 1,
    } | changes


async def test_many_orders_are_taken_or_refused_one_by_one(services: Services) -> None:
    model = await uploaded(services)
    foreign = await uploaded(services, "bijoux-sud")
    good, bad = one(model, reference="B-1"), one(foreign)
    answer = await services.mes.post(f"{ORDERS}/batch", json={"orders": [good, bad]}, headers=as_partner())
    first, second = ok(answer, 207)["results"]
    assert (first["status"], first["order"]["reference"]) == (202, "B-1")
    assert second["status"] == second["problem"]["status"] == 422
    assert second["problem"]["type"].endswith(":unknown-model")
    again = [good, {**good, "idempotency_key": good["idempotency_key"] + "x"}, {**good, "quantity": 2}]
    again[2]["idempotency_key"] = bad["idempotency_key"]
    answer = await services.mes.post(f"{ORDERS}/batch", json={"orders": again}, headers=as_partner())
    statuses = [each["status"] for each in ok(answer, 207)["results"]]
    assert statuses == [200, 202, 202]
    reused = await services.mes.post(
        f"{ORDERS}/batch", json={"orders": [{**good, "quantity": 7}]}, headers=as_partner()
    )
    [result] = ok(reused, 207)["results"]
    assert result["problem"]["order_id"] == first["order"]["order_id"]


async def test_a_batch_has_bounds(services: Services) -> None:
    model = await uploaded(services)
    same = one(model)
    for orders in ([], [one(model) for _ in range(21)], [same, same], [one(model, quantity=0)]):
        problem(
            await services.mes.post(f"{ORDERS}/batch", json={"orders": orders}, headers=as_partner()), 422
        )
    huge = b'{"orders": [' + b" " * 70_000 + b"]}"
    answer = await services.mes.post(
        f"{ORDERS}/batch", content=huge, headers={**as_partner(), "content-type": "application/json"}
    )
    problem(answer, 413)


LOAD = text("""
    INSERT INTO orders (order_id, status, channel, summary, partner, reference, version)
    SELECT i * 4194304::bigint, CASE WHEN i % 100 = 0 THEN 'PRICE_CALCULATED' WHEN i % 1000 = 1
           THEN 'REJECTED' ELSE 'CLOSED' END, 'B2B', 'a ring',
           CASE WHEN i % 50 = 0 THEN 'small' ELSE 'large' END, 'R' || i % 997, 1
    FROM generate_series(1, 40000) AS i
""")


@pytest.mark.parametrize(
    ("which", "most_pages"),
    [
        ({}, 70),
        ({"status": Status.REJECTED}, 70),
        ({"status": Status.PRICE_CALCULATED}, 70),
        ({"reference": "R17"}, 70),
    ],
)
@pytest.mark.parametrize("partner", ["small", "large"])
def test_a_page_reads_few_pages_of_the_database(
    loaded: Engine, partner: str, which: dict[str, Any], most_pages: int
) -> None:
    """50 orders that lie apart are 50 pages of the table at most, and a few of an index."""
    asked: dict[str, Any] = {"status": None, "reference": None, "is_archived": False, **which}
    statement = orders_of_partner(partner, **asked).limit(50)
    with loaded.connect() as connection:
        compiled = statement.compile(loaded, compile_kwargs={"literal_binds": True})
        [[explained]] = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {str(compiled).replace('%', '%%')}"
        )
    plan = explained[0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= most_pages, plan


@pytest.fixture(scope="module")
def loaded(module_topology: Topology) -> Engine:
    owner = create_engine(module_topology.url("mes_0", role="mes_owner"), poolclass=NullPool)
    with owner.begin() as connection:
        connection.exec_driver_sql(
            "CREATE OR REPLACE FUNCTION shard_owns(shard_key bigint) RETURNS boolean "
            "LANGUAGE sql IMMUTABLE RETURN true"
        )
        connection.execute(LOAD)
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE orders")
    return owner


async def test_the_answers_are_in_the_description(services: Services) -> None:
    paths = (await services.mes.get("/openapi.json")).json()["paths"]
    own = {path: methods for path, methods in paths.items() if path.startswith("/v1/partners/{partner}/")}
    assert len(own) == 10
    for methods in own.values():
        for method in methods.values():
            assert {"400", "401", "403", "404", "422", "429", "503"} <= method["responses"].keys() | {"404"}


async def test_a_partner_changes_what_it_has_seen_and_nothing_else(services: Services) -> None:
    order_id = await services.b2b()
    await services.shows(services.crm, order_id, "SUBMITTED")
    path = f"/v1/orders/{order_id}"
    before = (await services.crm.get(path, headers=as_partner())).headers["etag"]
    await services.price(order_id)
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    stale = await services.crm.post(f"{path}/approve", headers={**as_partner(), "If-Match": before})
    refused = problem(stale, 412)
    assert refused["type"].endswith("changed-meanwhile")
    shown = await services.crm.get(path, headers=as_partner())
    assert stale.headers["etag"] == shown.headers["etag"] != before
    weak = await services.crm.post(
        f"{path}/approve", headers={**as_partner(), "If-Match": f"W/{stale.headers['etag']}"}
    )
    problem(weak, 412)
    seen = {**as_partner(), "If-Match": f'"other", {stale.headers["etag"]}'}
    approved = await services.crm.post(f"{path}/approve", headers=seen)
    assert ok(approved)["status"] == "MANUFACTURING_APPROVED"
    assert approved.headers["etag"] != stale.headers["etag"]
    # Its answer may have been lost: repeated as it was, it is answered as it was.
    assert ok(await services.crm.post(f"{path}/approve", headers=seen))["status"] == "MANUFACTURING_APPROVED"
    reason = {"reason": "too late"}
    problem(await services.crm.post(f"{path}/cancel", json=reason, headers=seen), 412)
    ok(await services.crm.post(f"{path}/cancel", json=reason, headers={**seen, "If-Match": "*"}), 202)


async def test_a_route_that_goes_says_so_to_those_who_lose_it(services: Services) -> None:
    order_id = await services.b2b()
    old = await services.mes.get(f"/v1/orders/{order_id}", headers=as_partner())
    gone = DEPRECATED["mes", "GET", "/v1/orders/{order_id}"]
    assert old.headers["deprecation"] == f"@{int(gone.since.timestamp())}"
    assert parsedate_to_datetime(old.headers["sunset"]) == gone.until
    assert gone.until - gone.since >= timedelta(days=365)
    [successor] = re.findall(r'<(.*)>; rel="successor-version"', old.headers["link"])
    assert successor == f"{ORDERS}/{order_id}"
    new = await services.mes.get(successor, headers=as_partner())
    assert ok(new)["order_id"] == order_id
    assert "deprecation" not in new.headers
    unknown = await services.mes.get("/v1/orders/17", headers=as_partner())
    assert (unknown.status_code, "deprecation" in unknown.headers) == (404, True)
    staff = await services.mes.get(f"/v1/orders/{order_id}", headers=acting("Rosa", Role.OPERATOR))
    assert "deprecation" not in staff.headers
    assert DEPRECATED.keys() <= RULES.keys()


async def test_an_order_that_is_being_placed_is_not_taken_in_again(services: Services) -> None:
    """Its repeated request waits for the one who places it, and finds that it was placed."""
    order_id = 21
    item = Item(line_no=1, material="brass", finish="matte", quantity=1, model_key="k", model_name="n.stl")
    submitted = OrderSubmitted(
        actor=PARTNER, channel=Channel.B2B, summary="", partner=PARTNER, items=(item,), submitted_at=utc_now()
    )
    message = Message(
        id=uuid4(), source="partner", subject=str(order_id), time=submitted.submitted_at, data=submitted
    )

    async def take_in(session: WriteSession) -> bool:
        row = Intake(
            order_id=order_id,
            message_id=message.id,
            partner=PARTNER,
            model_key="k",
            body=submitted.model_dump(mode="json"),
            received_at=submitted.submitted_at,
        )
        return await repository.keep_in_intake(session, row, inbox=MES.inbox)

    async def is_waiting() -> bool:
        async with services.shards.write(order_id) as session:
            return bool(await session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))

    async with services.shards.write(order_id) as session:
        assert await take_in(session)
        assert await inbox.record(session, MES.inbox, message)
        await session.execute(delete(Intake).where(Intake.order_id == order_id))
        again = asyncio.create_task(services.shards.transact(order_id, take_in))
        await until(is_waiting)
    assert not (await again).value
    async with services.shards.write(order_id) as session:
        assert await session.get(Intake, order_id) is None
