"""The life of partitions on PostgreSQL 15 as Debian has it: the oldest that the platform runs on."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ONE_IN
from tests.needs import require

HERE = Path(__file__).parent
SHORT = ("test_online_field.py", "test_partitions_actions.py", "test_partitions_hostile.py")
ALL = (*SHORT, "test_partitions_killed.py", "test_partitions_online.py")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("files", "one_in"),
    [pytest.param(SHORT, 3, id="some"), pytest.param(ALL, 1, id="all", marks=pytest.mark.soak)],
)
def test_life_of_partitions_on_debians_postgresql_15(files: Sequence[str], one_in: int) -> None:
    folder = require("postgresql-15").parent
    # In a process of its own: a session has one PostgreSQL, and PG_BIN says which.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, *(str(HERE / name) for name in files)],
        env={**os.environ, "PG_BIN": str(folder), ONE_IN: str(one_in)},
        cwd=HERE.parents[1],
        text=True,
        capture_output=True,
        check=False,
        timeout=880,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout
