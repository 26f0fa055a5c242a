"""`mesctl up` in a project that is not ours: its own topology, no Redis, no services, more trees later."""

import json
import os
import random
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest

from ops import cli
from ops.embedded.platform import Platform
from ops.errors import ExitStatus
from ops.ports import LOOPBACK, PortPicker
from ops.project.init import start_files
from ops.project.project import Project
from sharding.topology import Topology

BILLS_MODELS = '''
"""The tables of the tree bills."""

from sqlalchemy import BigInteger
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sharding.keys import shard_key


class Base(DeclarativeBase):
    """Everything in a shard."""


class Bill(Base):
    """A bill."""

    __tablename__ = "bills"
    __table_args__ = ({"info": shard_key("bill_id")},)

    bill_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
'''
BILLS_REVISION = '''
"""The bills, which are guarded."""

from alembic import op

revision = "0001"
down_revision = None
phase = "pre"


def upgrade() -> None:
    op.execute("CREATE TABLE bills (bill_id bigint PRIMARY KEY)")
    op.create_shard_guard("bills", key="bill_id", version=1)
'''
MORE_TREES = """
[trees.bills]
metadata = "strangers_bills:Base.metadata"
revisions = "migrations/bills/versions"
"""
MORE_TOPOLOGY = """
[trees.books]
kind = "directory"

[trees.bills]
kind = "sharded"
buckets = 16

[databases.books]
tree = "books"
dbname = "books"
primary = {{ host = "localhost", port = {0} }}

[databases.bills_0]
tree = "bills"
dbname = "bills_0"
primary = {{ host = "127.0.0.1", port = {1} }}
replicas = [ {{ name = "bills_replica", host = "::1", port = {2} }} ]

[databases.bills_1]
tree = "bills"
dbname = "bills_1"
primary = {{ host = "127.0.0.1", port = {1} }}
"""
FAR_TREE = """
[trees.far]
kind = "single"

[databases.far]
tree = "far"
dbname = "far"
primary = { host = "192.0.2.1", port = 5432 }
"""
IS_KNOWN = "SELECT shard, map_version, length(replace(owned, '0', '')) FROM shard_identity"


class Said(NamedTuple):
    """What a run of mesctl gave back."""

    status: int
    out: str
    err: str


class Stranger:
    """A project of another team in a folder."""

    def __init__(self, root: Path, *, tree: str) -> None:
        self.root = root
        self.ports = PortPicker(random.Random())
        self.topology_path = root / "topology.toml"
        self.write(start_files(tree, port=self.ports.pick(), revision="0001"))

    def write(self, files: Any) -> None:
        """Write files of the project, by path."""
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    def append(self, name: str, text: str) -> None:
        """Add to a file of the project."""
        self.write({name: (self.root / name).read_text() + text})

    @property
    def topology(self) -> Topology:
        """Read the topology."""
        return Topology.load(self.topology_path)

    def ask(self, database: str, query: str, *, role: str | None = None, replica: str | None = None) -> Any:
        """Send a query to a database, and give the first row."""
        role = role or self.topology.database(database).owner
        url = self.topology.url(database, role=role, replica=replica).set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
            return connection.execute(query).fetchone()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    """Give a project; whatever it runs at the end is stopped, and the data removed."""
    stranger = Stranger(tmp_path_factory.mktemp("stranger"), tree="strangers_notes")
    try:
        yield stranger
    finally:
        Platform(stranger.root / ".platform", Project.load(stranger.root / "mes-storage.toml")).delete()


Mesctl = Callable[..., Said]


@pytest.fixture
def mesctl(stranger: Stranger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mesctl:
    """Run `mesctl` in the project, in this process."""
    for name in ("MES_STORAGE_TOPOLOGY", "MES_STORAGE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(stranger.root)

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        status = cli.run(arguments)
        return Said(status, *capsys.readouterr())

    return run


def states(mesctl: Mesctl) -> dict[str, tuple[str, int | None]]:
    """Give state and pid of each component."""
    components = json.loads(mesctl("status", "--json").out)["components"]
    return {component["name"]: (component["state"], component["pid"]) for component in components}


def test_a_topology_as_it_stands_is_brought_up_and_taken_down(stranger: Stranger, mesctl: Mesctl) -> None:
    before = stranger.topology_path.read_text()
    assert mesctl("up", "--dry-run").out == "would create and start primary strangers_notes\n"
    up = mesctl("up", "--no-fsync")
    assert up.status == ExitStatus.DONE, up.err
    [(name, (state, pid))] = states(mesctl).items()
    assert (name, state) == ("strangers_notes", "running")
    assert stranger.ask("strangers_notes", "SELECT count(*) FROM notes") == (0,)

    again = mesctl("up", "--no-fsync")
    assert "strangers_notes: runs already" in again.err
    assert states(mesctl) == {"strangers_notes": ("running", pid)}
    assert stranger.topology_path.read_text() == before, "the file is the team's own"

    assert mesctl("down").status == ExitStatus.DONE
    assert states(mesctl) == {"strangers_notes": ("stopped", None)}


def test_a_port_that_is_taken_is_named_before_anything_is_started(stranger: Stranger, mesctl: Mesctl) -> None:
    port = stranger.topology.database("strangers_notes").primary.port
    with closing(socket.create_server((LOOPBACK, port))):
        refused = mesctl("up")
    assert refused.status == ExitStatus.REFUSED
    key = "databases.strangers_notes.primary.port"
    assert refused.err.startswith(f"mesctl: topology.toml: {key}: port {port} on 127.0.0.1 is taken by ")
    assert f"(pid {os.getpid()}): stop that, or name another port\n" in refused.err
    assert states(mesctl) == {"strangers_notes": ("stopped", None)}


def test_a_topology_that_does_not_say_where_passwords_are_is_refused(
    stranger: Stranger, mesctl: Mesctl
) -> None:
    text = stranger.topology_path.read_text()
    stranger.topology_path.write_text(text.replace("passfile", "# passfile"))
    try:
        refused = mesctl("up")
        assert refused.status == ExitStatus.USAGE
        assert 'passfile: missing key; add passfile = ".platform/pgpass"' in refused.err
    finally:
        stranger.topology_path.write_text(text)


def test_a_pooler_is_not_written_into_the_teams_file(stranger: Stranger, mesctl: Mesctl) -> None:
    before = stranger.topology_path.read_text()
    refused = mesctl("up", "--pgbouncer")
    assert refused.status == ExitStatus.USAGE
    assert refused.err == (
        "mesctl: topology.toml: is not edited by `mesctl up`: add a section [pgbouncer] with host and port "
        "yourself\n"
    )
    assert stranger.topology_path.read_text() == before


def test_trees_that_are_added_are_started_beside_what_runs(stranger: Stranger, mesctl: Mesctl) -> None:
    assert mesctl("up", "--no-fsync").status == ExitStatus.DONE
    before = states(mesctl)["strangers_notes"]
    passwords = (stranger.root / ".platform" / "pgpass").read_text()
    stranger.write(
        {
            "strangers_bills.py": BILLS_MODELS,
            "migrations/bills/versions/0001_bills.py": BILLS_REVISION,
        }
    )
    stranger.append("mes-storage.toml", MORE_TREES)
    places = (stranger.ports.pick(), stranger.ports.pick(), stranger.ports.pick("::1"))
    stranger.append("topology.toml", MORE_TOPOLOGY.format(*places))

    up = mesctl("up", "--no-fsync")
    assert up.status == ExitStatus.DONE, up.err
    found = states(mesctl)
    assert found["strangers_notes"] == before
    assert {name: state for name, (state, _) in found.items()} == {
        "strangers_notes": "running",
        "books": "running",
        "bills_0": "running",
        "bills_replica": "streaming",
    }
    assert (stranger.root / ".platform" / "pgpass").read_text().startswith(passwords)
    for shard in ("bills_0", "bills_1"):
        assert stranger.ask(shard, IS_KNOWN, role="bills") == (shard, 1, 8)
    assert stranger.ask("books", "SELECT tree, version FROM shard_map_versions", role="bills") == ("bills", 1)
    assert stranger.ask("bills_0", "SELECT pg_is_in_recovery()", replica="bills_replica") == (True,)
    again = mesctl("up", "--no-fsync")
    assert again.err.count("runs already") == 4
    assert states(mesctl) == found


def test_a_role_that_a_running_server_gets_later_is_let_in(stranger: Stranger, mesctl: Mesctl) -> None:
    stranger.topology_path.write_text(
        stranger.topology_path.read_text().replace('kind = "sharded"', 'kind = "sharded"\nrole = "clerk"')
    )
    before = states(mesctl)
    up = mesctl("up", "--no-fsync")
    assert up.status == ExitStatus.DONE, up.err
    assert states(mesctl) == before
    assert stranger.ask("bills_1", "SELECT current_user", role="clerk") == ("clerk",)
    assert stranger.ask("books", "SELECT current_user", role="clerk") == ("clerk",)


def test_what_is_elsewhere_is_left_alone_and_shown(stranger: Stranger, mesctl: Mesctl) -> None:
    stranger.append("topology.toml", FAR_TREE)
    # Nothing answers there, ever: to connect would take minutes.
    up = mesctl("up", "--no-fsync")
    assert up.status == ExitStatus.DONE, up.err
    assert "tree far: its schema is left alone, for far is elsewhere" in up.err
    status = mesctl("status")
    assert status.status == ExitStatus.DONE
    [line] = [line for line in status.out.splitlines() if line.startswith("far ")]
    assert line.split() == ["far", "primary", "elsewhere", "192.0.2.1:5432"]


def test_what_was_taken_out_of_the_topology_is_shown_and_stopped(stranger: Stranger, mesctl: Mesctl) -> None:
    text = stranger.topology_path.read_text()
    stranger.topology_path.write_text(text.partition("[trees.books]")[0])
    assert states(mesctl)["bills_0"][0] == "running"
    stranger.topology_path.write_text("this is no TOML")
    assert mesctl("down").status == ExitStatus.DONE
    stranger.topology_path.write_text(text)
    assert {state for state, pid in states(mesctl).values()} == {"stopped", "elsewhere"}


BAKERS_PROJECT = """
[trees.bakers_shop]
metadata = "bakers_shop_models:Base.metadata"
revisions = "migrations/bakers_shop/versions"

[services.counter]
module = "bakers_counter"
health = "/up"

[services.oven]
module = "bakers_oven"

[up]
template = "dev/template.toml"
fill = "bakers_content:fill"

[up.environment]
BAKERS_KEY = "key={secret:till}"
"""
BAKERS_TEMPLATE = """
# This comment is the template's own.

[trees.bakers_shop]
kind = "single"

[databases.bakers_shop]
tree = "bakers_shop"
dbname = "postgres"
primary = { host = "localhost", port = 5432 }  # this one goes along

[services.counter]
host = "127.0.0.1"
port = 8000
"""
COUNTER = """
import os, tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

place = tomllib.loads(Path(os.environ["MES_STORAGE_TOPOLOGY"]).read_text())["services"]["counter"]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/up" else 404)
        self.end_headers()
        self.wfile.write(os.environ["BAKERS_KEY"].encode())


HTTPServer((place["host"], place["port"]), Handler).serve_forever()
"""
OVEN = """
import os, threading
import psycopg
from sharding.topology import Topology

url = Topology.load(os.environ["MES_STORAGE_TOPOLOGY"]).url("bakers_shop", role="bakers_shop_owner")
with psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)) as connection:
    connection.execute("SELECT 1")
    threading.Event().wait()
"""
CONTENT = """
import psycopg


def fill(project, topology):
    url = topology.url("bakers_shop", role="bakers_shop_owner").set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        insert = "INSERT INTO notes (words) SELECT %s WHERE NOT EXISTS (SELECT FROM notes)"
        connection.execute(insert, [project.path.name])
"""
MORE_BREAD = """
[trees.bakers_mill]
kind = "single"

[databases.bakers_mill]
tree = "bakers_mill"
dbname = "bakers_mill"
primary = { host = "127.0.0.1", port = 5433 }
"""


@pytest.fixture(scope="module")
def baker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    """Give a project with a template, services and content of its own."""
    baker = Stranger(tmp_path_factory.mktemp("baker"), tree="bakers_shop")
    baker.write(
        {
            "mes-storage.toml": BAKERS_PROJECT,
            "dev/template.toml": BAKERS_TEMPLATE,
            "bakers_counter.py": COUNTER,
            "bakers_oven.py": OVEN,
            "bakers_content.py": CONTENT,
        }
    )
    baker.topology_path.unlink()
    baker.topology_path = baker.root / ".platform" / "topology.toml"
    try:
        yield baker
    finally:
        Platform(baker.root / ".platform", Project.load(baker.root / "mes-storage.toml")).delete()


def test_a_template_with_services_and_content_is_brought_up_and_grows(
    baker: Stranger, monkeypatch: pytest.MonkeyPatch, mesctl: Mesctl
) -> None:
    monkeypatch.chdir(baker.root)
    plan = mesctl("up", "--dry-run").out.splitlines()
    assert plan == [
        "would change topology.toml: write it from dev/template.toml",
        "would create and start primary bakers_shop",
        "would start service counter",
        "would start service oven",
    ]
    up = mesctl("up", "--no-fsync", "--json")
    assert up.status == ExitStatus.DONE, up.err
    text = baker.topology_path.read_text()
    assert text.startswith("# Written by `mesctl up` from dev/template.toml.\n")
    assert "template's own" not in text
    assert "# this one goes along" in text
    assert baker.ask("bakers_shop", "SELECT words FROM notes") == ("mes-storage.toml",)
    key = httpx.get(f"{json.loads(up.out)['urls']['counter']}/up").text
    assert re.fullmatch("key=[0-9a-f]{64}", key)
    before = states(mesctl)
    assert {name: state for name, (state, _) in before.items()} == dict.fromkeys(
        ["bakers_shop", "counter", "oven"], "running"
    )

    baker.append("dev/template.toml", MORE_BREAD)
    up = mesctl("up", "--no-fsync", "--json")
    assert up.status == ExitStatus.DONE, up.err
    assert "topology.toml: add [trees.bakers_mill]" in up.err
    assert "tree bakers_mill: its schema is left alone, for mes-storage.toml has no such tree" in up.err
    assert baker.ask("bakers_mill", "SELECT current_user", role="bakers_mill") == ("bakers_mill",)
    assert httpx.get(f"{json.loads(up.out)['urls']['counter']}/up").text == key
    after = states(mesctl)
    assert after.keys() == {*before, "bakers_mill"}
    assert after["bakers_shop"] == before["bakers_shop"]
    assert after["oven"] != before["oven"], "it had read the topology without the new tree"
    assert mesctl("down", "--delete", "--yes").status == ExitStatus.DONE
    assert not (baker.root / ".platform").exists()
