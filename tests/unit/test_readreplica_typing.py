"""mypy refuses a reader where a writer is needed, and the other way round."""

from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parents[2]

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

SHARDED = """
from readreplica import ReadSession, WriteSession
from sharding import ShardedSessions

def needs_writer(session: WriteSession) -> None: ...
def needs_reader(session: ReadSession) -> None: ...

def uses(sessions: ShardedSessions) -> None:
    needs_writer(sessions.write(1))
    needs_writer(sessions.read(1))  # refused
    needs_reader(sessions.read(1))
    needs_reader(sessions.write(1))  # refused
"""


def in_threads(snippet: str) -> str:
    return snippet.replace("from readreplica", "from readreplica.sync").replace(
        "from sharding", "from sharding.sync"
    )


@pytest.mark.long
def test_the_wrong_kind_of_session_is_refused_and_the_right_one_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From where `make check` runs, and as strict: what it has read of SQLAlchemy is in its cache.
    monkeypatch.chdir(ROOT)
    snippets = {tmp_path / "snippet.py": SNIPPET, tmp_path / "sharded.py": SHARDED}
    snippets |= {path.with_stem(f"{path.stem}_sync"): in_threads(text) for path, text in snippets.items()}
    for path, snippet in snippets.items():
        path.write_text(snippet)
    output, problems, _ = api.run(list(map(str, snippets)))
    assert not problems
    for path, snippet in snippets.items():
        refused = [
            number for number, line in enumerate(snippet.splitlines(), 1) if line.endswith("# refused")
        ]
        errors = [line for line in output.splitlines() if ": error: " in line and f"{path.name}:" in line]
        assert [int(line.split(":")[1]) for line in errors] == refused
        assert all(line.endswith("[arg-type]") for line in errors)
