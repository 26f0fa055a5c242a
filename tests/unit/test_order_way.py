"""The tracer of an order's way sees every call that belongs to a request, and none of another task."""

import asyncio
from functools import partial

from sqlalchemy.util import greenlet_spawn

from app.kit.health import Readiness
from app.models.mes import MesOrder
from app.models.status import Status, check_transition
from app.schemas import shown
from sharding.shard_map import hashint8
from tests.benchmarks.order_way import tracing

ORDER_ID = 386319976794947584
OTHER_ID = 386319994826264576


async def test_a_call_in_a_greenlet_counts() -> None:
    with tracing() as way:
        await greenlet_spawn(hashint8, ORDER_ID)
    assert way.modules(ORDER_ID) == {"sharding.shard_map": "hashint8"}


async def test_a_call_in_a_task_of_the_request_counts_and_one_beside_it_does_not() -> None:
    begin = asyncio.Event()

    async def hash_later(key: int) -> None:
        await begin.wait()
        hashint8(key)

    beside = asyncio.create_task(hash_later(OTHER_ID))
    with tracing() as way:
        own = asyncio.create_task(hash_later(ORDER_ID))
        begin.set()
        await asyncio.gather(own, beside)
    assert way.modules(ORDER_ID) == {"sharding.shard_map": "hashint8"}
    assert way.modules(OTHER_ID) == {}


def test_modules_stand_in_the_order_in_which_they_got_the_id() -> None:
    with tracing() as way:
        check_transition(ORDER_ID, Status.SHIPPED, Status.CLOSED)
        hashint8(ORDER_ID)
        check_transition(ORDER_ID, Status.SHIPPED, Status.CLOSED)
    assert list(way.modules(ORDER_ID)) == ["app.models.status", "sharding.shard_map"]


def test_nothing_before_the_first_module_counts() -> None:
    with tracing(begins_in="sharding.shard_map") as way:
        check_transition(ORDER_ID, Status.SHIPPED, Status.CLOSED)
        hashint8(ORDER_ID)
    assert list(way.modules(ORDER_ID)) == ["sharding.shard_map"]


def test_data_that_holds_the_id_counts_and_a_callable_makes_a_carrier() -> None:
    with tracing() as way:
        shown(MesOrder(order_id=ORDER_ID))
        Readiness("mes").need("something", partial(asyncio.sleep, ORDER_ID))
    assert way.modules(ORDER_ID) == {"app.schemas": "shown"}
    assert way.carriers(ORDER_ID) == {"app.kit.health": "need"}
    assert way.describe(ORDER_ID) == " 1. app.schemas (shown)\ncarried unread through: app.kit.health (need)"
