"""One bad entry, key or row costs no more than itself: all other messages and destinations go on."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from sqlalchemy import text, update
from structlog.testing import capture_logs

from app.messaging.inbox import Pruner
from app.messaging.routing import ServiceName
from app.models.crm import CrmInbox
from app.models.shop import ShopOutbox
from ops.embedded.programs import valkey_server
from ops.embedded.valkey import Valkey
from ops.ports import PortPicker
from sharding.topology import Topology
from tests.integration.messaging_rig import (
    STREAM,
    Fields,
    Rig,
    open_rig,
    owe,
    running,
    signed_ack,
    signed_copy,
    until,
)

pytestmark = pytest.mark.field

ACKS = "acks:shop"
MES = "orders:mes"
HUGE = "x" * 10_000_000
BAD = b"\xff\xfe"
LAST_ID = "18446744073709551615-18446744073709551615"


@pytest.fixture
async def rig(topology: Topology) -> AsyncIterator[Rig]:
    async with open_rig(topology) as rig:
        yield rig


def ack(**changes: Any) -> Fields:
    return {"id": str(uuid4()), "outcome": "done"} | changes


def copy(**changes: Any) -> Fields:
    entry = {
        "id": str(uuid4()),
        "source": "shop",
        "type": "order.shipped",
        "subject": "9",
        "time": "2026-11-03T09:30:00Z",
        "data": '{"actor": "Ana"}',
        "attempt": "1",
    }
    return entry | changes


def without(fields: Fields, name: str) -> Fields:
    return {key: value for key, value in fields.items() if key != name}


BAD_ACKS: Mapping[str, Fields] = {
    "id of no UTF-8": ack(id=BAD),
    "outcome of no UTF-8": ack(outcome=BAD),
    "reason of no UTF-8": ack(outcome="set_aside", reason=b"too \xff late"),
    "field name of no UTF-8": {BAD: BAD},
    "no id": without(ack(), "id"),
    "no outcome": without(ack(), "outcome"),
    "unknown outcome": ack(outcome="perhaps"),
    "an id that is none": ack(id="7"),
    "huge id": ack(id=HUGE),
    "huge reason": ack(outcome="set_aside", reason=HUGE),
    "huge field name": {HUGE: "1"},
    "reason with NUL": ack(outcome="set_aside", reason="a\0b"),
    "of a message that is not there": ack(),
}


@pytest.mark.parametrize("name", BAD_ACKS)
async def test_a_bad_acknowledgement_is_dropped(rig: Rig, name: str) -> None:
    await rig.redis.xadd(ACKS, signed_ack(BAD_ACKS[name]))
    await rig.owe(1, "a", "b")

    with capture_logs() as logs:
        async with running(rig.relay(), rig.consumer()):
            await rig.until_settled()
            await until(lambda: is_empty(rig, ACKS))

    assert await rig.history() == {1: ["a", "b"]}
    assert len(repr(logs)) < 20_000


async def is_empty(rig: Rig, stream: str) -> bool:
    return await rig.redis.xlen(stream) == 0


async def test_many_bad_acknowledgements_are_one_line_of_the_log(rig: Rig) -> None:
    for _ in range(300):
        await rig.redis.xadd(ACKS, signed_ack({"id": "7"}))

    with capture_logs() as logs:
        await rig.relay().turn()

    [line] = [log for log in logs if log["event"] == "acks_malformed"]
    assert (line["count"], line["first"]) == (300, "id=7")


BAD_COPIES: Mapping[str, Fields] = {
    **{f"{field} of no UTF-8": copy(**{field: b'{"actor": "\xff\xfe"}'}) for field in copy()},
    **{f"no {field}": without(copy(), field) for field in copy() if field != "attempt"},
    **{f"huge {field}": copy(**{field: HUGE}) for field in copy()},
    "field name of no UTF-8": copy() | {BAD: BAD},
    "unknown type": copy(type="order.melted"),
    "a type of a later version": copy(type="order.shipped.v2"),
    "a field of a later version": copy(colour="red"),
    "an id that is none": copy(id="7"),
    "a source that is no database": copy(source="no:database\n"),
    "a subject that is no order": copy(subject="ring"),
    "a negative subject": copy(subject="-1"),
    "a subject beyond bigint": copy(subject=str(2**63)),
    "figures of another script": copy(subject="\u0661\u0662"),
    "a time before Christ": copy(time="0044-03-15T00:00:00+00:00 BC"),
    "a time that never comes": copy(time="infinity"),
    "a copy from the future": copy(senttime="9999-12-31T23:59:59-23:59"),
    "a copy from long ago": copy(senttime="0001-01-01T00:00:00+23:59"),
    "an attempt that is none": copy(attempt="NaN"),
    "an attempt of many figures": copy(attempt="9" * 5000),
    "NaN": copy(data='{"actor": NaN}'),
    "a number beyond double": copy(data='{"actor": 1e999}'),
    "a number of many figures": copy(data=f'{{"actor": {"9" * 5000}}}'),
    "deep": copy(data="[" * 100_000),
    "deep in a field": copy(data='{"actor": ' * 100_000),
    "half a surrogate": copy(data='{"actor": "\\ud800"}'),
    "NUL": copy(data='{"actor": "a\\u0000b"}'),
    "no object": copy(data="null"),
}


@pytest.mark.parametrize("name", BAD_COPIES)
async def test_a_bad_message_is_dropped_or_set_aside(rig: Rig, name: str) -> None:
    await rig.redis.xadd(STREAM, signed_copy(BAD_COPIES[name]))
    await rig.owe(1, "a", "b")

    with capture_logs() as logs:
        async with running(rig.relay(), rig.consumer(max_attempts=1)):
            await rig.until_settled()
            await until(lambda: is_empty(rig, ACKS))

    history = await rig.history()
    assert history.pop(1) == ["a", "b"]
    assert len(repr(without_trace(logs))) < 20_000
    said = {log["event"] for log in logs if log["log_level"] in {"warning", "error"}}
    assert said & {"message_dropped", "message_refused", "message_postponed"} or 9 in history


def without_trace(logs: list[Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in log.items() if key != "exc_info"} for log in logs]


async def test_of_a_key_that_is_given_twice_the_last_counts(rig: Rig) -> None:
    twice = signed_copy(copy(data='{"actor": "Ana", "actor": "Rosa"}'))
    fields = [part for item in twice.items() for part in item]
    redis: Any = rig.redis
    await redis.execute_command("XADD", STREAM, "*", "subject", "8", *fields)

    async with running(rig.consumer()):
        await until(lambda: knows(rig, 9))

    assert await rig.history() == {9: ["Rosa"]}


async def knows(rig: Rig, order_id: int) -> bool:
    return order_id in await rig.history()


TYPES: Mapping[str, Callable[[Any, str], Awaitable[Any]]] = {
    "string": lambda redis, key: redis.set(key, "x"),
    "list": lambda redis, key: redis.rpush(key, "x"),
    "hash": lambda redis, key: redis.hset(key, "x", "y"),
    "set": lambda redis, key: redis.sadd(key, "x"),
    "zset": lambda redis, key: redis.zadd(key, {"x": 1}),
    "exhausted stream": lambda redis, key: redis.xadd(key, {"x": "y"}, id=LAST_ID),
}


async def owe_both(rig: Rig, order_id: int, word: str) -> None:
    async with rig.shop.write() as session:
        await owe(session, order_id, word, [ServiceName.MES, ServiceName.CRM])


async def owed_to(rig: Rig) -> list[tuple[str, int]]:
    return [(row.destination, row.order_id) for row in await rig.owed()]


@pytest.mark.parametrize("kind", TYPES)
async def test_a_destination_whose_key_is_no_stream_waits_and_the_others_go_on(rig: Rig, kind: str) -> None:
    await TYPES[kind](rig.redis, MES)
    for order_id in (1, 2, 3):
        await owe_both(rig, order_id, "a")

    with capture_logs() as logs:
        async with running(rig.relay(), rig.consumer()):
            await until(lambda: owes_mes_alone(rig))
            assert await rig.history() == {1: ["a"], 2: ["a"], 3: ["a"]}
            if kind != "exhausted stream":
                # What cannot be sent is not counted as sent: attempts are for what a consumer has refused.
                assert {row.attempts for row in await rig.owed()} == {0}
            await rig.redis.delete(MES)
            await until(lambda: is_sent(rig, MES, 3))

    [unusable] = [log for log in logs if log["event"] == "stream_unusable"]
    assert unusable["stream"] == MES
    assert ("WRONGTYPE" in unusable["error"]) == (kind != "exhausted stream")
    assert [log["stream"] for log in logs if log["event"] == "stream_usable"] == [MES]


async def owes_mes_alone(rig: Rig) -> bool:
    return await owed_to(rig) == [("mes", 1), ("mes", 2), ("mes", 3)]


async def is_sent(rig: Rig, stream: str, count: int) -> bool:
    entries: Any = await rig.redis.xrange(stream)
    return len({fields["id"] for _, fields in entries}) == count


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "exhausted stream"])
async def test_a_consumer_says_which_key_is_no_stream_and_begins_when_it_is(rig: Rig, kind: str) -> None:
    await TYPES[kind](rig.redis, STREAM)
    await rig.owe(1, "a")

    def is_said() -> bool:
        return any(log["event"] == "interrupted" and STREAM in log["error"] for log in logs)

    with capture_logs() as logs:
        async with running(rig.relay(), rig.consumer()):
            await until(lambda: when(is_said))
            await rig.redis.delete(STREAM)
            await rig.until_settled()

    assert await rig.history() == {1: ["a"]}


async def when(holds: Callable[[], bool]) -> bool:
    return holds()


@pytest.mark.parametrize("kind", TYPES)
async def test_a_relay_that_cannot_read_its_acknowledgements_sends_all_the_same(rig: Rig, kind: str) -> None:
    await TYPES[kind](rig.redis, ACKS)
    await rig.owe(1, "a")
    await rig.owe(2, "x")

    with capture_logs() as logs:
        async with running(rig.relay(), rig.consumer()):
            await until(lambda: knows(rig, 1))
            await until(lambda: knows(rig, 2))
            await until(lambda: was_repeated(rig, 3))
            await rig.redis.delete(ACKS)
            await rig.until_settled()

    assert await rig.history() == {1: ["a"], 2: ["x"]}
    unusable = [log for log in logs if log["event"] == "stream_unusable"]
    assert {log["stream"] for log in unusable} == {ACKS}
    assert len(unusable) <= 2  # the relay reads it and the consumer writes it


async def was_repeated(rig: Rig, times: int) -> bool:
    return all(row.attempts >= times for row in await rig.owed())


@pytest.mark.parametrize("meanwhile", ["deleted", "trimmed", "renamed"])
async def test_a_stream_that_goes_meanwhile_is_filled_again(rig: Rig, meanwhile: str) -> None:
    async with running(rig.relay(), rig.consumer()):
        for order_id in range(1, 6):
            await rig.owe(order_id, "a", "b")
            for stream in (STREAM, ACKS):
                await go(rig.redis, stream, meanwhile)
        await rig.until_settled()

    assert await rig.history() == {order_id: ["a", "b"] for order_id in range(1, 6)}


async def go(redis: Redis, stream: str, how: str) -> None:
    if how == "deleted":
        await redis.delete(stream)
    elif how == "trimmed":
        await redis.xtrim(stream, maxlen=0)
    elif await redis.exists(stream):
        await redis.rename(stream, "elsewhere")


@pytest.mark.parametrize("position", ["$", "0", "9999999999999-0", LAST_ID])
async def test_a_group_in_the_way_does_not_hide_messages(rig: Rig, position: str) -> None:
    await rig.redis.xadd(STREAM, {"hello": "world"})
    await rig.redis.xgroup_create(STREAM, "crm", id=position)
    # Another's group, which reads and never acknowledges.
    redis: Any = rig.redis
    await redis.xgroup_create(STREAM, b"\xff other", id="0")
    await redis.xreadgroup(b"\xff other", "x", {STREAM: ">"})
    await rig.owe(1, "a", "b")

    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()

    assert await rig.history() == {1: ["a", "b"]}


@pytest.mark.parametrize("stream", [STREAM, MES, ACKS])
@pytest.mark.parametrize("id_", ["1-1", "9999999999999-18446744073709551615", "18446744073709551614-0"])
async def test_entries_of_another_clock_do_no_harm(rig: Rig, stream: str, id_: str) -> None:
    await rig.redis.xadd(stream, {"hello": "world"}, id=id_)
    await owe_both(rig, 1, "a")
    await rig.owe(1, "b")

    async with running(rig.relay(), rig.consumer()):
        await until(lambda: owes_one_to_mes(rig))
        await until(lambda: is_sent_to_mes(rig))

    assert await rig.history() == {1: ["a", "b"]}


async def owes_one_to_mes(rig: Rig) -> bool:
    return await owed_to(rig) == [("mes", 1)]


async def is_sent_to_mes(rig: Rig) -> bool:
    entries: Any = await rig.redis.xrange(MES)
    return any(fields.get("subject") == "1" for _, fields in entries)


ROWS: Mapping[str, str] = {
    "written never": "created_at = 'infinity'",
    "written before Christ": "created_at = '0044-03-15 BC'",
    "written too late for Python": "created_at = '10000-01-01'",
    "deep": f"""data = '{"[" * 3000}{"]" * 3000}'""",
    "a number beyond double": """data = '{"actor": 1e400}'""",
    "no object": "data = 'null'",
}


@pytest.mark.parametrize("name", ROWS)
async def test_an_outbox_row_that_is_no_message_is_set_aside(rig: Rig, name: str) -> None:
    await rig.owe(1, "a")
    async with rig.shop.write() as session:
        await session.execute(text(f"UPDATE outbox SET {ROWS[name]}"))
    await rig.owe(2, "x")

    async with running(rig.relay(), rig.consumer()):
        await until(lambda: is_aside(rig, 1))

    assert await rig.history() == {2: ["x"]}


async def is_aside(rig: Rig, order_id: int) -> bool:
    async with rig.shop.write() as session:
        asked = "SELECT order_id FROM outbox WHERE set_aside_reason ~ '^message .* is malformed'"
        aside = (await session.scalars(text(asked))).all()
        count = await session.scalar(text("SELECT count(*) FROM outbox"))
    return list(aside) == [order_id] and count == 1


@pytest.mark.parametrize("due", ["infinity", "-infinity", "10000-01-01", "0044-03-15 BC"])
async def test_a_new_message_goes_whenever_it_is_said_to_be_due(rig: Rig, due: str) -> None:
    await rig.owe(1, "a")
    async with rig.shop.write() as session:
        await session.execute(text(f"UPDATE outbox SET next_attempt_at = '{due}'"))

    async with running(rig.relay(), rig.consumer()):
        await until(lambda: owes_nothing(rig))

    assert await rig.history() == {1: ["a"]}


@pytest.mark.parametrize("attempts", [-(2**31), -1, 2**31 - 1])
async def test_attempts_that_were_never_made_stop_no_other_message(rig: Rig, attempts: int) -> None:
    await rig.owe(1, "a")
    async with rig.shop.write() as session:
        await session.execute(update(ShopOutbox).values(attempts=attempts))
    await rig.owe(2, "x")

    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()

    assert (await rig.history())[2] == ["x"]


async def owes_nothing(rig: Rig) -> bool:
    async with rig.shop.write() as session:
        return bool(await session.scalar(text("SELECT count(*) = 0 FROM outbox")))


async def test_a_huge_message_is_a_dead_letter_and_stops_no_other(rig: Rig) -> None:
    await rig.owe(1, "a")
    async with rig.shop.write() as session:
        await session.execute(update(ShopOutbox).values(data={"actor": HUGE}))
    await rig.owe(2, "x")

    async with running(rig.relay(retry_seconds=5), rig.consumer()):
        await rig.until_settled()

    assert await rig.history() == {2: ["x"]}
    [dead] = await rig.owed()
    assert "at most 1,048,576 are taken" in (dead.set_aside_reason or "")


# What Redis as a whole refuses, on a server of its own.


async def out_of_memory(redis: Redis) -> None:
    await redis.config_set("maxmemory", 1)


async def read_only(redis: Redis) -> None:
    await redis.replicaof("127.0.0.1", "1")


async def unsaved(redis: Redis, folder: Path) -> None:
    """Make Redis refuse to write because it could not save: MISCONF."""
    await redis.config_set("save", "3600 1")
    await asyncio.to_thread(folder.rmdir)
    await redis.bgsave()

    async def has_failed() -> bool:
        return bool((await redis.info("persistence"))["rdb_last_bgsave_status"] == "err")

    await until(has_failed)


async def locked(redis: Redis) -> None:
    await redis.config_set("requirepass", "secret")
    await redis.client_kill_filter(_type="normal", skipme=True)


async def restore(redis: Redis) -> None:
    await redis.config_set("maxmemory", 0)
    await redis.config_set("stop-writes-on-bgsave-error", "no")
    await redis.config_set("requirepass", "")
    await redis.replicaof("NO", "ONE")


@pytest.mark.parametrize("fault", ["OOM", "READONLY", "MISCONF", "NOAUTH"])
async def test_a_redis_that_refuses_is_named_and_waited_for(
    topology: Topology, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "own"
    program, port = valkey_server(), PortPicker(random.Random()).pick()
    server = Valkey(folder=folder, pidfile=tmp_path / "own.pid", log=tmp_path / "own.log")
    server.start(program=program, port=port)
    url = f"redis://127.0.0.1:{port}/0"
    # The client drops the code of errors that it has a class for.
    words = {"OOM": "maxmemory", "READONLY": "read only", "MISCONF": "MISCONF", "NOAUTH": "authenticated"}
    begin = {"OOM": out_of_memory, "READONLY": read_only, "NOAUTH": locked}
    try:
        async with open_rig(topology, redis_url=url) as rig, Redis.from_url(url) as admin:
            with capture_logs() as logs:
                async with running(rig.relay(), rig.consumer()):
                    await rig.owe(1, "a")
                    await rig.until_settled()
                    await begin.get(fault, partial(unsaved, folder=folder))(admin)
                    await rig.owe(1, "b")
                    await until(
                        lambda: when(lambda: any(words[fault] in str(log.get("error")) for log in logs))
                    )
                    await restore(admin)
                    await rig.until_settled()
            assert await rig.history() == {1: ["a", "b"]}
            assert len(logs) < 40
    finally:
        server.stop()


async def test_a_foreign_copy_is_answered_where_it_names_a_database(rig: Rig) -> None:
    await rig.redis.xadd(STREAM, signed_copy(copy(type="order.melted", source="mes_0")))

    async with running(rig.consumer()):
        await until(lambda: is_answered(rig))

    assert sorted(await rig.redis.keys("*")) == ["acks:mes_0", STREAM]


async def is_answered(rig: Rig) -> bool:
    return await rig.redis.xlen("acks:mes_0") == 1


async def test_a_stream_that_becomes_no_stream_while_it_is_waited_for(rig: Rig) -> None:
    async with running(rig.relay(), rig.consumer()):
        await rig.owe(1, "a")
        await rig.until_settled()
        await rig.redis.set(STREAM, "x")
        await owe_both(rig, 2, "x")
        await until(lambda: is_sent(rig, MES, 1))
        await rig.redis.delete(STREAM)
        await until(lambda: knows(rig, 2))

    assert await rig.history() == {1: ["a"], 2: ["x"]}


@pytest.mark.parametrize("at", ["infinity", "-infinity", "0044-03-15 BC", "10000-01-01"])
async def test_the_pruner_passes_by_what_was_received_at_no_time(rig: Rig, at: str) -> None:
    columns = "order_id, message_id, source, type, received_at"
    old = "(2, gen_random_uuid(), 'shop', 'x', now() - interval '9 days')"
    older = "(2, gen_random_uuid(), 'shop', 'x', now() - interval '12 days')"
    odd = f"(1, gen_random_uuid(), 'shop', 'x', '{at}')"
    async with rig.crm.write() as session:
        await session.execute(text(f"INSERT INTO inbox ({columns}) VALUES {odd}, {old}, {older}"))

    pruner = Pruner(rig.worker_crm, CrmInbox, database="crm", keep=timedelta(days=7), every_seconds=1)

    assert await pruner.prune(asyncio.Event()) == 1
