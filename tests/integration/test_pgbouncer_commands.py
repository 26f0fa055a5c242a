"""`mesctl pgbouncer` on a pooler that runs: written, compared, reloaded, paused, resumed."""

import os
import random
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from ops.embedded.pooler import PgBouncerProcess
from ops.errors import ExitStatus
from ops.ports import PortPicker
from ops.waiting import wait_until
from tests.integration.mesctl_rig import Mesctl
from tests.pooler import RunningPooler
from tests.servers import PostgresServers


@pytest.fixture
def mesctl(pooler: RunningPooler, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    return Mesctl(pooler.path, capsys)


@pytest.fixture
def restored(pooler: RunningPooler) -> Iterator[None]:
    """Leave the topology and the pooler's files as they were."""
    before = pooler.path.read_text()
    yield
    pooler.change(pooler.path.read_text(), before)
    for console in pooler.pooler.consoles():
        console.run("RELOAD")


def test_what_render_wrote_is_what_runs(mesctl: Mesctl, pooler: RunningPooler, tmp_path: Path) -> None:
    assert mesctl("pgbouncer", "check").status == ExitStatus.DONE
    again = mesctl("pgbouncer", "render", "--out", str(pooler.folder))
    assert (again.status, again.out) == (ExitStatus.DONE, "nothing to write: every file stands\n")
    planned = mesctl("pgbouncer", "render", "--out", str(tmp_path / "new"), "--dry-run")
    assert "+pool_mode = transaction" in planned.out
    assert "SCRAM-SHA-256" not in planned.out
    assert not (tmp_path / "new").exists()
    written = mesctl("pgbouncer", "render", "--out", str(tmp_path / "new"))
    assert written.status == ExitStatus.DONE
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    assert modes == {"pgbouncer.ini": 0o600, "hba.conf": 0o600, "userlist.txt": 0o600}


def test_the_arithmetic_is_shown_and_what_does_not_fit_is_refused(mesctl: Mesctl, tmp_path: Path) -> None:
    out = str(tmp_path / "new")
    shown = mesctl("pgbouncer", "render", "--out", out, "--explain")
    assert "200 max_connections - 3 superuser - 20 reserve = 177; / 1 processes = 177" in shown.out
    for_programs = mesctl("--json", "pgbouncer", "render", "--out", out, "--explain").json
    assert {server["budget"] for server in for_programs} == {177}
    refused = mesctl("pgbouncer", "render", "--out", out, "--max-connections", "30")
    assert refused.status == ExitStatus.REFUSED
    assert "30 max_connections - 3 superuser - 20 reserve = 7" in refused.err
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("restored")
def test_a_change_is_named_by_check_and_arrives_by_reload(mesctl: Mesctl, pooler: RunningPooler) -> None:
    pooler.path.write_text(
        pooler.path.read_text().replace("[pgbouncer]\n", "[pgbouncer]\nquery_wait_seconds = 7\n")
    )
    checked = mesctl("--json", "pgbouncer", "check")
    assert checked.status == ExitStatus.FAILED
    [finding] = checked.json
    assert (finding["about"], finding["found"], finding["wanted"]) == ("query_wait_timeout", "10", "7")
    assert finding["fix"] == "mesctl pgbouncer render, then mesctl pgbouncer reload"
    unwritten = mesctl("pgbouncer", "reload")
    assert unwritten.status == ExitStatus.FAILED
    assert mesctl("pgbouncer", "render", "--out", str(pooler.folder)).status == ExitStatus.DONE
    assert mesctl("pgbouncer", "reload").status == ExitStatus.DONE
    assert mesctl("pgbouncer", "check").status == ExitStatus.DONE


def test_pause_and_resume_by_hand(mesctl: Mesctl) -> None:
    paused = mesctl("--json", "pgbouncer", "pause", "mes_0")
    assert paused.status == ExitStatus.DONE
    assert paused.json == [{"pool": "mes_0.mes", "state": "paused"}]
    checked = mesctl("--json", "pgbouncer", "check")
    assert [finding["about"] for finding in checked.json] == ["pool mes_0.mes"]
    assert checked.json[0]["fix"] == "mesctl pgbouncer resume mes_0"
    assert mesctl("--json", "pgbouncer", "resume").json == [{"pool": "mes_0.mes", "state": "resumed"}]
    assert mesctl("pgbouncer", "resume").out == "nothing to do\n"
    assert mesctl("pgbouncer", "reconnect", "mes_0_replica").status == ExitStatus.DONE
    assert mesctl("pgbouncer", "check").status == ExitStatus.DONE
    unknown = mesctl("pgbouncer", "pause", "mes_7")
    assert unknown.status == ExitStatus.USAGE
    assert "there are pools to board, board_replica, crm, directory, mes_0, mes_0_replica" in unknown.err


@pytest.mark.parametrize("verb", ["pause", "resume", "reconnect"])
def test_a_dry_run_is_a_script_for_psql(mesctl: Mesctl, pooler: RunningPooler, verb: str) -> None:
    said = mesctl("pgbouncer", verb, "mes_0", "--dry-run")
    connect, statement = said.out.splitlines()
    assert connect.startswith("\\connect 'host=127.0.0.1 ")
    assert f"port={pooler.port}" in connect
    assert "dbname=pgbouncer" in connect
    assert statement == f'{verb.upper()} "mes_0.mes";'
    assert mesctl("pgbouncer", "check").status == ExitStatus.DONE


def test_a_hung_pooler_is_told_and_not_waited_for(mesctl: Mesctl, pooler: RunningPooler) -> None:
    pid = pooler.process.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        said = mesctl("pgbouncer", "check")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert said.status == ExitStatus.FAILED
    assert "does not answer" in said.err
    assert wait_until(lambda: mesctl("pgbouncer", "check").status == ExitStatus.DONE, timeout_seconds=20)


def stored(postgres: PostgresServers, role: str) -> str:
    with postgres.primary.connect() as connection:
        query = "SELECT rolpassword FROM pg_authid WHERE rolname = %s"
        [secret] = connection.execute(query, [role]).fetchone() or [""]
    return str(secret)


@pytest.mark.usefixtures("restored")
def test_a_role_without_a_scram_secret_is_refused_and_given_one(
    mesctl: Mesctl, pooler: RunningPooler, postgres: PostgresServers, tmp_path: Path
) -> None:
    before = stored(postgres, "crm")
    assert mesctl("pgbouncer", "secrets").out == "nothing to do: every role has one secret\n"
    with postgres.primary.connect() as connection:
        connection.execute("SET password_encryption = md5")
        password = sql.Literal(postgres.passwords["crm"])
        connection.execute(sql.SQL("ALTER ROLE crm PASSWORD {}").format(password))
    try:
        refused = mesctl("pgbouncer", "render", "--out", str(tmp_path / "new"))
        assert refused.status == ExitStatus.REFUSED
        assert "role crm has a password that is not stored as SCRAM" in refused.err
        planned = mesctl("pgbouncer", "secrets", "--dry-run")
        assert "ALTER ROLE \"crm\" PASSWORD :'secret';" in planned.out
        assert stored(postgres, "crm").startswith("md5")
        assert mesctl("--json", "pgbouncer", "secrets").json[0]["role"] == "crm"
        assert stored(postgres, "crm").startswith("SCRAM-SHA-256$")
        # The password is what it was, at the server and through the pooler with its new secret.
        assert mesctl("pgbouncer", "render", "--out", str(pooler.folder)).status == ExitStatus.DONE
        assert mesctl("pgbouncer", "reload").status == ExitStatus.DONE
        for url in (pooler.topology.url("crm", role="crm", direct=direct) for direct in (True, False)):
            with psycopg.connect(
                host=url.host,
                port=url.port,
                dbname=url.database,
                user="crm",
                password=postgres.passwords["crm"],
            ) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        with postgres.primary.connect() as connection:
            connection.execute(sql.SQL("ALTER ROLE crm PASSWORD {}").format(sql.Literal(before)))


def test_two_processes_share_a_port_and_each_has_its_console(
    pooler: RunningPooler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = PortPicker(random.Random()).pick()
    # Not tmp_path: the path of a Unix socket has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="mes-") as sockets:
        many = f'port = {port}\nprocesses = 2\nsocket_dir = "{sockets}"\n'
        path = tmp_path / "topology.toml"
        path.write_text(pooler.path.read_text().replace(f"port = {pooler.port}\n", many))
        mesctl = Mesctl(path, capsys)
        assert mesctl("pgbouncer", "render", "--out", str(tmp_path / "p")).status == ExitStatus.DONE
        processes = [process(tmp_path / "p", number) for number in (1, 2)]
        try:
            for each in processes:
                each.start(program=pooler.program, port=port, shared=True)
            checked = mesctl("--json", "pgbouncer", "check")
            assert (checked.status, checked.json) == (ExitStatus.DONE, [])
            processes[1].kill()
            lost = mesctl("pgbouncer", "check")
            assert lost.status == ExitStatus.FAILED
            assert f"console on {sockets}/2:{port} does not answer" in lost.err
        finally:
            for each in processes:
                each.stop()


def process(folder: Path, number: int) -> PgBouncerProcess:
    stem = f"pgbouncer-{number}"
    ini, pidfile, log = (folder / f"{stem}.{kind}" for kind in ("ini", "pid", "log"))
    return PgBouncerProcess(ini=ini, pidfile=pidfile, log=log)
