"""Units of work on three shards: all or nothing, whatever dies at which point."""
# ruff: noqa: PT012 (a unit fails when its block ends, so the block is the statement)

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

from app.models.mes import MesOrderItem
from ops.waiting import wait_until
from readreplica.cluster import Cluster
from readreplica.engines import reader_engine, writer_engine
from sharding.engines import open_cluster
from sharding.sessions import ShardedSessions, open_sessions
from sharding.topology import Topology
from sharding.writes import Decisions, TwoPhaseUnit, two_phase
from sharding.writes.errors import (
    CommitInsideUnit,
    ForeignTransaction,
    KeyOutsideUnit,
    PreparedDisabled,
    PrepareFailed,
    UnitAborted,
    UnitInDoubt,
    UnknownTransaction,
)
from sharding.writes.in_doubt import RecoveryAction, chosen, resolve, survey
from sharding.writes.prepared import CommitDecision
from tests.integration.writes_rig import OWN, SHARDS, Wide

FORK = multiprocessing.get_context("fork")
STEPS = [
    "ready",
    *(f"prepared {shard}" for shard in SHARDS),
    "decided",
    *(f"committed {shard}" for shard in SHARDS),
    "finished",
]


def keys_of(sessions: ShardedSessions) -> dict[str, int]:
    """A key of each shard."""
    found: dict[str, int] = {}
    for key in range(1, 1000):
        found.setdefault(sessions.shard_of(key), key)
    return found


def new_item(key: int) -> MesOrderItem:
    return MesOrderItem(
        order_id=key, line_no=1, material="brass", finish="matte", quantity=1, model_key="k", model_name="x"
    )


def add_everywhere(unit: TwoPhaseUnit, keys: dict[str, int]) -> None:
    for key in keys.values():
        unit.session(key).add(new_item(key))


@asynccontextmanager
async def open_decisions(topology: Topology) -> AsyncIterator[Decisions]:
    async with open_cluster(topology, "directory", role="mes", application_name="test") as cluster:
        yield Decisions(cluster.primary, "mes")


@pytest.fixture
async def decisions(wide: Wide) -> AsyncIterator[Decisions]:
    async with open_decisions(wide.topology) as decisions:
        yield decisions


@pytest.fixture
def keys(wide_sessions: ShardedSessions) -> dict[str, int]:
    return keys_of(wide_sessions)


async def end_all(sessions: ShardedSessions, decisions: Decisions) -> None:
    """What `mesctl shards in-doubt resolve --older-than 0s` does."""
    seen = await survey(sessions.clusters, decisions, older_than_seconds=0)
    assert not seen.unreachable
    assert all(each.error is None for each in await resolve(sessions.clusters, decisions, seen))


def counts(wide: Wide) -> list[int]:
    return [len(keys) for keys in wide.keys().values()]


def decided(wide: Wide) -> list[tuple[Any, ...]]:
    return wide.run(
        "directory", "SELECT decision, label, shards, finished_at IS NOT NULL FROM two_phase_decisions"
    )


async def test_a_unit_is_written_on_every_shard_and_its_token_shows_it(
    wide: Wide, wide_sessions: ShardedSessions, decisions: Decisions, keys: dict[str, int]
) -> None:
    steps: list[str] = []
    async with two_phase(
        wide_sessions, keys.values(), decisions=decisions, label="merge", report=steps.append
    ) as unit:
        add_everywhere(unit, keys)
        async with unit.session(keys[OWN]).begin_nested():
            await unit.session(keys[OWN]).execute(text("SELECT 1"))
    assert steps == STEPS
    assert (counts(wide), unit.unfinished) == ([1, 1, 1], ())
    assert not any(wide.prepared().values())
    assert decided(wide) == [("commit", "merge", "mes_0,mes_1,mes_2", True)]
    assert set(unit.token.positions) == set(SHARDS)
    for key in keys.values():
        async with wide_sessions.read(key, after=unit.token) as session:
            assert await session.get(MesOrderItem, (key, 1)) is not None


async def test_an_error_in_the_block_leaves_nothing(
    wide: Wide, wide_sessions: ShardedSessions, decisions: Decisions, keys: dict[str, int]
) -> None:
    with pytest.raises(LookupError):
        async with two_phase(wide_sessions, keys.values(), decisions=decisions, label="x") as unit:
            add_everywhere(unit, keys)
            await unit.session(keys[OWN]).flush()
            raise LookupError
    assert (counts(wide), decided(wide)) == ([0, 0, 0], [])


async def test_one_shard_that_was_written_is_committed_as_usual(
    wide: Wide, wide_sessions: ShardedSessions, decisions: Decisions, keys: dict[str, int]
) -> None:
    async with two_phase(wide_sessions, keys.values(), decisions=decisions, label="x") as unit:
        unit.session(keys["mes_1"]).add(new_item(keys["mes_1"]))
    assert (counts(wide), decided(wide)) == ([0, 1, 0], [])
    assert set(unit.token.positions) == {"mes_1"}


async def test_a_shard_that_cannot_prepare_takes_the_unit_back_everywhere(
    wide: Wide, wide_sessions: ShardedSessions, decisions: Decisions, keys: dict[str, int]
) -> None:
    with pytest.raises(PrepareFailed, match="mes_2 could not prepare: an earlier statement had failed"):
        async with two_phase(wide_sessions, keys.values(), decisions=decisions, label="x") as unit:
            add_everywhere(unit, keys)
            connection = await unit.session(keys[OWN]).connection()
            driver: Any = (await connection.get_raw_connection()).driver_connection
            with pytest.raises(psycopg.errors.UndefinedTable):
                await driver.execute("SELECT FROM nowhere")
            unit.session(keys[OWN]).expunge_all()
    assert (counts(wide), decided(wide)) == ([0, 0, 0], [])
    assert not any(wide.prepared().values())


async def test_misuse_is_named(
    wide: Wide, wide_sessions: ShardedSessions, decisions: Decisions, keys: dict[str, int]
) -> None:
    with pytest.raises(KeyOutsideUnit, match="opened for mes_0, mes_1: give two_phase"):
        async with two_phase(
            wide_sessions, [keys["mes_0"], keys["mes_1"]], decisions=decisions, label="x"
        ) as unit:
            unit.session(keys[OWN])
    with pytest.raises(CommitInsideUnit, match="do not commit it"):
        async with two_phase(wide_sessions, keys.values(), decisions=decisions, label="x") as unit:
            add_everywhere(unit, keys)
            await unit.session(keys["mes_0"]).commit()
    assert counts(wide) == [0, 0, 0]


async def test_a_server_that_prepares_nothing_is_named_with_the_fix(
    wide: Wide, wide_sessions: ShardedSessions, decisions: Decisions, keys: dict[str, int]
) -> None:
    wide.own.cluster.stop()
    wide.own.start(max_prepared_transactions="0")
    try:
        with pytest.raises(PreparedDisabled, match=r"mes_2 .* disabled.*: set max_prepared_transactions"):
            async with two_phase(wide_sessions, keys.values(), decisions=decisions, label="x") as unit:
                add_everywhere(unit, keys)
        assert counts(wide) == [0, 0, 0]
        assert not any(wide.prepared().values())
    finally:
        wide.own.cluster.stop()
        wide.own.start()


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_unit_is_whole_or_nothing(wide: Wide, step: str) -> None:
    child = FORK.Process(target=_victim, args=(wide.topology, step))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == -signal.SIGKILL
    is_decided = STEPS.index(step) >= STEPS.index("decided")
    left = sum(map(len, wide.prepared().values()))
    assert left == {"ready": 0, "finished": 0}.get(step, _prepared_after(step))
    asyncio.run(_recover(wide.topology))
    assert counts(wide) == ([1, 1, 1] if is_decided else [0, 0, 0])
    assert not any(wide.prepared().values())


def _prepared_after(step: str) -> int:
    at = STEPS.index(step)
    return at if at <= 3 else 7 - at if at > 4 else 3


def _victim(topology: Topology, step: str) -> None:
    def die(done: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(_unit(topology, die))


async def _unit(topology: Topology, report: Callable[[str], None]) -> None:
    async with (
        open_sessions(topology, role="mes", application_name="victim") as sessions,
        open_decisions(topology) as decisions,
    ):
        keys = keys_of(sessions)
        async with two_phase(
            sessions, keys.values(), decisions=decisions, label="victim", report=report
        ) as unit:
            add_everywhere(unit, keys)


async def _recover(topology: Topology) -> None:
    async with (
        open_sessions(topology, role="mes", application_name="mesctl") as sessions,
        open_decisions(topology) as decisions,
    ):
        await end_all(sessions, decisions)
        await end_all(sessions, decisions)  # again: nothing is left to do


async def test_a_slow_coordinator_obeys_the_recovery_that_gave_it_up(
    wide: Wide, wide_sessions: ShardedSessions, decisions: Decisions, keys: dict[str, int]
) -> None:
    with pytest.raises(UnitAborted, match="nothing was written"):
        async with two_phase(wide_sessions, keys.values(), decisions=decisions, label="slow") as unit:
            add_everywhere(unit, keys)
            # As `resolve` decides, when it finds an old part: it was first.
            stands = await decisions.decide(
                unit.unit_id, CommitDecision.ABORT, label="presumed", shards=["mes_0"]
            )
            assert stands is CommitDecision.ABORT
    assert (counts(wide), decided(wide)) == ([0, 0, 0], [("abort", "presumed", "mes_0", False)])
    assert not any(wide.prepared().values())


async def test_a_shard_that_is_lost_after_the_decision_gets_it_by_the_recovery(
    wide: Wide, wide_sessions: ShardedSessions, decisions: Decisions, keys: dict[str, int]
) -> None:
    def stop(step: str) -> None:
        if step == "decided":
            wide.own.cluster.stop()

    async with two_phase(wide_sessions, keys.values(), decisions=decisions, label="x", report=stop) as unit:
        add_everywhere(unit, keys)
    assert unit.unfinished == (OWN,)
    seen = await survey(wide_sessions.clusters, decisions)
    assert list(seen.unreachable) == [OWN]
    wide.own.start()
    assert counts(wide) == [1, 1, 0]
    await end_all(wide_sessions, decisions)
    assert counts(wide) == [1, 1, 1]
    assert decided(wide)[0][-1] is True


async def test_a_part_that_is_lost_after_the_decision_is_not_told_as_done(
    wide: Wide, wide_sessions: ShardedSessions, decisions: Decisions, keys: dict[str, int]
) -> None:
    def lose(step: str) -> None:
        """Have the shard forget its part, as a replica does that is promoted and had not received it."""
        if step == "decided":
            [gid] = wide.prepared()[OWN]
            wide.run(OWN, sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)).as_string())

    async with two_phase(wide_sessions, keys.values(), decisions=decisions, label="x", report=lose) as unit:
        add_everywhere(unit, keys)
    assert (counts(wide), unit.unfinished) == ([1, 1, 0], (OWN,))
    assert decided(wide) == [("commit", "x", "mes_0,mes_1,mes_2", False)]


async def test_a_shard_that_is_frozen_while_it_prepares_takes_the_unit_back(
    wide: Wide, wide_sessions: ShardedSessions, decisions: Decisions, keys: dict[str, int]
) -> None:
    with (
        wide.own.freezing() as freeze,
        pytest.raises(PrepareFailed, match="mes_2 failed: it did not answer within 3 s"),
    ):
        async with (
            asyncio.timeout(60),
            two_phase(
                wide_sessions,
                keys.values(),
                decisions=decisions,
                label="x",
                timeout_seconds=3,
                report=lambda step: freeze() if step == "prepared mes_1" else None,
            ) as unit,
        ):
            add_everywhere(unit, keys)
    # Awake, the server may have prepared what nobody waited for; nothing was decided, so it is aborted.
    await end_all(wide_sessions, decisions)
    assert counts(wide) == [0, 0, 0]
    assert not any(wide.prepared().values())


class Directory:
    """A line to the directory that loses the answer to the first COMMIT; then it is down, or there again."""

    def __init__(self, port: int, *, down_after: bool) -> None:
        self.lost = 0
        self._port = port
        self._down_after = down_after

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.lost and self._down_after:
            writer.close()
            return
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self._port)
        answers = asyncio.create_task(self._answer(upstream, writer))
        while data := await reader.read(65536):
            downstream.write(data)
            if b"COMMIT" in data and not self.lost:
                self.lost += 1
                answers.cancel()
                await asyncio.wait([answers])
                while b"COMMIT" not in await upstream.read(65536):
                    pass
                break
        for end in (writer, downstream):
            end.close()
        answers.cancel()

    async def _answer(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await upstream.read(65536):
            writer.write(data)


@asynccontextmanager
async def losing(wide: Wide, *, down_after: bool) -> AsyncIterator[tuple[Directory, Decisions]]:
    line = Directory(wide.servers.primary_port, down_after=down_after)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    url = wide.topology.url("directory", role="mes").set(port=server.sockets[0].getsockname()[1])
    # As in the services: what a cluster makes of a lost answer comes in between.
    engine, reader = (make(url, application_name="test") for make in (writer_engine, reader_engine))
    cluster = Cluster("directory", primary=engine, primary_reader=reader, replicas={})
    async with server:
        try:
            yield line, Decisions(cluster.primary, "mes")
        finally:
            await cluster.close()


async def test_a_decision_whose_answer_was_lost_is_read_back(
    wide: Wide, wide_sessions: ShardedSessions, keys: dict[str, int]
) -> None:
    async with (
        losing(wide, down_after=False) as (line, decisions),
        two_phase(wide_sessions, keys.values(), decisions=decisions, label="x") as unit,
    ):
        add_everywhere(unit, keys)
    assert (line.lost, counts(wide), unit.unfinished) == (1, [1, 1, 1], ())


async def test_a_decision_that_cannot_be_read_back_leaves_the_unit_to_the_recovery(
    wide: Wide, wide_sessions: ShardedSessions, decisions: Decisions, keys: dict[str, int]
) -> None:
    async with losing(wide, down_after=True) as (line, through):
        with pytest.raises(UnitInDoubt, match="until a recovery ends it"):
            async with two_phase(
                wide_sessions, keys.values(), decisions=through, label="x", decision_seconds=0.5
            ) as unit:
                add_everywhere(unit, keys)
    assert (line.lost, counts(wide)) == (1, [0, 0, 0])
    await end_all(wide_sessions, decisions)
    assert counts(wide) == [1, 1, 1]  # for it had been decided


async def test_a_directory_that_cannot_be_reached_takes_the_unit_back(
    wide: Wide, wide_sessions: ShardedSessions, keys: dict[str, int]
) -> None:
    engine = writer_engine(wide.topology.url("directory", role="mes").set(port=1), application_name="test")
    with pytest.raises(Exception, match="onnection refused"):
        async with two_phase(
            wide_sessions, keys.values(), decisions=Decisions(engine, "mes"), label="x"
        ) as unit:
            add_everywhere(unit, keys)
    assert counts(wide) == [0, 0, 0]
    assert not any(wide.prepared().values())


async def test_the_survey_tells_age_locks_and_who_waits_and_leaves_foreign_ones_alone(
    wide: Wide, wide_sessions: ShardedSessions, decisions: Decisions, keys: dict[str, int]
) -> None:
    key = keys["mes_0"]
    unit_id = "ab" * 16
    values = f"({key}, 1, 'brass', 'matte', 1, 'k', 'x')"
    for gid, line in (
        (f"mes-storage:{unit_id}:mes_0", 1),
        ("bank:4711", 2),
        (f"mes-storage:{unit_id}:mes_9", 3),
    ):
        with psycopg.connect(wide.conninfo("mes_0"), autocommit=True) as connection:
            connection.execute("SET ROLE mes")
            connection.execute("BEGIN")
            connection.execute(
                f"INSERT INTO order_items VALUES {values.replace(', 1,', f', {line},', 1)}".encode()
            )
            connection.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(gid)))
    waiter = FORK.Process(target=_insert, args=(wide.conninfo("mes_0"), values))
    waiter.start()
    try:
        ungranted = "SELECT 1 FROM pg_locks WHERE NOT granted"
        assert wait_until(lambda: bool(wide.run("mes_0", ungranted)), timeout_seconds=60)
        seen = await survey(wide_sessions.clusters, decisions, older_than_seconds=3600)
        found = {each.prepared.gid: each for each in seen.found}
        ours = found[f"mes-storage:{unit_id}:mes_0"]
        assert "order_items RowExclusiveLock" in ours.prepared.locks
        assert len(ours.prepared.waiting_pids) == 1
        assert (ours.prepared.owner, ours.verdict) == ("mes", RecoveryAction.WAIT)
        assert 0 <= ours.prepared.age_seconds < 300
        assert ours.prepared.xid_age >= 1
        for gid in ("bank:4711", f"mes-storage:{unit_id}:mes_9"):
            assert found[gid].verdict is RecoveryAction.FOREIGN
            assert found[gid].prepared.waiting_pids == ()
            with pytest.raises(ForeignTransaction, match="left alone"):
                chosen(seen, [gid])
        with pytest.raises(UnknownTransaction):
            chosen(seen, ["mes-storage:x"])
        await end_all(wide_sessions, decisions)
        assert wide.prepared()["mes_0"] == ["bank:4711", f"mes-storage:{unit_id}:mes_9"]
    finally:
        waiter.join(timeout=60)
    assert waiter.exitcode == 0  # whoever waited goes on


def _insert(conninfo: str, values: str) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute(f"INSERT INTO order_items VALUES {values}".encode())
        connection.rollback()
