"""examples/payments from the built wheels: what a team does, from its README to the end of the wheels."""

import ast
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from ops.errors import ExitStatus
from ops.waiting import wait_until
from partitions import Month
from readreplica.httpx import CausalClient
from sharding.shard_map import ShardMap
from tests.acceptance.test_docs import ROOT, fenced
from tests.acceptance.test_wheel import THEIRS, kept, packages_of
from tests.integration.payments_rig import EXAMPLE, PaymentsTeam, build_wheels, payments_team
from tests.once import made_once

MAP = ShardMap.even(["north", "south"], 16)
NORTH, SOUTH = (next(key for key in range(1, 99) if MAP.shard_of(key) == shard) for shard in MAP.shards)
"""A tenant of each shard."""

FIRST = "5c1e7a90d2b4"
"""The revision that the example comes with."""

MADE = datetime.now(UTC) - timedelta(days=100)
"""When the payments were made that are archived."""

WORK = """
import asyncio, json, sys
from datetime import UTC, datetime

from sqlalchemy import select

from payments.models import Payment, PaymentEvent, State
from sharding import Topology, open_ids, open_sessions

north, made = int(sys.argv[1]), datetime.fromisoformat(sys.argv[2])


async def main():
    topology = Topology.load("topology.toml")
    async with open_sessions(topology, application_name="work") as sessions, open_ids(topology) as ids:
        keys = [{"payment_id": ids.next_id(), "tenant_id": 1 + place % 40} for place in range(200)]
        old = {"state": State.DONE, "created_at": made, "finished_at": made}
        new = {"state": State.OPEN, "created_at": datetime.now(UTC), "finished_at": None}
        rows = [{**key, "cents": 100, **(old if place < 100 else new)} for place, key in enumerate(keys)]
        payments = await sessions.bulk(Payment, rows)
        events = await sessions.bulk(PaymentEvent, [{**key, "number": 1, "words": "made"} for key in keys])

        newest, found, cursor = select(Payment.payment_id).order_by(Payment.payment_id.desc()), [], None
        while True:
            page = await sessions.scatter(newest, limit=70, cursor=cursor)
            found += page.rows
            cursor = page.next_cursor
            if cursor is None:
                break

        async with sessions.write(north) as session:
            session.add(Payment(payment_id=ids.next_id(), tenant_id=north, cents=1, **new))
        async with sessions.read(north, after=session.token) as reader:
            mine = select(Payment.cents).where(Payment.tenant_id == north, Payment.cents == 1)
            assert await reader.scalar(mine) == 1
        seen = {
            "ids": [key["payment_id"] for key in keys],
            "written": payments.written,
            "complete": payments.is_complete and events.is_complete,
            "pages": found,
            "read_on": reader.node,
        }
        print(json.dumps(seen))


asyncio.run(main())
"""


@pytest.fixture
def team(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaymentsTeam]:
    built = made_once(tmp_path_factory, "team-wheels", build_wheels)
    with payments_team(tmp_path, [*built.glob("*.whl")]) as team:
        yield team


def done(team: PaymentsTeam, *words: str) -> str:
    """Run `mesctl`, which must succeed; return what it prints."""
    said = team.mesctl(*words)
    assert said.returncode == ExitStatus.DONE, f"{words}: {said.stdout}\n{said.stderr}"
    return said.stdout


def facts(team: PaymentsTeam, *words: str) -> Any:
    """Run `mesctl`, which must succeed; return what it prints for programs."""
    return json.loads(done(team, *words, "--json"))


def test_the_example_is_typed_and_its_checks_need_no_server(team: PaymentsTeam) -> None:
    typed = team.run(team.python, "-P", "-m", "mypy")
    assert typed.returncode == 0, typed.stdout + typed.stderr
    where = team.script("import partitions, payments; print(partitions.__file__, payments.__file__)")
    library, own = where.stdout.split()
    assert Path(library).is_relative_to(packages_of(team.venv))
    assert Path(own).is_relative_to(team.root)
    assert "nothing is wrong" in done(team, "doctor", "--no-databases")
    done(team, "migrate", "lint")


@pytest.mark.long
def test_a_team_goes_from_the_readme_to_the_end_of_the_wheels(team: PaymentsTeam) -> None:
    begin_another(team)
    write_the_first_revision(team)
    with team.warm() as quick:
        follow_the_readme(quick)
        change_the_schema(quick)
        make_months(quick)
        payments = work(quick)
        refuse_what_is_elsewhere(quick)
        archive(quick, payments)
        serve(quick)
        switch_over(quick)
    done(team, "down", "--delete", "--yes")
    end(team)


def begin_another(team: PaymentsTeam) -> None:
    """`init` writes a project that is sound, and none inside of another one."""
    assert team.mesctl("init", "--tree", "notes").returncode == ExitStatus.REFUSED
    other = team.root.with_name("other")
    done(team, "init", str(other), "--tree", "notes")
    project = str(other / "mes-storage.toml")
    assert "nothing is wrong" in done(team, "--project", project, "doctor", "--no-databases")


def write_the_first_revision(team: PaymentsTeam) -> None:
    """Without a revision the servers start, and autogenerate writes the one that the example comes with."""
    shipped = team.root / "migrations" / "versions" / "0001_payments.py"
    aside = shipped.rename(team.root / "0001_payments.py")
    up = team.mesctl("up", "--no-services", "--no-fsync")
    assert up.returncode == ExitStatus.DONE, up.stderr
    assert "tree payments: has no revision yet" in up.stderr
    made = team.alembic("revision", "--autogenerate", "--rev-id", FIRST, "-m", "payments")
    assert made.returncode == 0, made.stderr
    [written] = shipped.parent.glob("*.py")
    [grant] = statements(aside) - statements(written)
    assert "GRANT" in grant
    assert statements(written) <= statements(aside)
    written.unlink()
    aside.rename(shipped)


def statements(revision: Path) -> set[str]:
    """Return what a revision does, up and down, each statement in one form."""
    functions = [each for each in ast.parse(revision.read_text()).body if isinstance(each, ast.FunctionDef)]
    calls = (each for function in functions for each in function.body if not is_docstring(each))
    return {ast.unparse(each) for each in calls}


def is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def follow_the_readme(team: PaymentsTeam) -> None:
    """Type its commands up to `down`; the disk is not waited for."""
    blocks = re.findall(r"^```console\n(.*?)^```", (EXAMPLE / "README.md").read_text(), re.M | re.S)
    commands = [line.removeprefix("$ mesctl ") for block in blocks for line in block.splitlines()]
    assert (commands[0], commands[-1], len(commands) > 10) == ("up", "down", True)
    for command in commands[:-1]:
        done(team, *command.split(), *(["--no-fsync"] if command == "up" else []))
    assert facts(team, "doctor") == []
    nodes = {(row["node"], row["role"]) for row in facts(team, "replicas", "list")}
    assert nodes == {("primary", "primary"), ("north_copy", "replica")}


def change_the_schema(team: PaymentsTeam) -> None:
    """Autogenerate finds nothing, then a column; the canary fails first; drift is found and mended."""
    check = team.alembic("check")
    assert check.returncode == 0, check.stdout + check.stderr
    models = team.root / "payments" / "models.py"
    column = "    cents: Mapped[int] = mapped_column(BigInteger)\n"
    assert models.read_text().count(column) == 1
    models.write_text(
        models.read_text().replace(column, f"{column}    note: Mapped[str | None] = mapped_column(Text)\n")
    )
    made = team.alembic("revision", "--autogenerate", "--rev-id", "0002", "-m", "note")
    assert made.returncode == 0, made.stderr
    [revision] = (team.root / "migrations" / "versions").glob("0002_*.py")
    assert revision.read_text().count("op.add_column") == 2, revision.read_text()
    done(team, "migrate", "lint")

    team.query("north", "ALTER TABLE payments ADD COLUMN note text")  # in the way of the canary
    assert [row["object"] for row in drift(team)] == [
        f"column note of {table}" for table in ("payments", "payments_done", "payments_open")
    ]
    assert team.mesctl("migrate", "upgrade").returncode == ExitStatus.FAILED
    assert revisions(team) == {"north": FIRST, "south": FIRST}
    team.query("north", "ALTER TABLE payments DROP COLUMN note")
    done(team, "migrate", "upgrade")
    assert revisions(team) == {"north": "0002", "south": "0002"}
    ledger = "SELECT database, state FROM migration_ledger WHERE revision = '0002' ORDER BY entry_id"
    runs = team.query("registry", ledger, role="registry_owner")
    assert runs == [("north", "failed"), ("north", "done"), ("south", "done")]
    done(team, "migrate", "freeze")
    assert drift(team) == []
    assert team.alembic("check").returncode == 0


def drift(team: PaymentsTeam) -> list[Any]:
    """List what differs from what the revisions make."""
    return list(json.loads(team.mesctl("migrate", "drift", "--json").stdout))


def revisions(team: PaymentsTeam) -> dict[str, str]:
    """Return the revision of each shard."""
    rows = facts(team, "migrate", "status", "--tree", "payments")
    return {row["database"]: row["revision"] for row in rows}


def make_months(team: PaymentsTeam) -> None:
    """The month before the present one is planned, printed for psql, and made."""
    since = ("--since", str(Month.of(datetime.now(UTC)).previous))
    planned = facts(team, "partitions", "plan", *since)
    tables = ("payments_archive", "payment_events_archive")
    assert {(row["database"], row["table"]) for row in planned} == set(product(MAP.shards, tables))
    assert done(team, "partitions", "apply", *since, "--dry-run").count("CREATE TABLE") == len(planned)
    assert facts(team, "partitions", "apply", *since) == planned
    done(team, "partitions", "check")
    assert facts(team, "partitions", "plan", *since) == []
    bounds = {row["bound"] for row in facts(team, "partitions", "list") if row["table"] in tables}
    assert since[1] in bounds


def work(team: PaymentsTeam) -> list[int]:
    """Make ids, write many rows at once, page over both shards, read on the replica."""
    said = team.script(WORK, str(NORTH), MADE.isoformat())
    assert said.returncode == 0, said.stderr
    seen = json.loads(said.stdout)
    ids = seen["ids"]
    assert len(ids) == 200
    assert ids == sorted({*ids})
    assert (seen["written"], seen["complete"]) == (200, True)
    assert seen["pages"] == ids[::-1]
    assert seen["read_on"] == "north_copy"
    counts = {row["shard"]: row["live_rows"] for row in facts(team, "shards", "list")["shards"]}
    assert sum(counts.values()) == 201
    assert min(counts.values()) > 50
    done(team, "shards", "check")
    return list(ids)


def refuse_what_is_elsewhere(team: PaymentsTeam) -> None:
    """A shard refuses a row of the other one's, in live tables and in archives."""
    for table, columns, values in (
        ("payments", "cents, state, created_at", "1, 'open', now()"),
        ("payment_events", "number, words", "1, 'astray'"),
        ("payments_archive", "cents, state, created_at", "1, 'done', now()"),
    ):
        insert = f"INSERT INTO {table} (payment_id, tenant_id, {columns}) VALUES (1, {SOUTH}, {values})"
        with pytest.raises(psycopg.DatabaseError) as refused:
            team.query("north", insert, role="cashier")
        assert refused.value.sqlstate == "MS001"


def archive(team: PaymentsTeam, ids: list[int]) -> None:
    """Move what was done long ago, with its history; every row is proved to be somewhere once."""
    waiting = {name: found["payments_archive"] for name, found in facts(team, "archive", "status").items()}
    assert sum(found["waiting"] for found in waiting.values()) == 100
    assert done(team, "archive", "run", "--dry-run").count("SKIP LOCKED") >= 2
    moved = facts(team, "archive", "run")
    assert sum(rows["payments_done"] for rows in moved.values()) == 100
    assert sum(rows["payment_events"] for rows in moved.values()) == 100
    month = f"payments_archive_{str(Month.of(MADE)).replace('-', '_')}"
    archived = [found["payments_archive"] for found in facts(team, "archive", "status").values()]
    assert [(found["waiting"], {*found["archived"]}) for found in archived] == [(0, {month})] * 2
    keys = "SELECT DISTINCT created_at FROM payment_events_archive"
    assert {row for shard in MAP.shards for row in team.query(shard, keys)} == {(MADE,)}
    # It has made the months of these rows.
    assert facts(team, "partitions", "plan") == []
    done(team, "partitions", "check", "--deep")
    done(team, "shards", "check")
    with client(team) as counter:
        answers = [counter.get(f"/tenants/{tenant_of(place)}/payments/{ids[place]}") for place in (0, 199)]
    assert [answer.json()["state"] for answer in answers] == ["done", "open"]


def tenant_of(place: int) -> int:
    """Return the tenant of one of the payments of `work`."""
    return 1 + place % 40


def address(team: PaymentsTeam) -> str:
    """Return where the service answers."""
    place = team.topology.sections["services"]["counter"]
    return f"http://{place['host']}:{place['port']}"


def client(team: PaymentsTeam) -> httpx.Client:
    """Open a client of the service that keeps its causal token."""
    return httpx.Client(base_url=address(team), event_hooks=CausalClient().hooks())


def serve(team: PaymentsTeam) -> None:
    """Take a payment, and show it at once to the client that made it."""
    with client(team) as counter:
        taken = counter.post(f"/tenants/{NORTH}/payments", json={"cents": 1250})
        assert taken.status_code == httpx.codes.CREATED, taken.text
        assert "!first." in taken.headers["Causal-Token"]
        payment = taken.json()
        shown = counter.get(f"/tenants/{NORTH}/payments/{payment['payment_id']}")
        assert (shown.json(), shown.headers["Read-On"]) == (payment, "north_copy")
        assert counter.get(f"/tenants/{SOUTH}/payments/{payment['payment_id']}").status_code == 404
        forged = counter.get("/tenants/1/payments/1", headers={"Causal-Token": "1~north.1.1.1"})
        assert forged.status_code == httpx.codes.BAD_REQUEST

    [*_, block] = fenced(ROOT / "docs" / "how-to" / "causal-tokens.md", "python")
    scope: dict[str, Any] = {"service": address(team)}
    exec(compile(block, "causal-tokens.md", "exec"), scope)
    assert (scope["shown"].json(), scope["shown"].headers["Read-On"]) == (scope["taken"], "north_copy")


def switch_over(team: PaymentsTeam) -> None:
    """The replica takes over while the service runs, which finds it by itself."""
    done(team, "replicas", "lag")
    assert "pg_promote" in done(team, "replicas", "switchover", "north", "--to", "north_copy", "--dry-run")
    said = facts(team, "replicas", "switchover", "north", "--to", "north_copy")
    assert said["new"] == "north_copy"
    roles = {row["node"]: row["role"] for row in facts(team, "replicas", "list")}
    assert roles["north_copy"] == "primary"
    assert team.query("north", "SHOW default_transaction_read_only") == [("on",)]

    def takes_again() -> bool:
        with client(team) as counter:
            answer = counter.post(f"/tenants/{NORTH}/payments", json={"cents": 1})
        return answer.status_code == httpx.codes.CREATED

    assert wait_until(takes_again, timeout_seconds=30, every_seconds=0.1)
    with client(team) as counter:
        payment = counter.post(f"/tenants/{NORTH}/payments", json={"cents": 2}).json()
        assert counter.get(f"/tenants/{NORTH}/payments/{payment['payment_id']}").json() == payment


def end(team: PaymentsTeam) -> None:
    """The wheels leave, and nothing of the team's with them."""
    packages = packages_of(team.venv)
    before = team.files()
    assert kept(packages) == THEIRS
    team.uninstall()
    assert (kept(packages), team.files()) == (THEIRS, before)
    left = {path.relative_to(packages).as_posix() for path in packages.rglob("*.py")}
    assert {name for name in left if not name.startswith("__editable__")} == {*THEIRS}
    assert team.script("import ops.deploy, app; print(ops.deploy.TO, app.OF)").stdout == "production app\n"
