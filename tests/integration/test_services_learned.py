"""What a service has learned from messages is read in all of its processes, though its replica lags."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import pytest
from httpx import AsyncClient, Response
from redis.asyncio import Redis
from sqlalchemy import select

from app.crm.application import build as build_crm
from app.mes.application import build as build_mes
from app.messaging.streams import open_redis
from app.models.crm import CrmOrder
from app.topology import redis_url
from readreplica.cluster import Cluster
from readreplica.signing import TOKEN_HEADER
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.integration.messaging_rig import until
from tests.integration.replicas_rig import parameters
from tests.integration.services_rig import MODEL, client_of, fast_settings, new_key, ok, save_map
from tests.servers import PostgresServers


@pytest.fixture
def replicated(topology: Topology, postgres: PostgresServers) -> Topology:
    """A topology whose CRM has a replica too."""
    before, section, after = topology.path.read_text().partition("[databases.crm]")
    replica = topology.database("mes_0").replicas[0]
    line = f'replicas = [ {{ name = "crm_r", host = "{replica.host}", port = {replica.port} }} ]'
    path = topology.path.with_name("replicated.toml")
    path.write_text(before + section + after.replace("replicas = [  ]", line, 1))
    postgres.wait_for_replica()
    return Topology.load(path)


@contextmanager
def lagging(postgres: PostgresServers) -> Iterator[None]:
    """Every replica has what was committed up to now, and later commits much later."""
    postgres.wait_for_replica()
    with parameters(postgres.replica, recovery_min_apply_delay="1h"):
        yield


@dataclass
class Rig:
    """The CRM and the MES, and what a test sees of the CRM past its service."""

    topology: Topology
    mes: AsyncClient
    crm: AsyncClient
    orders: Cluster
    redis: Redis

    async def learned_order(self) -> str:
        """Order as a partner, and wait until the CRM has learned of it; give the order's id."""
        answer = await self.mes.post(
            "/v1/partners/atelier-nord/orders",
            files={"file": ("ring.stl", MODEL)},
            data={"material": "brass", "finish": "matte", "quantity": "3"},
            headers={"Idempotency-Key": new_key()},
        )
        order_id = str(ok(answer, 202)["order_id"])

        async def is_learned() -> bool:
            # The token is kept after the commit: who asks in between cannot know that there was one.
            return await self.redis.exists(key_of(order_id)) == 1

        await until(is_learned)
        async with self.orders.write() as session:
            assert await session.scalar(select(CrmOrder).where(CrmOrder.order_id == int(order_id)))
        return order_id


def key_of(order_id: str) -> str:
    return f"causal-order:crm:{order_id}"


async def show(client: AsyncClient, order_id: str, **headers: str) -> Response:
    # No cookie of an answer before: everybody here is a stranger.
    client.cookies.clear()
    return await client.get(f"/v1/orders/{order_id}", headers=headers)


@asynccontextmanager
async def open_rig(topology: Topology) -> AsyncIterator[Rig]:
    await save_map(topology)
    settings = fast_settings(topology)
    async with AsyncExitStack() as stack:
        yield Rig(
            topology,
            await stack.enter_async_context(client_of(build_mes(settings, topology))),
            await stack.enter_async_context(client_of(build_crm(settings, topology))),
            await stack.enter_async_context(open_cluster(topology, "crm", role="crm", application_name="t")),
            await stack.enter_async_context(open_redis(redis_url(topology, "test"))),
        )


async def test_an_order_that_a_message_brought_is_shown(
    replicated: Topology, postgres: PostgresServers
) -> None:
    async with open_rig(replicated) as rig:
        with lagging(postgres):
            order_id = await rig.learned_order()
            assert ok(await show(rig.crm, order_id))["status"] == "SUBMITTED"
            # Another process, and this one after a restart, are the same to Redis.
            async with client_of(build_crm(fast_settings(replicated), replicated)) as other:
                assert (await show(other, order_id)).status_code == 200
            # Without what is kept, the replica shows: the test would prove nothing if this were not so.
            assert await rig.redis.delete(key_of(order_id)) == 1
            assert (await show(rig.crm, order_id)).status_code == 404


async def test_what_the_crm_shows_is_there_to_read_in_the_mes(
    replicated: Topology, postgres: PostgresServers
) -> None:
    async with open_rig(replicated) as rig:
        with lagging(postgres):
            order_id = await rig.learned_order()
            shown = await show(rig.crm, order_id)
            assert (await show(rig.mes, order_id)).status_code == 404
            followed = await show(rig.mes, order_id, **{TOKEN_HEADER: shown.headers[TOKEN_HEADER]})
            assert ok(followed)["status"] == "SUBMITTED"
