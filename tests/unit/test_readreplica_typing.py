"""mypy refuses a reader where a writer is needed, and the other way round."""

from pathlib import Path

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


def test_the_wrong_kind_of_session_is_refused_and_the_right_one_accepted(tmp_path: Path) -> None:
    # Both twins in one run: most of the time goes into reading SQLAlchemy.
    paths = [tmp_path / "snippet.py", tmp_path / "snippet_sync.py"]
    for path, package in zip(paths, ("readreplica", "readreplica.sync"), strict=True):
        path.write_text(SNIPPET.replace("readreplica", package))
    output, problems, _ = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), *map(str, paths)])
    assert not problems
    refused = [number for number, line in enumerate(SNIPPET.splitlines(), 1) if line.endswith("# refused")]
    for path in paths:
        errors = [line for line in output.splitlines() if ": error: " in line and f"{path.name}:" in line]
        assert [int(line.split(":")[1]) for line in errors] == refused
        assert all(line.endswith("[arg-type]") for line in errors)
