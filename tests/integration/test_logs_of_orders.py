"""Orders on their way through real processes: what the logs say of them, and of what goes wrong with them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text

from app.console.identities import create_all
from app.kit.caller import Role
from app.log_events import EVENTS, LIFE
from app.messaging.streams import open_redis, orders_stream
from app.orders import CRM, MES, SHOP, lock_order
from app.topology import redis_url
from ops import cli
from ops.fleet import open_engine
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.callers import by_operator
from tests.integration.life_rig import MADE, RING, submit
from tests.integration.logs_rig import LoggingServices, check_line, run_services
from tests.integration.messaging_rig import until
from tests.integration.services_rig import ok, problem
from tests.integration.test_services_flow import somebody_waits_for_a_lock

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(
    module_topology: Topology, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LoggingServices]:
    folder = tmp_path_factory.mktemp("logs")
    async with run_services(
        module_topology, folder, "shop", "crm", "mes", "pricing", MES_STORAGE_STATEMENT_SECONDS="1"
    ) as services:
        yield services


async def cancelled(services: LoggingServices) -> str:
    order_id = str(ok(await services.start(), 201)["order_id"])
    ok(await services.upload(order_id, content=RING))
    ok(await services.shop.post(f"/v1/orders/{order_id}/submit"))
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    wish = {"reason": "too dear"}
    ok(await services.crm.post(f"/v1/orders/{order_id}/cancel", json=wish), 202)
    await services.shows(services.shop, order_id, "CANCELLED")
    return order_id


async def approved(services: LoggingServices) -> str:
    order_id = await submit(services, "B2B")
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    ok(await services.crm.post(f"/v1/orders/{order_id}/requote"), 202)
    await services.until_logged("order_price_renewed", order_id=order_id, service_name="crm")
    ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))
    await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
    return order_id


async def rejected_after_a_refused_cancellation(services: LoggingServices, topology: Topology) -> str:
    order_id = await approved(services)
    async with (
        open_cluster(topology, "crm", role="crm", application_name="test") as crm,
        crm.write() as session,
    ):
        await lock_order(session, CRM, int(order_id))
        wish = {"reason": "too slow"}
        asking = asyncio.create_task(services.crm.post(f"/v1/orders/{order_id}/cancel", json=wish))
        await until(partial(somebody_waits_for_a_lock, crm))
        ok(await services.take(order_id))
    ok(await asking, 202)
    await services.until_logged("order_cancel_refused", order_id=order_id, service_name="crm")
    ok(await services.advance(order_id, "REJECTED", reason="the band breaks when it is cast"))
    await services.shows(services.crm, order_id, "REJECTED")
    return order_id


async def priced_by_hand_rejected_and_ordered_again(services: LoggingServices) -> str:
    order_id = await submit(services, "B2C")
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    path = f"/v1/orders/{order_id}"
    wish = {"price": "390.00", "reason": "agreed by telephone"}
    ok(await services.crm.post(f"{path}/price", json=wish), 202)
    await services.until_logged("order_price_renewed", order_id=order_id, service_name="crm")
    ok(await services.crm.post(f"{path}/approve"))
    await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
    ok(await services.take(order_id))
    ok(await services.advance(order_id, "REJECTED", reason="the band is too thin"))
    await services.shows(services.crm, order_id, "REJECTED")
    await services.shows(services.shop, order_id, "REJECTED")
    ok(await services.crm.post(f"{path}/ask-file", json={"reason": "a band of 2 mm"}))
    ok(await services.shop.post(f"{path}/again"), 201)
    return order_id


async def taken_put_back_and_handed_over(
    services: LoggingServices, topology: Topology, order_id: str
) -> None:
    await asyncio.to_thread(create_all, topology, {"Olga": Role.OPERATOR})
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))
    await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")
    path, reason = f"/v1/orders/{order_id}", {"reason": "the furnace is broken"}
    ok(await services.take(order_id))
    ok(await services.mes.post(f"{path}/release", json=reason, headers=by_operator()))
    ok(await services.take(order_id))

    async def is_handed_over() -> bool:
        # A process knows a new operator within a second or two.
        answer = await services.mes.post(f"{path}/hand-over", json={"to": "Olga"}, headers=by_operator())
        return answer.status_code == 200 and answer.json()["operator"] == "Olga"

    await until(is_handed_over)


@contextmanager
def logs_in(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MES_STORAGE_LOGS", str(folder))
        yield


async def test_every_event_of_an_orders_life_is_logged_with_its_fields(
    services: LoggingServices, module_topology: Topology, capsys: pytest.CaptureFixture[str]
) -> None:
    order_id = await submit(services, "B2C")
    await taken_put_back_and_handed_over(services, module_topology, order_id)
    for step in MADE:
        ok(await services.advance(order_id, step, operator="Olga"))
    await services.shows(services.crm, order_id, "SHIPPED")
    ok(await services.crm.post(f"/v1/orders/{order_id}/close"))
    await services.shows(services.shop, order_id, "CLOSED")
    problem(await services.advance(order_id, "PACKAGING", operator="Ben"), 409)
    others = [
        await cancelled(services),
        await rejected_after_a_refused_cancellation(services, module_topology),
        await priced_by_hand_rejected_and_ordered_again(services),
    ]

    mesctl = ["--topology", str(module_topology.path)]

    async def is_archived() -> bool:
        with logs_in(services.folder):
            await asyncio.to_thread(cli.run, [*mesctl, "archive", "run", "--grace", "0s"])
        return bool(services.of("order_archived", order_id=order_id))

    await until(is_archived)  # what is still owed of it holds it back
    lines = services.lines()
    for line in lines:
        check_line(line)
    assert {line.get("event.action") for line in lines} >= LIFE.keys()
    assert {line["event.action"] for line in lines if "event.action" in line} - EVENTS.keys() <= {
        "shard_map_taken"
    }
    # Whatever is about one order says of which.
    of_orders = [line for line in lines if str(line.get("event.action")).startswith(("order_", "message_"))]
    requests = [line for line in lines if "/v1/" in str(line.get("url.path"))]
    assert [line for line in of_orders + requests if "order.id" not in line] == []
    traced = {"request_answered", "message_handled", "order_priced", "order_settled"}
    assert [line for line in lines if line.get("event.action") in traced and "trace.id" not in line] == []
    for known in (order_id, *others):
        named = {line["service.name"] for line in lines if line.get("order.id") == known}
        assert named >= {"crm", "mes", "pricing"}
    assert "ada@example.org" not in " ".join(json.dumps(line) for line in lines)
    assert "uvicorn.access" not in {line["log.logger"] for line in lines}, "it has the clients' addresses"

    capsys.readouterr()
    with logs_in(services.folder):
        status = await asyncio.to_thread(cli.run, [*mesctl, "--json", "orders", "logs", order_id])
    told = json.loads(capsys.readouterr().out)
    assert status == 0
    assert [line["@timestamp"] for line in told] == sorted(line["@timestamp"] for line in told)
    assert {line["service.name"] for line in told} == {"shop", "crm", "mes", "pricing", "archive"}
    assert (told[0]["service.name"], told[-1]["event.action"]) == ("shop", "order_archived")


@contextmanager
def refused_events(topology: Topology, condition: str) -> Iterator[None]:
    """Have the MES's shards refuse a line of an order's history."""
    for database in topology.databases_of("mes").values():
        with open_engine(topology, database, role=database.owner) as engine, engine.begin() as connection:
            connection.execute(
                text(
                    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                    "$$ BEGIN RAISE EXCEPTION 'refused by the test'; END $$"
                )
            )
            connection.execute(
                text(
                    f"CREATE TRIGGER refuse BEFORE INSERT ON order_events FOR EACH ROW WHEN ({condition}) "
                    "EXECUTE FUNCTION refuse()"
                )
            )
    try:
        yield
    finally:
        for database in topology.databases_of("mes").values():
            with open_engine(topology, database, role=database.owner) as engine, engine.begin() as connection:
                connection.execute(text("DROP FUNCTION refuse CASCADE"))


async def test_what_the_mes_cannot_handle_from_its_queue_is_an_error_with_the_order(
    services: LoggingServices, module_topology: Topology
) -> None:
    waiting = await submit(services, "B2B")
    await services.shows(services.crm, waiting, "PRICE_CALCULATED")
    with refused_events(module_topology, "NEW.status IN ('SUBMITTED', 'MANUFACTURING_APPROVED')"):
        order_id = await submit(services, "B2C")
        new = await services.until_logged("message_postponed", order_id=order_id, service_name="mes")
        ok(await services.crm.post(f"/v1/orders/{waiting}/approve"))
        changed = await services.until_logged("message_postponed", order_id=waiting, service_name="mes")
        for line, kind in ((new, "order.submitted"), (changed, "order.approved")):
            assert line["log.level"] == "error"
            assert line["mes_storage.message_type"] == kind
            assert "refused by the test" in line["error.message"]
            assert "[parameters: ***]" in line["error.stack_trace"]
        # It is a dead letter in the end, which its sender logs too.
        await services.until_logged("message_refused", order_id=order_id, service_name="mes")
        aside = await services.until_logged("message_set_aside", order_id=order_id, service_name="shop")
        assert "refused by the test" in aside["mes_storage.reason"]


async def test_what_the_crm_cannot_write_to_a_queue_is_an_error_with_the_order(
    services: LoggingServices, module_topology: Topology
) -> None:
    order_id = await submit(services, "B2B")
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    stream = orders_stream("mes")
    async with open_redis(redis_url(module_topology, "mes")) as redis:
        await redis.delete(stream)
        await redis.set(stream, "no stream")
        try:
            ok(await services.crm.post(f"/v1/orders/{order_id}/approve"))
            line = await services.until_logged("message_not_sent", order_id=order_id, service_name="crm")
        finally:
            await redis.delete(stream)
    assert (line["log.level"], line["mes_storage.stream"]) == ("error", stream)
    assert line["mes_storage.message_type"] == "order.approved"
    assert line["error.message"].startswith("WRONGTYPE")
    await services.shows(services.mes, order_id, "MANUFACTURING_APPROVED")


async def test_a_fault_inside_a_service_is_an_error_with_the_order(
    services: LoggingServices, module_topology: Topology
) -> None:
    order_id = await approved(services)
    with refused_events(module_topology, "NEW.status = 'MANUFACTURING_STARTED'"):
        problem(await services.take(order_id), 500)
    line = await services.until_logged("unforeseen", order_id=order_id, service_name="mes")
    assert line["url.path"] == f"/v1/orders/{order_id}/take"
    assert line["http.response.status_code"] == 500
    assert "refused by the test" in line["error.message"]


async def test_what_pricing_cannot_write_is_an_error_with_the_order(
    services: LoggingServices, module_topology: Topology
) -> None:
    with refused_events(module_topology, "NEW.status = 'PRICE_CALCULATED'"):
        order_id = await submit(services, "B2B")
        line = await services.until_logged("pricing_interrupted", order_id=order_id, service_name="pricing")
    assert "refused by the test" in line["error.message"]


@asynccontextmanager
async def locked(topology: Topology, services: LoggingServices, order_id: str) -> AsyncIterator[None]:
    """Hold an order's rows in all services."""
    async with AsyncExitStack() as opened:
        sessions = {}
        for name in ("shop", "crm"):
            cluster = await opened.enter_async_context(
                open_cluster(topology, name, role=name, application_name="test")
            )
            sessions[name] = await opened.enter_async_context(cluster.write())
        await lock_order(sessions["shop"], SHOP, int(order_id))
        await lock_order(sessions["crm"], CRM, int(order_id))
        shard = await opened.enter_async_context(services.shards.write(int(order_id)))
        await lock_order(shard, MES, int(order_id))
        yield


async def test_a_database_that_does_not_answer_is_an_error_with_the_order_in_each_service(
    services: LoggingServices, module_topology: Topology
) -> None:
    order_id = await submit(services, "B2C")
    await services.shows(services.crm, order_id, "PRICE_CALCULATED")
    await services.shows(services.shop, order_id, "PRICE_CALCULATED")
    async with locked(module_topology, services, order_id):
        answers = await asyncio.gather(
            services.shop.post(f"/v1/orders/{order_id}/submit"),
            services.crm.post(f"/v1/orders/{order_id}/approve"),
            services.take(order_id),
        )
        assert [answer.status_code for answer in answers] == [503, 503, 503]
    for name in ("shop", "crm", "mes"):
        line = await services.until_logged("unavailable", order_id=order_id, service_name=name)
        assert line["log.level"] == "error"
        assert "statement timeout" in line["error.message"]
        assert "ada@" not in line["error.message"]


async def test_a_refusal_is_no_error(services: LoggingServices) -> None:
    problem(await services.shop.get("/v1/orders/1234"), 404)
    line = await services.until_logged("request_refused", order_id="1234", service_name="shop")
    assert (line["log.level"], line["http.response.status_code"]) == ("info", 404)
    assert line["error.message"].startswith("Unknown order: ")
