"""The reference has every key of the two files, every public name and every verb."""

import importlib
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from ops.errors import ExitStatus
from ops.project.project import CommandEntry, ProjectFile, ServiceEntry, TreeEntry, UpEntry
from ops.verbs import VERBS
from sharding.topology import Database, PgBouncer, Pool, PooledService, Replicas, Tls, TopologyModel, Tree
from tools.reference import PACKAGES, reference_pages

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
SECTIONS: dict[str, dict[str, type[BaseModel]]] = {
    "topology.md": {
        "At the top": TopologyModel,
        "`[trees.NAME]`": Tree,
        "`[databases.NAME]`": Database,
        "`[tls]`": Tls,
        "`[pool]`": Pool,
        "`[replicas]`": Replicas,
        "`[pgbouncer]`": PgBouncer,
        "`[pgbouncer.services.NAME]`": PooledService,
    },
    "project.md": {
        "At the top": ProjectFile,
        "`[trees.NAME]`": TreeEntry,
        "`[commands.NAME]`": CommandEntry,
        "`[services.NAME]`": ServiceEntry,
        "`[up]`": UpEntry,
    },
}


def rows_of(page: str, section: str) -> dict[str, str]:
    """The keys and defaults of the table under a heading."""
    [_, text] = re.split(rf"^## {re.escape(section)}(?:,.*)?$", (REFERENCE / page).read_text(), flags=re.M)
    lines = text.partition("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| `")]
    return {row[1].strip("`"): row[2].strip("`") for row in cells}


@pytest.mark.parametrize(
    ("page", "section"), [(page, section) for page, sections in SECTIONS.items() for section in sections]
)
def test_every_key_is_there_with_its_default(page: str, section: str) -> None:
    rows, fields = rows_of(page, section), SECTIONS[page][section].model_fields
    assert rows.keys() == fields.keys()
    for name, field in fields.items():
        # The roles of a tree follow from its name, so to the model they are required.
        if field.is_required() and name not in {"owner", "role"}:
            assert rows[name] == "required", name
        elif isinstance(field.default, int | float | str):
            assert rows[name] == str(field.default), name


def test_every_exit_status_is_there() -> None:
    text = (REFERENCE / "exit-statuses.md").read_text()
    for status in ExitStatus:
        assert f"| {status.value} | {status.name.lower()} |" in text


def test_every_public_name_and_every_verb_has_a_place_in_the_generated_pages() -> None:
    pages = dict(reference_pages())
    for package in PACKAGES:
        listed = re.findall(rf"^::: {re.escape(package)}\.(\w+)$", pages[f"reference/api/{package}.md"], re.M)
        assert sorted(listed) == sorted(importlib.import_module(package).__all__)
    assert {f"reference/mesctl/{verb}.md" for verb in VERBS} <= pages.keys()
    migrate = pages["reference/mesctl/migrate.md"]
    assert "## mesctl migrate upgrade" in migrate
    assert "| `--phase <pre|post>` | Only what belongs before" in migrate
    assert "| `BucketNotOwned` |" in pages["reference/errors.md"]
