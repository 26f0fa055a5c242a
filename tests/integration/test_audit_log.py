"""The audit log on real servers: one line a change, sealed behind it, and every way to change it found."""

import asyncio
import getpass
import json
import signal
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import select, text

from app.audit_log import AuditChainAhead, AuditFault, Sealer, in_directory, in_lines, record
from app.console.audit_log import verify_database
from app.kit.caller import Caller, Door, Role, calling
from app.models.directory import AuditHead, DirectoryAuditLine, DirectoryAuditSeal
from app.models.shop import ShopAuditLine, ShopAuditSeal
from app.orders import CRM, MES, SHOP, OrderModels
from ops import cli
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.callers import by_seller
from tests.integration.messaging_rig import until
from tests.integration.services_rig import Services, ok, open_services, problem

Run = Callable[..., tuple[int, str, str]]
ADA = Caller(
    name="Ada", role=Role.SELLER, door=Door.STAFF, identity_id=7, credential="abc", address="192.0.2.1"
)


@pytest_asyncio.fixture
async def shop(topology: Topology) -> AsyncIterator[Cluster]:
    async with open_cluster(topology, "shop", role="shop", application_name="test") as shop:
        yield shop


@pytest_asyncio.fixture
async def directory(topology: Topology) -> AsyncIterator[Cluster]:
    async with open_cluster(topology, "directory", role="shop", application_name="test") as directory:
        yield directory


@pytest.fixture
def run(topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        status = cli.run(["--topology", str(topology_path), "audit", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def sealer_of(shop: Cluster, directory: Cluster, **options: Any) -> Sealer:
    return Sealer(
        shop, in_directory(directory), lines=SHOP.audit, seals=SHOP.seals, database="shop", **options
    )


@contextmanager
def psql(topology: Topology, database: str, *, role: str) -> Iterator[psycopg.Connection]:
    url = topology.url(topology.database(database), role=role, direct=True).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        yield connection


async def write(shop: Cluster, count: int = 1) -> None:
    """Write lines, each in a transaction of its own."""
    for number in range(count):

        async def work(session: WriteSession, number: int = number) -> None:
            with calling(ADA):
                await record(session, ShopAuditLine, "order_approved", 42, {"number": number})

        await shop.transact(work)


async def sealed(shop: Cluster) -> int:
    """Count the lines that a seal covers."""
    async with shop.write() as session:
        return sum(map(len, await session.scalars(select(ShopAuditSeal.line_nos))))


async def heads(directory: Cluster) -> Sequence[int]:
    async with directory.write() as session:
        return (await session.scalars(select(AuditHead.seal_no).order_by(AuditHead.seal_no))).all()


def found(topology: Topology) -> list[tuple[str, int, int | None]]:
    return [
        (each.fault.value, each.seal_no, each.line_no) for each in verify_database(topology, "shop").shown
    ]


async def test_a_line_says_who_from_where_and_by_which_key(shop: Cluster) -> None:
    await write(shop)
    async with shop.write() as session:
        line = (await session.scalars(select(ShopAuditLine))).one()
    assert (line.caller, line.role, line.door, line.identity_id) == ("Ada", "seller", "staff", 7)
    assert (line.credential, line.address, line.order_id) == ("abc", "192.0.2.1", 42)
    assert line.facts == {"number": 0}


async def test_a_line_names_the_trace_that_it_was_written_in(shop: Cluster) -> None:
    context = SpanContext(0xA1, 0xB2, is_remote=False, trace_flags=TraceFlags(0))
    with use_span(NonRecordingSpan(context)):
        await write(shop)
    async with shop.write() as session:
        assert (await session.scalars(select(ShopAuditLine.trace_id))).one() == f"{0xA1:032x}"


async def test_a_change_that_is_rolled_back_leaves_no_line(shop: Cluster) -> None:
    async def work(session: WriteSession) -> None:
        await record(session, ShopAuditLine, "order_approved", 42, {})
        raise LookupError

    with pytest.raises(LookupError):
        await shop.transact(work)
    async with shop.write() as session:
        assert (await session.scalars(select(ShopAuditLine))).all() == []


@pytest.mark.parametrize("table", ["audit_log", "audit_seals"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}", "UPDATE {} SET {}"])
def test_a_service_may_only_append(topology: Topology, table: str, statement: str) -> None:
    column = "action = ''" if table == "audit_log" else "sealed_by = ''"
    for database, role in (("shop", "shop"), ("crm", "crm"), ("mes_0", "mes")):
        with psql(topology, database, role=role) as connection, pytest.raises(InsufficientPrivilege):
            connection.execute(statement.format(table, column).encode())


def test_a_service_may_neither_date_a_line_nor_change_a_head(topology: Topology) -> None:
    with psql(topology, "shop", role="shop") as connection:
        for column in ("xid", "at"):
            value = "1" if column == "xid" else "now()"
            statement = f"INSERT INTO audit_log ({column}, action, caller, role) VALUES ({value}, '', '', '')"
            with pytest.raises(InsufficientPrivilege):
                connection.execute(statement.encode())
    with psql(topology, "directory", role="shop") as connection:
        for statement in ("DELETE FROM audit_heads", "UPDATE audit_heads SET digest = ''"):
            with pytest.raises(InsufficientPrivilege):
                connection.execute(statement)


async def test_lines_are_sealed_in_batches_and_the_chain_holds(
    shop: Cluster, directory: Cluster, topology: Topology
) -> None:
    await write(shop, 7)
    await sealer_of(shop, directory, most=3).turn()
    await write(shop, 2)
    await sealer_of(shop, directory, most=3).turn()
    found = await asyncio.to_thread(verify_database, topology, "shop")
    assert (found.seals, found.lines, found.unsealed, found.faults) == (4, 9, 0, 0)
    assert await heads(directory) == [3, 4]


async def test_the_lines_of_one_transaction_are_sealed_together(
    shop: Cluster, directory: Cluster, topology: Topology
) -> None:
    async def work(session: WriteSession) -> None:
        for number in range(10):
            await record(session, ShopAuditLine, "order_approved", number, {})

    await write(shop, 2)
    await shop.transact(work)
    await write(shop, 2)
    await sealer_of(shop, directory, most=3).turn()
    found = await asyncio.to_thread(verify_database, topology, "shop")
    assert (found.lines, found.unsealed, found.faults) == (14, 0, 0)


async def test_a_line_that_commits_late_is_sealed_in_its_place(
    shop: Cluster, directory: Cluster, topology: Topology
) -> None:
    """Its transaction began before others that have ended: nothing after it is sealed before it ends."""
    with psql(topology, "shop", role="shop") as late:
        late.execute("BEGIN")
        late.execute("INSERT INTO audit_log (action, caller, role) VALUES ('order_closed', 'late', 'seller')")
        await write(shop, 3)
        await sealer_of(shop, directory).turn()
        assert await sealed(shop) == 0
        late.execute("COMMIT")
    await sealer_of(shop, directory).turn()
    assert await sealed(shop) == 4
    assert await asyncio.to_thread(found, topology) == []


async def test_two_sealers_at_once_make_one_chain(
    shop: Cluster, directory: Cluster, topology: Topology
) -> None:
    await write(shop, 30)
    await asyncio.gather(*(sealer_of(shop, directory, most=2).turn() for _ in range(4)))
    await sealer_of(shop, directory, most=2).turn()
    assert await sealed(shop) == 30
    assert await asyncio.to_thread(found, topology) == []


_TAMPERED = [
    ("UPDATE audit_log SET caller = 'Eve' WHERE line_no = 4", [("line changed", 2, 4)]),
    ("UPDATE audit_log SET at = at - interval '1 day' WHERE line_no = 4", [("line changed", 2, 4)]),
    ("DELETE FROM audit_log WHERE line_no = 4", [("line removed", 2, 4)]),
    ("DELETE FROM audit_log WHERE line_no > 7", [("line removed", 3, 8), ("line removed", 3, 9)]),
    (
        "INSERT INTO audit_log (xid, action, caller, role) SELECT xid, 'order_closed', 'Eve', 'seller' "
        "FROM audit_log WHERE line_no = 5",
        [("line added", 2, 10)],
    ),
    (
        "INSERT INTO audit_log (xid, action, caller, role) VALUES (1, 'order_closed', 'Eve', 'seller')",
        [("line added", 1, 10)],
    ),
    ("UPDATE audit_seals SET line_nos = line_nos[1:2] WHERE seal_no = 2", [("seal changed", 2, None)]),
    ("DELETE FROM audit_seals WHERE seal_no = 2", [("seal missing", 2, None)]),
    ("DELETE FROM audit_seals WHERE seal_no = 3", [("tail cut", 3, None)]),
    (
        "DELETE FROM audit_seals WHERE seal_no = 3; DELETE FROM audit_log WHERE line_no > 6",
        [("tail cut", 3, None)],
    ),
    ("TRUNCATE audit_seals; TRUNCATE audit_log", [("tail cut", 1, None)]),
]


@pytest.mark.parametrize(("statement", "expected"), _TAMPERED)
async def test_tampering_is_found_by_name(
    shop: Cluster, directory: Cluster, topology: Topology, statement: str, expected: list[Any]
) -> None:
    await write(shop, 9)
    await sealer_of(shop, directory, most=3).turn()
    assert await asyncio.to_thread(found, topology) == []
    with psql(topology, "shop", role="shop_owner") as connection:
        connection.execute(statement.encode())
    seen = await asyncio.to_thread(found, topology)
    assert [each for each in seen if each in expected] == expected
    assert seen[0] == expected[0]


async def test_a_chain_that_was_made_anew_is_found(
    shop: Cluster, directory: Cluster, topology: Topology
) -> None:
    """Who owns the database changes a line and seals all again: the directory's head is of another chain."""
    await write(shop, 9)
    await sealer_of(shop, directory, most=3).turn()
    with psql(topology, "shop", role="shop_owner") as connection:
        connection.execute("UPDATE audit_log SET caller = 'Eve' WHERE line_no = 4")
        connection.execute("TRUNCATE audit_seals")
    await sealer_of(shop, directory, most=3).turn()
    assert await asyncio.to_thread(found, topology) == [("seal replaced", 3, None)]


async def test_a_database_that_was_restored_from_an_older_backup_is_found_and_accepted(
    shop: Cluster, directory: Cluster, topology: Topology, run: Run
) -> None:
    """It has the seals of then; it is found before it has made others, and when it has as many again."""
    for _ in range(3):
        await write(shop, 2)
        await sealer_of(shop, directory).turn()
    with psql(topology, "shop", role="shop_owner") as connection:
        connection.execute(
            "DELETE FROM audit_seals WHERE seal_no > 1; DELETE FROM audit_log WHERE line_no > 2"
        )
    assert await asyncio.to_thread(found, topology) == [("tail cut", 2, None)]
    for _ in range(3):
        await write(shop)
        await sealer_of(shop, directory).turn()
    assert await asyncio.to_thread(found, topology) == [
        ("seal replaced", 2, None),
        ("seal replaced", 3, None),
    ]
    words = ("accept", "shop", "--from-seal", "2", "--json")
    assert (await asyncio.to_thread(run, *words, "--dry-run"))[0] == 0
    assert len(await asyncio.to_thread(found, topology)) == 2
    status, out, err = await asyncio.to_thread(run, *words)
    assert (status, json.loads(out)) == (0, {"database": "shop", "from_seal": 2, "heads": 3}), err
    assert await asyncio.to_thread(found, topology) == []
    _, out, _ = await asyncio.to_thread(run, "list", "--database", "directory", "--json")
    (line,) = json.loads(out)
    assert (line["action"], line["role"], line["credential"]) == ("audit_loss_accepted", "dba", "mesctl")


async def test_who_changes_identities_and_the_flow_stands_in_the_directorys_own_log(
    topology: Topology, topology_path: Path
) -> None:
    """No log vouches for itself: a shard keeps the head of this one."""
    for words in (
        ("identities", "create", "Rosa", "--role", "operator"),
        ("identities", "rotate", "Rosa"),
        ("identities", "limit", "Rosa", "--burst", "7"),
        ("identities", "revoke", "Rosa"),
        ("flow", "pause", "shop"),
        ("flow", "resume", "shop"),
    ):
        assert await asyncio.to_thread(cli.run, ["--topology", str(topology_path), *words]) == 0
    async with (
        open_cluster(topology, "directory", role="directory_owner", application_name="test") as directory,
        directory.write() as session,
    ):
        lines = (await session.scalars(select(DirectoryAuditLine).order_by(DirectoryAuditLine.line_no))).all()
    actions = ("created", "rotated", "limited", "revoked")
    expected = [*(f"identity_{action}" for action in actions), "flow_ordered", "flow_resumed"]
    assert [line.action for line in lines] == expected
    assert {(line.caller, line.role, line.credential) for line in lines} == {
        (getpass.getuser(), "dba", "mesctl")
    }
    assert lines[0].facts["identity"] == "Rosa"
    await seal_directory(topology)
    with psql(topology, "directory", role="directory_owner") as connection:
        connection.execute("DELETE FROM audit_seals; DELETE FROM audit_log")
    (seen,) = (await asyncio.to_thread(verify_database, topology, "directory")).shown
    assert (seen.fault, seen.seal_no) == (AuditFault.TAIL_CUT, 1)


async def seal_directory(topology: Topology) -> None:
    """Seal its log, and see that nothing is wrong with it."""
    async with (
        open_cluster(topology, "directory", role="mes", application_name="test") as directory,
        open_cluster(topology, "mes_0", role="mes", application_name="test") as shard,
    ):
        await Sealer(
            directory,
            in_lines(shard, MES.audit),
            lines=DirectoryAuditLine,
            seals=DirectoryAuditSeal,
            database="directory",
        ).turn()
    result = await asyncio.to_thread(verify_database, topology, "directory")
    assert (result.seals, result.unsealed, result.faults) == (1, 0, 0)


async def test_a_sealer_killed_before_the_head_is_made_up_for(
    shop: Cluster, directory: Cluster, topology: Topology
) -> None:
    await write(shop, 3)
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.audit_victim", str(topology.path)
    )
    assert await victim.wait() == -signal.SIGKILL
    assert (await sealed(shop), await heads(directory)) == (3, [])
    await sealer_of(shop, directory).turn()
    assert (await sealed(shop), await heads(directory)) == (3, [1])
    assert await asyncio.to_thread(found, topology) == []


async def test_sealing_goes_on_without_the_directory_and_the_head_catches_up(
    shop: Cluster, directory: Cluster, topology: Topology
) -> None:
    stop = asyncio.Event()
    with psql(topology, "directory", role="directory_owner") as owner:
        owner.execute("REVOKE INSERT (database, seal_no, digest) ON audit_heads FROM shop")
        running = asyncio.create_task(sealer_of(shop, directory, every_seconds=0.05).run(stop))
        for count in (3, 6):
            await write(shop, 3)

            async def are_sealed(count: int = count) -> bool:
                return await sealed(shop) == count

            await until(are_sealed)
        assert await heads(directory) == []
        owner.execute("GRANT INSERT (database, seal_no, digest) ON audit_heads TO shop")

        async def has_caught_up() -> bool:
            return bool(await heads(directory))

        await until(has_caught_up)
        stop.set()
        await running
    assert await asyncio.to_thread(found, topology) == []


async def test_a_database_that_was_restored_from_a_dump_is_named(
    shop: Cluster, directory: Cluster, topology: Topology
) -> None:
    await write(shop)
    await sealer_of(shop, directory).turn()
    with psql(topology, "shop", role="shop_owner") as connection:
        connection.execute("UPDATE audit_seals SET below_xid = 4611686018427387904")
    with pytest.raises(AuditChainAhead, match="restored"):
        await sealer_of(shop, directory).turn()


async def test_what_was_pruned_is_no_fault_and_stands_in_the_log(
    shop: Cluster, directory: Cluster, topology: Topology, run: Run
) -> None:
    await write(shop, 5)
    await sealer_of(shop, directory, most=3).turn()
    dry = ("prune", "--older-than", "0s", "--database", "shop", "--json")
    status, out, err = await asyncio.to_thread(run, *dry, "--dry-run")
    assert (status, json.loads(out)) == (0, [{"database": "shop", "through_seal": 2, "lines": 5}]), err
    assert await asyncio.to_thread(found, topology) == []
    status, out, err = await asyncio.to_thread(run, *dry)
    assert (status, json.loads(out)) == (0, [{"database": "shop", "through_seal": 2, "lines": 5}]), err
    result = await asyncio.to_thread(verify_database, topology, "shop")
    assert (result.pruned_through, result.lines, result.faults) == (2, 0, 0)
    await write(shop, 2)
    await sealer_of(shop, directory).turn()
    assert await asyncio.to_thread(found, topology) == []
    with psql(topology, "shop", role="shop_owner") as connection:
        connection.execute("DELETE FROM audit_log WHERE caller = 'Ada'")
    faults = [fault for fault, *_ in await asyncio.to_thread(found, topology)]
    assert faults == [AuditFault.LINE_REMOVED.value] * 2


async def test_verify_and_list_say_what_they_find(
    shop: Cluster, directory: Cluster, topology: Topology, run: Run
) -> None:
    await write(shop, 3)
    await sealer_of(shop, directory).turn()
    status, out, err = await asyncio.to_thread(run, "verify", "--json")
    assert status == 0, err
    assert {each["database"] for each in json.loads(out)} == {"shop", "crm", "mes_0", "mes_1", "directory"}
    _, out, _ = await asyncio.to_thread(run, "list", "--order", "42", "--since", "1h", "--json")
    assert [(line["caller"], line["facts"]["number"]) for line in json.loads(out)] == [
        ("Ada", 0),
        ("Ada", 1),
        ("Ada", 2),
    ]
    _, out, _ = await asyncio.to_thread(run, "list", "--identity", "Eve", "--json")
    assert json.loads(out) == []
    with psql(topology, "shop", role="shop_owner") as connection:
        connection.execute("DELETE FROM audit_log WHERE line_no = 2")
    status, out, _ = await asyncio.to_thread(run, "verify", "--database", "shop")
    assert status == 1
    assert "shop: line 2 was removed" in out
    assert (await asyncio.to_thread(run, "verify", "--database", "shpo"))[0] == 2


async def test_a_long_log_is_verified_in_bounded_memory(
    shop: Cluster, directory: Cluster, topology: Topology
) -> None:
    with psql(topology, "shop", role="shop") as connection:
        for _ in range(100):
            connection.execute(
                "INSERT INTO audit_log (action, order_id, caller, role, facts) SELECT 'order_approved', n,"
                " 'Ada', 'seller', jsonb_build_object('n', n) FROM generate_series(1, 1000) AS n"
            )
    await sealer_of(shop, directory).turn()
    tracemalloc.start()
    try:
        result = await asyncio.to_thread(verify_database, topology, "shop")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (result.lines, result.unsealed, result.faults) == (100_000, 0, 0)
    assert most < 20_000_000


async def lines_of(services: Services, topology: Topology, order_id: str) -> set[tuple[str, str, str]]:
    """Read what callers have done to an order, by database."""
    seen = set()
    of_tree: dict[str, OrderModels[Any]] = {"shop": SHOP, "crm": CRM, "mes": MES}
    for name, database in topology.databases.items():
        role = database.tree
        if role not in of_tree:
            continue
        audit = of_tree[role].audit
        async with (
            open_cluster(topology, name, role=role, application_name="test") as cluster,
            cluster.write() as session,
        ):
            query = select(audit).where(audit.order_id == int(order_id), audit.door.is_not(None))
            seen |= {(role, line.action, line.caller) for line in await session.scalars(query)}
    return seen


async def test_each_change_of_a_caller_is_one_line(topology: Topology) -> None:
    async with open_services(topology) as services:
        customers = await services.b2c()
        assert await lines_of(services, topology, customers) == {
            ("shop", "order_created", "tests"),
            ("shop", "order_file_uploaded", "tests"),
            ("shop", "order_submitted", "tests"),
        }
        order_id = await services.approved()
        ok(await services.take(order_id))
        problem(await services.advance(order_id, "SHIPPED"), 409)
        ok(await services.advance(order_id, "MANUFACTURING_COMPLETED"))
        assert await lines_of(services, topology, order_id) == {
            ("mes", "order_taken_in", "tests"),
            ("crm", "order_approved", "Sara"),
            ("mes", "order_taken", "Rosa"),
            ("mes", "order_completed", "Rosa"),
        }
        await services.shows(services.crm, customers, "SUBMITTED")
        wish = {"reason": "she changed her mind"}
        ok(
            await services.crm.post(f"/v1/orders/{customers}/cancel", json=wish, headers=by_seller("Sara")),
            202,
        )
        assert ("crm", "order_cancel_requested", "Sara") in await lines_of(services, topology, customers)
    # Background work too: as many lines as the histories have, and one for each order that was taken in.
    for name, taken_in in (("shop", 0), ("crm", 0), ("mes_0", None), ("mes_1", None)):
        with psql(topology, name, role=f"{name.partition('_')[0]}_owner") as connection:
            counts = connection.execute(
                "SELECT (SELECT count(*) FROM order_events),"
                " count(*) FILTER (WHERE action <> 'order_taken_in'),"
                " count(*) FILTER (WHERE action = 'order_taken_in') FROM audit_log"
            ).fetchone()
        assert counts is not None
        assert counts[0] == counts[1]
        assert taken_in in (None, counts[2])


async def test_the_services_seal_what_they_write(topology: Topology, directory: Cluster) -> None:
    async with open_services(topology) as services:
        await services.b2c()
        await until(partial(anchored, directory, "shop"))
    result = await asyncio.to_thread(verify_database, topology, "shop")
    assert result.faults == 0


async def anchored(directory: Cluster, database: str) -> bool:
    async with directory.write() as session:
        query = text("SELECT EXISTS (SELECT FROM audit_heads WHERE database = :database)")
        return bool(await session.scalar(query, {"database": database}))
