"""The demo's people hold the services to their promises; the services here are scripts, to break them."""

import pytest

from app.console.demo.client import GuaranteeViolated, RetryingClient
from app.console.demo.people import Operator, Partner, ShopCustomer
from app.console.demo.plan import AcceptedOrders, Deviation, PlannedOrder
from app.console.demo.shapes import Shape
from app.models.status import Channel
from tests.integration.demo_rig import Reply, client_of

TAKEN = (200, {"order_id": "7"})
NO = (409, {"detail": "Sam has it"})


def planned(*, impatient: bool = False, deviation: Deviation = Deviation.NONE) -> PlannedOrder:
    shape = Shape("ring", "stl", b"solid ring")
    return PlannedOrder(
        "key", Channel.B2C, "Ada", shape, "brass", "matte", 1, deviation=deviation, impatient=impatient
    )


async def race(client: RetryingClient) -> tuple[AcceptedOrders, Operator | None]:
    """Let Rosa reach for a contested order, against Sam."""
    accepted = AcceptedOrders()
    accepted.accept("7", planned(deviation=Deviation.CONTESTED))
    rosa, sam = (Operator(name, mes=client, accepted=accepted) for name in ("Rosa", "Sam"))
    rosa.colleague = sam
    return accepted, await rosa.take_or_race("7")


@pytest.mark.parametrize("replies", [(TAKEN, NO), (NO, TAKEN)], ids=["first", "second"])
async def test_a_contested_order_goes_to_one_of_two(replies: tuple[Reply, Reply]) -> None:
    async with client_of(*replies) as (client, server):
        accepted, maker = await race(client)
        assert maker is not None
        assert accepted.races == 1
        assert server.requests == ["POST /v1/orders/7/take"] * 2


@pytest.mark.parametrize(("reply", "what"), [(TAKEN, "given to both"), (NO, "refused to both")])
async def test_a_contested_order_that_goes_to_both_or_none_breaks_a_promise(reply: Reply, what: str) -> None:
    async with client_of(reply, reply) as (client, _):
        with pytest.raises(GuaranteeViolated, match=what):
            await race(client)


async def test_a_customer_orders_in_three_steps_and_remembers_the_order() -> None:
    async with client_of(TAKEN, TAKEN, TAKEN) as (client, server):
        accepted = AcceptedOrders()
        await ShopCustomer(planned(), shop=client, accepted=accepted).visit()
        assert list(accepted.by_id) == ["7"]
        assert server.requests == [
            "POST /v1/orders",
            "PUT /v1/orders/7/model",
            "POST /v1/orders/7/submit",
        ]


async def test_an_order_whose_submission_was_refused_is_not_accepted() -> None:
    async with client_of(TAKEN, TAKEN, (409, {})) as (client, _):
        accepted = AcceptedOrders()
        with pytest.raises(Exception, match="409"):
            await ShopCustomer(planned(), shop=client, accepted=accepted).visit()
        assert not accepted.by_id


@pytest.mark.parametrize("buyer", [ShopCustomer, Partner])
async def test_one_key_that_makes_two_orders_breaks_a_promise(buyer: type[ShopCustomer | Partner]) -> None:
    async with client_of((201, {"order_id": "7"}), (201, {"order_id": "8"})) as (client, _):
        person = (
            ShopCustomer(planned(impatient=True), shop=client, accepted=AcceptedOrders())
            if buyer is ShopCustomer
            else Partner(planned(impatient=True), mes=client, accepted=AcceptedOrders())
        )
        with pytest.raises(GuaranteeViolated, match="order 7, 8: one idempotency key"):
            await person.visit()
