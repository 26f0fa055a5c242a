"""Hours, not minutes: the demo at ten times its size, on days that go differently."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import PROJECT

ORDERS = 2000


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_long_day_loses_nothing(seed: int, tmp_path: Path) -> None:
    demo = [sys.executable, "-c", "from ops.cli import main; main()", "demo"]
    done = subprocess.run(
        [*demo, "--orders", str(ORDERS), "--seed", str(seed)],
        cwd=tmp_path,
        env={**os.environ, "MES_STORAGE_PROJECT": str(PROJECT.path)},
        capture_output=True,
        text=True,
        timeout=3500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    last_line = done.stdout.splitlines()[-1]
    assert last_line == f"{ORDERS} accepted, {ORDERS} accounted for, 0 lost, 0 duplicated"
