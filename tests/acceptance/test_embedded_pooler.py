"""The embedded platform with PgBouncer between its services and its servers: `mesctl up --pgbouncer`."""

import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from httpx import AsyncClient

from app.topology import services_of
from ops import cli
from ops.embedded.platform import Platform
from ops.embedded.processes import is_alive
from ops.errors import ExitStatus
from ops.pgbouncer.pooler import Pooler
from ops.project.project import Project
from ops.waiting import wait_until
from sharding.sessions import open_sessions
from tests.callers import ACCESS_KEYS, caller_of
from tests.integration.life_rig import RING, make_and_ship
from tests.integration.services_rig import Services
from tests.needs import require
from tests.project import PROJECT


def project_of_tests() -> Project:
    """Return the project, whose services know the callers of tests."""
    services = {
        name: entry.model_copy(
            update={"environment": {**entry.environment, "MES_STORAGE_ACCESS_KEYS": ACCESS_KEYS}}
        )
        for name, entry in PROJECT.file.services.items()
    }
    return Project(PROJECT.path, PROJECT.file.model_copy(update={"services": services}))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Give a platform in which everything runs, behind a pooler."""
    require("pgbouncer")
    platform = Platform(tmp_path_factory.mktemp("platform") / "home", project_of_tests(), safe=False)
    try:
        platform.up(pgbouncer=True)
        yield platform
    finally:
        platform.delete()


@pytest_asyncio.fixture
async def services(platform: Platform) -> AsyncIterator[Services]:
    """Give clients of the services."""
    topology = platform.topology()
    async with AsyncExitStack() as stack:
        shop, crm, mes = [
            await stack.enter_async_context(
                AsyncClient(base_url=services_of(topology)[name].url, timeout=30, auth=caller_of(name))
            )
            for name in ("shop", "crm", "mes")
        ]
        shards = await stack.enter_async_context(open_sessions(topology, role="mes", application_name="test"))
        yield Services(shop, crm, mes, shards)


@pytest.fixture
def mesctl(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run `mesctl` on the platform, in this process."""
    monkeypatch.delenv("MES_STORAGE_TOPOLOGY", raising=False)
    return lambda *arguments: cli.run(["--home", str(platform.home.path), *arguments])


async def test_an_order_goes_its_way_through_the_pooler(services: Services, platform: Platform) -> None:
    order_id = await services.placed(await services.b2b_response(content=RING))
    await make_and_ship(services, order_id)
    # For LISTEN, which is of a session.
    assert {server for _, server in direct_ways(platform)} <= {"directory"}
    [console] = Pooler(platform.topology()).consoles()
    clients = {row["database"] for row in console.show("CLIENTS")}
    assert {"shop.shop", "crm.crm", "mes_0.mes", "mes_1.mes", "directory.shop"} <= clients


def direct_ways(platform: Platform) -> set[tuple[str, str]]:
    """Tell which service has a connection to which server itself."""
    components = platform.status().components
    servers = {state.port: state.name for state in components if state.kind in ("primary", "replica")}
    return {
        (state.name, servers[connection.raddr[1]])
        for state in components
        if state.kind == "service" and state.pid is not None
        for connection in psutil.Process(state.pid).net_connections(kind="tcp")
        if connection.raddr and connection.raddr[1] in servers
    }


def test_a_killed_pooler_is_shown_and_started_again_and_down_stops_it(
    platform: Platform, mesctl: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> dict[str, Any]:
        capsys.readouterr()
        mesctl("status", "--json")
        components = json.loads(capsys.readouterr().out)["components"]
        [found] = [component for component in components if component["kind"] == "pooler"]
        return dict(found)

    before = shown()
    assert (before["state"], before["wanted"]) == ("running", True)
    os.kill(before["pid"], signal.SIGKILL)
    assert wait_until(lambda: not is_alive(before["pid"]), timeout_seconds=20)
    assert mesctl("status") == ExitStatus.FAILED
    assert shown()["state"] == "stopped"
    # It is wanted still, without being asked for again.
    assert mesctl("up", "--no-fsync") == ExitStatus.DONE
    again = shown()
    assert (again["state"], again["port"]) == ("running", before["port"])
    assert mesctl("pgbouncer", "check") == ExitStatus.DONE
    assert mesctl("down") == ExitStatus.DONE
    assert not is_alive(again["pid"])


def test_the_platform_does_without_it_again(platform: Platform, mesctl: Callable[..., int]) -> None:
    mes_0 = platform.topology().database("mes_0").primary
    assert platform.topology().url("mes_0", role="mes").database == "mes_0.mes"
    assert mesctl("up", "--no-services", "--no-pgbouncer", "--no-fsync") == ExitStatus.DONE
    assert platform.topology().pgbouncer is None
    assert platform.topology().url("mes_0", role="mes").port == mes_0.port
    assert "pooler" not in {component.kind for component in platform.status().components}


def test_a_machine_without_pgbouncer_is_told_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.embedded.pooler.find_program", lambda: None)
    assert cli.run(["--home", str(tmp_path / "home"), "up", "--pgbouncer"]) == ExitStatus.FAILED
    assert "PgBouncer was not found" in (said := capsys.readouterr().err)
    assert "apt-get install pgbouncer" in said
    assert not (tmp_path / "home").exists()
