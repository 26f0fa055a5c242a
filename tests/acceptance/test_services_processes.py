"""The services as processes: `python -m app.NAME` on a port, with JSON logs and a graceful end."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from app.topology import services_of
from ops.ports import PortPicker
from ops.waiting import wait_until
from sharding.topology import Topology
from tests.callers import ACCESS_KEYS, ActingAs
from tests.integration.services_rig import ok, problem, save_map
from tests.message_keys import ALL_KEYS

MODEL = b"solid ring\nendsolid ring\n"


@contextmanager
def process(
    service: str, topology: Path | None, log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("MES_STORAGE_")}
    if topology is not None:
        known |= {
            "MES_STORAGE_TOPOLOGY": str(topology),
            "MES_STORAGE_MESSAGE_KEYS": ALL_KEYS,
            "MES_STORAGE_ACCESS_KEYS": ACCESS_KEYS,
        }
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


DIRECTORY = r"\[databases\.directory\]\n(.+\n){4}"
WRONG = [
    (r'url = "file:.*"', 'url = "ftp://models"', "[files] url is of no use"),
    (r'url = "redis:.*"', 'url = "http://valkey"', "[redis] url is of no use"),
    ("buckets = 64", "buckets = 32", "it has 64 buckets, but the topology says 32"),
    (r'dbname = ".*_directory"', 'dbname = "postgres"', 'relation "shard_map_versions" does not exist'),
]
"""What is changed in the topology, and what the MES says of that."""


@pytest.mark.parametrize(("found", "changed", "said"), WRONG)
def test_a_service_that_cannot_start_says_why_in_one_line(
    platform: Topology, tmp_path: Path, found: str, changed: str, said: str
) -> None:
    log = tmp_path / "log"
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(re.sub(found, changed, platform.path.read_text()))
    with process("mes", wrong, log) as mes:
        assert mes.wait(timeout=60) == 2
    [line] = log.read_text().splitlines()
    assert line.startswith("mes: cannot start: ")
    assert said in line


def test_a_log_file_that_cannot_be_opened_is_one_line(platform: Topology, tmp_path: Path) -> None:
    log, nowhere = tmp_path / "log", str(tmp_path / "nowhere" / "mes.log")
    with process("mes", platform.path, log, MES_STORAGE_LOG_FILE=nowhere) as mes:
        assert mes.wait(timeout=60) == 2
    assert log.read_text() == f"mes: MES_STORAGE_LOG_FILE: No such file or directory: {nowhere}\n"


@asynccontextmanager
async def forwarded(port: int, to_port: int) -> AsyncIterator[None]:
    """Let a server be found on a second port."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", to_port)
        await asyncio.gather(copy(reader, server_writer), copy(server_reader, writer))

    server = await asyncio.start_server(connect, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


async def test_a_service_waits_for_the_directory_and_starts_when_it_is_there(
    platform: Topology, tmp_path: Path
) -> None:
    log, port = tmp_path / "log", PortPicker(random.Random()).pick()
    away = tmp_path / "away.toml"
    directory = re.search(DIRECTORY, platform.path.read_text())
    assert directory is not None
    moved = re.sub(r"port = \d+", f"port = {port}", directory[0])
    away.write_text(platform.path.read_text().replace(directory[0], moved))

    def waits() -> bool:
        return b"start_waits" in log.read_bytes()

    url = services_of(platform)["shop"].url
    with process("shop", away, log) as shop:
        assert await asyncio.to_thread(wait_until, waits, timeout_seconds=60)
        async with forwarded(port, platform.databases["directory"].primary.port):
            up = await asyncio.to_thread(wait_until, lambda: is_up(url), timeout_seconds=60)
            assert up, log.read_text()
            shop.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(shop.wait, timeout=30) == 0
    with process("shop", away, log) as shop:
        assert await asyncio.to_thread(wait_until, waits, timeout_seconds=60)
        shop.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(shop.wait, timeout=30) == 0
    [line] = [json.loads(line) for line in log.read_text().splitlines()]
    assert (line["log.level"], line["service"]["name"]) == ("warning", "shop")
    assert "Connection refused" in line["error"]["message"]


def test_services_serve_until_they_are_told_to_stop(platform: Topology, tmp_path: Path) -> None:
    log = tmp_path / "mes.log"
    url = services_of(platform)["mes"].url
    # Without these the service warns.
    secrets = {"MES_STORAGE_CURSOR_KEY": "c" * 32, "MES_STORAGE_TOKEN_KEYS": f"test={'t' * 32}"}
    with process("mes", platform.path, log, **secrets) as mes:
        assert wait_until(lambda: is_up(url), timeout_seconds=60), log.read_text()
        made = httpx.post(
            f"{url}/v1/partners/atelier-nord/orders",
            files={"file": ("ring.stl", MODEL)},
            data={"material": "brass", "finish": "matte", "quantity": "3"},
            headers={"Idempotency-Key": "one"},
            auth=ActingAs(),
        )
        order_id = ok(made, 202)["order_id"]
        token = {"Causal-Token": made.headers["Causal-Token"]}
        assert (
            ok(httpx.get(f"{url}/v1/orders/{order_id}", headers=token, auth=ActingAs()))["status"]
            == "SUBMITTED"
        )
        too_large = {"file": ("ring.stl", b"x" * 30_000_000)}
        problem(httpx.post(f"{url}/v1/partners/x/orders", files=too_large, auth=ActingAs()), 413)
        mes.send_signal(signal.SIGTERM)
        assert mes.wait(timeout=30) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["service"]["name"] for line in lines} == {"mes"}
    assert not [line for line in lines if line["log.level"] in {"warning", "error"}]
