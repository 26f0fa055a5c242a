"""Flow control at the running services: what is granted, what waits, what is refused."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from httpx import AsyncClient, Response
from redis.asyncio import Redis
from sqlalchemy import func, select, text

from app.flow.grants import grant_key
from app.flow.limiter import Priority
from app.flow.shedding import Admission
from app.flow.signals import SIGNALS
from app.kit.clock import utc_now
from app.mes.application import build as build_mes
from app.messaging.events import Item, OrderSubmitted
from app.messaging.streams import open_redis
from app.models.mes import Intake, MesOrder, PartnerRequest, PricingJob
from app.models.reference import Finish, Material
from app.models.status import Channel, Status
from app.settings import Settings
from app.topology import redis_url
from readreplica.cluster import Cluster
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.callers import by_operator
from tests.integration.mesctl_rig import Said
from tests.integration.messaging_rig import until
from tests.integration.services_rig import (
    MODEL,
    Json,
    Services,
    client_of,
    eventually,
    fast_settings,
    new_key,
    ok,
    open_services,
    problem,
    save_map,
)
from tests.project import PROJECT


@pytest_asyncio.fixture
async def services(topology: Topology) -> AsyncIterator[Services]:
    async with open_services(topology, intake_shard_orders=3, flow_floor_per_second=2.0) as services:
        yield services


def settings_of(topology: Topology) -> Settings:
    """Return those of one more process of the MES, with the floor that it has in operation."""
    return fast_settings(topology).model_copy(update={"flow_floor_per_second": 2.0})


@pytest_asyncio.fixture
async def roomy(topology: Topology) -> AsyncIterator[Services]:
    """Run the services with an intake that is never full."""
    async with open_services(topology) as services:
        yield services


@pytest_asyncio.fixture
async def directory(topology: Topology) -> AsyncIterator[Cluster]:
    async with open_cluster(topology, "directory", role="mes", application_name="test") as cluster:
        yield cluster


async def run_mesctl(program: Path, topology: Topology, *words: str) -> Said:
    """Run `mesctl` in a process of its own: in this one the services write their logs to the same stdout."""
    process = await asyncio.create_subprocess_exec(
        *(program, "--project", str(PROJECT.path), "--topology", str(topology.path)),
        *words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def redis_of(topology: Topology) -> AsyncIterator[Redis]:
    async with open_redis(redis_url(topology, "mes")) as redis:
        yield redis


async def granted(directory: Cluster, sender: str) -> Json:
    async with directory.write() as session:
        found = (
            (await session.execute(text("SELECT * FROM flow_grants WHERE sender = :s"), {"s": sender}))
            .mappings()
            .one_or_none()
        )
    return dict(found) if found is not None else {}


async def until_granted(directory: Cluster, sender: str, holds: Callable[[Json], bool]) -> Json:
    async def is_so() -> bool:
        found = await granted(directory, sender)
        return bool(found) and holds(found)

    await until(is_so)
    return await granted(directory, sender)


async def override(directory: Cluster, sender: str, per_second: float, *, seconds: float) -> None:
    """Do what `mesctl flow pause` and `limit` do."""
    statement = text("""
        INSERT INTO flow_overrides (sender, per_second, until, reason, made_by)
        VALUES (:sender, :rate, clock_timestamp() + make_interval(secs => :seconds), 'a test', 'dba')
        ON CONFLICT (sender) DO UPDATE SET per_second = excluded.per_second, until = excluded.until
    """)
    words = {"sender": sender, "rate": per_second, "seconds": seconds}

    async def work(session: Any) -> None:
        await session.execute(statement, words)

    await directory.transact(work)


async def counted(services: Services, model: Any) -> int:
    total = 0
    for cluster in services.shards.clusters.values():
        async with cluster.write() as session:
            total += await session.scalar(select(func.count()).select_from(model)) or 0
    return total


async def paused(services: Services, directory: Cluster, *, seconds: float = 3600) -> None:
    """Pause the partners, and wait until the drains of this process have heard it."""
    await override(directory, "partners", 0.0, seconds=seconds)
    await until_granted(directory, "partners", lambda grant: grant["paused"])


async def test_a_partners_order_is_taken_in_and_placed_at_once(services: Services) -> None:
    answer = await services.b2b_response()
    taken = ok(answer, 202)
    assert answer.headers["Location"] == f"/v1/partners/atelier-nord/orders/{taken['order_id']}"
    assert (taken["state"], taken["status"], taken["waiting"]["place"]) == ("waiting", "SUBMITTED", 0)
    await services.placed(answer)
    await services.shows(services.crm, taken["order_id"], "SUBMITTED")
    assert await counted(services, Intake) == 0


async def test_what_waits_is_shown_and_the_same_key_finds_it(services: Services, directory: Cluster) -> None:
    await paused(services, directory)
    key = new_key()
    taken = ok(await services.b2b_response(key=key), 202)
    again = ok(await services.b2b_response(key=key), 200)
    assert (again["order_id"], again["state"]) == (taken["order_id"], "waiting")
    shown = ok(await services.mes.get(f"/v1/orders/{taken['order_id']}"))
    assert (shown["status"], shown["waiting"]["place"], shown["waiting"]["expected_seconds"]) == (
        "SUBMITTED",
        0,
        None,
    )
    assert [line["quantity"] for line in shown["items"]] == [3]
    assert await counted(services, MesOrder) == 0
    await override(directory, "partners", 0.0, seconds=0)
    await services.shows(services.crm, taken["order_id"], "SUBMITTED")
    assert ok(await services.b2b_response(key=key), 200)["state"] == "placed"
    assert (await counted(services, MesOrder), await counted(services, Intake)) == (1, 0)


async def test_a_full_intake_refuses_and_stores_nothing(services: Services, directory: Cluster) -> None:
    await paused(services, directory)
    known = ""
    answers: list[Response] = []
    while not answers or answers[-1].status_code == 202:
        key = new_key()
        answers.append(await services.b2b_response(key=key))
        known = key if answers[-1].status_code == 202 else known
    refused = answers[-1]
    assert problem(refused, 429)["type"].endswith(":intake-full")
    assert int(refused.headers["Retry-After"]) >= 1
    assert await counted(services, Intake) == len(answers) - 1
    assert ok(await services.b2b_response(key=known), 200)["state"] == "waiting"
    assert await counted(services, PartnerRequest) == len(answers) - 1
    await override(directory, "partners", 0.0, seconds=0)

    async def are_placed() -> bool:
        return await counted(services, MesOrder) == len(answers) - 1

    await until(are_placed)


async def test_a_pause_outlives_a_wiped_redis_and_ends_by_itself(
    services: Services, directory: Cluster, topology: Topology
) -> None:
    await override(directory, "shop", 0.0, seconds=6)
    await until_granted(directory, "shop", lambda grant: grant["paused"])
    async with redis_of(topology) as redis:

        async def rate() -> str | None:
            found = (await redis.hgetall(grant_key("shop"))).get("per_second")
            return None if found is None else str(found)

        async def is_paused() -> bool:
            return await rate() == "0.0"

        await until(is_paused)
        await redis.flushall()
        await until(is_paused)

        async def is_over() -> bool:
            found = await rate()
            return found is not None and float(found) > 0

        await until(is_over)
    assert "paused" not in (await granted(directory, "shop"))["reason"]


async def test_grants_follow_the_age_of_the_pricing_queue(services: Services, directory: Cluster) -> None:
    at_rest = await until_granted(directory, "shop", lambda grant: grant["per_second"] >= 1000)
    assert at_rest["reason"] == "the MES has room"
    order_id = await services.b2b()

    async def make_old(session: Any) -> None:
        job = await session.get(PricingJob, int(order_id))
        job.lease_expires_at = func.now() - text("interval '10 minutes'")

    await services.shards.transact(int(order_id), make_old)
    slow = await until_granted(directory, "shop", lambda grant: grant["per_second"] <= 2.0)
    assert slow["reason"].startswith("pricing queue is 60")
    assert (await granted(directory, "partners"))["per_second"] < 1000
    assert (await granted(directory, "crm"))["per_second"] == 1000  # it orders no price
    await services.price(order_id)
    await until_granted(directory, "shop", lambda grant: grant["per_second"] > 10)


async def leading(directory: Cluster) -> tuple[str, Any]:
    async with directory.write() as session:
        return tuple((await session.execute(text("SELECT leader, renewed_at FROM flow_control"))).one())


async def test_of_two_processes_one_grants_and_the_other_does_not(
    services: Services, directory: Cluster, topology: Topology
) -> None:
    leader = partial(leading, directory)
    await until_granted(directory, "shop", lambda grant: True)
    first, _ = await leader()
    async with client_of(build_mes(settings_of(topology), topology)) as second:
        for _ in range(3):
            _, seen = await leader()

            async def is_renewed(seen: Any = seen) -> bool:
                return bool((await leader())[1] > seen)

            await until(is_renewed)
            assert (await leader())[0] == first
        await paused(services, directory)

        # The other process keeps the pause too: what it takes in is not placed.
        async def stays() -> bool:
            order_id = await taken_by(second)
            ask = partial(second.get, f"/v1/orders/{order_id}")
            try:
                await eventually(ask, lambda answer: answer.json().get("waiting") is None, seconds=2.0)
            except AssertionError:
                return True
            return False

        await until(stays)


async def test_when_the_leader_is_gone_another_goes_on_from_what_it_has_granted(
    topology: Topology, directory: Cluster
) -> None:
    """What it granted under load is not all: the next one would let a flood in."""
    dead = """
        INSERT INTO flow_control (leader, renewed_at, signals) VALUES ('killed', clock_timestamp(), '{}');
        INSERT INTO flow_grants (sender, per_second, burst, reason, paused, issued_at)
        VALUES ('shop', 20, 20, 'pricing queue is 58 s old', false, clock_timestamp())
    """
    async with directory.write() as session:
        for statement in dead.split(";"):
            await session.execute(text(statement))
    await save_map(topology)
    async with client_of(build_mes(settings_of(topology), topology)):

        async def leads() -> bool:
            return (await leading(directory))[0] != "killed"

        await until(leads)
        assert 20 <= (await granted(directory, "shop"))["per_second"] < 100
        assert (await granted(directory, "crm"))["per_second"] == 1000


async def test_a_killed_leader_is_replaced_within_seconds(
    services: Services, directory: Cluster, topology: Topology
) -> None:
    await until_granted(directory, "shop", lambda grant: True)
    first, _ = await leading(directory)
    stopped = "UPDATE flow_control SET leader = 'killed', renewed_at = clock_timestamp()"
    async with directory.write() as session:
        await session.execute(text(stopped))

    async def is_replaced() -> bool:
        return (await leading(directory))[0] == first

    await until(is_replaced, seconds=10.0)
    await until_granted(directory, "shop", lambda grant: grant["per_second"] == 1000)


async def test_of_two_processes_the_leader_alone_places_what_is_limited(
    services: Services, directory: Cluster, topology: Topology
) -> None:
    """Each has a bucket of its own, and drains every shard."""
    await until_granted(directory, "partners", lambda grant: True)
    async with client_of(build_mes(settings_of(topology), topology)) as second:
        await override(directory, "partners", 1.0, seconds=3600)
        await until_granted(directory, "partners", lambda grant: grant["per_second"] == 1)
        # By now both have heard it, and what either has saved up is gone.
        _, seen = await leading(directory)

        async def is_renewed() -> bool:
            return bool((await leading(directory))[1] > seen + timedelta(seconds=2))

        await until(is_renewed)
        began = time.monotonic()
        for _ in range(6):
            await taken_by(second)

        async def are_placed() -> bool:
            return await counted(services, MesOrder) == 6

        await until(are_placed)
        assert time.monotonic() - began >= 4.0, "one in a second, and one that was saved up"


def intake_row(order_id: int, *, body: Json | None = None) -> Intake:
    now = utc_now()
    submitted = OrderSubmitted(
        actor="atelier-nord",
        channel=Channel.B2B,
        summary="a ring",
        partner="atelier-nord",
        items=(
            Item(
                line_no=1,
                material=Material.BRASS,
                finish=Finish.MATTE,
                quantity=1,
                model_key="a",
                model_name="b",
            ),
        ),
        submitted_at=now,
    )
    return Intake(
        order_id=order_id,
        message_id=uuid4(),
        partner="atelier-nord",
        model_key="a",
        body=body or submitted.model_dump(mode="json"),
        received_at=now - timedelta(minutes=1),
    )


async def test_orders_that_cannot_be_placed_do_not_stop_those_behind_them(roomy: Services) -> None:
    """More than a drain takes at a time, and older than what comes behind."""
    made = range(10**6, 10**6 + 50)
    for order_id in made:

        async def spoil(session: Any, order_id: int = order_id) -> None:
            row = intake_row(order_id)  # of an order that there is, by another message
            order = MesOrder(
                order_id=order_id,
                status=Status.SUBMITTED,
                channel=Channel.B2B,
                summary="a ring",
                partner="atelier-nord",
            )
            session.add_all([row, order])

        await roomy.shards.transact(order_id, spoil)
    for _ in range(4):
        await roomy.b2b()
    assert await counted(roomy, Intake) == len(made)
    assert await counted(roomy, MesOrder) == len(made) + 4


async def test_rows_of_a_bucket_that_has_moved_away_do_not_stop_those_behind_them(
    roomy: Services,
) -> None:
    """A move copies the rows first, and the old ones go later."""
    shard, other = sorted(roomy.shards.clusters)[:2]
    ids = [order_id for order_id in range(10**6, 10**6 + 200) if roomy.shards.shard_of(order_id) == other]
    async with roomy.shards.clusters[shard].write() as session:
        session.add_all(intake_row(order_id) for order_id in ids[:40])
    for _ in range(6):
        await roomy.b2b()
    assert await counted(roomy, MesOrder) == 6


async def taken_by(client: AsyncClient) -> str:
    answer = await client.post(
        "/v1/partners/atelier-nord/orders",
        files={"file": ("ring.stl", MODEL)},
        data={"material": "brass", "finish": "matte", "quantity": "3"},
        headers={"Idempotency-Key": new_key()},
    )
    return str(ok(answer, 202)["order_id"])


async def test_people_pause_limit_and_resume_by_mesctl(
    services: Services, directory: Cluster, topology: Topology, warm_mesctl: Path
) -> None:
    mesctl = partial(run_mesctl, warm_mesctl, topology)
    await until_granted(directory, "crm", lambda grant: True)
    dry = await mesctl("flow", "pause", "crm", "--for", "5m", "--dry-run")
    assert dry.out.startswith("INSERT INTO flow_overrides")
    assert dry.out.rstrip().endswith(";")
    assert not (await granted(directory, "crm"))["paused"]
    done = await mesctl("flow", "pause", "crm", "--for", "5m", "--reason", "full", "--json")
    assert done.json["per_second"] == 0
    await until_granted(directory, "crm", lambda grant: grant["paused"])
    shown = (await mesctl("flow", "status", "--json")).json
    crm = next(each for each in shown["senders"] if each["sender"] == "crm")
    assert (crm["per_second"], crm["paused"]) == (0, True)
    assert "full" in crm["reason"]
    assert {each["signal"] for each in shown["signals"]} == set(SIGNALS)
    await mesctl("flow", "limit", "crm", "1", "--for", "5m")
    await until_granted(directory, "crm", lambda grant: grant["per_second"] == 1)
    assert (await mesctl("flow", "resume", "crm")).status == 0
    await until_granted(directory, "crm", lambda grant: grant["per_second"] > 1)
    assert (await mesctl("flow", "resume", "crm")).status == 3
    assert (await mesctl("flow", "pause", "crm", "--for", "25h")).status == 2


async def test_history_is_refused_while_creation_goes_on_and_the_operators_list_never(
    services: Services, topology: Topology
) -> None:
    """A service at its limit: its places are taken, and nothing comes free for a while."""
    order_id = await services.b2b()
    app = build_mes(settings_of(topology), topology)
    async with client_of(app) as mes, AsyncExitStack() as places:
        app.state.admission = Admission("mes", most=48, max_wait_seconds=30.0)
        limiter = app.state.admission.limiter
        for _ in range(limiter.limit):
            await places.enter_async_context(limiter.admitted(Priority.NEVER))
        reads = [asyncio.create_task(mes.get(f"/v1/orders/{order_id}")) for _ in range(40)]
        creations = [asyncio.create_task(taken_by(mes)) for _ in range(2)]

        async def is_full() -> bool:
            return bool(limiter.waiting >= 14)

        await until(is_full)
        listed = await mes.get("/v1/orders", params={"status": "SUBMITTED"}, headers=by_operator())
        assert listed.status_code == 200
        await places.aclose()
        answers = await asyncio.gather(*reads)
        await asyncio.gather(*creations)  # each was taken in
    # One that was let in may have waited in vain for a connection of the pool, which is another refusal.
    refused = [answer for answer in answers if answer.status_code == 503]
    shed = [answer for answer in refused if problem(answer, 503)["type"].endswith(":shed")]
    assert shed
    assert shed[0].headers["Retry-After"] == "2"


@pytest.mark.parametrize("point", ["placing", "placed"])
async def test_an_order_whose_process_is_killed_while_it_places_it_is_placed_once(
    services: Services, directory: Cluster, topology: Topology, point: str
) -> None:
    await paused(services, directory)
    order_id = str(ok(await services.b2b_response(), 202)["order_id"])
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.intake_victim", point, str(topology.path), order_id
    )
    assert await victim.wait() == -signal.SIGKILL
    assert await counted(services, MesOrder) == (1 if point == "placed" else 0)
    await override(directory, "partners", 0.0, seconds=0)
    seen = await services.shows(services.crm, order_id, "SUBMITTED")
    assert len(seen["history"]) == 1
    assert (await counted(services, MesOrder), await counted(services, PricingJob)) == (1, 1)
    assert await counted(services, Intake) == 0


async def test_an_order_is_found_at_each_moment_and_the_crm_cancels_it_once_it_is_placed(
    services: Services, directory: Cluster, topology: Topology
) -> None:
    """Two processes drain each shard meanwhile."""
    await paused(services, directory)
    async with client_of(build_mes(settings_of(topology), topology)) as second:
        orders = [str(ok(await services.b2b_response(), 202)["order_id"]) for _ in range(3)]
        wish = {"reason": "she changed her mind"}
        problem(await services.crm.post(f"/v1/orders/{orders[0]}/cancel", json=wish), 404)
        problem(await services.take(orders[0]), 404)
        await override(directory, "partners", 0.0, seconds=0)
        left = set(orders)
        async with asyncio.timeout(30):
            while left:
                for order_id in orders:
                    for client in (services.mes, second):
                        shown = ok(await client.get(f"/v1/orders/{order_id}"))
                        if shown["waiting"] is None:
                            left.discard(order_id)
    for order_id in orders:
        seen = await services.shows(services.crm, order_id, "SUBMITTED")
        assert len(seen["history"]) == 1
    ok(await services.crm.post(f"/v1/orders/{orders[0]}/cancel", json=wish), 202)
    await services.shows(services.mes, orders[0], "CANCELLED")
    assert (await counted(services, MesOrder), await counted(services, Intake)) == (3, 0)


async def test_the_status_is_shown_while_a_database_is_away(
    services: Services, directory: Cluster, topology: Topology, warm_mesctl: Path, tmp_path: Path
) -> None:
    """It is looked at when something is wrong."""
    await until_granted(directory, "crm", lambda grant: True)
    there = topology.path.read_text()
    path = tmp_path / "away.toml"
    path.write_text(there.replace(topology.database("crm").dbname, "no_such_database"))
    said = await run_mesctl(warm_mesctl, Topology.load(path), "flow", "status", "--json")
    assert "crm" in said.err
    waiting = {each["sender"]: each["waiting"] for each in said.json["senders"]}
    assert waiting == {"shop": 0, "crm": None, "partners": 0}
