"""A repeated request finds the order that it has made, however the first one ended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from io import BytesIO
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from httpx import Response
from sqlalchemy import func, select
from starlette.datastructures import UploadFile

from app.files import ModelStore
from app.flow.grants import Allowance
from app.kit.clock import utc_now
from app.mes.intake import IntakeState, PartnerIntake
from app.mes.schemas import PartnerOrder
from app.models.mes import MesOrder
from app.models.reference import Finish, Material
from app.topology import files_url
from readreplica.sessions import WriteSession
from readreplica.token import Committed
from sharding.sessions import ShardedSessions, open_ids
from sharding.topology import Topology
from tests.integration.services_rig import MODEL, Services, new_key, ok, open_services, problem

T = TypeVar("T")


@pytest_asyncio.fixture
async def services(topology: Topology) -> AsyncIterator[Services]:
    async with open_services(topology) as services:
        yield services


def one_order(answers: list[Response], made: int) -> str:
    """Check that all answers tell of one order, and that one of them made it."""
    assert sorted(answer.status_code for answer in answers) == [200] * (len(answers) - 1) + [made]
    [order_id] = {answer.json()["order_id"] for answer in answers}
    return str(order_id)


async def count_orders(services: Services) -> int:
    counts = []
    for cluster in services.shards.clusters.values():
        async with cluster.write() as session:
            counts.append(await session.scalar(select(func.count()).select_from(MesOrder)))
    return sum(count or 0 for count in counts)


async def test_repeated_start_finds_the_order(services: Services) -> None:
    key = new_key()
    made = ok(await services.start(key=key), 201)
    found = ok(await services.start(key=key), 200)
    assert found | {"link": made["link"]} == made, "its link is signed anew"


async def test_concurrent_starts_make_one_order(services: Services) -> None:
    for _ in range(5):
        key = new_key()
        one_order(list(await asyncio.gather(*(services.start(key=key) for _ in range(6)))), 201)


async def test_start_with_another_body_is_refused(services: Services) -> None:
    key = new_key()
    made = ok(await services.start(key=key), 201)
    refused = problem(await services.start(key=key, quantity=3), 422)
    assert (refused["key"], refused["order_id"]) == (key, made["order_id"])
    assert refused["type"].endswith(":idempotency-key-reused")


async def test_concurrent_partner_orders_make_one_order(services: Services) -> None:
    for number in range(5):
        key = new_key()
        answers = await asyncio.gather(*(services.b2b_response(key=key) for _ in range(6)))
        order_id = one_order(list(answers), 202)
        seen = await services.shows(services.crm, order_id, "SUBMITTED")
        assert await count_orders(services) == number + 1
        assert len(seen["history"]) == 1


@pytest.mark.parametrize("change", [{"quantity": "4"}, {"content": b"another model"}])
async def test_partner_order_with_another_body_is_refused(
    services: Services, change: Mapping[str, Any]
) -> None:
    key = new_key()
    made = ok(await services.b2b_response(key=key), 202)
    refused = problem(await services.b2b_response(key=key, **change), 422)
    assert refused["order_id"] == made["order_id"]


async def test_a_key_belongs_to_its_partner(services: Services) -> None:
    key = new_key()
    ours = ok(await services.b2b_response(key=key), 202)
    theirs = await services.mes.post(
        "/v1/partners/another/orders",
        files={"file": ("ring.stl", MODEL)},
        data={"material": "brass", "finish": "matte", "quantity": "3"},
        headers={"Idempotency-Key": key},
    )
    assert ok(theirs, 202)["order_id"] != ours["order_id"]


class Killed(BaseException):
    """The process ends here; nothing can catch it."""


class DyingSessions(ShardedSessions):
    """Sessions of a process that is killed after so many transactions."""

    def __init__(self, sessions: ShardedSessions, *, transactions: int) -> None:
        super().__init__(sessions.shard_map, sessions.clusters)
        self._left = transactions

    async def transact(
        self, key: int, work: Callable[[WriteSession], Awaitable[T]], *, attempts: int = 5
    ) -> Committed[T]:
        if self._left == 0:
            raise Killed
        self._left -= 1
        return await super().transact(key, work, attempts=attempts)


@pytest.mark.parametrize("transactions", [0, 1, 2])
async def test_a_retry_finishes_what_a_killed_process_began(
    services: Services, topology: Topology, transactions: int
) -> None:
    key = new_key()
    wish = PartnerOrder(partner="atelier-nord", material=Material.BRASS, finish=Finish.MATTE, quantity=3)
    async with open_ids(topology, tree="mes") as ids:
        dying = PartnerIntake(
            sessions=DyingSessions(services.shards, transactions=transactions),
            ids=ids,
            models=ModelStore.open(files_url(topology)),
            max_upload_bytes=1000,
            now=utc_now,
            state=IntakeState(Allowance(floor_per_second=2.0)),
        )
        with pytest.raises(Killed):
            await dying.submit(wish, UploadFile(BytesIO(MODEL), filename="ring.stl"), key=key)
    assert await count_orders(services) == 0

    answers = await asyncio.gather(*(services.b2b_response(key=key) for _ in range(3)))
    order_id = one_order(list(answers), 202)
    await services.shows(services.crm, order_id, "SUBMITTED")
    assert await count_orders(services) == 1
