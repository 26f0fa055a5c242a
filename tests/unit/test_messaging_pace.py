"""Relay and consumer go on after errors, and end when they are told to."""

import asyncio
from uuid import uuid4

import pytest
import structlog
from psycopg import Error
from psycopg.errors import FeatureNotSupported, UndefinedTable
from redis.asyncio import Connection
from redis.typing import EncodableT
from sqlalchemy.exc import DBAPIError

from app.messaging.backoff import repeat_with_backoff
from app.messaging.message import Dispatch
from app.messaging.progress import Progress
from app.messaging.streams import PackingConnection
from readreplica.errors import is_outage, is_unsupported

log: structlog.stdlib.BoundLogger = structlog.get_logger("test")


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_that_a_step_has_swallowed_ends_the_work(fails: bool) -> None:
    steps = 0

    async def step() -> None:
        nonlocal steps
        steps += 1
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        # The cancellation comes between the end of the work and the moment when wait_for is told of it.
        work: asyncio.Future[None] = loop.create_future()
        loop.call_soon(work.set_result, None)
        loop.call_soon(task.cancel)
        await asyncio.wait_for(work, timeout=10)
        if fails:
            raise ConnectionError("luck")

    stop = asyncio.Event()
    working = asyncio.create_task(repeat_with_backoff(step, stop=stop, log=log))
    await asyncio.wait([working], timeout=1)
    stop.set()
    await asyncio.wait([working], timeout=10)
    assert working.cancelled()
    assert steps == 1


async def test_what_no_wait_mends_ends_the_work() -> None:
    async def step() -> None:
        raise LookupError

    keep = repeat_with_backoff(
        step, stop=asyncio.Event(), log=log, ends_on=lambda error: isinstance(error, LookupError)
    )
    with pytest.raises(LookupError):
        await asyncio.wait_for(keep, timeout=10)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (FeatureNotSupported("subqueries are not supported within INSERT queries"), True),
        (FeatureNotSupported("cached plan must not change result type"), False),
        (UndefinedTable("relation does not exist"), False),
    ],
)
def test_what_the_server_does_not_support_is_no_outage(fault: Error, expected: bool) -> None:
    error = DBAPIError("SELECT 1", {}, fault)
    assert is_unsupported(error) is expected
    assert not is_outage(error)


def dispatch(sequence: int, attempt: int = 1) -> Dispatch:
    return Dispatch(sequence, uuid4(), "crm", "order.shipped", "", "", attempt, None, sequence)


def test_a_long_backlog_is_looked_at_no_more_often_than_a_short_one() -> None:
    now = 0.0
    progress = Progress(look_seconds=0.5, clock=lambda: now)
    looks = 0
    for turn in range(100):
        within = progress.begin(())
        looks += within.is_look
        now += 0.1  # each turn takes so long, and new messages are behind what it has claimed
        new = [dispatch(number) for number in range(turn * 10, turn * 10 + 10)]
        progress.end(within, new, is_cut=True, is_limited=False)
    assert looks == 5, "a look takes a turn, and twenty of them follow without one"


def test_what_a_look_has_not_taken_it_takes_soon() -> None:
    now = 0.0
    progress = Progress(look_seconds=0.5, clock=lambda: now)
    looks = 0
    for _ in range(100):
        within = progress.begin(())
        looks += within.is_look
        now += 0.125  # exact in binary
        progress.end(within, [dispatch(7, attempt=2)], is_cut=within.is_look, is_limited=False)
    assert looks == 20, "one in five turns: half a second after the end of the last"


def test_a_message_that_is_sent_again_moves_no_mark_while_there_are_more() -> None:
    now = 0.0
    progress = Progress(look_seconds=0.5, clock=lambda: now)
    progress.end(progress.begin(()), [dispatch(70, attempt=2), dispatch(3)], is_cut=True, is_limited=False)
    now = 2.0
    assert progress.begin(()).after == 3
    progress.end(progress.begin(()), [dispatch(80, attempt=2)], is_cut=False, is_limited=False)
    now = 4.0
    assert progress.begin(()).after == 80


def test_hiredis_writes_what_redis_py_writes() -> None:
    connection = PackingConnection(encoding_errors="backslashreplace")
    commands: list[tuple[EncodableT, ...]] = [
        ("XADD", "orders:mes", "MAXLEN", "~", 100_000, "*", "data", "é\0"),
        ("XINFO GROUPS", "orders:mes"),
        ("XDEL", "acks:shop", b"1-1"),
    ]
    assert b"".join(connection.pack_commands(commands)) == b"".join(Connection().pack_commands(commands))
    strange = [("SET", "a", "\udc80")]
    assert b"\\udc80" in b"".join(connection.pack_commands(strange))
