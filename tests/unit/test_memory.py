"""The tests' folders lie in memory only where there is enough of it."""

import os
from pathlib import Path

from tests.memory import SHARED_MEMORY, roomy_memory


def test_folder_with_too_little_room_is_not_taken(tmp_path: Path) -> None:
    assert roomy_memory(tmp_path, enough_bytes=1) == tmp_path
    assert roomy_memory(tmp_path, enough_bytes=2**60) is None
    assert roomy_memory(tmp_path / "nowhere", enough_bytes=0) is None


def test_tests_have_their_folders_where_it_was_said(tmp_path: Path) -> None:
    said = os.environ.get("PYTEST_DEBUG_TEMPROOT")
    assert said is not None or roomy_memory() is None
    assert said != str(SHARED_MEMORY) or tmp_path.is_relative_to(SHARED_MEMORY)
