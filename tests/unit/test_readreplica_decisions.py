"""The decisions about nodes: who is fit, who is the primary, who goes out, what the primary may be asked."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL

from readreplica.cluster import PRIMARY as NAMED
from readreplica.cluster import Cluster
from readreplica.election import PrimaryState, elect, may_write
from readreplica.engines import reader_engine, writer_engine
from readreplica.freshness import (
    ANY,
    PRIMARY,
    Freshness,
    PositionStatus,
    PrimaryHistory,
    PrimarySample,
    ReplicaLag,
    after,
    bounded,
    check_position,
    clamped,
    is_beyond,
)
from readreplica.health import NodeFault, NodeHealth, Observation, after_poll, find_fault
from readreplica.options import DEFAULTS
from readreplica.routing import FallbackBudget, in_order_of_load
from readreplica.token import CausalToken
from readreplica.transaction_status import Evidence, TransactionStatus, judge
from readreplica.wal import Lsn, Position, poll_statement, wait_statement

SYSTEM = 7


def at(lsn: int, *, timeline: int = 1, system: int = SYSTEM) -> Position:
    return Position(system, timeline, Lsn(lsn))


def primary(lsn: int = 100, *, timeline: int = 1, server: str = "p", system: int = SYSTEM) -> Observation:
    position = at(lsn, timeline=timeline, system=system)
    return Observation(at=0.0, in_recovery=False, position=position, server=server)


def replica(lsn: int = 100, *, timeline: int = 1, server: str = "r") -> Observation:
    position = at(lsn, timeline=timeline)
    return Observation(at=0.0, in_recovery=True, position=position, has_receiver=True, server=server)


# Freshness and lag


@pytest.mark.parametrize(
    ("policy", "lag", "fits"),
    [
        (ANY, ReplicaLag(None, None), True),
        (bounded(max_lag_seconds=2), ReplicaLag(2.0, 10**9), True),
        (bounded(max_lag_seconds=2), ReplicaLag(2.1, 0), False),
        (bounded(max_lag_seconds=2), ReplicaLag(None, 0), False),
        (bounded(max_lag_bytes=100), ReplicaLag(None, 100), True),
        (bounded(max_lag_bytes=100), ReplicaLag(0.0, 101), False),
        (bounded(max_lag_seconds=2, max_lag_bytes=100), ReplicaLag(1.0, 101), False),
    ],
)
def test_a_bound_holds_and_what_is_unknown_does_not_fit_it(
    policy: Freshness, lag: ReplicaLag, fits: bool
) -> None:
    assert policy.fits(lag) is fits


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="max_lag_seconds is -1; a lag is 0 or more"):
        bounded(max_lag_seconds=-1)


def test_a_policy_and_a_token_hold_together() -> None:
    token, other = CausalToken({"mes_0": at(5)}), CausalToken({"mes_0": at(9), "crm": at(1)})
    policy = bounded(max_lag_seconds=2).with_token(token).with_token(other)
    assert policy.max_lag_seconds == 2
    assert policy.token == token.merge(other)
    assert after(token).token == token
    assert PRIMARY.with_token(None) is PRIMARY
    assert ANY.with_token(CausalToken()) is ANY


def history(*samples: tuple[float, int]) -> PrimaryHistory:
    found = PrimaryHistory()
    for moment, lsn in samples:
        found.add(PrimarySample(moment, at(lsn)))
    return found


def test_an_idle_primary_makes_nobody_late() -> None:
    idle = history((0.0, 100), (1.0, 100), (3600.0, 100))
    assert idle.lag(at(100), now=3600.5) == ReplicaLag(0.5, 0)


def test_lag_is_dated_by_the_last_position_that_was_replayed() -> None:
    busy = history((0.0, 100), (1.0, 200), (2.0, 300))
    assert busy.lag(at(250), now=2.5) == ReplicaLag(1.5, 50)
    assert busy.lag(at(300), now=2.5) == ReplicaLag(0.5, 0)
    # Further behind than anything that was seen: nothing proves how old that is.
    assert busy.lag(at(99), now=2.5) == ReplicaLag(None, 201)


def test_lag_behind_another_history_is_unknown() -> None:
    promoted = history((0.0, 100))
    promoted.add(PrimarySample(1.0, at(90, timeline=2)))
    assert promoted.lag(at(500), now=1.0) == ReplicaLag(None, None)
    assert promoted.lag(at(90, timeline=2), now=1.0) == ReplicaLag(0.0, 0)
    # Promoted by mistake, and a standby again: it has left this history.
    assert promoted.lag(at(500, timeline=3), now=1.0) == ReplicaLag(None, None)
    assert PrimaryHistory().lag(at(1), now=1.0) == ReplicaLag(None, None)


def test_after_a_promotion_the_followed_timeline_tells_the_lag() -> None:
    promoted = PrimaryHistory()
    promoted.add(PrimarySample(1.0, at(100, timeline=2)))
    promoted.add(PrimarySample(2.0, at(200, timeline=2)))

    def lag_of(lsn: int) -> ReplicaLag:
        reached = replace(replica(lsn), received_timeline=2).reached
        assert reached is not None
        return promoted.lag(reached, now=2.5)

    assert lag_of(200) == ReplicaLag(0.5, 0)
    assert lag_of(150) == ReplicaLag(1.5, 50)
    assert lag_of(90) == ReplicaLag(None, 110)  # not past the fork yet, perhaps
    assert replace(replica(), position=None).reached is None


def test_an_answer_that_was_overtaken_is_not_noted() -> None:
    found = history((1.0, 200), (0.5, 150))
    assert found.newest == PrimarySample(1.0, at(200))


def test_a_primary_that_crashed_goes_on_from_less() -> None:
    found = history((1.0, 100), (2.0, 300), (3.0, 200))
    assert found.newest == PrimarySample(3.0, at(200))
    # Who has all that is left is not behind.
    assert found.lag(at(200), now=3.5) == ReplicaLag(0.5, 0)
    assert found.lag(at(150), now=3.5) == ReplicaLag(2.5, 50)
    assert found.age(Lsn(150), now=3.5) == 0.5


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000)), min_size=1, max_size=20),
    st.integers(0, 1000),
    st.floats(100, 200),
)
def test_what_lag_proves_is_true(steps: list[tuple[float, int]], replayed: int, now: float) -> None:
    moments = sorted(moment for moment, _ in steps)
    positions = sorted(lsn for _, lsn in steps)
    found = history(*zip(moments, positions, strict=True)).lag(at(replayed), now=now)
    for moment, lsn in zip(moments, positions, strict=True):
        # Whatever was written by a moment that the lag vouches for has been replayed.
        if found.seconds is not None and moment <= now - found.seconds - 1e-9:
            assert lsn <= replayed


def test_the_age_of_a_token_is_told() -> None:
    busy = history((0.0, 100), (1.0, 200), (2.0, 300))
    assert busy.age(Lsn(150), now=2.5) == 1.5
    assert busy.age(Lsn(301), now=2.5) == 0.0


# What a token means


@pytest.mark.parametrize(
    ("wanted", "verdict"),
    [
        (at(100), PositionStatus.CURRENT),
        (at(100 + 2**33), PositionStatus.CURRENT),
        (at(100 + 2**40), PositionStatus.FROM_THE_FUTURE),
        (at(2**64 - 1), PositionStatus.FROM_THE_FUTURE),
        (at(2**63, timeline=1), PositionStatus.FROM_THE_FUTURE),
        (at(1, timeline=3), PositionStatus.AHEAD),
        (at(1, system=8), PositionStatus.UNKNOWN_SYSTEM),
    ],
)
def test_a_position_is_named(wanted: Position, verdict: PositionStatus) -> None:
    newest = PrimarySample(10.0, at(100))
    assert check_position(wanted, newest, now=11.0, options=DEFAULTS) is verdict
    assert check_position(wanted, None, now=11.0, options=DEFAULTS) is PositionStatus.CURRENT


def test_an_older_timeline_is_superseded_however_far_it_goes() -> None:
    newest = PrimarySample(10.0, at(100, timeline=2))
    assert check_position(at(2**60), newest, now=11.0, options=DEFAULTS) is PositionStatus.SUPERSEDED
    # A node that has passed the fork has what survived.
    assert at(101, timeline=2).covers(at(2**60))


def test_a_token_from_the_future_asks_for_the_present() -> None:
    assert clamped(at(2**60), at(100)) == at(100)
    assert is_beyond(at(101), at(100))
    assert not is_beyond(at(100), at(100))
    assert not is_beyond(at(101, timeline=2), at(100))


def test_a_walreceiver_on_the_new_timeline_proves_what_the_control_file_does_not_tell_yet() -> None:
    late = replica(120)
    follows = replace(late, received_timeline=2)
    assert not late.covers(at(110, timeline=2), primary_timeline=2)
    assert follows.covers(at(110, timeline=2), primary_timeline=2)
    assert not follows.covers(at(121, timeline=2), primary_timeline=2)
    assert not follows.covers(at(110, timeline=3), primary_timeline=2)
    assert not follows.covers(at(110, timeline=2, system=8), primary_timeline=2)


@pytest.mark.parametrize(
    ("said", "primary_timeline", "covered"),
    [
        (replica(500, timeline=2), 1, False),  # it left the primary's history
        (replica(500, timeline=2), 2, True),
        (replica(500, timeline=2), 3, True),
        (replace(replica(500), received_timeline=2), 1, False),  # so did the one that it follows
        # Before the primary is known nothing tells whether it came that way.
        (replica(500, timeline=2), 0, False),
        (replica(500), 0, True),
        (replica(99), 0, False),
        (replace(replica(), position=None), 1, False),
    ],
)
def test_a_history_that_the_primary_has_not_come_covers_nothing(
    said: Observation, primary_timeline: int, covered: bool
) -> None:
    assert said.covers(at(100), primary_timeline=primary_timeline) is covered


def cluster_of(*replicas: str) -> Cluster:
    """A cluster whose servers are nowhere: a test says what they say."""
    return Cluster(
        "main",
        primary=writer_engine(NOWHERE, application_name="test"),
        primary_reader=reader_engine(NOWHERE, application_name="test"),
        replicas={name: reader_engine(NOWHERE, application_name="test") for name in replicas},
    )


def test_an_answer_to_a_question_from_before_is_no_longer_believed() -> None:
    monitor = cluster_of("replica").monitor
    node = monitor.nodes["replica"]
    asked_in = node.generation
    monitor.report(node, replica(), generation=asked_in)
    assert node.observation == replica()
    node.forget()  # a connection is lost while the next answer is under way
    monitor.report(node, replica(), generation=asked_in)
    assert node.observation is None
    monitor.report(node, replica(), generation=node.generation)
    assert node.observation == replica()


def test_another_server_behind_an_address_is_another_era() -> None:
    node = cluster_of("replica").monitor.nodes["replica"]
    assert node.record(replace(replica(), incarnation="1"), generation=node.generation)
    before = node.generation
    assert node.record(replace(replica(), incarnation="1"), generation=before)
    assert node.generation == before
    # What it says now is known; a read whose connection was there before has to look again.
    assert node.record(replace(replica(), incarnation="2"), generation=before)
    assert node.generation > before
    assert node.record_connection("2", None)
    assert node.observation is not None


# Who is fit


def fault_of(
    seen_by: Observation,
    lag: ReplicaLag = ReplicaLag(0.0, 0),  # noqa: B008 - immutable
    *,
    primary_answers: bool = True,
    primary_timeline: int = 1,
) -> NodeFault | None:
    return find_fault(
        seen_by,
        lag,
        system_identifier=SYSTEM,
        primary_answers=primary_answers,
        primary_timeline=primary_timeline,
        options=DEFAULTS,
    )


@pytest.mark.parametrize(
    ("said", "lag", "fault"),
    [
        (replica(), ReplicaLag(0.5, 0), None),
        (replica(), ReplicaLag(None, None), None),
        (replace(replica(), replay_paused=True), ReplicaLag(0.5, 0), NodeFault.PAUSED),
        (replace(replica(), has_receiver=False), ReplicaLag(0.5, 0), None),
        (replace(replica(), has_receiver=False), ReplicaLag(0.5, 8), NodeFault.NO_RECEIVER),
        (replace(replica(), position=None), ReplicaLag(None, None), NodeFault.LAG),
        (replica(timeline=2), ReplicaLag(None, None), NodeFault.NEWER_TIMELINE),
        (replace(replica(), received_timeline=2), ReplicaLag(None, None), NodeFault.NEWER_TIMELINE),
        (replace(replica(), received_timeline=1), ReplicaLag(None, None), None),
        (replica(), ReplicaLag(31.0, 0), NodeFault.LAG),
        (replica(), ReplicaLag(None, 1 << 30), NodeFault.LAG),
        (primary(), ReplicaLag(0.5, 0), NodeFault.NOT_A_REPLICA),
        (primary(system=8), ReplicaLag(None, None), NodeFault.OTHER_SYSTEM),
    ],
)
def test_what_is_wrong_with_a_replica_has_a_name(
    said: Observation, lag: ReplicaLag, fault: NodeFault | None
) -> None:
    assert fault_of(said, lag) is fault


def test_a_replica_that_follows_the_demoted_primary_is_at_fault() -> None:
    follows = replace(replica(), received_timeline=1)
    assert fault_of(follows, ReplicaLag(None, None), primary_timeline=2) is NodeFault.OLDER_TIMELINE
    # Not so one that has followed the promotion and made no restartpoint, nor one that does not tell.
    assert fault_of(replace(replica(), received_timeline=2), primary_timeline=2) is None
    assert fault_of(replica(), ReplicaLag(None, None), primary_timeline=2) is None
    assert fault_of(follows, ReplicaLag(None, None), primary_timeline=2, primary_answers=False) is None


def test_without_a_primary_replicas_are_all_that_there_is() -> None:
    orphan = replace(replica(), has_receiver=False)
    assert fault_of(orphan, ReplicaLag(3600.0, 8), primary_answers=False) is None


def polls(health: NodeHealth, *faults: NodeFault | None) -> NodeHealth:
    for fault in faults:
        health = after_poll(health, fault, DEFAULTS)
    return health


def test_a_lagging_replica_is_out_after_two_polls_and_a_single_one_is_an_accident() -> None:
    assert polls(NodeHealth(), NodeFault.LAG).ejected is None
    assert polls(NodeHealth(), NodeFault.LAG, None, NodeFault.LAG).ejected is None
    assert polls(NodeHealth(), NodeFault.LAG, NodeFault.LAG).ejected is NodeFault.LAG


@pytest.mark.parametrize("fault", [NodeFault.OTHER_SYSTEM, NodeFault.NOT_A_REPLICA, NodeFault.UNREACHABLE])
def test_some_faults_need_no_second_poll(fault: NodeFault) -> None:
    assert polls(NodeHealth(), fault).ejected is fault


def test_a_replica_comes_back_slowly() -> None:
    out = NodeHealth(ejected=NodeFault.LAG)
    assert polls(out, None, None).ejected is NodeFault.LAG
    assert polls(out, None, None, NodeFault.LAG, None, None).ejected is NodeFault.LAG
    assert polls(out, None, None, None).ejected is None


# Who is the primary

NOWHERE = URL.create("postgresql+psycopg", host="127.0.0.1", port=1)
KNOWN = PrimaryState("a", True, SYSTEM, 1, "A", ())


def test_the_primary_is_found_by_its_role() -> None:
    found = elect(PrimaryState("a"), {"a": replica(server="A"), "b": primary(server="B")})
    assert (found.node, found.answers, found.timeline) == ("b", True, 1)


def test_a_primary_that_does_not_answer_stays_the_one_that_is_known() -> None:
    found = elect(KNOWN, {"b": replica(server="B")})
    assert (found.node, found.answers) == ("a", False)


def test_the_newer_timeline_wins() -> None:
    answers = {"a": primary(900, server="A"), "b": primary(100, timeline=2, server="B")}
    found = elect(KNOWN, answers)
    assert (found.node, found.timeline, found.rivals) == ("b", 2, ("a",))
    # And nothing leads back, not even the end of the newer one.
    alone = elect(found, {"a": primary(900, server="A")})
    assert (alone.node, alone.answers, alone.rivals) == ("b", False, ("a",))


def test_of_two_on_one_timeline_the_known_one_stays() -> None:
    answers = {"a": primary(100, server="A"), "b": primary(900, server="B")}
    found = elect(KNOWN, answers)
    assert (found.node, found.rivals) == ("a", ("b",))


def test_of_two_on_one_timeline_none_is_guessed() -> None:
    answers = {"a": primary(100, timeline=2, server="A"), "b": primary(900, timeline=2, server="B")}
    found = elect(KNOWN, answers)
    assert found.is_split
    assert found.rivals == ("a", "b")
    assert found.timeline == 2


def test_one_server_under_two_addresses_is_one_primary() -> None:
    answers = {"x": primary(server="A"), "y": primary(server="A")}
    found = elect(PrimaryState("x"), answers)
    assert (found.node, found.rivals) == ("x", ())


def test_another_system_is_never_the_primary() -> None:
    found = elect(KNOWN, {"b": primary(timeline=5, system=8)})
    assert (found.node, found.answers) == ("a", False)


def test_a_rival_on_the_known_timeline_does_not_inherit_the_writes() -> None:
    alone = elect(KNOWN, {"b": primary(900, server="B")})
    assert (alone.node, alone.answers, alone.rivals) == ("a", False, ("b",))
    # Of two that nobody knew, the one that a person has left running is the primary.
    answers = {"a": primary(100, timeline=2, server="A"), "b": primary(900, timeline=2, server="B")}
    split = elect(KNOWN, answers)
    assert elect(split, {"b": answers["b"]}).node == "b"


def test_a_primary_before_the_promotion_serves_no_reads_until_it_has_said_what_it_is() -> None:
    monitor = cluster_of("replica").monitor
    old = monitor.nodes[NAMED]
    monitor.report(old, primary(server="P"))
    # It hangs, or its pooler lets us wait: nothing more is heard of it.
    monitor.report(monitor.nodes["replica"], primary(200, timeline=2, server="R"))
    assert (monitor.primary_state.node, monitor.primary_state.rivals) == ("replica", ())
    assert (old.health.ejected, old.observation) == (NodeFault.NOT_A_REPLICA, None)
    monitor.report(old, primary(300, server="P"))
    assert monitor.primary_state.rivals == (NAMED,)
    assert old.health.ejected is NodeFault.NOT_A_REPLICA


def test_who_answers_first_does_not_decide_whose_cluster_it_is() -> None:
    monitor = cluster_of("stranger", "replica").monitor
    monitor.report(monitor.nodes["stranger"], primary(900, timeline=9, server="S", system=8))
    assert not monitor.primary_state.answers
    monitor.report(monitor.nodes[NAMED], NodeFault.UNREACHABLE)
    monitor.report(monitor.nodes["replica"], replica(server="R"))
    assert (monitor.primary_state.node, monitor.primary_state.answers) == (NAMED, False)
    monitor.report(monitor.nodes[NAMED], primary(server="P"))
    assert (monitor.primary_state.node, monitor.primary_state.answers) == (NAMED, True)
    assert not monitor.primary_state.rivals


@pytest.mark.parametrize("order", [(NAMED, "rival", "replica"), ("rival", "replica", NAMED)])
def test_who_answers_first_does_not_decide_who_is_the_primary(order: Sequence[str]) -> None:
    monitor = cluster_of("rival", "replica").monitor
    said = {
        NAMED: primary(100, server="P"),
        "rival": primary(900, server="R"),
        "replica": replica(server="S"),
    }
    for name in order[:2]:
        monitor.report(monitor.nodes[name], said[name])
        assert not monitor.primary_state.answers
        assert monitor.history.newest is None  # nothing is dated by one who may not be it
    monitor.report(monitor.nodes[order[2]], said[order[2]])
    assert monitor.primary_state.is_split


def test_the_first_primary_is_noted_when_the_last_node_was_heard() -> None:
    monitor = cluster_of("replica").monitor
    monitor.report(monitor.nodes[NAMED], primary(100, server="P"))
    monitor.report(monitor.nodes["replica"], NodeFault.UNREACHABLE)
    assert (monitor.primary_state.node, monitor.primary_state.answers) == (NAMED, True)
    assert monitor.history.newest == PrimarySample(0.0, at(100))


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abc"),
            st.builds(
                primary,
                st.integers(1, 9),
                timeline=st.integers(1, 4),
                server=st.sampled_from(["A", "B", "C"]),
                system=st.sampled_from([SYSTEM, SYSTEM, 8]),
            ),
        ),
        max_size=6,
    )
)
def test_whatever_they_say_an_older_timeline_gets_no_writes(rounds: list[dict[str, Observation]]) -> None:
    known = KNOWN
    for answers in rounds:
        before, known = known, elect(known, answers)
        assert known.timeline >= before.timeline
        if known.answers and known.node is not None:
            position = answers[known.node].position
            assert position is not None
            assert may_write(before, position)
            assert position.timeline == known.timeline


# Who answers, and what the primary may be asked


def test_the_least_loaded_answers_and_equals_take_turns() -> None:
    load = {"a": 3, "b": 1, "c": 1}
    first = [in_order_of_load(list(load), turn=turn, load=load.__getitem__)[0] for turn in range(6)]
    assert set(first) == {"b", "c"}
    assert in_order_of_load([], turn=5, load=load.__getitem__) == []


def test_the_budget_is_a_rate_with_a_burst() -> None:
    budget = FallbackBudget(per_second=10, burst=2, concurrency=100)
    assert [budget.take(now=0.0, in_use=0) for _ in range(2)] == [0.0, 0.0]
    assert budget.take(now=0.0, in_use=0) == pytest.approx(0.1)
    assert budget.take(now=0.1, in_use=0) == 0.0
    assert budget.take(now=0.1, in_use=0) > 0
    assert [budget.take(now=9.0, in_use=0) > 0 for _ in range(3)] == [False, False, True]


def test_the_budget_bounds_what_is_held_at_a_time() -> None:
    budget = FallbackBudget(per_second=10, burst=5, concurrency=3)
    assert budget.take(now=0.0, in_use=3) > 0
    assert budget.take(now=0.0, in_use=2) == 0.0


def test_a_clock_that_jumps_back_fills_no_budget() -> None:
    budget = FallbackBudget(per_second=10, burst=1, concurrency=3)
    assert budget.take(now=100.0, in_use=0) == 0.0
    assert budget.take(now=0.0, in_use=0) > 0
    assert budget.take(now=0.05, in_use=0) > 0


# What became of a COMMIT

PROMOTED: dict[str, object] = {"server": "other", "position": at(300, timeline=2)}


@pytest.mark.parametrize(
    ("changes", "fate"),
    [
        ({}, TransactionStatus.COMMITTED),
        ({"status": "aborted"}, TransactionStatus.ABORTED),
        ({"status": "in progress"}, TransactionStatus.IN_PROGRESS),
        ({"status": None}, TransactionStatus.UNKNOWN),
        ({"is_in_future": True, "status": None}, TransactionStatus.ABORTED),
        # Started anew: the id may be another transaction's by now, but "aborted" is true either way.
        ({"server": "other"}, TransactionStatus.UNKNOWN),
        ({"server": "other", "status": "aborted"}, TransactionStatus.ABORTED),
        # Promoted: the fork tells whether the transaction's WAL came along.
        (PROMOTED | {"recovered_at": Lsn(200), "was_promoted": True}, TransactionStatus.COMMITTED),
        # Crashed after its promotion: that is the end of crash recovery, and nothing tells the fork.
        (PROMOTED | {"recovered_at": Lsn(200)}, TransactionStatus.UNKNOWN),
        (PROMOTED | {"recovered_at": Lsn(99), "was_promoted": True}, TransactionStatus.ABORTED),
        (PROMOTED, TransactionStatus.UNKNOWN),
        (PROMOTED | {"position": at(300, timeline=3), "was_promoted": True}, TransactionStatus.UNKNOWN),
        ({"position": at(300, system=8)}, TransactionStatus.UNKNOWN),
    ],
)
def test_the_fate_of_a_commit(changes: dict[str, object], fate: TransactionStatus) -> None:
    evidence = Evidence(at(300), "s", "committed", False, None, False, False)
    found = judge(xid=42, before=at(100), server="s", seen=evidence._replace(**changes))  # type: ignore[arg-type]
    assert found is fate


@pytest.mark.parametrize(
    ("are_over", "fate"), [(False, TransactionStatus.IN_PROGRESS), (True, TransactionStatus.UNKNOWN)]
)
def test_without_an_id_only_the_end_of_all_transactions_is_known(
    are_over: bool, fate: TransactionStatus
) -> None:
    evidence = Evidence(at(300), "s", None, False, None, False, are_over)
    assert judge(xid=None, before=None, server=None, seen=evidence) is fate


# SQL that is chosen by version


def test_the_server_waits_from_postgresql_19_on() -> None:
    assert wait_statement(180006, Lsn(255), timeout_seconds=0.05) is None
    assert wait_statement(190000, Lsn(255), timeout_seconds=0.05) == (
        "WAIT FOR LSN '0/FF' WITH (MODE 'standby_replay', TIMEOUT '50ms', NO_THROW)"
    )


def test_the_monitor_limits_its_statement_within_its_own_transaction() -> None:
    assert poll_statement(timeout_seconds=0.25).startswith(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = 250; "
    )
