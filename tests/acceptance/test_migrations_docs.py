"""What docs/how-to/migrations.md says about writing a revision is done, in a copy of the project."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.test_docs import ROOT, fenced

PACKAGES = ("app", "migrations", "ops", "partitions", "readreplica", "sharding")
COLUMN = "    leased_by: Mapped[str | None] = mapped_column(Text)\n"


@pytest.mark.long
def test_a_revision_is_written_checked_run_and_frozen(topology_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("alembic.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    [models] = [path for path in copy.glob("app/models/*.py") if COLUMN in path.read_text()]
    models.write_text(
        models.read_text().replace(COLUMN, f"{COLUMN}    lane: Mapped[str | None] = mapped_column(Text)\n")
    )
    [script] = fenced(ROOT / "docs" / "how-to" / "migrations.md", "bash")
    environment = {
        "MES_STORAGE_TOPOLOGY": str(topology_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(copy),
    }
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        env=os.environ | environment,
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    [made] = copy.glob("migrations/mes/versions/0042_*.py")
    assert "op.add_column('pricing_jobs', sa.Column('lane'" in made.read_text()
    frozen = json.loads((copy / "migrations" / "mes" / "schema" / "0042.json").read_text())
    assert frozen["revision"] == "0042"
    assert ["column", "pricing_jobs", "lane", "text"] in frozen["facts"]
    # The others are as they were: freezing writes what stands, in one form.
    for file in (ROOT / "migrations").glob("*/schema/*.json"):
        assert (copy / file.relative_to(ROOT)).read_text() == file.read_text()
