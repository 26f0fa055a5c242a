"""Bulk and two-phase writes of a request count as its own: a later read of its client sees them."""
# ruff: noqa: F401, F811 (fixtures of another file)

from collections.abc import Mapping

from app.models.mes import MesOrderItem
from readreplica.context import causality, follow_causality
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_SYSTEM
from sharding.sessions import ShardedSessions
from sharding.writes import Decisions, Mode, two_phase
from tests.integration.test_writes_two_phase import decisions, keys, new_item
from tests.integration.writes_rig import OWN, SHARDS, Wide


def carried(sessions: ShardedSessions) -> ShardedSessions:
    """Have them carry tokens, as the services' sessions do."""
    for cluster in sessions.clusters.values():
        follow_causality(cluster)
    return sessions


def row(key: int) -> Mapping[str, object]:
    words = {"material": "brass", "finish": "matte", "quantity": 1, "model_key": "k", "model_name": "x"}
    return {"order_id": key, "line_no": 1, **words}


async def test_bulk(wide_sessions: ShardedSessions) -> None:
    sessions = carried(wide_sessions)
    with causality(CausalToken()) as here:
        report = await sessions.bulk(MesOrderItem, map(row, range(1, 50)), mode=Mode.INSERT_IGNORE)
    assert set(report.token.positions) == set(SHARDS)
    assert here.gained == report.token


async def test_two_phase(
    wide_sessions: ShardedSessions,
    decisions: Decisions,
    keys: dict[str, int],
) -> None:
    sessions = carried(wide_sessions)
    with causality(CausalToken()) as here:
        async with two_phase(sessions, keys.values(), decisions=decisions, label="merge") as unit:
            for key in keys.values():
                unit.session(key).add(new_item(key))
    assert set(unit.token.positions) == set(SHARDS)
    assert here.gained == unit.token


async def test_a_shard_that_has_not_answered_is_read_on_its_primary(
    wide: Wide,
    wide_sessions: ShardedSessions,
    decisions: Decisions,
    keys: dict[str, int],
) -> None:
    sessions = carried(wide_sessions)
    with wide.own.freezing() as freeze, causality(CausalToken()) as here:
        async with two_phase(
            sessions,
            keys.values(),
            decisions=decisions,
            label="merge",
            timeout_seconds=1,
            report=lambda step: freeze() if step == "decided" else None,
        ) as unit:
            for key in keys.values():
                unit.session(key).add(new_item(key))
    assert unit.unfinished == (OWN,)
    assert here.gained == unit.token
    unknown = {name for name, at in unit.token.positions.items() if at.system_identifier == UNKNOWN_SYSTEM}
    assert unknown == {OWN}


async def test_two_phase_on_one_shard(
    wide_sessions: ShardedSessions,
    decisions: Decisions,
    keys: dict[str, int],
) -> None:
    sessions = carried(wide_sessions)
    with causality(CausalToken()) as here:
        async with two_phase(sessions, keys.values(), decisions=decisions, label="merge") as unit:
            unit.session(keys["mes_1"]).add(new_item(keys["mes_1"]))
    assert set(unit.token.positions) == {"mes_1"}
    assert here.gained == unit.token
