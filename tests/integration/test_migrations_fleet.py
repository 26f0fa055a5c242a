"""A fleet is migrated canary first, then together; whatever happens, the next run goes on."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from ops.migrate import run
from ops.migrate.errors import FleetFailed
from ops.migrate.ledger import KILLED
from ops.migrate.outcome import Request
from ops.migrate.run import last_run, read_ledger, read_states
from ops.migrate.single import migrate_database
from ops.waiting import wait_until
from tests.integration.migrations_rig import Fleet, run_fleet
from tests.project import MES, PROJECT
from tests.servers import PostgresServers

_numbers = count(1)

TABLE = "CREATE TABLE things (id int)"
DIE = """def upgrade() -> None:
    import os, signal

    if op.get_bind().exec_driver_sql("SELECT count(*) FROM things").scalar_one():
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def fleet(postgres: PostgresServers, tmp_path: Path) -> Iterator[Fleet]:
    """Give four empty shards and a migrated directory."""
    with run_fleet(postgres, tmp_path, prefix=f"fleet{next(_numbers)}") as made:
        yield made


def request_for(fleet: Fleet, *, attempts: int = 8) -> Request:
    return Request(
        project=str(PROJECT.path),
        tree="mes",
        direction="up",
        target="head",
        versions=str(fleet.versions),
        attempts=attempts,
    )


def states(failed: FleetFailed) -> list[str]:
    return [outcome.state for outcome in failed.outcomes]


def test_every_shard_is_migrated_and_noted(fleet: Fleet) -> None:
    fleet.write("0001", TABLE)
    fleet.write("0002", "ALTER TABLE things ADD COLUMN note text")
    outcomes = fleet.migrate()
    assert [(each.database, each.revision, each.ran) for each in outcomes] == [
        (name, "0002", ("0001", "0002")) for name in fleet.shards
    ]
    for name in fleet.shards:
        assert fleet.ledger(name) == [("0001", "up", "done", None), ("0002", "up", "done", None)]
    assert [each.ran for each in fleet.migrate()] == [(), (), (), ()]
    fleet.migrate("down", "0001")
    assert fleet.ledger("mes_3")[-1] == ("0002", "down", "done", None)


def test_revision_that_prints_is_told_apart_from_its_outcome(
    fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet.write("0001", TABLE)
    path = fleet.versions / "0001.py"
    says = "def upgrade() -> None:\n    import os\n    print('{')\n    os.system('echo { >&1')\n"
    path.write_text(path.read_text().replace("def upgrade() -> None:\n", says))
    outcomes = fleet.migrate()
    assert [each.revision for each in outcomes] == ["0001"] * len(fleet.shards)
    printed = capfd.readouterr()
    assert printed.out == "{\n"  # of the program that the canary's revision called, in this process
    assert printed.err.count("{\n") == 2 * len(fleet.shards) - 1


def test_failing_canary_stops_everything(fleet: Fleet) -> None:
    fleet.write("0001", "CREATE TABLE things (id int); SELECT 1/0")
    with pytest.raises(
        FleetFailed, match="mes_0 failed in 0001: division by zero; mes_1 was not started"
    ) as it:
        fleet.migrate()
    assert states(it.value) == ["failed", "not started", "not started", "not started"]
    assert fleet.ledger("mes_0") == [("0001", "up", "failed", "division by zero")]
    assert fleet.ledger("mes_1") == []
    assert fleet.query("mes_0", "SELECT to_regclass('things')") == [(None,)]


def test_later_failure_lets_the_others_end_and_the_next_run_goes_on_there(fleet: Fleet) -> None:
    fleet.write("0001", TABLE)
    fleet.mark("mes_2")
    fleet.query("mes_2", TABLE)
    with pytest.raises(FleetFailed, match='mes_2 failed in 0001: relation "things" already exists') as it:
        fleet.migrate()
    assert states(it.value) == ["done", "done", "failed", "done"]
    fleet.query("mes_2", "DROP TABLE things")
    assert [each.ran for each in fleet.migrate()] == [(), (), ("0001",), ()]


def test_shard_that_is_down_does_not_keep_the_others(fleet: Fleet) -> None:
    fleet.write("0001", TABLE)
    fleet.down = {"mes_1"}
    with pytest.raises(
        FleetFailed, match=r"mes_1 failed: connection failed.* goes on where this one stopped"
    ):
        fleet.migrate()
    found = {state.database: state for state in read_states(fleet.topology, MES)}
    assert [found[name].revision for name in fleet.shards] == ["0001", None, "0001", "0001"]
    assert "refused" in (found["mes_1"].unreachable or "")
    fleet.down = set()
    assert [each.ran for each in fleet.migrate()] == [(), ("0001",), (), ()]


def test_nothing_is_begun_while_the_directory_is_down(fleet: Fleet) -> None:
    fleet.write("0001", TABLE)
    fleet.down = {"directory"}
    with pytest.raises(FleetFailed, match="the migration ledger in directory cannot be written"):
        fleet.migrate()
    assert fleet.query("mes_0", "SELECT to_regclass('things')") == [(None,)]


def test_lock_that_is_not_had_in_time_is_tried_again(fleet: Fleet) -> None:
    fleet.write("0001", TABLE)
    fleet.migrate()
    fleet.write("0002", "SET LOCAL lock_timeout = '50ms'; ALTER TABLE things ADD COLUMN note text")
    request = request_for(fleet)
    with fleet.connect("mes_0") as reader:
        reader.execute("BEGIN; SELECT FROM things")

        def let_go_at_the_second_retry(line: str) -> None:
            fleet.said.append(line)
            if sum("again in" in said for said in fleet.said) == 2:
                reader.execute("COMMIT")

        outcome = migrate_database(fleet.topology, "mes_0", request, report=let_go_at_the_second_retry)
    assert outcome.done, outcome.error
    assert "0002: canceling statement due to lock timeout; again in" in "".join(fleet.said)
    assert fleet.ledger("mes_0")[-1] == ("0002", "up", "done", None)


def test_lock_that_is_never_had_is_given_up(fleet: Fleet) -> None:
    fleet.write("0001", TABLE)
    fleet.migrate()
    fleet.write("0002", "SET LOCAL lock_timeout = '500ms'; ALTER TABLE things ADD COLUMN note text")
    request = request_for(fleet, attempts=2)
    with fleet.connect("mes_0") as reader:
        reader.execute("BEGIN; SELECT count(*) FROM things")
        outcome = migrate_database(fleet.topology, "mes_0", request, report=fleet.said.append)
    assert outcome.state == "failed"
    assert "lock timeout, 2 times. In the way: pid " in (outcome.error or "")
    assert "BEGIN; SELECT count(*) FROM things. Wait for it or end it" in (outcome.error or "")
    assert fleet.ledger("mes_0")[-1][:3] == ("0002", "up", "failed")


def test_killed_run_is_seen_and_the_next_one_goes_on(fleet: Fleet) -> None:
    fleet.write("0001", "SELECT pg_sleep(60)")
    request = request_for(fleet)
    command = [sys.executable, "-P", "-m", "ops.migrate.fleet", request.model_dump_json()]
    victim = subprocess.Popen(
        [*command, str(fleet.topology.path), "1", "mes_0"], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert wait_until(lambda: bool(fleet.ledger("mes_0")), timeout_seconds=60)
        assert last_run_of(fleet, "mes_0") == "0001 up runs"
    finally:
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()

    def is_seen() -> bool:
        return last_run_of(fleet, "mes_0") == "0001 up was killed; the next run settles it"

    assert wait_until(is_seen, timeout_seconds=60)
    fleet.versions.joinpath("0001.py").unlink()
    fleet.write("0001", TABLE)
    fleet.migrate()
    assert "mes_0: 0001 up: a run was killed; the revision was not complete" in fleet.said
    assert fleet.ledger("mes_0") == [("0001", "up", "failed", KILLED), ("0001", "up", "done", None)]


def test_interrupt_ends_all_processes_without_a_traceback(fleet: Fleet) -> None:
    fleet.write("0001", "SELECT pg_sleep(60)")
    command = [sys.executable, "-P", "-m", "ops.migrate.fleet", request_for(fleet).model_dump_json()]
    run_of_all = subprocess.Popen(
        [*command, str(fleet.topology.path), "2", "mes_0", "mes_1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        # A shell has what it starts in the background ignore the signal, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (no threads here)
    )
    asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    try:
        assert wait_until(
            lambda: all(fleet.query(name, asleep) for name in ("mes_0", "mes_1")), timeout_seconds=60
        )
    finally:
        os.killpg(run_of_all.pid, signal.SIGINT)
        _, said = run_of_all.communicate(timeout=60)
    assert run_of_all.returncode == 128 + signal.SIGINT
    # Both had the library's schema before.
    assert re.sub(r"mes_.: mes_storage_schema shard 1 up: done in .* s\n", "", said) == ""
    assert [entry[2] for name in ("mes_0", "mes_1") for entry in fleet.ledger(name)] == ["failed", "failed"]


def test_process_that_is_killed_is_one_failure_and_the_others_end(fleet: Fleet) -> None:
    fleet.write("0001", TABLE)
    fleet.migrate()
    fleet.query("mes_2", "INSERT INTO things VALUES (1)")
    fleet.write("0002", "ALTER TABLE things ADD COLUMN note text")
    fleet.versions.joinpath("0002.py").write_text(
        fleet.versions.joinpath("0002.py").read_text().replace("def upgrade() -> None:\n", DIE)
    )
    with pytest.raises(FleetFailed, match="mes_2 failed: its process ended with status -9") as it:
        fleet.migrate()
    assert states(it.value) == ["done", "done", "failed", "done"]
    fleet.query("mes_2", "DELETE FROM things")
    assert [each.ran for each in fleet.migrate()] == [(), (), ("0002",), ()]


def last_run_of(fleet: Fleet, database: str) -> str | None:
    states = {state.database: state for state in read_states(fleet.topology, MES)}
    return last_run(read_ledger(fleet.topology).get(database), states[database])


def test_directory_notes_its_own_first_migration(fleet: Fleet) -> None:
    run.downgrade(fleet.topology, PROJECT.tree("directory"), "base")
    run.upgrade(fleet.topology, PROJECT.tree("directory"))
    noted = fleet.ledger("directory")
    assert noted[:2] == [("0001", "up", "done", None), ("0002", "up", "done", None)]
    assert {entry[1:] for entry in noted} == {("up", "done", None)}
