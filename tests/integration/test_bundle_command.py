"""`mesctl bundle` on real databases: what is in it, that no secret is, and that it is whole or not there."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from ops.errors import ExitStatus
from ops.problems import bundle
from ops.problems.masking import passwords_in
from sharding.topology import Topology
from tests.integration.audit_rig import Clerk
from tests.integration.mesctl_rig import Mesctl
from tests.project import PROJECT
from tests.servers import PostgresServers

pytestmark = pytest.mark.usefixtures("stats_rights")


@pytest.fixture
def mesctl(topology: Topology, topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    Clerk(topology).shard_map()
    return Mesctl(topology_path, capsys, PROJECT.path)


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        files = {each.name.partition("/")[2]: archive.extractfile(each) for each in archive}
        return {name: file.read() for name, file in files.items() if file}


@pytest.mark.long
def test_it_has_what_an_incident_needs_and_no_secret(
    mesctl: Mesctl,
    topology: Topology,
    postgres: PostgresServers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "home"
    (home / "logs").mkdir(parents=True)
    known = [*passwords_in(postgres.passfile.read_text()), "a-signing-key-of-ours", "url-password"]
    lines = [f"line {number}\n" for number in range(3_000)]
    quoted = [f"connects to redis://mes:url-password@127.0.0.1, {secret}\n" for secret in known]
    said = ["STATEMENT:  SELECT 'ada@example.org'\n", "\tFROM t WHERE name = 'Ada Lovelace'\n"]
    (home / "logs" / "mes.log").write_text("".join([*lines, *quoted, *said]))
    monkeypatch.setenv("MES_STORAGE_TOKEN_KEYS", "platform=a-signing-key-of-ours")
    monkeypatch.setenv("MES_STORAGE_HOME", str(home))
    path = mesctl.topology_path
    redis = topology.sections["redis"]["url"]
    path.write_text(path.read_text().replace(redis, "redis://mes:url-password@127.0.0.1:6379/0"))
    # A port where nothing listens: what cannot be read is named, and stops nothing else.
    port = topology.database("crm").primary.port
    head, found, tail = path.read_text().partition("[databases.crm]")
    path.write_text(head + found + tail.replace(f"port = {port}", "port = 1", 1))

    file = tmp_path / "incident.tar.gz"
    with Clerk(topology).engine("shop").connect() as session:
        session.execute(text("SELECT count(*) FROM orders WHERE customer_email = 'ada@example.org'"))
        done = mesctl("bundle", str(file), "--log-lines", "1000", "--seconds", "300")
    assert done.status == 0, done.err
    assert file.stat().st_mode & 0o077 == 0
    parts = contents(file)
    wanted = {"problems", "status", "replicas", "partitions-check", "migrations", "in-doubt-mes"}
    wanted |= {"shards-check-mes", "topology", "versions", "environment", "manifest"}
    assert {f"{name}.json" for name in wanted} <= parts.keys(), done.err
    assert {f"databases/{name}.json" for name in ("shop", "mes_0", "mes_1", "directory")} <= parts.keys()

    whole = b"".join(parts.values()).decode()
    assert [secret for secret in known if secret in whole] == []
    assert "ada@example.org" not in whole
    assert "Lovelace" not in whole
    log = parts["logs/mes.log"].decode().splitlines()
    assert len(log) == 1_000
    assert "line 2999" in log
    assert "STATEMENT: SELECT ?" in log

    shop: Any = json.loads(parts["databases/shop.json"])
    [query] = [row["query"] for row in shop["activity"] if "customer_email" in row["query"]]
    assert query.endswith("customer_email = ?")
    assert "databases/crm.json" in json.loads(parts["manifest.json"])["unread"]
    assert "not read: databases/crm.json: " in done.err
    objects = {each["object"] for each in json.loads(parts["problems.json"])}
    assert "database crm" in objects

    again = mesctl("bundle", str(file))
    assert again.status == ExitStatus.REFUSED
    assert "is there already" in again.err


def test_it_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = bundle.BundlePart("a.json", b"x" * 100, 0.1)
    add = bundle._add

    def full(archive: tarfile.TarFile, name: str, content: bytes) -> None:
        if name.endswith("a.json"):
            raise OSError(28, "No space left on device")
        add(archive, name, content)

    monkeypatch.setattr(bundle, "_add", full)
    with pytest.raises(OSError, match="No space left"):
        bundle.write_bundle(tmp_path / "x.tar.gz", [part], {})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    bundle.write_bundle(tmp_path / "x.tar.gz", [part], {})
    assert contents(tmp_path / "x.tar.gz")["a.json"] == part.content


def test_a_part_is_cut_at_its_limit_and_keeps_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MOST_BYTES", 10)
    part = bundle._produce("x", lambda: "0123456789abcdef", str, float("inf"))  # type: ignore[arg-type]
    assert (part.content, part.is_cut) == (b"6789abcdef", True)


def test_verbs_that_hang_cost_nothing_but_what_they_would_say(
    mesctl: Mesctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "mes.log").write_text("a line\n")
    hanging = {f"hangs-{number}": ["problems", "--watch"] for number in range(8)}
    monkeypatch.setattr(bundle, "_commands", lambda _: hanging)
    path = tmp_path / "b.tar.gz"
    said = mesctl("--home", str(home), "bundle", str(path), "--seconds", "5", "--json")
    assert set(said.json["unread"]) == {f"{name}.json" for name in hanging}
    assert said.json["unread"]["hangs-0.json"] == "mesctl problems --watch was not done within 2.5 s"
    assert {"topology.json", "versions.json", "logs/mes.log", "databases/crm.json"} <= contents(path).keys()
