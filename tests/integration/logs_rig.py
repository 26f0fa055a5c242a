"""The services as processes that log to files, as `mesctl up` has them, and what the files say."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from httpx import AsyncClient, TransportError

from app.console.logs import flat
from app.log_events import EVENTS, EVERY_LINE
from app.topology import services_of
from sharding.sessions import open_sessions
from sharding.topology import Topology
from tests.callers import ACCESS_KEYS, caller_of
from tests.integration.messaging_rig import until
from tests.integration.services_rig import Services, save_map
from tests.message_keys import ALL_KEYS

Line = dict[str, Any]


@dataclass
class LoggingServices(Services):
    """The services, and the folder of their logs."""

    folder: Path
    processes: Mapping[str, Process]

    def lines(self) -> list[Line]:
        """Read every line that was written."""
        return list(read_lines(self.folder))

    def of(self, event: str, **fields: str) -> list[Line]:
        """Find the lines of an event; `order_id="17"` wants those whose `order.id` is that."""
        wanted = {name.replace("_", ".", 1): value for name, value in fields.items()}
        return [
            line
            for line in self.lines()
            if line.get("event.action") == event and wanted.items() <= line.items()
        ]

    async def until_logged(self, event: str, **fields: str) -> Line:
        """Wait for a line of an event, check that it holds what the table asks of it, and return it."""

        async def is_there() -> bool:
            return bool(self.of(event, **fields))

        await until(is_there, seconds=60)
        line = self.of(event, **fields)[0]
        check_line(line)
        return line


def read_lines(folder: Path) -> Iterator[Line]:
    """Read the lines of a folder's logs."""
    for file in sorted(folder.glob("*.log*")):
        for raw in file.read_text().splitlines():
            if raw.startswith("{"):
                yield flat(json.loads(raw))


def check_line(line: Line) -> None:
    """Hold a line against the table of events."""
    assert line.keys() >= EVERY_LINE, EVERY_LINE - line.keys()
    action = str(line.get("event.action"))
    if action in EVENTS:
        event = EVENTS[action]
        missing = [name for name in event.fields if not any(f"{key}.".startswith(f"{name}.") for key in line)]
        assert missing == [], (action, line)
        assert line["log.level"] in event.levels, line
        expected = event.outcome or ("success" if line["log.level"] in {"debug", "info"} else "failure")
        assert line["event.outcome"] == expected, line


@asynccontextmanager
async def run_services(
    topology: Topology, folder: Path, *names: str, **environment: str
) -> AsyncIterator[LoggingServices]:
    """Run services, each a process."""
    await save_map(topology)
    async with AsyncExitStack() as opened:
        processes = {
            name: await opened.enter_async_context(_process(name, topology, folder, environment))
            for name in names
        }
        clients = {
            name: await opened.enter_async_context(
                AsyncClient(base_url=address.url, timeout=30, auth=caller_of(name))
            )
            for name, address in services_of(topology).items()
        }
        for name in set(names) & set(clients):
            await until(lambda client=clients[name]: _is_up(client), seconds=60)  # type: ignore[misc]  # a default
        shards = await opened.enter_async_context(
            open_sessions(topology, role="mes", application_name="test-logs")
        )
        yield LoggingServices(clients["shop"], clients["crm"], clients["mes"], shards, folder, processes)


async def _is_up(client: AsyncClient) -> bool:
    try:
        return (await client.get("/healthz")).status_code == 200
    except TransportError:
        return False


@asynccontextmanager
async def _process(
    name: str, topology: Topology, folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[Process]:
    known = {key: value for key, value in os.environ.items() if not key.startswith("MES_STORAGE_")}
    own = {
        "MES_STORAGE_TOPOLOGY": str(topology.path),
        "MES_STORAGE_MESSAGE_KEYS": ALL_KEYS,
        "MES_STORAGE_ACCESS_KEYS": ACCESS_KEYS,
        "MES_STORAGE_FLOW_FLOOR_PER_SECOND": "1000",
        "MES_STORAGE_REDELIVERY_SECONDS": "0.2",
        "MES_STORAGE_LOG_FILE": str(folder / f"{name}.log"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"app.{name}",
        env=known | own | dict(environment),
        stderr=DEVNULL,
        stdout=DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
