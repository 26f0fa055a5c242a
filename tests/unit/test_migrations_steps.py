"""Which revisions lie between where a database is and where it shall be, in alembic's own words."""

from pathlib import Path

import pytest

from ops.migrate.errors import RevisionsInvalid, UnknownRevision
from ops.migrate.outcome import Direction
from ops.migrate.scripts import Scripts
from tests.project import MES


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    """Give a line of three revisions."""
    for revision, down in (("0001", None), ("0002", "0001"), ("0003", "0002")):
        (tmp_path / f"{revision}.py").write_text(f"revision = {revision!r}\ndown_revision = {down!r}\n")
    return Scripts(MES, tmp_path)


@pytest.mark.parametrize(
    ("current", "target", "direction", "expected"),
    [
        (None, "head", "up", ["0001", "0002", "0003"]),
        (None, "0002", "up", ["0001", "0002"]),
        ("0001", "+1", "up", ["0002"]),
        ("0003", "head", "up", []),
        ("0003", "0002", "up", []),
        ("0003", "base", "down", ["0003", "0002", "0001"]),
        ("0003", "-1", "down", ["0003"]),
        ("0003", "0001", "down", ["0003", "0002"]),
        ("0001", "0001", "down", []),
        (None, "base", "down", []),
    ],
)
def test_steps(
    scripts: Scripts, current: str | None, target: str, direction: Direction, expected: list[str]
) -> None:
    assert [step.revision for step in scripts.steps(current, target, direction)] == expected


def test_revision_of_another_version_is_refused(scripts: Scripts) -> None:
    with pytest.raises(UnknownRevision, match="no way from 0001 to 0999 in the tree mes"):
        scripts.steps("0001", "0999", "up")
    with pytest.raises(UnknownRevision, match=r"no way from 0999 to base.*use the version that migrated it"):
        scripts.lacking("0999")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import x y\n", r"SyntaxError: invalid syntax \(0004\.py, line 1\)"),
        ("\nrevision = nothing\n", r"0004\.py:2: NameError: name 'nothing' is not defined"),
        ("revision = '0004'\ndown_revision = '0999'\n", "no revision '0999', and another names it"),
    ],
)
def test_revision_that_cannot_be_read_is_named(
    scripts: Scripts, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "0004.py").write_text(text)
    with pytest.raises(RevisionsInvalid, match=said):
        _ = scripts.head


def test_folder_that_is_not_there_is_no_tree_without_revisions(tmp_path: Path) -> None:
    with pytest.raises(RevisionsInvalid, match="there is no such folder of revisions"):
        Scripts(MES, tmp_path / "versoins").lacking(None)
