"""The patient client against a server that breaks off, refuses and comes back, over real sockets."""

from typing import Any

import pytest

from app.console.demo.client import HttpRefusal, RetryingClient, TemporarilyUnavailable
from tests.integration.demo_rig import client_of

ORDER = "/v1/orders/1"


async def take(client: RetryingClient) -> Any:
    return await client.change(
        f"{ORDER}/take", {"operator": "Rosa"}, look=ORDER, done=lambda seen: seen["operator"] == "Rosa"
    )


FREE = (200, {"operator": None})
OURS = (200, {"operator": "Rosa"})
THEIRS = (200, {"operator": "Sam"})


async def test_a_repeatable_request_is_repeated_until_it_is_answered() -> None:
    async with client_of(None, (429, {}), (202, {"order_id": "7"})) as (client, server):
        assert await client.send("POST", "/v1/orders", json={}) == {"order_id": "7"}
        assert len(server.requests) == 3
        assert client.repeats == 2


async def test_a_change_whose_answer_was_lost_is_not_repeated_when_it_was_made() -> None:
    async with client_of(None, OURS) as (client, server):
        assert await take(client) == {"operator": "Rosa"}
        assert server.requests == [f"POST {ORDER}/take", f"GET {ORDER}"]


async def test_a_change_whose_answer_was_lost_is_repeated_when_it_was_not_made() -> None:
    async with client_of(None, FREE, OURS) as (client, server):
        assert await take(client) == {"operator": "Rosa"}
        assert server.requests == [f"POST {ORDER}/take", f"GET {ORDER}", f"POST {ORDER}/take"]


async def test_a_refusal_caused_by_our_own_lost_request_is_no_refusal() -> None:
    # The replica that was asked first was a moment behind.
    async with client_of(None, FREE, (409, {}), FREE, (409, {}), OURS) as (client, _):
        assert await take(client) == {"operator": "Rosa"}


async def test_a_refusal_is_final_when_no_answer_was_lost() -> None:
    async with client_of((409, {"detail": "Sam has it"})) as (client, _):
        with pytest.raises(HttpRefusal, match="Sam has it") as refused:
            await take(client)
        assert refused.value.status == 409


async def test_a_refusal_after_a_lost_answer_is_final_when_the_order_is_somebody_elses() -> None:
    async with client_of(None, FREE, *[(409, {}), THEIRS] * 5, (409, {})) as (client, _):
        with pytest.raises(HttpRefusal):
            await take(client)


async def test_patience_ends() -> None:
    async with client_of(*[(503, {})] * 50, patience_seconds=0.2) as (client, _):
        with pytest.raises(TemporarilyUnavailable):
            await client.get(ORDER)
