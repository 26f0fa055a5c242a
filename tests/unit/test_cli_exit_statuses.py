"""What `mesctl` gives back to the shell, and the one line that it says."""

from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from ops import cli
from ops.embedded.errors import HomeBusy
from ops.errors import ExitStatus
from ops.ports import PortTaken
from partitions.errors import PartitionError
from readreplica.errors import ReadReplicaError
from sharding.errors import ShardingError, TopologyError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MES_STORAGE_HOME", raising=False)
    monkeypatch.delenv("MES_STORAGE_TOPOLOGY", raising=False)


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Give the one line that was printed, which must be on stderr."""
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up", "--nonsense"], "No such option: --nonsense"),
        (["nonsense"], "No such command 'nonsense'."),
        (["up", "surplus"], "Got unexpected extra argument"),
        (["status", "--home"], "--home requires an argument"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == ExitStatus.USAGE
    assert said in only_line(capsys)


def test_help_is_shown_without_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == ExitStatus.USAGE
    assert "Usage: mesctl" in capsys.readouterr().out
    assert cli.run(["--help"]) == ExitStatus.DONE


@pytest.mark.parametrize(
    "verb",
    [
        *("status", "shards list", "partitions list", "archive run", "migrate status", "replicas list"),
        *("pgbouncer check", "orders audit", "orders sweep-files"),
    ],
)
def test_every_verb_without_a_platform_is_1_and_says_how_one_is_made(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "none"
    assert cli.run(["--home", str(home), *verb.split()]) == ExitStatus.FAILED
    assert only_line(capsys) == f"mesctl: there is no platform in {home}: `mesctl up` makes one"


def test_down_without_a_platform_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["down", "--home", str(tmp_path / "none")]) == ExitStatus.DONE
    assert capsys.readouterr().out == "nothing runs\n"
    assert not (tmp_path / "none").exists()


def test_unknown_topology_key_is_2_and_names_the_right_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "topology.toml"
    path.write_text(
        '[trees.shop]\nkind = "single"\nbukets = 64\n[databases.shop]\ntree = "shop"\ndbname = "shop"\n'
        'primary = { host = "db1", port = 5432 }\n'
    )
    assert cli.run(["--home", str(tmp_path), "status"]) == ExitStatus.USAGE
    assert "trees.shop.bukets: unknown key; did you mean 'buckets'?" in only_line(capsys)


def test_up_refuses_a_topology_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["up", "--home", str(tmp_path / "home"), "--topology", str(tmp_path / "production.toml")]
    assert cli.run(arguments) == ExitStatus.USAGE
    assert "leave out --topology" in only_line(capsys)
    assert not (tmp_path / "home").exists()


def test_status_shows_a_topology_of_others_with_passwords_masked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "production.toml"
    path.write_text(
        '[trees.shop]\nkind = "single"\n'
        '[databases.shop]\ntree = "shop"\ndbname = "shop_prod"\nprimary = { host = "db1", port = 5432 }\n'
        '[redis]\nurl = "redis://default:secret@cache:6379/0"\n[files]\nurl = "s3://models"\n'
    )
    assert cli.run(["status", "--topology", str(path)]) == ExitStatus.DONE
    printed = capsys.readouterr().out
    assert "shop_prod (tree shop) at db1:5432" in printed
    assert "secret" not in printed


def test_up_refuses_a_folder_with_other_things(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.odt").touch()
    assert cli.run(["up", "--home", str(tmp_path)]) == ExitStatus.REFUSED
    assert "was not made by `mesctl up`" in only_line(capsys)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.odt"]


def test_up_below_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert cli.run(["up", "--home", str(tmp_path / "file" / "home")]) == ExitStatus.FAILED
    assert only_line(capsys).endswith("Not a directory")


def test_up_without_postgresql_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PG_BIN", str(tmp_path / "nowhere"))
    assert cli.run(["up", "--home", str(tmp_path / "home")]) == ExitStatus.FAILED
    assert "set PG_BIN to the folder that holds initdb" in only_line(capsys)
    assert not (tmp_path / "home").exists()


def test_dry_run_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    assert cli.run(["up", "--dry-run", "--no-services", "--home", str(home)]) == ExitStatus.DONE
    steps = capsys.readouterr().out.splitlines()
    assert "would create and start replica mes_0_replica" in steps
    assert "would start valkey" in steps
    assert not any("service" in step for step in steps)
    assert not home.exists()


def test_an_error_of_every_library_has_a_status() -> None:
    refused = psycopg.OperationalError("connection refused\nIs the server running?")
    expected: dict[BaseException, int] = {
        HomeBusy(Path("/srv/p"), "7"): ExitStatus.REFUSED,
        PortTaken("shop", 1, "nginx"): ExitStatus.FAILED,
        TopologyError(Path("t.toml"), ["fault"]): ExitStatus.USAGE,
        ShardingError(): ExitStatus.FAILED,
        PartitionError(): ExitStatus.FAILED,
        ReadReplicaError(): ExitStatus.FAILED,
        OperationalError("SELECT 1", {}, refused): ExitStatus.FAILED,
        refused: ExitStatus.FAILED,
        PermissionError(13, "Permission denied", "/srv/p"): ExitStatus.FAILED,
        KeyboardInterrupt(): 130,
    }
    assert {error: cli.exit_status_of(error) for error in expected} == expected


def test_a_bug_keeps_its_traceback() -> None:
    assert cli.exit_status_of(KeyError("order")) is None


def test_database_errors_are_told_in_the_servers_words() -> None:
    error = OperationalError("SELECT 1", {}, psycopg.OperationalError("connection refused\n  try later"))
    assert cli.message_of(error) == "connection refused try later"


@pytest.mark.parametrize(
    ("arguments", "reordered"),
    [
        (["status", "--json"], ["--json", "status"]),
        (["up", "--home", "h", "--dry-run"], ["--home", "h", "up", "--dry-run"]),
        (["up", "--home=h"], ["--home=h", "up"]),
        (["orders", "trace", "--", "--json"], ["orders", "trace", "--", "--json"]),
    ],
)
def test_global_options_may_stand_behind_the_verb(arguments: list[str], reordered: list[str]) -> None:
    assert cli.globals_first(arguments) == reordered
