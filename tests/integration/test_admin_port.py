"""The admin port of a process: over a real socket, from its start to its end."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from httpx import AsyncClient

from app.kit.admin import AdminAddress, AdminPortTaken, Readings, measuring_lag, serving_admin
from app.topology import admin_address
from ops.embedded.shape import admin_key, shape_of
from ops.ports import LOOPBACK, PortPicker
from sharding.errors import TopologyError
from sharding.topology import Topology
from tests.integration.services_rig import open_services
from tests.project import PROJECT, TEMPLATE

IS_READY = Readings(True, {"status": "ok"})


def a_place() -> AdminAddress:
    return AdminAddress(LOOPBACK, PortPicker(random.Random()).pick())


async def is_ready() -> Readings:
    return IS_READY


@asynccontextmanager
async def admin(place: AdminAddress, ready: Readings = IS_READY) -> AsyncIterator[AsyncClient]:
    async def state() -> Readings:
        return ready

    async with (
        serving_admin("shop", place, state),
        AsyncClient(base_url=f"http://{place.host}:{place.port}") as client,
    ):
        yield client


async def test_it_serves_metrics_and_says_whether_the_process_is_alive_and_ready() -> None:
    async with admin(a_place()) as client:
        metrics = await client.get("/metrics", headers={"Accept": "text/plain"})
        assert metrics.headers["content-type"].startswith("text/plain; version=")
        assert "python_info{" in metrics.text
        assert (await client.get("/livez")).json() == {"service": "shop", "status": "ok"}
        assert (await client.get("/readyz")).json() == {"service": "shop", "status": "ok"}
        assert (await client.get("/v1/orders/1")).status_code == 404
    async with admin(a_place(), Readings(False, {"status": "starting"})) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "starting")
        assert (await client.get("/livez")).status_code == 200


async def test_a_port_that_another_has_is_named_with_its_key() -> None:
    place = a_place()
    async with admin(place):
        with pytest.raises(
            AdminPortTaken, match=rf"services\.crm\.admin_port: port {place.port} .*stop what"
        ):
            async with serving_admin("crm", place, is_ready):
                pass


async def test_a_scrape_while_the_process_ends_is_answered_and_a_later_one_refused() -> None:
    place = a_place()
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def slow() -> Readings:
        asked.set()
        await may_answer.wait()
        return IS_READY

    async with AsyncClient(base_url=f"http://{place.host}:{place.port}") as client:
        async with serving_admin("shop", place, slow):
            under_way = asyncio.create_task(client.get("/readyz"))
            await asked.wait()
            asyncio.get_running_loop().call_later(0.2, may_answer.set)
        assert (await under_way).status_code == 200
    with pytest.raises(OSError, match=r"."):
        await asyncio.open_connection(*place)


async def test_without_an_address_there_is_none() -> None:
    async with serving_admin("shop", None, is_ready):
        pass


async def test_a_blocked_event_loop_is_seen_as_lag() -> None:
    seen: asyncio.Queue[float] = asyncio.Queue()
    async with measuring_lag(seen.put_nowait, every_seconds=0.01):
        async with asyncio.timeout(5):
            while await seen.get() > 0.2:
                pass
            await asyncio.sleep(0)
            blocked_until = asyncio.get_running_loop().time() + 0.3
            while asyncio.get_running_loop().time() < blocked_until:
                pass
            assert await seen.get() > 0.2


async def test_the_data_port_never_serves_metrics(topology: Topology) -> None:
    async with open_services(topology) as services:
        for client in (services.shop, services.crm, services.mes):
            assert (await client.get("/metrics")).status_code == 404
            assert (await client.get("/livez")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200


def write(tmp_path: Path, services: str) -> Topology:
    path = tmp_path / "topology.toml"
    text = (PROJECT.root / "app" / "console" / "topology.toml").read_text()
    path.write_text(text.partition("[services.shop]")[0] + services)
    return Topology.load(path)


def test_the_topology_says_where_admin_ports_are_and_a_worker_has_nothing_else(tmp_path: Path) -> None:
    services = '[services.shop]\nhost = "::1"\nport = 80\n[services.pricing]\nadmin_port = 9104\n'
    topology = write(tmp_path, services)
    assert admin_address(topology, "shop") is None
    assert admin_address(topology, "pricing") == (LOOPBACK, 9104)
    assert admin_address(topology, "crm") is None
    topology = write(tmp_path, f'{services}admin_host = "10.0.0.1"\n')
    assert admin_address(topology, "pricing") == ("10.0.0.1", 9104)
    assert admin_address(write(tmp_path, ""), "shop") is None


def test_what_is_wrong_with_an_admin_port_is_said_as_of_any_port(tmp_path: Path) -> None:
    for services, fault in (
        ("[services.pricing]\nadmin_port = 0\n", "services.pricing.admin_port"),
        ('[services.shop]\nhost = "a"\nport = 80\nadmin_port = "x"\n', "services.shop.admin_port"),
        ('[services.shop]\nhost = "a"\nadmin_port = 80\n', "services.shop.port"),
    ):
        topology = write(tmp_path, services)
        with pytest.raises(TopologyError, match=fault):
            admin_address(topology, "shop")
        with pytest.raises(TopologyError, match=fault):
            shape_of(topology, PROJECT.file.services)


def test_up_gives_each_service_an_admin_port_of_its_own() -> None:
    addresses = shape_of(TEMPLATE, PROJECT.file.services).addresses
    ports = {name: addresses[admin_key(name)].port for name in PROJECT.file.services}
    assert ports == {"shop": 9101, "crm": 9102, "mes": 9103, "pricing": 9104, "board": 9105}
    assert addresses[admin_key("pricing")].keys == (("services", "pricing", "admin_port"),)
