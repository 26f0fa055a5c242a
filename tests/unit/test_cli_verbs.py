"""The table of verbs: what the help says without importing them is what they say themselves."""

import subprocess
import sys

import pytest
import typer

import readreplica
import sharding
from ops import cli
from ops.errors import ExitStatus
from ops.verbs import VERBS


@pytest.mark.parametrize("name", VERBS)
def test_summary_is_the_verbs_own(name: str) -> None:
    own = VERBS[name].load(name).help or ""
    assert " ".join(own.split("\n\n")[0].split()) == VERBS[name].summary


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == ExitStatus.DONE
    assert f"Usage: mesctl {name} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["partitons"], "No such command 'partitons'. Did you mean 'partitions'?"),
        (["partitions", "plann"], "No such command 'plann'. Did you mean 'plan'?"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == ExitStatus.USAGE
    assert capsys.readouterr().err == f"mesctl: {said}\n"


def test_a_group_with_a_single_verb_stays_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = typer.Typer()
    alone.command("list")(lambda: None)
    monkeypatch.setattr("ops.shards.commands.app", alone)
    assert cli.run(["shards", "list"]) == ExitStatus.DONE


@pytest.mark.parametrize("arguments", ["--help", "partitons"])
def test_help_and_slips_import_no_library(arguments: str) -> None:
    """The reason why `mesctl --help` takes a third of a second and not one and a half."""
    heavy = "{'sqlalchemy', 'psycopg', 'alembic', 'httpx', 'structlog', 'sharding', 'opentelemetry'}"
    script = f"import sys; from ops import cli; cli.run([{arguments!r}]); print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_verbs_of_the_platform_wait_for_no_sqlalchemy() -> None:
    """They read the topology; `sharding` and `readreplica` import their sessions when these are asked for."""
    script = (
        "import sys, ops.embedded.commands, sharding, readreplica; print({'sqlalchemy'} & {*sys.modules});"
        "print(sharding.ShardedSessions.__name__, readreplica.Cluster.__name__, 'sqlalchemy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()", "ShardedSessions Cluster True"]


def test_a_name_that_a_package_does_not_have_is_told_as_ever() -> None:
    for package in (sharding, readreplica):
        assert {*package.__all__} == {name for name in package.__all__ if getattr(package, name)}
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
            _ = package.nothing
