"""What is a problem, and how bad: rules on facts, without a server."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from ops.problems.service import (
    DatabaseFacts,
    DirectoryFacts,
    HeldSlot,
    LockWait,
    MapInForce,
    OpenProblem,
    OpenTransaction,
    age_of,
    component_problems,
    database_problems,
    node_problems,
    partition_problems,
    ranked,
    run_sources,
    shard_problems,
    unread,
)
from ops.replicas.nodes import NodeRow
from partitions.check import PartitionFinding, Remedy

NOW = datetime(2026, 12, 2, 5, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def facts(**changed: object) -> DatabaseFacts:
    healthy: dict[str, object] = {
        "name": "mes_0",
        "tree": "mes",
        "psql": "psql -d mes_0",
        "now": NOW,
        "is_standby": False,
        "transactions": (),
        "lock_waits": (),
        "slots": (),
        "connections": 10,
        "connections_max": 100,
        "xid_age": 1_000,
        "freeze_age": 200_000_000,
        "map_version": 1,
    }
    return DatabaseFacts(**(healthy | changed))  # type: ignore[arg-type]  # facts by name


def transaction(state: str, seconds: float) -> dict[str, object]:
    return {"transactions": (OpenTransaction("17", "mes", "report", state, ago(seconds)),)}


def waits(seconds: float, *blockers: int) -> dict[str, object]:
    return {"lock_waits": (LockWait(18, "mes", "", "orders_hot", ago(seconds), blockers),)}


def slot(size: int, *, is_lost: bool = False) -> dict[str, object]:
    return {"slots": (HeldSlot("mes_0_replica", False, size, is_lost),)}


def leased(nodes: int) -> dict[str, object]:
    return {"directory": DirectoryFacts(leases={"mes": nodes})}


def unfinished(seconds: float) -> dict[str, object]:
    return {"directory": DirectoryFacts(unfinished={"mes": (2, ago(seconds))})}


@pytest.mark.parametrize(
    ("changed", "severity", "words"),
    [
        ({"is_standby": True}, "page", "takes no writes"),
        (transaction("active", 301), "ticket", "vacuum waits for it"),
        (transaction("active", 3_601), "page", "active"),
        (transaction("idle in transaction", 61), "ticket", "idle in transaction: mes, report"),
        (transaction("prepared", 601), "page", "prepared"),
        (waits(6, 17), "ticket", "on orders_hot: held by session 17"),
        (waits(61, 17), "page", "held by session 17"),
        (slot(2 << 30), "ticket", "holds 2.0 GiB of WAL: no reader is connected"),
        (slot(0, is_lost=True), "page", "has lost WAL"),
        ({"connections": 96}, "page", "96 of 100"),
        ({"xid_age": 400_000_000}, "ticket", "vacuum is behind"),
        (leased(1_000), "page", "1000 of 1024"),
        (unfinished(61), "ticket", "2 units"),
    ],
)
def test_each_fact_becomes_one_problem(changed: dict[str, object], severity: str, words: str) -> None:
    [found] = database_problems(facts(**changed))
    assert found.severity == severity
    assert words in found.what
    assert found.command


@pytest.mark.parametrize(
    "changed",
    [
        {},
        transaction("active", 299),
        transaction("idle in transaction", 59),
        waits(4, 17),
        slot(1 << 29),
        {"connections": 79},
        leased(100),
        unfinished(59),
    ],
)
def test_what_is_below_its_limit_is_none(changed: dict[str, object]) -> None:
    assert list(database_problems(facts(**changed))) == []


def test_the_command_is_about_what_holds_up() -> None:
    [session] = database_problems(facts(**waits(6, 17)))
    assert session.command == 'psql -d mes_0 -c "SELECT pg_terminate_backend(17)"'
    [unit] = database_problems(facts(**waits(6, 0)))  # PostgreSQL names a prepared transaction so
    assert unit.command == "mesctl shards in-doubt list --tree mes"


def test_shards_and_the_map_in_force() -> None:
    of_mes = MapInForce("mes", 3, frozenset({"mes_0", "mes_1"}))
    directory = facts(name="directory", tree="directory", directory=DirectoryFacts(maps=(of_mes,)))
    shards = [facts(map_version=3), facts(name="mes_1", map_version=2), facts(name="mes_2", map_version=None)]
    [behind] = shard_problems([directory, *shards])
    assert (behind.object, behind.what) == ("shard mes_1", "knows map version 2, and 3 is in force")
    [nameless] = shard_problems([directory, facts(map_version=None)])
    assert nameless.severity == "page"


def node(node: str, role: str, state: str, lag: float | None = None) -> NodeRow:
    return NodeRow("mes_0", node, "127.0.0.1:5", role, state, 1, 0, lag)


def test_nodes() -> None:
    rows = [
        node("primary", "primary", "takes writes"),
        node("r1", "replica", "serves reads", 0.1),
        node("r2", "replica", "serves reads", 11.0),
        node("r3", "replica", "replay paused"),
        node("r4", "-", "no answer: it is away"),
        node("r5", "rival", "not a replica"),
    ]
    found = {each.object.split()[1]: (each.severity, each.what) for each in node_problems(rows)}
    assert found == {
        "r2": ("ticket", "is 11 s behind"),
        "r3": ("ticket", "serves no reads: replay paused"),
        "r4": ("ticket", "does not answer: it is away"),
        "r5": ("page", "takes writes, and is not the primary"),
    }


def test_partitions_and_components() -> None:
    missing = PartitionFinding("orders_archive", "orders_archive_2027_03", "it is missing", "", Remedy.APPLY)
    cut = PartitionFinding("orders_archive", "p", "its detach was cut off: its rows are in no query", "")
    first, second = partition_problems("mes_0", [missing, cut])
    assert (first.severity, first.command) == ("ticket", "mesctl partitions apply")
    assert (second.severity, second.command) == ("page", "mesctl partitions check")
    states = [
        {"name": "mes", "kind": "service", "state": "stopped", "wanted": True, "detail": ""},
        {"name": "crm", "kind": "service", "state": "stopped", "wanted": False, "detail": ""},
        {"name": "shop", "kind": "primary", "state": "faulty", "wanted": True, "detail": "no answer"},
    ]
    assert [each.object for each in component_problems(states)] == ["service mes", "primary shop"]


def test_worst_and_longest_first_and_none_twice() -> None:
    young = OpenProblem("page", "a", "x", ago(1), "")
    old = OpenProblem("page", "b", "x", ago(9), "")
    dateless = OpenProblem("page", "c", "x", None, "")
    small = OpenProblem("note", "d", "x", ago(99), "")
    twice = [unread("database shop", "it is away"), unread("shop", "nothing came within 4 s")]
    found = ranked([small, dateless, young, *twice, old])
    assert [each.object for each in found] == ["b", "a", "c", "database shop", "d"]


def test_a_source_that_hangs_or_fails_hides_none_of_the_others() -> None:
    never = threading.Event()

    def hang() -> list[OpenProblem]:
        never.wait()
        return []

    def fail() -> list[OpenProblem]:
        raise OSError("it is away\nand more")

    seen = OpenProblem("ticket", "c", "x", None, "")
    found = run_sources(
        {"database a": hang, "database b": fail, "database c": lambda: [seen]}, deadline_seconds=0.2
    )
    never.set()
    assert {each.object: each.what for each in found} == {
        "database a": "does not answer: nothing within 0.2 s",
        "database b": "does not answer: it is away",
        "c": "x",
    }


def test_ages() -> None:
    assert [age_of(ago(seconds), NOW) for seconds in (5, 119, 130, 7_300, 200_000)] == [
        "5 s",
        "119 s",
        "2 min",
        "2 h",
        "2 d",
    ]
    assert age_of(None, NOW) == ""


@pytest.mark.parametrize(
    ("name", "object_", "command"),
    [
        ("crm", "database crm", "mesctl replicas list crm"),
        ("database crm", "database crm", "mesctl replicas list crm"),
        ("partitions of mes_0", "partitions of mes_0", "mesctl replicas list mes_0"),
        ("the embedded platform", "the embedded platform", "mesctl status"),
        ("the project's own problems", "the project's own problems", "mesctl status"),
    ],
)
def test_what_could_not_be_read_names_a_command_that_is_one(name: str, object_: str, command: str) -> None:
    found = unread(name, "it does not answer: nothing came within 4 s")
    assert (found.object, found.what) == (object_, "does not answer: nothing came within 4 s")
    assert found.command == command
