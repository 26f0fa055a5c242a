"""The task of the MES that decides what each sender may send, and says why.

One process grants: the one that has renewed a row in the directory. It measures, decides, writes what it has
decided there, for the other processes and for people, and publishes it in Redis for the Shop and the CRM.
What people have ordered stands in the directory too. So a Redis that is wiped forgets nothing of it.
"""

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text

from app import instruments
from app.flow.grants import PARTNERS, Allowance, Grant, publish, redis_now
from app.flow.signals import (
    SENDERS,
    SIGNALS,
    Pressure,
    Signal,
    of_process,
    pressure_on,
    pressures,
    pricing_queue,
    replica_lag,
)
from app.kit.tasks import sleep_unless, within
from app.messaging.backoff import repeat_with_backoff
from app.messaging.signing import EntrySigner
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession

GRANT_SECONDS = 10.0
"""How long a grant holds; it is granted anew each second."""

LEADER_SECONDS = 3.0
"""After so long without a word of it another process grants."""

_IN_REDIS = ("shop", "crm")

log: structlog.stdlib.BoundLogger = structlog.get_logger("flow")


@dataclass(frozen=True, kw_only=True)
class RateOptions:
    """Between what a rate moves, in messages a second, and how fast."""

    floor: float = 2.0
    most: float = 1000.0
    up: float = 1.25
    down: float = 0.5


@dataclass(frozen=True)
class Override:
    """What a person has ordered about a sender; 0 is a pause."""

    per_second: float
    until: datetime
    reason: str
    made_by: str


@dataclass(frozen=True)
class RateDecision:
    """What a sender may send in a second, and why."""

    per_second: float
    reason: str
    paused: bool = False


def next_rate(rate: float, pressure: float, received: float, options: RateOptions) -> float:
    """Return what may be sent in a second from now on.

    Parameters:
        rate: what might be sent until now.
        pressure: 1 is at the limit.
        received: what was really sent in a second: a rate that no one uses says nothing of the capacity.
        options: the bounds.
    """
    if pressure > 1:
        used = min(rate, max(2 * received, 4 * options.floor))
        rate = used * max(options.down, 0.9 / pressure)
    elif pressure < 0.8:
        rate = rate * options.up + 1
    return min(max(rate, options.floor), options.most)


def decide(rate: float, pressure: Pressure, override: Override | None, options: RateOptions) -> RateDecision:
    """Return what is granted, and why: an order of a person counts, and a limit never raises."""
    if override is not None and override.per_second == 0:
        until = f"{override.until:%H:%M:%S} UTC"
        why = f"paused by {override.made_by} until {until}: {override.reason}"
        return RateDecision(0.0, why, paused=True)
    why = pressure.reason if rate < options.most else "the MES has room"
    if override is not None and override.per_second < rate:
        return RateDecision(override.per_second, f"limited by {override.made_by}: {override.reason}")
    return RateDecision(rate, why)


_LEAD = text("""
    INSERT INTO flow_control AS old (singleton, leader, renewed_at, signals)
    VALUES (1, :leader, clock_timestamp(), CAST(:signals AS jsonb))
    ON CONFLICT (singleton) DO UPDATE
    SET leader = excluded.leader, renewed_at = excluded.renewed_at, signals = excluded.signals
    WHERE old.leader = excluded.leader
        OR old.renewed_at < excluded.renewed_at - make_interval(secs => :patience)
    RETURNING clock_timestamp()
""")
_OVERRIDES = text("""
    SELECT sender, per_second, until AT TIME ZONE 'UTC' AS until, reason, made_by
    FROM flow_overrides WHERE until > clock_timestamp()
""")
_KEEP = text("""
    INSERT INTO flow_grants (sender, per_second, burst, reason, paused, issued_at)
    VALUES (:sender, :per_second, :burst, :reason, :paused, clock_timestamp())
    ON CONFLICT (sender) DO UPDATE
    SET per_second = excluded.per_second, burst = excluded.burst, reason = excluded.reason,
        paused = excluded.paused, issued_at = excluded.issued_at
""")
_IN_FORCE = text("""
    SELECT sender, per_second, burst, reason, paused, issued_at FROM flow_grants
    WHERE issued_at > clock_timestamp() - make_interval(secs => :seconds)
""")


@dataclass
class SenderMeter:
    """Counts what each sender sends to this process, and finds the one that ignores its grant.

    Allowed within ten seconds is twice the greatest rate of the last minute, for what was sent under a former
    grant arrives later, and a burst.
    """

    floor: float
    clock: Callable[[], float] = time.monotonic
    _received: dict[str, deque[float]] = field(default_factory=dict)
    _granted: dict[str, deque[tuple[float, float, int]]] = field(default_factory=dict)
    _logged: dict[str, float] = field(default_factory=dict)

    def hear(self, sender: str, per_second: float, burst: int) -> None:
        """Note what a sender is granted."""
        now = self.clock()
        grants = self._granted.setdefault(sender, deque())
        grants.append((now, per_second, burst))
        while grants[0][0] < now - _REMEMBER_SECONDS:
            grants.popleft()

    def rate(self, sender: str) -> float:
        """Return how many messages a sender has sent in a second, over the last ten."""
        received = self._received.get(sender, deque())
        since = self.clock() - _METER_SECONDS
        while received and received[0] < since:
            received.popleft()
        return len(received) / _METER_SECONDS

    def count(self, sender: str) -> None:
        """Count a message."""
        self._received.setdefault(sender, deque()).append(self.clock())

    def receive(self, sender: str) -> bool:
        """Count a message; False if its sender is far beyond its grant, so that it is to come again."""
        self.count(sender)
        rate, grants = self.rate(sender), self._granted.get(sender)
        if not grants:
            return True  # nothing was granted yet, by this process or another
        most = max(self.floor, *(per_second for _, per_second, _ in grants))
        burst = max(burst for _, _, burst in grants)
        if rate * _METER_SECONDS <= 2 * most * _METER_SECONDS + burst:
            return True
        self._received[sender].pop()  # it is not handled, and so does not count for the next one
        self._ignored(sender, rate, most)
        return False

    def _ignored(self, sender: str, rate: float, most: float) -> None:
        instruments.grant_ignored(sender)
        now = self.clock()
        if now - self._logged.get(sender, -math.inf) >= _METER_SECONDS:
            self._logged[sender] = now
            log.error("grant_ignored", sender=sender, rate=round(rate, 1), granted=round(most, 1))


_METER_SECONDS = 10.0
_REMEMBER_SECONDS = 60.0


class FlowControl:
    """Measures, decides and grants, each second; `run` is a background task of every process of the MES."""

    def __init__(
        self,
        directory: Cluster,
        shards: Mapping[str, Cluster],
        redis: Redis,
        signer: EntrySigner,
        *,
        process: str,
        allowance: Allowance,
        meter: SenderMeter,
        options: RateOptions,
        pricing_seconds: float,
        every_seconds: float = 1.0,
    ) -> None:
        """Make the control of a process.

        Parameters:
            directory: where orders of people stand, and what is granted.
            shards: what is measured.
            redis: a client made by `open_redis`.
            signer: of the MES.
            process: a name that no other process has.
            allowance: of the drain of partners' orders in this process.
            meter: of what this process receives.
            options: the bounds of the rates.
            pricing_seconds: how old the oldest pricing job may be.
            every_seconds: how often it decides.
        """
        self._directory, self._shards, self._redis, self._signer = directory, shards, redis, signer
        self._process, self._allowance, self._meter = process, allowance, meter
        self._options, self._every_seconds = options, every_seconds
        self._signals: Mapping[str, Signal] = {
            **SIGNALS,
            "pricing_age": replace(SIGNALS["pricing_age"], limit=pricing_seconds),
        }
        self._rates = dict.fromkeys(SENDERS, options.most)
        self.leads = False
        # A pause holds from the first moment: nothing is placed before the directory was heard, or is away.
        allowance.hold(is_held=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Without the directory, the floor holds in this process."""

        async def turn() -> None:
            try:
                await self.turn()
            except Exception:
                self._allowance.hear(None)
                self._allowance.hold(is_held=True)
                raise
            await sleep_unless(stop, self._every_seconds)

        await repeat_with_backoff(turn, stop=stop, log=log)

    async def turn(self) -> None:
        """Decide once, or hear what another process has decided."""
        measured = await self.measure()
        decided = (await self._directory.transact(lambda session: self._lead(session, measured))).value
        self.leads = decided is not None
        if decided is not None:
            await self._publish(decided)

    async def measure(self) -> dict[str, float]:
        """Measure every signal once. A shard that does not answer says nothing."""
        measured = of_process()
        # Side by side: however many do not answer, this process must not lose the lead by them.
        found = await asyncio.gather(*map(_measure_shard, self._shards.values()))
        of_shards = [each for each in found if each is not None]
        measured["pricing_age"] = max((each.pricing_age for each in of_shards), default=0.0)
        measured["pricing_jobs"] = float(sum(each.pricing_jobs for each in of_shards))
        measured["replica_lag"] = max((each.replica_lag for each in of_shards), default=0.0)
        return measured

    async def _lead(
        self, session: WriteSession, measured: Mapping[str, float]
    ) -> dict[str, tuple[RateDecision, int]] | None:
        """Lead, and write what is granted; None if another process leads, whose grants are heard."""
        shown = {
            name: {"value": round(measured.get(name, 0.0), 3), "limit": each.limit}
            for name, each in self._signals.items()
        }
        words = {"leader": self._process, "signals": json.dumps(shown), "patience": LEADER_SECONDS}
        now = await session.scalar(_LEAD, words)
        decided = None
        if now is not None:
            if not self.leads:
                self._go_on_from(await self._in_force(session))
            decided = self._decide(measured, await _overrides(session))
            for sender, (decision, burst) in decided.items():
                words = {"sender": sender, "per_second": decision.per_second, "burst": burst}
                await session.execute(_KEEP, words | {"reason": decision.reason, "paused": decision.paused})
        self._hear(await self._in_force(session), leads=decided is not None)
        return decided

    async def _in_force(self, session: WriteSession) -> Any:
        return (await session.execute(_IN_FORCE, {"seconds": GRANT_SECONDS})).mappings().all()

    def _go_on_from(self, rows: Any) -> None:
        """Begin with what another process has granted: under load the most would let all in at once."""
        for row in rows:
            if not row["paused"] and row["sender"] in self._rates:
                self._rates[row["sender"]] = row["per_second"]

    def _decide(
        self, measured: Mapping[str, float], overrides: Mapping[str, Override]
    ) -> dict[str, tuple[RateDecision, int]]:
        for name, share in pressures(measured, self._signals).items():
            instruments.flow_pressure(name, share)
        decided = {}
        for sender in SENDERS:
            pressure = pressure_on(sender, measured, self._signals)
            received = self._meter.rate(sender)
            self._rates[sender] = next_rate(self._rates[sender], pressure.value, received, self._options)
            decision = decide(self._rates[sender], pressure, overrides.get(sender), self._options)
            decided[sender] = decision, max(1, math.ceil(decision.per_second))
        return decided

    def _hear(self, rows: Any, *, leads: bool) -> None:
        heard = None
        for row in rows:
            instruments.granted(row["sender"], row["per_second"], paused=row["paused"])
            self._meter.hear(row["sender"], row["per_second"], row["burst"])
            if row["sender"] == PARTNERS:
                expires_at = row["issued_at"] + timedelta(seconds=GRANT_SECONDS)
                granted = {name: value for name, value in row.items() if name != "paused"}
                heard = Grant(**granted, expires_at=expires_at)
        self._allowance.hear(heard)
        # The grant is one for all processes. Where it limits nothing each places what it takes in, at once.
        limits_nothing = heard is None or heard.per_second >= self._options.most
        self._allowance.hold(is_held=leads or limits_nothing)

    async def _publish(self, decided: Mapping[str, tuple[RateDecision, int]]) -> None:
        """Publish what other services hear; Redis may be away, and then the floor holds for them."""
        try:
            now = await redis_now(self._redis)
            for sender in _IN_REDIS:
                decision, burst = decided[sender]
                grant = Grant(
                    sender=sender,
                    per_second=decision.per_second,
                    burst=burst,
                    issued_at=now,
                    expires_at=now + timedelta(seconds=GRANT_SECONDS),
                    reason=decision.reason,
                )
                await publish(self._redis, self._signer, grant)
        except (RedisError, OSError) as error:
            log.warning("grants_not_published", error=repr(error))


@dataclass(frozen=True)
class _ShardSignals:
    pricing_age: float
    pricing_jobs: int
    replica_lag: float


async def _measure_shard(cluster: Cluster) -> _ShardSignals | None:
    async def measured() -> _ShardSignals:
        async with cluster.write() as session:
            age, jobs = await pricing_queue(session)
        return _ShardSignals(age, jobs, replica_lag(cluster, now=time.monotonic()))

    try:
        # A frozen server is left behind: it would not even end what is cancelled.
        return await within(measured(), seconds=1.0)
    except Exception as error:
        log.warning("signal_missing", database=cluster.name, error=repr(error))
        return None


async def _overrides(session: WriteSession) -> dict[str, Override]:
    rows = await session.execute(_OVERRIDES)
    return {row.sender: Override(row.per_second, row.until, row.reason, row.made_by) for row in rows}
