"""Dump the five databases of this release, as a platform leaves them that is in use: tests/data/README.md.

PG_BIN=/usr/lib/postgresql/15/bin python -m tests.data.make_dump 0.1
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from httpx import AsyncClient
from psycopg.conninfo import make_conninfo
from rich.console import Console
from sqlalchemy import insert

from app.console.demo.command import DemoOptions, run_demo
from app.console.demo.shapes import Shape, good_shapes
from app.models.mes import MesOrder, MesOrderItem
from app.models.policies import ARCHIVE
from app.models.status import DONE, Status
from app.topology import services_of
from ops.embedded.platform import Platform
from ops.embedded.postgres import SUPERUSER
from ops.embedded.programs import PostgresTools
from ops.fleet import members
from ops.partitions.archiving import archive_database
from sharding.engines import open_cluster
from sharding.sessions import open_sessions
from sharding.topology import Topology
from sharding.writes import Decisions, two_phase
from sharding.writes.prepared import CommitDecision
from tests.integration.audit_rig import SHARDS, Clerk
from tests.integration.services_rig import Services, ok
from tests.integration.upgrade_rig import wait_for_acknowledgements
from tests.project import DATABASES, PROJECT

HERE = Path(__file__).parent
HOME = HERE.parents[1] / "build" / "dump"
SHAPES = good_shapes(seed=1)
HOST = "factory"
"""Stands in the dump for the name of the machine that made it."""

HALF_WAY = tuple(status for status in Status if status not in DONE)[3:]
ENDS = (*HALF_WAY, *sorted(DONE))
"""Where orders are left of which every service knows everything."""


def make(folder: Path, console: Console) -> None:
    """Run a platform through a day and what follows it, and write a dump of each database.

    Parameters:
        folder: where the dumps are written. It must not be there: a release's dump is never made again.
    """
    if folder.exists():
        raise FileExistsError(folder)
    platform = Platform(HOME, PROJECT, safe=False)
    try:
        report = run_demo(DemoOptions(home=HOME, orders=16, keep=True, safe=False), PROJECT, console=console)
        if not report.good:
            raise RuntimeError(report.verdict.line)
        topology = platform.topology()
        archive_old_orders(topology)
        asyncio.run(leave_work(platform, topology))
        dumps = {shape.name: dump(platform, shape.name) for shape in DATABASES}
    finally:
        platform.delete()
    folder.mkdir()
    for name, script in dumps.items():
        (folder / f"{name}.sql").write_text(script, encoding="utf-8")


def archive_old_orders(topology: Topology) -> None:
    """Have orders of an earlier month in the archive: the services make today's only."""
    clerk, made = Clerk(topology), datetime.now(UTC) - timedelta(days=35)
    for order_id in clerk.orders(8, status=Status.CLOSED, made=made):
        piece = {"line_no": 1, "material": "brass", "finish": "matte", "quantity": 1}
        model = {"model_key": f"models/{order_id}.stl", "model_name": "ring.stl"}
        line = insert(MesOrderItem).values(order_id=order_id, unit_price=90, **piece, **model)
        clerk.write(SHARDS.shard_of(order_id), line)
    ended = replace(ARCHIVE, grace=timedelta(0))
    for member in members(topology, PROJECT, tree="mes"):
        archive_database(topology, member, ended, datetime.now(UTC))


async def leave_work(platform: Platform, topology: Topology) -> None:
    """Leave orders in every status, with and without messages under way, and decisions of two-phase units."""
    async with open_services(topology) as services:
        for status in ENDS:
            await bring(services, await submit_b2c(services), status)
            await bring(services, await submit_b2b(services), status)
        await rename_on_both_shards(services, topology)
        packed = [await submit_b2c(services), await submit_b2b(services)]
        for order_id in packed:
            await bring(services, order_id, Status.PACKAGING)
        await asyncio.to_thread(wait_for_acknowledgements, topology)
        for name in ("crm", "pricing"):
            platform.kill_service(name)
        # What the CRM has missed stays in the outboxes, and what is to be priced among the jobs.
        for order_id in packed:
            ok(await services.advance(order_id, Status.SHIPPED))
        for submit in (submit_b2c, submit_b2b, submit_b2c, submit_b2b):
            await services.shows(services.mes, await submit(services), Status.SUBMITTED)
        ok(await services.start(), 201)
        await upload(services, str(ok(await services.start(), 201)["order_id"]))
        for name in ("mes", "shop"):
            platform.kill_service(name)


@asynccontextmanager
async def open_services(topology: Topology) -> AsyncIterator[Services]:
    """Give clients of the platform's own services."""
    shop, crm, mes = (services_of(topology)[name].url for name in ("shop", "crm", "mes"))
    async with (
        AsyncClient(base_url=shop) as shop_client,
        AsyncClient(base_url=crm) as crm_client,
        AsyncClient(base_url=mes) as mes_client,
        open_sessions(topology, role="mes", application_name="dump") as shards,
    ):
        yield Services(shop_client, crm_client, mes_client, shards)


async def submit_b2c(services: Services) -> str:
    """Order through the Shop; return the order's id."""
    order_id = str(ok(await services.start(), 201)["order_id"])
    await upload(services, order_id)
    ok(await services.shop.post(f"/v1/orders/{order_id}/submit"))
    return order_id


async def upload(services: Services, order_id: str) -> None:
    """Upload a model that can be priced."""
    shape = next(SHAPES)
    ok(await services.upload(order_id, name=_file_name(shape), content=shape.data))


async def submit_b2b(services: Services) -> str:
    """Order as a partner; return the order's id."""
    shape = next(SHAPES)
    answer = await services.b2b_response(name=_file_name(shape), content=shape.data)
    return await services.placed(answer)


def _file_name(shape: Shape) -> str:
    return f"{shape.name}.{shape.suffix}"


async def bring(services: Services, order_id: str, to: Status) -> None:
    """Bring a submitted order to a status, as sellers and operators do."""
    crm, seller = f"/v1/orders/{order_id}", {"actor": "Sara"}
    await services.shows(services.crm, order_id, Status.PRICE_CALCULATED)
    if to is Status.PRICE_CALCULATED:
        return
    if to is Status.CANCELLED:
        ok(await services.crm.post(f"{crm}/cancel", json={**seller, "reason": "too expensive"}), 202)
        await services.shows(services.crm, order_id, to)
        return
    ok(await services.crm.post(f"{crm}/approve", json=seller))
    await services.shows(services.mes, order_id, Status.MANUFACTURING_APPROVED)
    if to is Status.MANUFACTURING_APPROVED:
        return
    ok(await services.take(order_id))
    await manufacture(services, order_id, to)
    if to is Status.CLOSED:
        await services.shows(services.crm, order_id, Status.SHIPPED)
        ok(await services.crm.post(f"{crm}/close", json=seller))


async def manufacture(services: Services, order_id: str, to: Status) -> None:
    """Advance an order that an operator has taken, to a status or to the carrier."""
    if to is Status.REJECTED:
        ok(await services.advance(order_id, to, reason="the wall is too thin"))
        return
    for step in (Status.MANUFACTURING_COMPLETED, Status.PACKAGING, Status.SHIPPED):
        if to is Status.MANUFACTURING_STARTED:
            return
        ok(await services.advance(order_id, step))
        if to is step:
            return


async def rename_on_both_shards(services: Services, topology: Topology) -> None:
    """Leave the decisions of a unit that was committed and of one that recovery has aborted."""
    of_shard: dict[str, int] = {}
    while len(of_shard) < len(SHARDS.shards):
        order_id = int(await submit_b2b(services))
        of_shard[SHARDS.shard_of(order_id)] = order_id
        await bring(services, str(order_id), Status.PRICE_CALCULATED)
    keys = of_shard.values()
    async with open_cluster(topology, "directory", role="mes", application_name="dump") as directory:
        decisions = Decisions(directory.primary, "mes")
        async with two_phase(services.shards, keys, decisions=decisions, label="rename a collection") as unit:
            for key in keys:
                order = await unit.session(key).get_one(MesOrder, key)
                order.summary = f"{order.summary} (spring)"
        await decisions.decide(
            "0" * 32, CommitDecision.ABORT, label="presumed abort", shards=sorted(of_shard)
        )


def dump(platform: Platform, name: str) -> str:
    """Return what pg_dump writes of a database, without what belongs to this machine or this run."""
    database = platform.topology().database(name)
    conninfo = make_conninfo(
        host=database.primary.host, port=database.primary.port, dbname=database.dbname, user=SUPERUSER
    )
    script = PostgresTools().run("pg_dump", conninfo, timeout_seconds=60, passfile=platform.home.passfile)
    # \restrict keeps a dump from a server that is not trusted from running psql's commands; psql of an
    # older minor release does not know it.
    lines = (
        line
        for line in script.splitlines(keepends=True)
        if not line.startswith((r"\restrict", r"\unrestrict"))
    )
    return "".join(lines).replace(f"@{socket.gethostname()}:", f"@{HOST}:")


if __name__ == "__main__":
    make(HERE / f"databases-{sys.argv[1]}", Console(stderr=True))
