"""Daemons and clusters one by one: what is ours is found again, what is not is never touched."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ops.embedded.errors import StartFailed
from ops.embedded.home import rotate
from ops.embedded.pgpass import ensure_passwords
from ops.embedded.postgres import SUPERUSER, UNSAFE, PostgresCluster, access_line
from ops.embedded.preload import Preloader
from ops.embedded.processes import Daemon, end_processes_naming, is_alive, size_of
from ops.embedded.programs import WAYS, PostgresTools, launch_prefix
from ops.embedded.service import ServiceProcess
from ops.embedded.shape import ServiceShape
from ops.ports import PortPicker, PortTaken
from ops.waiting import wait_until

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give a daemon that is stopped at the end."""
    daemon = Daemon("sleeper", pidfile=tmp_path / "sleeper.pid", log=tmp_path / "sleeper.log")
    yield daemon
    daemon.stop()


def test_a_daemon_is_found_again_by_its_pid_file(daemon: Daemon) -> None:
    pid = daemon.launch(SLEEPER)
    again = Daemon("sleeper", pidfile=daemon.pidfile, log=daemon.log)
    assert again.pid() == pid
    assert os.getsid(pid) == pid, "a Ctrl-C at the terminal must not reach it"
    assert again.stop()
    assert not is_alive(pid)
    assert not again.stop()


def test_a_log_is_kept_within_bounds_while_its_writer_goes_on(daemon: Daemon) -> None:
    log = daemon.log
    write = (
        "import time\nprint(9_999 * 'x')\nwhile True:\n    print('on', flush=True)\n    time.sleep(0.01)\n"
    )
    daemon.launch([sys.executable, "-c", write])
    assert wait_until(lambda: size_of(log) > 10_000, timeout_seconds=60)
    for _ in range(3):
        assert wait_until(lambda: size_of(log) > 100, timeout_seconds=60)
        assert rotate(log.parent, max_bytes=100, kept=2) == [log]
    assert wait_until(lambda: log.read_text().startswith("on\n"), timeout_seconds=60), "no hole, no old line"
    found = sorted(path.name for path in log.parent.glob("sleeper.log*"))
    assert found == ["sleeper.log", "sleeper.log.1", "sleeper.log.2"]
    assert all(size_of(log.with_name(name)) <= 100 for name in found[1:])
    assert (log.parent / "sleeper.log.1").read_text().splitlines()[0] == "on", "whole lines"
    assert rotate(log.parent) == [], "it is small enough"


def test_a_frozen_process_is_stopped_at_once(daemon: Daemon) -> None:
    pid = daemon.launch(SLEEPER)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    assert daemon.stop(timeout_seconds=60)
    assert time.monotonic() - began < 30


def test_a_frozen_cluster_is_stopped_at_once(cluster: PostgresCluster) -> None:
    start(cluster)
    pid = cluster.pid()
    assert pid is not None
    for each in (*psutil.Process(pid).children(), psutil.Process(pid)):
        each.suspend()
    began = time.monotonic()
    assert cluster.stop(timeout_seconds=60)
    assert time.monotonic() - began < 50


def test_a_process_that_got_the_pid_of_a_dead_daemon_is_left_alone(daemon: Daemon) -> None:
    with subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL) as stranger:
        daemon.pidfile.write_text(f"{stranger.pid} 1\n")
        assert daemon.pid() is None
        assert daemon.kill() is None
        assert not daemon.stop()
        assert stranger.poll() is None
        stranger.kill()


def test_a_daemon_ends_with_its_children(daemon: Daemon) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    pid = daemon.launch([sys.executable, "-c", child])
    assert wait_until(lambda: bool(psutil.Process(pid).children()), timeout_seconds=60)
    children = [process.pid for process in psutil.Process(pid).children()]
    assert daemon.kill() == pid
    assert wait_until(lambda: not any(map(is_alive, children)), timeout_seconds=60)


def test_a_service_that_dies_early_shows_its_last_words(tmp_path: Path) -> None:
    service = ServiceProcess(
        ServiceShape("bakery", module="app.bakery", health="/healthz", address=None),
        pidfile=tmp_path / "bakery.pid",
        log=tmp_path / "bakery.log",
        environment=dict,
    )
    with pytest.raises(StartFailed, match=r"(?s)bakery did not start: it ended.*No module named app.bakery"):
        service.start(port=None, databases=[1])


@pytest.fixture
def bakery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """Give a service that says how it was started, in a folder of its modules; it is stopped at the end."""
    (tmp_path / "flour.py").write_text("import os\nLOADED_BY = os.getpid()\n")
    (tmp_path / "bakery.py").write_text(
        "import flour, json, os, sys, time\n"
        "leads = os.getsid(0) == os.getpid() == os.getpgid(0)\n"
        "forked = flour.LOADED_BY != os.getpid()\n"
        "print(json.dumps([__name__, sys.argv[1:], os.environ.get('OVEN'), leads, forked]), flush=True)\n"
        "time.sleep(600 if sys.argv[1] == 'bread' else 0)\n"
        "raise SystemExit('no flour')\n"
    )
    monkeypatch.chdir(tmp_path)
    daemon = Daemon("bakery", pidfile=tmp_path / "bakery.pid", log=tmp_path / "bakery.log")
    yield daemon
    daemon.stop()


BREAD = [sys.executable, "-m", "bakery", "bread"]


@contextmanager
def preloading(*modules: str, said: list[str]) -> Iterator[Preloader]:
    """Have modules imported for two services."""
    with Preloader(modules, {}, report=said.append) as preloader:
        preloader.begin(services=2)
        yield preloader


def last_said(daemon: Daemon) -> list[object]:
    """Wait until the bakery has said how it was started, and give that."""
    assert wait_until(lambda: daemon.log.read_text().endswith("\n"), timeout_seconds=60)
    said: list[object] = json.loads(daemon.log.read_text().splitlines()[-1])
    return said


def test_a_service_is_forked_from_what_has_imported_its_modules(bakery: Daemon) -> None:
    said: list[str] = []
    with preloading("flour", said=said) as preloader:
        pid = bakery.launch(BREAD, environment={"OVEN": "hot"}, starts=preloader.start)
    assert last_said(bakery) == ["__main__", ["bread"], "hot", True, True]
    assert bakery.pid() == pid, "it outlives what it was forked from"
    assert psutil.Process(pid).cmdline()[0].endswith("-m bakery bread")
    assert bakery.stop()
    assert said == []


def test_a_forked_service_that_ends_at_once_says_why_in_its_log(bakery: Daemon) -> None:
    with preloading("flour", said=[]) as preloader:
        service = ServiceProcess(
            ServiceShape("bakery", module="bakery", arguments=(), health="/healthz", address=None),
            pidfile=bakery.pidfile,
            log=bakery.log,
            environment=dict,
        )
        with pytest.raises(StartFailed, match=r"(?s)bakery did not start: it ended.*IndexError"):
            service.start(port=None, databases=[1], starts=preloader.start)


@pytest.mark.parametrize("modules", [("flour", "sugar"), ("flour",)], ids=["missing", "killed"])
def test_without_what_imports_a_service_starts_by_itself(bakery: Daemon, modules: tuple[str, ...]) -> None:
    said: list[str] = []
    with preloading(*modules, said=said) as preloader:
        if modules == ("flour",):
            (child,) = (each for each in psutil.Process().children() if "preload.py" in str(each.cmdline()))
            child.kill()
        bakery.launch(BREAD, starts=preloader.start)
    assert last_said(bakery) == ["__main__", ["bread"], None, True, False]
    why = "sugar: ModuleNotFoundError: No module named 'sugar'" if len(modules) == 2 else "no answer"
    assert said == [f"preload: {why}; each service imports for itself"]


def test_leftover_workers_in_a_folder_are_ended_and_nobody_else(tmp_path: Path) -> None:
    ours, other = tmp_path / "mes_0.partial", tmp_path / "mes_0"
    with (
        subprocess.Popen([*SLEEPER, str(ours)], stdout=subprocess.DEVNULL) as leftover,
        subprocess.Popen([*SLEEPER, str(other)], stdout=subprocess.DEVNULL) as stranger,
    ):
        assert end_processes_naming(ours) == [leftover.pid]
        assert stranger.poll() is None
        stranger.kill()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[PostgresCluster]:
    """Give a cluster that is created and configured, and stopped at the end."""
    passfile = tmp_path / "it's a pgpass"
    password = ensure_passwords(passfile, [SUPERUSER])[SUPERUSER]
    cluster = PostgresCluster(
        "lone", tools=PostgresTools(), data=tmp_path / "lone", log=tmp_path / "lone.log", passfile=passfile
    )
    cluster.create(superuser_password=password, safe=False)
    yield cluster
    cluster.stop()


def start(cluster: PostgresCluster) -> int:
    """Start a cluster on a free port."""
    port = PortPicker(random.Random()).pick()
    cluster.configure(port=port, access=[access_line("all", (SUPERUSER,))], settings=UNSAFE)
    assert cluster.start(port=port)
    return port


def test_a_cluster_starts_once_and_again_after_a_crash(cluster: PostgresCluster) -> None:
    port = start(cluster)
    assert not cluster.start(port=port), "it ran already"
    pid = cluster.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not is_alive(pid), timeout_seconds=60)
    assert cluster.pid() is None, "its pid file is stale"
    assert cluster.start(port=port)
    with cluster.connect() as connection:
        assert connection.execute("SHOW cluster_name").fetchone() == ("lone",)


def test_a_stale_pid_file_may_name_a_living_stranger(cluster: PostgresCluster) -> None:
    port = start(cluster)
    pidfile = cluster.data / "postmaster.pid"
    lines = pidfile.read_text().splitlines()
    cluster.stop()
    with subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL) as stranger:
        pidfile.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        assert cluster.pid() is None
        assert not cluster.stop()
        assert cluster.start(port=port)
        assert stranger.poll() is None
        stranger.kill()


def test_a_cluster_names_who_has_its_port(cluster: PostgresCluster, daemon: Daemon) -> None:
    port = PortPicker(random.Random()).pick()
    serve = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); print(1, flush=True); "
    pid = daemon.launch([sys.executable, "-c", serve + "time.sleep(600)"])
    assert wait_until(lambda: daemon.log.stat().st_size > 0, timeout_seconds=60)
    cluster.configure(port=port, access=[], settings=UNSAFE)
    with pytest.raises(
        PortTaken, match=f"lone cannot listen on port {port}: python.* \\(pid {pid}\\) has it"
    ):
        cluster.start(port=port)


def test_a_broken_cluster_shows_the_servers_last_words(cluster: PostgresCluster) -> None:
    port = PortPicker(random.Random()).pick()
    cluster.configure(port=port, access=[], settings={"shared_buffers": "many"})
    with pytest.raises(
        StartFailed, match=r'(?s)lone did not start.*invalid value for parameter "shared_buffers"'
    ):
        cluster.start(port=port)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another user")
@pytest.mark.parametrize("launch", list(WAYS))
def test_root_runs_postgresql_either_way(
    launch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MES_STORAGE_LEAVE_ROOT", launch)
    launch_prefix.cache_clear()
    passfile = tmp_path / "pgpass"
    password = ensure_passwords(passfile, [SUPERUSER])[SUPERUSER]
    cluster = PostgresCluster(
        launch,
        tools=PostgresTools(),
        data=tmp_path / launch,
        log=tmp_path / f"{launch}.log",
        passfile=passfile,
    )
    try:
        cluster.create(superuser_password=password, safe=False)
        start(cluster)
        with cluster.connect() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        cluster.stop()
        launch_prefix.cache_clear()
