"""`mesctl demo` with a dozen orders: the whole platform, all clients, a killed MES, and the verdict."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, NullPool, create_engine, delete, insert, select

from app.models.crm import CrmOrder
from app.models.mes import MesArchivedOrder, MesOrder
from ops import cli
from ops.embedded.platform import Platform
from sharding.topology import Topology
from tests.platform_topology import name_shards
from tests.project import PROJECT

HOME = Path("build/demo")
pytestmark = pytest.mark.long

ORDERS = 12
INTERRUPTED = 130


class Demo:
    """Runs `mesctl demo` in a folder of the test's own, and asks `mesctl` about its platform."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._home = folder / HOME
        self._capsys = capsys

    @contextmanager
    def running(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """Run it as a process."""
        known = {name: value for name, value in os.environ.items() if not name.startswith("MES_STORAGE_")}
        with subprocess.Popen(
            [sys.executable, "-c", "from ops.cli import main; main()", "demo", "--no-fsync", *options],
            cwd=self.folder,
            env={**known, "MES_STORAGE_PROJECT": str(PROJECT.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def ask(self, *words: str) -> tuple[int, Any]:
        """Run another verb, in this process; give the exit status and the result for programs."""
        self._capsys.readouterr()
        status = cli.run(["--home", str(self._home), *words, "--json"])
        return status, json.loads(self._capsys.readouterr().out)

    def audit(self) -> tuple[int, set[str]]:
        """Audit the demo's platform; give the exit status and the kinds of faults."""
        status, said = self.ask("orders", "audit")
        return status, {fault for fault, count in said["faults"].items() if count}


@pytest.fixture
def demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Demo]:
    monkeypatch.delenv("MES_STORAGE_TOPOLOGY", raising=False)
    yield Demo(tmp_path, capsys)
    Platform(tmp_path / HOME, PROJECT).delete()


def test_every_order_is_accounted_for_and_the_audit_misses_one_that_is_taken_away(demo: Demo) -> None:
    with demo.running("--orders", str(ORDERS), "--keep") as process:
        printed, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "killed with SIGKILL" in said
    assert "MES is back" in said
    *_, verdict, page = printed.splitlines()
    assert verdict == f"{ORDERS} accepted, {ORDERS} accounted for, 0 lost, 0 duplicated"
    url, _, how = page.partition("  ")
    assert "mesctl identities create" in how
    assert httpx.get(f"{url}login", trust_env=False).status_code == 200

    assert demo.audit() == (0, set())
    topology = Topology.load(demo.folder / HOME / "topology.toml")
    name_shards(topology)  # to own every bucket: a shard refuses a copy otherwise
    copy_to_other_shard(topology)
    delete_one_from_crm(topology)
    # The deleted order's history stays behind as an orphan.
    assert demo.audit() == (1, {"duplicate", "wrong shard", "missing", "orphan", "board differs"})


def test_a_demo_that_is_told_to_end_leaves_nothing_running(demo: Demo) -> None:
    # More orders than can end before the signal comes.
    with demo.running("--orders", "500") as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "ordered" in line)
        assert "ended" in said
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED
    _, status = demo.ask("status")
    assert {component["state"] for component in status["components"]} == {"stopped"}


def delete_one_from_crm(topology: Topology) -> None:
    with open_engine(topology, "crm").begin() as connection:
        victim = select(CrmOrder.order_id).limit(1).scalar_subquery()
        connection.execute(delete(CrmOrder).where(CrmOrder.order_id == victim))


def copy_to_other_shard(topology: Topology) -> None:
    """Put an order that one shard has archived on the other as well."""
    with open_engine(topology, "mes_0").begin() as mes_0, open_engine(topology, "mes_1").begin() as mes_1:
        archived = select(MesArchivedOrder.__table__)
        for here, there in ((mes_0, mes_1), (mes_1, mes_0)):
            if found := here.execute(archived.limit(1)).mappings().one_or_none():
                there.execute(insert(MesOrder).values(**found))
                return
    raise AssertionError("the demo has archived nothing")


def open_engine(topology: Topology, database: str) -> Engine:
    role = topology.database(database).tree
    return create_engine(topology.url(database, role=role), poolclass=NullPool)
