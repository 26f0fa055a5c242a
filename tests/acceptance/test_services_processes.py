"""The services as processes: `python -m app.NAME` on a port, with JSON logs and a graceful end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest_asyncio

from ops.embedded.processes import wait_until
from sharding.topology import Topology
from tests.integration.services_rig import ok, problem, save_map

MODEL = b"solid ring\nendsolid ring\n"


@contextmanager
def process(
    service: str, topology: Path | None, log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("MES_STORAGE_")}
    if topology is not None:
        known["MES_STORAGE_TOPOLOGY"] = str(topology)
    with log.open("wb") as stderr:
        running = subprocess.Popen(
            [sys.executable, "-m", f"app.{service}"], env=known | environment, stderr=stderr
        )
        try:
            yield running
        finally:
            running.kill()
            running.wait()


@pytest_asyncio.fixture
async def platform(topology: Topology) -> Topology:
    await save_map(topology)
    return topology


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_wrong_configuration_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    log = tmp_path / "log"
    broken = tmp_path / "topology.toml"
    broken.write_text("backend = 'oracle'")
    for topology, expected in (
        (None, "shop: MES_STORAGE_TOPOLOGY is not set"),
        (tmp_path / "nowhere.toml", "shop: nowhere.toml: cannot be read"),
        (broken, "shop: topology.toml: "),
    ):
        with process("shop", topology, log) as running:
            assert running.wait(timeout=60) == 2
        lines = log.read_text().splitlines()
        assert lines[0].startswith(expected)
        assert all(line.startswith("shop: ") for line in lines)


def test_services_serve_until_they_are_told_to_stop(platform: Topology, tmp_path: Path) -> None:
    log = tmp_path / "mes.log"
    url = platform.services["mes"].url
    with process("mes", platform.path, log) as mes:
        assert wait_until(lambda: is_up(url), timeout_seconds=60), log.read_text()
        made = httpx.post(
            f"{url}/v1/partners/atelier-nord/orders",
            files={"file": ("ring.stl", MODEL)},
            data={"material": "brass", "finish": "matte", "quantity": "3"},
            headers={"Idempotency-Key": "one"},
        )
        order_id = ok(made, 201)["order_id"]
        token = {"Causal-Token": made.headers["Causal-Token"]}
        assert ok(httpx.get(f"{url}/v1/orders/{order_id}", headers=token))["status"] == "SUBMITTED"
        too_large = {"file": ("ring.stl", b"x" * 30_000_000)}
        problem(httpx.post(f"{url}/v1/partners/x/orders", files=too_large), 413)
        mes.send_signal(signal.SIGTERM)
        mes.wait(timeout=30)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["service"] for line in lines} == {"mes"}
    assert not [line for line in lines if line["level"] in {"warning", "error"}]
