"""`mesctl identities`: keys are made, shown once, replaced and revoked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.access.credentials import TokenKeys, TokenUse, read_api_key
from ops import cli
from sharding.topology import Topology
from tests.callers import ACCESS_KEYS

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(topology_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        status = cli.run(["--topology", str(topology_path), "identities", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def ok(answer: tuple[int, str, str]) -> Any:
    status, out, err = answer
    assert status == 0, err
    return json.loads(out)


def test_a_key_is_shown_once_and_is_stored_nowhere(run: Run, topology: Topology) -> None:
    made = ok(run("create", "atelier-nord", "--role", "partner", "--scope", "read", "--json"))
    assert read_api_key(made["secret"]) is not None
    (listed,) = ok(run("list", "--json"))
    assert (listed["name"], listed["role"], listed["key"], listed["scopes"]) == (
        "atelier-nord",
        "partner",
        made["key"],
        "read",
    )
    assert made["secret"] not in json.dumps(listed)
    url = topology.url(topology.database("directory"), role="directory_owner", direct=True)
    with psycopg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False)
    ) as connection:
        rows = connection.execute("SELECT k::text, i::text FROM identity_keys k, identities i").fetchall()
    assert made["secret"][16:] not in str(rows)


def test_a_key_is_rotated_and_the_identity_revoked(run: Run) -> None:
    first = ok(run("create", "Rosa", "--role", "operator", "--json"))["key"]
    second = ok(run("rotate", "Rosa", "--keep", "1h", "--json"))["key"]
    by_key = {each["key"]: each for each in ok(run("list", "--json"))}
    assert by_key[first]["expires_at"] is not None
    assert by_key[second]["expires_at"] is None
    status, _, err = run("rotate", "Rosa")
    assert (status, "revoke one first" in err) == (3, True)
    assert ok(run("revoke", first, "--key", "--json")) == {"key": first, "identity": "Rosa"}
    assert ok(run("revoke", "Rosa", "--json")) == {"identity": "Rosa", "keys": 1}
    assert ok(run("list", "--json")) == []
    assert len(ok(run("list", "--all", "--json"))) == 2
    for words in (("revoke", "Rosa"), ("rotate", "Rosa"), ("revoke", first, "--key")):
        status, _, err = run(*words)
        assert status == 3
        assert "mesctl identities list" in err


def test_a_person_of_a_provider_is_linked_to_one_identity_of_staff(run: Run) -> None:
    for name, role in (("Rosa", "operator"), ("Sara", "seller"), ("atelier-nord", "partner")):
        ok(run("create", name, "--role", role, "--json"))
    link = ("--issuer", "https://login.example", "--subject", "4711")
    status, out, _ = run("oidc", "Rosa", *link, "--dry-run")
    assert (status, "INSERT INTO identity_subjects" in out) == (0, True)
    for _ in range(2):
        made = ok(run("oidc", "Rosa", *link, "--json"))
        assert made == {"identity": "Rosa", "issuer": "https://login.example", "subject": "4711"}
    for words, said in (
        (("Sara", *link), "is linked to 'Rosa' already"),
        (("atelier-nord", *link), "no member of staff"),
        (("Eve", *link), "mesctl identities list"),
    ):
        status, _, err = run("oidc", *words)
        assert (status, said in err) == (3, True), err
    for bad in (("Rosa",), ("Rosa", *link[:2]), ("Rosa", *link, "--remove")):
        assert run("oidc", *bad)[0] == 2
    assert ok(run("oidc", "Rosa", "--remove", "--json")) == {"identity": "Rosa", "links": 1}
    assert ok(run("oidc", "Sara", *link, "--json"))["identity"] == "Sara"
    ok(run("revoke", "Sara", "--json"))
    assert ok(run("oidc", "Rosa", *link, "--json"))["identity"] == "Rosa"
    # At once with the identity, or neither of both.
    new = ("--oidc", "https://login.example", "4712", "--json")
    ok(run("create", "Timo", "--role", "operator", *new))
    for name, role, said in (
        ("Ines", "operator", "is linked to 'Timo' already"),
        ("bijoux-sud", "partner", "no member of staff"),
    ):
        status, _, err = run("create", name, "--role", role, *new)
        assert (status, said in err) == (3, True), err
    assert {"Ines", "bijoux-sud"}.isdisjoint(each["name"] for each in ok(run("list", "--json")))
    assert ok(run("oidc", "Timo", "--remove", "--json"))["links"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "Rosa"), "--role"),
        (("create", "Rosa", "--role", "customer"), "customer"),
        (("create", "R\x07", "--role", "operator"), "U+0007"),
        (("create", " ", "--role", "operator"), "nothing in it"),
        (("rotate", "Rosa", "--keep", "soon"), "soon"),
    ],
)
def test_wrong_usage_is_named(run: Run, words: tuple[str, ...], said: str) -> None:
    status, _, err = run(*words)
    assert status == 2
    assert said in err


def test_a_name_is_given_once(run: Run) -> None:
    ok(run("create", "Rosa", "--role", "operator", "--json"))
    status, out, err = run("create", "Rosa", "--role", "admin")
    assert (status, out) == (3, "")
    assert "rotate" in err


def test_a_dry_run_prints_what_psql_takes_and_changes_nothing(run: Run, topology: Topology) -> None:
    ok(run("create", "O'Neill", "--role", "seller", "--json"))
    url = topology.url(topology.database("directory"), role="directory_owner", direct=True)
    with psycopg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False)
    ) as connection:
        for words in (
            ("create", "D'Arcy", "--role", "operator"),
            ("rotate", "O'Neill"),
            ("revoke", "O'Neill"),
            ("revoke", "abc", "--key"),
        ):
            status, out, err = run(*words, "--dry-run")
            assert status == 0, err
            connection.execute(out)
        connection.rollback()
    assert [each["name"] for each in ok(run("list", "--json"))] == ["O'Neill"]


def test_tokens_are_signed_by_the_keys_of_the_services(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MES_STORAGE_ACCESS_KEYS", raising=False)
    status, _, err = run("link", "17")
    assert status == 2
    assert "MES_STORAGE_ACCESS_KEYS" in err
    monkeypatch.setenv("MES_STORAGE_ACCESS_KEYS", "test=short")
    status, _, err = run("link", "17")
    assert status == 2
    assert "short" not in err.replace("shorter", "")
    monkeypatch.setenv("MES_STORAGE_ACCESS_KEYS", ACCESS_KEYS)
    keys = TokenKeys.parse(ACCESS_KEYS)
    assert keys is not None
    read = keys.read(ok(run("link", "17", "--json"))["token"])
    assert read is not None
    assert (read[0], read[1]["sub"]) == (TokenUse.LINK, "17")
    read = keys.read(ok(run("service-token", "Rosa", "--role", "operator", "--json"))["token"])
    assert read is not None
    assert (read[0], read[1]["sub"], read[1]["role"]) == (TokenUse.SERVICE, "Rosa", "operator")
