"""mypy refuses a reader where a writer is needed, and the other way round."""

from pathlib import Path

import pytest
from mypy import api

SNIPPET = """
from readreplica import AnySession, ReadSession, WriteSession

def needs_writer(session: WriteSession) -> None: ...
def needs_reader(session: ReadSession) -> None: ...
def needs_any(session: AnySession) -> None: ...

def uses(reader: ReadSession, writer: WriteSession) -> None:
    needs_writer(writer)
    needs_writer(reader)  # refused
    needs_reader(reader)
    needs_reader(writer)  # refused
    needs_any(reader)
    needs_any(writer)
"""


@pytest.mark.parametrize("package", ["readreplica", "readreplica.sync"])
def test_the_wrong_kind_of_session_is_refused_and_the_right_one_accepted(
    tmp_path: Path, package: str
) -> None:
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPET.replace("readreplica", package))
    output, problems, _ = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), str(path)])
    assert not problems
    errors = [line for line in output.splitlines() if ": error: " in line]
    refused = [number for number, line in enumerate(SNIPPET.splitlines(), 1) if line.endswith("# refused")]
    assert [int(line.split(":")[1]) for line in errors] == refused
    assert all(line.endswith("[arg-type]") for line in errors)
