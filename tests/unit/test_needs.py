"""Tests that need a program: skipped aloud, and failing where it was promised."""

from pathlib import Path

import pytest

from tests.needs import NEEDS, REQUIRED, Need, require, required

ABSENT = {"etcd": Need("no-such-program", "etcd-server")}


def test_a_missing_program_skips_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"NOT RUN WITHOUT ETCD: .*; apt-get install etcd-server"):
        require("etcd", needs=ABSENT)


def test_a_missing_program_that_was_promised_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRED, "postgresql-15, etcd")
    with pytest.raises(pytest.fail.Exception, match="apt-get install etcd-server"):
        require("etcd", needs={**NEEDS, **ABSENT})


def test_a_program_is_found_where_debian_puts_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "server"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    assert require("etcd", needs={"etcd": Need("server", "etcd-server", (str(tmp_path),))}) == program


def test_a_promise_that_no_test_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRED, "postgresql-15,pgbuncer")
    with pytest.raises(ValueError, match=r"pgbuncer is not among postgresql-15, pgbouncer, .*iproute2"):
        required()
