"""Takes orders through the services with OpenTelemetry's SDK: providers are global, hence a process.

Its arguments: the topology file, the collector's URL, the ratio of traces. It prints the
orders' ids and, in the end, the metrics.
"""

import asyncio
import json
import sys

from prometheus_client import REGISTRY, generate_latest

from app.database import open_shards
from app.files import ModelStore
from app.kit.clock import utc_now
from app.kit.logs import configure_logging
from app.kit.telemetry import start_telemetry
from app.log_events import SCHEMA
from app.pricing.pricer import Pricer
from app.pricing.sandbox import Sandbox
from app.pricing.worker import Worker
from app.topology import files_url
from sharding.topology import Topology
from tests.integration.life_rig import make_and_close, submit
from tests.integration.messaging_rig import running
from tests.integration.pricing_rig import SOON
from tests.integration.services_rig import Services, ok, open_services


async def live(services: Services) -> dict[str, str]:
    """Take orders to every end; return their ids by channel and ending."""
    orders = {}
    for channel in ("B2C", "B2B"):
        orders[f"{channel} closed"] = await submit(services, channel)
        await make_and_close(services, orders[f"{channel} closed"])
        orders[f"{channel} cancelled"] = cancelled = await submit(services, channel)
        await services.shows(services.crm, cancelled, "PRICE_CALCULATED")
        wish = {"reason": "she changed her mind"}
        ok(await services.crm.post(f"/v1/orders/{cancelled}/cancel", json=wish), 202)
        await services.shows(services.crm, cancelled, "CANCELLED")
    orders["B2C rejected"] = rejected = await services.b2c()
    await services.shows(services.crm, rejected, "REJECTED")
    orders["B2B rejected"] = rejected = await services.b2b()
    await services.shows(services.crm, rejected, "REJECTED")
    return orders


async def strain(services: Services) -> None:
    """Ask for what has no route, by strange methods and headers."""
    for number in range(300):
        await services.shop.request(f"X{number}", f"/v1/strange/{number}")
    for header in (b"\xff\\", b"00-zz", b"\x00", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-00"):
        answer = await services.shop.get("/v1/orders/1", headers=[(b"traceparent", header)])
        assert answer.status_code == 404, answer.text
    assert (await services.shop.head("/v1/orders/1")).status_code == 404


KEY = f"mk_abcdefghijkl_{'S' * 43}"
PASSWORD = "hunter2-and-more"


async def betray(services: Services) -> None:
    """Send secrets wherever a client may put one: each is refused, and answered without it."""
    bearer = {"Authorization": f"Bearer {KEY}"}
    token = {"grant_type": "client_credentials", "client_id": "atelier-nord", "client_secret": KEY}
    for status, answer in (
        (401, await services.mes.get(f"/v1/orders/17?key={KEY}&password={PASSWORD}", headers=bearer)),
        (401, await services.mes.get("/v1/usage", headers={**bearer, "Cookie": f"__Host-session={KEY}"})),
        (401, await services.mes.post("/v1/login", json={"name": "Rosa", "password": PASSWORD})),
        (422, await services.mes.post("/v1/login", json={"name": "Rosa", "secret": PASSWORD})),
        (401, await services.mes.post("/v1/token", data=token)),
        (422, await services.mes.post("/v1/token", data={**token, "grant_type": PASSWORD})),
    ):
        assert answer.status_code == status, answer.text
        assert KEY not in answer.text, answer.text
        assert PASSWORD not in answer.text, answer.text
    await services.mes.get(f"/v1/partners/{KEY}/orders")


async def main(path: str, url: str, ratio: str) -> None:
    topology = Topology.load(path)
    configure_logging("all", level="info", schema=SCHEMA)
    stop = start_telemetry("all", otlp_endpoint=url, trace_ratio=float(ratio))
    async with open_services(topology) as services:
        models = await asyncio.to_thread(ModelStore.open, files_url(topology))
        async with Sandbox() as sandbox, open_shards(topology, application_name="pricing") as sessions:
            pricer = Pricer(sessions, models, sandbox, now=utc_now, max_attempts=3)
            async with running(Worker(sessions, pricer, holder="test", options=SOON)):
                orders = await live(services)
        await strain(services)
        await betray(services)
    metrics = generate_latest(REGISTRY).decode()
    stop()
    print(json.dumps({"orders": orders, "metrics": metrics}))  # noqa: T201 (the test reads it)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
